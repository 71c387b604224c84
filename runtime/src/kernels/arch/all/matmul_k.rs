//! Scalar products for weights in blocks of 256 with scales inside: Q2_K to Q6_K.
//!
//! Floats are accumulated as in [`super::matmul`]. Deliberately absent: speed.

use super::matmul::{Lanes, lanes_of, pairs};
use crate::kernels::Tile;
use crate::quant::blocks::*;

/// The minima are added to the same lanes, lane l taking those of groups 2l and 2l + 1.
#[inline(always)]
pub(crate) fn q2_k_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ2K, BlockQ8K>(row, activation) {
            let min = |g: usize| i32::from(w.scales[g] >> 4) * a.bsum(g);
            acc.add(-a.d() * w.dmin.get(), std::array::from_fn(|l| min(2 * l) + min(2 * l + 1)));
            let term =
                |e: usize| i32::from(w.scales[e / 16] & 15) * i32::from(w.quant(e)) * i32::from(a.qs[e]);
            acc.add(a.d() * w.d.get(), lanes_of(|e| (0..8).map(|g| term(32 * g + e)).sum()));
        }
        acc.sum()
    });
}

#[inline(always)]
pub(crate) fn q3_k_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ3K, BlockQ8K>(row, activation) {
            let scales = w.scales();
            let term = |e: usize| {
                (i32::from(scales[e / 16]) - 32) * (i32::from(w.quant(e)) - 4) * i32::from(a.qs[e])
            };
            acc.add(a.d() * w.d.get(), lanes_of(|e| (0..8).map(|g| term(32 * g + e)).sum()));
        }
        acc.sum()
    });
}

/// The minima are accumulated apart in four lanes of four groups' sums.
pub(super) fn q4_k_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (mut acc, mut minima) = (Lanes::default(), [0.0f32; 4]);
        for (w, a) in pairs::<BlockQ4K, BlockQ8K>(row, activation) {
            let (scales, mins) = w.scales_and_mins();
            let dmin = -a.d() * w.dmin.get();
            for (lane, minimum) in minima.iter_mut().enumerate() {
                let term = |g: usize| i32::from(mins[g]) * (a.bsum(2 * g) + a.bsum(2 * g + 1));
                *minimum = dmin.mul_add((term(2 * lane) + term(2 * lane + 1)) as f32, *minimum);
            }
            acc.add(
                a.d() * w.d.get(),
                lanes_of(|e| {
                    let term = |g: usize| {
                        i32::from(scales[g]) * i32::from(w.quant(32 * g + e)) * i32::from(a.qs[32 * g + e])
                    };
                    (0..8).map(term).sum()
                }),
            );
        }
        acc.sum() + ((minima[0] + minima[2]) + (minima[1] + minima[3]))
    });
}

/// Unlike Q4_K's, the minima of a block are one integer, added to one running sum.
#[inline(always)]
pub(crate) fn q5_k_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (mut acc, mut minima) = (Lanes::default(), 0.0f32);
        for (w, a) in pairs::<BlockQ5K, BlockQ8K>(row, activation) {
            let (scales, mins) = w.scales_and_mins();
            let min = |g: usize| i32::from(mins[g]) * (a.bsum(2 * g) + a.bsum(2 * g + 1));
            minima = (-a.d() * w.dmin.get()).mul_add((0..8).map(min).sum::<i32>() as f32, minima);
            let term = |e: usize| i32::from(scales[e / 32]) * i32::from(w.quant(e)) * i32::from(a.qs[e]);
            acc.add(a.d() * w.d.get(), lanes_of(|e| (0..8).map(|g| term(32 * g + e)).sum()));
        }
        acc.sum() + minima
    });
}

/// Quants are unsigned; the offset of 32 is taken off with the sums of the activation, lane l taking those
/// of groups 2l and 2l + 1.
pub(super) fn q6_k_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ6K, BlockQ8K>(row, activation) {
            let mut lanes = lanes_of(|e| {
                let term =
                    |e: usize| i32::from(w.scales[e / 16]) * i32::from(w.quant(e)) * i32::from(a.qs[e]);
                (0..8).map(|g| term(32 * g + e)).sum()
            });
            for (l, lane) in lanes.iter_mut().enumerate() {
                let term = |g: usize| i32::from(w.scales[g]) * a.bsum(g);
                *lane -= 32 * (term(2 * l) + term(2 * l + 1));
            }
            acc.add(a.d() * w.d.get(), lanes);
        }
        acc.sum()
    });
}
