//! Packed activation rows: what a row of f32 becomes before it meets packed weights.
//!
//! In: a row of f32. Out: the row in one of ggml's activation types, equal bit for bit to what
//! llama.cpp computes on x86, or in BitNet's per-token int8, equal to bitnet.cpp's `quantize_row_i8_s`.
//! The functions here are the scalar definition; `kernels::arch` has faster ones that equal it.
//!
//! ggml rounds Q8_0 and Q8_1 in two ways: its reference takes 1 / (absmax / 127) and rounds half away from
//! zero, its AVX2 code takes 127 / absmax and rounds half to even. llama.cpp runs the AVX2 code on any
//! recent x86, and equal tokens need equal arithmetic, so activations follow the AVX2 code (weights, in
//! `quant::encode`, follow the reference). Q8_K has one definition in ggml.

use super::blocks::{BlockQ8_0, BlockQ8_1, BlockQ8K, F16, blocks_mut};
use super::{nearest_int, nearest_int_of_product};
use crate::tensor::TensorType;
use bitforge_schema::protocol::ActivationMode;
use half::{bf16, f16};

/// How ternary layers quantize their activations; part of the model's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ActivationQuant {
    /// One scale per token (as BitNet is trained and bitnet.cpp computes).
    #[default]
    Token,
    /// As llama.cpp: one scale per block of 256 (Q8_K); for Q2_0 one per block of 32 (Q8_0).
    Block256,
}

impl From<ActivationMode> for ActivationQuant {
    fn from(mode: ActivationMode) -> Self {
        match mode {
            ActivationMode::Token => ActivationQuant::Token,
            ActivationMode::Block256 => ActivationQuant::Block256,
        }
    }
}

impl From<ActivationQuant> for ActivationMode {
    fn from(quant: ActivationQuant) -> Self {
        match quant {
            ActivationQuant::Token => ActivationMode::Token,
            ActivationQuant::Block256 => ActivationMode::Block256,
        }
    }
}

/// Layout of one activation row of `k` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationType {
    /// `k` f32.
    F32,
    /// `k` IEEE half floats (round to nearest even).
    F16,
    /// `k` bfloat16 (round to nearest even).
    BF16,
    /// Per 32 values: f16 scale d, 32 i8 (ggml `block_q8_0`, 34 bytes).
    Q8_0,
    /// Per 32 values: f16 d, f16 s = d * sum of quants, 32 i8 (ggml `block_q8_1`, 36 bytes).
    Q8_1,
    /// Per 256 values: f32 d, 256 i8, 16 i16 sums of 16 (ggml `block_q8_K`, 292 bytes).
    Q8K,
    /// Per row: f32 scale (127 / absmax, absmax at least 1e-5), i32 sum of the quants, and from byte 64 on `k` i8: so that rows
    /// of whole cache lines stay whole.
    I8Token,
}

impl ActivationType {
    pub const ALL: [ActivationType; 7] = [
        ActivationType::F32,
        ActivationType::F16,
        ActivationType::BF16,
        ActivationType::Q8_0,
        ActivationType::Q8_1,
        ActivationType::Q8K,
        ActivationType::I8Token,
    ];

    /// The activation type that `weight` is multiplied with under `mode`.
    pub fn for_weight(weight: TensorType, mode: ActivationQuant) -> Self {
        match weight {
            TensorType::F32 => ActivationType::F32,
            TensorType::F16 => ActivationType::F16,
            TensorType::BF16 => ActivationType::BF16,
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => ActivationType::Q8_0,
            TensorType::Q4_1 | TensorType::Q5_1 => ActivationType::Q8_1,
            TensorType::Q2K | TensorType::Q3K | TensorType::Q4K | TensorType::Q5K | TensorType::Q6K => {
                ActivationType::Q8K
            }
            ternary if mode == ActivationQuant::Token => {
                assert!(ternary.is_ternary());
                ActivationType::I8Token
            }
            TensorType::Q2_0 => ActivationType::Q8_0,
            TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::I2S | TensorType::TL1 | TensorType::TL2 => {
                ActivationType::Q8K
            }
        }
    }

    /// Bytes of a packed row of `k` values; `k` is a whole number of blocks.
    pub const fn row_bytes(self, k: usize) -> usize {
        match self {
            ActivationType::F32 => k * 4,
            ActivationType::F16 | ActivationType::BF16 => k * 2,
            ActivationType::Q8_0 => k / 32 * 34,
            ActivationType::Q8_1 => k / 32 * 36,
            ActivationType::Q8K => k / 256 * 292,
            ActivationType::I8Token => I8_TOKEN_HEADER + k,
        }
    }

    /// Values per block: rows of this type have a multiple of this many.
    pub const fn block_len(self) -> usize {
        match self {
            ActivationType::Q8_0 | ActivationType::Q8_1 => 32,
            ActivationType::Q8K => 256,
            _ => 1,
        }
    }
}

