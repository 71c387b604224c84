// Kernels over whole rows: embedding, norms with quantization, the head, the choice of a token.
#include "head.cuh"

// Grid (rows): hidden[row] = embedding[token[row]].
extern "C" __global__ void embed(const __half* embedding, const int* tokens, float* hidden, int width) {
    const __half* from = embedding + static_cast<long long>(tokens[blockIdx.x]) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        hidden[static_cast<long long>(blockIdx.x) * width + i] = __half2float(from[i]);
}

// Over the block, by every thread; `red` has a place per warp, at most 32.
template <typename T, typename Join> __device__ T block_all(T v, T* red, Join join) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = join(v, __shfl_xor_sync(ALL, v, step));
    if (threadIdx.x % 32 == 0) red[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? red[threadIdx.x % 32] : T(0);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v = join(v, __shfl_xor_sync(ALL, v, step));
    return v;
}

// What a normalised row becomes: as quant::activation has it.
enum Packing { PLAIN = 0, I8_TOKEN = 1, F16_ROW = 2, BF16_ROW = 3, I8_VALUES = 4, Q8_0_ROW = 5, Q8_K_ROW = 6 };

struct NormRow {
    const float* x;       // [m, width]
    const float* weight;  // [width]; null for no norm
    int8_t* quants;       // [m, width] for I8_TOKEN; of each 64, element 16t + 4c + b lies at 16c + 4t + b (gemm.cu)
    float* scales;        // [m], or [m, blocks] of Q8 blocks
    int* sums;            // [m]
    float* values;        // [m, width] for the other packings: the values that a product sees, or the quants of Q8 blocks
    float* offsets;       // [m, blocks] of Q8_1
    int width, packing;
    float eps;
    int slice;            // 0, or the row lies in slices of so many columns, [slices, m, columns of the slice]
};

// Element i of row blockIdx.x. Slices are what the ranks of a team gathered; the last one may have fewer columns.
__device__ __forceinline__ float gathered(const NormRow& p, int i) {
    if (!p.slice) return p.x[static_cast<long long>(blockIdx.x) * p.width + i];
    const int rank = i / p.slice, columns = min(p.slice, p.width - rank * p.slice);
    return p.x[static_cast<long long>(rank) * gridDim.x * p.slice + static_cast<long long>(blockIdx.x) * columns + i - rank * p.slice];
}

static_assert(sizeof(NormRow) == 72, "cuda::params has the same");

