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
constexpr int MAX_SPLITS = 26;   // runs of one KV head
constexpr int PIECE = 11;         // slots of a head that are merged together
constexpr int MAX_PAGES = 256;
constexpr int MAX_LAYERS = 64;
constexpr int MAX_RESULTS = 512;
constexpr int DOWN_PARTS = 4;   // warps that share a row of the down projection
constexpr int MAX_HEAD_ROWS = 1216;
constexpr int KEPT = 128;       // positions whose values are copied to shared memory in a short context
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
enum Phase { QKV, OUT, UP, DOWN, PHASES, VALUES = PHASES, BARRIERS };

// The rows of a vector that a block computes: whole slots.
struct Rows {
    int slot, slots, first, count;
    static __device__ __forceinline__ Rows of(int n) {
        const int total = slots_of(n), slot = first_slot(total, blockIdx.x, gridDim.x), slots = first_slot(total, blockIdx.x + 1, gridDim.x) - slot;
        return Rows{slot, slots, EACH_SLOT * slot, min(EACH_SLOT * (slot + slots), n) - EACH_SLOT * slot};
    }
};

// This block's share; the same through a launch. It is kept in shared memory: in registers it was in the way of everything else,
// and what the compiler then puts aside lies in local memory, for which the L1 cache beside so much shared memory is too small.
struct Facts {
    Rows qkv, hidden, ffn;
    uint32_t region[PHASES], act;              // offsets in the block's memory
    int query, kv;                             // elements of a token's queries, and of its keys
    int hidden_slots, attn_slots, layer_slots; // of norm weights
    double over_hidden, over_query, over_ffn;  // 1 / n
};

using Block = AttendBlock<THREADS>;
static_assert(MAX_SPLITS <= 32 && PIECE <= WARPS, "runs are merged by the lanes of a warp, slots by warps");
constexpr int MAX_PIECES = GROUP * (((MAX_DIM + 2) / 3 + PIECE - 1) / PIECE);

struct Shared {
    uint64_t barriers[BARRIERS];
    Facts facts;
    double squares[WARPS];
    float largest[WARPS];
    int sums[2];  // of the quants: of even and of odd phases
    float token_scale;
    int results[MAX_RESULTS];
    float2 scales[MAX_LAYERS * 7];
    int pages[MAX_PAGES];
    union {
        struct {
            __align__(16) __half key[MAX_DIM], value[MAX_DIM];
            union __align__(128) {
                struct {
                    float query[MAX_DIM];
                    double sums[WARPS];
                    float scores[SHORT], maxima[WARPS];
                    __align__(16) float parts[WARPS][MAX_DIM];
                    __align__(128) __half values[KEPT * MAX_DIM];
                } exact;
                struct {
                    __align__(16) __half query[GROUP * MAX_DIM];
                    float flat[GROUP * MAX_DIM + EACH_SLOT];
                    float2 weights[GROUP];
                    Block::Shared block;
                } runs;
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

__device__ __forceinline__ uint8_t* shared_memory() {
    extern __shared__ __align__(128) uint8_t memory[];
    return memory;
}
__device__ __forceinline__ Shared& shared() { return *reinterpret_cast<Shared*>(shared_memory()); }

// What a launch needs to know of this file: shared memory before the regions.
extern "C" __device__ int decode_shared_bytes = (sizeof(Shared) + 127) / 128 * 128;

struct Place {
    const Decode& p;
    Shared& s;
    uint8_t* memory;
    const Facts& f;

