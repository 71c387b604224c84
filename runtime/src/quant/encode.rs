//! Rows of f32 to packed rows: reference quantization.
//!
//! In: one row (or several on end) of f32. Out: packed bytes, equal byte for byte to ggml's
//! `quantize_row_*_ref`, and for I2_S to bitnet.cpp's `quantize_i2_s`. Inputs must be finite.
//! Deliberately absent: importance weights, and speed (this runs in converters and fixtures only).

use super::blocks::*;
use super::k_search::{scale_and_min, signed_scale};
use super::nearest_int;
use super::ternary::{pack_ternary, tq1_block, tq2_block};
use crate::tensor::TensorType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Appends `x`, quantized as `ty`, to `out`. Panics unless `x` is a whole number of blocks.
///
/// I2_S takes the sign of each weight (zero below 1e-6), which is right for ternary times a scale; the caller
/// appends [`super::i2s::trailer`] with the largest magnitude of the whole tensor.
pub fn quantize_row(ty: TensorType, x: &[f32], out: &mut Vec<u8>) {
    let (weights, bytes) = ty.block();
    assert!(x.len().is_multiple_of(weights), "{} weights are not whole {ty} blocks", x.len());
    out.reserve(x.len() / weights * bytes);
    match ty {
        TensorType::F32 => out.extend(x.iter().flat_map(|v| v.to_le_bytes())),
        TensorType::F16 => {
            let mut halves = vec![f16::ZERO; x.len()];
            halves.convert_from_f32_slice(x);
            out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
        }
        TensorType::BF16 => out.extend(x.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        TensorType::Q4_0 => each(x, out, q4_0),
        TensorType::Q4_1 => each(x, out, q4_1),
        TensorType::Q8_0 => each(x, out, q8_0),
        TensorType::Q4K => each(x, out, q4_k),
        TensorType::Q6K => each(x, out, q6_k),
        TensorType::TQ1_0 => each(x, out, |x: &[f32; 256]| {
            let (scale, codes) = nearest_codes(x);
            tq1_block(&codes, scale)
        }),
        TensorType::TQ2_0 => each(x, out, |x: &[f32; 256]| {
            let (scale, codes) = nearest_codes(x);
            tq2_block(&codes, scale)
        }),
        TensorType::I2S => {
            let code = |v: &f32| if f64::from(v.abs()) < 1e-6 { 0 } else { v.signum() as i8 };
            pack_ternary(ty, &x.iter().map(code).collect::<Vec<_>>(), 1.0, out);
        }
    }
}

/// Encodes block after block.
fn each<B: Block, const W: usize>(x: &[f32], out: &mut Vec<u8>, encode: impl Fn(&[f32; W]) -> B) {
    let start = out.len();
    out.resize(start + x.len() / W * size_of::<B>(), 0);
    for (block, x) in blocks_mut::<B>(&mut out[start..]).iter_mut().zip(x.as_chunks::<W>().0) {
        *block = encode(x);
    }
}

/// The scale that maps the entry of largest magnitude to -8.
fn q4_0(x: &[f32; 32]) -> BlockQ4_0 {
    let max = x.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    let d = max / -8.0;
    let id = inverse(d);
    BlockQ4_0 { d: F16::new(d), qs: pack_nibbles(|e| x[e] * id + 8.5) }
}

fn q4_1(x: &[f32; 32]) -> BlockQ4_1 {
    let min = x.iter().fold(f32::MAX, |min, v| if *v < min { *v } else { min });
    let max = x.iter().fold(f32::MIN, |max, v| if *v > max { *v } else { max });
    let d = (max - min) / 15.0;
    let id = inverse(d);
    BlockQ4_1 { d: F16::new(d), m: F16::new(min), qs: pack_nibbles(|e| (x[e] - min) * id + 0.5) }
}

/// Rounds half away from zero, unlike the quantization of activations.
fn q8_0(x: &[f32; 32]) -> BlockQ8_0 {
    let d = absmax(x) / 127.0;
    let id = inverse(d);
    BlockQ8_0 { d: F16::new(d), qs: x.map(|v| (v * id).round() as i8) }
}

fn q4_k(x: &[f32; 256]) -> BlockQ4K {
    let mut quants = [0u8; 256];
    let (mut scales, mut mins) = ([0f32; 8], [0f32; 8]);
    for (g, (x, quants)) in x.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<32>().0).enumerate() {
        let rms = (x.iter().fold(0.0, |sum, v| sum + v * v) / 32.0).sqrt();
        (scales[g], mins[g]) = scale_and_min(x, &x.map(|v| rms + v.abs()), quants);
    }
    let largest = |values: &[f32; 8]| values.iter().fold(0.0f32, |max, v| if *v > max { *v } else { max });
    let (max_scale, max_min) = (largest(&scales), largest(&mins));
    let six_bits = |values: [f32; 8], max: f32| {
        let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
        values.map(|v| (nearest_int(inverse * v) as u8).min(63))
    };
    let (scales, mins) = (six_bits(scales, max_scale), six_bits(mins, max_min));
    let (d, dmin) = (F16::new(max_scale / 63.0), F16::new(max_min / 63.0));
    let mut block = BlockQ4K { d, dmin, scales: [0; 12], qs: [0; 128] };
    block.set_scales_and_mins(scales, mins);
    for g in 0..8 {
        let (scale, min) = (d.get() * f32::from(scales[g]), dmin.get() * f32::from(mins[g]));
        if scale != 0.0 {
            for e in 32 * g..32 * g + 32 {
                quants[e] = nearest_int((x[e] + min) / scale).clamp(0, 15) as u8;
            }
        }
    }
    block.qs = std::array::from_fn(|i| quants[i / 32 * 64 + i % 32] | quants[i / 32 * 64 + i % 32 + 32] << 4);
    block
}

