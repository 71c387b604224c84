// What a decoding step does before and after its layers: embedding, the last norm, the choice of a token in two stages.
//
// The choice is that of decode.cu's, for many rows at once: every row of the head gets an approximate score from its int8
// copy, on tensor cores, and a bound of the error (head.cuh); rows that may still be the best are computed from their half
// floats, as `head_row` defines a logit. So the token is that of the full head. sm_90 and later.
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
    int8_t* split;             // [m, 2, hidden]: hi and lo, see head.cuh
    float4* facts;             // [m]: step, norm, error of the split
    const __half* head;        // [vocab, hidden]
    const int8_t* compact;     // [vocab, hidden]
    const float4* head_facts;  // [vocab]
    float* upper;              // [m, vocab]: no logit is above
    unsigned* low;             // [m]: the best logit is not below, as an ordered integer
    unsigned long long* best;  // [m]: ordered logit, then the row from the end
    uint2* chosen;             // [history, m]: token, logit
    int* done;                 // steps in `chosen`
    int hidden_size, vocab, below, phases, m, history;
    float eps;
    int advance, launches, spare;
};

static_assert(sizeof(StepRows) == 192, "cuda::params has the same");

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
    int8_t* split = p.split + static_cast<long long>(row) * 2 * k;
    for (int i = tid; i < k; i += 256) {
        const float v = x[i] * multiplier;
        const int high = max(-127, min(127, __float2int_rn(v)));
        split[i] = static_cast<int8_t>(high);
        split[k + i] = static_cast<int8_t>(max(-127, min(127, __float2int_rn((v - high) * 254.0f))));
    }
    if (tid == 0)
        p.facts[row] = make_float4(step, sqrtf(squares) * 1.0001f, sqrtf(static_cast<float>(k)) * step / 508.0f * 1.001f, 0.0f);
}

// Grid (rows of the head / (128 RT), groups of 8 NT tokens), 256 threads; a warp has RT tiles of 16 rows of the head. A lane
// reads 16 bytes of a row at a time and takes k in an order of its own, the same for both sides. K is a multiple of 64.
template <int NT, int RT> __device__ __forceinline__ void scores(const StepRows& p) {
    __shared__ unsigned lows[NT * 8];
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, group = lane / 4, t = lane % 4, k = p.hidden_size;
    const int row0 = (blockIdx.x * 8 + warp) * RT * 16, token0 = blockIdx.y * NT * 8;
    let_next_start();
    if (tid < NT * 8) lows[tid] = 0;
    wait_for_previous();
    int acc[RT][NT][2][4] = {};
#pragma unroll 2
    for (int at = t * 16; at < k; at += 64) {
        uint4 w[RT][2];
#pragma unroll
        for (int i = 0; i < RT; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = min(row0 + i * 16 + group + 8 * j, p.vocab - 1);
                w[i][j] = load_once(p.compact + static_cast<long long>(row) * k + at);
            }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int token = min(token0 + n * 8 + group, p.m - 1);
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const uint4 b = *reinterpret_cast<const uint4*>(p.split + (2ll * token + part) * k + at);
#pragma unroll
                for (int i = 0; i < RT; i++) {
                    mma_s8(acc[i][n][part], w[i][0].x, w[i][1].x, w[i][0].y, w[i][1].y, b.x, b.y);
                    mma_s8(acc[i][n][part], w[i][0].z, w[i][1].z, w[i][0].w, w[i][1].w, b.z, b.w);
                }
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const int token = token0 + n * 8 + t * 2 + odd;
            float low = -INFINITY;
            if (token < p.m) {
                const float4 x = __ldcg(p.facts + token);
#pragma unroll
                for (int i = 0; i < RT; i++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int row = row0 + i * 16 + group + 8 * j;
                        if (row < p.below) {
                            const float4 fact = __ldg(p.head_facts + row);
                            const float a = static_cast<float>(acc[i][n][0][odd + 2 * j]), b = static_cast<float>(acc[i][n][1][odd + 2 * j]);
                            const float score = fact.x * x.x * (a + b * (1.0f / 254.0f));
                            const float bound = 1.001f * (fact.y * x.y + fact.z * (x.z + HEAD_ROUNDING * x.y));
                            p.upper[static_cast<long long>(token) * p.vocab + row] = score + bound;
                            low = fmaxf(low, score - bound);
                        }
                    }
            }
#pragma unroll
            for (int step = 4; step < 32; step *= 2) low = fmaxf(low, __shfl_xor_sync(ALL, low, step));
            if (group == 0 && low > -INFINITY) atomicMax(lows + n * 8 + t * 2 + odd, ordered(low));
        }
    __syncthreads();
    if (tid < NT * 8 && token0 + tid < p.m && lows[tid]) atomicMax(p.low + token0 + tid, lows[tid]);
}

#define SCORES_KERNEL(name, nt, rt)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ StepRows p) { scores<nt, rt>(p); }
SCORES_KERNEL(step_scores_8, 1, 2)
SCORES_KERNEL(step_scores_32, 4, 1)
SCORES_KERNEL(step_scores_64, 8, 1)

constexpr int PICK = 2048;  // rows of the head of a block of step_pick

// Grid (vocab / PICK, rows), 256 threads, hidden floats of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) step_pick(const __grid_constant__ StepRows p) {
    extern __shared__ __align__(16) float x[];
    __shared__ int candidates[PICK], found;
    const int token = blockIdx.y, tid = threadIdx.x, first = blockIdx.x * PICK, k = p.hidden_size;
    let_next_start();
    if (tid == 0) found = 0;
    wait_for_previous();
    __syncthreads();
    const float low = from_ordered(__ldcg(p.low + token));
    for (int row = first + tid; row < min(first + PICK, p.below); row += 256)
        if (__ldcg(p.upper + static_cast<long long>(token) * p.vocab + row) >= low) candidates[atomicAdd(&found, 1)] = row;
    __syncthreads();
    const int count = found;
    if (count == 0) return;
    for (int i = tid; i < k; i += 256) x[i] = round_half(__ldcg(p.normed + static_cast<long long>(token) * k + i));
    __syncthreads();
    for (int i = tid / 32; i < count; i += 8) {
        const int row = candidates[i];
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
