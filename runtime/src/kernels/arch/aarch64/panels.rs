//! Products of ternary weights repacked in sixteens ([`Layout::Codes`]) with per-token int8 activations.
//!
//! A vector holds four columns of four rows in each of its four two-bit fields. `sdot` multiplies a field with the same
//! four activations for every row, which leaves one exact sum per row in its 32-bit lane; `smmla` takes eight columns
//! of two rows, which two fields make when their words are interleaved, with eight of two activation rows, and does
//! twice as much. Codes count 0, 1, 2, and the sum of the activations is taken off at the end. Deliberately absent: a
//! use of the thread's scratch memory, as fields are cheap to take apart again for each block of activation rows.
//!
//! [`Layout::Codes`]: crate::quant::panels::Layout::Codes

use super::simd::*;
use crate::kernels::PanelTile;
use crate::quant::activation::i8_token_parts;
use crate::quant::panels::{ROWS, Scales};
use std::arch::aarch64::*;
use std::arch::asm;

/// Sums of a group's sixteen rows.
type GroupSums = [int32x4_t; 4];
/// Scale, sum and quants (in sixteens) of an activation row.
type Row<'a> = (f32, i32, &'a [[u8; 16]]);

/// # Safety
/// The CPU has the instructions of `D`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn codes<D: Dot>(tile: &mut PanelTile<'_>) {
    // SAFETY: passed on to the caller.
    let d = unsafe { D::assume() };
    each_block::<4>(tile, |tile, group, first, count| match count {
        1 => multiply::<D, 1>(d, tile, group, first),
        2 => multiply::<D, 2>(d, tile, group, first),
        3 => multiply::<D, 3>(d, tile, group, first),
        _ => multiply::<D, 4>(d, tile, group, first),
    });
}

/// # Safety
/// The CPU has i8mm.
#[target_feature(enable = "neon,i8mm")]
pub(super) unsafe fn codes_i8mm(tile: &mut PanelTile<'_>) {
    each_block::<8>(tile, |tile, group, first, count| match count.div_ceil(2) {
        1 => multiply_pairs::<1>(tile, group, first, count),
        2 => multiply_pairs::<2>(tile, group, first, count),
        3 => multiply_pairs::<3>(tile, group, first, count),
        _ => multiply_pairs::<4>(tile, group, first, count),
    });
}

/// Calls `run(tile, group, first activation row, count)` for blocks of almost equal size, `MOST` at most.
#[inline(always)]
fn each_block<const MOST: usize>(
    tile: &mut PanelTile<'_>,
    run: impl Fn(&mut PanelTile<'_>, usize, usize, usize),
) {
    let (groups, count) = tile.shape();
    let blocks = count.div_ceil(MOST);
    for group in 0..groups {
        for block in 0..blocks {
            let (first, end) = (count * block / blocks, count * (block + 1) / blocks);
            run(tile, group, first, end - first);
        }
    }
}

#[inline(always)]
fn row<'a>(tile: &PanelTile<'a>, activation: usize) -> Row<'a> {
    let (scale, sum, quants) =
        i8_token_parts(&tile.activations[activation * tile.activation_bytes..][..tile.activation_bytes]);
    let (quants, rest) = quants.as_chunks::<16>();
    assert!(rest.is_empty(), "ternary rows are whole blocks");
    (scale, sum, quants)
}

/// Steps of sixteen columns: four vectors of four rows each.
#[inline(always)]
fn steps<'a>(tile: &PanelTile<'a>, group: usize) -> &'a [[u8; 64]] {
    tile.weights[group * tile.group_bytes..][..tile.group_bytes].as_chunks::<64>().0
}

