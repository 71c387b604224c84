// Attention in the CPU's own order of float operations, so that its results are the same to the last bit but for the order
// of one f64 sum: kernels::arch::all::attention is the definition. For short work, where speed is not what counts:
// activation quantization downstream turns a last bit into a whole step now and then.
#include "places.cuh"

constexpr int EXACT_THREADS = 128;

__device__ float add_up_pairs(const float* l) {
    return __fadd_rn(__fadd_rn(__fadd_rn(l[0], l[4]), __fadd_rn(l[1], l[5])),
                     __fadd_rn(__fadd_rn(l[2], l[6]), __fadd_rn(l[3], l[7])));
}

// Grid (rows, heads); dynamic shared memory for a score per position, padded to eight.
extern "C" __global__ void __launch_bounds__(EXACT_THREADS) attend_exact(const __grid_constant__ Attend p) {
    extern __shared__ __align__(16) float scores[];
    __shared__ float query[128], red[EXACT_THREADS / 32];
    __shared__ double sums[EXACT_THREADS / 32];
    const int row = p.first + blockIdx.x, head = blockIdx.y, dim = p.cache.head_dim, tid = threadIdx.x;
    const int warp = tid / 32, lane = tid % 32;
    const int positions = p.rows.position[row] + 1, padded = (positions + 7) / 8 * 8;
    const int* pages = p.rows.pages + p.rows.sequence[row] * p.rows.max_pages;
    const int kv_head = head / (p.heads / p.cache.kv_heads);
    const CacheRun keys(p.cache, pages, p.layer, 0, kv_head), values(p.cache, pages, p.layer, 1, kv_head);
    const long long at = (static_cast<long long>(row) * p.heads + head) * dim;
    for (int d = tid; d < dim; d += EXACT_THREADS) query[d] = __half2float(p.q[at + d]);
    __syncthreads();
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(dim)));
    float maximum = -INFINITY;
    for (int position = tid; position < padded; position += EXACT_THREADS) {
        float score = -INFINITY;
        if (position < positions) {
            const __half* key = keys.row(position);
            float sum[32];
#pragma unroll
            for (int i = 0; i < 32; i++) sum[i] = 0.0f;
            const int whole = dim / 32 * 32;
            for (int base = 0; base < whole; base += 32)
#pragma unroll
                for (int i = 0; i < 32; i++) sum[i] = __fmaf_rn(query[base + i], __half2float(key[base + i]), sum[i]);
            float lanes[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                lanes[i] = __fadd_rn(__fadd_rn(sum[i], sum[16 + i]), __fadd_rn(sum[8 + i], sum[24 + i]));
            score = add_up_pairs(lanes);
            for (int d = whole; d < dim; d++) score = __fmaf_rn(query[d], __half2float(key[d]), score);
            score = __fmul_rn(score, scale);
        }
        scores[position] = score;
        maximum = fmaxf(maximum, score);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(ALL, maximum, step));
    if (lane == 0) red[warp] = maximum;
    __syncthreads();
    for (int i = 0; i < EXACT_THREADS / 32; i++) maximum = fmaxf(maximum, red[i]);
    double sum = 0.0;
    for (int block = tid; block < padded / 8; block += EXACT_THREADS) {
        float l[8];
#pragma unroll
        for (int i = 0; i < 8; i++) scores[block * 8 + i] = l[i] = exp_exact(__fsub_rn(scores[block * 8 + i], maximum));
        const float whole = __fadd_rn(__fadd_rn(__fadd_rn(l[0], l[4]), __fadd_rn(l[2], l[6])),
                                      __fadd_rn(__fadd_rn(l[1], l[5]), __fadd_rn(l[3], l[7])));
        sum += static_cast<double>(whole);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = 0.0;
    for (int i = 0; i < EXACT_THREADS / 32; i++) sum += sums[i];
    const float inverse = static_cast<float>(1.0 / sum);
    for (int position = tid; position < positions; position += EXACT_THREADS)
        scores[position] = round_half(__fmul_rn(scores[position], inverse));
    __syncthreads();
    for (int d = tid; d < dim; d += EXACT_THREADS) {
        float part[32];
#pragma unroll
        for (int i = 0; i < 32; i++) part[i] = 0.0f;
        for (int base = 0; base < positions; base += 32)
#pragma unroll
            for (int i = 0; i < 32; i++)
                if (base + i < positions)
                    part[i] = __fmaf_rn(scores[base + i], __half2float(values.row(base + i)[d]), part[i]);
        float lanes[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            lanes[i] = __fadd_rn(__fadd_rn(part[i], part[i + 16]), __fadd_rn(part[i + 8], part[i + 24]));
        p.out[at + d] = add_up_pairs(lanes);
    }
}
