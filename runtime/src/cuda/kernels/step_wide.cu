// Ternary products of a decoding step of 9 to 64 rows: step_quantize normalises and quantizes the rows once and leaves them
// in the order of shared memory, then a block multiplies 64 weight rows (of gate and of up) with all of them, or a cluster
// of two blocks with half of the columns each.
//
// The weights of a block are copied to shared memory before the kernel in front is done; activations come in blocks of 128
// columns by bulk copies. Four warpgroups (wgmma, int8) take a block of columns in turn, unpack weights into registers on
// the way, and add up what they have at the end. Results are exact in int32 and rounded as on the CPU. sm_90a alone.
#include "exchange.cuh"
#include "step.cuh"

struct StepWide {
    const uint8_t* weights;   // [n, k] packed; GATE_UP: [2n, k], gate rows, then up rows
    const float* x;           // [m, k], of step_quantize
    const float* norm;        // [k]; null for no norm
    const Stat* before;       // [m], of x
    uint8_t* quants;          // [ceil(k / 128), rows of the kernel, 128], chunks of 16 swizzled
    float* token_scales;      // [m]
    int* sums;                // [m]
    const float* scales;      // pairs (tensor scale, separate scale) of up to three matrices, one after the other
    float* out;               // [m, n]
    Stat* after;              // [m], of out; null where nobody asks
    const float* next_norm;   // [n]
    Turn turn;
    int n, m, k, rows;        // n a multiple of 64; rows of x that the kernel is made for
    int bound[2];             // first rows of the second and the third matrix, multiples of 64
    int activation, stages;   // blocks of columns in shared memory, of each warpgroup
    float eps;
    int spare;
};

static_assert(sizeof(StepWide) == 152, "cuda::params has the same");

// Grid (rows of x / ROWS); EACH threads have a row of up to 4 EACH TURNS columns. With several rows a block fewer multiprocessors are
// kept from the blocks of the product, which could copy their weights meanwhile.
template <int ROWS, int EACH, int TURNS> __device__ __forceinline__ void quantize_rows(const StepWide& g) {
    constexpr int WARPS = EACH / 32;
    __shared__ int partial[ROWS][WARPS];
    const int tid = threadIdx.x % EACH, own = threadIdx.x / EACH, token = blockIdx.x * ROWS + own, quads = token < g.m ? g.k / 4 : 0;
    begin_turn(g.turn);
    float4 w[TURNS], x[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int quad = tid + EACH * i;
        w[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        if (g.norm && quad < quads) w[i] = __ldg(reinterpret_cast<const float4*>(g.norm) + quad);
    }
    wait_turn(g.turn);
    const float4* from = reinterpret_cast<const float4*>(g.x + static_cast<long long>(token) * g.k);
#pragma unroll
    for (int i = 0; i < TURNS; i++)
        if (tid + EACH * i < quads) x[i] = __ldcg(from + tid + EACH * i);
    const float2 how = norm_and_scale(g.before, g.x, g.norm, min(token, g.m - 1), g.k, g.eps);
    int sum = 0;
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int quad = tid + EACH * i;
        if (quad < quads)
            *reinterpret_cast<uint32_t*>(g.quants + (quad / 32 * g.rows + token) * 128 + place_of_quad(quad, token)) =
                quantize_four(x[i], w[i], how, sum);
    }
    sum = __reduce_add_sync(ALL, sum);
    if (tid % 32 == 0) partial[own][tid / 32] = sum;
    __syncthreads();
    if (tid == 0 && token < g.m) {
        for (int i = 1; i < WARPS; i++) sum += partial[own][i];
        g.sums[token] = sum, g.token_scales[token] = how.y;
    }
    end_turn(g.turn);
}
// Of up to 8192 columns, and up to 3072.
extern "C" __global__ void __launch_bounds__(512, 2) step_quantize(const __grid_constant__ StepWide g) { quantize_rows<1, 512, 4>(g); }
extern "C" __global__ void __launch_bounds__(1024, 1) step_quantize_4(const __grid_constant__ StepWide g) { quantize_rows<4, 256, 3>(g); }