/// A group times `T` activation rows from `first` on: every sum stays in its register.
#[target_feature(enable = "neon")]
fn multiply<D: Dot, const T: usize>(d: D, tile: &mut PanelTile<'_>, group: usize, first: usize) {
    let rows: [Row<'_>; T] = std::array::from_fn(|t| row(tile, first + t));
    let steps = steps(tile, group);
    let quants = rows.map(|(_, _, quants)| &quants[..steps.len()]);
    let mut sums: [GroupSums; T] = [[vdupq_n_s32(0); 4]; T];
    for (s, step) in steps.iter().enumerate() {
        let mut y = [vdupq_n_s8(0); T];
        for t in 0..T {
            y[t] = load_signed(&quants[t][s]);
        }
        for (r, bytes) in step.as_chunks::<16>().0.iter().enumerate() {
            let codes = two_bit_fields(load(bytes));
            for t in 0..T {
                sums[t][r] = d.columns(sums[t][r], codes, y[t]);
            }
        }
    }
    for t in 0..T {
        put(tile, group, first + t, sums[t], (rows[t].0, rows[t].1));
    }
}

/// A group times `count` activation rows in `P` pairs, of which the last may have the same row twice. Eight rows of the
/// group at a time, so that every sum stays in its register.
#[target_feature(enable = "neon,i8mm")]
fn multiply_pairs<const P: usize>(tile: &mut PanelTile<'_>, group: usize, first: usize, count: usize) {
    let rows: [[Row<'_>; 2]; P] =
        std::array::from_fn(|p| [2 * p, (2 * p + 1).min(count - 1)].map(|t| row(tile, first + t)));
    let steps = steps(tile, group);
    let quants = rows.map(|pair| pair.map(|(_, _, quants)| &quants[..steps.len()]));
    let mut sums: [[GroupSums; 2]; P] = [[[vdupq_n_s32(0); 4]; 2]; P];
    for half in 0..2 {
        // [pair][four rows][two of them]: lanes are (row, activation) = (0, 0), (0, 1), (1, 0), (1, 1).
        let mut acc = [[[vdupq_n_s32(0); 2]; 2]; P];
        for (s, step) in steps.iter().enumerate() {
            let mut y = [[vdupq_n_s8(0); 2]; P];
            for p in 0..P {
                let [a, b] = quants[p].map(|quants| vreinterpretq_s64_u8(load(&quants[s])));
                y[p] = [vreinterpretq_s8_s64(vtrn1q_s64(a, b)), vreinterpretq_s8_s64(vtrn2q_s64(a, b))];
            }
            for (r, step) in step.as_chunks::<16>().0[2 * half..][..2].iter().enumerate() {
                let codes = two_bit_fields(load(step));
                for (columns, [a, b]) in [[codes[0], codes[1]], [codes[2], codes[3]]].into_iter().enumerate()
                {
                    let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
                    let two = [vzip1q_s32(a, b), vzip2q_s32(a, b)].map(|rows| vreinterpretq_s8_s32(rows));
                    for p in 0..P {
                        for i in 0..2 {
                            acc[p][r][i] = multiply_two_by_two(acc[p][r][i], two[i], y[p][columns]);
                        }
                    }
                }
            }
        }
        for p in 0..P {
            for r in 0..2 {
                let [a, b] = acc[p][r];
                sums[p][0][2 * half + r] = vuzp1q_s32(a, b);
                sums[p][1][2 * half + r] = vuzp2q_s32(a, b);
            }
        }
    }
    for t in 0..count {
        let (scale, sum, _) = rows[t / 2][t % 2];
        put(tile, group, first + t, sums[t / 2][t % 2], (scale, sum));
    }
}

/// Adds the product of two rows of eight and two columns of eight.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply_two_by_two(mut acc: int32x4_t, rows: int8x16_t, columns: int8x16_t) -> int32x4_t {
    // SAFETY: callers have i8mm; the instruction reads and writes only registers.
    unsafe {
        asm!(
            "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) acc, in(vreg) rows, in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Writes the results of a group for one activation row: (sum over codes - sum of the activations) / token scale, times
/// the rows' scales, in this order.
#[inline]
#[target_feature(enable = "neon")]
fn put(
    tile: &mut PanelTile<'_>,
    group: usize,
    activation: usize,
    sums: GroupSums,
    (token_scale, sum): (f32, i32),
) {
    let mut values = [0.0; ROWS];
    for (r, (sums, values)) in sums.into_iter().zip(values.as_chunks_mut::<4>().0).enumerate() {
        let dots = vcvtq_f32_s32(vsubq_s32(sums, vdupq_n_s32(sum)));
        let scale = match tile.scales {
            Scales::Tensor(scale) => vdupq_n_f32(scale),
            Scales::Rows(scales) => load_f32(&scales.as_chunks::<4>().0[group * ROWS / 4 + r]),
        };
        store_f32(values, vmulq_f32(vdivq_f32(dots, vdupq_n_f32(token_scale)), scale));
    }
    let out = tile.out.at(activation, group * ROWS);
    out.copy_from_slice(&values[..out.len()]);
    tile.done += out.len() as u64;
}
