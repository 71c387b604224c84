// Attention of one or several query heads that share a KV head, over a run of cached positions, by a whole block: each
// group of lanes takes one position at a time and keeps its own running softmax, all are merged once at the end.
#pragma once
#include "common.cuh"

constexpr int MAX_DIM = 128;

// A position is taken by 16 lanes of 8 dimensions; every group of lanes takes PER_TURN positions at a time, so that as many keys
// and values are on their way, and what is known so far is rescaled once for all of them.
template <int THREADS, int HEADS> struct AttendBlock {
    static constexpr int LANES = 16, DIMS = MAX_DIM / LANES, WARPS = THREADS / 32, GROUPS = THREADS / LANES, PER_TURN = 1;
    struct Shared {
        __align__(16) float out[WARPS][HEADS][MAX_DIM];
        float maximum[WARPS][HEADS], sum[WARPS][HEADS];
    };

    // `query` [HEADS, MAX_DIM], scaled. Position `fresh` is read from `fresh_key` and `fresh_value` (-1 for none).
    // `store(h, d, value, maximum, sum)` is called once for every head and dimension, by some thread: the sum of
    // weighted values, where the weights have the given maximum (in their exponents) and sum.
    template <typename Store>
    static __device__ __forceinline__ void run(const CacheRun& keys, const CacheRun& values, int first, int last,
                                               const float* query, int fresh, const __half* fresh_key,
                                               const __half* fresh_value, Shared& shared, Store store) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = threadIdx.x / LANES, d = lane % LANES * DIMS;
        float q[HEADS][DIMS], out[HEADS][DIMS], maximum[HEADS], sum[HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            maximum[h] = -1e30f, sum[h] = 0.0f;
#pragma unroll
            for (int i = 0; i < DIMS; i++) q[h][i] = query[h * MAX_DIM + d + i], out[h][i] = 0.0f;
        }
        // Both groups of a warp go on as long as the first one does.
#pragma unroll 1
        for (int position = first + group; position - group % 2 < last; position += PER_TURN * GROUPS) {
            uint4 k[PER_TURN], v[PER_TURN];
#pragma unroll
            for (int e = 0; e < PER_TURN; e++) {
                const int at = min(position + e * GROUPS, last - 1);
                k[e] = v[e] = make_uint4(0, 0, 0, 0);
                if (d < keys.dim) {
                    k[e] = *reinterpret_cast<const uint4*>((at == fresh ? fresh_key : keys.row(at)) + d);
                    v[e] = *reinterpret_cast<const uint4*>((at == fresh ? fresh_value : values.row(at)) + d);
                }
            }
            float score[PER_TURN][HEADS] = {};
#pragma unroll
            for (int e = 0; e < PER_TURN; e++) {
                const uint32_t pairs[4] = {k[e].x, k[e].y, k[e].z, k[e].w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(pairs[i]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++)
                        score[e][h] = fmaf(q[h][2 * i + 1], pair.y, fmaf(q[h][2 * i], pair.x, score[e][h]));
                }
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float higher = maximum[h];
#pragma unroll
                for (int e = 0; e < PER_TURN; e++) {
#pragma unroll
                    for (int step = LANES / 2; step > 0; step /= 2) score[e][h] += __shfl_xor_sync(ALL, score[e][h], step);
                    if (position + e * GROUPS >= last) score[e][h] = -INFINITY;
                    higher = fmaxf(higher, score[e][h]);
                }
                const float factor = exp2f(maximum[h] - higher);
                maximum[h] = higher, sum[h] *= factor;
#pragma unroll
                for (int i = 0; i < DIMS; i++) out[h][i] *= factor;
#pragma unroll
                for (int e = 0; e < PER_TURN; e++) score[e][h] = exp2f(score[e][h] - higher), sum[h] += score[e][h];
            }
#pragma unroll
            for (int e = 0; e < PER_TURN; e++) {
                const uint32_t pairs[4] = {v[e].x, v[e].y, v[e].z, v[e].w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(pairs[i]);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) {
                        out[h][2 * i] = fmaf(score[e][h], pair.x, out[h][2 * i]);
                        out[h][2 * i + 1] = fmaf(score[e][h], pair.y, out[h][2 * i + 1]);
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
                    *reinterpret_cast<float4*>(&shared.out[warp][h][d + i]) =
                        make_float4(out[h][i], out[h][i + 1], out[h][i + 2], out[h][i + 3]);
            }
            if (lane == 0) shared.maximum[warp][h] = highest, shared.sum[warp][h] = sum[h];
        }
        __syncthreads();
#pragma unroll 1
        for (int index = threadIdx.x; index < HEADS * MAX_DIM; index += THREADS) {
            const int h = index / MAX_DIM, at = index % MAX_DIM;
            float highest = -1e30f, total = 0.0f, merged = 0.0f;
#pragma unroll 4
            for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared.maximum[w][h]);
#pragma unroll 4
            for (int w = 0; w < WARPS; w++) {
                const float factor = exp2f(shared.maximum[w][h] - highest);
                total = fmaf(factor, shared.sum[w][h], total);
                merged = fmaf(factor, shared.out[w][h][at], merged);
            }
            store(h, at, merged, highest, total);
        }
    }
};