constexpr int THREADS = 512, TEAMS = 4, TILE = 64, PITCH = TILE + 4, MAX_STAGES = 16;  // PITCH: sums of a token, in other banks than the next one's

template <int NT, int EPILOGUE, int SPLIT> __device__ __forceinline__ void step_wide(const StepWide& g) {
    constexpr int TOKENS = 8 * NT, MATRICES = EPILOGUE == GATE_UP ? 2 : 1, ATOM = TOKENS * 128;
    extern __shared__ __align__(1024) uint8_t memory[];
    // Of each stage: its activations are there; its four warps have multiplied with them.
    __shared__ __align__(8) uint64_t arrived[TEAMS * MAX_STAGES], consumed[TEAMS * MAX_STAGES];
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, group = lane / 4, t = lane % 4, team = tid / 128;
    // Of every TEAMS * SPLIT blocks of columns this block has TEAMS, one of each warpgroup.
    const int rank = SPLIT > 1 ? cluster_rank() : 0, row0 = blockIdx.x / SPLIT * TILE;
    const int atoms = (g.k + 127) / 128, own = (atoms + TEAMS * SPLIT - 1) / (TEAMS * SPLIT) * TEAMS, stride = own * 32 + 16;
    const int words_at = TEAMS * g.stages * ATOM, received_at = max(words_at + TILE * MATRICES * stride, TEAMS * MATRICES * TOKENS * PITCH * 4);
    const uint32_t base = shared_address(memory);
    int* team_sums = reinterpret_cast<int*>(memory);  // after the products: [TEAMS, MATRICES, TOKENS, PITCH]

    begin_turn(g.turn);
    if (SPLIT > 1) cluster_begin();
    if (tid < TEAMS * g.stages) {
        barrier_init(shared_address(&arrived[tid]));
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 4;" ::"r"(shared_address(&consumed[tid])) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    auto atom_of = [&](int i) { return i / TEAMS * (TEAMS * SPLIT) + rank * TEAMS + i % TEAMS; };
    for (int r = warp; r < MATRICES * TILE; r += THREADS / 32) {
        const uint8_t* from = g.weights + static_cast<long long>(row0 + r % TILE + r / TILE * g.n) * (g.k / 4);
        for (int i = lane; i < 2 * own; i += 32) {
            const int piece = 2 * atom_of(i / 2) + i % 2;  // past the end weights are zero, and so are products
            copy_16(base + words_at + r * stride + i * 16, from + (piece < g.k / 64 ? piece : 0) * 16, piece < g.k / 64);
        }
    }
    copy_commit();
    copy_wait<0>();
    wait_turn(g.turn);
    const int first = rank * TEAMS + team, mine = atoms > first ? (atoms - first + TEAMS * SPLIT - 1) / (TEAMS * SPLIT) : 0;
    auto fetch = [&](int index) {
        const uint32_t barrier = shared_address(&arrived[team * g.stages + index % g.stages]);
        barrier_expect(barrier, ATOM);
        bulk_copy(base + (team * g.stages + index % g.stages) * ATOM, g.quants + static_cast<long long>(atom_of(TEAMS * index + team)) * ATOM, ATOM,
                  barrier);
    };
    if (tid % 128 < min(g.stages, mine)) {
        // The copies are of another kind than the writes of step_quantize.
        asm volatile("fence.proxy.async;" ::: "memory");
        fetch(tid % 128);
    }

    int acc[MATRICES][NT][4] = {};
    const uint8_t* words = memory + words_at + (warp % 4 * 16 + group) * stride + t * 4;
    uint32_t packed[MATRICES][2][2];  // of the next block of columns: its two groups of 64, rows `group` and `group` + 8
    auto read_words = [&](int index) {
#pragma unroll
        for (int k = 0; k < MATRICES; k++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint8_t* from = words + k * TILE * stride + (2 * (TEAMS * index + team) + i) * 16;
                packed[k][i][0] = *reinterpret_cast<const uint32_t*>(from);
                packed[k][i][1] = *reinterpret_cast<const uint32_t*>(from + 8 * stride);
            }
    };
    if (mine > 0) read_words(0);
#pragma unroll 1
    for (int index = 0; index < mine; index++) {
        const int stage = team * g.stages + index % g.stages;
        uint32_t a[MATRICES][4][4];
#pragma unroll
        for (int k = 0; k < MATRICES; k++)
#pragma unroll
            for (int step = 0; step < 4; step++)
#pragma unroll
                for (int i = 0; i < 4; i++) a[k][step][i] = packed[k][step / 2][i % 2] >> 2 * (step % 2 * 2 + i / 2) & FIELD;
        barrier_wait(shared_address(&arrived[stage]), index / g.stages & 1);
        products_begin();
#pragma unroll
        for (int step = 0; step < 4; step++)
#pragma unroll
            for (int k = 0; k < MATRICES; k++) product(acc[k], a[k][step], matrix_in_shared(base + stage * ATOM + step * 32));
        products_commit();
        if (index + 1 < mine) read_words(index + 1);
        products_wait<0>();
        if (index + g.stages < mine) {
            if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&consumed[stage])) : "memory");
            if (tid % 128 == 0) {
                barrier_wait(shared_address(&consumed[stage]), index / g.stages & 1);
                fetch(index + g.stages);
            }
            __syncwarp();
        }
    }
    __syncthreads();
    // Each warpgroup leaves its sums; then some lanes add up four rows at a time of one token.
    constexpr int SHARE = TOKENS / SPLIT;  // tokens of a block of the cluster
    constexpr int LANES = THREADS / SHARE < TILE / 4 ? THREADS / SHARE : TILE / 4, EACH = TILE / 4 / LANES;
    const int token = rank * SHARE + tid / LANES, own_row = row0 + tid % LANES * 4;  // and 4 LANES rows further
    const bool there = tid / LANES < SHARE && token < g.m;
    float scale = 1.0f;
    int all = 0;
    float4 old[EACH], weight[EACH];
    if (there) {
        scale = __ldcg(g.token_scales + token), all = __ldcg(g.sums + token);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = own_row + i * LANES * 4;
            if (EPILOGUE == ADD) old[i] = __ldcg(reinterpret_cast<const float4*>(g.out + static_cast<long long>(token) * g.n + row));
            weight[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
            if (EPILOGUE != STORE && g.next_norm) weight[i] = __ldg(reinterpret_cast<const float4*>(g.next_norm + row));
        }
    }
    const int matrix = EPILOGUE == GATE_UP ? 0 : (row0 >= g.bound[0]) + (row0 >= g.bound[1]);
    const float2 factor = __ldg(reinterpret_cast<const float2*>(g.scales) + matrix), up_factor = __ldg(reinterpret_cast<const float2*>(g.scales) + 1);
