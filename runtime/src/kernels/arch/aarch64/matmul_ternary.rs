//! Products for ternary weights as they lie in the file: TQ1_0, TQ2_0 and I2_S, with Q8_K or per-token int8 activations.
//!
//! Same integers and same order of float operations as `arch::all::matmul`: bit for bit equal, also for a code of 3 and
//! a quant of -128, whose products of at most 3 * 128 are what [`Dot::lanes`] takes.

use super::matmul::sums;
use super::matmul_k::group_sums;
use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::activation::i8_token_parts;
use crate::quant::blocks::*;
use std::arch::aarch64::*;

tile_kernel!(tq1_0_q8_k = tq1_0_by_q8_k, 2 x 2);
tile_kernel!(tq2_0_q8_k = tq2_0_by_q8_k, 2 x 2);
tile_kernel!(i2_s_q8_k = i2_s_by_q8_k, 2 x 2);
tile_kernel!(tq1_0_i8 = tq1_0_by_i8, 2 x 2);
tile_kernel!(tq2_0_i8 = tq2_0_by_i8, 2 x 2);
tile_kernel!(i2_s_i8 = i2_s_by_i8, 2 x 2);

/// Codes 0, 1, 2 of a block of 256 in element order.
type Codes = [Group; 8];

/// The top trit of a byte q is 0, 1 or 2 as q is at least 86 (256 / 3) and at least 171 (512 / 3); multiplying by three
/// brings up the next one. 32 bytes give five groups; 16 bytes give five halves and four bytes four quarters of a half,
/// in element order.
#[inline]
#[target_feature(enable = "neon")]
fn tq1_codes(block: &BlockTQ1_0) -> Codes {
    let bytes = block.qs.as_chunks::<16>().0;
    let mut bytes = [load(&bytes[0]), load(&bytes[1]), load(&bytes[2])];
    let mut codes = [[vdupq_n_s8(0); 2]; 8];
    for n in 0..5 {
        codes[n] = [top_trit(bytes[0]), top_trit(bytes[1])];
        codes[5 + n / 2][n % 2] = top_trit(bytes[2]);
        bytes = bytes.map(|bytes| vaddq_u8(bytes, vaddq_u8(bytes, bytes)));
    }
    let powers = vreinterpretq_u8_u32(load_words([0x0101_0101, 0x0303_0303, 0x0909_0909, 0x1b1b_1b1b]));
    let last = vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(block.qh)));
    codes[7][1] = top_trit(vmulq_u8(last, powers));
    codes
}

#[inline]
#[target_feature(enable = "neon")]
fn load_words(words: [u32; 4]) -> uint32x4_t {
    // SAFETY: the array covers the four words read.
    unsafe { vld1q_u32(words.as_ptr()) }
}

/// Each comparison gives -1 where it holds.
#[inline]
#[target_feature(enable = "neon")]
fn top_trit(bytes: uint8x16_t) -> int8x16_t {
    let (one, two) = (vcgtq_u8(bytes, vdupq_n_u8(85)), vcgtq_u8(bytes, vdupq_n_u8(170)));
    vnegq_s8(vreinterpretq_s8_u8(vaddq_u8(one, two)))
}

#[inline]
#[target_feature(enable = "neon")]
fn tq2_codes(block: &BlockTQ2_0) -> Codes {
    let mut codes = [[vdupq_n_s8(0); 2]; 8];
    for (half, qs) in block.qs.as_chunks::<32>().0.iter().enumerate() {
        for (h, qs) in qs.as_chunks::<16>().0.iter().enumerate() {
            for (i, field) in two_bit_fields(load(qs)).into_iter().enumerate() {
                codes[4 * half + i][h] = field;
            }
        }
    }
    codes
}

#[inline]
#[target_feature(enable = "neon")]
fn i2_s_group(block: &BlockI2S) -> [Group; 4] {
    let mut codes = [[vdupq_n_s8(0); 2]; 4];
    for (h, bytes) in block.0.as_chunks::<16>().0.iter().enumerate() {
        for (i, field) in two_bit_fields(load(bytes)).into_iter().enumerate() {
            codes[3 - i][h] = field;
        }
    }
    codes
}

#[inline]
#[target_feature(enable = "neon")]
fn i2_s_codes(block: &[BlockI2S; 2]) -> Codes {
    let ([a, b, c, d], [e, f, g, h]) = (i2_s_group(&block[0]), i2_s_group(&block[1]));
    [a, b, c, d, e, f, g, h]
}

/// Quants in groups of 32.
#[inline(always)]
fn groups<const K: usize, const V: usize>(quants: &[i8; K]) -> &[[i8; 32]; V] {
    quants.as_chunks::<32>().0.try_into().expect("K = 32 V")
}

