//! Scalar products of F32, F16 and BF16 rows.
//!
//! Floats are accumulated as ggml's AVX2 kernels do: thirty-two lanes of fused multiply-adds, which are then
//! added up in a fixed tree; elements after the last multiple of 32 are added one by one at the end.

use crate::kernels::Tile;
use crate::quant::blocks::{Block, blocks};
use half::{bf16, f16};

pub(super) fn f32(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (sums, tail) = dot::<[u8; 4]>(row, activation, |b| f32::from_le_bytes(*b));
        pairwise(sums, tail)
    });
}

pub(super) fn f16(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (sums, tail) = dot::<[u8; 2]>(row, activation, |b| f16::from_le_bytes(*b).to_f32());
        pairwise(sums, tail)
    });
}

pub(super) fn bf16(tile: &mut Tile<'_>) {
    tile.for_each_pair(|row, activation| {
        let (l, tail) = dot::<[u8; 2]>(row, activation, |b| bf16::from_le_bytes(*b).to_f32());
        let sum = ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
        tail.fold(sum, |sum, (w, a)| w.mul_add(a, sum))
    });
}

fn pairwise(l: [f32; 8], tail: impl Iterator<Item = (f32, f32)>) -> f32 {
    let sum = ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]));
    tail.fold(sum, |sum, (w, a)| w.mul_add(a, sum))
}

/// Eight lane sums over the multiples of 32, and the pairs after them.
fn dot<'a, B: Block>(
    row: &'a [u8],
    activation: &'a [u8],
    get: impl Fn(&B) -> f32 + Copy + 'a,
) -> ([f32; 8], impl Iterator<Item = (f32, f32)> + 'a) {
    let (row, activation) = (blocks::<B>(row), blocks::<B>(activation));
    assert_eq!(row.len(), activation.len());
    let (row, row_tail) = row.as_chunks::<32>();
    let (activation, activation_tail) = activation.as_chunks::<32>();
    let mut acc = [0.0f32; 32];
    for (w, a) in row.iter().zip(activation) {
        for (sum, (w, a)) in acc.iter_mut().zip(w.iter().zip(a)) {
            *sum = get(w).mul_add(get(a), *sum);
        }
    }
    let sums = std::array::from_fn(|l| (acc[l] + acc[l + 16]) + (acc[l + 8] + acc[l + 24]));
    (sums, row_tail.iter().zip(activation_tail).map(move |(w, a)| (get(w), get(a))))
}