// Grid (rows), 256 to 1024 threads; the row is kept in dynamic shared memory between the passes. Squares are summed in f64 and
// everything is rounded as on the CPU, so that quants are the same.
extern "C" __global__ void __launch_bounds__(1024) norm_row(const __grid_constant__ NormRow p) {
    extern __shared__ __align__(16) float row[];
    __shared__ float red[32];
    __shared__ double wide[32];
    double squares = 0.0;
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) row[i] = gathered(p, i), squares += static_cast<double>(__fmul_rn(row[i], row[i]));
    float inverse = 1.0f;
    if (p.weight) {
        const float mean = static_cast<float>(block_all(squares, wide, [](double a, double b) { return a + b; }) / p.width);
        inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, p.eps)));
    }
    float largest = 0.0f;
    for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
        row[i] = p.weight ? __fmul_rn(__fmul_rn(row[i], inverse), p.weight[i]) : row[i];
        largest = fmaxf(largest, fabsf(row[i]));
    }
    if (p.packing == I8_TOKEN) {
        const float scale = token_scale(block_all(largest, red, [](float a, float b) { return fmaxf(a, b); }));
        int8_t* out = p.quants + static_cast<long long>(blockIdx.x) * p.width;
        int sum = 0;
        for (int i = threadIdx.x * 4; i < p.width; i += blockDim.x * 4) {
            uint32_t word = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int q = quantize(row[i + j], scale);
                sum += q, word |= (q & 255u) << 8 * j;
            }
            *reinterpret_cast<uint32_t*>(out + i / 64 * 64 + i / 4 % 4 * 16 + i / 16 % 4 * 4) = word;
        }
        sum = __reduce_add_sync(ALL, sum);
        __shared__ int sums[32];
        if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < blockDim.x / 32; i++) sum += sums[i];
            p.scales[blockIdx.x] = scale, p.sums[blockIdx.x] = sum;
        }
        return;
    }
    if (p.packing == I8_VALUES) largest = block_all(largest, red, [](float a, float b) { return fmaxf(a, b); });
    __syncthreads();
    float* out = p.values + static_cast<long long>(blockIdx.x) * p.width;
    if (p.packing == I8_VALUES) {
        const float scale = token_scale(largest);
        for (int i = threadIdx.x; i < p.width; i += blockDim.x) out[i] = __fdiv_rn(static_cast<float>(quantize(row[i], scale)), scale);
        return;
    }
    if (p.packing < Q8_0_ROW) {
        for (int i = threadIdx.x; i < p.width; i += blockDim.x) {
            uint32_t bits = __float_as_uint(row[i]);
            bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
            out[i] = p.packing == F16_ROW ? round_half(row[i]) : p.packing == BF16_ROW ? __uint_as_float(bits) : row[i];
        }
        return;
    }
    // A warp per block of 32 or 256, as Q8_0, Q8_1 or Q8_K: quants (kept as f32), the step of the block, and for Q8_1 the
    // rounded product of the step and their sum.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, length = p.packing == Q8_K_ROW ? 256 : 32;
    const int blocks = p.width / length;
    for (int block = warp; block < blocks; block += blockDim.x / 32) {
        const float* from = row + block * length;
        float most = 0.0f;
        for (int i = lane; i < length; i += 32) most = fmaxf(most, fabsf(from[i]));
        most = warp_max_positive(most);
        float multiplier = most > 0.0f ? __fdiv_rn(127.0f, most) : 0.0f, step = __fdiv_rn(most, 127.0f);
        if (!isfinite(multiplier)) multiplier = 0.0f;
        if (p.packing == Q8_K_ROW) {
            // The first entry of largest magnitude becomes -127.
            int first = length;
            for (int i = lane; i < length; i += 32)
                if (fabsf(from[i]) == most) first = min(first, i);
            first = __reduce_min_sync(ALL, first);
            multiplier = __fdiv_rn(-127.0f, from[first]);
            step = isfinite(multiplier) ? __fdiv_rn(1.0f, multiplier) : 0.0f;
            if (!isfinite(multiplier)) multiplier = 0.0f;
        }
        int sum = 0;
        for (int i = lane; i < length; i += 32) {
            // A product, then a sum: two roundings, as the CPU has them.
            const float scaled = __fmul_rn(from[i], multiplier);
            int q = (__float_as_int(__fadd_rn(scaled, 12582912.0f)) & 0x007fffff) - 0x00400000;
            q = min(q, 127);
            out[block * length + i] = static_cast<float>(q);
            sum += q;
        }
        sum = __reduce_add_sync(ALL, sum);
        if (lane == 0) {
            const long long at = static_cast<long long>(blockIdx.x) * blocks + block;
            p.scales[at] = p.packing == Q8_K_ROW ? step : round_half(step);
            if (p.offsets) p.offsets[at] = round_half(__fmul_rn(step, static_cast<float>(sum)));
        }
    }
}

// Grid (rows of the head / 64), 256 threads: the compact copy of a head of half floats, see head.cuh.
extern "C" __global__ void compact_head(const __half* head, int8_t* compact, float4* facts, int rows, int k) {
    const int lane = threadIdx.x % 32;
    for (int row = blockIdx.x * 64 + threadIdx.x / 32; row < min(rows, (blockIdx.x + 1) * 64); row += 8) {
        const __half* w = head + static_cast<long long>(row) * k;
        float largest = 0.0f;
        for (int i = lane; i < k; i += 32) largest = fmaxf(largest, fabsf(__half2float(w[i])));
        largest = warp_max_positive(largest);
        const float scale = largest / 127.0f, inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        float norm = 0.0f, error = 0.0f;
        for (int i = lane; i < k; i += 32) {
            const float v = __half2float(w[i]);
            const int q = max(-127, min(127, __float2int_rn(v * inverse)));
            compact[static_cast<long long>(row) * k + i] = static_cast<int8_t>(q);
            const float rest = v - q * scale;
            norm = fmaf(v, v, norm), error = fmaf(rest, rest, error);
        }
        norm = warp_sum(norm), error = warp_sum(error);
        if (lane == 0) facts[row] = make_float4(scale, sqrtf(error) * 1.0001f, sqrtf(norm) * 1.0001f, 0.0f);
    }
}

// Grid (any), 256 threads, k floats of dynamic shared memory: logits of one row, by the definition of head.cuh.
extern "C" __global__ void head_full(const __half* head, const float* normed, float* logits, int rows, int k) {
    extern __shared__ __align__(16) float x[];
    for (int i = threadIdx.x; i < k; i += blockDim.x) x[i] = round_half(normed[i]);
    __syncthreads();
    for (int row = blockIdx.x * 8 + threadIdx.x / 32; row < rows; row += gridDim.x * 8) {
        const float logit = head_row(head, x, k, row);
        if (threadIdx.x % 32 == 0) logits[row] = logit;
    }
}

