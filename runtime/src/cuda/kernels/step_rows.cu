// What a decoding step does before and after its layers: embedding, the last norm, the choice of a token in two stages.
//
// The choice is that of decode.cu's, for many rows at once: every row of the head gets an approximate score from its int8
// copy, on tensor cores, and a bound of the error (head.cuh); rows that may still be the best are computed from their half
// floats, as `head_row` defines a logit. So the token is that of the full head. sm_90 and later.
#include "exchange.cuh"
#include "head.cuh"
#include "step.cuh"

struct StepRows {
    const __half* embedding;   // [vocab, hidden]
    int* tokens;               // [m], the chosen ones afterwards
    int* positions;            // [m], one further afterwards
    float* hidden;             // [m, hidden]
    Stat* stats;               // [phases, STEP_ROWS]
    unsigned* turns;           // [launches], cleared
    const float* first_norm;   // [hidden]
    const float* final_norm;   // [hidden]
    float* normed;             // [m, hidden]
    int8_t* split;             // hi and lo, see head.cuh: [m, 2, hidden], or as `split_tokens` has it
    float4* facts;             // [m]: step, norm, error of the split
    const __half* head;        // [vocab, hidden]
    const int8_t* compact;     // [vocab, hidden]
    const float4* head_facts;  // [vocab]
    float* upper;              // [m, vocab]: no logit is above; what may still be the best alone
    float* tops;               // [m, tiles of the head]: the largest of `upper` in a tile
    unsigned* low;             // [m]: the best logit is not below, as an ordered integer
    unsigned long long* best;  // [m]: ordered logit, then the row from the end
    uint2* chosen;             // [history, m]: token, logit
    int* done;                 // steps in `chosen`
    int hidden_size, vocab, below, phases, m, history;
    float eps;
    int advance, launches;
    int tile;                  // rows of the head of one block of step_scores
    int split_tokens;          // 0, or T: split is [ceil(hidden / 128), hi then lo of T tokens, 128], as step_wide.cu has it
    int spare;
};

static_assert(sizeof(StepRows) == 208, "cuda::params has the same");

// Floats as integers that order the same.
__device__ __forceinline__ unsigned ordered(float v) {
    const unsigned bits = __float_as_uint(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(unsigned v) { return __uint_as_float(v & 0x80000000u ? v & 0x7fffffffu : ~v); }

// Grid (rows), 256 threads.
extern "C" __global__ void __launch_bounds__(256) step_embed(const __grid_constant__ StepRows p) {
    __shared__ double squares[8];
    __shared__ unsigned long long tops[8];
    const int row = blockIdx.x, tid = threadIdx.x;
    let_next_start();
    wait_for_previous();
    for (int phase = 1 + tid; phase < p.phases; phase += 256) p.stats[phase * STEP_ROWS + row] = Stat{0.0, 0};
    for (int i = row * 256 + tid; i < p.launches; i += 256 * gridDim.x) p.turns[i] = 0;
    if (tid == 0) p.low[row] = 0, p.best[row] = 0;
    const __half* from = p.embedding + static_cast<long long>(p.tokens[row]) * p.hidden_size;
    Tally tally;
    for (int i = tid; i < p.hidden_size; i += 256) {
        const float v = __half2float(from[i]);
        p.hidden[static_cast<long long>(row) * p.hidden_size + i] = v;
        tally.add(v, i, p.first_norm);
    }
    tally.join_warp();
    if (tid % 32 == 0) squares[tid / 32] = tally.squares, tops[tid / 32] = tally.top;
    __syncthreads();
    if (tid == 0) {
        for (int i = 1; i < 8; i++) tally.squares += squares[i], tally.top = tops[i] > tally.top ? tops[i] : tally.top;
        p.stats[row] = Stat{tally.squares, tally.top};
    }
}

// Grid (rows), 256 threads: the last norm, and its split into two int8 vectors.
extern "C" __global__ void __launch_bounds__(256) step_final(const __grid_constant__ StepRows p) {
    extern __shared__ __align__(16) float x[];
    __shared__ float2 red[8];
    const int row = blockIdx.x, tid = threadIdx.x, warp = tid / 32, lane = tid % 32, k = p.hidden_size;
    let_next_start();
    wait_for_previous();
    const float inverse = inverse_rms(read_stat(p.stats + (p.phases - 1) * STEP_ROWS + row), k, p.eps);
    float largest = 0.0f, squares = 0.0f;
    for (int i = tid; i < k; i += 256) {
        const float v = __fmul_rn(__fmul_rn(__ldcg(p.hidden + static_cast<long long>(row) * k + i), inverse), p.final_norm[i]);
        p.normed[static_cast<long long>(row) * k + i] = v;
        x[i] = round_half(v);  // as the head takes it
        largest = fmaxf(largest, fabsf(x[i])), squares = fmaf(x[i], x[i], squares);
    }
    squares = warp_sum(squares), largest = warp_max_positive(largest);
    if (lane == 0) red[warp] = make_float2(squares, largest);
    __syncthreads();
    squares = 0.0f, largest = 0.0f;
    for (int i = 0; i < 8; i++) squares += red[i].x, largest = fmaxf(largest, red[i].y);
    const float step = fmaxf(largest, 1e-30f) / 127.0f, multiplier = 1.0f / step;
    for (int quad = tid; quad < k / 4; quad += 256) {
        uint32_t parts[2] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float v = x[4 * quad + i] * multiplier;
            const int high = max(-127, min(127, __float2int_rn(v))), low = max(-127, min(127, __float2int_rn((v - high) * 254.0f)));
            parts[0] |= (high & 255u) << 8 * i, parts[1] |= (low & 255u) << 8 * i;
        }
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const long long at = p.split_tokens ? ((quad / 32 * 2 + part) * p.split_tokens + row) * 128ll + place_of_quad(quad, row)
                                                : (2ll * row + part) * k + 4 * quad;
            *reinterpret_cast<uint32_t*>(p.split + at) = parts[part];
        }
    }
    if (tid == 0)
        p.facts[row] = make_float4(step, sqrtf(squares) * 1.0001f, sqrtf(static_cast<float>(k)) * step / 508.0f * 1.001f, 0.0f);
}

