// Ternary products of a decoding step of one row, with the norm and the quantization of their input in front and the
// statistics for the next norm behind: out[n] = dot(weights[n], quantized(norm(x))).
//
// Every block has some rows of weights, and quantizes all of x for itself: one row is less work than telling others. Its warps
// share these rows out in sets; the warps of a set share the columns, of which a warp keeps the activations in registers. A set
// has a ring of rows in shared memory, which is filled before the kernel in front is done. Results are exact in int32 and
// rounded as on the CPU. sm_90a alone.
#include "exchange.cuh"
#include "step.cuh"

constexpr int THREADS = 512, WARPS = THREADS / 32;
constexpr int CHUNKS = 7;  // of 512 columns each, of a warp
constexpr int QUADS = 4;   // float4 of x per thread at once

template <int EPILOGUE> __device__ __forceinline__ void step_gemv(const StepGemm& g) {
    constexpr int MATRICES = EPILOGUE == GATE_UP ? 2 : 1;
    extern __shared__ __align__(128) uint8_t memory[];
    __shared__ int act_sum;
    __shared__ float2 norm_scale;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int parts = g.tiles, sets = WARPS / parts, slots = g.round, set = warp / parts, part = warp % parts;
    const int row0 = static_cast<int>(static_cast<long long>(g.n) * blockIdx.x / gridDim.x);
    const int rows = static_cast<int>(static_cast<long long>(g.n) * (blockIdx.x + 1) / gridDim.x) - row0;
    const int first = rows * set / sets, count = rows * (set + 1) / sets - first, row_bytes = g.k / 4;
    // int8 x, in whole chunks; sums of all rows; barriers; rings.
    const int chunks = (g.k + 511) / 512, mine = (chunks + parts - 1) / parts, act_bytes = mine * parts * 512;
    const int most = (g.n + gridDim.x - 1) / gridDim.x;
    int* sums = reinterpret_cast<int*>(memory + act_bytes);  // [MATRICES, most]
    const int full_at = act_bytes + (MATRICES * most * 4 + 7) / 8 * 8, ring_at = (full_at + sets * slots * 16 + 127) / 128 * 128;
    const uint32_t base = shared_address(memory), full = base + full_at + set * slots * 16, read = full + slots * 8;
    const int ring = ring_at + set * slots * MATRICES * row_bytes;

    begin_turn(g.turn);
    const bool leads = part == 0 && lane == 0;
    auto fetch = [&](int i) {
        const int slot = i % slots;
        barrier_expect(full + slot * 8, MATRICES * row_bytes);
#pragma unroll
        for (int m = 0; m < MATRICES; m++)
            bulk_copy(base + ring + (slot * MATRICES + m) * row_bytes, g.weights + (row0 + first + i + static_cast<long long>(m) * g.n) * row_bytes,
                      row_bytes, full + slot * 8);
    };
    if (leads) {
        for (int i = 0; i < slots; i++) {
            barrier_init(full + i * 8);
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(read + i * 8), "r"(parts) : "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        for (int i = 0; i < min(slots, count); i++) fetch(i);
    }
    const int quads = g.k / 4;
    float4 w[QUADS], x[QUADS];
    auto norms = [&](int from) {
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int quad = from + i * THREADS + tid;
            w[i] = make_float4(1.0f, 1.0f, 1.0f, 1.0f);
            if (g.norm && quad < quads) w[i] = load_ahead(reinterpret_cast<const float4*>(g.norm) + quad);
        }
    };
    norms(0);
    // What the thread that has a row's result will want.
    const int row = row0 + tid;
    float2 factor = make_float2(0.0f, 0.0f), of_up = factor;
    float next_norm = 1.0f, before = 0.0f;
    if (tid < rows) {
        factor = __ldg(reinterpret_cast<const float2*>(g.scales) + (EPILOGUE == GATE_UP ? 0 : (row >= g.bound[0]) + (row >= g.bound[1])));
        if (EPILOGUE == GATE_UP) of_up = __ldg(reinterpret_cast<const float2*>(g.scales) + 1);
        if (EPILOGUE != STORE && g.next_norm) next_norm = __ldg(g.next_norm + row);
    }
    if (tid == 0) act_sum = 0;
    for (int i = tid; i < MATRICES * most; i += THREADS) sums[i] = 0;
    for (int quad = quads + tid; quad < act_bytes / 4; quad += THREADS) reinterpret_cast<uint32_t*>(memory)[quad] = 0;
    wait_turn(g.turn);
    int sum = 0;
    float2 how;
    for (int from = 0; from < quads; from += QUADS * THREADS) {
        if (from) norms(from);
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int quad = from + i * THREADS + tid;
            if (quad < quads) x[i] = __ldcg(reinterpret_cast<const float4*>(g.x) + quad);
        }
        if (from == 0) {
            if (EPILOGUE == ADD && tid < rows) before = __ldcg(g.out + row);
            // Asked for once: all warps of all blocks would wait for each other at one line.
            if (tid == 0) norm_scale = norm_and_scale(g.before, g.x, g.norm, 0, g.k, g.eps);
            __syncthreads();
            how = norm_scale;
        }
#pragma unroll
        for (int i = 0; i < QUADS; i++) {
            const int quad = from + i * THREADS + tid;
            if (quad < quads) reinterpret_cast<uint32_t*>(memory)[quad] = quantize_four(x[i], w[i], how, sum);
        }
    }
    sum = __reduce_add_sync(ALL, sum);
    if (lane == 0) atomicAdd(&act_sum, sum);
    __syncthreads();

    uint4 act[CHUNKS];
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        if (c < mine) act[c] = reinterpret_cast<const uint4*>(memory)[(part * mine + c) * 32 + lane];
    int phase = 0;
