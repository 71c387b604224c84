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
            splits = max(1, min(min(MAX_SPLITS, static_cast<int>(gridDim.x) / x.p.kv_heads), (positions + x.p.run - 1) / x.p.run));
            unit = block / splits, split = block % splits, head = unit;
            const int run = (positions + splits - 1) / splits;
            first = min(split * run, positions), last = min(first + run, positions);
        }
    }
    __device__ __forceinline__ bool idle(const Place& x) const { return unit >= (WHOLE ? x.p.heads : x.p.kv_heads); }
};

// Brings what attention of `layer` will read into the L2 cache.
template <bool WHOLE> __device__ __forceinline__ void prefetch_cache(const Place& x, int layer, const Share<WHOLE>& u) {
    const int lines = (x.p.head_dim + 63) / 64;  // of 128 bytes, per row
#pragma unroll 1
    for (int i = threadIdx.x; i < (u.last - u.first) * 2 * lines; i += THREADS) {
        const int row = i / (2 * lines), part = i % (2 * lines);
        const CacheRun run(x.p.cache, x.s.pages, layer, part / lines, u.head);
        asm volatile("prefetch.global.L2 [%0];" ::"l"(run.row(u.first + row) + part % lines * 64));
    }
}

// Publishes `n` values of shared memory from slot `to` on.
__device__ __forceinline__ void publish_all(uint4* to, const float* values, int n, uint32_t ticket) {
#pragma unroll 1
    for (int slot = threadIdx.x; slot < slots_of(n); slot += THREADS) {
        const int k = 3 * slot;
        publish(to + slot, values[k], k + 1 < n ? values[k + 1] : 0.0f, k + 2 < n ? values[k + 2] : 0.0f, ticket);
    }
}

// One head of attention, to slots of its own.
__device__ __forceinline__ void publish_head(uint4* to, const float* values, int n, uint32_t ticket) {
    const int k = EACH_SLOT * threadIdx.x;
    if (k >= n) return;
    publish(to + threadIdx.x, values[k], k + 1 < n ? values[k + 1] : 0.0f, k + 2 < n ? values[k + 2] : 0.0f, ticket);
}

// Attention of one query head over `positions` positions by the block, in the CPU's order of operations
// (kernels::arch::all::attention is the definition): `query` and the newest key and value are in shared memory.
// A call, since ptxas 13.0 takes the stack pointer for something else where this is inlined into decode_short.
__device__ __noinline__ void attend_exactly(const Place& x, const CacheRun& keys, const CacheRun& values, int positions) {
    auto& s = x.s.attention;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, l = lane % 4, dim = keys.dim, newest = positions - 1;
    const int padded = (positions + 7) / 8 * 8;
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(dim)));
    float highest = -INFINITY;
    // Four lanes have a position.
#pragma unroll 1
    for (int base = warp * 8; base < padded; base += WARPS * 8) {
        const int at = base + lane / 4;
        const __half* key = at >= newest ? s.key : keys.row(at);
        float sum[8] = {};
#pragma unroll
        for (int j = 0; j < MAX_DIM / 32; j++)
            if (32 * j < dim) {
                const uint4 k = *reinterpret_cast<const uint4*>(key + 32 * j + 8 * l);
                const uint32_t pairs[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 pair = halves(pairs[i]);
                    sum[2 * i] = __fmaf_rn(s.query[32 * j + 8 * l + 2 * i], pair.x, sum[2 * i]);
                    sum[2 * i + 1] = __fmaf_rn(s.query[32 * j + 8 * l + 2 * i + 1], pair.y, sum[2 * i + 1]);
                }
            }
        const float found = __fmul_rn(add_lanes(sum, l), scale), score = at < positions ? found : -INFINITY;
        if (l == 0) s.exact.scores[at] = score;
        highest = fmaxf(highest, score);
    }
