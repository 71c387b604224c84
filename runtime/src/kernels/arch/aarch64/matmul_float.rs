//! Products of F32, F16 and BF16 rows: thirty-two accumulators in eight vectors, as `arch::all::matmul_float`.

use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::blocks;
use half::{bf16, f16};
use std::arch::aarch64::*;

tile_kernel!(f32_f32 = f32_dot, 2 x 1);
tile_kernel!(f16_f16 = f16_dot, 2 x 1);
tile_kernel!(bf16_bf16 = bf16_dot, 2 x 1);

#[inline]
#[target_feature(enable = "neon")]
fn from_f32(bytes: &[[u8; 16]; 2]) -> Lanes {
    [vreinterpretq_f32_u8(load(&bytes[0])), vreinterpretq_f32_u8(load(&bytes[1]))]
}

#[inline]
#[target_feature(enable = "neon")]
fn from_f16(bytes: &[[u8; 16]; 1]) -> Lanes {
    let halves = vreinterpretq_f16_u8(load(&bytes[0]));
    [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
}

#[inline]
#[target_feature(enable = "neon")]
fn from_bf16(bytes: &[[u8; 16]; 1]) -> Lanes {
    let halves = vreinterpretq_u16_u8(load(&bytes[0]));
    let (low, high) = (vshll_n_u16::<16>(vget_low_u16(halves)), vshll_high_n_u16::<16>(halves));
    [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
}

/// As ggml adds up F32 and F16: halves, then neighbours twice.
#[inline]
#[target_feature(enable = "neon")]
fn sum_neighbours(lanes: Lanes) -> f32 {
    let four = vaddq_f32(lanes[0], lanes[1]);
    vpadds_f32(vget_low_f32(vpaddq_f32(four, four)))
}

/// Defines `$name`: eight elements are `$vectors` vectors of bytes, taken apart by `$load`; `$get` reads one element.
macro_rules! float_dot {
    ($name:ident: $vectors:literal, $load:ident, $sum:ident, $get:expr) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name<D: Dot, const R: usize, const N: usize>(
            _: D,
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            _: f32,
        ) -> [[f32; N]; R] {
            let mut out = [[0.0; N]; R];
            let (rows, activations) = (rows.map(steps::<$vectors>), activations.map(steps::<$vectors>));
            for n in 0..N {
                let mut acc = [[[vdupq_n_f32(0.0); 2]; 4]; R];
                for b in 0..activations[n].0.len() {
                    for j in 0..4 {
                        let y = $load(&activations[n].0[b][j]);
                        for r in 0..R {
                            let x = $load(&rows[r].0[b][j]);
                            for h in 0..2 {
                                acc[r][j][h] = vfmaq_f32(acc[r][j][h], x[h], y[h]);
                            }
                        }
                    }
                }
                for r in 0..R {
                    let mut lanes = [vdupq_n_f32(0.0); 2];
                    for h in 0..2 {
                        let [a, b, c, d] = acc[r].map(|lanes| lanes[h]);
                        lanes[h] = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
                    }
                    let tail = blocks(rows[r].1).iter().zip(blocks(activations[n].1));
                    out[r][n] = tail.fold($sum(lanes), |sum, (w, a)| $get(w).mul_add($get(a), sum));
                }
            }
            out
        }
    };
}

float_dot!(f32_dot: 2, from_f32, sum_neighbours, |b: &[u8; 4]| f32::from_le_bytes(*b));
float_dot!(f16_dot: 1, from_f16, sum_neighbours, |b: &[u8; 2]| f16::from_le_bytes(*b).to_f32());
float_dot!(bf16_dot: 1, from_bf16, sum_lanes, |b: &[u8; 2]| bf16::from_le_bytes(*b).to_f32());

/// 32 elements as four times `V` vectors.
type Step<const V: usize> = [[[u8; 16]; V]; 4];

/// Steps of 32 elements, and what is left.
fn steps<const V: usize>(row: &[u8]) -> (&[Step<V>], &[u8]) {
    let whole = row.len() - row.len() % (64 * V);
    let vectors = blocks::<[u8; 16]>(&row[..whole]);
    (vectors.as_chunks::<V>().0.as_chunks::<4>().0, &row[whole..])
}
