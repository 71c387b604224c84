// One token of one sequence, or several greedy ones, in one persistent launch: every layer, the head, the choice.
//
// Each block owns a run of rows of every matrix. Its packed rows of the next layer are copied into shared memory while
// the current layer is computed, so that memory is read without a pause; what the blocks must tell each other goes
// through slots (exchange.cuh), five times a layer: q,k,v | attention | residual | activation | residual.
// Norm and quantization of a received vector are computed by every block for itself. All blocks must be resident:
// launch cooperatively, one block per multiprocessor. sm_90 and later.
#include "attend_block.cuh"
#include "exchange.cuh"
#include "head.cuh"

constexpr int THREADS = 512;
constexpr int WARPS = THREADS / 32;
constexpr int HEAD_WORDS = 5;   // chunks of 16 elements of a head row per lane
constexpr int MAX_SPLITS = 16;
constexpr int MAX_PAGES = 256;
constexpr int MAX_LAYERS = 64;
constexpr int MAX_RESULTS = 512;
constexpr int WORDS = 5;        // words of a packed row per lane: rows of 2560, or a quarter of rows of 10240
constexpr int DOWN_PARTS = 4;   // warps that share a row of the down projection
constexpr int MAX_HEAD_ROWS = 1216;
constexpr int GROUP = 4;        // query heads of one KV head that are taken together in a long context
constexpr int SHORT = 512;      // positions of a short context at most, as in cuda::decode

struct Decode {
    const uint8_t* weights;           // [layers] of q,k,v | o | gate | up | down, packed rows
    const float4* norms;               // [layers] of attn, attn_sub, ffn, ffn_sub; three weights per slot, then one spare
    const float2* scales;             // [layers, 7]: tensor scale and the separate one, of q k v o gate up down
    const float* final_norm;          // [hidden]
    const __half* embedding;          // [vocab, hidden]
    const __half* head;               // [vocab, hidden]
    const int8_t* compact;            // [vocab, hidden]
    const float4* compact_facts;      // [vocab]: scale, norm of the error, norm of the row
    const float2* angles;             // [positions, rope_dim / 2] cosine, sine
    const int* pages;                 // page table of the sequence
    uint4 *qkv, *attn, *mid, *act, *out, *partial, *best;  // slots
    const int* first;                 // the first token
    int* tokens;                      // [count] chosen
    float* normed;                    // [hidden] after the final norm, where nothing is to be chosen
    Cache cache;
    long long layer_bytes;
    int layers, hidden, ffn, heads, kv_heads, head_dim, rope_dim, vocab;
    int activation, neox;
    int position, count, choose;
    int run;                          // long contexts: positions of one run of attention at least
    float eps;
    uint32_t ticket;                  // the last one that was used
};

static_assert(sizeof(Decode) == 256, "cuda::params has the same");

// The four products of a layer, and the regions of shared memory with this block's rows of them.
enum Phase { QKV, OUT, UP, DOWN, PHASES };

using Four = AttendBlock<THREADS, GROUP>;
constexpr int PART = GROUP * MAX_DIM + 2 * GROUP, PART_SLOTS = (PART + 2) / 3;

struct Shared {
    uint64_t barriers[PHASES];
    double squares[WARPS];
    float2 largest[WARPS];
    int sums[WARPS];
    int results[MAX_RESULTS];
    float2 scales[MAX_LAYERS * 7];
    int pages[MAX_PAGES];
    union {
        struct {
            float raw[GROUP * MAX_DIM + 8], fresh[2 * MAX_DIM + 8];
            float query[GROUP * MAX_DIM];
            __align__(16) __half key[MAX_DIM], value[MAX_DIM];
            float2 angles[MAX_DIM / 2];
            float flat[PART + 3];
            union __align__(16) {
                struct {
                    float scores[SHORT], parts[8][MAX_DIM], maxima[WARPS];
                    double sums[WARPS];
                } exact;
                Four::Shared four;
                float merge[MAX_SPLITS][PART];
            };
        } attention;
        struct {
            float2 red[WARPS];
            float2 scores[MAX_HEAD_ROWS];  // approximate score and bound, by row of the head
            float4 best[WARPS];
            __align__(16) int8_t bytes[2 * 32 * 16 * HEAD_WORDS];
        } head;
    };
};

// What a launch needs to know of this file: shared memory before the regions.
extern "C" __device__ int decode_shared_bytes = (sizeof(Shared) + 127) / 128 * 128;