#pragma unroll
    for (int step = 4; step < 32; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
    if (lane == 0) s.exact.maxima[warp] = highest;
    __syncthreads();
    highest = s.exact.maxima[lane % WARPS];
#pragma unroll
    for (int step = WARPS / 2; step > 0; step /= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
    // A position per thread: at most SHORT, which is THREADS.
    const float e = tid < padded ? exp_exact(__fsub_rn(s.exact.scores[tid], highest)) : 0.0f;
    float eight = __fadd_rn(e, __shfl_xor_sync(ALL, e, 4));
    eight = __fadd_rn(eight, __shfl_xor_sync(ALL, eight, 2));
    eight = __fadd_rn(eight, __shfl_xor_sync(ALL, eight, 1));
    const float inverse = static_cast<float>(1.0 / sum_block(lane % 8 == 0 ? static_cast<double>(eight) : 0.0, s.exact.sums));
    if (tid < padded) s.exact.scores[tid] = round_half(__fmul_rn(e, inverse));
    __syncthreads();
    // 64 threads have a row of values, and of each 32 positions four: residues part + 8 c.
    const int part = tid / 64, d = tid % 64 * 2;
    float chain[4][2] = {};
    if (d < dim)
#pragma unroll 2
        for (int base = part; base < positions; base += 32)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int at = base + 8 * c;
                // Past the end: a sum that does not change by 0 times a value.
                const __half* value = at >= newest ? s.value : values.row(at);
                const float weight = at < positions ? s.exact.scores[at] : 0.0f;
                const float2 pair = halves(*reinterpret_cast<const uint32_t*>(value + d));
                chain[c][0] = __fmaf_rn(weight, pair.x, chain[c][0]);
                chain[c][1] = __fmaf_rn(weight, pair.y, chain[c][1]);
            }
#pragma unroll
    for (int i = 0; i < 2; i++)
        s.exact.parts[part][d + i] = __fadd_rn(__fadd_rn(chain[0][i], chain[2][i]), __fadd_rn(chain[1][i], chain[3][i]));
    __syncthreads();
    if (tid < dim) {
        float t[4];
#pragma unroll
        for (int i = 0; i < 4; i++) t[i] = __fadd_rn(s.exact.parts[i][tid], s.exact.parts[i + 4][tid]);
        s.flat[tid] = __fadd_rn(__fadd_rn(t[0], t[1]), __fadd_rn(t[2], t[3]));
    }
    __syncthreads();
}

