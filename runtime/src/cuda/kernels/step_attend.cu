// Attention of a decoding step, with RoPE and the write to the KV cache in front and the statistics for the next norm behind:
// one token each of up to 64 sequences; a block has one query head (HEADS 1) or all that share a KV head (HEADS 4).
//
// Every float operation is done in the CPU's order (kernels::arch::all::attention is the definition), so results are
// equal to the last bit but for the order of one f64 sum. That order has the value sums of 32 residues of the position
// apart, so the blocks of a cluster do not take runs of positions but residues: with SPLITS 4 block s has positions
// 4 i + s. Values are copied into shared memory while scores are computed, the first of them before the kernel in front
// is done. sm_90a alone.
#include "exchange.cuh"
#include "step.cuh"

constexpr int THREADS = 256, WARPS = 8, MAX_PAGES = 512;

struct StepAttend {
    const float* qkv;        // [m, query + 2 kv]
    float* out;              // [m, query]
    const float2* angles;    // [positions, rope_dim / 2]
    const int* positions;    // [m]
    const int* pages;        // [m, max_pages]
    Stat* after;             // [m], of out
    const float* next_norm;  // [query]
    Turn turn;
    Cache cache;
    int max_pages, layer, heads, rope_dim, neox;
    int places;              // positions of one block at most, a multiple of 64
    int chunk;               // positions whose values are copied at once, a multiple of 32
    int spare;
};

static_assert(sizeof(StepAttend) == 136, "cuda::params has the same");

// One float per query head of a block.
template <int HEADS> struct Floats {
    float v[HEADS];
    __device__ __forceinline__ static Floats load(const float* from) {
        Floats f;
        if constexpr (HEADS == 4) {
            const float4 four = *reinterpret_cast<const float4*>(from);
            f.v[0] = four.x, f.v[1] = four.y, f.v[2] = four.z, f.v[3] = four.w;
        } else if constexpr (HEADS == 2) {
            const float2 two = *reinterpret_cast<const float2*>(from);
            f.v[0] = two.x, f.v[1] = two.y;
        } else {
            f.v[0] = *from;
        }
        return f;
    }
    __device__ __forceinline__ void store(float* to) const {
        if constexpr (HEADS == 4) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
        else *to = v[0];
    }
};

template <int N> struct Turns {
    static constexpr int value = N;
};