struct Rows {
    int slot, slots, first, count;
    __device__ __forceinline__ Rows(int n) {
        const int total = slots_of(n);
        slot = first_slot(total, blockIdx.x, gridDim.x), slots = first_slot(total, blockIdx.x + 1, gridDim.x) - slot;
        first = EACH_SLOT * slot, count = min(EACH_SLOT * (slot + slots), n) - first;
    }
};

// This block's share; the same through a launch.
struct Place {
    const Decode& p;
    Shared& s;
    uint8_t* memory;
    Rows qkv, hidden, ffn;
    uint32_t region[PHASES], act;  // offsets in `memory`
    int query, kv;                 // elements of a token's queries, and of its keys

    template <int PHASE> __device__ __forceinline__ int columns() const {
        return PHASE == OUT ? query : PHASE == DOWN ? p.ffn : p.hidden;
    }
    template <int PHASE> __device__ __forceinline__ const Rows& rows() const {
        return PHASE == QKV ? qkv : PHASE == UP ? ffn : hidden;
    }
    // Starts the copies of this block's rows of `layer`; called by one thread.
    template <int PHASE> __device__ __forceinline__ void fetch(int layer) const {
        const int bytes = columns<PHASE>() / 4;
        const Rows& mine = rows<PHASE>();
        long long at = static_cast<long long>(mine.first) * bytes;
        if constexpr (PHASE > QKV) at += static_cast<long long>(query + 2 * kv) * (p.hidden / 4);
        if constexpr (PHASE > OUT) at += static_cast<long long>(p.hidden) * (query / 4);
        if constexpr (PHASE > UP) at += 2ll * p.ffn * (p.hidden / 4);
        const uint8_t* from = p.weights + layer * p.layer_bytes + at;
        const uint32_t barrier = shared_address(&s.barriers[PHASE]), to = shared_address(memory + region[PHASE]);
        const uint32_t size = mine.count * bytes;
        barrier_expect(barrier, PHASE == UP ? 2 * size : size);
        if (size) {
            bulk_copy(to, from, size, barrier);
            if (PHASE == UP) bulk_copy(to + size, from + static_cast<long long>(p.ffn) * bytes, size, barrier);
        }
    }
};

struct Quantized {
    float scale;  // 127 / absmax
    int sum;
};

// The sum of a double over the block, by every thread; `place` has one per warp. A barrier is inside.
__device__ __forceinline__ double sum_block(double v, double* place) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(ALL, v, step);
    if (lane == 0) place[warp] = v;
    __syncthreads();
    v = place[lane % WARPS];
#pragma unroll
    for (int step = WARPS / 2; step > 0; step /= 2) v += __shfl_xor_sync(ALL, v, step);
    return v;
}

__device__ __forceinline__ float inverse_rms(double squares, int n, float eps) {
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(static_cast<float>(squares / n), eps)));
}

// Receives the input of a product, normalises it and writes it as int8 into `act`, rounded as on the CPU. Which element is
// the largest after the norm is told from the products with the weights, before the norm is known; its value then is
// exact.
template <int PHASE>
__device__ __forceinline__ Quantized receive_input(const Place& x, const uint4* slots, const float4* weights, uint32_t ticket) {
    constexpr int EACH = PHASE == DOWN ? 5 : 2;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, n = x.columns<PHASE>();
    const int per_head = slots_of(x.p.head_dim), total = PHASE == OUT ? x.p.heads * per_head : slots_of(n);
    Shared& s = x.s;
    int8_t* act = reinterpret_cast<int8_t*>(x.memory + x.act);
    Slot v[EACH];
    float4 w[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int slot = tid + i * THREADS;
        if (slot < total) {
            v[i] = look(slots + slot);
            w[i] = __ldg(weights + slot);
        }
    }
    double squares = 0.0;
    float largest = -1.0f, largest_v = 0.0f, largest_w = 0.0f;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int slot = tid + i * THREADS;
        if (slot < total) {
            while (v[i].ticket != ticket) v[i] = look(slots + slot);
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) {
                // Places that are padding hold zero.
                const float weight = j == 0 ? w[i].x : j == 1 ? w[i].y : w[i].z, size = fabsf(__fmul_rn(v[i].v[j], weight));
                squares += static_cast<double>(__fmul_rn(v[i].v[j], v[i].v[j]));
                if (size > largest) largest = size, largest_v = v[i].v[j], largest_w = weight;
            }
        }
    }
    {
        const float most = warp_max_positive(fmaxf(largest, 0.0f));
        const int from = __ffs(__ballot_sync(ALL, largest == most)) - 1;
        largest_v = __shfl_sync(ALL, largest_v, max(from, 0)), largest_w = __shfl_sync(ALL, largest_w, max(from, 0));
        if (lane == 0) s.largest[warp] = make_float2(largest_v, largest_w);
    }
    const float inverse = inverse_rms(sum_block(squares, s.squares), n, x.p.eps);
    const float2 one = s.largest[lane % WARPS];
    const float scale = token_scale(warp_max_positive(fabsf(__fmul_rn(__fmul_rn(one.x, inverse), one.y))));
    int sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int slot = tid + i * THREADS;
        int at = EACH_SLOT * slot, count = EACH_SLOT;
        if (PHASE == OUT) {
            const int head = slot / per_head, within = EACH_SLOT * (slot - head * per_head);
            at = head * x.p.head_dim + within, count = x.p.head_dim - within;
        }
        if (slot < total) {
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) {
                // Rounded to an integer in the low bits, see `quantize`.
                const float weight = j == 0 ? w[i].x : j == 1 ? w[i].y : w[i].z;
                const int q = __float_as_int(__fmaf_rn(__fmul_rn(__fmul_rn(v[i].v[j], inverse), weight), scale, 12582912.0f));
                if (PHASE != OUT || j < count) act[at + j] = static_cast<int8_t>(q), sum += static_cast<int8_t>(q);
            }
        }
    }
    sum = __reduce_add_sync(ALL, sum);
    if (lane == 0) s.sums[warp] = sum;
    __syncthreads();
    return Quantized{scale, __reduce_add_sync(ALL, lane < WARPS ? s.sums[lane] : 0)};
}