// Grid (rows of the head / 128, groups of 8 NT tokens), 128 threads: logits [m, rows] of half-float activations [m, k], on
// tensor cores; each warp has 32 rows of the head and all tokens of the group. K is a multiple of 32.
template <int NT> __device__ void head_batch(const __half* head, const __half* x, float* logits, int rows, int m, int k) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const int row0 = blockIdx.x * 128 + warp * 32, token0 = blockIdx.y * NT * 8;
    float acc[2][NT][4] = {};
    // A lane reads 16 bytes: eight elements, the k of two steps in an order of its own.
#pragma unroll 2
    for (int at = t * 8; at < k; at += 32) {
        uint4 w[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int row = row0 + i * 16 + group + 8 * j;
                w[i][j] = row < rows ? load_once(head + static_cast<long long>(row) * k + at) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const int token = token0 + n * 8 + group;
            const uint4 b = token < m ? *reinterpret_cast<const uint4*>(x + static_cast<long long>(token) * k + at)
                                      : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t first[4] = {w[i][0].x, w[i][1].x, w[i][0].y, w[i][1].y};
                const uint32_t second[4] = {w[i][0].z, w[i][1].z, w[i][0].w, w[i][1].w};
                mma_f16(acc[i][n], first, b.x, b.y);
                mma_f16(acc[i][n], second, b.z, b.w);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = row0 + i * 16 + group + e / 2 * 8, token = token0 + n * 8 + t * 2 + e % 2;
                if (row < rows && token < m) logits[static_cast<long long>(token) * rows + row] = acc[i][n][e];
            }
}
#define HEAD_KERNEL(name, nt)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
        name(const __half* head, const __half* x, float* logits, int rows, int m, int k) {                             \
        head_batch<nt>(head, x, logits, rows, m, k);                                                                   \
    }
HEAD_KERNEL(head_batch_8, 1)
HEAD_KERNEL(head_batch_32, 4)
HEAD_KERNEL(head_batch_64, 8)

// Grid (rows): f32 [m, width] to half floats.
extern "C" __global__ void to_half(const float* from, __half* to, int width) {
    const long long base = static_cast<long long>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[base + i] = __float2half_rn(from[base + i]);
}

// Grid (m), 1024 threads: the index of the highest of the first n of rows of `stride`, of equals the lowest. With `pairs`
// also [m] of (logit as its bits, index + first): what the ranks of a team tell each other.
extern "C" __global__ void argmax(const float* logits, int* tokens, int2* pairs, int n, int stride, int first) {
    __shared__ float scores[32];
    __shared__ int rows[32];
    const float* from = logits + static_cast<long long>(blockIdx.x) * stride;
    float score = -INFINITY;
    int row = 0x7fffffff;
    auto take = [&](float other, int other_row) {
        if (other > score || (other == score && other_row < row)) score = other, row = other_row;
    };
    for (int i = threadIdx.x; i < n; i += blockDim.x) take(from[i], i);
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const float other = __shfl_xor_sync(ALL, score, step);
            const int other_row = __shfl_xor_sync(ALL, row, step);
            take(other, other_row);
        }
        if (pass == 0) {
            if (threadIdx.x % 32 == 0) scores[threadIdx.x / 32] = score, rows[threadIdx.x / 32] = row;
            __syncthreads();
            score = scores[threadIdx.x % 32], row = rows[threadIdx.x % 32];
        }
    }
    if (threadIdx.x == 0) {
        tokens[blockIdx.x] = row;
        if (pairs) pairs[blockIdx.x] = make_int2(__float_as_int(score), row + first);
    }
}

// One block: of [ranks, m] pairs the best per row, ties to the lower rank, whose ids are lower; into pairs [m].
extern "C" __global__ void best_pair(const int2* from, int* tokens, int2* pairs, int m, int ranks) {
    for (int row = threadIdx.x; row < m; row += blockDim.x) {
        int2 best = from[row];
        for (int rank = 1; rank < ranks; rank++) {
            const int2 other = from[rank * m + row];
            if (__int_as_float(other.x) > __int_as_float(best.x)) best = other;
        }
        tokens[row] = best.y, pairs[row] = best;
    }
}

// gate = activation(gate) * up over [m, n], gate and up one after the other in memory or not.
extern "C" __global__ void gate_up(float* gate, const float* up, int count, int activation) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) gate[i] = activate(activation, gate[i], up[i]);
}
