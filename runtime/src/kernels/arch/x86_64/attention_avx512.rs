//! AVX-512 attention: keys and values are loaded and widened once for all queries of a call.
//!
//! Results equal the scalar ones bit for bit: the same partial sums, only more of them at a time. Heads that are not
//! whole vectors take the portable code.

use super::ops::F16c;
use super::simd512::load512;
use crate::kernels::arch::all::attention::{self as portable, queries};
use crate::kernels::ops::{
    PARTS, Q8_BLOCK, Q8_GROUP, QUERIES, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8, WeighF16,
};
use std::arch::x86_64::*;

/// Elements whose weighted sums are kept in registers.
const WIDTH: usize = 64;
/// Blocks of a key that has room to be widened: heads of up to 256.
const WIDE_BLOCKS: usize = 256 / PARTS;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn scores_f16(args: &mut ScoresF16<'_>) {
    let d = args.head_dim;
    let (n, positions) = (args.queries.len() / d, args.keys.len() / d);
    if !d.is_multiple_of(PARTS) {
        return portable::scores_f16::<F16c>(args);
    }
    // More queries than four meet keys that were widened for all of them.
    let mut wide = [[[0f32; PARTS]; WIDE_BLOCKS]; 4];
    let widens = n > 4 && d <= WIDE_BLOCKS * PARTS;
    for first in (0..positions).step_by(4) {
        let count = (positions - first).min(4);
        let mut keys: [&[[u16; PARTS]]; 4] = [&[]; 4];
        for (i, key) in keys.iter_mut().enumerate() {
            *key = args.keys[(first + i.min(count - 1)) * d..][..d].as_chunks().0;
            // The hardware's stream of keys ends with every 4 KiB.
            for line in 0..d / 32 {
                super::simd512::prefetch(key.as_ptr().cast::<u8>().wrapping_add(4096 + line * 64));
            }
        }
        if !widens {
            scores_of_all(args, first, keys);
            continue;
        }
        for (key, wide) in keys.iter().zip(&mut wide) {
            for (key, wide) in key.iter().zip(wide) {
                for (key, wide) in key.as_chunks().0.iter().zip(wide.as_chunks_mut::<16>().0) {
                    super::simd512::store_f32(wide, widen(key));
                }
            }
        }
        let keys =
            [&wide[0][..d / PARTS], &wide[1][..d / PARTS], &wide[2][..d / PARTS], &wide[3][..d / PARTS]];
        scores_of_all(args, first, keys);
    }
}

/// All queries, four at a time, with the four keys from position `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn scores_of_all<B: Block>(args: &mut ScoresF16<'_>, first: usize, keys: [&[B]; 4]) {
    let n = args.queries.len() / args.head_dim;
    for query in (0..n).step_by(4) {
        match n - query {
            1 => scores_of::<1, B>(args, query, first, keys),
            2 => scores_of::<2, B>(args, query, first, keys),
            3 => scores_of::<3, B>(args, query, first, keys),
            _ => scores_of::<4, B>(args, query, first, keys),
        }
    }
}

/// A block of a key: as it lies in the cache, or widened.
trait Block {
    /// Half `half`, sixteen numbers.
    ///
    /// # Safety
    /// The CPU must have AVX-512F.
    unsafe fn half(&self, half: usize) -> __m512;
}

impl Block for [u16; PARTS] {
    #[inline(always)]
    unsafe fn half(&self, half: usize) -> __m512 {
        // SAFETY: the caller has the CPU, and the array the 32 bytes of either half.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(self.as_chunks::<16>().0[half].as_ptr().cast())) }
    }
}

impl Block for [f32; PARTS] {
    #[inline(always)]
    unsafe fn half(&self, half: usize) -> __m512 {
        // SAFETY: the caller has the CPU, and the array the 64 bytes of either half.
        unsafe { _mm512_loadu_ps(self.as_chunks::<16>().0[half].as_ptr()) }
    }
}