// No logit of the row is above x, and none below y.
__device__ __forceinline__ float2 bounds(int high, int low, const float4& row, const float4& token) {
    const float score = row.x * token.x * (static_cast<float>(high) + static_cast<float>(low) * (1.0f / 254.0f));
    const float bound = 1.001f * (row.y * token.y + row.z * (token.z + HEAD_ROUNDING * token.y));
    return make_float2(score + bound, score - bound);
}

// What a block finds out about its tile of the head, per token, as ordered integers.
template <int TOKENS> struct TileBounds {
    unsigned low[TOKENS], top[TOKENS];
    __device__ void clear() {
        if (threadIdx.x < TOKENS) low[threadIdx.x] = top[threadIdx.x] = 0;
    }
    // By all lanes of a warp, those of one t with the same token.
    __device__ void add(int token, float most, float least) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
            most = fmaxf(most, __shfl_xor_sync(ALL, most, step));
            least = fmaxf(least, __shfl_xor_sync(ALL, least, step));
        }
        if (threadIdx.x % 32 < 4 && most > -INFINITY) atomicMax(top + token, ordered(most)), atomicMax(low + token, ordered(least));
    }
    // After a barrier. `low` is then the best that is known of the whole head.
    __device__ void give(const StepRows& p, int first, int tokens) {
        const int token = first + threadIdx.x;
        if (threadIdx.x < tokens && token < p.m) {
            p.tops[static_cast<long long>(token) * gridDim.x + blockIdx.x] = top[threadIdx.x] ? from_ordered(top[threadIdx.x]) : -INFINITY;
            if (low[threadIdx.x]) low[threadIdx.x] = max(low[threadIdx.x], atomicMax(p.low + token, low[threadIdx.x]));
        }
    }
};