    template <int PHASE> __device__ __forceinline__ int columns() const {
        return PHASE == OUT ? f.query : PHASE == DOWN ? p.ffn : p.hidden;
    }
    template <int PHASE> __device__ __forceinline__ const Rows& rows() const {
        return PHASE == QKV ? f.qkv : PHASE == UP ? f.ffn : f.hidden;
    }
    // Starts the copies of this block's rows of `layer`, called by one thread: of both matrices of UP in two calls, gate first.
    template <int PHASE> __device__ __forceinline__ void fetch(int layer, bool second = false) const {
        const int bytes = columns<PHASE>() / 4;
        const Rows& mine = rows<PHASE>();
        long long at = static_cast<long long>(mine.first) * bytes;
        if constexpr (PHASE > QKV) at += static_cast<long long>(f.query + 2 * f.kv) * (p.hidden / 4);
        if constexpr (PHASE > OUT) at += static_cast<long long>(p.hidden) * (f.query / 4);
        if constexpr (PHASE > UP) at += 2ll * p.ffn * (p.hidden / 4);
        const uint32_t barrier = shared_address(&s.barriers[PHASE]), size = mine.count * bytes;
        const uint8_t* from = p.weights + layer * p.layer_bytes + at + (second ? static_cast<long long>(p.ffn) * bytes : 0);
        if (PHASE == UP && !second) barrier_expect_more(barrier, size);
        else barrier_expect(barrier, size);
        if (size) bulk_copy(shared_address(memory + f.region[PHASE]) + (second ? size : 0), from, size, barrier);
    }
    // What is copied while this block multiplies in a phase of `layer`, when nobody waits for others; the first half of UP follows
    // during attention. Where copies run, what blocks tell each other arrives thousands of cycles later.
    template <int PHASE> __device__ __forceinline__ void fetch_ahead(int layer, int next) const {
        if constexpr (PHASE == QKV) fetch<OUT>(layer);
        if constexpr (PHASE == OUT) fetch<UP>(layer, true);
        if constexpr (PHASE == UP) fetch<DOWN>(layer);
        if (PHASE == DOWN && next >= 0) fetch<QKV>(next);
    }
};

// The sum of a double over the first HERE threads, by each of them; `place` has one per warp. A barrier of all threads is inside.
template <int HERE> __device__ __forceinline__ double sum_threads(double v, double* place) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) place[threadIdx.x / 32] = v;
    __syncthreads();
    return sum_of_few(place, HERE / 32);
}

// `over` is 1 / n.
__device__ __forceinline__ float inverse_rms(double squares, double over, float eps) {
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(static_cast<float>(squares * over), eps)));
}

