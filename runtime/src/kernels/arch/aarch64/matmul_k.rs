//! Products for weights in blocks of 256 with scales inside: Q4_K and Q6_K.
//!
//! Same integers and same order of float operations as `arch::all::matmul`: bit for bit equal.

use super::matmul::{products, sums};
use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::*;
use std::arch::aarch64::*;

tile_kernel!(q4_k_q8_k = q4_k, 1 x 2);
tile_kernel!(q6_k_q8_k = q6_k, 1 x 2);

/// The sixteen sums of sixteen quants.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn group_sums(block: &BlockQ8K) -> [int16x8_t; 2] {
    let halves = block.bsums.as_flattened().as_chunks::<16>().0;
    [vreinterpretq_s16_u8(load(&halves[0])), vreinterpretq_s16_u8(load(&halves[1]))]
}

/// Sums of neighbouring products: lane l has those of elements 2l and 2l + 1.
#[inline]
#[target_feature(enable = "neon")]
fn pairs(a: int16x8_t, b: int16x8_t) -> int32x4_t {
    vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
}

/// Two products sum to at most 2 * 15 * 128 = 3840 in 16 bits; a lane of 32 bits takes 16 of those times a scale of at
/// most 63. Minima: sums of 32 quants are at most 2 * 2048.
#[inline]
#[target_feature(enable = "neon")]
fn q4_k<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    _: f32,
) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4K>), activations.map(blocks::<BlockQ8K>));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
    let mut minima = [[vdupq_n_f32(0.0); N]; R];
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let (scales, mins) = block.scales_and_mins();
            let mins = vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(u64::from_le_bytes(mins))));
            let mut lanes = [[vdupq_n_s32(0); 2]; N];
            for (p, qs) in block.qs.as_chunks::<32>().0.iter().enumerate() {
                let bytes = qs.as_chunks::<16>().0;
                let bytes = [load(&bytes[0]), load(&bytes[1])];
                let low = bytes.map(|bytes| vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))));
                let high = bytes.map(|bytes| vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)));
                for (g, quants) in [(2 * p, low), (2 * p + 1, high)] {
                    let scale = i32::from(scales[g]);
                    for n in 0..N {
                        let y = load_group(&activations[n][b].qs.as_chunks::<32>().0[g]);
                        let terms = products(d, quants, y);
                        for h in 0..2 {
                            lanes[n][h] = vmlaq_n_s32(lanes[n][h], terms[h], scale);
                        }
                    }
                }
            }
            for n in 0..N {
                let y = &activations[n][b];
                acc[r][n] = add_scaled(acc[r][n], y.d() * block.d.get(), lanes[n]);
                let [first, second] = group_sums(y);
                let terms = vcvtq_f32_s32(pairs(mins, vpaddq_s16(first, second)));
                minima[r][n] = vfmaq_n_f32(minima[r][n], terms, -y.d() * block.dmin.get());
            }
        }
    }
    let mut out = sums(acc);
    for r in 0..R {
        for n in 0..N {
            out[r][n] += sum_four(minima[r][n]);
        }
    }
    out
}

/// Quants 0..=63: two products sum to at most 2 * 63 * 128 = 16128 in 16 bits; scales are at most 128, so a lane of 32
/// bits stays below 16 * 128 * 16128, and the offset, 32 * 2 * 128 * 2048, below 2^25.
#[inline]
#[target_feature(enable = "neon")]
fn q6_k<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    _: f32,
) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ6K>), activations.map(blocks::<BlockQ8K>));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let scales = load_signed(&block.scales);
            let wide = [vmovl_s8(vget_low_s8(scales)), vmovl_high_s8(scales)];
            let mut lanes = [[vdupq_n_s32(0); 2]; N];
            for n in 0..N {
                let sums = group_sums(&activations[n][b]);
                for h in 0..2 {
                    lanes[n][h] = vmlaq_n_s32(lanes[n][h], pairs(wide[h], sums[h]), -32);
                }
            }
            for g in 0..8 {
                let quants = six_bits(block, g);
                for n in 0..N {
                    let terms = products(d, quants, load_group(&activations[n][b].qs.as_chunks::<32>().0[g]));
                    for h in 0..2 {
                        let scale = i32::from(block.scales[2 * g + h]);
                        lanes[n][h] = vmlaq_n_s32(lanes[n][h], terms[h], scale);
                    }
                }
            }
            for n in 0..N {
                let scale = activations[n][b].d() * block.d.get();
                acc[r][n] = add_scaled(acc[r][n], scale, lanes[n]);
            }
        }
    }
    sums(acc)
}

/// Quants of elements 32g..32g + 32 (see [`BlockQ6K::quant`]).
#[inline]
#[target_feature(enable = "neon")]
fn six_bits(block: &BlockQ6K, g: usize) -> Group {
    let (low, high) = (block.ql.as_chunks::<16>().0, block.qh.as_chunks::<16>().0);
    let (half, i) = (g / 4, g % 4);
    let mut out = [vdupq_n_s8(0); 2];
    for h in 0..2 {
        let ql = load(&low[4 * half + 2 * (i % 2) + h]);
        let ql = if i < 2 { vandq_u8(ql, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(ql) };
        let qh = vshlq_u8(load(&high[2 * half + h]), vdupq_n_s8(4 - 2 * i as i8));
        out[h] = vreinterpretq_s8_u8(vorrq_u8(ql, vandq_u8(qh, vdupq_n_u8(0x30))));
    }
    out
}
