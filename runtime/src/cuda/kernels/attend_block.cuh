// Attention of up to four query heads that share a KV head, over a run of cached positions, by a whole block on tensor cores.
//
// A warp takes eight positions at a time and keeps its own running softmax; all are merged once at the end. Products have 16
// rows: 0 to 3 are the heads, 4 to 7 the heads again, the others nothing. Scores are the same in both; a weight is split into
// two half floats, and the second four rows take what the first ones leave, so that 22 bits of it count. Which dimension stands
// where in a sum does not matter: lanes read keys and values as they lie, 16 bytes at a time, past shared memory.
#pragma once
#include "common.cuh"

constexpr int MAX_DIM = 128;
constexpr int GROUP = 4;  // query heads of one KV head
constexpr int UNIT = 8;   // positions that a warp takes at a time, all of one page

// c += a b, half floats summed in f32, of a's rows 0 to 7 alone: [16, 16] [16, 8] and [16, 8] [8, 8].
__device__ __forceinline__ void mma_rows(float (&c)[2], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
    asm("{.reg .f32 u, v; mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,u,v}, {%2,%6,%3,%6}, {%4,%5}, {%0,%1,%7,%7};}"
        : "+f"(c[0]), "+f"(c[1])
        : "r"(a0), "r"(a2), "r"(b0), "r"(b1), "r"(0), "f"(0.0f));
}
__device__ __forceinline__ void mma_rows(float (&c)[2], uint32_t a0, uint32_t b0) {
    asm("{.reg .f32 u, v; mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,u,v}, {%2,%4}, {%3}, {%0,%1,%5,%5};}"
        : "+f"(c[0]), "+f"(c[1])
        : "r"(a0), "r"(b0), "r"(0), "f"(0.0f));
}

