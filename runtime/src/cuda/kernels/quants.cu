// Products with weights as they are in a GGUF file, for types without faster kernels: floats and ternary types are taken to
// f32 where they are read, Q types are multiplied as integers, block by block. Layouts are ggml's, as quant::blocks has
// them.
#include "common.cuh"

enum Type { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30, TQ1_0 = 34, TQ2_0 = 35, I2_S = 36 };

__device__ __forceinline__ float half_at(const uint8_t* p) { return __half2float(*reinterpret_cast<const __half*>(p)); }

// Weight k of a row; `scale` is the tensor's (I2_S).
template <int TYPE> __device__ __forceinline__ float weight_at(const uint8_t* row, int k, float scale) {
    if constexpr (TYPE == F32) return reinterpret_cast<const float*>(row)[k];
    if constexpr (TYPE == F16) return half_at(row + 2 * k);
    if constexpr (TYPE == BF16) return __uint_as_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(row)[k]) << 16);
    if constexpr (TYPE == TQ1_0) {
        const uint8_t* b = row + k / 256 * 54;
        const int e = k % 256;
        const int byte = e < 160 ? e % 32 : e < 240 ? 32 + (e - 160) % 16 : 48 + (e - 240) % 4;
        const int n = e < 160 ? e / 32 : e < 240 ? (e - 160) / 16 : (e - 240) / 4;
        const int pow3 = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
        return half_at(b + 52) * static_cast<float>(((b[byte] * pow3 & 255) * 3 >> 8) - 1);
    }
    if constexpr (TYPE == TQ2_0) {
        const uint8_t* b = row + k / 256 * 66;
        const int e = k % 256;
        return half_at(b + 64) * static_cast<float>((b[e / 128 * 32 + e % 32] >> e % 128 / 32 * 2 & 3) - 1);
    }
    if constexpr (TYPE == I2_S) {
        const int e = k % 128;
        return scale * static_cast<float>((row[k / 128 * 32 + e % 32] >> (6 - e / 32 * 2) & 3) - 1);
    }
    return 0.0f;
}

struct Product {
    const uint8_t* weights;  // [n] rows
    const float* x;          // [m, k]: what the products see of the activations
    float* out;              // [m, stride], from column `column`
    const float* steps;      // [m, blocks] of x, for Q types
    const float* offsets;    // [m, blocks] of x, for Q4_1
    int n, m, k, row_bytes, stride, column, add;
    float tensor_scale, extra;
};

static_assert(sizeof(Product) == 80, "cuda::params has the same");

constexpr int TOKENS = 8;

// Grid (rows / 8, tokens / 8), 256 threads: a warp per weight row, eight tokens.
template <int TYPE> __device__ void product(const Product& p) {
    const int row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32, token0 = blockIdx.y * TOKENS;
    if (row >= p.n) return;
    const uint8_t* w = p.weights + static_cast<long long>(row) * p.row_bytes;
    const int tokens = min(TOKENS, p.m - token0);
    float sum[TOKENS] = {};
    for (int k = lane; k < p.k; k += 32) {
        const float weight = weight_at<TYPE>(w, k, p.tensor_scale);
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
            if (t < tokens) sum[t] = fmaf(weight, p.x[static_cast<long long>(token0 + t) * p.k + k], sum[t]);
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const float value = warp_sum(sum[t]) * p.extra;
        if (t < tokens && lane == 0) {
            float* out = p.out + static_cast<long long>(token0 + t) * p.stride + p.column + row;
            *out = p.add ? *out + value : value;
        }
    }
}