// Receives the input of a product, normalises it and writes it as int8 into `act`, rounded as on the CPU; the scale and the sum of the
// quants go to s.token_scale and s.sums. Half of the warps do it where they suffice: what every thread does once counts more
// than what it does per element.
template <int PHASE> constexpr int RECEIVERS = PHASE == DOWN ? THREADS - 32 : THREADS / 2;
template <int PHASE>
__device__ __forceinline__ void receive_input(const Place& x, const uint4* slots, const float4* weights, uint32_t ticket) {
    constexpr int HERE = RECEIVERS<PHASE>, EACH = PHASE == DOWN ? 5 : 4;
    if (threadIdx.x < HERE) {
        const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
        const int per_head = slots_of(x.p.head_dim), total = PHASE == OUT ? x.p.heads * per_head : slots_of(x.columns<PHASE>());
        Shared& s = shared();
        Slot v[EACH];
        float4 w[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int slot = tid + i * HERE;
            w[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (slot < total) w[i] = load_ahead(weights + slot);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            v[i] = Slot{{}, ticket};
            if (tid + i * HERE < total) v[i] = look(slots + tid + i * HERE);
        }
        // All that are missing are asked for again at once.
        for (;;) {
            bool missing = false;
#pragma unroll
            for (int i = 0; i < EACH; i++) missing |= v[i].ticket != ticket;
            if (!missing) break;
#pragma unroll
            for (int i = 0; i < EACH; i++)
                if (v[i].ticket != ticket) v[i] = look(slots + tid + i * HERE);
        }
        double squares[2] = {};
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) squares[(i * EACH_SLOT + j) % 2] += static_cast<double>(__fmul_rn(v[i].v[j], v[i].v[j]));
        const double over = PHASE == DOWN ? x.f.over_ffn : PHASE == OUT ? x.f.over_query : x.f.over_hidden;
        const float inverse = inverse_rms(sum_threads<HERE>(squares[0] + squares[1], s.squares), over, x.p.eps);
        float largest = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) {
                // Places that are padding hold zero.
                const float weight = j == 0 ? w[i].x : j == 1 ? w[i].y : w[i].z;
                v[i].v[j] = __fmul_rn(__fmul_rn(v[i].v[j], inverse), weight), largest = fmaxf(largest, fabsf(v[i].v[j]));
            }
        largest = warp_max_positive(largest);
        if (lane == 0) s.largest[warp] = largest;
        __syncthreads();
        const float scale = token_scale(warp_max_positive(s.largest[lane < HERE / 32 ? lane : 0]));
        uint32_t sum = 0;
        uint8_t* act = shared_memory() + x.f.act;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int slot = tid + i * HERE;
            int at = EACH_SLOT * slot, count = EACH_SLOT;
            if (PHASE == OUT) {
                const int head = slot / per_head, within = EACH_SLOT * (slot - head * per_head);
                at = head * x.p.head_dim + within, count = x.p.head_dim - within;
            }
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) {
                // Rounded to an integer in the low bits, see `quantize`.
                const uint32_t q = __float_as_uint(__fmaf_rn(v[i].v[j], scale, 12582912.0f));
                sum += q;
                if (slot < total && (PHASE != OUT || j < count)) act[at + j] = static_cast<uint8_t>(q);
            }
        }
        sum = __reduce_add_sync(ALL, sum - EACH * EACH_SLOT * 0x4b400000u);
        if (lane == 0) atomicAdd(&s.sums[PHASE % 2], static_cast<int>(sum));
        if (tid == 0) s.token_scale = scale;
    } else {
        // As many as above: with barriers of the receivers alone racecheck takes what follows for a race, and they are no faster.
        __syncthreads(), __syncthreads();
    }
    __syncthreads();
}

// results[part * rows + row] = code products of this block's packed rows with `act`: a row by one warp, or by PARTS, and
// AT_ONCE rows in flight. Fields are multiplied in place, so those of shift 2c count 4^c times and are divided, without
// a rest, at the end.
template <int PHASE> __device__ __forceinline__ void multiply(const Place& x) {
    constexpr int PARTS = PHASE == DOWN ? DOWN_PARTS : 1, STRIDE = PHASE == DOWN ? WARPS / PARTS : WARPS - 1;
    constexpr int AT_ONCE = PHASE < UP ? 2 : PHASE == UP ? 4 : 5;
    constexpr int WORDS = PHASE == DOWN ? 4 : 5;  // of a packed row per lane: rows of 2560, or a quarter of rows of 8192
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, words = x.columns<PHASE>() / 16;
    const int rows = (PHASE == UP ? 2 : 1) * x.rows<PHASE>().count, part = warp % PARTS;
    const int first = words * part / PARTS + lane, last = words * (part + 1) / PARTS;
    const uint4* act = reinterpret_cast<const uint4*>(shared_memory() + x.f.act);
    const uint32_t* packed = reinterpret_cast<const uint32_t*>(shared_memory() + x.f.region[PHASE]) + first;
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
        if (lane < AT_ONCE && row + lane * STRIDE < rows) shared().results[part * rows + row + lane * STRIDE] = mine;
    }
}

