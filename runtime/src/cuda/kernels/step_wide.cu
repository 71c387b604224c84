// Ternary products of a decoding step of 9 to 64 rows: step_quantize normalises and quantizes the rows once and leaves them
// in the order of shared memory, then a block multiplies 64 weight rows (of gate and of up) with all of them.
//
// The weights of a block are copied to shared memory before the kernel in front is done; activations come in blocks of 128
// columns by bulk copies. Four warpgroups (wgmma, int8) take a block of columns in turn, unpack weights into registers on
// the way, and add up what they have at the end. Results are exact in int32 and rounded as on the CPU. sm_90a alone.
#include "exchange.cuh"
#include "step.cuh"

enum Epilogue { STORE = 0, ADD = 1, GATE_UP = 2 };

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
    int n, m, k, rows;        // rows of x that the kernel is made for
    int bound[2];             // first rows of the second and the third matrix
    int activation, stages;   // blocks of columns in shared memory, of each warpgroup
    float eps;
    int spare;
};

static_assert(sizeof(StepWide) == 152, "cuda::params has the same");

constexpr int QUANTIZE_THREADS = 512;

// Grid (rows of x), of up to 8192 columns.
extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS) step_quantize(const __grid_constant__ StepWide g) {
    __shared__ int partial[QUANTIZE_THREADS / 32];
    const int token = blockIdx.x, tid = threadIdx.x, quads = g.k / 4;
    begin_turn(g.turn);
    float4 w[4], x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int quad = tid + QUANTIZE_THREADS * i;
        w[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        if (g.norm && quad < quads) w[i] = __ldg(reinterpret_cast<const float4*>(g.norm) + quad);
    }
    wait_turn(g.turn);
    const float4* from = reinterpret_cast<const float4*>(g.x) + static_cast<long long>(token) * quads;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (tid + QUANTIZE_THREADS * i < quads) x[i] = __ldcg(from + tid + QUANTIZE_THREADS * i);
    const float2 how = norm_and_scale(g.before, g.x, g.norm, token, g.k, g.eps);
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int quad = tid + QUANTIZE_THREADS * i;
        if (quad < quads)
            *reinterpret_cast<uint32_t*>(g.quants + (quad / 32 * g.rows + token) * 128 + place_of_quad(quad, token)) =
                quantize_four(x[i], w[i], how, sum);
    }
    sum = __reduce_add_sync(ALL, sum);
    if (tid % 32 == 0) partial[tid / 32] = sum;
    __syncthreads();
    if (tid == 0) {
        for (int i = 1; i < QUANTIZE_THREADS / 32; i++) sum += partial[i];
        g.sums[token] = sum, g.token_scales[token] = how.y;
    }
    end_turn(g.turn);
}

constexpr int THREADS = 512, TEAMS = 4, TILE = 64, MAX_STAGES = 16;