// Q types in the CPU's own order (kernels::arch::all::matmul): eight lanes, lane l with elements 4l..4l+3 of every 32; each block
// adds step * step * (integer sum of the lane) with one rounding. Eight threads are the lanes of one weight row.
template <int TYPE> __device__ void product_blocks(const Product& p) {
    constexpr int LENGTH = TYPE == Q4_K || TYPE == Q6_K ? 256 : 32;
    const int row = blockIdx.x * 32 + threadIdx.x / 8, l = threadIdx.x % 8, token0 = blockIdx.y * TOKENS;
    const int tokens = min(TOKENS, p.m - token0), blocks = p.k / LENGTH;
    const uint8_t* w = p.weights + static_cast<long long>(min(row, p.n - 1)) * p.row_bytes;
    float acc[TOKENS] = {}, minima[TOKENS][TYPE == Q4_K ? 4 : 1] = {};
    for (int block = 0; block < blocks; block++) {
        constexpr int BYTES = TYPE == Q4_0 ? 18 : TYPE == Q4_1 ? 20 : TYPE == Q8_0 ? 34 : TYPE == Q4_K ? 144 : 210;
        const uint8_t* b = w + block * BYTES;
        const float d = TYPE == Q6_K ? half_at(b + 208) : half_at(b);
        for (int t = 0; t < tokens; t++) {
            const long long token = token0 + t;
            const float* a = p.x + token * p.k + block * LENGTH;
            const float step = p.steps[token * blocks + block];
            int sum = 0;
            if constexpr (LENGTH == 32) {
                for (int e = 4 * l; e < 4 * l + 4; e++) {
                    const int q = TYPE == Q8_0 ? static_cast<int8_t>(b[2 + e])
                                               : (b[(TYPE == Q4_0 ? 2 : 4) + e % 16] >> e / 16 * 4 & 15) - (TYPE == Q4_0 ? 8 : 0);
                    sum += q * static_cast<int>(a[e]);
                }
                if (TYPE == Q4_1) minima[t][0] = __fmaf_rn(half_at(b + 2), p.offsets[token * blocks + block], minima[t][0]);
            } else {
                for (int g = 0; g < 8; g++) {
                    const uint8_t* s = b + 4;
                    const int sc = TYPE == Q4_K ? (g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4) : 0;
                    for (int e = 32 * g + 4 * l; e < 32 * g + 4 * l + 4; e++) {
                        int q;
                        if constexpr (TYPE == Q4_K) {
                            q = sc * (b[16 + g / 2 * 32 + e % 32] >> g % 2 * 4 & 15);
                        } else {
                            const int part = e / 128, quarter = e % 128 / 32, i = e % 32;
                            const int low = b[part * 64 + quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
                            q = static_cast<int8_t>(b[192 + e / 16]) * (low | (b[128 + part * 32 + i] >> 2 * quarter & 3) << 4);
                        }
                        sum += q * static_cast<int>(a[e]);
                    }
                }
                auto total = [&](int first, int count) {
                    int all = 0;
                    for (int e = first; e < first + count; e++) all += static_cast<int>(a[e]);
                    return all;
                };
                if constexpr (TYPE == Q4_K) {
                    const uint8_t* s = b + 4;
                    const float low = __fmul_rn(-step, half_at(b + 2));
                    for (int i = 0; i < 4; i++) {
                        int term = 0;
                        for (int g = 2 * i; g < 2 * i + 2; g++) {
                            const int m = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
                            term += m * total(32 * g, 32);
                        }
                        minima[t][i] = __fmaf_rn(low, static_cast<float>(term), minima[t][i]);
                    }
                } else {
                    for (int g = 2 * l; g < 2 * l + 2; g++) sum -= 32 * static_cast<int8_t>(b[192 + g]) * total(16 * g, 16);
                }
            }
            const float scale = TYPE == Q4_K || TYPE == Q6_K ? __fmul_rn(step, d) : __fmul_rn(d, step);
            acc[t] = __fmaf_rn(scale, static_cast<float>(sum), acc[t]);
        }
    }
    for (int t = 0; t < tokens; t++) {
        float value = acc[t];
        for (int step = 4; step > 0; step /= 2) value = __fadd_rn(value, __shfl_xor_sync(ALL, value, step));
        if (TYPE == Q4_1) value = __fadd_rn(value, minima[t][0]);
        if constexpr (TYPE == Q4_K)
            value = __fadd_rn(value, __fadd_rn(__fadd_rn(minima[t][0], minima[t][2]), __fadd_rn(minima[t][1], minima[t][3])));
        value = __fmul_rn(value, p.extra);
        if (row < p.n && l == 0) {
            float* out = p.out + static_cast<long long>(token0 + t) * p.stride + p.column + row;
            *out = p.add ? __fadd_rn(*out, value) : value;
        }
    }
}

#define BLOCKS_KERNEL(name, type)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Product p) { product_blocks<type>(p); }
BLOCKS_KERNEL(product_q4_0, Q4_0)
BLOCKS_KERNEL(product_q4_1, Q4_1)
BLOCKS_KERNEL(product_q8_0, Q8_0)
BLOCKS_KERNEL(product_q4_k, Q4_K)
BLOCKS_KERNEL(product_q6_k, Q6_K)

#define PRODUCT_KERNEL(name, type)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Product p) { product<type>(p); }
PRODUCT_KERNEL(product_f32, F32)
PRODUCT_KERNEL(product_f16, F16)
PRODUCT_KERNEL(product_bf16, BF16)
PRODUCT_KERNEL(product_tq1_0, TQ1_0)
PRODUCT_KERNEL(product_tq2_0, TQ2_0)
PRODUCT_KERNEL(product_i2_s, I2_S)