// Grid (SPLITS, query heads or kv heads, rows), clusters of (SPLITS, 1, 1). With two PASSES the sums of values are taken for half of
// the heads at a time, for which all values have to be in one chunk: fewer registers, and a third block on a multiprocessor.
template <int DIM, int SPLITS, int HEADS, int PASSES> __device__ __forceinline__ void step_attend(const StepAttend& p) {
    constexpr int STEPS = DIM / 32, EACH = DIM / 64;  // dimensions of a thread in the sum of values
    using Some = Floats<HEADS>;
    extern __shared__ __align__(16) uint8_t memory[];
    float* weights = reinterpret_cast<float*>(memory);                       // [places, HEADS]
    float* sums_of_two = weights + p.places * HEADS;                         // SPLITS 4: [places / 2, HEADS]
    uint8_t* values = memory + p.places * HEADS * (SPLITS == 4 ? 6 : 4);     // one or two chunks of rows
    __shared__ __align__(16) float query[HEADS][DIM], parts[4][HEADS][DIM], own[HEADS][DIM];
    __shared__ __align__(16) __half fresh_key[DIM], fresh_value[DIM];
    __shared__ float maxima[WARPS][HEADS], maximum[HEADS];
    __shared__ double doubles[WARPS][HEADS];
    __shared__ float inverses[HEADS];
    __shared__ double tally_squares[WARPS];
    __shared__ unsigned long long tally_top[WARPS];
    __shared__ int table[MAX_PAGES];
    __shared__ __align__(8) uint64_t arrived[2];  // SPLITS 1: of the two chunks of values
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, l = lane % 4;
    const int rank = SPLITS == 1 ? 0 : cluster_rank(), row = blockIdx.z;
    const int group = p.heads / p.cache.kv_heads, kv_head = HEADS == 1 ? blockIdx.y / group : blockIdx.y;
    const int first_head = HEADS == 1 ? blockIdx.y : kv_head * group, heads = HEADS == 1 ? 1 : group;
    const int width = p.heads * DIM, kv = p.cache.kv_heads * DIM;
    begin_turn(p.turn);
    if (SPLITS == 1 && tid == 0) {
        barrier_init(shared_address(&arrived[0])), barrier_init(shared_address(&arrived[1]));
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    const int page = tid < p.max_pages ? p.pages[row * p.max_pages + tid] : 0;  // on its way together with the position
    const int position = p.positions[row], positions = position + 1, residue = rank;
    const int count = positions > residue ? (positions - residue + SPLITS - 1) / SPLITS : 0;
    if (tid < p.max_pages) table[tid] = page;
    for (int i = tid + THREADS; i <= position / PAGE; i += THREADS) table[i] = p.pages[row * p.max_pages + i];
    __syncthreads();
    const CacheRun keys(p.cache, table, p.layer, 0, kv_head), cached(p.cache, table, p.layer, 1, kv_head);
    auto load = [&](int chunk) {
        const int first = chunk * p.chunk, last = min(first + p.chunk, count);
        const uint32_t to = shared_address(values) + chunk % 2 * p.chunk * DIM * 2;
        // To whole turns of 32 rows, zeros behind the last: 0 times 0 does not change a sum.
        if constexpr (SPLITS == 1) {
            const int whole = min(last, position) - first;  // rows that no kernel of this step writes
            for (int i = max(last - first, 0) * (DIM / 8) + tid; i < (last - first + 31) / 32 * 32 * (DIM / 8); i += THREADS)
                *reinterpret_cast<uint4*>(values + chunk % 2 * p.chunk * DIM * 2 + i * 16) = make_uint4(0, 0, 0, 0);
            const uint32_t barrier = shared_address(&arrived[chunk % 2]);
            if (tid == 0 && last > first) barrier_expect(barrier, whole * DIM * 2);
            // A page by one warp: its rows lie one after the other.
            const int at = warp % (p.chunk / PAGE) * PAGE, rows = min(PAGE, whole - at);
            if (lane == 0 && warp < p.chunk / PAGE && rows > 0) {
                // The copy is of another kind than the writes of the steps before.
                asm volatile("fence.proxy.async;" ::: "memory");
                bulk_copy(to + at * DIM * 2, cached.row(first + at), rows * DIM * 2, barrier);
            }
            return;
        }
        for (int index = tid; index < (last - first + 31) / 32 * 32 * (DIM / 8); index += THREADS) {
            const int i = first + index / (DIM / 8), part = index % (DIM / 8), at = SPLITS * i + residue;
            if (at != position) copy_16(to + (i - first) * DIM * 2 + part * 16, cached.row(i < last ? at : residue) + part * 8, i < last);
        }
        copy_commit();
    };
    // Where the newest position is among this block's, -1 if it is another's.
    const int newest = count > 0 && SPLITS * (count - 1) + residue == position ? count - 1 : -1;
    auto put_newest = [&](int chunk) {
        if (newest >= 0 && newest / p.chunk == chunk && tid < DIM)
            reinterpret_cast<__half*>(values)[(chunk % 2 * p.chunk + newest % p.chunk) * DIM + tid] = fresh_value[tid];
    };
    // The keys of the first turn; the newest one is not there yet and read again below.
    uint4 k[2][STEPS];
    auto load_keys = [&](int base) {
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const int place = min(base + u * WARPS * 8 + lane / 4, count - 1);
            const __half* key = keys.row(SPLITS * place + residue);
#pragma unroll
            for (int j = 0; j < STEPS; j++) k[u][j] = *reinterpret_cast<const uint4*>(key + 32 * j + 8 * l);
        }
    };
    if (warp * 8 < count) load_keys(warp * 8);
    for (int i = 2 * WARPS * 8 * (DIM / 64) + tid; i < count * (DIM / 64); i += THREADS) {
        const int at = SPLITS * (i / (DIM / 64)) + residue;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(keys.row(at) + i % (DIM / 64) * 64));
    }
    load(0), load(1);

    {
        constexpr int ALL_OF = (HEADS + 2) * DIM, TURNS = (ALL_OF + THREADS - 1) / THREADS;
        const float* from = p.qkv + static_cast<long long>(row) * (width + 2 * kv);
        const int pairs = p.rope_dim / 2;
        float2 angle[TURNS];
        float v[TURNS], other[TURNS];
        auto which = [&](int turn) { return (tid + turn * THREADS) / DIM; };
        auto there = [&](int turn) { return which(turn) < heads || (which(turn) >= HEADS && which(turn) < HEADS + 2); };
        const int d = tid % DIM;
        const bool second = p.neox ? d >= pairs : d % 2;
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++)
            if (d < p.rope_dim) angle[turn] = __ldg(p.angles + static_cast<long long>(position) * pairs + (p.neox ? d % pairs : d / 2));
        wait_turn(p.turn);
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++)
            if (there(turn)) {
                const int w = which(turn);
                const float* head = from + (w < HEADS ? (first_head + w) * DIM : width + (w - HEADS) * kv + kv_head * DIM);
                v[turn] = __ldcg(head + d);
                if (w <= HEADS && d < p.rope_dim) other[turn] = __ldcg(head + (p.neox ? (second ? d - pairs : d + pairs) : d ^ 1));
            }
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int w = which(turn);
            if (there(turn)) {
                float r = v[turn];
                if (w <= HEADS && d < p.rope_dim)
                    r = second ? fmaf(other[turn], angle[turn].y, r * angle[turn].x) : fmaf(r, angle[turn].x, -(other[turn] * angle[turn].y));
                const __half h = __float2half_rn(r);
                if (w < HEADS) {
                    query[w][d] = __half2float(h);
                } else {
                    (w == HEADS ? fresh_key : fresh_value)[d] = h;
                    if (rank == 0 && first_head % group == 0) (w == HEADS ? keys : cached).row(position)[d] = h;
                }
            } else if (w < HEADS) {
                query[w][d] = 0.0f;
            }
        }
    }
    __syncthreads();

    // Scores: eight positions per warp and turn, two turns at a time.
    const float scale = __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(DIM)));
    float highest = -INFINITY;  // of head l