#pragma unroll
    for (int k = 0; k < MATRICES; k++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                team_sums[((team * MATRICES + k) * TOKENS + j * 8 + 2 * t + e % 2) * PITCH + warp % 4 * 16 + group + e / 2 * 8] = acc[k][j][e];
    __syncthreads();
    static_assert(SPLIT == 1 || (SPLIT == 2 && EACH == 1 && MATRICES == 1), "one exchange of four sums a thread");
    if constexpr (SPLIT > 1) {
        if (tid / LANES < SHARE) {
            const int other = (rank ^ 1) * SHARE + tid / LANES;
            int4 sum = make_int4(0, 0, 0, 0);
#pragma unroll
            for (int of = 0; of < TEAMS; of++) {
                const int4 sums = *reinterpret_cast<const int4*>(team_sums + (of * TOKENS + other) * PITCH + own_row - row0);
                sum.x += sums.x, sum.y += sums.y, sum.z += sums.z, sum.w += sums.w;
            }
            cluster_wait();
            put_remote(shared_of(base + received_at + (tid / LANES * PITCH + own_row - row0) * 4, rank ^ 1), sum);
        } else {
            cluster_wait();
        }
        cluster_sync();
    }
    double squares = 0.0;
    unsigned long long top = 0;
    if (there) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = own_row + i * LANES * 4;
            int dot[MATRICES][4];
#pragma unroll
            for (int k = 0; k < MATRICES; k++) {
                dot[k][0] = dot[k][1] = dot[k][2] = dot[k][3] = -all;
#pragma unroll
                for (int of = 0; of < TEAMS; of++) {
                    const int4 sums = *reinterpret_cast<const int4*>(team_sums + ((of * MATRICES + k) * TOKENS + token) * PITCH + row - row0);
                    dot[k][0] += sums.x, dot[k][1] += sums.y, dot[k][2] += sums.z, dot[k][3] += sums.w;
                }
                if (SPLIT > 1) {
                    const int4 sums = *reinterpret_cast<const int4*>(memory + received_at + ((token - rank * SHARE) * PITCH + row - row0) * 4);
                    dot[k][0] += sums.x, dot[k][1] += sums.y, dot[k][2] += sums.z, dot[k][3] += sums.w;
                }
            }
            float v[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                v[e] = descale(dot[0][e], scale, factor.x, factor.y);
                if (EPILOGUE == GATE_UP) v[e] = activate(g.activation, v[e], descale(dot[MATRICES - 1][e], scale, up_factor.x, up_factor.y));
            }
            if (EPILOGUE == ADD)
                v[0] = __fadd_rn(old[i].x, v[0]), v[1] = __fadd_rn(old[i].y, v[1]), v[2] = __fadd_rn(old[i].z, v[2]), v[3] = __fadd_rn(old[i].w, v[3]);
            *reinterpret_cast<float4*>(g.out + static_cast<long long>(token) * g.n + row) = make_float4(v[0], v[1], v[2], v[3]);
            const float by[4] = {weight[i].x, weight[i].y, weight[i].z, weight[i].w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                squares += static_cast<double>(__fmul_rn(v[e], v[e]));
                const unsigned long long key = static_cast<unsigned long long>(__float_as_uint(fabsf(__fmul_rn(v[e], by[e])))) << 32 | static_cast<uint32_t>(row + e);
                if (key > top) top = key;
            }
        }
    }
    if constexpr (EPILOGUE != STORE) {
#pragma unroll
        for (int step = LANES / 2; step > 0; step /= 2) {
            squares += __shfl_xor_sync(ALL, squares, step);
            const unsigned long long other = __shfl_xor_sync(ALL, top, step);
            if (other > top) top = other;
        }
        if (there && tid % LANES == 0) atomicAdd(&g.after[token].squares, squares), atomicMax(&g.after[token].top, top);
    }
    end_turn(g.turn);
}

#define WIDE_KERNEL(name, nt, epilogue, split)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ StepWide g) {               \
        step_wide<nt, epilogue, split>(g);                                                                            \
    }
WIDE_KERNEL(step_wide_16_store, 2, STORE, 1)
WIDE_KERNEL(step_wide_16_add, 2, ADD, 1)
WIDE_KERNEL(step_wide_16_add_2, 2, ADD, 2)
WIDE_KERNEL(step_wide_16_gate_up, 2, GATE_UP, 1)
WIDE_KERNEL(step_wide_32_store, 4, STORE, 1)
WIDE_KERNEL(step_wide_32_add, 4, ADD, 1)
WIDE_KERNEL(step_wide_32_add_2, 4, ADD, 2)
WIDE_KERNEL(step_wide_32_gate_up, 4, GATE_UP, 1)
WIDE_KERNEL(step_wide_64_store, 8, STORE, 1)
WIDE_KERNEL(step_wide_64_add, 8, ADD, 1)
WIDE_KERNEL(step_wide_64_add_2, 8, ADD, 2)
WIDE_KERNEL(step_wide_64_gate_up, 8, GATE_UP, 1)
