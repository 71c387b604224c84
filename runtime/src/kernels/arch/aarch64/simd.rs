//! What every kernel shares: loads of exactly a vector's size, products of int8, horizontal sums, the walk over a tile.
//!
//! NEON is part of aarch64, so that its instructions need no probe. What differs between levels is [`Dot`], the
//! products of int8; a value of [`Dotprod`] is the promise that the CPU has them. Intrinsics for `sdot` are not
//! stable, so it is inline assembly.

use crate::kernels::Tile;
use crate::quant::blocks::Block;
use std::arch::aarch64::*;
use std::arch::asm;

/// Eight 32-bit integers: lane l has the sum over the elements e with e % 32 / 4 = l, as `arch::all::matmul` says.
pub(super) type Sums = [int32x4_t; 2];
/// The eight f32 accumulators of the scalar definition.
pub(super) type Lanes = [float32x4_t; 2];
/// A group of 32 bytes.
pub(super) type Group = [int8x16_t; 2];

/// How a level multiplies and adds int8.
pub(super) trait Dot: Copy {
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn assume() -> Self;

    /// Adds the four products of elements 4l..4l + 4 to lane l. Two neighbouring products have a sum of at most 32767
    /// in magnitude.
    fn dot(self, acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t;

    /// Products of `V` groups of codes, up to eight, with quants; a product is at most 3 * 128 in magnitude.
    fn lanes<const V: usize>(self, codes: &[Group; V], quants: &[[i8; 32]; V]) -> Sums;

    /// Sixteen columns of four rows: field i of `codes` has columns 4i..4i + 4 of row l in lane l. Adds each row's
    /// products with `quants` to its lane. A product is at most 3 * 128 in magnitude.
    fn columns(self, acc: int32x4_t, codes: [int8x16_t; 4], quants: int8x16_t) -> int32x4_t;
}

/// `smull` and `smlal`: products in 16 bits.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// `sdot`: four products into each 32-bit lane.
#[derive(Clone, Copy)]
pub(super) struct Dotprod(());

impl Dot for Neon {
    unsafe fn assume() -> Self {
        Neon
    }

    #[inline(always)]
    fn dot(self, acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: aarch64 has NEON.
        unsafe { vpadalq_s16(acc, vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b))) }
    }

    /// The same element of eight groups is added in 16 bits: at most 8 * 384, and 6144 after neighbours are added.
    #[inline(always)]
    fn lanes<const V: usize>(self, codes: &[Group; V], quants: &[[i8; 32]; V]) -> Sums {
        const { assert!(V <= 8) };
        // SAFETY: aarch64 has NEON.
        unsafe {
            let mut acc = [[vdupq_n_s16(0); 2]; 2];
            for v in 0..V {
                let quants = load_group(&quants[v]);
                for h in 0..2 {
                    let (c, q) = (codes[v][h], quants[h]);
                    acc[h][0] = vmlal_s8(acc[h][0], vget_low_s8(c), vget_low_s8(q));
                    acc[h][1] = vmlal_high_s8(acc[h][1], c, q);
                }
            }
            acc.map(|[low, high]| vpaddlq_s16(vpaddq_s16(low, high)))
        }
    }

    /// Four fields are added in 16 bits: at most 4 * 384, and 3072 after neighbours are added.
    #[inline(always)]
    fn columns(self, acc: int32x4_t, codes: [int8x16_t; 4], quants: int8x16_t) -> int32x4_t {
        // SAFETY: aarch64 has NEON.
        unsafe {
            let words = vreinterpretq_s32_s8(quants);
            let words = [
                vdupq_laneq_s32::<0>(words),
                vdupq_laneq_s32::<1>(words),
                vdupq_laneq_s32::<2>(words),
                vdupq_laneq_s32::<3>(words),
            ];
            let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
            for i in 0..4 {
                let word = vreinterpretq_s8_s32(words[i]);
                low = vmlal_s8(low, vget_low_s8(codes[i]), vget_low_s8(word));
                high = vmlal_high_s8(high, codes[i], word);
            }
            vpadalq_s16(acc, vpaddq_s16(low, high))
        }
    }
}

impl Dot for Dotprod {
    unsafe fn assume() -> Self {
        Dotprod(())
    }

    #[inline(always)]
    fn dot(self, mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: a `Dotprod` was made where the CPU has `sdot`; the instruction reads and writes only registers.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) acc, in(vreg) a, in(vreg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }

    #[inline(always)]
    fn lanes<const V: usize>(self, codes: &[Group; V], quants: &[[i8; 32]; V]) -> Sums {
        // SAFETY: aarch64 has NEON.
        let mut acc = unsafe { [vdupq_n_s32(0); 2] };
        for v in 0..V {
            // SAFETY: aarch64 has NEON.
            let quants = unsafe { load_group(&quants[v]) };
            for h in 0..2 {
                acc[h] = self.dot(acc[h], codes[v][h], quants[h]);
            }
        }
        acc
    }