// The product of one phase: input from `from`, results to `to`; this block's rows of the next layer on their way.
template <int PHASE>
__device__ __forceinline__ void product(const Place& x, const uint4* from, uint4* to, const float4* weights,
                                        const float2* scales, uint32_t taken, uint32_t ticket, uint32_t parity, int layer, int next,
                                        float& h) {
    receive_input<PHASE>(x, from, weights, taken);
    barrier_wait(shared_address(&shared().barriers[PHASE]), parity);
    Shared& s = shared();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, i = warp * 30 + lane;
    const Rows& mine = x.rows<PHASE>();
    // The last warp starts copies; it has rows of its own in the down projection alone.
    if (threadIdx.x == THREADS - 32) x.fetch_ahead<PHASE>(layer, next);
    if (PHASE == DOWN || warp < WARPS - 1) multiply<PHASE>(x);
    const int which = PHASE == QKV ? (mine.first + i >= x.f.query) + (mine.first + i >= x.f.query + x.f.kv) : PHASE == OUT ? 3 : PHASE == UP ? 4 : 6;
    const float2 scale = scales[which], of_up = scales[5];
    __syncthreads();
    // Ten slots a warp: lane l has value l of them.
    if (warp == 0 || warp * 30 < mine.count) {
        const int sum = s.sums[PHASE % 2];
        const float token = s.token_scale;
        if (threadIdx.x == 0) s.sums[(PHASE + 1) % 2] = 0;
        float v = 0.0f;
        if (lane < 30 && i < mine.count) {
            const int* results = s.results + i;
            int dot = results[0] - sum;
            if (PHASE == DOWN)
#pragma unroll
                for (int part = 1; part < DOWN_PARTS; part++) dot += results[part * mine.count];
            v = descale(dot, token, scale.x, scale.y);
            if (PHASE == UP) v = activate(x.p.activation, v, descale(results[mine.count] - sum, token, of_up.x, of_up.y));
            if (PHASE == OUT || PHASE == DOWN) v = h += v;
        }
        const float second = __shfl_down_sync(ALL, v, 1), third = __shfl_down_sync(ALL, v, 2);
        if (lane < 30 && lane % EACH_SLOT == 0 && i < mine.count) publish(to + mine.slot + i / EACH_SLOT, v, second, third, ticket);
    }
    // Nobody waits for others before this block's own results are out: polling would be in their way.
    __syncthreads();
}

#include "decode_attend.cuh"

// The better of two candidates (score, row): the higher score, of equals the lower row.
__device__ __forceinline__ void better(float& score, int& row, float other, int other_row) {
    if (other > score || (other == score && other_row < row)) score = other, row = other_row;
}