/// Bytes before the quants of an [`ActivationType::I8Token`] row: its scale, its sum, and room.
pub const I8_TOKEN_HEADER: usize = 64;

/// Scale and sum of an [`ActivationType::I8Token`] row, and its quants.
#[inline]
pub fn i8_token_parts(row: &[u8]) -> (f32, i32, &[u8]) {
    let (header, quants) = row.split_first_chunk::<I8_TOKEN_HEADER>().expect("an I8Token row has its header");
    let [a, b, c, d, e, f, g, h, ..] = *header;
    (f32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]), quants)
}

/// Quantizes `x` into `out`. Panics unless `x` is a whole number of blocks and `out` has
/// [`ActivationType::row_bytes`] of its length. NaN counts as no magnitude, and the quant of what is not finite is
/// 0; a block with an infinite value has an infinite scale, so that products with it are NaN.
pub fn quantize_activation(ty: ActivationType, x: &[f32], out: &mut [u8]) {
    assert!(x.len().is_multiple_of(ty.block_len()), "{} values are not whole {ty:?} blocks", x.len());
    assert_eq!(out.len(), ty.row_bytes(x.len()), "{ty:?} row of {} values", x.len());
    let quantize = match ty {
        ActivationType::F32 => f32_row,
        ActivationType::F16 => f16_row,
        ActivationType::BF16 => bf16_row,
        ActivationType::Q8_0 => q8_0,
        ActivationType::Q8_1 => q8_1,
        ActivationType::Q8K => q8_k,
        ActivationType::I8Token => i8_token,
    };
    quantize(x, out);
}

pub(crate) fn f32_row(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 1]| x[0].to_le_bytes());
}

pub(crate) fn f16_row(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 1]| f16::from_f32(x[0]).to_le_bytes());
}

pub(crate) fn bf16_row(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 1]| bf16::from_f32(x[0]).to_le_bytes());
}

/// The quants lie in -127..=127: |x| * (127 / absmax) exceeds 127 by less than one unit in the last place.
pub(crate) fn q8_0(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 32]| {
        let (d, id) = scales_127(absmax(x));
        BlockQ8_0 { d: F16::new(d), qs: x.map(|v| quant(v * id) as i8) }
    });
}

/// Quants as in [`q8_0`]; s is d (before its rounding to f16) times their sum.
pub(crate) fn q8_1(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 32]| {
        let (d, id) = scales_127(absmax(x));
        let qs = x.map(|v| quant(v * id) as i8);
        let sum: i32 = qs.iter().map(|q| i32::from(*q)).sum();
        BlockQ8_1 { d: F16::new(d), s: F16::new(d * sum as f32), qs }
    });
}

/// The first entry of largest magnitude becomes -127: quants have the sign opposite to it where it is
/// positive, and d, the inverse of the multiplier, carries the sign.
pub(crate) fn q8_k(x: &[f32], out: &mut [u8]) {
    each(x, out, |x: &[f32; 256]| {
        let max = x.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
        let iscale = -127.0 / max;
        if !iscale.is_finite() {
            return BlockQ8K { d: [0; 4], qs: [0; 256], bsums: [[0; 2]; 16] };
        }
        let qs = x.map(|v| quant(iscale * v).min(127) as i8);
        let bsums = std::array::from_fn(|g| {
            qs[16 * g..16 * g + 16].iter().map(|q| i16::from(*q)).sum::<i16>().to_le_bytes()
        });
        BlockQ8K { d: (1.0 / iscale).to_le_bytes(), qs, bsums }
    });
}

pub(crate) fn i8_token(x: &[f32], out: &mut [u8]) {
    let scale = i8_token_scale(absmax(x));
    let (header, quants) = out.split_at_mut(I8_TOKEN_HEADER);
    let mut sum = 0;
    for (v, out) in x.iter().zip(quants) {
        let q = i8_token_quant(*v, scale);
        sum += q;
        *out = q as i8 as u8;
    }
    header[..4].copy_from_slice(&scale.to_le_bytes());
    header[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// An infinite value has the scale 0, and their product is NaN.
#[inline(always)]
pub(crate) fn i8_token_quant(value: f32, scale: f32) -> i32 {
    if value.is_finite() { nearest_int_of_product(value, scale).clamp(-128, 127) } else { 0 }
}

/// An infinite value has the multiplier 0, and their product is NaN.
#[inline(always)]
fn quant(product: f32) -> i32 {
    if product.is_nan() { 0 } else { nearest_int(product) }
}

/// The per-token multiplier; bitnet.cpp floors and divides in f64.
pub(crate) fn i8_token_scale(absmax: f32) -> f32 {
    (127.0 / f64::from(absmax).max(1e-5)) as f32
}

/// (d, multiplier) of a block with quants up to 127; zero where the multiplier would not be finite.
pub(crate) fn scales_127(absmax: f32) -> (f32, f32) {
    let id = 127.0 / absmax;
    (absmax / 127.0, if id.is_finite() { id } else { 0.0 })
}

fn absmax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max, v| if v.abs() > max { v.abs() } else { max })
}