/// `N` queries from `query` on with the four keys from position `first` on: every key and every query is loaded once for four
/// products, and the sixteen scores are added up side by side. Loops, not closures: what `array::from_fn` calls is not always
/// inlined into a function of other CPU features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn scores_of<const N: usize, B: Block>(
    args: &mut ScoresF16<'_>,
    query: usize,
    first: usize,
    keys: [&[B]; 4],
) {
    let d = args.head_dim;
    let count = (args.keys.len() / d - first).min(4);
    let mut queries: [&[[f32; PARTS]]; N] = [&[]; N];
    for (q, of_query) in queries.iter_mut().enumerate() {
        *of_query = &args.queries[(query + q) * d..][..d].as_chunks().0[..keys[0].len()];
    }
    let mut sums = half_of_products::<N, 0, B>(&queries, &keys);
    let second = half_of_products::<N, 1, B>(&queries, &keys);
    // [query] to four numbers of each of the four keys, one key per 128 bits.
    let mut fours = [_mm512_setzero_ps(); 4];
    for q in 0..N {
        for i in 0..4 {
            sums[q][i] = _mm512_add_ps(sums[q][i], second[q][i]);
        }
        fours[q] = halve(halve_twice(sums[q][0], sums[q][1]), halve_twice(sums[q][2], sums[q][3]));
    }
    // Per key: the scores of the four queries, of which the last are missing where N < 4.
    let scores = pairs(pairs(fours[0], fours[1]), pairs(fours[2], fours[3]));
    let by_query = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let scores = _mm512_permutexvar_ps(by_query, _mm512_mul_ps(scores, _mm512_set1_ps(args.scale)));
    let mut rows = [[0f32; 4]; 4];
    super::simd512::store_f32(rows.as_flattened_mut(), scores);
    for (q, row) in rows[..N].iter().enumerate() {
        let out = &mut args.out[(query + q) * args.stride + first..][..count];
        match out.as_chunks_mut() {
            ([four], _) => *four = *row,
            (_, rest) => rest.copy_from_slice(&row[..count]),
        }
    }
}

/// The first (`HALF` 0) or second sixteen of the [`PARTS`] partial sums of every query with every key.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn half_of_products<const N: usize, const HALF: usize, B: Block>(
    queries: &[&[[f32; PARTS]]; N],
    keys: &[&[B]; 4],
) -> [[__m512; 4]; N] {
    let blocks = keys[0].len();
    assert!(keys.iter().all(|key| key.len() == blocks) && queries.iter().all(|query| query.len() == blocks));
    let mut sums = [[_mm512_setzero_ps(); 4]; N];
    for block in 0..blocks {
        let mut key = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            // SAFETY: this function has AVX-512F.
            key[i] = unsafe { keys[i][block].half(HALF) };
        }
        for q in 0..N {
            let query = super::simd512::load_f32(&queries[q][block].as_chunks().0[HALF]);
            for i in 0..4 {
                sums[q][i] = _mm512_fmadd_ps(query, key[i], sums[q][i]);
            }
        }
    }
    sums
}

/// Upper half onto lower half: eight numbers of `a`, then eight of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn halve_twice(a: __m512, b: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
    _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
}

/// Eight numbers each of four vectors, in two, to four numbers each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn halve(a: __m512, b: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
    _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
}

/// Sums of neighbours, those of `a` before those of `b` in every 128 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn pairs(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn scores_q8_0(args: &mut ScoresQ8<'_>) {
    let n = args.queries.quants.len() / args.head_dim;
    for query in (0..n).step_by(4) {
        match n - query {
            1 => scores_q8_of::<1>(args, query),
            2 => scores_q8_of::<2>(args, query),
            3 => scores_q8_of::<3>(args, query),
            _ => scores_q8_of::<4>(args, query),
        }
    }
}

