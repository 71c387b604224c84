// Shared by every kernel: packed ternary words, int8 tensor-core products, copies, half floats.
//
// A packed row holds K weights (a multiple of 64) in K/4 bytes: word w holds elements 16w to 16w + 15, the code
// (weight + 1) of element 16w + 4c + b in byte b at shift 2c. So `word & 0x03030303 << 2c` meets four activations that
// lie together.
#pragma once
#include <cstdint>
#include <cuda_fp16.h>

constexpr uint32_t FIELD = 0x03030303u;
constexpr unsigned ALL = 0xffffffffu;

// d + sum of the four products of unsigned bytes of a and signed bytes of b.
__device__ __forceinline__ int dot4(uint32_t a, uint32_t b, int d) {
    int r;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(d));
    return r;
}

// c += a [16 weights rows, 32] * b [32, 8 tokens], int8, exact.
__device__ __forceinline__ void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
    asm(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The two steps of 32 that word w (row g) and word w8 (row g + 8) hold.
struct Unpacked {
    uint32_t a[4], a8[4];
    Unpacked() = default;
    __device__ Unpacked(uint32_t w, uint32_t w8) {
#pragma unroll
        for (int c = 0; c < 4; c++) a[c] = w >> 2 * c & FIELD, a8[c] = w8 >> 2 * c & FIELD;
    }
};

// c += a [16, 16] * b [16, 8], half floats summed in f32.
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

// Copies 16 bytes to shared memory, or writes zeros where `valid` is false.
__device__ __forceinline__ void copy_16(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N)); }

// 16 bytes that are read once.
__device__ __forceinline__ uint4 load_once(const void* pointer) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(pointer));
    return v;
}

// Values that are read now, though they are wanted later: plain loads would be moved to where they are used.
__device__ __forceinline__ float4 load_ahead(const float4* pointer) {
    float4 v;
    asm volatile("ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(pointer));
    return v;
}

__device__ __forceinline__ float2 halves(uint32_t pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
__device__ __forceinline__ uint32_t pack_halves(float a, float b) {
    const __half2 pair = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float round_half(float v) { return __half2float(__float2half_rn(v)); }

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(ALL, v, step);
    return v;
}
// sum over k of a[m, k] b[k, n], + c: 8 x 8 x 4 doubles; lane l has a[l / 4, l % 4] and b[l % 4, l / 4], and gets row l / 4,
// column 2 (l % 4).
__device__ __forceinline__ double mma_f64(double a, double b, double c) {
    double d[2];
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%4,%4};" : "=d"(d[0]), "=d"(d[1]) : "d"(a), "d"(b), "d"(c));
    return d[0];
}
// The sum of a double over the warp, by every lane: three products with ones take a third of the time of five shuffles.
__device__ __forceinline__ double warp_sum(double v) {
    const double of_four = mma_f64(v, 1.0, 0.0);  // lanes 4 r to 4 r + 3
    const int from = threadIdx.x % 4 * 4;
    const double low = __shfl_sync(ALL, of_four, from), high = __shfl_sync(ALL, of_four, 16 + from);
    return mma_f64(1.0, high, mma_f64(1.0, low, 0.0));
}
// Of up to 16 doubles in memory, by every lane; those from `count` on are not read.
__device__ __forceinline__ double sum_of_few(const double* from, int count) {
    const int at = threadIdx.x % 4;
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < 16; i += 4) sum += at + i < count ? from[at + i] : 0.0;
    return mma_f64(1.0, sum, 0.0);
}
// Of values that are not negative: their bits order as integers.
__device__ __forceinline__ float warp_max_positive(float v) {
    return __uint_as_float(__reduce_max_sync(ALL, __float_as_uint(v)));
}

// The integer nearest to v * scale, half to even, in -128..127: as quant::nearest_int_of_product has it.
__device__ __forceinline__ int quantize(float v, float scale) {
    const int q = (__float_as_int(__fmaf_rn(v, scale, 12582912.0f)) & 0x007fffff) - 0x00400000;
    return max(-128, min(127, q));
}
// 127 / absmax with the floor of BitNet's per-token quantization.
__device__ __forceinline__ float token_scale(float absmax) {
    // A quotient of f32 values rounded to f64 and then to f32 is the one rounded to f32 at once.
    return absmax > 1e-5f ? __fdiv_rn(127.0f, absmax) : 12700000.0f;
}