template <int NT, int EPILOGUE> __device__ __forceinline__ void step_wide(const StepWide& g) {
    constexpr int TOKENS = 8 * NT, MATRICES = EPILOGUE == GATE_UP ? 2 : 1, OWN = (NT + TEAMS - 1) / TEAMS, ATOM = TOKENS * 128;
    extern __shared__ __align__(1024) uint8_t memory[];
    // Of each stage: its activations are there; its four warps have multiplied with them.
    __shared__ __align__(8) uint64_t arrived[TEAMS * MAX_STAGES], consumed[TEAMS * MAX_STAGES];
    __shared__ unsigned long long tops[THREADS / 32][2 * OWN][4];
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, group = lane / 4, t = lane % 4, team = tid / 128;
    const int row0 = blockIdx.x * TILE, stride = g.k / 4 + (g.k / 64 % 2 ? 0 : 16), atoms = (g.k + 127) / 128;
    const int words_at = TEAMS * g.stages * ATOM;
    const uint32_t base = shared_address(memory);
    int* team_sums = reinterpret_cast<int*>(memory);  // after the products: [TEAMS, MATRICES, NT * 4, 128]

    begin_turn(g.turn);
    if (tid < TEAMS * g.stages) {
        barrier_init(shared_address(&arrived[tid]));
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 4;" ::"r"(shared_address(&consumed[tid])) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    const int pieces = g.k / 64;  // of 16 bytes in a row
    for (int r = warp; r < MATRICES * TILE; r += THREADS / 32) {
        const int row = row0 + r % TILE;
        const uint8_t* from = g.weights + static_cast<long long>(row < g.n ? row + r / TILE * g.n : 0) * (g.k / 4);
        for (int i = lane; i < pieces; i += 32) copy_16(base + words_at + r * stride + i * 16, from + i * 16, row < g.n);
    }
    copy_commit();
    copy_wait<0>();
    wait_turn(g.turn);
    // Warpgroup `team` has atoms team, team + TEAMS, ...
    const int mine = atoms > team ? (atoms - team + TEAMS - 1) / TEAMS : 0;
    auto fetch = [&](int index) {
        const uint32_t barrier = shared_address(&arrived[team * g.stages + index % g.stages]);
        barrier_expect(barrier, ATOM);
        bulk_copy(base + (team * g.stages + index % g.stages) * ATOM, g.quants + static_cast<long long>(TEAMS * index + team) * ATOM, ATOM,
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
                const int piece = 2 * (TEAMS * index + team) + i;
                const uint8_t* from = words + k * TILE * stride + min(piece, pieces - 1) * 16;
                // Past the end weights are zero, and so are products.
                packed[k][i][0] = piece < pieces ? *reinterpret_cast<const uint32_t*>(from) : 0;
                packed[k][i][1] = piece < pieces ? *reinterpret_cast<const uint32_t*>(from + 8 * stride) : 0;
            }
    };
    read_words(0);
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
    // What is needed besides, on its way meanwhile.
    float scale[OWN][2], old[OWN][4];
    int all[OWN][2];
#pragma unroll
    for (int j = 0; j < OWN; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = min((team + TEAMS * j) * 8 + 2 * t + e % 2, g.m - 1), row = min(row0 + warp % 4 * 16 + group + e / 2 * 8, g.n - 1);
            if (e < 2) scale[j][e] = __ldcg(g.token_scales + token), all[j][e] = __ldcg(g.sums + token);
            if (EPILOGUE == ADD) old[j][e] = __ldcg(g.out + static_cast<long long>(token) * g.n + row);
        }
    float2 factors[2];
    float weight[2];
#pragma unroll
    for (int below = 0; below < 2; below++) {
        const int row = min(row0 + warp % 4 * 16 + group + 8 * below, g.n - 1);
        factors[below] = __ldg(reinterpret_cast<const float2*>(g.scales) + (EPILOGUE == GATE_UP ? below : (row >= g.bound[0]) + (row >= g.bound[1])));
        weight[below] = EPILOGUE != STORE && g.next_norm ? __ldg(g.next_norm + row) : 1.0f;
    }
    // Each warpgroup leaves its sums, and adds up those of some tokens.
#pragma unroll
    for (int k = 0; k < MATRICES; k++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) team_sums[((team * MATRICES + k) * NT * 4 + j * 4 + e) * 128 + tid % 128] = acc[k][j][e];
    __syncthreads();
    constexpr int N = 2 * OWN;  // tokens of a thread
    double sum[N];
    unsigned long long top[N];
#pragma unroll
    for (int j = 0; j < OWN; j++)
#pragma unroll
        for (int odd = 0; odd < 2; odd++) {
            const int tokens = team + TEAMS * j, token = tokens * 8 + 2 * t + odd;
            double s = 0.0;
            unsigned long long best = 0;
#pragma unroll
            for (int below = 0; below < 2; below++) {
                const int e = odd + 2 * below, row = row0 + warp % 4 * 16 + group + 8 * below;
                if (token < g.m && row < g.n) {
                    auto dot = [&](int k) {
                        int sum = -all[j][odd];
#pragma unroll
                        for (int i = 0; i < TEAMS; i++) sum += team_sums[((i * MATRICES + k) * NT * 4 + tokens * 4 + e) * 128 + tid % 128];
                        return sum;
                    };
                    const float2 factor = factors[EPILOGUE == GATE_UP ? 0 : below];
                    float v = descale(dot(0), scale[j][odd], factor.x, factor.y);
                    if (EPILOGUE == GATE_UP)
                        v = activate(g.activation, v, descale(dot(MATRICES - 1), scale[j][odd], factors[1].x, factors[1].y));
                    if (EPILOGUE == ADD) v = __fadd_rn(old[j][e], v);
                    g.out[static_cast<long long>(token) * g.n + row] = v;
                    if (EPILOGUE != STORE) {
                        s += static_cast<double>(__fmul_rn(v, v));
                        const unsigned long long key = static_cast<unsigned long long>(__float_as_uint(fabsf(__fmul_rn(v, weight[below])))) << 32 | static_cast<uint32_t>(row);
                        if (key > best) best = key;
                    }
                }
            }
            sum[j * 2 + odd] = s, top[j * 2 + odd] = best;
        }
    if constexpr (EPILOGUE != STORE) {
        // Over the eight lanes that have rows of the same tokens, then over the four warps.
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int step = 4; step < 32; step *= 2) {
                sum[i] += __shfl_xor_sync(ALL, sum[i], step);
                const unsigned long long other = __shfl_xor_sync(ALL, top[i], step);
                if (other > top[i]) top[i] = other;
            }
        __shared__ double by_warp[THREADS / 32][N][4];
        if (group == 0)
#pragma unroll
            for (int i = 0; i < N; i++) by_warp[warp][i][t] = sum[i], tops[warp][i][t] = top[i];
        __syncthreads();
        if (tid < TOKENS && tid < g.m) {
            const int of = tid / 8 % TEAMS, i = tid / 8 / TEAMS * 2 + tid % 2, at = tid % 8 / 2;
            double s = 0.0;
            unsigned long long best = 0;
            for (int w = 4 * of; w < 4 * of + 4; w++) s += by_warp[w][i][at], best = tops[w][i][at] > best ? tops[w][i][at] : best;
            atomicAdd(&g.after[tid].squares, s);
            atomicMax(&g.after[tid].top, best);
        }
    }
    end_turn(g.turn);
}

#define WIDE_KERNEL(name, nt, epilogue)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ StepWide g) {               \
        step_wide<nt, epilogue>(g);                                                                                   \
    }
WIDE_KERNEL(step_wide_16_store, 2, STORE)
WIDE_KERNEL(step_wide_16_add, 2, ADD)
WIDE_KERNEL(step_wide_16_gate_up, 2, GATE_UP)
WIDE_KERNEL(step_wide_32_store, 4, STORE)
WIDE_KERNEL(step_wide_32_add, 4, ADD)
WIDE_KERNEL(step_wide_32_gate_up, 4, GATE_UP)
WIDE_KERNEL(step_wide_64_store, 8, STORE)
WIDE_KERNEL(step_wide_64_add, 8, ADD)
WIDE_KERNEL(step_wide_64_gate_up, 8, GATE_UP)
