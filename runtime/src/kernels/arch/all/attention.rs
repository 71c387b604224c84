//! Attention: the portable definition of its steps, in the order of float operations that [`super::ops`] explains.
//!
//! Scores and weighted sums over half floats are llama.cpp's half-precision dot products (32 partial sums, flash
//! attention off), so that logits can equal its to the last bit. Over q8_0 there is nothing to equal: scores are
//! integer dot products per block of 32, and weighted sums run over positions in order, one sum per element. A
//! query's result depends only on the query, its keys and its values: not on the runs they come in, nor on the
//! queries beside it.

use super::ops::{F16, LANES, exp};
use crate::kernels::ops::{
    PARTS, Q8_BLOCK, Q8_GROUP, QueriesQ8, RunQ8, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8,
};
use half::f16;

/// Scaled dot products of every query with every key.
#[inline(always)]
pub fn scores_f16<H: F16>(args: &mut ScoresF16<'_>) {
    let d = args.head_dim;
    for (position, key) in args.keys.chunks_exact(d).enumerate() {
        for (q, query) in args.queries.chunks_exact(d).enumerate() {
            args.out[q * args.stride + position] = dot::<H>(query, key) * args.scale;
        }
    }
}

/// As [`scores_f16`] over q8_0: per block the exact integer dot product times both scales, added up in order.
#[inline(always)]
pub fn scores_q8_0<H: F16>(args: &mut ScoresQ8<'_>) {
    let (d, blocks) = (args.head_dim, args.head_dim / Q8_BLOCK);
    let groups =
        args.keys.quants.chunks_exact(d * Q8_GROUP).zip(args.keys.scales.chunks_exact(blocks * Q8_GROUP));
    for (group, (quants, scales)) in groups.enumerate() {
        for (q, (query, query_scales)) in queries(args.queries, d).enumerate() {
            let out = &mut args.out[q * args.stride + group * Q8_GROUP..][..Q8_GROUP];
            let mut sums = [0f32; Q8_GROUP];
            for (block, query_scale) in query_scales.iter().enumerate() {
                let query = &query[block * Q8_BLOCK..][..Q8_BLOCK];
                let quants = &quants[block * Q8_BLOCK * Q8_GROUP..][..Q8_BLOCK * Q8_GROUP];
                let mut dots = [0i32; Q8_GROUP];
                for (query, quants) in query.as_chunks::<4>().0.iter().zip(quants.chunks_exact(4 * Q8_GROUP))
                {
                    for (dot, quants) in dots.iter_mut().zip(quants.as_chunks::<4>().0) {
                        for i in 0..4 {
                            *dot += i32::from(query[i]) * i32::from(quants[i]);
                        }
                    }
                }
                let scales = widen::<H>(&scales[block * Q8_GROUP..][..Q8_GROUP]);
                for lane in 0..Q8_GROUP {
                    sums[lane] = (dots[lane] as f32).mul_add(scales[lane] * query_scale, sums[lane]);
                }
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * args.scale);
        }
    }
}

/// The queries of `queries`, each with its scales.
#[inline(always)]
pub fn queries(queries: QueriesQ8<'_>, head_dim: usize) -> impl Iterator<Item = (&[i8], &[f32])> {
    queries.quants.chunks_exact(head_dim).zip(queries.scales.chunks_exact(head_dim / Q8_BLOCK))
}

/// Weights of `positions` scores, rounded to half precision: exponentials in f32, their sum in f64.
#[inline(always)]
pub fn softmax<H: F16>(scores: &mut [f32], positions: usize) {
    let scores = &mut scores[..positions.next_multiple_of(LANES)];
    scores[positions..].fill(f32::NEG_INFINITY);
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for block in scores.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            maxima[lane] = if block[lane] > maxima[lane] { block[lane] } else { maxima[lane] };
        }
    }
    let maximum = maxima.iter().fold(f32::NEG_INFINITY, |maximum, lane| maximum.max(*lane));
    for score in &mut *scores {
        *score = exp(*score - maximum);
    }
    let blocks = scores.as_chunks_mut::<LANES>().0;
    let sum: f64 = blocks.iter().map(|block| f64::from(add_up_halves(block))).sum();
    let scale = (1.0 / sum) as f32;
    for block in blocks {
        *block = H::widen(&H::narrow(&block.map(|weight| weight * scale)));
    }
}

/// Adds weight times value of every position to the partial sum of its remainder by [`PARTS`].
#[inline(always)]
pub fn values_f16<H: F16>(args: &mut ValuesF16<'_>) {
    let (d, parts) = (args.head_dim, args.parts.clone());
    for (q, (count, sums)) in args.counts.iter().zip(args.sums.chunks_exact_mut(parts.len() * d)).enumerate()
    {
        let weights = &args.weights[q * args.stride..][..*count];
        let values = args.runs.iter().flat_map(|run| run.chunks_exact(d));
        let all = weights.iter().zip(values).enumerate();
        for (position, (weight, value)) in all.filter(|(position, _)| parts.contains(&(position % PARTS))) {
            axpy::<H>(&mut sums[(position % PARTS - parts.start) * d..][..d], *weight, value);
        }
    }
}

