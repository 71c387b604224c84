// Shared by the kernels of a decoding step: how launches overlap, clusters, and what is known of a vector before it is read.
//
// Every kernel of a step lets the next one start at once, fetches what no kernel of the step writes (weights, norms, older
// keys), and then waits until every block of the one before has said that its results are out. A kernel is started
// only when all blocks of the one before are resident, so the wait ends. The first kernel of a step clears the
// counters; the second lets nobody start before the first is done. What a step writes is read past L1 (__ldcg).
#pragma once
#include "common.cuh"

__device__ __forceinline__ void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Where a kernel waits, and where it says that it is done: counters of blocks.
struct Turn {
    const unsigned* ready;  // null: wait for the kernel before to be complete
    unsigned* done;
    unsigned expected, spare;
};
__device__ __forceinline__ void begin_turn(const Turn& turn) {
    if (!turn.ready) wait_for_previous();
    let_next_start();
}
// By every thread; afterwards all that the kernels before have written can be read.
__device__ __forceinline__ void wait_turn(const Turn& turn) {
    if (turn.ready && threadIdx.x == 0) {
        // An acquiring load empties L1, which is in the way of the other blocks of the multiprocessor: once is enough.
        unsigned found;
        do {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(turn.ready) : "memory");
        } while (found < turn.expected);
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(turn.ready) : "memory");
    }
    __syncthreads();
}
__device__ __forceinline__ void end_turn(const Turn& turn) {
    __syncthreads();
    if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(turn.done) : "memory");
}

__device__ __forceinline__ int cluster_rank() {
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
__device__ __forceinline__ int cluster_size() {
    uint32_t r;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
    return r;
}
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
// As cluster_arrive, where nothing was written that others will read.
__device__ __forceinline__ void cluster_begin() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_sync() { cluster_arrive(), cluster_wait(); }
// The same place in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ uint32_t shared_of(uint32_t address, int rank) {
    uint32_t r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}