fn each<B: super::blocks::Block, const W: usize>(
    x: &[f32],
    out: &mut [u8],
    quantize: impl Fn(&[f32; W]) -> B,
) {
    for (block, x) in blocks_mut::<B>(out).iter_mut().zip(x.as_chunks::<W>().0) {
        *block = quantize(x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::blocks::blocks;

    #[test]
    fn modes_and_blocks_are_what_they_say() {
        for (mode, quant) in [
            (ActivationMode::Token, ActivationQuant::Token),
            (ActivationMode::Block256, ActivationQuant::Block256),
        ] {
            assert_eq!((ActivationQuant::from(mode), ActivationMode::from(quant)), (quant, mode));
        }
        let lengths = ActivationType::ALL.map(ActivationType::block_len);
        assert_eq!(lengths, [1, 1, 1, 32, 32, 256, 1]);
    }

    #[test]
    fn q8_k_maps_the_first_largest_entry_to_minus_127() {
        let mut x = [0.0f32; 256];
        (x[3], x[9]) = (2.0, -2.0);
        let mut out = vec![0; ActivationType::Q8K.row_bytes(256)];
        quantize_activation(ActivationType::Q8K, &x, &mut out);
        let block = &blocks::<BlockQ8K>(&out)[0];
        assert_eq!((block.qs[3], block.qs[9], block.bsum(0)), (-127, 127, 0));
        assert_eq!(block.d(), -2.0 / 127.0);
        x[20] = 1.0;
        quantize_activation(ActivationType::Q8K, &x, &mut out);
        assert_eq!(blocks::<BlockQ8K>(&out)[0].bsum(1), -64);
    }

    #[test]
    fn what_is_no_number_is_nothing_and_what_is_infinite_makes_the_scale_so() {
        let mut x = [1.0f32; 256];
        (x[3], x[7]) = (f32::NAN, -f32::NAN);
        let row = |ty: ActivationType, x: &[f32]| {
            let mut out = vec![0; ty.row_bytes(x.len())];
            quantize_activation(ty, x, &mut out);
            out
        };
        let first = |x: &[f32]| {
            let (a, b) = (row(ActivationType::Q8_0, x), row(ActivationType::Q8K, x));
            let (a, b) = (&blocks::<BlockQ8_0>(&a)[0], &blocks::<BlockQ8K>(&b)[0]);
            (a.d.get(), [a.qs[2], a.qs[3], a.qs[7]], b.d(), [b.qs[2], b.qs[3], b.qs[7]])
        };
        let (d, a, dk, b) = first(&x);
        assert!(d.is_finite() && dk.is_finite());
        assert_eq!((a, b), ([127, 0, 0], [-127, 0, 0]));
        assert_eq!(row(ActivationType::I8Token, &x)[I8_TOKEN_HEADER..][2..8], [127, 0, 127, 127, 127, 0]);
        x[9] = f32::NEG_INFINITY;
        let (d, a, dk, b) = first(&x);
        assert!(d.is_infinite() && dk.is_infinite());
        assert_eq!((a, b), ([0; 3], [0; 3]));
        let token = row(ActivationType::I8Token, &x);
        assert!(token.iter().all(|byte| *byte == 0), "the scale, the sum and every quant are 0");
    }

    #[test]
    fn halves_round_to_even() {
        let mut x = [0.0f32; 32];
        x[..4].copy_from_slice(&[127.0, 0.5, 1.5, -2.5]);
        let mut out = vec![0; 36];
        quantize_activation(ActivationType::Q8_1, &x, &mut out);
        let block = &blocks::<BlockQ8_1>(&out)[0];
        assert_eq!(block.qs[..4], [127, 0, 2, -2]);
        assert_eq!((block.d.get(), block.s.get()), (1.0, 127.0));
    }

    #[test]
    fn a_tiny_token_keeps_the_floor() {
        let mut out = vec![0; I8_TOKEN_HEADER + 2];
        quantize_activation(ActivationType::I8Token, &[1e-6, -1e-6], &mut out);
        assert_eq!(i8_token_parts(&out), (127.0 / 1e-5, 0, &[13, 243][..]));
    }

    #[test]
    fn what_weights_are_multiplied_with() {
        use ActivationQuant::{Block256, Token};
        for (weight, mode, expected) in [
            (TensorType::Q4_1, Token, ActivationType::Q8_1),
            (TensorType::Q6K, Token, ActivationType::Q8K),
            (TensorType::I2S, Token, ActivationType::I8Token),
            (TensorType::Q2_0, Token, ActivationType::I8Token),
            (TensorType::I2S, Block256, ActivationType::Q8K),
            (TensorType::Q2_0, Block256, ActivationType::Q8_0),
        ] {
            assert_eq!(ActivationType::for_weight(weight, mode), expected, "{weight} {mode:?}");
        }
    }
}
