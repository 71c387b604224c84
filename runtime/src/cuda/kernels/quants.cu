// Products with weights in any type of a GGUF file: each weight is taken to f32 where it is read. For types without
// kernels of their own; block layouts are ggml's, as quant::blocks has them.
#include "common.cuh"

enum Type { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, Q4_K = 12, Q6_K = 14, BF16 = 30, TQ1_0 = 34, TQ2_0 = 35, I2_S = 36 };

__device__ __forceinline__ float half_at(const uint8_t* p) { return __half2float(*reinterpret_cast<const __half*>(p)); }

// Weight k of a row; `scale` is the tensor's (I2_S).
template <int TYPE> __device__ __forceinline__ float weight_at(const uint8_t* row, int k, float scale) {
    if constexpr (TYPE == F32) return reinterpret_cast<const float*>(row)[k];
    if constexpr (TYPE == F16) return half_at(row + 2 * k);
    if constexpr (TYPE == BF16) return __uint_as_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(row)[k]) << 16);
    if constexpr (TYPE == Q4_0) {
        const uint8_t* b = row + k / 32 * 18;
        const int e = k % 32, q = b[2 + e % 16] >> e / 16 * 4 & 15;
        return half_at(b) * static_cast<float>(q - 8);
    }
    if constexpr (TYPE == Q4_1) {
        const uint8_t* b = row + k / 32 * 20;
        const int e = k % 32, q = b[4 + e % 16] >> e / 16 * 4 & 15;
        return fmaf(half_at(b), static_cast<float>(q), half_at(b + 2));
    }
    if constexpr (TYPE == Q8_0) {
        const uint8_t* b = row + k / 32 * 34;
        return half_at(b) * static_cast<float>(static_cast<int8_t>(b[2 + k % 32]));
    }
    if constexpr (TYPE == Q4_K) {
        const uint8_t* b = row + k / 256 * 144;
        const uint8_t* s = b + 4;
        const int g = k % 256 / 32, e = k % 32, q = b[16 + g / 2 * 32 + e] >> g % 2 * 4 & 15;
        const int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
        const int m = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
        return half_at(b) * static_cast<float>(sc * q) - half_at(b + 2) * static_cast<float>(m);
    }
    if constexpr (TYPE == Q6_K) {
        const uint8_t* b = row + k / 256 * 210;
        const int part = k % 256 / 128, quarter = k % 128 / 32, l = k % 32;
        const int low = b[part * 64 + quarter % 2 * 32 + l] >> quarter / 2 * 4 & 15;
        const int high = b[128 + part * 32 + l] >> 2 * quarter & 3;
        const int sc = static_cast<int8_t>(b[192 + part * 8 + l / 16 + quarter * 2]);
        return half_at(b + 208) * static_cast<float>(sc * ((low | high << 4) - 32));
    }
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
    int n, m, k, row_bytes, stride, column, add;
    float tensor_scale, extra;
};

static_assert(sizeof(Product) == 64, "cuda::params has the same");

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

#define PRODUCT_KERNEL(name, type)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) name(const __grid_constant__ Product p) { product<type>(p); }
PRODUCT_KERNEL(product_f32, F32)
PRODUCT_KERNEL(product_f16, F16)
PRODUCT_KERNEL(product_bf16, BF16)
PRODUCT_KERNEL(product_q4_0, Q4_0)
PRODUCT_KERNEL(product_q4_1, Q4_1)
PRODUCT_KERNEL(product_q8_0, Q8_0)
PRODUCT_KERNEL(product_q4_k, Q4_K)
PRODUCT_KERNEL(product_q6_k, Q6_K)
PRODUCT_KERNEL(product_tq1_0, TQ1_0)
PRODUCT_KERNEL(product_tq2_0, TQ2_0)
PRODUCT_KERNEL(product_i2_s, I2_S)
