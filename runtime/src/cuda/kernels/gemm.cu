// Ternary matrix products of many activation rows: out[m, n] = dot(weights[n], activations[m]), exact in int32, then
// descaled. `gemm_tile` is for prefill (tiles of 128 by 128 or 64), `gemm_skinny` for batches of up to 64 rows.
//
// Weights are unpacked from 2 bits in registers, right before m16n8k32 int8 tensor-core products. Activations are
// int8 [m, k] with a scale and a sum per row (rows.cu). K is a multiple of 64; N and M are any.
//
// Word t of a group of 64 weights has the codes of elements 16t + 4c + b (common.cuh). In a product's step, thread t of a
// row takes field c of its word against four activations, so these lie at 16c + 4t + b of their group of 64: four
// threads then read 16 bytes in a row.
#include "common.cuh"

// What becomes of a result.
enum Epilogue { STORE = 0, ADD = 1, GATE_UP = 2 };

struct Gemm {
    const uint8_t* weights;      // [n, k] packed; GATE_UP: [2n, k], gate rows, then up rows
    const int8_t* activations;   // [m, k]
    const float* token_scales;   // [m]
    const int* sums;             // [m]
    const float* scales;         // pairs (tensor scale, separate scale) of up to three matrices, one after the other
    float* out;                  // [m, n]
    int n, m, k;
    int bound[2];                // first rows of the second and the third matrix
    int activation;
};

static_assert(sizeof(Gemm) == 72, "cuda::params has the same");

__device__ __forceinline__ int which_matrix(const Gemm& g, int row) { return (row >= g.bound[0]) + (row >= g.bound[1]); }

template <int EPILOGUE>
__device__ __forceinline__ void finish(const Gemm& g, int row, int token, int dot, int up) {
    if (row >= g.n || token >= g.m) return;
    const float scale = g.token_scales[token];
    const int sum = g.sums[token];
    float* out = g.out + static_cast<long long>(token) * g.n + row;
    if constexpr (EPILOGUE == GATE_UP) {
        *out = activate(g.activation, descale(dot - sum, scale, g.scales[0], g.scales[1]),
                        descale(up - sum, scale, g.scales[2], g.scales[3]));
    } else {
        const float* s = g.scales + 2 * which_matrix(g, row);
        const float value = descale(dot - sum, scale, s[0], s[1]);
        *out = EPILOGUE == ADD ? *out + value : value;
    }
}

constexpr int TILE_N = 128, TILE_K = 128, STAGES = 4, TILE_THREADS = 256;

template <int TILE_M, int EPILOGUE>
__device__ void gemm_tile(const Gemm& g) {
    constexpr int W_BYTES = TILE_N * TILE_K / 4, A_BYTES = TILE_M * TILE_K, STAGE = W_BYTES + A_BYTES;
    constexpr int NT = TILE_M / 16;  // groups of eight tokens per warp; two warps share the tokens
    extern __shared__ __align__(128) uint8_t memory[];
    const uint32_t base = shared_address(memory);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int group = lane / 4, t = lane % 4;
    constexpr int ROWS = EPILOGUE == GATE_UP ? TILE_N / 2 : TILE_N;  // rows of the result
    const int row0 = blockIdx.x * ROWS, token0 = blockIdx.y * TILE_M;
    const int steps = (g.k + TILE_K - 1) / TILE_K, k4 = g.k / 4;

    auto load = [&](int step) {
        const uint32_t to = base + step % STAGES * STAGE;
        {   // 128 rows of two chunks of 16 bytes (64 weights each)
            const int r = tid / 2, chunk = tid % 2;
            const int row = row0 + r % ROWS;
            const long long at = static_cast<long long>(row + (r >= ROWS ? g.n : 0)) * k4 + step * 32 + chunk * 16;
            const bool valid = row < g.n && step * TILE_K + chunk * 64 < g.k;
            copy_16(to + r * 32 + (chunk ^ (r / 4 & 1)) * 16, g.weights + (valid ? at : 0), valid);
        }
#pragma unroll
        for (int i = 0; i < TILE_M * 8 / TILE_THREADS; i++) {
            const int index = tid + i * TILE_THREADS, r = index / 8, chunk = index % 8;
            const bool valid = token0 + r < g.m && step * TILE_K + chunk * 16 < g.k;
            const long long at = static_cast<long long>(token0 + r) * g.k + step * TILE_K + chunk * 16;
            copy_16(to + W_BYTES + r * TILE_K + (chunk ^ (r & 7)) * 16, g.activations + (valid ? at : 0), valid);
        }
    };

    int acc[2][NT][4] = {};
    const int warp_row = warp / 2, warp_token = warp % 2 * (TILE_M / 2);
    // Rows of the two m-tiles of a warp: 32 in a row, or 16 of gate and the same 16 of up.
    const int first_row[2] = {EPILOGUE == GATE_UP ? warp_row * 16 : warp_row * 32,
                              EPILOGUE == GATE_UP ? ROWS + warp_row * 16 : warp_row * 32 + 16};
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) {
        if (i < steps) load(i);
        copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load(step + STAGES - 1);
        copy_commit();
        const uint8_t* w = memory + step % STAGES * STAGE;
        const uint32_t a = base + step % STAGES * STAGE + W_BYTES;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t words[2][2];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int r = first_row[i] + group + 8 * j;
                    words[i][j] = *reinterpret_cast<const uint32_t*>(w + r * 32 + (half ^ (r / 4 & 1)) * 16 + t * 4);
                }
            const Unpacked u0(words[0][0], words[0][1]), u1(words[1][0], words[1][1]);