fn q6_k(x: &[f32; 256]) -> BlockQ6K {
    let mut block = BlockQ6K { ql: [0; 128], qh: [0; 64], scales: [0; 16], d: F16::default() };
    let mut quants = [0u8; 256];
    let mut scales = [0f32; 16];
    for (g, (x, quants)) in x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0).enumerate() {
        scales[g] = signed_scale::<16, 32>(x, quants);
    }
    let max_scale = scales.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    if max_scale.abs() < super::k_search::GROUP_MAX_EPS {
        return block;
    }
    let iscale = -128.0 / max_scale;
    block.d = F16::new(1.0 / iscale);
    block.scales = scales.map(|scale| nearest_int(iscale * scale).min(127) as i8);
    for (g, scale) in block.scales.into_iter().enumerate() {
        let d = block.d.get() * f32::from(scale);
        if d != 0.0 {
            for e in 16 * g..16 * g + 16 {
                quants[e] = (nearest_int(x[e] / d).clamp(-32, 31) + 32) as u8;
            }
        }
    }
    let low = |half: usize, i: usize| quants[128 * half + i] & 15 | (quants[128 * half + i + 64] & 15) << 4;
    block.ql = std::array::from_fn(|i| low(i / 64, i % 64));
    let high = |half: usize, i: usize| {
        (0..4).fold(0, |byte, n| byte | quants[128 * half + i + 32 * n] >> 4 << (2 * n))
    };
    block.qh = std::array::from_fn(|i| high(i / 32, i % 32));
    block
}

/// The largest magnitude as scale, and each entry's nearest code under it.
fn nearest_codes(x: &[f32; 256]) -> (f32, [i8; 256]) {
    let d = absmax(x);
    let id = inverse(d);
    (d, x.map(|v| (v * id).round() as i8))
}

fn absmax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |max, v| if v.abs() > max { v.abs() } else { max })
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Packs 32 values (truncated, at most 15) into nibbles; byte j holds elements j and j + 16.
fn pack_nibbles(value: impl Fn(usize) -> f32) -> [u8; 16] {
    let nibble = |e: usize| (value(e) as i8).min(15) as u8;
    std::array::from_fn(|j| nibble(j) | nibble(j + 16) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;
    use proptest::prelude::*;

    /// The largest error as a share of the largest magnitude in the row: half a step of the coarsest block,
    /// a whole one for Q4_0, whose range ends at 7/8 on one side, and some slack for scales in f16 or 6 bits.
    fn tolerance(ty: TensorType) -> f32 {
        match ty {
            TensorType::F32 => 0.0,
            TensorType::F16 => 1.0 / 2048.0,
            TensorType::BF16 => 1.0 / 256.0,
            TensorType::Q8_0 => 1.15 / 254.0,
            TensorType::Q4_0 => 1.01 / 8.0,
            TensorType::Q4_1 => 1.02 / 15.0,
            TensorType::Q4K => 2.0 / 15.0,
            TensorType::Q6K => 1.5 / 32.0,
            TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::I2S => 0.0,
        }
    }

    proptest! {
        #[test]
        fn rows_survive_packing(
            mut x in proptest::collection::vec(-2.0f32..2.0, 512),
            ternary in proptest::collection::vec(-1i8..=1, 512),
        ) {
            for ty in TensorType::ALL {
                if ty.is_ternary() {
                    x = ternary.iter().map(|code| f32::from(*code) * 0.75).collect();
                }
                let (mut packed, mut back) = (Vec::new(), vec![0.0; x.len()]);
                quantize_row(ty, &x, &mut packed);
                prop_assert_eq!(Some(packed.len() as u64), ty.row_bytes(512));
                dequantize_row(ty, &packed, 0.75, &mut back).unwrap();
                let bound = tolerance(ty) * absmax(&x);
                let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                prop_assert!(worst <= bound, "{}: {} > {}", ty, worst, bound);
            }
        }
    }
}