// The token with the highest logit. Every row gets an approximate score from its int8 copy and a bound of the error;
// rows that may still be the best are computed from their half floats, in the order of `head_row`.
__device__ __forceinline__ int choose(const Place& x, const float* normed, uint32_t ticket) {
    const Decode& p = x.p;
    auto& s = x.s.head;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, blocks = gridDim.x;
    const Rows vocab = Rows::of(p.vocab);
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
    const int tid = threadIdx.x;
    const Place x{p, s, memory, s.facts};
    if (tid == 0) {
        const int query = p.heads * p.head_dim, kv = p.kv_heads * p.head_dim;
        Facts f{Rows::of(query + 2 * kv), Rows::of(p.hidden), Rows::of(p.ffn)};
        f.query = query, f.kv = kv, f.over_hidden = 1.0 / p.hidden, f.over_query = 1.0 / query, f.over_ffn = 1.0 / p.ffn;
        f.region[QKV] = (sizeof(Shared) + 127) / 128 * 128;
        f.region[OUT] = f.region[QKV] + f.qkv.count * (p.hidden / 4);
        f.region[UP] = f.region[OUT] + f.hidden.count * (query / 4);
        f.region[DOWN] = f.region[UP] + 2 * f.ffn.count * (p.hidden / 4);
        f.act = f.region[DOWN] + f.hidden.count * (p.ffn / 4);
        f.hidden_slots = slots_of(p.hidden), f.attn_slots = p.heads * slots_of(p.head_dim);
        f.layer_slots = 2 * f.hidden_slots + f.attn_slots + slots_of(p.ffn);
        s.facts = f;
#pragma unroll
        for (int i = 0; i < BARRIERS; i++) barrier_init(shared_address(&s.barriers[i]));
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        x.fetch<QKV>(0);
    }
    if (tid < 2) s.sums[tid] = 0;
    for (int i = tid; i < p.layers * 7; i += THREADS) s.scales[i] = p.scales[i];
    for (int i = tid; i <= (p.position + p.count - 1) / PAGE; i += THREADS) s.pages[i] = p.pages[i];
    __syncthreads();

    const int own = tid / 32 * 30 + tid % 32;  // the value of the residual stream that this thread keeps
    const bool owns = tid % 32 < 30 && own < x.f.hidden.count;
    float h = 0.0f;
    int token = *p.first;
    uint32_t parity = 0, ticket = p.ticket;
#pragma unroll 1
    for (int step = 0; step < p.count; step++) {
        const int position = p.position + step;
        const Share<WHOLE> share(x, position + 1);
        const bool attends = !share.idle(x);
        ticket++;
        h = owns ? __half2float(p.embedding[static_cast<long long>(token) * p.hidden + x.f.hidden.first + own]) : 0.0f;
        {
            const float second = __shfl_down_sync(ALL, h, 1), third = __shfl_down_sync(ALL, h, 2);
            if (owns && tid % 32 % EACH_SLOT == 0) publish(p.out + x.f.hidden.slot + own / EACH_SLOT, h, second, third, ticket);
        }
#pragma unroll 1
        for (int layer = 0; layer < p.layers; layer++, parity ^= 1) {
            const float4* norm = p.norms + static_cast<long long>(layer) * x.f.layer_slots;
            const float2* scales = s.scales + layer * 7;
            const int next = layer + 1 < p.layers ? layer + 1 : step + 1 == p.count ? -1 : 0;
            if constexpr (WHOLE)
                if (attends) prefetch_cache(x, layer, share);
            const uint32_t taken = ticket++;
            product<QKV>(x, p.out, p.qkv, norm, scales, taken, ticket, parity, layer, next, h);
            if constexpr (WHOLE) {
                if (attends) attend_exactly(p, layer, position, share.unit, ticket, parity);
            } else {
                if (attends) attend_runs(p, layer, position, share, ticket);
            }
            // Others are at attention for a while, which reads nothing from memory once the queries are there.
            if (tid == THREADS - 32) {
                receive(p.qkv, ticket);
                x.fetch<UP>(layer);
            }
            norm += x.f.hidden_slots;
            product<OUT>(x, p.attn, p.mid, norm, scales, ticket, ticket, parity, layer, next, h);
            norm += x.f.attn_slots;
            product<UP>(x, p.mid, p.act, norm, scales, ticket, ticket, parity, layer, next, h);
            norm += x.f.hidden_slots;
            product<DOWN>(x, p.act, p.out, norm, scales, ticket, ticket, parity, layer, next, h);
        }
        // New keys and values are there before anything of the next token is.
        if (attends) __threadfence();
        // The final norm, in the memory of `act`.
        float* normed = reinterpret_cast<float*>(memory + x.f.act);
        __syncthreads();
        double squares = 0.0;
#pragma unroll 1
        for (int slot = tid; slot < x.f.hidden_slots; slot += THREADS) {
            const Slot found = receive(p.out + slot, ticket);
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++)
                if (EACH_SLOT * slot + j < p.hidden) squares += static_cast<double>(__fmul_rn(found.v[j], found.v[j])), normed[EACH_SLOT * slot + j] = found.v[j];
        }
        const float inverse = inverse_rms(sum_threads<THREADS>(squares, s.squares), x.f.over_hidden, p.eps);
#pragma unroll 1
        for (int i = tid; i < p.hidden; i += THREADS) {
            const float v = __fmul_rn(__fmul_rn(normed[i], inverse), p.final_norm[i]);
            normed[i] = round_half(v);  // as the head takes it
            if (!p.choose && blockIdx.x == 0) p.normed[i] = v;
        }
        if (!p.choose) return;
        __syncthreads();
        token = choose(x, normed, ticket);
        if (blockIdx.x == 0 && tid == 0) p.tokens[step] = token;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_short(const __grid_constant__ Decode p) { decode<true>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_long(const __grid_constant__ Decode p) { decode<false>(p); }