#pragma unroll
            for (int nt = 0; nt < NT; nt++) {
                // Matrices 0..3: the four chunks of 16 bytes of this half, eight tokens each.
                const int r = warp_token + nt * 8 + lane % 8, chunk = half * 4 + lane / 8;
                uint32_t b[4];
                load_matrix_x4(b, a + r * TILE_K + (chunk ^ (r & 7)) * 16);
                mma_s8(acc[0][nt], u0.a[0], u0.a8[0], u0.a[1], u0.a8[1], b[0], b[1]);
                mma_s8(acc[1][nt], u1.a[0], u1.a8[0], u1.a[1], u1.a8[1], b[0], b[1]);
                mma_s8(acc[0][nt], u0.a[2], u0.a8[2], u0.a[3], u0.a8[3], b[2], b[3]);
                mma_s8(acc[1][nt], u1.a[2], u1.a8[2], u1.a[3], u1.a8[3], b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int nt = 0; nt < NT; nt++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = token0 + warp_token + nt * 8 + t * 2 + e % 2, r = group + e / 2 * 8;
            if constexpr (EPILOGUE == GATE_UP) {
                finish<EPILOGUE>(g, row0 + first_row[0] + r, token, acc[0][nt][e], acc[1][nt][e]);
            } else {
                finish<EPILOGUE>(g, row0 + first_row[0] + r, token, acc[0][nt][e], 0);
                finish<EPILOGUE>(g, row0 + first_row[1] + r, token, acc[1][nt][e], 0);
            }
        }
}

#define TILE_KERNEL(name, m, epilogue)                                                                                 \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS, 2) name(const __grid_constant__ Gemm g) {               \
        gemm_tile<m, epilogue>(g);                                                                                     \
    }
TILE_KERNEL(gemm_tile_128_store, 128, STORE)
TILE_KERNEL(gemm_tile_128_add, 128, ADD)
TILE_KERNEL(gemm_tile_128_gate_up, 128, GATE_UP)
TILE_KERNEL(gemm_tile_64_store, 64, STORE)
TILE_KERNEL(gemm_tile_64_add, 64, ADD)
TILE_KERNEL(gemm_tile_64_gate_up, 64, GATE_UP)

// Up to 8 * NT tokens. A block has RT tiles of 16 rows (GATE_UP: as many of gate and of up) and eight warps, each with
// an eighth of K; partial sums meet in shared memory. A lane reads 16 bytes of weights at a time, four words of one
// group of 64, where a step of the product wants one word of four groups: the order of k is the lane's own, and
// activations are read in the same order.
constexpr int SKINNY_THREADS = 256, SKINNY_WARPS = 8;

