// RoPE, the KV cache, and attention over it, for many rows: prefill by tiles on tensor cores, decoding rows by runs of
// positions that are merged.
#include "attend.cuh"
#include "places.cuh"

struct RopeStore {
    const float* qkv;     // [m, query + 2 kv]
    __half* q;            // [m, query], rotated
    const float2* angles; // [positions, rope_dim / 2]
    RowPlaces rows;
    Cache cache;
    int layer, heads, rope_dim, neox;
};

static_assert(sizeof(RopeStore) == 96, "cuda::params has the same");

// Grid (rows, elements / threads). Element d of a head after RoPE is what llama.cpp's two pairings define.
extern "C" __global__ void rope_store(const __grid_constant__ RopeStore p) {
    const int row = blockIdx.x, dim = p.cache.head_dim, kv = p.cache.kv_heads * dim, query = p.heads * dim;
    const int position = p.rows.position[row], pairs = p.rope_dim / 2;
    const int* pages = p.rows.pages + p.rows.sequence[row] * p.rows.max_pages;
    const float* from = p.qkv + static_cast<long long>(row) * (query + 2 * kv);
    const float2* angles = p.angles + static_cast<long long>(position) * pairs;
    const int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i < query + 2 * kv) {
        const int d = i % dim;
        float v = from[i];
        if (i < query + kv && d < p.rope_dim) {
            const float* head = from + i - d;
            const int pair = p.neox ? d % pairs : d / 2;
            const bool second = p.neox ? d >= pairs : d % 2;
            const float a = head[p.neox ? pair : 2 * pair], b = head[p.neox ? pair + pairs : 2 * pair + 1];
            const float2 angle = angles[pair];
            v = second ? fmaf(a, angle.y, b * angle.x) : fmaf(a, angle.x, -(b * angle.y));
        }
        const __half h = __float2half_rn(v);
        if (i < query) {
            p.q[static_cast<long long>(row) * query + i] = h;
        } else {
            const int index = i - query, value = index >= kv;
            CacheRun(p.cache, pages, p.layer, value, index % kv / dim).row(position)[d] = h;
        }
    }
}

constexpr int DECODE_THREADS = 256;
constexpr int PARTIAL = GROUP * MAX_DIM + 2 * GROUP;

// Grid (rows, kv heads * parts, splits): one run of one row.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS) attend_decode(const __grid_constant__ Attend p) {
    extern __shared__ __align__(16) float weights[];
    __shared__ AttendShared<DECODE_THREADS> shared;
    __shared__ __align__(16) float query[GROUP * MAX_DIM];
    const int row = p.first + blockIdx.x, dim = p.cache.head_dim, group = p.heads / p.cache.kv_heads;
    const int parts = (group + GROUP - 1) / GROUP, head = blockIdx.y / parts, part = blockIdx.y % parts;
    const int heads = min(GROUP, group - part * GROUP), first_head = head * group + part * GROUP;
    const int positions = p.rows.position[row] + 1;
    const int first = blockIdx.z * p.run, last = min(first + p.run, positions);
    float* out = p.partial + ((static_cast<long long>(row) * gridDim.y + blockIdx.y) * p.splits + blockIdx.z) * PARTIAL;
    if (first >= last) {
        if (threadIdx.x < GROUP) out[GROUP * MAX_DIM + 2 * threadIdx.x] = -INFINITY, out[GROUP * MAX_DIM + 2 * threadIdx.x + 1] = 0.0f;
        return;
    }
    const float scale = rsqrtf(static_cast<float>(dim));
    for (int i = threadIdx.x; i < GROUP * MAX_DIM; i += DECODE_THREADS) {
        const int h = i / MAX_DIM, d = i % MAX_DIM;
        const long long at = static_cast<long long>(row) * p.heads * dim + (first_head + h) * dim + d;
        query[i] = h < heads && d < dim ? __half2float(p.q[at]) * scale : 0.0f;
    }
    __syncthreads();
    const int* pages = p.rows.pages + p.rows.sequence[row] * p.rows.max_pages;
    const bool whole = p.splits == 1;
    attend_run<DECODE_THREADS>(CacheRun(p.cache, pages, p.layer, 0, head), CacheRun(p.cache, pages, p.layer, 1, head), first, last, query, -1, nullptr, nullptr, shared, weights,
                               [&](int h, int d, float sum) {
                                   if (!whole)
                                       out[h * MAX_DIM + d] = sum;
                                   else if (h < heads && d < dim)
                                       p.out[(static_cast<long long>(row) * p.heads + first_head + h) * dim + d] =
                                           sum / shared.sum[h];
                               });
    if (!whole && threadIdx.x < GROUP) {
        out[GROUP * MAX_DIM + 2 * threadIdx.x] = shared.maximum[threadIdx.x];
        out[GROUP * MAX_DIM + 2 * threadIdx.x + 1] = shared.sum[threadIdx.x];
    }
}