#pragma unroll 1
    for (int base = warp * 8; base < count; base += 2 * WARPS * 8) {
        int place[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            place[u] = base + u * WARPS * 8 + lane / 4;
            if (SPLITS * min(place[u], count - 1) + residue == position) {
#pragma unroll
                for (int j = 0; j < STEPS; j++) k[u][j] = *reinterpret_cast<const uint4*>(fresh_key + 32 * j + 8 * l);
            }
        }
        float score[2] = {};  // of head l
        auto scores = [&](auto turns) {
            constexpr int U = decltype(turns)::value;
#pragma unroll(PASSES > 1 ? 1 : HEADS)
            for (int h = 0; h < HEADS; h++) {
                float sum[U][8] = {};
#pragma unroll
                for (int j = 0; j < STEPS; j++) {
                    const float4 a = *reinterpret_cast<const float4*>(&query[h][32 * j + 8 * l]);
                    const float4 b = *reinterpret_cast<const float4*>(&query[h][32 * j + 8 * l + 4]);
                    const float q[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
                    for (int u = 0; u < U; u++) {
                        const uint32_t pairs[4] = {k[u][j].x, k[u][j].y, k[u][j].z, k[u][j].w};
#pragma unroll
                        for (int i = 0; i < 4; i++) {
                            const float2 pair = halves(pairs[i]);
                            sum[u][2 * i] = __fmaf_rn(q[2 * i], pair.x, sum[u][2 * i]);
                            sum[u][2 * i + 1] = __fmaf_rn(q[2 * i + 1], pair.y, sum[u][2 * i + 1]);
                        }
                    }
                }
#pragma unroll
                for (int u = 0; u < U; u++) {
                    const float v = __fmul_rn(add_lanes(sum[u], l), scale);
                    if (h == l) score[u] = v;
                }
            }
        };
        if (base + WARPS * 8 < count) scores(Turns<2>());
        else scores(Turns<1>());
        if (base + 2 * WARPS * 8 < count) load_keys(base + 2 * WARPS * 8);
#pragma unroll
        for (int u = 0; u < 2; u++)
            if (place[u] < count && l < HEADS) {
                weights[place[u] * HEADS + l] = score[u];
                highest = fmaxf(highest, score[u]);
            }
    }
    for (int i = count * HEADS + tid; i < (count + 7) / 8 * 8 * HEADS; i += THREADS) weights[i] = -INFINITY;
#pragma unroll
    for (int step = 4; step < 32; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(ALL, highest, step));
    if (lane < HEADS) maxima[warp][lane] = highest;
    __syncthreads();
    if (tid < HEADS) {
        float v = maxima[0][tid];
        for (int i = 1; i < WARPS; i++) v = fmaxf(v, maxima[i][tid]);
        maximum[tid] = v;
    }
    float top[HEADS];
    if (SPLITS > 1) {
        cluster_sync();
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float v = lane < SPLITS ? remote_float(shared_of(shared_address(&maximum[h]), lane)) : -INFINITY;
#pragma unroll
            for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(ALL, v, step));
            top[h] = v;
        }
    } else {
        __syncthreads();
#pragma unroll
        for (int h = 0; h < HEADS; h++) top[h] = maximum[h];
    }

    // Weights before they are divided by their sum; a thread has a position.
    double sum[HEADS] = {};
