// What several devices that share a model do to a vector between two products: each has some columns of every row, and the
// next product wants whole rows as int8.
//
// `norm_row` (rows.cu) does it from gathered floats: one gather, four bytes an element. Here are the three steps for many
// rows: what each rank knows of its columns (`team_stats`), gathered; quantization of its own columns with the scale
// that all of them give (`team_quantize`), gathered; whole rows from the parts (`team_collect`). One byte an element, and
// the same quants: squares are summed in f64, whose order does not show in f32, and of each rank the two largest
// elements are known as they are, so that the largest after the norm is found with the roundings it has there.
#include "common.cuh"

// Of the columns of one rank: squares, and the two elements that are largest in |x w|, each with its weight.
struct Part {
    double squares;
    float2 top[2];
};

static_assert(sizeof(Part) == 24, "cuda::forward has the same");

// For one exchange of `m` rows.
struct TeamRows {
    const float* x;       // [m, columns], of this rank
    const float* weight;  // [columns], of this rank; null for no norm
    Part* part;           // [m], of this rank
    const Part* parts;    // [ranks, m], gathered
    int8_t* quants;       // [m, columns], of this rank, in the order of gemm.cu
    const int8_t* slices; // [ranks, m, columns of the rank], gathered
    int8_t* rows;         // [m, width]
    float* scales;        // [m]
    int* sums;            // [m]
    int width, slice, columns, ranks;
    float eps;
    int spare;
};

static_assert(sizeof(TeamRows) == 96, "cuda::params has the same");

__device__ __forceinline__ float size_of(float2 e) { return fabsf(__fmul_rn(e.x, e.y)); }

// The two largest of four, of which two are in order.
__device__ __forceinline__ void merge(float2 (&top)[2], float2 a, float2 b) {
    if (size_of(a) > size_of(top[0])) {
        top[1] = size_of(top[0]) > size_of(b) ? top[0] : b;
        top[0] = a;
    } else if (size_of(a) > size_of(top[1])) {
        top[1] = a;
    }
}

constexpr int TEAM_THREADS = 256;

// Grid (rows).
extern "C" __global__ void __launch_bounds__(TEAM_THREADS) team_stats(const __grid_constant__ TeamRows p) {
    __shared__ Part warps[TEAM_THREADS / 32];
    const float* x = p.x + static_cast<long long>(blockIdx.x) * p.columns;
    double squares = 0.0;
    float2 top[2] = {};
    for (int i = threadIdx.x; i < p.columns; i += TEAM_THREADS) {
        const float v = x[i];
        squares += static_cast<double>(__fmul_rn(v, v));
        merge(top, make_float2(v, p.weight ? __ldg(p.weight + i) : 1.0f), float2{});
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        squares += __shfl_xor_sync(ALL, squares, step);
        float2 other[2];
#pragma unroll
        for (int i = 0; i < 2; i++)
            other[i].x = __shfl_xor_sync(ALL, top[i].x, step), other[i].y = __shfl_xor_sync(ALL, top[i].y, step);
        merge(top, other[0], other[1]);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = Part{squares, {top[0], top[1]}};
    __syncthreads();
    if (threadIdx.x == 0) {
        Part all = warps[0];
        for (int i = 1; i < TEAM_THREADS / 32; i++)
            all.squares += warps[i].squares, merge(all.top, warps[i].top[0], warps[i].top[1]);
        p.part[blockIdx.x] = all;
    }
}

// Grid (rows).
extern "C" __global__ void __launch_bounds__(TEAM_THREADS) team_quantize(const __grid_constant__ TeamRows p) {
    double squares = 0.0;
    for (int rank = 0; rank < p.ranks; rank++) squares += p.parts[rank * gridDim.x + blockIdx.x].squares;
    float inverse = 1.0f, largest = 0.0f;
    if (p.weight) inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(static_cast<float>(squares / p.width), p.eps)));
    for (int rank = 0; rank < p.ranks; rank++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float2 e = p.parts[rank * gridDim.x + blockIdx.x].top[i];
            largest = fmaxf(largest, fabsf(__fmul_rn(__fmul_rn(e.x, inverse), e.y)));
        }
    const float scale = token_scale(largest);
    const float* x = p.x + static_cast<long long>(blockIdx.x) * p.columns;
    int8_t* out = p.quants + static_cast<long long>(blockIdx.x) * p.columns;
    for (int i = threadIdx.x * 4; i < p.columns; i += TEAM_THREADS * 4) {
        uint32_t word = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float v = p.weight ? __fmul_rn(__fmul_rn(x[i + j], inverse), __ldg(p.weight + i + j)) : x[i + j];
            word |= (quantize(v, scale) & 255u) << 8 * j;
        }
        *reinterpret_cast<uint32_t*>(out + i / 64 * 64 + i / 4 % 4 * 16 + i / 16 % 4 * 4) = word;
    }
    if (threadIdx.x == 0) p.scales[blockIdx.x] = scale;
}

// Grid (rows).
extern "C" __global__ void __launch_bounds__(TEAM_THREADS) team_collect(const __grid_constant__ TeamRows p) {
    __shared__ int warps[TEAM_THREADS / 32];
    int sum = 0;
    for (int i = threadIdx.x * 16; i < p.width; i += TEAM_THREADS * 16) {
        const int rank = i / p.slice, columns = min(p.slice, p.width - rank * p.slice);
        const int8_t* from = p.slices + static_cast<long long>(rank) * gridDim.x * p.slice;
        const uint4 v = *reinterpret_cast<const uint4*>(from + static_cast<long long>(blockIdx.x) * columns + i - rank * p.slice);
        *reinterpret_cast<uint4*>(p.rows + static_cast<long long>(blockIdx.x) * p.width + i) = v;
        const int words[4] = {static_cast<int>(v.x), static_cast<int>(v.y), static_cast<int>(v.z), static_cast<int>(v.w)};
#pragma unroll
        for (int j = 0; j < 4; j++) sum = __dp4a(words[j], 0x01010101, sum);
    }
    sum = __reduce_add_sync(ALL, sum);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < TEAM_THREADS / 32; i++) sum += warps[i];
        p.sums[blockIdx.x] = sum;
    }
}
