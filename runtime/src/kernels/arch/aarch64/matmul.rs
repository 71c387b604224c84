//! Products for weights in blocks of 32: Q4_0, Q4_1 and Q8_0.
//!
//! Same integers and same order of float operations as `arch::all::matmul`: bit for bit equal. The four products that
//! `sdot` adds are those of one lane there. Two neighbouring products fit 16 bits: at most 2 * 15 * 128 with nibbles,
//! and 2 * 128 * 127 with bytes, as quants of activations are never -128.

use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::blocks::*;
use std::arch::aarch64::*;

tile_kernel!(q4_0_q8_0 = q4_0, 4 x 2);
tile_kernel!(q4_1_q8_1 = q4_1, 4 x 2);
tile_kernel!(q8_0_q8_0 = q8_0, 4 x 2);

/// The 32 nibbles in element order: the low ones, then the high ones.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles(qs: &[u8; 16]) -> Group {
    let bytes = load(qs);
    [vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes))]
}

/// The eight lane sums of 32 products.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn products<D: Dot>(d: D, x: Group, y: Group) -> Sums {
    let zero = vdupq_n_s32(0);
    [d.dot(zero, x[0], y[0]), d.dot(zero, x[1], y[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn q4_0<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    _: f32,
) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4_0>), activations.map(blocks::<BlockQ8_0>));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
    let offset = vdupq_n_s8(8);
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let [low, high] = nibbles(&block.qs);
            let (x, dx) = ([vsubq_s8(low, offset), vsubq_s8(high, offset)], block.d.get());
            for n in 0..N {
                let y = &activations[n][b];
                acc[r][n] = add_scaled(acc[r][n], dx * y.d.get(), products(d, x, load_group(&y.qs)));
            }
        }
    }
    sums(acc)
}

#[inline]
#[target_feature(enable = "neon")]
fn q4_1<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    _: f32,
) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ4_1>), activations.map(blocks::<BlockQ8_1>));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
    let mut minima = [[0f32; N]; R];
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let (x, dx, m) = (nibbles(&block.qs), block.d.get(), block.m.get());
            for n in 0..N {
                let y = &activations[n][b];
                minima[r][n] = m.mul_add(y.s.get(), minima[r][n]);
                acc[r][n] = add_scaled(acc[r][n], dx * y.d.get(), products(d, x, load_group(&y.qs)));
            }
        }
    }
    let mut out = sums(acc);
    for r in 0..R {
        for n in 0..N {
            out[r][n] += minima[r][n];
        }
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn q8_0<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    _: f32,
) -> [[f32; N]; R] {
    let (rows, activations) = (rows.map(blocks::<BlockQ8_0>), activations.map(blocks::<BlockQ8_0>));
    let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
    for b in 0..rows[0].len() {
        for r in 0..R {
            let block = &rows[r][b];
            let (x, dx) = (load_group(&block.qs), block.d.get());
            for n in 0..N {
                let y = &activations[n][b];
                acc[r][n] = add_scaled(acc[r][n], dx * y.d.get(), products(d, x, load_group(&y.qs)));
            }
        }
    }
    sums(acc)
}

/// The sum of the lanes of each accumulator.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sums<const R: usize, const N: usize>(acc: [[Lanes; N]; R]) -> [[f32; N]; R] {
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            out[r][n] = sum_lanes(acc[r][n]);
        }
    }
    out
}
