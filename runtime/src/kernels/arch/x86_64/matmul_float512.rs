//! AVX-512 products of F32, F16 and BF16 rows: the 32 sums of `arch::all::matmul_float` are two vectors here.

use super::matmul_float::sum_neighbours;
use super::simd::{self, *};
use super::simd512::load512;
use crate::kernels::Tile;
use crate::quant::blocks::{Block, blocks};
use half::{bf16, f16};
use std::arch::x86_64::*;

tile_kernel!(f32_f32 = f32_dot, 2 x 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi");
tile_kernel!(f16_f16 = f16_dot, 4 x 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi");
tile_kernel!(bf16_bf16 = bf16_dot, 4 x 2, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi");

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn from_f32(bytes: &[u8; 64]) -> __m512 {
    _mm512_castsi512_ps(load512(bytes))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn from_f16(bytes: &[u8; 32]) -> __m512 {
    _mm512_cvtph_ps(load256(bytes))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn from_bf16(bytes: &[u8; 32]) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load256(bytes))))
}

/// Defines `$name`: sixteen elements are `$bytes` bytes, loaded by `$load`; `$get` reads one element.
macro_rules! float_dot {
    ($name:ident: $bytes:literal, $load:ident, $sum:ident, $get:expr) => {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
        fn $name<const R: usize, const N: usize>(
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            _: f32,
        ) -> [[f32; N]; R] {
            let mut out = [[0.0; N]; R];
            let (rows, activations) = (rows.map(steps::<$bytes>), activations.map(steps::<$bytes>));
            let count = activations[0].0.len();
            let (rows, tails) = (rows.map(|(steps, _)| &steps[..count]), rows.map(|(_, tail)| tail));
            let mut acc = [[[_mm512_setzero_ps(); 2]; N]; R];
            for b in 0..count {
                for j in 0..2 {
                    let mut weights = [_mm512_setzero_ps(); R];
                    for r in 0..R {
                        weights[r] = $load(&rows[r][b][j]);
                    }
                    for n in 0..N {
                        let y = $load(&activations[n].0[b][j]);
                        for r in 0..R {
                            acc[r][n][j] = _mm512_fmadd_ps(weights[r], y, acc[r][n][j]);
                        }
                    }
                }
            }
            for r in 0..R {
                for n in 0..N {
                    let sums = _mm512_add_ps(acc[r][n][0], acc[r][n][1]);
                    let lanes =
                        _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums));
                    let tail = blocks(tails[r]).iter().zip(blocks(activations[n].1));
                    out[r][n] = tail.fold($sum(lanes), |sum, (w, a)| $get(w).mul_add($get(a), sum));
                }
            }
            out
        }
    };
}

float_dot!(f32_dot: 64, from_f32, sum_neighbours, |b: &[u8; 4]| f32::from_le_bytes(*b));
float_dot!(f16_dot: 32, from_f16, sum_neighbours, |b: &[u8; 2]| f16::from_le_bytes(*b).to_f32());
float_dot!(bf16_dot: 32, from_bf16, sum_lanes, |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32());

/// Steps of 32 elements as two vectors of `BYTES` bytes, and what is left.
fn steps<const BYTES: usize>(row: &[u8]) -> (&[[[u8; BYTES]; 2]], &[u8])
where
    [[u8; BYTES]; 2]: Block,
{
    let whole = row.len() - row.len() % (2 * BYTES);
    (blocks(&row[..whole]), &row[whole..])
}