// Up to 8 tokens. Grid (rows of the head / 256), 256 threads; a warp has two tiles of 16 rows of the head. A lane
// reads 16 bytes of a row at a time and takes k in an order of its own, the same for both sides. K is a multiple of 64.
extern "C" __global__ void __launch_bounds__(256) step_scores_8(const __grid_constant__ StepRows p) {
    constexpr int TILES = 2;
    __shared__ TileBounds<8> found;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4, k = p.hidden_size;
    const int row0 = (blockIdx.x * 8 + warp) * TILES * 16, token = min(group, p.m - 1);
    let_next_start();
    found.clear();
    wait_for_previous();
    int acc[TILES][2][4] = {};
#pragma unroll 2
    for (int at = t * 16; at < k; at += 64) {
        uint4 w[TILES][2];
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = min(row0 + i * 16 + group + 8 * j, p.vocab - 1);
                w[i][j] = load_once(p.compact + static_cast<long long>(row) * k + at);
            }
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const uint4 b = *reinterpret_cast<const uint4*>(p.split + (2ll * token + part) * k + at);
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                mma_s8(acc[i][part], w[i][0].x, w[i][1].x, w[i][0].y, w[i][1].y, b.x, b.y);
                mma_s8(acc[i][part], w[i][0].z, w[i][1].z, w[i][0].w, w[i][1].w, b.z, b.w);
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
        const int of = t * 2 + odd;
        float2 most = make_float2(-INFINITY, -INFINITY);
        if (of < p.m) {
            const float4 x = __ldcg(p.facts + of);
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int row = row0 + i * 16 + group + 8 * j;
                    if (row < p.below) {
                        const float2 both = bounds(acc[i][0][odd + 2 * j], acc[i][1][odd + 2 * j], __ldg(p.head_facts + row), x);
                        p.upper[static_cast<long long>(of) * p.vocab + row] = both.x;
                        most.x = fmaxf(most.x, both.x), most.y = fmaxf(most.y, both.y);
                    }
                }
        }
        found.add(of, most.x, most.y);
    }
    __syncthreads();
    found.give(p, 0, 8);
}

// More tokens. Grid (rows of the head / 128), 256 threads: a warpgroup has 64 rows of the head, which go to registers as they
// are read, and multiplies them with hi and lo of all tokens (wgmma, int8), which come in blocks of 128 columns by bulk copies.
constexpr int SCORES_STAGES = 4;

template <int TOKENS> __device__ __forceinline__ void scores(const StepRows& p) {
    constexpr int NT = TOKENS / 8, ATOM = 2 * TOKENS * 128;
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ __align__(8) uint64_t arrived[SCORES_STAGES], consumed[SCORES_STAGES];
    __shared__ TileBounds<TOKENS> found;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, group = lane / 4, t = lane % 4, k = p.hidden_size;
    const int row0 = (blockIdx.x * 8 + warp) * 16 + group, atoms = (k + 127) / 128;
    const uint32_t base = shared_address(memory);
    const int8_t* rows[2];
#pragma unroll
    for (int j = 0; j < 2; j++) rows[j] = p.compact + static_cast<long long>(min(row0 + 8 * j, p.vocab - 1)) * k + t * 16;
    let_next_start();
    if (tid < SCORES_STAGES) {
        barrier_init(shared_address(&arrived[tid]));
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 8;" ::"r"(shared_address(&consumed[tid])) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    found.clear();
    uint4 w[2][2][2];  // of the next two blocks of columns: its groups of 64, two rows
    auto read = [&](uint4 (&into)[2][2], int atom) {
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int at = atom * 128 + i * 64;
                into[i][j] = at < k ? load_once(rows[j] + at) : make_uint4(0, 0, 0, 0);
            }
    };
    read(w[0], 0), read(w[1], 1);
    __syncthreads();
    wait_for_previous();
    auto fetch = [&](int atom) {
        const uint32_t barrier = shared_address(&arrived[atom % SCORES_STAGES]);
        barrier_expect(barrier, ATOM);
        bulk_copy(base + atom % SCORES_STAGES * ATOM, p.split + static_cast<long long>(atom) * ATOM, ATOM, barrier);
    };
    if (tid == 0) {
        asm volatile("fence.proxy.async;" ::: "memory");
        for (int atom = 0; atom < min(SCORES_STAGES, atoms); atom++) fetch(atom);
    }
    int acc[2 * NT][4] = {};
    auto multiply = [&](uint4 (&a)[2][2], int atom) {
        const int stage = atom % SCORES_STAGES;
        barrier_wait(shared_address(&arrived[stage]), atom / SCORES_STAGES & 1);
        products_begin();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t first[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y}, second[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
            product(acc, first, matrix_in_shared(base + stage * ATOM + i * 64));
            product(acc, second, matrix_in_shared(base + stage * ATOM + i * 64 + 32));
        }
        products_commit();
        products_wait<0>();
        read(a, atom + 2);
        if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&consumed[stage])) : "memory");
        // The stage of the block of columns before, which the other warps have left by now.
        const int before = atom - 1;
        if (tid == 0 && before >= 0 && before + SCORES_STAGES < atoms) {
            barrier_wait(shared_address(&consumed[before % SCORES_STAGES]), before / SCORES_STAGES & 1);
            fetch(before + SCORES_STAGES);
        }
        __syncwarp();
    };
