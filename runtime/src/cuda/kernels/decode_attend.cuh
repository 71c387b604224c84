// Attention in the persistent kernel: the part of decode.cu that a block with a share of it runs between two products.
//
// In: queries, keys and values of the token in slots, what decode.cu declares before it includes this. Out: a vector per
// query head in slots.
#pragma once

// Which part of attention this block has, over positions [first, last): in a short context (WHOLE) one query head, in a
// long one all query heads of one KV head. Two kernels, so that only one kind of code has to be at hand.
template <bool WHOLE> struct Share {
    int unit, splits, split, head, first, last;
    __device__ __forceinline__ Share(const Place& x, int positions) {
        const int block = blockIdx.x;
        splits = 1, split = 0, unit = block, first = 0, last = positions;
        if constexpr (WHOLE) {
            head = unit / (x.p.heads / x.p.kv_heads);
        } else {
            const int most = max(1, min(min(MAX_SPLITS, static_cast<int>(gridDim.x) / x.p.kv_heads), (positions + x.p.run - 1) / x.p.run));
            const int run = ((positions + most - 1) / most + UNIT - 1) / UNIT * UNIT;
            splits = (positions + run - 1) / run;
            unit = block / splits, split = block % splits, head = unit;
            first = split * run, last = min(first + run, positions);
        }
    }
    __device__ __forceinline__ bool idle(const Place& x) const { return unit >= (WHOLE ? x.p.heads : x.p.kv_heads); }
};

// Starts bringing what attention of `layer` will read in a short context, by one thread: the first values to shared memory, all
// else to the L2 cache.
__device__ __forceinline__ void prefetch_cache(const Place& x, int layer, const Share<true>& u) {
    if (threadIdx.x != THREADS - 1) return;
    const CacheRun keys(x.p.cache, x.s.pages, layer, 0, u.head), values(x.p.cache, x.s.pages, layer, 1, u.head);
    const int row = x.p.head_dim * 2, older = u.last - 1;
    const uint32_t barrier = shared_address(&x.s.barriers[VALUES]), to = shared_address(x.s.attention.exact.values);
    // What lies there was written by ordinary stores, here and by other blocks.
    asm volatile("fence.proxy.async;" ::: "memory");
    barrier_expect(barrier, min(older, KEPT) * row);
#pragma unroll 1
    for (int at = 0; at < older; at += PAGE) {
        const int bytes = min(older - at, PAGE) * row;
        if (at < KEPT) bulk_copy(to + at * row, values.row(at), bytes, barrier);
        else bulk_prefetch(values.row(at), bytes);
        bulk_prefetch(keys.row(at), bytes);
    }
}

// Waits for element `at` of the vector that starts at `start` of the slots with queries, keys and values, and for the one that
// RoPE pairs it with; returns it rotated, where `turns` says so.
__device__ __forceinline__ float receive_rotated(const Decode& p, int start, int at, bool turns, int position, uint32_t ticket) {
    const int pairs = p.rope_dim / 2;
    turns = turns && at < p.rope_dim;
    const int pair = p.neox ? (at >= pairs ? at - pairs : at) : at / 2, other = p.neox ? (at >= pairs ? at - pairs : at + pairs) : at ^ 1;
    const bool second = p.neox ? at >= pairs : at % 2;
    const int mine = start + at, its = turns ? start + other : mine;
    float2 angle = make_float2(1.0f, 0.0f);
    if (turns) angle = p.angles[static_cast<long long>(position) * pairs + pair];
    Slot a = look(p.qkv + mine / EACH_SLOT), b = look(p.qkv + its / EACH_SLOT);
    while (a.ticket != ticket || b.ticket != ticket) a = look(p.qkv + mine / EACH_SLOT), b = look(p.qkv + its / EACH_SLOT);
    auto element = [](const Slot& from, int i) { return i == 0 ? from.v[0] : i == 1 ? from.v[1] : from.v[2]; };
    const float v = element(a, mine % EACH_SLOT), w = element(b, its % EACH_SLOT);
    return !turns ? v : second ? fmaf(w, angle.y, v * angle.x) : fmaf(v, angle.x, -(w * angle.y));
}

