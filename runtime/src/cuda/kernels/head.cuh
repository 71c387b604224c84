// The head: exact rows of half floats, and an approximate score from a compact int8 copy with a bound of its error.
//
// A row w is kept as s * q (q int8, s = absmax / 127) with the norms of w and of w - s q. The input x (f32 values that
// are half floats) is split into two int8 vectors, x = a (hi + lo / 254) + dx with |dx_i| <= a / 508. Then
//   |w x - s a (hi + lo / 254) q| <= |w - s q| |x| + |w| |dx|
// by Cauchy-Schwarz, plus the rounding of the f32 sums, which 1e-5 |w| |x| covers for rows of up to 8192.
#pragma once
#include "common.cuh"

constexpr float HEAD_ROUNDING = 1e-5f;

// w x of one row by one warp, in a fixed order: the definition of a logit.
__device__ __forceinline__ float head_row(const __half* head, const float* x, int k, int row) {
    const __half* w = head + static_cast<long long>(row) * k;
    const int lane = threadIdx.x % 32;
    float sum = 0.0f;
#pragma unroll 2
    for (int at = lane * 8; at < k; at += 256) {
        const uint4 v = load_once(w + at);
        const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 pair = halves(pairs[i]);
            sum = fmaf(pair.x, x[at + 2 * i], sum);
            sum = fmaf(pair.y, x[at + 2 * i + 1], sum);
        }
    }
    return warp_sum(sum);
}

// The input of all rows, in registers: lane l of every warp has elements 16 (l + 32 i) ... + 15.
template <int WORDS> struct HeadInput {
    uint4 hi[WORDS], lo[WORDS];
    float step, norm, error;
    int k;
    // `x` [length] in shared memory, the same for all threads of the block; `red` has a place per warp, `bytes` room for
    // 2 * length.
    __device__ HeadInput(const float* x, int length, float2* red, int8_t* bytes) : k(length) {
        const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
        float largest = 0.0f, squares = 0.0f;
#pragma unroll 1
        for (int i = threadIdx.x; i < k; i += blockDim.x)
            largest = fmaxf(largest, fabsf(x[i])), squares = fmaf(x[i], x[i], squares);
        squares = warp_sum(squares), largest = warp_max_positive(largest);
        if (threadIdx.x % 32 == 0) red[warp] = make_float2(squares, largest);
        __syncthreads();
        squares = 0.0f, largest = 0.0f;
#pragma unroll 1
        for (int i = 0; i < warps; i++) squares += red[i].x, largest = fmaxf(largest, red[i].y);
        step = fmaxf(largest, 1e-30f) / 127.0f;
        norm = sqrtf(squares) * 1.0001f;
        error = sqrtf(static_cast<float>(k)) * step / 508.0f * 1.001f;
        const float inverse = 1.0f / step;
#pragma unroll 1
        for (int i = threadIdx.x; i < k; i += blockDim.x) {
            const float v = x[i] * inverse;
            const int h = max(-127, min(127, __float2int_rn(v)));
            bytes[i] = static_cast<int8_t>(h);
            bytes[k + i] = static_cast<int8_t>(max(-127, min(127, __float2int_rn((v - h) * 254.0f))));
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < WORDS; i++) {
            const int at = 16 * (threadIdx.x % 32 + 32 * i);
            hi[i] = lo[i] = make_uint4(0, 0, 0, 0);
            if (at < k) hi[i] = *reinterpret_cast<uint4*>(bytes + at), lo[i] = *reinterpret_cast<uint4*>(bytes + k + at);
        }
    }

    // (score, bound of its distance from `head_row`) of two rows, the same in every lane.
    __device__ void approximate(const int8_t* compact, const float4* facts, int row, int other, float2 (&scores)[2]) const {
        uint4 w[2][WORDS];
        const int rows[2] = {row, other};
        float4 fact[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            fact[r] = __ldg(facts + rows[r]);
#pragma unroll
            for (int i = 0; i < WORDS; i++) {
                const int at = 16 * (threadIdx.x % 32 + 32 * i);
                w[r][i] = at < k ? load_once(compact + static_cast<long long>(rows[r]) * k + at) : make_uint4(0, 0, 0, 0);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int a = 0, b = 0;
#pragma unroll
            for (int i = 0; i < WORDS; i++) {
                const uint4 v = w[r][i];
                a = __dp4a((int)v.x, (int)hi[i].x, a), b = __dp4a((int)v.x, (int)lo[i].x, b);
                a = __dp4a((int)v.y, (int)hi[i].y, a), b = __dp4a((int)v.y, (int)lo[i].y, b);
                a = __dp4a((int)v.z, (int)hi[i].z, a), b = __dp4a((int)v.z, (int)lo[i].z, b);
                a = __dp4a((int)v.w, (int)hi[i].w, a), b = __dp4a((int)v.w, (int)lo[i].w, b);
            }
            a = __reduce_add_sync(ALL, a), b = __reduce_add_sync(ALL, b);
            scores[r].x = fact[r].x * step * (static_cast<float>(a) + static_cast<float>(b) * (1.0f / 254.0f));
            scores[r].y = 1.001f * (fact[r].y * norm + fact[r].z * (error + HEAD_ROUNDING * norm));
        }
    }
};