/// A vector holds four elements of sixteen positions. `vpdpbusd` takes one unsigned side: keys plus 128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn scores_q8_of<const N: usize>(args: &mut ScoresQ8<'_>, query: usize) {
    let (d, blocks) = (args.head_dim, args.head_dim / Q8_BLOCK);
    let mut each = queries(args.queries, d).skip(query);
    let all: [(&[i8], &[f32]); N] =
        std::array::from_fn(|_| each.next().expect("the caller matched the number"));
    let keys = args.keys.quants.as_chunks::<{ 4 * Q8_GROUP }>().0;
    let scales = args.keys.scales.as_chunks::<Q8_GROUP>().0;
    let scale = _mm512_set1_ps(args.scale);
    for group in 0..keys.len() / (d / 4) {
        let mut sums = [_mm512_setzero_ps(); N];
        for block in 0..blocks {
            let mut dots = [[_mm512_setzero_si512(); 2]; N];
            for four in 0..Q8_BLOCK / 4 {
                let place = block * (Q8_BLOCK / 4) + four;
                let key = load512(&keys[group * (d / 4) + place].map(|x| x as u8 ^ 0x80));
                for ((query, _), dots) in all.iter().zip(&mut dots) {
                    let query = i32::from_le_bytes(query.as_chunks::<4>().0[place].map(|x| x as u8));
                    dots[four % 2] = _mm512_dpbusd_epi32(dots[four % 2], key, _mm512_set1_epi32(query));
                }
            }
            let key_scale = widen(&scales[group * blocks + block]);
            for (((query, query_scales), dots), sum) in all.iter().zip(&dots).zip(&mut sums) {
                let of_block = &query[block * Q8_BLOCK..][..Q8_BLOCK];
                let bias = 128 * of_block.iter().map(|x| i32::from(*x)).sum::<i32>();
                let dot = _mm512_sub_epi32(_mm512_add_epi32(dots[0], dots[1]), _mm512_set1_epi32(bias));
                let factor = _mm512_mul_ps(key_scale, _mm512_set1_ps(query_scales[block]));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), factor, *sum);
            }
        }
        for (q, sum) in sums.iter().enumerate() {
            let out = &mut args.out[(query + q) * args.stride + group * Q8_GROUP..][..Q8_GROUP];
            super::simd512::store_f32(out, _mm512_mul_ps(*sum, scale));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn values_f16(args: &mut ValuesF16<'_>) {
    if !args.head_dim.is_multiple_of(WIDTH) {
        return portable::values_f16::<F16c>(args);
    }
    for query in (0..args.counts.len()).step_by(4) {
        match args.counts.len() - query {
            1 => values_of::<1>(args, query),
            2 => values_of::<2>(args, query),
            3 => values_of::<3>(args, query),
            _ => values_of::<4>(args, query),
        }
    }
}

/// For every partial sum of sixty-four elements of `N` queries from `query` on: in registers over all positions that go to it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn values_of<const N: usize>(args: &mut ValuesF16<'_>, query: usize) {
    let (d, stride, parts) = (args.head_dim, args.stride, args.parts.clone());
    let counts: [usize; N] = args.counts[query..][..N].try_into().expect("a slice of N");
    let longest = *counts.iter().max().unwrap_or(&0);
    let equal = counts.iter().all(|count| *count == longest);
    let per_run = args.runs.first().map_or(PARTS, |run| run.len() / d);
    for column in (0..d).step_by(WIDTH) {
        for part in parts.clone() {
            prefetch(args.next, d, column, part);
            let place = |q: usize| ((query + q) * parts.len() + part - parts.start) * d + column;
            let mut sums = [[_mm512_setzero_ps(); 4]; N];
            for (q, sums) in sums.iter_mut().enumerate() {
                let from = args.sums[place(q)..][..WIDTH].as_chunks::<16>().0;
                for (sum, from) in sums.iter_mut().zip(from) {
                    *sum = super::simd512::load_f32(from);
                }
            }
            for position in (part..longest).step_by(PARTS) {
                let run = args.runs[position / per_run];
                let value = run[position % per_run * d + column..][..WIDTH].as_chunks::<16>().0;
                let value = [widen(&value[0]), widen(&value[1]), widen(&value[2]), widen(&value[3])];
                for q in 0..N {
                    if equal || position < counts[q] {
                        let weight = _mm512_set1_ps(args.weights[(query + q) * stride + position]);
                        for i in 0..4 {
                            sums[q][i] = _mm512_fmadd_ps(weight, value[i], sums[q][i]);
                        }
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                let out = args.sums[place(q)..][..WIDTH].as_chunks_mut::<16>().0;
                for (out, sum) in out.iter_mut().zip(sums) {
                    super::simd512::store_f32(out, *sum);
                }
            }
        }
    }
}

/// The order in which [`weigh_f16`] finishes partial sums: each pair that [`crate::kernels::ops::Ops::add_up_parts`] adds is two
/// neighbours, and so on.
const FINISHED: [usize; PARTS] = {
    let (lanes, within) = ([0, 4, 1, 5, 2, 6, 3, 7], [0, 16, 8, 24]);
    let (mut order, mut i) = ([0; PARTS], 0);
    while i < PARTS {
        order[i] = lanes[i / 4] + within[i % 4];
        i += 1;
    }
    order
};

/// Rows of values that are widened at a time.
const WIDE_ROWS: usize = 16;

/// Sixty-four elements at a time. What a partial sum takes lies [`PARTS`] rows apart, all in the same few sets of the L1 cache: it is
/// widened to a place of its own, where all queries find it. A partial sum that is finished is added to its neighbour at once, so
/// that five lines per query are kept and not thirty-two.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn weigh_f16(args: &mut WeighF16<'_>) {
    assert!(args.head_dim.is_multiple_of(WIDTH) && args.counts.len() <= QUERIES, "as Ops::weigh_f16 says");
    let longest = *args.counts.iter().max().unwrap_or(&0);
    let mut wide = [[0f32; WIDTH]; WIDE_ROWS];
    let mut kept = [[[0f32; WIDTH]; QUERIES]; LEVELS];
    for column in (0..args.head_dim).step_by(WIDTH) {
        for (number, part) in FINISHED.into_iter().enumerate() {
            let mut first = part;
            loop {
                for (position, wide) in (first..longest).step_by(PARTS).zip(&mut wide) {
                    let start =
                        args.starts[position / args.per_run] + position % args.per_run * args.head_dim;
                    let value = args.values[start + column..][..WIDTH].as_chunks::<16>().0;
                    for (wide, value) in wide.as_chunks_mut::<16>().0.iter_mut().zip(value) {
                        super::simd512::store_f32(wide, widen(value));
                    }
                }
                let last = first + PARTS * WIDE_ROWS >= longest;
                for query in (0..args.counts.len()).step_by(4) {
                    let at =
                        Rows { query, column, first, start: first == part, number: last.then_some(number) };
                    match args.counts.len() - query {
                        1 => add_rows::<1>(args, &at, &wide, &mut kept),
                        2 => add_rows::<2>(args, &at, &wide, &mut kept),
                        3 => add_rows::<3>(args, &at, &wide, &mut kept),
                        _ => add_rows::<4>(args, &at, &wide, &mut kept),
                    }
                }
                if last {
                    break;
                }
                first += PARTS * WIDE_ROWS;
            }
        }
    }
}

/// Sums of two, four, eight, sixteen partial sums that wait for as many more, after the one that is not finished.
const LEVELS: usize = 1 + PARTS.trailing_zeros() as usize;

/// Rows of widened values, those of positions `first`, `first + PARTS` and so on, for some queries.
struct Rows {
    query: usize,
    column: usize,
    first: usize,
    /// Whether they are the first of their partial sum.
    start: bool,
    /// Where they are the last of it: how many partial sums were finished before.
    number: Option<usize>,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn add_rows<const N: usize>(
    args: &mut WeighF16<'_>,
    at: &Rows,
    wide: &[[f32; WIDTH]; WIDE_ROWS],
    kept: &mut [[[f32; WIDTH]; QUERIES]; LEVELS],
) {
    let mut rows = [0; N];
    for (q, rows) in rows.iter_mut().enumerate() {
        *rows = args.counts[at.query + q].saturating_sub(at.first).div_ceil(PARTS).min(WIDE_ROWS);
    }
    let (most, least) = (*rows.iter().max().unwrap_or(&0), *rows.iter().min().unwrap_or(&0));
    let mut sums = [[_mm512_setzero_ps(); 4]; N];
    if !at.start {
        for (sums, kept) in sums.iter_mut().zip(&kept[0][at.query..]) {
            for (sum, kept) in sums.iter_mut().zip(kept.as_chunks().0) {
                *sum = super::simd512::load_f32(kept);
            }
        }
    }
    for (row, wide) in wide[..most].iter().enumerate() {
        let wide = wide.as_chunks::<16>().0;
        let mut value = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            value[i] = super::simd512::load_f32(&wide[i]);
        }
        for q in 0..N {
            if row < least || row < rows[q] {
                let weight = args.weights[(at.query + q) * args.stride + at.first + row * PARTS];
                for i in 0..4 {
                    sums[q][i] = _mm512_fmadd_ps(_mm512_set1_ps(weight), value[i], sums[q][i]);
                }
            }
        }
    }
    // As in a binary counter: one that is finished is added to all that wait for it.
    let level = at.number.map_or(0, |number| 1 + number.trailing_ones() as usize);
    for kept in kept.iter().take(level).skip(1) {
        for (sums, kept) in sums.iter_mut().zip(&kept[at.query..]) {
            for (sum, kept) in sums.iter_mut().zip(kept.as_chunks().0) {
                *sum = _mm512_add_ps(super::simd512::load_f32(kept), *sum);
            }
        }
    }
    for (q, sums) in sums.iter().enumerate() {
        let query = at.query + q;
        let to: &mut [f32] = match kept.get_mut(level) {
            Some(kept) => &mut kept[query],
            None => &mut args.out[query * args.head_dim + at.column..][..WIDTH],
        };
        for (to, sum) in to.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
            super::simd512::store_f32(to, *sum);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
pub(super) fn values_q8_0(args: &mut ValuesQ8<'_>) {
    if !args.columns.len().is_multiple_of(WIDTH) {
        return portable::values_q8_0::<F16c>(args);
    }
    for query in (0..args.counts.len()).step_by(4) {
        match args.counts.len() - query {
            1 => values_q8_of::<1>(args, query),
            2 => values_q8_of::<2>(args, query),
            3 => values_q8_of::<3>(args, query),
            _ => values_q8_of::<4>(args, query),
        }
    }
}

/// Sixty-four elements at a time, in registers over all positions of a run.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn values_q8_of<const N: usize>(args: &mut ValuesQ8<'_>, query: usize) {
    let (d, blocks, stride) = (args.head_dim, args.head_dim / Q8_BLOCK, args.stride);
    let counts: [usize; N] = args.counts[query..][..N].try_into().expect("a slice of N");
    let longest = *counts.iter().max().unwrap_or(&0);
    let equal = counts.iter().all(|count| *count == longest);
    let mut start = 0;
    for run in args.runs {
        let positions = (run.quants.len() / d).min(longest.saturating_sub(start));
        for column in args.columns.clone().step_by(WIDTH) {
            let place = |q: usize| (query + q) * args.columns.len() + column - args.columns.start;
            let mut sums = [[_mm512_setzero_ps(); 4]; N];
            for (q, sums) in sums.iter_mut().enumerate() {
                let from = args.sums[place(q)..][..WIDTH].as_chunks::<16>().0;
                for (sum, from) in sums.iter_mut().zip(from) {
                    *sum = super::simd512::load_f32(from);
                }
            }
            for position in 0..positions {
                let quants = run.quants[position * d + column..][..WIDTH].as_chunks::<16>().0;
                let scales = &run.scales[position * blocks + column / Q8_BLOCK..][..WIDTH / Q8_BLOCK];
                let value: [__m512; 4] = std::array::from_fn(|i| {
                    let quants = _mm512_cvtepi8_epi32(super::simd::load128(&quants[i]));
                    _mm512_mul_ps(_mm512_cvtepi32_ps(quants), half(scales[i / 2]))
                });
                for q in 0..N {
                    if equal || start + position < counts[q] {
                        let weight = _mm512_set1_ps(args.weights[(query + q) * stride + start + position]);
                        for i in 0..4 {
                            sums[q][i] = _mm512_fmadd_ps(weight, value[i], sums[q][i]);
                        }
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                let out = args.sums[place(q)..][..WIDTH].as_chunks_mut::<16>().0;
                for (out, sum) in out.iter_mut().zip(sums) {
                    super::simd512::store_f32(out, *sum);
                }
            }
        }
        start += run.quants.len() / d;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn widen(values: &[u16; 16]) -> __m512 {
    // SAFETY: the reference covers the 32 bytes read.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}

/// A half float in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c")]
fn half(bits: u16) -> __m512 {
    _mm512_cvtph_ps(_mm256_set1_epi16(bits as i16))
}

/// Fetches what the sums of `part` will read of `runs` into the second-level cache.
#[inline(always)]
fn prefetch(runs: &[&[u16]], d: usize, column: usize, part: usize) {
    for run in runs {
        for row in (part..run.len() / d).step_by(PARTS) {
            for line in 0..WIDTH * 2 / 64 {
                let start = run.as_ptr().wrapping_add(row * d + column + line * 32);
                // SAFETY: a prefetch of any address, mapped or not, has no effect but on the cache.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(start.cast()) };
            }
        }
    }
}