// Attention of query head `unit`, in the CPU's order of operations (kernels::arch::all::attention is the definition).
// A call, since ptxas 13.0 takes the stack pointer for something else where this is inlined into decode_short.
__device__ __noinline__ void attend_exactly(const Decode& p, int layer, int newest, int unit, uint32_t ticket, uint32_t parity) {
    extern __shared__ __align__(128) uint8_t memory[];
    Shared& all = *reinterpret_cast<Shared*>(memory);
    auto& s = all.attention;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, l = lane % 4, dim = p.head_dim, group = p.heads / p.kv_heads;
    const int positions = newest + 1, padded = (positions + 7) / 8 * 8, head = unit / group;
    const CacheRun keys(p.cache, all.pages, layer, 0, head), values(p.cache, all.pages, layer, 1, head);
    // Four lanes have a position; keys are read before the query is there.
    uint4 k[MAX_DIM / 32];
    auto load_keys = [&](int at) {
        if (at >= newest) return;
        const __half* key = keys.row(at) + 8 * l;
#pragma unroll
        for (int j = 0; j < MAX_DIM / 32; j++)
            if (32 * j < dim) k[j] = __ldcg(reinterpret_cast<const uint4*>(key + 32 * j));
    };
    load_keys(warp * 8 + lane / 4);
    // 128 threads each for the query, the new key and the new value: element `at` and the one that RoPE pairs it with.
    if (const int of = tid / MAX_DIM, at = tid % MAX_DIM; of != 3 && at < dim) {
        const int start = of == 0 ? unit * dim : p.heads * dim + ((of == 2 ? p.kv_heads : 0) + head) * dim;
        const float v = receive_rotated(p, start, at, of != 2, newest, ticket);
        if (of == 0) s.exact.query[at] = round_half(v);
        else {
            const __half fresh = __float2half_rn(v);
            (of == 2 ? s.value : s.key)[at] = fresh;
            // Seen by others in the next token at the earliest: `decode` has a fence before it.
            if (unit % group == 0) (of == 2 ? values : keys).row(newest)[at] = fresh;
        }
    }
    __syncthreads();
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(dim)));
    float highest = -INFINITY;
#pragma unroll 1
    for (int base = warp * 8; base < padded; base += KEPT) {
        const int at = base + lane / 4;
        float sum[8] = {};
#pragma unroll
        for (int j = 0; j < MAX_DIM / 32; j++)
            if (32 * j < dim) {
                if (at >= newest) k[j] = *reinterpret_cast<const uint4*>(s.key + 32 * j + 8 * l);
                const uint32_t both[4] = {k[j].x, k[j].y, k[j].z, k[j].w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(both[i]);
                    sum[2 * i] = __fmaf_rn(s.exact.query[32 * j + 8 * l + 2 * i], pair.x, sum[2 * i]);
                    sum[2 * i + 1] = __fmaf_rn(s.exact.query[32 * j + 8 * l + 2 * i + 1], pair.y, sum[2 * i + 1]);
                }
            }
        load_keys(at + KEPT);
        const float found = __fmul_rn(add_lanes(sum, l), scale), score = at < positions ? found : -INFINITY;
        if (l == 0) s.exact.scores[at] = score;
        highest = fmaxf(highest, score);
    }