// results[part * rows + row] = code products of this block's packed rows with `act`: a row by one warp, or by PARTS, and
// AT_ONCE rows in flight. Fields are multiplied in place, so those of shift 2c count 4^c times and are divided, without
// a rest, at the end.
template <int PHASE> __device__ __forceinline__ void multiply(const Place& x) {
    constexpr int PARTS = PHASE == DOWN ? DOWN_PARTS : 1, STRIDE = WARPS / PARTS, AT_ONCE = PHASE < UP ? 2 : PHASE == UP ? 4 : 5;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, words = x.columns<PHASE>() / 16;
    const int rows = (PHASE == UP ? 2 : 1) * x.rows<PHASE>().count, part = warp % PARTS;
    const int first = words * part / PARTS + lane, last = words * (part + 1) / PARTS;
    const uint4* act = reinterpret_cast<const uint4*>(x.memory + x.act);
    const uint32_t* packed = reinterpret_cast<const uint32_t*>(x.memory + x.region[PHASE]) + first;
    uint4 a[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; i++) a[i] = first + 32 * i < last ? act[first + 32 * i] : make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (int row = warp / PARTS; row < rows; row += AT_ONCE * STRIDE) {
        uint32_t w[AT_ONCE][WORDS];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            const uint32_t* from = packed + min(row + r * STRIDE, rows - 1) * words;
#pragma unroll
            for (int i = 0; i < WORDS; i++) w[r][i] = first + 32 * i < last ? from[32 * i] : 0;
        }
        int d[AT_ONCE];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) {
            int d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma unroll
            for (int i = 0; i < WORDS; i++) {
                d0 = dot4(w[r][i] & FIELD, a[i].x, d0);
                d1 = dot4(w[r][i] & FIELD << 2, a[i].y, d1);
                d2 = dot4(w[r][i] & FIELD << 4, a[i].z, d2);
                d3 = dot4(w[r][i] & FIELD << 6, a[i].w, d3);
            }
            d[r] = d0 + (d1 >> 2) + (d2 >> 4) + (d3 >> 6);
        }
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++) d[r] = __reduce_add_sync(ALL, d[r]);
        int mine = d[0];
#pragma unroll
        for (int r = 1; r < AT_ONCE; r++) mine = lane == r ? d[r] : mine;
        if (lane < AT_ONCE && row + lane * STRIDE < rows) x.s.results[part * rows + row + lane * STRIDE] = mine;
    }
}

