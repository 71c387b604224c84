//! The compact copy of an output head and the kernels that score with it: two planes of four bits.
//!
//! A row w is cut into blocks of [`BLOCK`] columns. With the row's scale D and the block's multiplier c (0 to 255),
//! u = D c is the block's unit, and the coarse plane approximates w by u (2q - 15) with q in 0..16. What is left, at
//! most 2u, the fine plane approximates by 2u/15 (2f - 15) with f in 0..16. Both round up or down at random so that
//! the mean is exact ([`Pack`]): an error of n columns then adds up like sqrt(n), not like n.
//!
//! Activations are 16-bit integers per block with a scale ([`Query`]), so that integer dot products are exact and the
//! order of the few float operations that are left is part of the definition (`arch/all/head.rs`).

use super::SimdLevel;

/// Columns that share a multiplier.
pub const BLOCK: usize = 32;
/// Rows whose coarse codes lie side by side.
pub const GROUP: usize = 16;
/// Bytes of the coarse codes of a block of a group.
pub const COARSE_BYTES: usize = GROUP * BLOCK / 2;
/// Blocks whose coarse codes and multipliers lie together: seventeen cache lines.
pub const RUN: usize = 4;
/// Bytes of such a run: codes [RUN, COARSE_BYTES], then multipliers [RUN, GROUP].
pub const RUN_BYTES: usize = RUN * (COARSE_BYTES + GROUP);
/// Sums of the fine dot product: four columns of even and of odd blocks each.
pub const FINE_LANES: usize = 16;
/// Queries that one call of the coarse kernel takes.
pub const QUERIES: usize = 4;

/// Sizes of the compact copy of rows of `columns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub columns: usize,
}

impl Shape {
    pub const fn blocks(self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Runs of blocks [runs, RUN_BYTES], so that a group is one stream of memory; blocks after the last are zeros.
    pub const fn coarse_bytes(self) -> usize {
        self.blocks().div_ceil(RUN) * RUN_BYTES
    }

    /// Codes [blocks, BLOCK / 2], then multipliers `[blocks]`; per row.
    pub const fn fine_bytes(self) -> usize {
        self.blocks() * (BLOCK / 2 + 1)
    }
}

/// Where a group has the coarse codes [COARSE_BYTES] and the multipliers [GROUP] of a block.
pub const fn coarse_places(block: usize) -> [usize; 2] {
    let (run, block) = (block / RUN * RUN_BYTES, block % RUN);
    [run + block * COARSE_BYTES, run + RUN * COARSE_BYTES + block * GROUP]
}

/// A group of rows to be packed.
pub struct Pack<'a> {
    /// [up to GROUP, columns], finite.
    pub rows: &'a [f32],
    pub shape: Shape,
    /// Number of the first row; with the column it decides how a weight is rounded.
    pub first: usize,
    pub coarse: &'a mut [u8],
    /// [GROUP, fine_bytes].
    pub fine: &'a mut [u8],
    /// [GROUP].
    pub scales: &'a mut [f32],
}

/// An activation row: column i is `scale * (256 high + low)` with the scale of its block.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// [blocks * BLOCK].
    pub high: Vec<i8>,
    pub low: Vec<i8>,
    /// 15 times the sum of four columns [blocks * BLOCK / 4].
    pub fours: Vec<i32>,
    /// The same of a block `[blocks]`.
    pub sums: Vec<i32>,
    /// `[blocks]`.
    pub scales: Vec<f32>,
    /// Sum of squares of the columns of a block `[blocks]`.
    pub squares: Vec<f32>,
}

/// Scores of whole groups by the coarse plane.
pub struct Coarse<'a> {
    pub shape: Shape,
    /// [groups, coarse_bytes].
    pub groups: &'a [u8],
    /// D of every row.
    pub scales: &'a [f32],
    /// Up to [`QUERIES`].
    pub queries: &'a [Query],
    /// Per query `[stride]`: D times the sum over blocks of c * scale * dot.
    pub scores: &'a mut [f32],
    /// Per query `[stride]`: D times the square root of the sum over blocks of c^2 * squares, the length that an error
    /// of one unit per column has.
    pub spreads: &'a mut [f32],
    pub stride: usize,
    /// Scores written; kernels add to it where they write them.
    pub done: u64,
}

/// One instance of every function; see `arch/all/head.rs` for the definitions.
#[derive(Clone, Copy)]
pub struct HeadKernel {
    /// As counted and recorded in receipts.
    pub id: &'static str,
    pub level: SimdLevel,
    /// # Safety
    /// The CPU must have the features of `level`, here and below.
    pub pack: unsafe fn(args: &mut Pack<'_>),
    pub coarse: unsafe fn(args: &mut Coarse<'_>),
    /// What the fine plane of a row adds to its score, without the factor 2/15 D.
    pub fine: unsafe fn(shape: Shape, row: &[u8], query: &Query) -> f32,
}

impl Query {
    pub fn new(shape: Shape) -> Self {
        let (blocks, columns) = (shape.blocks(), shape.blocks() * BLOCK);
        Query {
            high: vec![0; columns],
            low: vec![0; columns],
            fours: vec![0; columns / 4],
            sums: vec![0; blocks],
            scales: vec![0.0; blocks],
            squares: vec![0.0; blocks],
        }
    }

    /// Takes the activations `x` `[columns]`.
    pub fn set(&mut self, x: &[f32]) {
        let mut block = [0f32; BLOCK];
        for (b, x) in x.chunks(BLOCK).enumerate() {
            block.fill(0.0);
            block[..x.len()].copy_from_slice(x);
            let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let scale = largest / 32_512.0; // 127 * 256, so that neither byte overflows
            let inverse = if scale > 0.0 && scale.is_normal() { 1.0 / scale } else { 0.0 };
            self.scales[b] = scale;
            self.squares[b] = block.iter().map(|x| x * x).sum();
            let mut sum = 0;
            for (i, x) in block.iter().enumerate() {
                let value = (x * inverse).round_ties_even() as i32;
                let high = (value + 128) >> 8;
                (self.high[b * BLOCK + i], self.low[b * BLOCK + i]) =
                    (high as i8, (value - 256 * high) as i8);
                sum += value;
                if i % 4 == 3 {
                    let four = &mut self.fours[(b * BLOCK + i) / 4];
                    *four = 15 * sum;
                    sum = 0;
                }
            }
            self.sums[b] = self.fours[b * BLOCK / 4..][..BLOCK / 4].iter().sum();
        }
    }
}