#pragma unroll 1
    for (int i = 0, slot = 0; i < count; i++) {
        barrier_wait(full + slot * 8, phase);
#pragma unroll
        for (int m = 0; m < MATRICES; m++) {
            const uint32_t* words = reinterpret_cast<const uint32_t*>(memory + ring + (slot * MATRICES + m) * row_bytes) + part * mine * 32 + lane;
            // Field c counts 4^c times, and is divided without a rest at the end.
            int s[4] = {};
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
                if (c < mine) {
                    const uint32_t word = words[c * 32];
                    s[0] = dot4(word & FIELD, act[c].x, s[0]);
                    s[1] = dot4(word & FIELD << 2, act[c].y, s[1]);
                    s[2] = dot4(word & FIELD << 4, act[c].z, s[2]);
                    s[3] = dot4(word & FIELD << 6, act[c].w, s[3]);
                }
            const int dot = __reduce_add_sync(ALL, s[0] + (s[1] >> 2) + (s[2] >> 4) + (s[3] >> 6));
            if (lane == 0) atomicAdd(&sums[m * most + first + i], dot);
        }
        if (i + slots < count) {
            __syncwarp();
            if (lane == 0) asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(read + slot * 8) : "memory");
            // All warps of the set have read the row.
            if (leads) barrier_wait(read + slot * 8, phase), fetch(i + slots);
        }
        if (++slot == slots) slot = 0, phase ^= 1;
    }
    __syncthreads();
    Tally tally;
    if (tid < rows) {
        float v = descale(sums[tid] - act_sum, how.y, factor.x, factor.y);
        if (EPILOGUE == GATE_UP) v = activate(g.activation, v, descale(sums[most + tid] - act_sum, how.y, of_up.x, of_up.y));
        if (EPILOGUE == ADD) v = __fadd_rn(before, v);
        g.out[row] = v;
        if (EPILOGUE != STORE) tally.add(v, top_key(__fmul_rn(v, next_norm), row));
    }
    if (EPILOGUE != STORE && warp * 32 < rows) {
        tally.join_warp();
        if (lane == 0) tally.give(g.after);
    }
    end_turn(g.turn);
}

#define STEP_KERNEL(name, epilogue)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name(const __grid_constant__ StepGemm g) {               \
        step_gemv<epilogue>(g);                                                                                       \
    }
STEP_KERNEL(step_gemv_store, STORE)
STEP_KERNEL(step_gemv_add, ADD)
STEP_KERNEL(step_gemv_gate_up, GATE_UP)