// Attention of this block's share. The slots of every query head are its own. Runs of positions are merged by the block
// of the first run.
template <bool WHOLE>
__device__ __forceinline__ void attention(const Place& x, int layer, int position, const Share<WHOLE>& u, uint32_t ticket) {
    const Decode& p = x.p;
    auto& s = x.s.attention;
    const int tid = threadIdx.x, positions = position + 1, group = p.heads / p.kv_heads, dim = p.head_dim, pairs = p.rope_dim / 2;
    const int heads = WHOLE ? 1 : group;
    if (tid >= THREADS - pairs) {
        const int pair = tid - (THREADS - pairs);
        s.angles[pair] = p.angles[static_cast<long long>(position) * pairs + pair];
    }
    // Queries, then the new key and value: 256 threads wait for queries, 128 for each of the others.
    const int q0 = (WHOLE ? u.unit : u.head * group) * dim;
    const int start = tid < 256 ? q0 : tid < 384 ? x.query + u.head * dim : x.query + x.kv + u.head * dim;
    const int wanted = tid < 256 ? heads * dim : dim, slot = start / EACH_SLOT + (tid < 256 ? tid : tid % 128);
    if (slot * EACH_SLOT < start + wanted) {
        const Slot found = receive(p.qkv + slot, ticket);
        float* to = tid < 256 ? s.raw : tid < 384 ? s.fresh : s.fresh + MAX_DIM;
#pragma unroll
        for (int j = 0; j < EACH_SLOT; j++) {
            const int k = slot * EACH_SLOT + j - start;
            if (k >= 0 && k < wanted) to[k] = found.v[j];
        }
    }
    __syncthreads();
    const bool owner = u.last == positions;
    const float scale = rsqrtf(static_cast<float>(dim)) * 1.4426950408889634f;  // exponents to base 2
    // Element d of a head after RoPE.
    auto rotated = [&](const float* v, int d) {
        if (d >= p.rope_dim) return v[d];
        const int pair = p.neox ? (d >= pairs ? d - pairs : d) : d / 2;
        const bool second = p.neox ? d >= pairs : d % 2;
        const float a = v[p.neox ? pair : 2 * pair], b = v[p.neox ? pair + pairs : 2 * pair + 1];
        const float2 angle = s.angles[pair];
        return second ? fmaf(a, angle.y, b * angle.x) : fmaf(a, angle.x, -(b * angle.y));
    };
    const int h = tid / MAX_DIM, d = tid % MAX_DIM;
    if (h < heads) s.query[tid] = d < dim ? round_half(rotated(s.raw + h * dim, d)) * (WHOLE ? 1.0f : scale) : 0.0f;
    else if (!WHOLE && h < GROUP) s.query[tid] = 0.0f;
    if (owner && h >= 2 && d < dim) {  // the last two quarters: key, value
        const bool value = h == 3;
        const __half v = __float2half_rn(value ? s.fresh[MAX_DIM + d] : rotated(s.fresh, d));
        (value ? s.value : s.key)[d] = v;
        if (!WHOLE || u.unit % group == 0) {
            CacheRun(p.cache, x.s.pages, layer, value, u.head).row(position)[d] = v;
            __threadfence();
        }
    }
    __syncthreads();
    const CacheRun keys(p.cache, x.s.pages, layer, 0, u.head), values(p.cache, x.s.pages, layer, 1, u.head);
    const int fresh = owner ? position : -1;
    if constexpr (WHOLE) {
        attend_exactly(x, keys, values, positions);
        publish_head(p.attn + u.unit * slots_of(dim), s.flat, dim, ticket);
    } else {
        Four::run(keys, values, u.first, u.last, s.query, fresh, s.key, s.value, s.four,
                  [&](int of, int at, float sum, float maximum, float weight) {
                      s.flat[of * MAX_DIM + at] = u.splits == 1 ? __fdividef(sum, weight) : sum;
                      if (at == 0) s.flat[GROUP * MAX_DIM + 2 * of] = maximum, s.flat[GROUP * MAX_DIM + 2 * of + 1] = weight;
                  });
        __syncthreads();
        uint4* out = p.attn + u.head * group * slots_of(dim);
        auto publish_heads = [&](const float* from) {
    #pragma unroll 1
            for (int i = 0; i < group; i++) publish_head(out + i * slots_of(dim), from + i * MAX_DIM, dim, ticket);
        };
        if (u.splits == 1) return publish_heads(s.flat);
        uint4* partials = p.partial + u.head * MAX_SPLITS * PART_SLOTS;
        publish_all(partials + u.split * PART_SLOTS, s.flat, PART, ticket);
        if (u.split != 0) return;
    #pragma unroll 1
        for (int i = tid; i < u.splits * PART_SLOTS; i += THREADS) {
            const Slot found = receive(partials + i, ticket);
            const int k = i % PART_SLOTS * 3;
    #pragma unroll
            for (int j = 0; j < 3; j++)
                if (k + j < PART) s.merge[i / PART_SLOTS][k + j] = found.v[j];
        }
        __syncthreads();
        float largest = -1e30f, sum = 0.0f, weight = 0.0f;
    #pragma unroll 1
        for (int i = 0; i < u.splits; i++) largest = fmaxf(largest, s.merge[i][GROUP * MAX_DIM + 2 * h]);
    #pragma unroll 1
        for (int i = 0; i < u.splits; i++) {
            const float factor = exp2f(s.merge[i][GROUP * MAX_DIM + 2 * h] - largest);
            weight = fmaf(factor, s.merge[i][GROUP * MAX_DIM + 2 * h + 1], weight);
            sum = fmaf(factor, s.merge[i][tid], sum);
        }
        s.flat[tid] = __fdividef(sum, weight);
        __syncthreads();
        publish_heads(s.flat);
    }
}
