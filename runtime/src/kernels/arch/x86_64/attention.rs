//! AVX2 attention: keys and values are widened once for two queries at a time.
//!
//! Results equal the scalar ones bit for bit. Heads that are not whole vectors, and q8_0, take the portable code.

use super::ops::F16c;
use super::simd::load_f32;
use crate::kernels::arch::all::attention as portable;
use crate::kernels::ops::{PARTS, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8};
use std::arch::x86_64::*;

/// Elements whose weighted sums are kept in registers.
const WIDTH: usize = 32;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores_f16(args: &mut ScoresF16<'_>) {
    let d = args.head_dim;
    if !d.is_multiple_of(PARTS) {
        return portable::scores_f16::<F16c>(args);
    }
    let queries = args.queries.len() / d;
    for first in (0..queries).step_by(2) {
        if first + 1 < queries { scores_of::<2>(args, first) } else { scores_of::<1>(args, first) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scores_of<const N: usize>(args: &mut ScoresF16<'_>, first: usize) {
    let d = args.head_dim;
    let queries: [&[[f32; 8]]; N] =
        std::array::from_fn(|q| args.queries[(first + q) * d..][..d].as_chunks().0);
    for (position, key) in args.keys.chunks_exact(d).enumerate() {
        let mut sums = [[_mm256_setzero_ps(); PARTS / 8]; N];
        for (step, key) in key.as_chunks::<8>().0.iter().enumerate() {
            let key = widen(key);
            for (query, sums) in queries.iter().zip(&mut sums) {
                sums[step % 4] = _mm256_fmadd_ps(load_f32(&query[step]), key, sums[step % 4]);
            }
        }
        for (q, [a, b, c, d]) in sums.into_iter().enumerate() {
            let eight = _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_hadd_ps(four, four);
            args.out[(first + q) * args.stride + position] =
                _mm_cvtss_f32(_mm_hadd_ps(two, two)) * args.scale;
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores_q8_0(args: &mut ScoresQ8<'_>) {
    portable::scores_q8_0::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values_f16(args: &mut ValuesF16<'_>) {
    if !args.head_dim.is_multiple_of(WIDTH) {
        return portable::values_f16::<F16c>(args);
    }
    for first in (0..args.counts.len()).step_by(2) {
        if first + 1 < args.counts.len() { values_of::<2>(args, first) } else { values_of::<1>(args, first) }
    }
}

/// For every partial sum of thirty-two elements: in registers over all positions that go to it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn values_of<const N: usize>(args: &mut ValuesF16<'_>, first: usize) {
    let (d, stride, parts) = (args.head_dim, args.stride, args.parts.clone());
    let counts: [usize; N] = std::array::from_fn(|q| args.counts[first + q]);
    let longest = *counts.iter().max().unwrap_or(&0);
    let per_run = args.runs.first().map_or(PARTS, |run| run.len() / d);
    for column in (0..d).step_by(WIDTH) {
        for part in parts.clone() {
            let place = |q: usize| ((first + q) * parts.len() + part - parts.start) * d + column;
            let mut sums: [[__m256; 4]; N] = std::array::from_fn(|q| {
                let sums = args.sums[place(q)..][..WIDTH].as_chunks::<8>().0;
                std::array::from_fn(|i| load_f32(&sums[i]))
            });
            for position in (part..longest).step_by(PARTS) {
                let run = args.runs[position / per_run];
                let value = run[position % per_run * d + column..][..WIDTH].as_chunks::<8>().0;
                let value: [__m256; 4] = std::array::from_fn(|i| widen(&value[i]));
                for q in (0..N).filter(|q| position < counts[*q]) {
                    let weight = _mm256_set1_ps(args.weights[(first + q) * stride + position]);
                    for i in 0..4 {
                        sums[q][i] = _mm256_fmadd_ps(weight, value[i], sums[q][i]);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                let out = args.sums[place(q)..][..WIDTH].as_chunks_mut::<8>().0;
                out.iter_mut().zip(sums).for_each(|(out, sum)| store(out, *sum));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values_q8_0(args: &mut ValuesQ8<'_>) {
    portable::values_q8_0::<F16c>(args);
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(values: &[u16; 8]) -> __m256 {
    // SAFETY: the reference covers the sixteen bytes read.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(out: &mut [f32; 8], value: __m256) {
    // SAFETY: the reference covers the 32 bytes written.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}
