//! AVX2 products of F32, F16 and BF16 rows: four vectors of accumulators, as `arch::all::matmul_float`.

use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::{Block, blocks};
use half::{bf16, f16};
use std::arch::x86_64::*;

tile_kernel!(f32_f32 = f32_dot, 2 x 2);
tile_kernel!(f16_f16 = f16_dot, 2 x 2);
tile_kernel!(bf16_bf16 = bf16_dot, 2 x 2);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn from_f32(bytes: &[u8; 32]) -> __m256 {
    _mm256_castsi256_ps(load256(bytes))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn from_f16(bytes: &[u8; 16]) -> __m256 {
    _mm256_cvtph_ps(load128(bytes))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn from_bf16(bytes: &[u8; 16]) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load128(bytes))))
}

/// As ggml adds up F32 and F16: halves, then neighbours twice.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_neighbours(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_hadd_ps(four, four);
    _mm_cvtss_f32(_mm_hadd_ps(two, two))
}

/// Defines `$name`: eight elements are `$bytes` bytes, loaded by `$load`; `$get` reads one element.
macro_rules! float_dot {
    ($name:ident: $bytes:literal, $load:ident, $sum:ident, $get:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name<const R: usize, const N: usize>(
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            _: f32,
        ) -> [[f32; N]; R] {
            let mut out = [[0.0; N]; R];
            let (rows, activations) = (rows.map(steps::<$bytes>), activations.map(steps::<$bytes>));
            for n in 0..N {
                let mut acc = [[_mm256_setzero_ps(); 4]; R];
                for b in 0..activations[n].0.len() {
                    for j in 0..4 {
                        let y = $load(&activations[n].0[b][j]);
                        for r in 0..R {
                            acc[r][j] = _mm256_fmadd_ps($load(&rows[r].0[b][j]), y, acc[r][j]);
                        }
                    }
                }
                for r in 0..R {
                    let [a, b, c, d] = acc[r];
                    let lanes = _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d));
                    let tail = blocks(rows[r].1).iter().zip(blocks(activations[n].1));
                    out[r][n] = tail.fold($sum(lanes), |sum, (w, a)| $get(w).mul_add($get(a), sum));
                }
            }
            out
        }
    };
}

float_dot!(f32_dot: 32, from_f32, sum_neighbours, |b: &[u8; 4]| f32::from_le_bytes(*b));
float_dot!(f16_dot: 16, from_f16, sum_neighbours, |b: &[u8; 2]| f16::from_le_bytes(*b).to_f32());
float_dot!(bf16_dot: 16, from_bf16, sum_lanes, |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32());

/// Steps of 32 elements as four vectors of `BYTES` bytes, and what is left.
fn steps<const BYTES: usize>(row: &[u8]) -> (&[[[u8; BYTES]; 4]], &[u8])
where
    [[u8; BYTES]; 4]: Block,
{
    let whole = row.len() - row.len() % (4 * BYTES);
    (blocks(&row[..whole]), &row[whole..])
}
