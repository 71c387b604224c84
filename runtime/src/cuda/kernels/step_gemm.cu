// Ternary products of a decoding step of up to 8 rows, with the norm and the quantization of their input in front and the
// statistics for the next norm behind: out[m, n] = dot(weights[n], quantized(norm(x[m]))).
//
// A cluster of blocks takes some tiles of 16 weight rows; each of its blocks a slice of K of all of them. A block copies
// its weights into shared memory before the kernel in front of it is done, then quantizes its slice of every row of x,
// multiplies (m16n8k32 int8), and sends its int32 sums to the block of the cluster that owns the tile, which adds them
// up. Results are exact in int32 and rounded as on the CPU. sm_90a alone.
#include "step.cuh"

constexpr int THREADS = 256, WARPS = 8, TOKENS = 8;
constexpr int CHUNKS = 7;   // float4 of a slice per lane: slices of up to 14 groups of 64
constexpr int PAD = 20;     // ints between the tokens of a tile of 16 sums

template <int EPILOGUE> __device__ __forceinline__ void step_gemm(const StepGemm& g) {
    constexpr int MATRICES = EPILOGUE == GATE_UP ? 2 : 1;
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ int sums[TOKENS];
    __shared__ float token_scales[TOKENS];
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, group = lane / 4, t = lane % 4;
    const int size = cluster_size(), rank = cluster_rank(), cluster = blockIdx.x / size;
    const int groups = g.k / 64, first_group = groups * rank / size, count = groups * (rank + 1) / size - first_group;
    const int most = (groups + size - 1) / size, stride = (most | 1) * 16;  // odd: rows lie in other banks
    const int tile0 = cluster * g.tiles, tiles = min(g.tiles, (g.n + 15) / 16 - tile0), rows = tiles * 16;
    const int act_at = (MATRICES * g.tiles * 16 * stride + 1023) / 1024 * 1024;
    const int partial_at = act_at + (most + 1) / 2 * TOKENS * 128;
    const int owned = (g.round + size - 1) / size;   // tiles that a block adds up at once
    uint8_t* act = memory + act_at;  // [atoms of 128, TOKENS, 128], chunks of 16 swizzled
    const uint32_t base = shared_address(memory);
    const int* partial = reinterpret_cast<const int*>(memory + partial_at);  // [size, MATRICES, owned, TOKENS, PAD]

    begin_turn(g.turn);
    cluster_begin();
    // Half a warp has a row: slices are at most 14 groups.
    for (int r = tid / 16; r < MATRICES * rows; r += THREADS / 16) {
        const int second = r >= rows, within = r - second * rows, row = tile0 * 16 + within, chunk = tid % 16;
        const long long at = static_cast<long long>(row + second * g.n) * (g.k / 4) + (first_group + chunk) * 16;
        if (chunk < count)
            copy_16(base + (second * g.tiles * 16 + within) * stride + chunk * 16, g.weights + (row < g.n ? at : 0), row < g.n);
    }
    copy_commit();
    // A row of x by one warp, or by several where there are few.
    const int parts = g.m == 1 ? WARPS : g.m == 2 ? 4 : g.m <= 4 ? 2 : 1, part = warp % parts, token = warp / parts;
    const int column0 = first_group * 64, quads = count * 16;
    auto quad_of = [&](int i) { return lane + 32 * (i * parts + part); };
    float4 w[CHUNKS], x[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        w[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
        if (g.norm && quad_of(i) < quads) w[i] = __ldg(reinterpret_cast<const float4*>(g.norm + column0) + quad_of(i));
    }
    if (tid < TOKENS) sums[tid] = 0;
    wait_turn(g.turn);
    if (token < g.m) {
        const float4* from = reinterpret_cast<const float4*>(g.x + static_cast<long long>(token) * g.k + column0);
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
            if (quad_of(i) < quads) x[i] = __ldcg(from + quad_of(i));
        const float2 how = norm_and_scale(g.before, g.x, g.norm, token, g.k, g.eps);
        int sum = 0;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            const int quad = quad_of(i);
            if (quad < quads)
                *reinterpret_cast<uint32_t*>(act + (quad / 32 * TOKENS + token) * 128 + place_of_quad(quad, token)) =
                    quantize_four(x[i], w[i], how, sum);
        }
        sum = __reduce_add_sync(ALL, sum);
        if (lane == 0) atomicAdd(&sums[token], sum);
        if (lane == 0 && part == 0) token_scales[token] = how.y;
    }
    copy_wait<0>();
    __syncthreads();
    cluster_wait();  // every block of the cluster has begun, so its shared memory is there

#pragma unroll 1
    for (int first = 0; first < tiles; first += g.round) {
        const int now = min(g.round, tiles - first);
        if (first) cluster_sync();  // the sums of the round before have been read
#pragma unroll 1
        for (int tile = warp; tile < now; tile += WARPS) {
            int acc[MATRICES][2][4] = {};
            const uint8_t* words = memory + ((first + tile) * 16 + group) * stride + t * 4;
            const uint32_t acts = base + act_at + lane % 8 * 128;
#pragma unroll 2
            for (int i = 0; i < count; i++) {
                uint32_t b[4];
                load_matrix_x4(b, acts + i / 2 * (TOKENS * 128) + (((i % 2 * 4 + lane / 8) ^ lane % 8) * 16));
#pragma unroll
                for (int k = 0; k < MATRICES; k++) {
                    const uint8_t* from = words + k * g.tiles * 16 * stride + i * 16;
                    const Unpacked u(*reinterpret_cast<const uint32_t*>(from), *reinterpret_cast<const uint32_t*>(from + 8 * stride));
                    mma_s8(acc[k][0], u.a[0], u.a8[0], u.a[1], u.a8[1], b[0], b[1]);
                    mma_s8(acc[k][1], u.a[2], u.a8[2], u.a[3], u.a8[3], b[2], b[3]);
                }
            }
            const int owner = tile / owned;
            const uint32_t to = shared_of(base + partial_at, owner) + ((rank * MATRICES * owned + tile - owner * owned) * TOKENS * PAD + group) * 4;
#pragma unroll
            for (int k = 0; k < MATRICES; k++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int of = t * 2 + e % 2;
                    if (of < g.m) put_remote(to + ((k * owned * TOKENS + of) * PAD + e / 2 * 8) * 4, acc[k][0][e] + acc[k][1][e] - sums[of]);
                }
        }
        cluster_sync();
        // A warp has a row of x, 32 of its results at a time.
        const int mine = min(owned, now - rank * owned);
        Tally tally;
#pragma unroll 1
        for (int pair = 0; 2 * pair < mine; pair++) {
            const int tile = 2 * pair + lane / 16, row = (tile0 + first + rank * owned + tile) * 16 + lane % 16;
            if (tile >= mine || row >= g.n || warp >= g.m) continue;
            float* out = g.out + static_cast<long long>(warp) * g.n + row;
            const float before = EPILOGUE == ADD ? __ldcg(out) : 0.0f;
            const float2 factor = __ldg(reinterpret_cast<const float2*>(g.scales) + (EPILOGUE == GATE_UP ? 0 : (row >= g.bound[0]) + (row >= g.bound[1])));
            const int* at = partial + (tile * TOKENS + warp) * PAD + lane % 16;
            int dot = 0, up = 0;
#pragma unroll 4
            for (int i = 0; i < size; i++, at += MATRICES * owned * TOKENS * PAD) {
                dot += at[0];
                if (EPILOGUE == GATE_UP) up += at[owned * TOKENS * PAD];
            }
            float v = descale(dot, token_scales[warp], factor.x, factor.y);
            if (EPILOGUE == GATE_UP) v = activate(g.activation, v, descale(up, token_scales[warp], g.scales[2], g.scales[3]));
            if (EPILOGUE == ADD) v = __fadd_rn(before, v);
            *out = v;
            if (EPILOGUE != STORE) tally.add(v, row, g.next_norm);
        }
        if (EPILOGUE != STORE && mine > 0 && warp < g.m) {
            tally.join_warp();
            if (lane == 0) tally.give(g.after + warp);
        }
    }
    end_turn(g.turn);
}

#define STEP_KERNEL(name, epilogue)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name(const __grid_constant__ StepGemm g) {               \
        step_gemm<epilogue>(g);                                                                                       \
    }
STEP_KERNEL(step_gemm_store, STORE)
STEP_KERNEL(step_gemm_add, ADD)
STEP_KERNEL(step_gemm_gate_up, GATE_UP)