// The product of one phase: input from `from`, results to `to`; this block's rows of the next layer on their way.
template <int PHASE>
__device__ __forceinline__ void product(const Place& x, const uint4* from, uint4* to, const float4* weights,
                                        const float2* scales, uint32_t taken, uint32_t ticket, uint32_t parity, int refill,
                                        float& h) {
    const Quantized q = receive_input<PHASE>(x, from, weights, taken);
    barrier_wait(shared_address(&x.s.barriers[PHASE]), parity);
    multiply<PHASE>(x);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, i = warp * 30 + lane;
    const Rows& mine = x.rows<PHASE>();
    const int which = PHASE == QKV ? (mine.first + i >= x.query) + (mine.first + i >= x.query + x.kv) : PHASE == OUT ? 3 : PHASE == UP ? 4 : 6;
    const float2 scale = scales[which], of_up = scales[5];
    __syncthreads();
    // Ten slots a warp: lane l has value l of them.
    if (warp * 30 < mine.count) {
        float v = 0.0f;
        if (lane < 30 && i < mine.count) {
            const int* results = x.s.results + i;
            int dot = results[0] - q.sum;
            if (PHASE == DOWN)
#pragma unroll
                for (int part = 1; part < DOWN_PARTS; part++) dot += results[part * mine.count];
            v = descale(dot, q.scale, scale.x, scale.y);
            if (PHASE == UP) v = activate(x.p.activation, v, descale(results[mine.count] - q.sum, q.scale, of_up.x, of_up.y));
            if (PHASE == OUT || PHASE == DOWN) v = h += v;
        }
        const float second = __shfl_down_sync(ALL, v, 1), third = __shfl_down_sync(ALL, v, 2);
        if (lane < 30 && lane % EACH_SLOT == 0 && i < mine.count) publish(to + mine.slot + i / EACH_SLOT, v, second, third, ticket);
    }
    // Nobody waits for others before this block's own results are out: polling would be in their way.
    __syncthreads();
    if (threadIdx.x == THREADS - 1 && refill >= 0) x.fetch<PHASE>(refill);
}

#include "decode_attend.cuh"

// The better of two candidates (score, row): the higher score, of equals the lower row.
__device__ __forceinline__ void better(float& score, int& row, float other, int other_row) {
    if (other > score || (other == score && other_row < row)) score = other, row = other_row;
}

// The token with the highest logit. Every row gets an approximate score from its int8 copy and a bound of the error;
// rows that may still be the best are computed from their half floats, in the order of `head_row`.
__device__ __forceinline__ int choose(const Place& x, const Rows& vocab, const float* normed, uint32_t ticket) {
    const Decode& p = x.p;
    auto& s = x.s.head;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = gridDim.x;
    const HeadInput<HEAD_WORDS> input(normed, p.hidden, s.red, s.bytes);
    float low = -INFINITY;
#pragma unroll 1
    for (int row = 2 * warp; row < vocab.count; row += 2 * WARPS) {
        const int other = min(row + 1, vocab.count - 1);
        float2 scores[2];
        input.approximate(p.compact, p.compact_facts, vocab.first + row, vocab.first + other, scores);
        if (lane == 0) s.scores[row] = scores[0], s.scores[other] = scores[1];
        low = fmaxf(low, fmaxf(scores[0].x - scores[0].y, scores[1].x - scores[1].y));
    }
    if (lane == 0) s.best[warp].x = low;
    __syncthreads();
    low = s.best[lane % WARPS].x;
#pragma unroll
    for (int step = WARPS / 2; step > 0; step /= 2) low = fmaxf(low, __shfl_xor_sync(ALL, low, step));
    if (threadIdx.x == 0) publish(p.best + blockIdx.x, low, 0.0f, 0.0f, ticket);
#pragma unroll 1
    for (int i = lane; i < blocks; i += 32) low = fmaxf(low, receive(p.best + i, ticket).v[0]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) low = fmaxf(low, __shfl_xor_sync(ALL, low, step));
    float score = -INFINITY;
    int row = 0x7fffffff;
#pragma unroll 1
    for (int i = warp; i < vocab.count; i += WARPS)
        if (s.scores[i].x + s.scores[i].y >= low) {
            const int candidate = vocab.first + i;
            better(score, row, head_row(p.head, normed, p.hidden, candidate), candidate);
        }
    __syncthreads();
    if (lane == 0) s.best[warp].x = score, s.best[warp].y = __int_as_float(row);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < WARPS; i++) better(score, row, s.best[i].x, __float_as_int(s.best[i].y));
    uint4* second = p.best + blocks;
    if (threadIdx.x == 0) publish(second + blockIdx.x, score, __int_as_float(row), 0.0f, ticket);
#pragma unroll 1
    for (int i = lane; i < blocks; i += 32) {
        const Slot found = receive(second + i, ticket);
        better(score, row, found.v[0], __float_as_int(found.v[1]));
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(ALL, score, step);
        const int other_row = __shfl_xor_sync(ALL, row, step);
        better(score, row, other, other_row);
    }
    return row;
}

