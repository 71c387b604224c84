//! AVX2 products for weights in blocks of 32: Q4_0, Q4_1 and Q8_0.
//!
//! Same integers and same order of float operations as `arch::all::matmul`: bit for bit equal.
//! `maddubs` multiplies unsigned by signed bytes and adds neighbours in 16 bits with saturation; each
//! function says why none can occur.

use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::*;
use std::arch::x86_64::*;

tile_kernel!(q4_0_q8_0 = q4_0, 4 x 2);
tile_kernel!(q4_1_q8_1 = q4_1, 4 x 2);
tile_kernel!(q8_0_q8_0 = q8_0, 4 x 2);

/// The 32 nibbles in element order: the low ones in the low half, the high ones shifted down in the high half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(qs: &[u8; 16]) -> __m256i {
    let twice = _mm256_broadcastsi128_si256(load128(qs));
    let shifted = _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}

/// The offset is subtracted after multiplying: q * y and 8 * y are at most 2 * 15 * 128 = 3840 and 2048 in
/// magnitude, and so is their difference's bound of 2 * 8 * 128, for any bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_0<const R: usize, const N: usize>(rows: [&[u8]; R], activations: [&[u8]; N], _: f32) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4_0>), activations.map(blocks::<BlockQ8_0>));
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    for b in 0..rows[0].len() {
        let mut y = [_mm256_setzero_si256(); N];
        let mut offset = [_mm256_setzero_si256(); N];
        let mut dy = [_mm256_setzero_ps(); N];
        for n in 0..N {
            let block = &activations[n][b];
            y[n] = load256(&block.qs);
            offset[n] = _mm256_maddubs_epi16(_mm256_set1_epi8(8), y[n]);
            dy[n] = broadcast(block.d);
        }
        for r in 0..R {
            let block = &rows[r][b];
            let (x, dx) = (nibbles(&block.qs), broadcast(block.d));
            for n in 0..N {
                let products = _mm256_sub_epi16(_mm256_maddubs_epi16(x, y[n]), offset[n]);
                let lanes = _mm256_cvtepi32_ps(widen(products));
                acc[r][n] = _mm256_fmadd_ps(_mm256_mul_ps(dx, dy[n]), lanes, acc[r][n]);
            }
        }
    }
    sums(acc)
}

/// Sums of two products are at most 2 * 15 * 128 = 3840. Lane 1 of `minima` is the sum of m * s; the other
/// lanes hold products that are not used.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q4_1<const R: usize, const N: usize>(rows: [&[u8]; R], activations: [&[u8]; N], _: f32) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4_1>), activations.map(blocks::<BlockQ8_1>));
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    let mut minima = [[_mm_setzero_ps(); N]; R];
    for b in 0..rows[0].len() {
        let mut y = [_mm256_setzero_si256(); N];
        let mut dsy = [_mm256_setzero_ps(); N];
        for n in 0..N {
            let block = &activations[n][b];
            y[n] = load256(&block.qs);
            dsy[n] = broadcast_pair(block.d, block.s);
        }
        for r in 0..R {
            let block = &rows[r][b];
            let (x, dmx) = (nibbles(&block.qs), broadcast_pair(block.d, block.m));
            for n in 0..N {
                let lanes = _mm256_cvtepi32_ps(widen(_mm256_maddubs_epi16(x, y[n])));
                let scale = _mm256_mul_ps(_mm256_moveldup_ps(dmx), _mm256_moveldup_ps(dsy[n]));
                acc[r][n] = _mm256_fmadd_ps(scale, lanes, acc[r][n]);
                let (m, s) = (_mm256_castps256_ps128(dmx), _mm256_castps256_ps128(dsy[n]));
                minima[r][n] = _mm_fmadd_ps(m, s, minima[r][n]);
            }
        }
    }
    let mut out = sums(acc);
    for r in 0..R {
        for n in 0..N {
            out[r][n] += _mm_cvtss_f32(_mm_movehdup_ps(minima[r][n]));
        }
    }
    out
}

/// |x| times y with the sign of x: |x| is at most 128 (as an unsigned byte), and quants of activations at
/// most 127, so two products sum to at most 2 * 128 * 127 = 32512, and changing the sign of y is exact.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn q8_0<const R: usize, const N: usize>(rows: [&[u8]; R], activations: [&[u8]; N], _: f32) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ8_0>), activations.map(blocks::<BlockQ8_0>));
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    for b in 0..rows[0].len() {
        let mut y = [_mm256_setzero_si256(); N];
        let mut dy = [_mm256_setzero_ps(); N];
        for n in 0..N {
            let block = &activations[n][b];
            (y[n], dy[n]) = (load256(&block.qs), broadcast(block.d));
        }
        for r in 0..R {
            let block = &rows[r][b];
            let (x, dx) = (load256(&block.qs), broadcast(block.d));
            let magnitude = _mm256_abs_epi8(x);
            for n in 0..N {
                let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(y[n], x));
                let lanes = _mm256_cvtepi32_ps(widen(products));
                acc[r][n] = _mm256_fmadd_ps(_mm256_mul_ps(dx, dy[n]), lanes, acc[r][n]);
            }
        }
    }
    sums(acc)
}

/// The sum of the lanes of each accumulator.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sums<const R: usize, const N: usize>(acc: [[__m256; N]; R]) -> [[f32; N]; R] {
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            out[r][n] = sum_lanes(acc[r][n]);
        }
    }
    out
}