// Grid (rows, heads), MAX_DIM threads: merges the runs of one head.
extern "C" __global__ void attend_merge(const __grid_constant__ Attend p) {
    const int row = p.first + blockIdx.x, d = threadIdx.x, dim = p.cache.head_dim, group = p.heads / p.cache.kv_heads;
    const int parts = (group + GROUP - 1) / GROUP, within = blockIdx.y % group, h = within % GROUP;
    const int slice = blockIdx.y / group * parts + within / GROUP;
    const float* from =
        p.partial + (static_cast<long long>(row) * p.cache.kv_heads * parts + slice) * p.splits * PARTIAL;
    float largest = -INFINITY, sum = 0.0f, weight = 0.0f;
    for (int i = 0; i < p.splits; i++) largest = fmaxf(largest, from[i * PARTIAL + GROUP * MAX_DIM + 2 * h]);
    for (int i = 0; i < p.splits; i++) {
        const float maximum = from[i * PARTIAL + GROUP * MAX_DIM + 2 * h];
        if (maximum == -INFINITY) continue;
        const float factor = __expf(maximum - largest);
        weight = fmaf(factor, from[i * PARTIAL + GROUP * MAX_DIM + 2 * h + 1], weight);
        sum = fmaf(factor, from[i * PARTIAL + h * MAX_DIM + d], sum);
    }
    if (d < dim) p.out[(static_cast<long long>(row) * p.heads + blockIdx.y) * dim + d] = sum / weight;
}

constexpr int QUERIES = 64, PREFILL_THREADS = 128;

// One tile of 64 keys or values of one head: a page, rows of D half floats in swizzled chunks of 16 bytes.
template <int D> __device__ void load_page(uint32_t to, const __half* from, int dim) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < PAGE * CHUNKS / PREFILL_THREADS; i++) {
        const int index = threadIdx.x + i * PREFILL_THREADS, r = index / CHUNKS, chunk = index % CHUNKS;
        const bool valid = chunk * 8 < dim;
        copy_16(to + (r * CHUNKS + (chunk ^ (r & 7))) * 16, from + (valid ? r * dim + chunk * 8 : 0), valid);
    }
}