template <int THREADS> struct AttendBlock {
    static constexpr int WARPS = THREADS / 32;
    struct Shared {
        __align__(16) float out[WARPS][GROUP][MAX_DIM];
        float2 weights[WARPS][GROUP];  // their maximum (in the exponent) and sum
    };
    static_assert(THREADS == GROUP * MAX_DIM, "a thread has an element of the result");

    const CacheRun keys, values;
    const int last, fresh;  // position `fresh` is read from `fresh_key` and `fresh_value` (-1 for none)
    const __half *fresh_key, *fresh_value;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 k[MAX_DIM / 32];     // position g of a unit: dimensions 32 c + 8 t ... + 7
    uint4 v[2][MAX_DIM / 64];  // positions 2t and 2t + 1: dimensions 64 h + 8 g ... + 7

    // Rows past the end are those of the last position; their weights are zero.
    __device__ __forceinline__ void load_keys(int base) {
        const __half* row = keys.row(base) + min(g, last - 1 - base) * keys.dim + 8 * t;
#pragma unroll
        for (int c = 0; c < MAX_DIM / 32; c++)
            if (32 * c < keys.dim) k[c] = __ldcg(reinterpret_cast<const uint4*>(row + 32 * c));
    }
    __device__ __forceinline__ void load_values(int base) {
        const __half* rows = values.row(base) + 8 * g;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < MAX_DIM / 64; h++)
                if (64 * h < values.dim) v[i][h] = __ldcg(reinterpret_cast<const uint4*>(rows + min(2 * t + i, last - 1 - base) * values.dim + 64 * h));
    }
    // What the cache does not have yet.
    __device__ __forceinline__ void put_fresh(int base) {
#pragma unroll
        for (int c = 0; c < MAX_DIM / 32; c++)
            if (32 * c < keys.dim && base + g >= fresh) k[c] = *reinterpret_cast<const uint4*>(fresh_key + 32 * c + 8 * t);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < MAX_DIM / 64; h++)
                if (64 * h < values.dim && base + 2 * t + i >= fresh) v[i][h] = *reinterpret_cast<const uint4*>(fresh_value + 64 * h + 8 * g);
    }

    // `query` [GROUP, MAX_DIM] in shared memory, there once `ready()` has returned; `first` is a multiple of UNIT. Scores are
    // multiplied by `scale` and are exponents to base 2. Returns element threadIdx.x of [GROUP, MAX_DIM], the sum of weighted
    // values, and its head's `weights`: their maximum and sum.
    template <typename Ready>
    __device__ __forceinline__ float run(int first, const __half* query, float scale, Shared& shared, float2& weights, Ready ready) {
        const int warp = threadIdx.x / 32;
        int base = first + UNIT * warp;
        if (base < last) load_keys(base), load_values(base);
        // Later units on their way into the L2 cache: 128 bytes of a key or a value per lane.
        for (int ahead = base + UNIT * WARPS; ahead < last; ahead += UNIT * WARPS) {
            const int row = lane % 16 / 2, part = lane % 2 * 64;
            if (ahead + row < last && part < keys.dim)
                asm volatile("prefetch.global.L2 [%0];" ::"l"((lane < 16 ? keys : values).row(ahead) + row * keys.dim + part));
        }
        ready();
        float out[MAX_DIM / 64][8][2] = {}, maximum = -1e30f, sum = 0.0f;
#pragma unroll 1
        for (; base < last; base += UNIT * WARPS) {
            if (fresh >= 0 && base + UNIT > fresh) put_fresh(base);
            float score[2][2] = {};
#pragma unroll
            for (int c = 0; c < MAX_DIM / 32; c++)
                if (32 * c < keys.dim) {
                    const uint4 q = *reinterpret_cast<const uint4*>(query + g % GROUP * MAX_DIM + 32 * c + 8 * t);
                    mma_rows(score[0], q.x, q.y, k[c].x, k[c].y), mma_rows(score[1], q.z, q.w, k[c].z, k[c].w);
                }
            const bool more = base + UNIT * WARPS < last;
            if (more) load_keys(base + UNIT * WARPS);
            float2 w;
            w.x = base + 2 * t < last ? (score[0][0] + score[1][0]) * scale : -INFINITY;
            w.y = base + 2 * t + 1 < last ? (score[0][1] + score[1][1]) * scale : -INFINITY;
            float higher = fmaxf(maximum, fmaxf(w.x, w.y));
            higher = fmaxf(higher, __shfl_xor_sync(ALL, higher, 1));
            higher = fmaxf(higher, __shfl_xor_sync(ALL, higher, 2));
            const float factor = exp2f(maximum - higher);
            w.x = exp2f(w.x - higher), w.y = exp2f(w.y - higher);
            maximum = higher, sum = sum * factor + (w.x + w.y);
            uint32_t part = pack_halves(w.x, w.y);
            if (g >= GROUP) part = pack_halves(w.x - halves(part).x, w.y - halves(part).y);
#pragma unroll
            for (int h = 0; h < MAX_DIM / 64; h++)
                if (64 * h < values.dim) {
                    const uint32_t a[4] = {v[0][h].x, v[0][h].y, v[0][h].z, v[0][h].w}, b[4] = {v[1][h].x, v[1][h].y, v[1][h].z, v[1][h].w};
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        // Columns of a product are the dimensions 64 h + 8 n + e.
                        out[h][e][0] *= factor, out[h][e][1] *= factor;
                        mma_rows(out[h][e], part, __byte_perm(a[e / 2], b[e / 2], e % 2 ? 0x7632 : 0x5410));
                    }
                }
            if (more) load_values(base + UNIT * WARPS);
        }
        sum += __shfl_xor_sync(ALL, sum, 1);
        sum += __shfl_xor_sync(ALL, sum, 2);
        // What the two halves of the rows have: the first four lanes of a head keep dimensions 64 h + 16 t ... + 7, the others those after.
#pragma unroll
        for (int h = 0; h < MAX_DIM / 64; h++) {
            float mine[8];
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float send = g < GROUP ? out[h][e][1] : out[h][e][0];
                mine[e] = (g < GROUP ? out[h][e][0] : out[h][e][1]) + __shfl_xor_sync(ALL, send, 16);
            }
            float4* to = reinterpret_cast<float4*>(&shared.out[warp][g % GROUP][64 * h + 16 * t + g / GROUP * 8]);
            to[0] = make_float4(mine[0], mine[1], mine[2], mine[3]), to[1] = make_float4(mine[4], mine[5], mine[6], mine[7]);
        }
        if (t == 0 && g < GROUP) shared.weights[warp][g] = make_float2(maximum, sum);
        __syncthreads();
        const int head = threadIdx.x / MAX_DIM, at = threadIdx.x % MAX_DIM;
        const float2 of_warp = shared.weights[lane % WARPS][head];
        float highest = of_warp.x;
#pragma unroll
        for (int step = WARPS / 2; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
        const float factor = exp2f(of_warp.x - highest);
        float total = factor * of_warp.y, merged = 0.0f;
#pragma unroll
        for (int step = WARPS / 2; step > 0; step /= 2) total += __shfl_xor_sync(ALL, total, step);
#pragma unroll
        for (int w = 0; w < WARPS; w++) merged = fmaf(__shfl_sync(ALL, factor, w), shared.out[w][head][at], merged);
        weights = make_float2(highest, total);
        return merged;
    }
};
