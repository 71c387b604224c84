//! Scalar products of packed weight rows with packed activation rows: blocks of 32 and ternary types.
//!
//! Integers are exact (i32, enough for rows of 5 million weights). Floats are accumulated as ggml's AVX2
//! kernels do, so that every level and llama.cpp itself give the same bits: eight lanes, lane l taking the
//! elements e with e % 32 / 4 = l of a block, each block adding scale * lane with one rounding (a fused
//! multiply-add), and at the end [`Lanes::sum`]. Activation quants of Q8_0 and Q8_1 are never -128
//! (see [`crate::quant::activation`]). Deliberately absent: speed.

use crate::kernels::Tile;
use crate::quant::activation::i8_token_parts;
use crate::quant::blocks::*;
use crate::quant::{five_bits, i2s, nibbles, q2_0_codes, tq1_codes, tq2_codes};

/// Eight f32 accumulators.
#[derive(Default)]
pub(super) struct Lanes([f32; 8]);

impl Lanes {
    #[inline(always)]
    pub(super) fn add(&mut self, scale: f32, lanes: [i32; 8]) {
        for (sum, lane) in self.0.iter_mut().zip(lanes) {
            *sum = scale.mul_add(lane as f32, *sum);
        }
    }

    /// Halves are added twice, then the last pair.
    #[inline(always)]
    pub(super) fn sum(&self) -> f32 {
        let l = &self.0;
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }
}

/// Lane sums of `product(element)` over elements 0..32.
#[inline(always)]
pub(super) fn lanes_of(product: impl Fn(usize) -> i32) -> [i32; 8] {
    std::array::from_fn(|lane| (4 * lane..4 * lane + 4).map(&product).sum())
}

#[inline(always)]
pub(super) fn pairs<'a, W: Block, A: Block>(
    row: &'a [u8],
    activation: &'a [u8],
) -> impl Iterator<Item = (&'a W, &'a A)> {
    let (row, activation) = (blocks::<W>(row), blocks::<A>(activation));
    assert_eq!(row.len(), activation.len());
    row.iter().zip(activation)
}

pub(super) fn q4_0_q8_0(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ4_0, BlockQ8_0>(row, activation) {
            let q = nibbles(&w.qs);
            acc.add(w.d.get() * a.d.get(), lanes_of(|e| (i32::from(q[e]) - 8) * i32::from(a.qs[e])));
        }
        acc.sum()
    });
}

pub(super) fn q4_1_q8_1(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (mut acc, mut minima) = (Lanes::default(), 0.0f32);
        for (w, a) in pairs::<BlockQ4_1, BlockQ8_1>(row, activation) {
            let q = nibbles(&w.qs);
            minima = w.m.get().mul_add(a.s.get(), minima);
            acc.add(w.d.get() * a.d.get(), lanes_of(|e| i32::from(q[e]) * i32::from(a.qs[e])));
        }
        acc.sum() + minima
    });
}

pub(super) fn q8_0_q8_0(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ8_0, BlockQ8_0>(row, activation) {
            acc.add(w.d.get() * a.d.get(), lanes_of(|e| i32::from(w.qs[e]) * i32::from(a.qs[e])));
        }
        acc.sum()
    });
}

#[inline(always)]
pub(crate) fn q5_0_q8_0(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let mut acc = Lanes::default();
        for (w, a) in pairs::<BlockQ5_0, BlockQ8_0>(row, activation) {
            let q = five_bits(&w.qs, w.qh);
            acc.add(w.d.get() * a.d.get(), lanes_of(|e| (i32::from(q[e]) - 16) * i32::from(a.qs[e])));
        }
        acc.sum()
    });
}

#[inline(always)]
pub(crate) fn q5_1_q8_1(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (mut acc, mut minima) = (Lanes::default(), 0.0f32);
        for (w, a) in pairs::<BlockQ5_1, BlockQ8_1>(row, activation) {
            let q = five_bits(&w.qs, w.qh);
            minima = w.m.get().mul_add(a.s.get(), minima);
            acc.add(w.d.get() * a.d.get(), lanes_of(|e| i32::from(q[e]) * i32::from(a.qs[e])));
        }
        acc.sum() + minima
    });
}

/// ggml has no AVX2 version: one running sum, to which a block adds d times the sum of its two halves, each with one
/// rounding.
#[inline(always)]
pub(crate) fn q2_0_q8_0(tile: &mut Tile<'_>) {
    let scale = tile.tensor_scale;
    tile.for_each_pair(|row, activation| {
        let mut sum = 0.0f32;
        for (w, a) in pairs::<BlockQ2_0, [BlockQ8_0; 2]>(row, activation) {
            let codes = q2_0_codes(w);
            let halves = a.iter().zip(codes.as_chunks::<32>().0).fold(0.0f32, |sum, (a, codes)| {
                let dot: i32 = codes.iter().zip(&a.qs).map(|(c, q)| i32::from(*c) * i32::from(*q)).sum();
                a.d.get().mul_add(dot as f32, sum)
            });
            sum = w.d.get().mul_add(halves, sum);
        }
        sum * scale
    });
}