// One linear's result from its exact integer product, rounded as kernels::arch::all does for repacked rows.
__device__ __forceinline__ float descale(int dot, float token, float tensor, float extra) {
    return __fmul_rn(__fmul_rn(__fdiv_rn(static_cast<float>(dot), token), tensor), extra);
}

// As kernels::arch::all::ops::exp.
__device__ __forceinline__ float exp_exact(float x) {
    const float round = 12582912.0f;
    const float clamped = fminf(fmaxf(x, -87.3f), 88.3f);
    const float shifted = __fmaf_rn(clamped, __uint_as_float(0x3fb8aa3b), round);
    const float n = __fsub_rn(shifted, round);
    const float b = __fmaf_rn(n, -__uint_as_float(0x35bfbe8e), __fmaf_rn(n, -__uint_as_float(0x3f317200), clamped));
    const float u = __fmul_rn(b, b);
    const float low = __fmaf_rn(__uint_as_float(0x3e2aaf33), b, __uint_as_float(0x3efffedb));
    const float high = __fmaf_rn(__uint_as_float(0x3c072010), b, __uint_as_float(0x3d2b9f17));
    const float j = __fmaf_rn(__fmaf_rn(high, u, low), u, __fmul_rn(__uint_as_float(0x3f7ffff6), b));
    const float k = __uint_as_float((__float_as_uint(shifted) << 23) + __float_as_uint(1.0f));
    return x < -87.3f ? 0.0f : __fmaf_rn(j, k, k);
}

// Four lanes have a position; lane l of them dimensions 32 j + 8 l ... + 7. `sum` holds the chains over j of these eight.
// Returns, in every lane, the sum in the order of the definition.
__device__ __forceinline__ float add_lanes(const float (&sum)[8], int l) {
    float four[4], two[2];
    const bool low = l < 2, even = l % 2 == 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {  // lanes l and l + 2; the lower ones keep elements 0, 1, 4, 5
        const float keep = low ? sum[i / 2 * 4 + i % 2] : sum[i / 2 * 4 + i % 2 + 2];
        const float send = low ? sum[i / 2 * 4 + i % 2 + 2] : sum[i / 2 * 4 + i % 2];
        four[i] = __fadd_rn(keep, __shfl_xor_sync(ALL, send, 2));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {  // the even lanes keep elements 0 and 4 (or 2 and 6), the odd ones 1 and 5 (3 and 7)
        const float keep = even ? four[2 * i] : four[2 * i + 1], send = even ? four[2 * i + 1] : four[2 * i];
        two[i] = __fadd_rn(keep, __shfl_xor_sync(ALL, send, 1));
    }
    float v = __fadd_rn(two[0], two[1]);
    v = __fadd_rn(v, __shfl_xor_sync(ALL, v, 1));
    return __fadd_rn(v, __shfl_xor_sync(ALL, v, 2));
}

enum Activation { SILU = 0, SQUARED_RELU = 1 };
__device__ __forceinline__ float activate(int activation, float gate, float up) {
    if (activation == SQUARED_RELU) {
        const float positive = fmaxf(gate, 0.0f);
        return positive * positive * up;
    }
    return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, exp_exact(-gate))), up);
}

// Where a sequence's keys and values are: pages of 64 positions, f16
// [layer, page, key or value, kv head, 64, head_dim].
constexpr int PAGE = 64;
struct Cache {
    __half* data;
    long long layer_stride;  // elements
    int kv_heads;
    int head_dim;
};
// Keys (or values) of one layer and head: row `position` is at base + page * page_stride + its place in the page.
struct CacheRun {
    __half* base;
    long long page_stride;
    const int* pages;
    int dim;
    __device__ CacheRun(const Cache& cache, const int* table, int layer, int value, int head)
        : base(cache.data + layer * cache.layer_stride + static_cast<long long>(value * cache.kv_heads + head) * PAGE * cache.head_dim),
          page_stride(2ll * cache.kv_heads * PAGE * cache.head_dim), pages(table), dim(cache.head_dim) {}
    __device__ __forceinline__ __half* row(int position) const {
        return base + pages[position / PAGE] * page_stride + position % PAGE * dim;
    }
};
