// Attention of the query heads that share one KV head, at one position, over a run of cached positions.
//
// In: queries (rounded to half precision, in shared memory), pages. Out: per head the sum of weighted values, their
// weights' maximum and sum, so that runs can be merged. Head dimension 128 at most, a multiple of 8; up to four
// query heads per KV head in one call.
#pragma once
#include "common.cuh"

constexpr int GROUP = 4;
constexpr int MAX_DIM = 128;

// Shared memory of one call with THREADS threads: partial sums and, after them, the weights [positions, GROUP].
template <int THREADS> struct AttendShared {
    float partial[THREADS / 64][GROUP][MAX_DIM];
    float maximum[GROUP];
    float sum[GROUP];
};

// `query` is [GROUP, MAX_DIM] f32, scaled by 1/sqrt(head_dim); absent heads and dimensions are zero. `weights` holds
// (last - first) * GROUP floats. `fresh_key` and `fresh_value` (f16 [head_dim], shared memory) stand for position
// `fresh`, which is not in the cache yet (-1 for none). Afterwards thread (h * 128 + d), for all h * 128 + d below
// GROUP * 128 in steps of THREADS, finds its sum through `store(h, d, value)`; the caller synchronizes before
// it uses `shared` again.
template <int THREADS, typename Store>
__device__ void attend_run(const CacheRun& keys, const CacheRun& values, int first, int last, const float* query, int fresh, const __half* fresh_key, const __half* fresh_value,
                           AttendShared<THREADS>& shared, float* weights, Store store) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int dim = keys.dim;
    {
        // Eight lanes take one position: lane l its elements 8l..8l+8 and 64+8l..64+8l+8.
        const int l = lane % 8;
        float q[GROUP][16];
#pragma unroll
        for (int h = 0; h < GROUP; h++)
#pragma unroll
            for (int i = 0; i < 16; i++) q[h][i] = query[h * MAX_DIM + i / 8 * 64 + l * 8 + i % 8];
#pragma unroll 1
        for (int base = first + warp * 4; base < last; base += THREADS / 32 * 4) {
            const int position = base + lane / 8;
            float score[GROUP] = {};
            if (position < last) {
                const __half* key = position == fresh ? fresh_key : keys.row(position);
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    if (part * 64 + l * 8 < dim) {
                        const uint4 k = *reinterpret_cast<const uint4*>(key + part * 64 + l * 8);
                        const uint32_t pairs[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            const float2 pair = halves(pairs[i]);
#pragma unroll
                            for (int h = 0; h < GROUP; h++) {
                                score[h] = fmaf(q[h][part * 8 + 2 * i], pair.x, score[h]);
                                score[h] = fmaf(q[h][part * 8 + 2 * i + 1], pair.y, score[h]);
                            }
                        }
                    }
                }
            }
#pragma unroll
            for (int h = 0; h < GROUP; h++)
#pragma unroll
                for (int step = 4; step > 0; step /= 2) score[h] += __shfl_xor_sync(ALL, score[h], step);
            if (position < last && l == 0)
                *reinterpret_cast<float4*>(weights + (position - first) * GROUP) =
                    make_float4(score[0], score[1], score[2], score[3]);
        }
    }
    __syncthreads();
    if (warp < GROUP) {
        const int count = last - first;
        float maximum = -INFINITY, sum = 0.0f;
#pragma unroll 2
        for (int i = lane; i < count; i += 32) maximum = fmaxf(maximum, weights[i * GROUP + warp]);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(ALL, maximum, step));
#pragma unroll 2
        for (int i = lane; i < count; i += 32) {
            const float weight = __expf(weights[i * GROUP + warp] - maximum);
            weights[i * GROUP + warp] = weight;
            sum += weight;
        }
        sum = warp_sum(sum);
        if (lane == 0) shared.maximum[warp] = maximum, shared.sum[warp] = sum;
    }
    __syncthreads();
    {
        // 64 threads take one position's 128 elements, two each.
        const int d = threadIdx.x % 64 * 2, part = threadIdx.x / 64;
        float out[GROUP][2] = {};
        if (d < dim) {
#pragma unroll 4
            for (int position = first + part; position < last; position += THREADS / 64) {
                const __half* value =
                    position == fresh ? fresh_value : values.row(position);
                const float2 v = halves(*reinterpret_cast<const uint32_t*>(value + d));
                const float4 w = *reinterpret_cast<const float4*>(weights + (position - first) * GROUP);
                out[0][0] = fmaf(w.x, v.x, out[0][0]), out[0][1] = fmaf(w.x, v.y, out[0][1]);
                out[1][0] = fmaf(w.y, v.x, out[1][0]), out[1][1] = fmaf(w.y, v.y, out[1][1]);
                out[2][0] = fmaf(w.z, v.x, out[2][0]), out[2][1] = fmaf(w.z, v.y, out[2][1]);
                out[3][0] = fmaf(w.w, v.x, out[3][0]), out[3][1] = fmaf(w.w, v.y, out[3][1]);
            }
        }
#pragma unroll
        for (int h = 0; h < GROUP; h++)
            *reinterpret_cast<float2*>(&shared.partial[part][h][d]) = make_float2(out[h][0], out[h][1]);
    }
    __syncthreads();
#pragma unroll
    for (int index = threadIdx.x; index < GROUP * MAX_DIM; index += THREADS) {
        const int h = index / MAX_DIM, d = index % MAX_DIM;
        float sum = 0.0f;
#pragma unroll
        for (int part = 0; part < THREADS / 64; part++) sum += shared.partial[part][h][d];
        store(h, d, sum);
    }
}