template <int NT, int RT, int EPILOGUE>
__device__ void gemm_skinny(const Gemm& g) {
    constexpr int TILES = EPILOGUE == GATE_UP ? 2 * RT : RT;
    extern __shared__ __align__(128) uint8_t memory[];
    int* partial = reinterpret_cast<int*>(memory);  // [TILES * NT, 128, SKINNY_WARPS + 1]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const int row0 = blockIdx.x * RT * 16, token0 = blockIdx.y * NT * 8, k4 = g.k / 4;
    int acc[TILES][NT][4] = {};
    const int groups = g.k / 64, chunks = (groups + 3) / 4;  // a chunk: four groups, one per t
    for (int chunk = warp; chunk < chunks; chunk += SKINNY_WARPS) {
        const int k64 = chunk * 4 + t;
        const bool inside = k64 < groups;
        uint4 w[TILES][2];
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = row0 + i % RT * 16 + group + 8 * j;
                const long long at = static_cast<long long>(row + (i >= RT ? g.n : 0)) * k4 + k64 * 16;
                w[i][j] = inside && row < g.n ? load_once(g.weights + at) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int nt = 0; nt < NT; nt++) {
            const int token = token0 + nt * 8 + group;
            uint4 b[4];
            const int8_t* from = g.activations + static_cast<long long>(token) * g.k + k64 * 64;
#pragma unroll
            for (int c = 0; c < 4; c++)
                b[c] = inside && token < g.m ? *reinterpret_cast<const uint4*>(from + 16 * c) : make_uint4(0, 0, 0, 0);
            const uint32_t* bw = reinterpret_cast<const uint32_t*>(b);
#pragma unroll
            for (int word = 0; word < 4; word++)
#pragma unroll
                for (int i = 0; i < TILES; i++) {
                    const uint32_t* w0 = reinterpret_cast<const uint32_t*>(&w[i][0]);
                    const uint32_t* w8 = reinterpret_cast<const uint32_t*>(&w[i][1]);
                    const Unpacked u(w0[word], w8[word]);
                    mma_s8(acc[i][nt], u.a[0], u.a8[0], u.a[1], u.a8[1], bw[word], bw[4 + word]);
                    mma_s8(acc[i][nt], u.a[2], u.a8[2], u.a[3], u.a8[3], bw[8 + word], bw[12 + word]);
                }
        }
    }
    constexpr int STRIDE = SKINNY_WARPS + 1;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int nt = 0; nt < NT; nt++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                partial[((i * NT + nt) * 128 + e * 32 + lane) * STRIDE + warp] = acc[i][nt][e];
    __syncthreads();
    for (int index = threadIdx.x; index < RT * NT * 128; index += SKINNY_THREADS) {
        const int tile = index / 128, e = index / 32 % 4, from = index % 32;
        int dot = 0, up = 0;
#pragma unroll
        for (int i = 0; i < SKINNY_WARPS; i++) {
            dot += partial[index * STRIDE + i];
            if constexpr (EPILOGUE == GATE_UP) up += partial[(index + RT * NT * 128) * STRIDE + i];
        }
        const int row = row0 + tile / NT * 16 + from / 4 + e / 2 * 8;
        finish<EPILOGUE>(g, row, token0 + tile % NT * 8 + from % 4 * 2 + e % 2, dot, up);
    }
}

#define SKINNY_KERNEL(name, nt, rt, epilogue)                                                                          \
    extern "C" __global__ void __launch_bounds__(SKINNY_THREADS) name(const __grid_constant__ Gemm g) {                \
        gemm_skinny<nt, rt, epilogue>(g);                                                                              \
    }
SKINNY_KERNEL(gemm_skinny_8_store, 1, 1, STORE)
SKINNY_KERNEL(gemm_skinny_8_add, 1, 1, ADD)
SKINNY_KERNEL(gemm_skinny_8_gate_up, 1, 1, GATE_UP)
SKINNY_KERNEL(gemm_skinny_32_store, 4, 1, STORE)
SKINNY_KERNEL(gemm_skinny_32_add, 4, 1, ADD)
SKINNY_KERNEL(gemm_skinny_32_gate_up, 4, 1, GATE_UP)
SKINNY_KERNEL(gemm_skinny_32x2_store, 4, 2, STORE)
SKINNY_KERNEL(gemm_skinny_32x2_add, 4, 2, ADD)
SKINNY_KERNEL(gemm_skinny_32x2_gate_up, 4, 2, GATE_UP)