#pragma unroll
    for (int step = 4; step < 32; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
    if (lane == 0) s.exact.maxima[warp] = highest;
    // A warp has a row of values, and of each 32 positions two: residues warp and warp + 16. Values that are not in
    // shared memory are read before the weights are there.
    const int d = 4 * lane;
    uint2 v[KEPT / WARPS];
    auto load_values = [&](int base) {
#pragma unroll
        for (int i = 0; i < KEPT / WARPS; i++) {
            const int at = base + warp + WARPS * i;
            v[i] = make_uint2(0, 0);
            if (at < newest && d < dim) v[i] = __ldcg(reinterpret_cast<const uint2*>(values.row(at) + d));
        }
    };
    if (positions > KEPT) load_values(KEPT);
    __syncthreads();
    const int whole = (positions + KEPT - 1) / KEPT * KEPT;  // rows of values that are taken: the last of them weigh nothing
    float e = 0.0f;
    if (warp * 32 < whole) {
        highest = s.exact.maxima[lane % WARPS];
#pragma unroll
        for (int step = WARPS / 2; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
        // A position per thread: at most SHORT, which is THREADS.
        if (tid < padded) e = exp_exact(__fsub_rn(s.exact.scores[tid], highest));
        float eight = __fadd_rn(e, __shfl_xor_sync(ALL, e, 4));
        eight = __fadd_rn(eight, __shfl_xor_sync(ALL, eight, 2));
        eight = __fadd_rn(eight, __shfl_xor_sync(ALL, eight, 1));
        const double sum = warp_sum(lane % 8 == 0 ? static_cast<double>(eight) : 0.0);
        if (lane == 0) s.exact.sums[warp] = sum;
    }
    __syncthreads();
    if (warp * 32 < whole) {
        const float inverse = static_cast<float>(1.0 / sum_of_few(s.exact.sums, whole / 32));
        s.exact.scores[tid] = round_half(__fmul_rn(e, inverse));
    }
    barrier_wait(shared_address(&all.barriers[VALUES]), parity);
    __syncthreads();
    float chain[2][4] = {};
    auto add = [&](int i, float weight, uint2 four) {
        const float2 low = halves(four.x), high = halves(four.y);
        float (&sum)[4] = chain[i % 2];
        sum[0] = __fmaf_rn(weight, low.x, sum[0]), sum[1] = __fmaf_rn(weight, low.y, sum[1]);
        sum[2] = __fmaf_rn(weight, high.x, sum[2]), sum[3] = __fmaf_rn(weight, high.y, sum[3]);
    };
    const uint2 fresh = *reinterpret_cast<const uint2*>(s.value + d);
    if (d < dim) {
#pragma unroll
        for (int i = 0; i < KEPT / WARPS; i++) {
            const int at = warp + WARPS * i;
            uint2 four = make_uint2(0, 0);
            if (at < newest) four = *reinterpret_cast<const uint2*>(s.exact.values + at * dim + d);
            add(i, s.exact.scores[at], at == newest ? fresh : four);
        }
#pragma unroll 1
        for (int base = KEPT; base < positions; base += KEPT) {
#pragma unroll
            for (int i = 0; i < KEPT / WARPS; i++) {
                const int at = base + warp + WARPS * i;
                add(i, s.exact.scores[at], at == newest ? fresh : v[i]);
            }
            if (base + KEPT < positions) load_values(base + KEPT);
        }
        float4 sums;
        sums.x = __fadd_rn(chain[0][0], chain[1][0]), sums.y = __fadd_rn(chain[0][1], chain[1][1]);
        sums.z = __fadd_rn(chain[0][2], chain[1][2]), sums.w = __fadd_rn(chain[0][3], chain[1][3]);
        *reinterpret_cast<float4*>(&s.exact.parts[warp][d]) = sums;
    }
    __syncthreads();
    if (warp * 30 >= dim) return;
    const int own = warp * 30 + lane;
    float of_own = 0.0f;
    if (lane < 30 && own < dim) {
        float t[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            t[i] = __fadd_rn(__fadd_rn(s.exact.parts[i][own], s.exact.parts[i + 8][own]), __fadd_rn(s.exact.parts[i + 4][own], s.exact.parts[i + 12][own]));
        of_own = __fadd_rn(__fadd_rn(t[0], t[1]), __fadd_rn(t[2], t[3]));
    }
    const float next = __shfl_down_sync(ALL, of_own, 1), third = __shfl_down_sync(ALL, of_own, 2);
    if (lane < 30 && lane % EACH_SLOT == 0 && own < dim)
        publish(p.attn + unit * slots_of(dim) + own / EACH_SLOT, of_own, next, third, ticket);
}

// Attention of this block's share of a long context. Blocks that have runs of one KV head merge them, each some slots of its
// heads (PIECE of them at a time), to slots of every query head's own.
__device__ __noinline__ void attend_runs(const Decode& p, int layer, int position, const Share<false> u, uint32_t ticket) {
    Shared& all = shared();
    auto& s = all.attention;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, positions = position + 1, group = p.heads / p.kv_heads, dim = p.head_dim;
    const bool owner = u.last == positions;
    const CacheRun keys(p.cache, all.pages, layer, 0, u.head), values(p.cache, all.pages, layer, 1, u.head);
    const int h = tid / MAX_DIM, d = tid % MAX_DIM;
    Block block{keys, values, u.last, owner ? position : -1, s.key, s.value};
    float2 weights;
    const float scale = rsqrtf(static_cast<float>(dim)) * 1.4426950408889634f;
    const float sum = block.run(u.first, s.runs.query, scale, s.runs.block, weights, [&] {
        float v = 0.0f;
        if (h < group && d < dim) v = receive_rotated(p, (u.head * group + h) * dim, d, true, position, ticket);
        s.runs.query[tid] = __float2half_rn(v);
        if (owner && h >= 2 && d < dim) {  // the last two quarters: key, value
            const __half fresh = __float2half_rn(receive_rotated(p, p.heads * dim + ((h == 3 ? p.kv_heads : 0) + u.head) * dim, d, h == 2, position, ticket));
            (h == 3 ? s.value : s.key)[d] = fresh;
            // Seen by others in the next token at the earliest: `decode` has a fence before it.
            (h == 3 ? values : keys).row(position)[d] = fresh;
        }
        __syncthreads();
    });
    s.runs.flat[tid] = sum;
    if (d == 0) s.runs.weights[h] = weights;
    __syncthreads();
    // [KV head, piece, run, PIECE + 1]: slots of values, then one of the weights.
    const int per_head = slots_of(dim), of_head = (per_head + PIECE - 1) / PIECE, pieces = group * of_head;
    uint4* partials = p.partial + static_cast<long long>(u.head) * MAX_PIECES * MAX_SPLITS * (PIECE + 1);
    for (int i = tid; i < pieces * (PIECE + 1); i += THREADS) {
        const int piece = i / (PIECE + 1), within = i % (PIECE + 1), head = piece / of_head, k = EACH_SLOT * (piece % of_head * PIECE + within);
        uint4* to = partials + (piece * MAX_SPLITS + u.split) * (PIECE + 1) + within;
        const float* flat = s.runs.flat + head * MAX_DIM + k;
        if (within == PIECE) publish(to, s.runs.weights[head].x, s.runs.weights[head].y, 0.0f, ticket);
        else if (k < dim) publish(to, flat[0], k + 1 < dim ? flat[1] : 0.0f, k + 2 < dim ? flat[2] : 0.0f, ticket);
    }
    // A warp has a slot, each of its lanes that of one run.
#pragma unroll 1
    for (int piece = u.split; piece < pieces; piece += u.splits) {
        const int slot = piece % of_head * PIECE + warp, head = piece / of_head;
        if (warp >= PIECE || slot >= per_head) continue;
        const uint4* from = partials + (piece * MAX_SPLITS + min(lane, u.splits - 1)) * (PIECE + 1);
        Slot a = look(from + warp), b = look(from + PIECE);
        while (a.ticket != ticket || b.ticket != ticket) a = look(from + warp), b = look(from + PIECE);
        float highest = b.v[0];
#pragma unroll
        for (int step = 16; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
        const float factor = lane < u.splits ? exp2f(b.v[0] - highest) : 0.0f;
        float total = factor * b.v[1], merged[EACH_SLOT];
#pragma unroll
        for (int j = 0; j < EACH_SLOT; j++) merged[j] = factor * a.v[j];
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            total += __shfl_xor_sync(ALL, total, step);
#pragma unroll
            for (int j = 0; j < EACH_SLOT; j++) merged[j] += __shfl_xor_sync(ALL, merged[j], step);
        }
        if (lane == 0)
            publish(p.attn + (u.head * group + head) * per_head + slot, __fdividef(merged[0], total), __fdividef(merged[1], total), __fdividef(merged[2], total), ticket);
    }
    __syncthreads();
}