template <bool WHOLE> __device__ __forceinline__ void decode(const Decode& p) {
    extern __shared__ __align__(128) uint8_t memory[];
    Shared& s = *reinterpret_cast<Shared*>(memory);
    const int tid = threadIdx.x, query = p.heads * p.head_dim, kv = p.kv_heads * p.head_dim;
    Place x{p, s, memory, Rows(query + 2 * kv), Rows(p.hidden), Rows(p.ffn), {}, 0, query, kv};
    x.region[QKV] = (sizeof(Shared) + 127) / 128 * 128;
    x.region[OUT] = x.region[QKV] + x.qkv.count * (p.hidden / 4);
    x.region[UP] = x.region[OUT] + x.hidden.count * (query / 4);
    x.region[DOWN] = x.region[UP] + 2 * x.ffn.count * (p.hidden / 4);
    x.act = x.region[DOWN] + x.hidden.count * (p.ffn / 4);
    if (tid == 0) {
#pragma unroll
        for (int i = 0; i < PHASES; i++) barrier_init(shared_address(&s.barriers[i]));
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        x.fetch<QKV>(0), x.fetch<OUT>(0), x.fetch<UP>(0), x.fetch<DOWN>(0);
    }
    for (int i = tid; i < p.layers * 7; i += THREADS) s.scales[i] = p.scales[i];
    for (int i = tid; i <= (p.position + p.count - 1) / PAGE; i += THREADS) s.pages[i] = p.pages[i];
    __syncthreads();

    const Rows vocab(p.vocab);
    const int hidden_slots = slots_of(p.hidden), attn_slots = p.heads * slots_of(p.head_dim);
    const int layer_slots = 2 * hidden_slots + attn_slots + slots_of(p.ffn);
    const int own = tid / 32 * 30 + tid % 32;  // the value of the residual stream that this thread keeps
    const bool owns = tid % 32 < 30 && own < x.hidden.count;
    float h = 0.0f;
    int token = *p.first;
    uint32_t parity = 0, ticket = p.ticket;
#pragma unroll 1
    for (int step = 0; step < p.count; step++) {
        const int position = p.position + step;
        const Share<WHOLE> share(x, position + 1);
        const bool attends = !share.idle(x);
        ticket++;
        h = owns ? __half2float(p.embedding[static_cast<long long>(token) * p.hidden + x.hidden.first + own]) : 0.0f;
        {
            const float second = __shfl_down_sync(ALL, h, 1), third = __shfl_down_sync(ALL, h, 2);
            if (owns && tid % 32 % EACH_SLOT == 0) publish(p.out + x.hidden.slot + own / EACH_SLOT, h, second, third, ticket);
        }
#pragma unroll 1
        for (int layer = 0; layer < p.layers; layer++, parity ^= 1) {
            const float4* norm = p.norms + static_cast<long long>(layer) * layer_slots;
            const float2* scales = s.scales + layer * 7;
            const int refill = layer + 1 < p.layers ? layer + 1 : step + 1 == p.count ? -1 : 0;
            if (attends) prefetch_cache(x, layer, share);
            const uint32_t taken = ticket++;
            product<QKV>(x, p.out, p.qkv, norm, scales, taken, ticket, parity, refill, h);
            if (attends) attention(x, layer, position, share, ticket);
            norm += hidden_slots;
            product<OUT>(x, p.attn, p.mid, norm, scales, ticket, ticket, parity, refill, h);
            norm += attn_slots;
            product<UP>(x, p.mid, p.act, norm, scales, ticket, ticket, parity, refill, h);
            norm += hidden_slots;
            product<DOWN>(x, p.act, p.out, norm, scales, ticket, ticket, parity, refill, h);
        }
        // The final norm, in the memory of `act`.
        float* normed = reinterpret_cast<float*>(memory + x.act);
        __syncthreads();
        double squares = 0.0;
#pragma unroll 1
        for (int slot = tid; slot < hidden_slots; slot += THREADS) {
            const Slot found = receive(p.out + slot, ticket);
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++)
                if (EACH_SLOT * slot + j < p.hidden) squares += static_cast<double>(__fmul_rn(found.v[j], found.v[j])), normed[EACH_SLOT * slot + j] = found.v[j];
        }
        const float inverse = inverse_rms(sum_block(squares, s.squares), p.hidden, p.eps);
#pragma unroll 1
        for (int i = tid; i < p.hidden; i += THREADS) {
            const float v = __fmul_rn(__fmul_rn(normed[i], inverse), p.final_norm[i]);
            normed[i] = round_half(v);  // as the head takes it
            if (!p.choose && blockIdx.x == 0) p.normed[i] = v;
        }
        if (!p.choose) return;
        __syncthreads();
        token = choose(x, vocab, normed, ticket);
        if (blockIdx.x == 0 && tid == 0) p.tokens[step] = token;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_short(const __grid_constant__ Decode p) { decode<true>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_long(const __grid_constant__ Decode p) { decode<false>(p); }