// Grid (tiles of 64 rows, heads): causal attention of one sequence's rows, softmax in f32 while tiles go by.
template <int D> __device__ void attend_prefill(const Attend& p) {
    constexpr int CHUNKS = D / 8, TILE = PAGE * D * 2;
    extern __shared__ __align__(128) uint8_t memory[];
    const uint32_t base = shared_address(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    const int dim = p.cache.head_dim, head = blockIdx.y, kv_head = head / (p.heads / p.cache.kv_heads);
    const int tile0 = blockIdx.x * QUERIES, row0 = p.first + tile0;
    const int start = p.rows.position[p.first];
    const int* pages = p.rows.pages + p.rows.sequence[p.first] * p.rows.max_pages;
    const int last_position = start + min(tile0 + QUERIES, p.count) - 1, tiles = last_position / PAGE + 1;

    const CacheRun keys_run(p.cache, pages, p.layer, 0, kv_head), values_run(p.cache, pages, p.layer, 1, kv_head);
    auto load = [&](int tile) {
        const uint32_t to = base + tile % 2 * 2 * TILE;
        load_page<D>(to, keys_run.row(tile * PAGE), dim);
        load_page<D>(to + TILE, values_run.row(tile * PAGE), dim);
        copy_commit();
    };
    load(0);
    // Rows group and group + 8 of this warp's 16; dimensions beyond head_dim and absent rows are zero.
    uint32_t q[D / 16][4];
#pragma unroll
    for (int step = 0; step < D / 16; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = tile0 + warp * 16 + group + i % 2 * 8, d = step * 16 + i / 2 * 8 + t * 2;
            const long long at = static_cast<long long>(row0 + warp * 16 + group + i % 2 * 8) * p.heads * dim + head * dim + d;
            q[step][i] = r < p.count && d < dim ? *reinterpret_cast<const uint32_t*>(p.q + at) : 0;
        }
    float out[D / 8][4] = {};
    float maximum[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const float scale = rsqrtf(static_cast<float>(dim)) * 1.4426950408889634f;  // exponents to base 2
    for (int tile = 0; tile < tiles; tile++) {
        if (tile + 1 < tiles) {
            load(tile + 1);
            copy_wait<1>();
        } else {
            copy_wait<0>();
        }
        __syncthreads();
        const uint32_t keys = base + tile % 2 * 2 * TILE, values = keys + TILE;
        float s[8][4] = {};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int step = 0; step < D / 16; step += 2) {
                uint32_t b[4];
                const int r = n * 8 + lane % 8, chunk = step * 2 + lane / 8;
                load_matrix_x4(b, keys + (r * CHUNKS + (chunk ^ (r & 7))) * 16);
                mma_f16(s[n], q[step], b[0], b[1]);
                mma_f16(s[n], q[step + 1], b[2], b[3]);
            }
        const int mine = start + tile0 + warp * 16 + group;
        float largest[2] = {maximum[0], maximum[1]};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int position = tile * PAGE + n * 8 + t * 2 + e % 2;
                s[n][e] = position <= mine + e / 2 * 8 ? s[n][e] * scale : -INFINITY;
                largest[e / 2] = fmaxf(largest[e / 2], s[n][e]);
            }
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            largest[i] = fmaxf(largest[i], __shfl_xor_sync(ALL, largest[i], 1));
            largest[i] = fmaxf(largest[i], __shfl_xor_sync(ALL, largest[i], 2));
            factor[i] = exp2f(maximum[i] - largest[i]);
            maximum[i] = largest[i];
            total[i] *= factor[i];
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) out[n][e] *= factor[e / 2];
        uint32_t weights[4][4];
#pragma unroll
        for (int n = 0; n < 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = exp2f(s[n][e] - maximum[e / 2]), total[e / 2] += s[n][e];
            weights[n / 2][n % 2 * 2] = pack_halves(s[n][0], s[n][1]);
            weights[n / 2][n % 2 * 2 + 1] = pack_halves(s[n][2], s[n][3]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int step = 0; step < 4; step += 2) {
                uint32_t b[4];
                const int r = step * 16 + lane;
                load_matrix_x4_transposed(b, values + (r * CHUNKS + (n ^ (r & 7))) * 16);
                mma_f16(out[n], weights[step], b[0], b[1]);
                mma_f16(out[n], weights[step + 1], b[2], b[3]);
            }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        total[i] += __shfl_xor_sync(ALL, total[i], 1);
        total[i] += __shfl_xor_sync(ALL, total[i], 2);
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int r = warp * 16 + group + e / 2 * 8, d = n * 8 + t * 2 + e % 2;
            if (tile0 + r < p.count && d < dim)
                p.out[(static_cast<long long>(row0 + r) * p.heads + head) * dim + d] = out[n][e] / total[e / 2];
        }
}

extern "C" __global__ void __launch_bounds__(PREFILL_THREADS) attend_prefill_64(const __grid_constant__ Attend p) {
    attend_prefill<64>(p);
}
extern "C" __global__ void __launch_bounds__(PREFILL_THREADS) attend_prefill_128(const __grid_constant__ Attend p) {
    attend_prefill<128>(p);
}
