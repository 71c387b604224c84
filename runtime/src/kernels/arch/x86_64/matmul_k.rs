//! AVX2 products for weights in blocks of 256 with scales inside: Q4_K and Q6_K.
//!
//! Same integers and same order of float operations as `arch::all::matmul`: bit for bit equal.

use super::matmul::sums;
use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::*;
use std::arch::x86_64::*;

tile_kernel!(q4_k_q8_k = q4_k, 1 x 2);
tile_kernel!(q6_k_q8_k = q6_k, 1 x 2);

/// Two products sum to at most 2 * 15 * 128 = 3840 in 16 bits; a lane of 32 bits takes 16 of those times a
/// scale of at most 63. Minima: pairs of 16-element sums are at most 2 * 2048.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k<const R: usize, const N: usize>(rows: [&[u8]; R], activations: [&[u8]; N], _: f32) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4K>), activations.map(blocks::<BlockQ8K>));
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    let mut minima = [[_mm_setzero_ps(); N]; R];
    for b in 0..rows[0].len() {
        let mut group_sums = [_mm_setzero_si128(); N];
        for n in 0..N {
            let bsums = load256(&activations[n][b].bsums);
            group_sums[n] =
                _mm_hadd_epi16(_mm256_castsi256_si128(bsums), _mm256_extracti128_si256::<1>(bsums));
        }
        for r in 0..R {
            let block = &rows[r][b];
            let (scales, mins) = block.scales_and_mins();
            let mins = _mm_cvtepu8_epi16(_mm_set_epi64x(0, i64::from_le_bytes(mins)));
            let mut lanes = [_mm256_setzero_si256(); N];
            for (p, qs) in block.qs.as_chunks::<32>().0.iter().enumerate() {
                let both = load256(qs);
                let low = _mm256_and_si256(both, _mm256_set1_epi8(15));
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), _mm256_set1_epi8(15));
                let low_scale = _mm256_set1_epi16(scales[2 * p].into());
                let high_scale = _mm256_set1_epi16(scales[2 * p + 1].into());
                for n in 0..N {
                    let y = activations[n][b].qs.as_chunks::<32>().0;
                    let low = _mm256_maddubs_epi16(low, load256(&y[2 * p]));
                    let high = _mm256_maddubs_epi16(high, load256(&y[2 * p + 1]));
                    let terms = _mm256_add_epi32(
                        _mm256_madd_epi16(low_scale, low),
                        _mm256_madd_epi16(high_scale, high),
                    );
                    lanes[n] = _mm256_add_epi32(lanes[n], terms);
                }
            }
            for n in 0..N {
                let d = activations[n][b].d();
                let scale = _mm256_mul_ps(_mm256_set1_ps(d), broadcast(block.d));
                let dmin = _mm_mul_ps(_mm_set1_ps(-d), _mm256_castps256_ps128(broadcast(block.dmin)));
                acc[r][n] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(lanes[n]), acc[r][n]);
                let terms = _mm_cvtepi32_ps(_mm_madd_epi16(mins, group_sums[n]));
                minima[r][n] = _mm_fmadd_ps(dmin, terms, minima[r][n]);
            }
        }
    }
    let mut out = sums(acc);
    for r in 0..R {
        for n in 0..N {
            let two = _mm_add_ps(minima[r][n], _mm_movehl_ps(minima[r][n], minima[r][n]));
            out[r][n] += _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
        }
    }
    out
}

/// Quants 0..=63: two products sum to at most 2 * 63 * 128 = 16128 in 16 bits; scales are at most 128, so
/// a lane of 32 bits stays below 16 * 128 * 16128, and the offset, 32 * 2 * 128 * 2048, below 2^25.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k<const R: usize, const N: usize>(rows: [&[u8]; R], activations: [&[u8]; N], _: f32) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ6K>), activations.map(blocks::<BlockQ8K>));
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let scales = load128(&block.scales);
            let mut lanes = [_mm256_setzero_si256(); N];
            for n in 0..N {
                let offset =
                    _mm256_madd_epi16(load256(&activations[n][b].bsums), _mm256_cvtepi8_epi16(scales));
                lanes[n] = _mm256_sub_epi32(lanes[n], _mm256_slli_epi32::<5>(offset));
            }
            for half in 0..2 {
                let ql = block.ql.as_chunks::<32>().0;
                let (ql0, ql1) = (load256(&ql[2 * half]), load256(&ql[2 * half + 1]));
                let qh = load256(&block.qh.as_chunks::<32>().0[half]);
                let low = _mm256_set1_epi8(15);
                let top = _mm256_set1_epi8(0x30);
                let quants = [
                    _mm256_or_si256(
                        _mm256_and_si256(ql0, low),
                        _mm256_and_si256(_mm256_slli_epi16::<4>(qh), top),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(ql1, low),
                        _mm256_and_si256(_mm256_slli_epi16::<2>(qh), top),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(ql0), low),
                        _mm256_and_si256(qh, top),
                    ),
                    _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(ql1), low),
                        _mm256_and_si256(_mm256_srli_epi16::<2>(qh), top),
                    ),
                ];
                for (i, quants) in quants.into_iter().enumerate() {
                    let g = 4 * half + i;
                    // Scale 2g eight times, then 2g + 1 eight times.
                    let places = _mm_set_epi64x(0x0101_0101_0101_0101, 0);
                    let places = _mm_add_epi8(places, _mm_set1_epi8(2 * g as i8));
                    let scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, places));
                    for n in 0..N {
                        let y = load256(&activations[n][b].qs.as_chunks::<32>().0[g]);
                        let terms = _mm256_madd_epi16(scale, _mm256_maddubs_epi16(quants, y));
                        lanes[n] = _mm256_add_epi32(lanes[n], terms);
                    }
                }
            }
            for n in 0..N {
                let scale = _mm256_mul_ps(_mm256_set1_ps(activations[n][b].d()), broadcast(block.d));
                acc[r][n] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(lanes[n]), acc[r][n]);
            }
        }
    }
    sums(acc)
}