/// Defines `$name`: `$codes(block)` unpacks a block of type `$block`, `$scale(block, tensor scale)` is its scale. What is
/// taken off a lane are the sums of 16 of two groups, as in ggml.
macro_rules! by_q8_k {
    ($name:ident: $block:ty, $codes:ident, $scale:expr) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name<D: Dot, const R: usize, const N: usize>(
            d: D,
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            tensor_scale: f32,
        ) -> [[f32; N]; R] {
            let (rows, activations) = (rows.map(blocks::<$block>), activations.map(blocks::<BlockQ8K>));
            assert_eq!(rows[0].len(), activations[0].len());
            let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
            for b in 0..rows[0].len() {
                for r in 0..R {
                    let block = &rows[r][b];
                    let (codes, scale) = ($codes(block), $scale(block, tensor_scale));
                    for n in 0..N {
                        let y = &activations[n][b];
                        let (mut lanes, surplus) = (d.lanes(&codes, groups(&y.qs)), group_sums(y));
                        for h in 0..2 {
                            lanes[h] = vsubq_s32(lanes[h], vpaddlq_s16(surplus[h]));
                        }
                        acc[r][n] = add_scaled(acc[r][n], y.d() * scale, lanes);
                    }
                }
            }
            sums(acc)
        }
    };
}

by_q8_k!(tq1_0_by_q8_k: BlockTQ1_0, tq1_codes, |block: &BlockTQ1_0, _: f32| block.d.get());
by_q8_k!(tq2_0_by_q8_k: BlockTQ2_0, tq2_codes, |block: &BlockTQ2_0, _: f32| block.d.get());
by_q8_k!(i2_s_by_q8_k: [BlockI2S; 2], i2_s_codes, |_: &[BlockI2S; 2], scale: f32| scale);

/// Defines `$name` for blocks with a scale `d` of their own and per-token activations: one integer sum per run of blocks
/// of one scale, as `arch::all::matmul` defines it.
macro_rules! by_i8 {
    ($name:ident: $block:ty, $codes:ident) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name<D: Dot, const R: usize, const N: usize>(
            d: D,
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            _: f32,
        ) -> [[f32; N]; R] {
            let (rows, parts) = (rows.map(blocks::<$block>), activations.map(i8_token_parts));
            let quants = parts.map(|(_, _, quants)| blocks::<[i8; 256]>(quants));
            assert_eq!(rows[0].len(), quants[0].len());
            let one = vdupq_n_s8(1);
            let mut out = [[0.0; N]; R];
            for r in 0..R {
                let mut sums = [0i32; N];
                let mut run: Option<F16> = None;
                let mut runs = 0;
                let mut add = |scale: F16, sums: [i32; N]| {
                    for n in 0..N {
                        let value = sums[n] as f32 / parts[n].0 * scale.get();
                        out[r][n] = if runs == 0 { value } else { out[r][n] + value };
                    }
                    runs += 1;
                };
                for (b, block) in rows[r].iter().enumerate().filter(|(_, block)| !block.d.is_zero()) {
                    if let Some(scale) = run.filter(|scale| *scale != block.d) {
                        add(scale, std::mem::replace(&mut sums, [0; N]));
                    }
                    run = Some(block.d);
                    let codes = $codes(block).map(|codes| codes.map(|codes| vsubq_s8(codes, one)));
                    for n in 0..N {
                        let [low, high] = d.lanes(&codes, groups(&quants[n][b]));
                        sums[n] += vaddvq_s32(vaddq_s32(low, high));
                    }
                }
                if let Some(scale) = run {
                    add(scale, sums);
                }
            }
            out
        }
    };
}

by_i8!(tq1_0_by_i8: BlockTQ1_0, tq1_codes);
by_i8!(tq2_0_by_i8: BlockTQ2_0, tq2_codes);

/// One integer per row and activation, over codes 0, 1, 2; the sum of the activations is taken off.
#[inline]
#[target_feature(enable = "neon")]
fn i2_s_by_i8<D: Dot, const R: usize, const N: usize>(
    d: D,
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    tensor_scale: f32,
) -> [[f32; N]; R] {
    let (rows, parts) = (rows.map(blocks::<BlockI2S>), activations.map(i8_token_parts));
    let quants = parts.map(|(_, _, quants)| blocks::<[i8; 128]>(quants));
    assert_eq!(rows[0].len(), quants[0].len());
    let mut acc = [[vdupq_n_s32(0); N]; R];
    for g in 0..rows[0].len() {
        for r in 0..R {
            let codes = i2_s_group(&rows[r][g]);
            for n in 0..N {
                let [low, high] = d.lanes(&codes, groups(&quants[n][g]));
                acc[r][n] = vaddq_s32(acc[r][n], vaddq_s32(low, high));
            }
        }
    }
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            let (token_scale, sum, _) = parts[n];
            out[r][n] = (vaddvq_s32(acc[r][n]) - sum) as f32 / token_scale * tensor_scale;
        }
    }
    out
}