#pragma unroll 1
    for (int base = 0; base < count; base += THREADS) {
        const int i = base + tid;
        Some e{};
        if (i < (count + 7) / 8 * 8) {
            e = Some::load(weights + i * HEADS);
#pragma unroll
            for (int h = 0; h < HEADS; h++) e.v[h] = exp_exact(__fsub_rn(e.v[h], top[h]));
            e.store(weights + i * HEADS);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (SPLITS == 1) {
                e.v[h] = __fadd_rn(e.v[h], __shfl_xor_sync(ALL, e.v[h], 4));
                e.v[h] = __fadd_rn(e.v[h], __shfl_xor_sync(ALL, e.v[h], 2));
            }
            e.v[h] = __fadd_rn(e.v[h], __shfl_xor_sync(ALL, e.v[h], 1));
            if (SPLITS == 1 && lane % 8 == 0) sum[h] += static_cast<double>(e.v[h]);
        }
        // Eight positions in a row are two of each of four blocks.
        if (SPLITS == 4 && lane % 2 == 0 && i < p.places) e.store(sums_of_two + i / 2 * HEADS);
    }
    if (SPLITS == 4) {
        cluster_sync();
        const int blocks = (positions + 7) / 8, h = tid % HEADS;
        double mine = 0.0;
        for (int i = tid / HEADS; i < blocks; i += THREADS / HEADS) {
            const uint32_t at = shared_address(sums_of_two + i * HEADS + h);
            float u[4];
#pragma unroll
            for (int s = 0; s < 4; s++) u[s] = 2 * i < (positions + 3 - s) / 4 ? remote_float(shared_of(at, s)) : 0.0f;
            mine += static_cast<double>(__fadd_rn(__fadd_rn(u[0], u[2]), __fadd_rn(u[1], u[3])));
        }
#pragma unroll
        for (int step = HEADS; step < 32; step *= 2) mine += __shfl_xor_sync(ALL, mine, step);
        if (lane < HEADS) doubles[warp][lane] = mine;
    } else {
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            sum[h] = warp_sum(sum[h]);
            if (lane == 0) doubles[warp][h] = sum[h];
        }
    }
    __syncthreads();
    if (tid < HEADS) {
        double v = doubles[0][tid];
        for (int i = 1; i < WARPS; i++) v += doubles[i][tid];
        inverses[tid] = static_cast<float>(1.0 / v);
    }
    __syncthreads();
    float inverse[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) inverse[h] = inverses[h];
    for (int i = tid; i < (count + 31) / 32 * 32; i += THREADS) {
        Some e = Some::load(weights + i * HEADS);
#pragma unroll
        for (int h = 0; h < HEADS; h++) e.v[h] = i < count ? round_half(__fmul_rn(e.v[h], inverse[h])) : 0.0f;
        e.store(weights + i * HEADS);
    }

    // Values: a chain of sums per residue of 32. 64 threads have a row of values.
    const int quarter = tid / 64, d = tid % 64 * EACH;
    constexpr int CHAINS = SPLITS == 1 ? 8 : 2;
    constexpr int TURN = 32 / SPLITS;  // positions of this block among 32
    constexpr int TURNS = SPLITS == 1 ? 1 : 4;  // at once
    // SPLITS 1: residues quarter + 4 c. 4: s + 8 (quarter & 1) + 4 (quarter / 2) + 16 c.
    const int mine = SPLITS == 1 ? quarter : 2 * (quarter & 1) + quarter / 2;
    constexpr int NOW = HEADS / PASSES;
    using Now = Floats<NOW>;
    put_newest(0), put_newest(1);