    #[inline(always)]
    fn columns(self, acc: int32x4_t, codes: [int8x16_t; 4], quants: int8x16_t) -> int32x4_t {
        let acc = self.dot_word::<0>(acc, codes[0], quants);
        let acc = self.dot_word::<1>(acc, codes[1], quants);
        let acc = self.dot_word::<2>(acc, codes[2], quants);
        self.dot_word::<3>(acc, codes[3], quants)
    }
}

impl Dotprod {
    /// As [`Dot::dot`] with word `WORD` of `b` in place of each of its words.
    #[inline(always)]
    fn dot_word<const WORD: usize>(self, mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        // SAFETY: as in `dot`.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
                inout(vreg) acc, in(vreg) a, in(vreg) b, const WORD,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        acc
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load<B: Block>(bytes: &B) -> uint8x16_t {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    unsafe { vld1q_u8((&raw const *bytes).cast()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_signed<B: Block>(bytes: &B) -> int8x16_t {
    vreinterpretq_s8_u8(load(bytes))
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_group(bytes: &[i8; 32]) -> Group {
    let halves = bytes.as_chunks::<16>().0;
    [load_signed(&halves[0]), load_signed(&halves[1])]
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_f32(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: the reference covers the four floats read.
    unsafe { vld1q_f32(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store<B: Block>(bytes: &mut B, value: uint8x16_t) {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: the exclusive reference covers the 16 bytes written.
    unsafe { vst1q_u8((&raw mut *bytes).cast(), value) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_f32(values: &mut [f32; 4], value: float32x4_t) {
    // SAFETY: the exclusive reference covers the four floats written.
    unsafe { vst1q_f32(values.as_mut_ptr(), value) }
}

/// Bits 0-1, 2-3, 4-5 and 6-7 of each byte.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn two_bit_fields(bytes: uint8x16_t) -> [int8x16_t; 4] {
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// `acc + scale * sums`, rounded once.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_scaled(acc: Lanes, scale: f32, sums: Sums) -> Lanes {
    [vfmaq_n_f32(acc[0], vcvtq_f32_s32(sums[0]), scale), vfmaq_n_f32(acc[1], vcvtq_f32_s32(sums[1]), scale)]
}

/// As the scalar `Lanes::sum`: halves are added twice, then the last pair.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum_lanes(lanes: Lanes) -> f32 {
    sum_four(vaddq_f32(lanes[0], lanes[1]))
}

/// (l0 + l2) + (l1 + l3).
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn sum_four(lanes: float32x4_t) -> f32 {
    vpadds_f32(vadd_f32(vget_low_f32(lanes), vget_high_f32(lanes)))
}

/// `N` packed rows from row `first` of `bytes`, `stride` bytes each.
#[inline(always)]
pub(super) fn rows<const N: usize>(bytes: &[u8], stride: usize, first: usize) -> [&[u8]; N] {
    std::array::from_fn(|i| &bytes[(first + i) * stride..][..stride])
}

/// Stores a block of results at (row, activation) of the tile's output, whose rows have `count` entries.
#[inline(always)]
pub(super) fn put<const R: usize, const N: usize>(
    tile: &mut Tile<'_>,
    count: usize,
    (row, activation): (usize, usize),
    values: [[f32; N]; R],
) {
    for (r, values) in values.iter().enumerate() {
        tile.out[(row + r) * count + activation..][..N].copy_from_slice(values);
    }
    tile.done += (R * N) as u64;
}

/// Defines the kernel `$name` from `$dot::<D, R, N>(d, rows, activations, tensor_scale) -> [[f32; N]; R]`: the tile is
/// cut into blocks of `$r` rows by `$n` activations and what is left over. Blocks only share loads and unpacking: each
/// pair has its own accumulator, so its result does not depend on the block it is in.
macro_rules! tile_kernel {
    ($name:ident = $dot:ident, $r:literal x $n:literal) => {
        /// # Safety
        /// The CPU has the instructions of `D`.
        #[target_feature(enable = "neon")]
        pub(super) unsafe fn $name<D: Dot>(tile: &mut Tile<'_>) {
            // SAFETY: passed on to the caller.
            let d = unsafe { D::assume() };
            let (rows, count) =
                (tile.weights.len() / tile.row_bytes, tile.activations.len() / tile.activation_bytes);
            assert_eq!(rows * count, tile.out.len());
            macro_rules! block {
                ($rr:literal x $nn:literal at $row:expr, $activation:expr) => {{
                    let weights = simd::rows::<$rr>(tile.weights, tile.row_bytes, $row);
                    let activations = simd::rows::<$nn>(tile.activations, tile.activation_bytes, $activation);
                    let values = $dot::<D, $rr, $nn>(d, weights, activations, tile.tensor_scale);
                    simd::put(tile, count, ($row, $activation), values);
                }};
            }
            let (row_end, activation_end) = (rows / $r * $r, count / $n * $n);
            for row in (0..row_end).step_by($r) {
                (0..activation_end).step_by($n).for_each(|a| block!($r x $n at row, a));
                (activation_end..count).for_each(|a| block!($r x 1 at row, a));
            }
            for row in row_end..rows {
                (0..activation_end).step_by($n).for_each(|a| block!(1 x $n at row, a));
                (activation_end..count).for_each(|a| block!(1 x 1 at row, a));
            }
        }
    };
}
pub(super) use tile_kernel;
