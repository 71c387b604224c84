// Attention of one or several query heads that share a KV head, over a run of cached positions, by a whole block: each
// group of lanes takes one position at a time and keeps its own running softmax, all are merged once at the end.
#pragma once
#include "common.cuh"

constexpr int MAX_DIM = 128;

// HEADS is 1 or 4. A position is taken by 8 lanes of 16 dimensions (HEADS 1) or 16 lanes of 8.
template <int THREADS, int HEADS> struct AttendBlock {
    static constexpr int LANES = HEADS == 1 ? 8 : 16, DIMS = MAX_DIM / LANES, PER_WARP = 32 / LANES, WARPS = THREADS / 32;
    struct Shared {
        __align__(16) float out[WARPS][HEADS][MAX_DIM];
        float maximum[WARPS][HEADS], sum[WARPS][HEADS];
    };
    // Lane l of a group has dimensions 8 l .. 8 l + 7 (and, of one head, 64 + 8 l ...).
    static __device__ __forceinline__ int dimension(int l, int chunk) { return HEADS == 1 ? chunk * 64 + 8 * l : 8 * l; }

    // `query` [HEADS, MAX_DIM], scaled. Position `fresh` is read from `fresh_key` and `fresh_value` (-1 for none).
    // `store(h, d, value, maximum, sum)` is called once for every head and dimension, by some thread: the sum of
    // weighted values, where the weights have the given maximum (in their exponents) and sum.
    template <typename Store>
    static __device__ __forceinline__ void run(const CacheRun& keys, const CacheRun& values, int first, int last,
                                               const float* query, int fresh, const __half* fresh_key,
                                               const __half* fresh_value, Shared& shared, Store store) {
        constexpr int CHUNKS = DIMS / 8;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, l = lane % LANES, dim = keys.dim;
        float q[HEADS][DIMS], out[HEADS][DIMS], maximum[HEADS], sum[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            maximum[h] = -1e30f, sum[h] = 0.0f;
#pragma unroll
            for (int i = 0; i < DIMS; i++) q[h][i] = query[h * MAX_DIM + dimension(l, i / 8) + i % 8], out[h][i] = 0.0f;
        }
#pragma unroll 1
        for (int position = first + warp * PER_WARP + lane / LANES; position - lane / LANES < last; position += WARPS * PER_WARP) {
            const bool valid = position < last;
            const __half* key = position == fresh ? fresh_key : keys.row(valid ? position : first);
            const __half* value = position == fresh ? fresh_value : values.row(valid ? position : first);
            uint4 k[CHUNKS], v[CHUNKS];
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const int d = dimension(l, c);
                k[c] = v[c] = make_uint4(0, 0, 0, 0);
                if (d < dim) k[c] = *reinterpret_cast<const uint4*>(key + d), v[c] = *reinterpret_cast<const uint4*>(value + d);
            }
            float score[HEADS] = {};
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const uint32_t pairs[4] = {k[c].x, k[c].y, k[c].z, k[c].w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(pairs[i]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) {
                        score[h] = fmaf(q[h][c * 8 + 2 * i], pair.x, score[h]);
                        score[h] = fmaf(q[h][c * 8 + 2 * i + 1], pair.y, score[h]);
                    }
                }
            }
            float weight[HEADS];
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int step = LANES / 2; step > 0; step /= 2) score[h] += __shfl_xor_sync(ALL, score[h], step);
                if (!valid) score[h] = -1e30f;
                const float higher = fmaxf(maximum[h], score[h]);
                const float factor = exp2f(maximum[h] - higher);
                weight[h] = valid ? exp2f(score[h] - higher) : 0.0f;
                maximum[h] = higher;
                sum[h] = fmaf(sum[h], factor, weight[h]);
#pragma unroll
                for (int i = 0; i < DIMS; i++) out[h][i] *= factor;
            }
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const uint32_t pairs[4] = {v[c].x, v[c].y, v[c].z, v[c].w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(pairs[i]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) {
                        out[h][c * 8 + 2 * i] = fmaf(weight[h], pair.x, out[h][c * 8 + 2 * i]);
                        out[h][c * 8 + 2 * i + 1] = fmaf(weight[h], pair.y, out[h][c * 8 + 2 * i + 1]);
                    }
                }
            }
        }
        // The groups of a warp, then the warps.
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float highest = maximum[h];
#pragma unroll
            for (int step = LANES; step < 32; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
            const float factor = exp2f(maximum[h] - highest);
            sum[h] *= factor;
#pragma unroll
            for (int step = LANES; step < 32; step *= 2) sum[h] += __shfl_xor_sync(ALL, sum[h], step);
#pragma unroll
            for (int i = 0; i < DIMS; i++) {
                out[h][i] *= factor;
#pragma unroll
                for (int step = LANES; step < 32; step *= 2) out[h][i] += __shfl_xor_sync(ALL, out[h][i], step);
            }
            if (lane < LANES) {
#pragma unroll
                for (int i = 0; i < DIMS; i += 4)
                    *reinterpret_cast<float4*>(&shared.out[warp][h][dimension(l, i / 8) + i % 8]) =
                        make_float4(out[h][i], out[h][i + 1], out[h][i + 2], out[h][i + 3]);
            }
            if (lane == 0) shared.maximum[warp][h] = highest, shared.sum[warp][h] = sum[h];
        }
        __syncthreads();
#pragma unroll 1
        for (int index = threadIdx.x; index < HEADS * MAX_DIM; index += THREADS) {
            const int h = index / MAX_DIM, d = index % MAX_DIM;
            float highest = -1e30f, total = 0.0f, merged = 0.0f;
#pragma unroll 4
            for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared.maximum[w][h]);
#pragma unroll 4
            for (int w = 0; w < WARPS; w++) {
                const float factor = exp2f(shared.maximum[w][h] - highest);
                total = fmaf(factor, shared.sum[w][h], total);
                merged = fmaf(factor, shared.out[w][h][d], merged);
            }
            store(h, d, merged, highest, total);
        }
    }
};