#pragma unroll 1
    for (int pass = 0; pass < PASSES; pass++) {
        float chain[CHAINS][NOW][EACH] = {};
        for (int index = 0; index * p.chunk < count; index++) {
            if (SPLITS == 1) barrier_wait(shared_address(&arrived[index % 2]), index / 2 & 1);
            else copy_wait<1>();
            __syncthreads();
            const int first = index * p.chunk, last = min(first + p.chunk, count);
            const __half* buffer = reinterpret_cast<const __half*>(values) + index % 2 * p.chunk * DIM + d;
#pragma unroll 1
            for (int base = first; base < last; base += TURN * TURNS) {
#pragma unroll
                for (int part = 0; part < PASSES; part++) {
                    constexpr int SOME = CHAINS / PASSES;  // chains at once
                    float v[TURNS][SOME][EACH], w[TURNS][SOME][NOW];
#pragma unroll
                    for (int turn = 0; turn < TURNS; turn++)
#pragma unroll
                        for (int c = 0; c < SOME; c++) {
                            const int i = base + turn * TURN + mine + 4 * (part * SOME + c);
                            if constexpr (EACH == 2) {
                                const float2 pair = halves(*reinterpret_cast<const uint32_t*>(buffer + (i - first) * DIM));
                                v[turn][c][0] = pair.x, v[turn][c][1] = pair.y;
                            } else {
                                v[turn][c][0] = __half2float(buffer[(i - first) * DIM]);
                            }
                            const Now some = Now::load(weights + i * HEADS + pass * NOW);
#pragma unroll
                            for (int h = 0; h < NOW; h++) w[turn][c][h] = some.v[h];
                        }
#pragma unroll
                    for (int turn = 0; turn < TURNS; turn++)
#pragma unroll
                        for (int c = 0; c < SOME; c++)
#pragma unroll
                            for (int h = 0; h < NOW; h++)
#pragma unroll
                                for (int e = 0; e < EACH; e++) {
                                    float& sum = chain[part * SOME + c][h][e];
                                    sum = __fmaf_rn(w[turn][c][h], v[turn][c][e], sum);
                                }
                }
            }
            if (PASSES > 1) break;
            __syncthreads();
            load(index + 2), put_newest(index + 2);
        }
#pragma unroll
        for (int h = 0; h < NOW; h++)
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                float v;
                if constexpr (SPLITS == 1) {
                    const float a = __fadd_rn(__fadd_rn(chain[0][h][k], chain[4][h][k]), __fadd_rn(chain[2][h][k], chain[6][h][k]));
                    const float b = __fadd_rn(__fadd_rn(chain[1][h][k], chain[5][h][k]), __fadd_rn(chain[3][h][k], chain[7][h][k]));
                    v = __fadd_rn(a, b);
                } else {
                    v = __fadd_rn(chain[0][h][k], chain[1][h][k]);
                }
                parts[quarter][pass * NOW + h][d + k] = v;
            }
    }
    if (SPLITS > 1) copy_wait<0>();
    __syncthreads();
    // Sums of this block: the last of all with SPLITS 1.
    for (int i = tid; i < HEADS * DIM; i += THREADS) {
        const int h = i / DIM, at = i % DIM;
        own[h][at] = __fadd_rn(__fadd_rn(parts[0][h][at], parts[1][h][at]), __fadd_rn(parts[2][h][at], parts[3][h][at]));
    }
    if (SPLITS > 1) cluster_sync();
    else __syncthreads();
    Tally tally;
    constexpr int SHARE = HEADS * DIM / SPLITS;
    for (int i = tid; i < SHARE; i += THREADS) {
        const int element = rank * SHARE + i, h = element / DIM, at = element % DIM;
        if (h < heads) {
            float v;
            if constexpr (SPLITS == 1) {
                v = own[h][at];
            } else {
                const uint32_t address = shared_address(&own[h][at]);
                float t[4];
#pragma unroll
                for (int a = 0; a < 4; a++) t[a] = remote_float(shared_of(address, a));
                v = __fadd_rn(__fadd_rn(t[0], t[1]), __fadd_rn(t[2], t[3]));
            }
            const int index = (first_head + h) * DIM + at;
            p.out[static_cast<long long>(row) * width + index] = v;
            tally.add(v, index, p.next_norm);
        }
    }
    tally.join_warp();
    if (lane == 0) tally_squares[warp] = tally.squares, tally_top[warp] = tally.top;
    __syncthreads();
    if (tid == 0) {
        for (int i = 1; i < min(WARPS, (SHARE + 31) / 32); i++)
            tally.squares += tally_squares[i], tally.top = tally_top[i] > tally.top ? tally_top[i] : tally.top;
        tally.give(p.after + row);
    }
    end_turn(p.turn);
    if (SPLITS > 1) cluster_sync();  // nobody leaves while others read its sums
}

// 1 + passes blocks on a multiprocessor.
#define ATTEND_KERNEL(name, dim, splits, heads, passes)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 1 + passes) name(const __grid_constant__ StepAttend p) {    \
        step_attend<dim, splits, heads, passes>(p);                                                                   \
    }
ATTEND_KERNEL(step_attend_64_1_one, 64, 1, 1, 1)
ATTEND_KERNEL(step_attend_64_1_short, 64, 1, 4, 2)
ATTEND_KERNEL(step_attend_64_1, 64, 1, 4, 1)
ATTEND_KERNEL(step_attend_64_4, 64, 4, 4, 1)
ATTEND_KERNEL(step_attend_128_1_one, 128, 1, 1, 1)
ATTEND_KERNEL(step_attend_128_1_short, 128, 1, 4, 2)
ATTEND_KERNEL(step_attend_128_1, 128, 1, 4, 1)
ATTEND_KERNEL(step_attend_128_4, 128, 4, 4, 1)