#pragma unroll 1
    for (int atom = 0; atom < atoms; atom += 2) {
        multiply(w[0], atom);
        if (atom + 1 < atoms) multiply(w[1], atom + 1);
    }
    float upper[NT][4];
    float4 facts[2];
#pragma unroll
    for (int j = 0; j < 2; j++) facts[j] = __ldg(p.head_facts + min(row0 + 8 * j, p.vocab - 1));
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const int token = n * 8 + t * 2 + odd;
            const float4 x = __ldcg(p.facts + min(token, p.m - 1));
            float2 most = make_float2(-INFINITY, -INFINITY);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float2 both = bounds(acc[n][odd + 2 * j], acc[NT + n][odd + 2 * j], facts[j], x);
                upper[n][odd + 2 * j] = both.x;
                if (token < p.m && row0 + 8 * j < p.below) most.x = fmaxf(most.x, both.x), most.y = fmaxf(most.y, both.y);
            }
            found.add(token, most.x, most.y);
        }
    __syncthreads();
    found.give(p, 0, TOKENS);
    __syncthreads();
    // A tile without a row that may still be the best is not looked at again.
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const int token = n * 8 + t * 2 + odd;
            if (token >= p.m || found.top[token] < found.low[token]) continue;
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (row0 + 8 * j < p.below) p.upper[static_cast<long long>(token) * p.vocab + row0 + 8 * j] = upper[n][odd + 2 * j];
        }
}

#define SCORES_KERNEL(name, tokens)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 2) name(const __grid_constant__ StepRows p) { scores<tokens>(p); }
SCORES_KERNEL(step_scores_32, 32)
SCORES_KERNEL(step_scores_64, 64)

constexpr int PICK = 8192;  // rows of the head of a block of step_pick

// Grid (vocab / PICK, rows), 256 threads, hidden floats of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) step_pick(const __grid_constant__ StepRows p) {
    extern __shared__ __align__(16) float x[];
    __shared__ unsigned short tiles[PICK / 128], candidates[PICK];  // within the block's rows
    __shared__ int some, found;
    const int token = blockIdx.y, tid = threadIdx.x, first = blockIdx.x * PICK, k = p.hidden_size;
    const int all = (p.vocab + p.tile - 1) / p.tile, mine = PICK / p.tile, tile = first / p.tile + tid;
    let_next_start();
    if (tid == 0) some = found = 0;
    wait_for_previous();
    const float low = from_ordered(__ldcg(p.low + token));
    const float top = tid < mine && tile < all ? __ldcg(p.tops + static_cast<long long>(token) * all + tile) : -INFINITY;
    __syncthreads();
    if (top >= low) tiles[atomicAdd(&some, 1)] = tid;
    __syncthreads();
    if (some == 0) return;
    for (int i = tid; i < k; i += 256) x[i] = round_half(__ldcg(p.normed + static_cast<long long>(token) * k + i));
    for (int i = tid; i < some * p.tile; i += 256) {
        const int row = tiles[i / p.tile] * p.tile + i % p.tile;
        if (first + row < p.below && __ldcg(p.upper + static_cast<long long>(token) * p.vocab + first + row) >= low)
            candidates[atomicAdd(&found, 1)] = row;
    }
    __syncthreads();
    for (int i = tid / 32; i < found; i += 8) {
        const int row = first + candidates[i];
        const float logit = head_row(p.head, x, k, row);
        if (tid % 32 == 0)
            atomicMax(p.best + token, static_cast<unsigned long long>(ordered(logit)) << 32 | (0xffffffffu - static_cast<unsigned>(row)));
    }
}

// One block of STEP_ROWS threads: what was chosen, and the state of the next step where it follows without the host.
extern "C" __global__ void __launch_bounds__(STEP_ROWS) step_choose(const __grid_constant__ StepRows p) {
    const int row = threadIdx.x;
    wait_for_previous();
    const int step = *p.done;
    __syncthreads();
    if (row < p.m) {
        const unsigned long long best = __ldcg(p.best + row);
        const int token = static_cast<int>(0xffffffffu - static_cast<unsigned>(best));
        const float logit = from_ordered(static_cast<unsigned>(best >> 32));
        p.chosen[step % p.history * p.m + row] = make_uint2(token, __float_as_uint(logit));
        if (p.advance) p.tokens[row] = token, p.positions[row] += 1;
    }
    if (row == 0) *p.done = step + 1;
}