pub(super) fn tq1_0_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let blocks = pairs::<BlockTQ1_0, BlockQ8K>(row, activation);
        ternary_q8_k(blocks.map(|(w, a)| (tq1_codes(w), w.d.get(), a)))
    });
}

pub(super) fn tq2_0_q8_k(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let blocks = pairs::<BlockTQ2_0, BlockQ8K>(row, activation);
        ternary_q8_k(blocks.map(|(w, a)| (tq2_codes(w), w.d.get(), a)))
    });
}

/// As TQ2_0 whose every block has the tensor's scale.
pub(super) fn i2_s_q8_k(tile: &mut Tile<'_>) {
    let scale = tile.tensor_scale;
    tile.for_each_pair(|row, activation| {
        let blocks = pairs::<[BlockI2S; 2], BlockQ8K>(row, activation);
        ternary_q8_k(blocks.map(|(w, a)| {
            let mut codes = [0; 256];
            for (group, codes) in w.iter().zip(codes.as_chunks_mut().0) {
                *codes = i2s::unpack_group(&group.0);
            }
            (codes, scale, a)
        }))
    });
}

/// Sum over blocks of (codes, scale, activation). The codes are multiplied as 0, 1, 2 and the surplus is taken
/// off with the sums of the activation, lane l taking those of groups 2l and 2l + 1.
fn ternary_q8_k<'a>(blocks: impl Iterator<Item = ([i8; 256], f32, &'a BlockQ8K)>) -> f32 {
    let mut acc = Lanes::default();
    for (codes, scale, a) in blocks {
        let term = |e: usize| (i32::from(codes[e]) + 1) * i32::from(a.qs[e]);
        let mut lanes = lanes_of(|e| (0..8).map(|g| term(32 * g + e)).sum());
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane -= a.bsum(2 * l) + a.bsum(2 * l + 1);
        }
        acc.add(a.d() * scale, lanes);
    }
    acc.sum()
}

pub(super) fn tq1_0_i8(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        ternary_i8(blocks::<BlockTQ1_0>(row).iter().map(|w| (tq1_codes(w), w.d)), activation)
    });
}

pub(super) fn tq2_0_i8(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        ternary_i8(blocks::<BlockTQ2_0>(row).iter().map(|w| (tq2_codes(w), w.d)), activation)
    });
}

/// One integer sum for every run of blocks of one scale, divided by the token's scale, times the run's; the first run's
/// value, and the others added in order. Blocks of scale 0 count for nothing. A row of one scale thus gives the bits
/// that I2_S gives.
#[inline(always)]
fn ternary_i8<const W: usize>(
    weights: impl ExactSizeIterator<Item = ([i8; W], F16)>,
    activation: &[u8],
) -> f32
where
    [i8; W]: Block,
{
    let (token_scale, _, quants) = i8_token_parts(activation);
    let quants = blocks::<[i8; W]>(quants);
    assert_eq!(weights.len(), quants.len());
    let add = |total: Option<f32>, (scale, sum): (F16, i32)| {
        let value = sum as f32 / token_scale * scale.get();
        Some(total.map_or(value, |total| total + value))
    };
    let (mut total, mut run) = (None, None);
    for ((codes, scale), q) in weights.zip(quants).filter(|((_, scale), _)| !scale.is_zero()) {
        let dot: i32 = codes.iter().zip(q).map(|(code, q)| i32::from(*code) * i32::from(*q)).sum();
        run = match run {
            Some((last, sum)) if last == scale => Some((scale, sum + dot)),
            ended => {
                total = ended.map_or(total, |ended| add(total, ended));
                Some((scale, dot))
            }
        };
    }
    run.map_or(total, |run| add(total, run)).unwrap_or(0.0)
}

/// As [`ternary_i8`], times the tensor's scale.
#[inline(always)]
pub(crate) fn q2_0_i8(tile: &mut Tile<'_>) {
    let scale = tile.tensor_scale;
    tile.for_each_pair(|row, activation| {
        ternary_i8(blocks::<BlockQ2_0>(row).iter().map(|w| (q2_0_codes(w), w.d)), activation) * scale
    });
}

/// One integer sum for the whole row, divided by the token's scale, times the tensor's, as in bitnet.cpp.
pub(super) fn i2_s_i8(tile: &mut Tile<'_>) {
    let scale = tile.tensor_scale;
    tile.for_each_pair(|row, activation| {
        let (token_scale, _, quants) = i8_token_parts(activation);
        let dot: i32 = pairs::<BlockI2S, [i8; 128]>(row, quants)
            .map(|(w, q)| {
                let codes = i2s::unpack_group(&w.0);
                codes.iter().zip(q).map(|(code, q)| i32::from(*code) * i32::from(*q)).sum::<i32>()
            })
            .sum();
        dot as f32 / token_scale * scale
    });
}