__device__ __forceinline__ void put_remote(uint32_t address, int v) {
    asm volatile("st.shared::cluster.s32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ __forceinline__ void put_remote(uint32_t address, const int4& v) {
    asm volatile("st.shared::cluster.v4.s32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ int remote_int(uint32_t address) {
    int v;
    asm volatile("ld.shared::cluster.s32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}
__device__ __forceinline__ float remote_float(uint32_t address) { return __int_as_float(remote_int(address)); }
// Products of a warpgroup: c [64, 8 NT] += a [64, 32] b [32, 8 NT]^T, int8. A in registers as for mma_s8, b in shared memory,
// rows of 128 bytes in chunks of 16 that are swizzled by the row's number modulo 8.
__device__ __forceinline__ uint64_t matrix_in_shared(uint32_t address) {
    return static_cast<uint64_t>(address >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
__device__ __forceinline__ void product(int (&c)[2][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]), "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void product(int (&c)[4][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
        "{%16,%17,%18,%19}, %20, 1;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]), "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]), "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void product(int (&c)[8][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]), "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]), "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3]),
          "+r"(c[4][0]), "+r"(c[4][1]), "+r"(c[4][2]), "+r"(c[4][3]), "+r"(c[5][0]), "+r"(c[5][1]), "+r"(c[5][2]), "+r"(c[5][3]),
          "+r"(c[6][0]), "+r"(c[6][1]), "+r"(c[6][2]), "+r"(c[6][3]), "+r"(c[7][0]), "+r"(c[7][1]), "+r"(c[7][2]), "+r"(c[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void product(int (&c)[16][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,"
        "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,"
        "%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, 1;"
        : "+r"(c[0][0]), "+r"(c[0][1]), "+r"(c[0][2]), "+r"(c[0][3]), "+r"(c[1][0]), "+r"(c[1][1]), "+r"(c[1][2]), "+r"(c[1][3]),
          "+r"(c[2][0]), "+r"(c[2][1]), "+r"(c[2][2]), "+r"(c[2][3]), "+r"(c[3][0]), "+r"(c[3][1]), "+r"(c[3][2]), "+r"(c[3][3]),
          "+r"(c[4][0]), "+r"(c[4][1]), "+r"(c[4][2]), "+r"(c[4][3]), "+r"(c[5][0]), "+r"(c[5][1]), "+r"(c[5][2]), "+r"(c[5][3]),
          "+r"(c[6][0]), "+r"(c[6][1]), "+r"(c[6][2]), "+r"(c[6][3]), "+r"(c[7][0]), "+r"(c[7][1]), "+r"(c[7][2]), "+r"(c[7][3]),
          "+r"(c[8][0]), "+r"(c[8][1]), "+r"(c[8][2]), "+r"(c[8][3]), "+r"(c[9][0]), "+r"(c[9][1]), "+r"(c[9][2]), "+r"(c[9][3]),
          "+r"(c[10][0]), "+r"(c[10][1]), "+r"(c[10][2]), "+r"(c[10][3]), "+r"(c[11][0]), "+r"(c[11][1]), "+r"(c[11][2]), "+r"(c[11][3]),
          "+r"(c[12][0]), "+r"(c[12][1]), "+r"(c[12][2]), "+r"(c[12][3]), "+r"(c[13][0]), "+r"(c[13][1]), "+r"(c[13][2]), "+r"(c[13][3]),
          "+r"(c[14][0]), "+r"(c[14][1]), "+r"(c[14][2]), "+r"(c[14][3]), "+r"(c[15][0]), "+r"(c[15][1]), "+r"(c[15][2]), "+r"(c[15][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// What the producers of a row find out for the norm and the quantization of its consumer: the sum of squares, and the element
// that is largest after the consumer's norm weights: |x w| in the high half, its index in the low one. The squares
// are f32 products summed in f64, as the CPU does, so the order of the additions does not show in f32.
// Each in a cache line of its own: a hundred blocks add to every one of them at once, and additions within a line take turns.
struct alignas(128) Stat {
    double squares;
    unsigned long long top;
};
constexpr int STEP_ROWS = 64;  // rows of one step at most; statistics are [phases, STEP_ROWS]

// `weighted` is the element after the next norm's weights.
__device__ __forceinline__ unsigned long long top_key(float weighted, int index) {
    return static_cast<unsigned long long>(__float_as_uint(fabsf(weighted))) << 32 | static_cast<uint32_t>(index);
}
__device__ __forceinline__ unsigned long long top_key(float v, int index, const float* weight) {
    return top_key(weight ? __fmul_rn(v, __ldg(weight + index)) : v, index);
}

// One thread's part of a row.
struct Tally {
    double squares = 0.0;
    unsigned long long top = 0;
    __device__ __forceinline__ void add(float v, unsigned long long key) {
        squares += static_cast<double>(__fmul_rn(v, v));
        if (key > top) top = key;
    }
    __device__ __forceinline__ void add(float v, int index, const float* weight) { add(v, top_key(v, index, weight)); }
    // Of all lanes of a warp, by the first one.
    __device__ __forceinline__ void join_warp() {
        squares = warp_sum(squares);
        const unsigned size = static_cast<unsigned>(top >> 32), largest = __reduce_max_sync(ALL, size);
        const unsigned where = __reduce_max_sync(ALL, size == largest ? static_cast<unsigned>(top) : 0);
        top = static_cast<unsigned long long>(largest) << 32 | where;
    }
    __device__ __forceinline__ void give(Stat* stat) const {
        atomicAdd(&stat->squares, squares);
        atomicMax(&stat->top, top);
    }
};

// The norm of a row: 1 / sqrt(mean of squares + eps), rounded as on the CPU; 1 where there are no weights.
__device__ __forceinline__ float inverse_rms(const Stat& stat, int width, float eps) {
    const float mean = static_cast<float>(stat.squares / width);
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, eps)));
}
__device__ __forceinline__ Stat read_stat(const Stat* stat) {
    const double2 both = __ldcg(reinterpret_cast<const double2*>(stat));
    return Stat{both.x, static_cast<unsigned long long>(__double_as_longlong(both.y))};
}

// Norm and scale of row `token` of x.
__device__ __forceinline__ float2 norm_and_scale(const Stat* before, const float* x, const float* norm, int token, int k, float eps) {
    const Stat stat = read_stat(before + token);
    const int top = static_cast<int>(stat.top & 0xffffffffu);
    float v = __ldcg(x + static_cast<long long>(token) * k + top), inverse = 1.0f;
    if (norm) inverse = inverse_rms(stat, k, eps), v = __fmul_rn(__fmul_rn(v, inverse), __ldg(norm + top));
    return make_float2(inverse, token_scale(fabsf(v)));
}

// Four quants in a word, and their sum.
__device__ __forceinline__ uint32_t quantize_four(float4 x, float4 w, float2 how, int& sum) {
    const int q0 = quantize(__fmul_rn(__fmul_rn(x.x, how.x), w.x), how.y), q1 = quantize(__fmul_rn(__fmul_rn(x.y, how.x), w.y), how.y);
    const int q2 = quantize(__fmul_rn(__fmul_rn(x.z, how.x), w.z), how.y), q3 = quantize(__fmul_rn(__fmul_rn(x.w, how.x), w.w), how.y);
    sum += q0 + q1 + q2 + q3;
    return (q0 & 255u) | (q1 & 255u) << 8 | (q2 & 255u) << 16 | static_cast<uint32_t>(q3) << 24;
}

// Where four quants of a row of x lie in its block of 128 columns: element 16t + 4c of a group of 64 at 16c + 4t (gemm.cu), in
// chunks of 16 that are swizzled by the row.
__device__ __forceinline__ int place_of_quad(int quad, int token) {
    const int chunk = quad / 16 % 2 * 4 + quad % 4;
    return ((chunk ^ (token & 7)) * 16) + quad / 4 % 4 * 4;
}

enum Epilogue { STORE = 0, ADD = 1, GATE_UP = 2 };

// A product of up to 8 rows (step_gemm.cu), or of one (step_gemv.cu).
struct StepGemm {
    const uint8_t* weights;   // [n, k] packed; GATE_UP: [2n, k], gate rows, then up rows
    const float* x;           // [m, k]
    const float* norm;        // [k]; null for no norm
    const Stat* before;       // [m], of x
    const float* scales;      // pairs (tensor scale, separate scale) of up to three matrices, one after the other
    float* out;               // [m, n]
    Stat* after;              // [m], of out; null where nobody asks
    const float* next_norm;   // [n]
    Turn turn;
    int n, m, k;
    int tiles, round;         // step_gemm: tiles of a cluster, and how many of them at once; step_gemv: warps of a set, rows of its ring
    int bound[2];             // first rows of the second and the third matrix
    int activation;
    float eps;
    int spare;
};

static_assert(sizeof(StepGemm) == 128, "cuda::params has the same");