/// Adds weight times value (a rounded product of scale and quant) of every position, in order.
#[inline(always)]
pub fn values_q8_0<H: F16>(args: &mut ValuesQ8<'_>) {
    let (d, columns) = (args.head_dim, args.columns.clone());
    for (q, (count, sums)) in args.counts.iter().zip(args.sums.chunks_exact_mut(columns.len())).enumerate() {
        let weights = &args.weights[q * args.stride..][..*count];
        let rows = |run: &RunQ8<'_>| run.quants.len() / d;
        let values = args.runs.iter().flat_map(|run| (0..rows(run)).map(move |row| (run, row)));
        for (weight, (run, row)) in weights.iter().zip(values) {
            for (block, sums) in sums.chunks_exact_mut(Q8_BLOCK).enumerate() {
                let at = row * d + columns.start + block * Q8_BLOCK;
                let scale = f16::from_bits(run.scales[at / Q8_BLOCK]).to_f32();
                for (sum, quant) in sums.iter_mut().zip(&run.quants[at..][..Q8_BLOCK]) {
                    *sum = weight.mul_add(scale * f32::from(*quant), *sum);
                }
            }
        }
    }
}

/// `out` `[d]` from partial sums [PARTS, d].
#[inline(always)]
pub fn add_up_parts(sums: &[f32], out: &mut [f32]) {
    let d = out.len();
    let (blocks, tail) = out.as_chunks_mut::<LANES>();
    let whole = blocks.len() * LANES;
    for (block, out) in blocks.iter_mut().enumerate() {
        *out = add_up_columns(sums, d, block * LANES);
    }
    for (i, out) in tail.iter_mut().enumerate() {
        *out = add_up_columns::<1>(sums, d, whole + i)[0];
    }
}

/// As a dot product adds up its [`PARTS`] partial sums, for the columns from `first` on, side by side.
#[inline(always)]
fn add_up_columns<const N: usize>(sums: &[f32], d: usize, first: usize) -> [f32; N] {
    let mut lanes = [[0f32; N]; LANES];
    for (lane, out) in lanes.iter_mut().enumerate() {
        let [a, b, c, e] = [lane, lane + 16, lane + 8, lane + 24].map(|part| &sums[part * d + first..][..N]);
        for i in 0..N {
            out[i] = (a[i] + b[i]) + (c[i] + e[i]);
        }
    }
    let mut out = [0f32; N];
    let [a, b, c, d, e, f, g, h] = lanes;
    for i in 0..N {
        out[i] = add_up_pairs(&[a[i], b[i], c[i], d[i], e[i], f[i], g[i], h[i]]);
    }
    out
}

#[inline(always)]
fn widen<H: F16>(values: &[u16]) -> [f32; Q8_GROUP] {
    let halves = values.as_chunks::<LANES>().0;
    let (low, high) = (H::widen(&halves[0]), H::widen(&halves[1]));
    std::array::from_fn(|i| if i < LANES { low[i] } else { high[i - LANES] })
}

/// Elements after the last multiple of 32 are added to the sum one by one.
#[inline(always)]
pub fn dot<H: F16>(query: &[f32], key: &[u16]) -> f32 {
    let mut sums = [[0f32; LANES]; PARTS / LANES];
    let (queries, keys) = (query.as_chunks::<PARTS>(), key.as_chunks::<PARTS>());
    for (query, key) in queries.0.iter().zip(keys.0) {
        let (query, key) = (query.as_chunks::<LANES>().0, key.as_chunks::<LANES>().0);
        for (sum, (query, key)) in sums.iter_mut().zip(query.iter().zip(key)) {
            let key = H::widen(key);
            for lane in 0..LANES {
                sum[lane] = query[lane].mul_add(key[lane], sum[lane]);
            }
        }
    }
    let lanes = std::array::from_fn(|lane| (sums[0][lane] + sums[2][lane]) + (sums[1][lane] + sums[3][lane]));
    let tail = queries.1.iter().zip(keys.1);
    tail.fold(add_up_pairs(&lanes), |sum, (query, key)| query.mul_add(f16::from_bits(*key).to_f32(), sum))
}

#[inline(always)]
fn axpy<H: F16>(out: &mut [f32], weight: f32, value: &[u16]) {
    let (outs, values) = (out.as_chunks_mut::<LANES>(), value.as_chunks::<LANES>());
    for (out, value) in outs.0.iter_mut().zip(values.0) {
        let value = H::widen(value);
        for lane in 0..LANES {
            out[lane] = weight.mul_add(value[lane], out[lane]);
        }
    }
    for (out, value) in outs.1.iter_mut().zip(values.1) {
        *out = weight.mul_add(f16::from_bits(*value).to_f32(), *out);
    }
}

/// Upper half onto lower half, then neighbours twice.
#[inline(always)]
fn add_up_pairs(l: &[f32; LANES]) -> f32 {
    ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]))
}

/// Upper half onto lower half, three times.
#[inline(always)]
fn add_up_halves(l: &[f32; LANES]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}
