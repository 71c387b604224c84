//! Rows of f32 to packed rows: reference quantization.
//!
//! In: one row (or several on end) of f32. Out: packed bytes, equal byte for byte to ggml's
//! `quantize_row_*_ref`, and for I2_S to bitnet.cpp's `quantize_i2_s`. Inputs must be finite.
//! Deliberately absent: importance weights, and speed (this runs in converters and fixtures only).

use super::blocks::*;
use super::k_search::{Search, scale_and_min, signed_scale, small_signed_scale};
use super::nearest_int;
use super::ternary::{pack_ternary, q2_0_block, tq1_block, tq2_block};
use crate::tensor::TensorType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Appends `x`, quantized as `ty`, to `out`.
///
/// ```
/// use bitnet_runtime::quant::{dequantize_row, quantize_row};
/// use bitnet_runtime::tensor::TensorType;
///
/// // Ternary weights times a scale survive two bits each exactly.
/// let weights: Vec<f32> = (0..256).map(|i| [-0.5, 0.0, 0.5][i % 3]).collect();
/// let mut packed = Vec::new();
/// quantize_row(TensorType::TQ2_0, &weights, &mut packed);
/// assert_eq!(packed.len(), 66);
/// let mut back = vec![0.0; 256];
/// dequantize_row(TensorType::TQ2_0, &packed, 1.0, &mut back)?;
/// assert_eq!(back, weights);
/// # Ok::<(), bitnet_runtime::quant::InvalidCode>(())
/// ```
///
/// Panics unless `x` is a whole number of blocks, and for tiled types, which
/// [`super::tl::pack`] packs a tensor at a time.
///
/// I2_S takes the sign of each weight (zero below 1e-6), which is right for ternary times a scale; the caller
/// appends [`super::i2s::trailer`] with the largest magnitude of the whole tensor.
pub fn quantize_row(ty: TensorType, x: &[f32], out: &mut Vec<u8>) {
    let (weights, bytes) = ty.block();
    let fits = !ty.is_tiled() && x.len().is_multiple_of(weights);
    assert!(fits, "{} weights are not whole {ty} blocks", x.len());
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
        TensorType::Q5_0 => each(x, out, q5_0),
        TensorType::Q5_1 => each(x, out, q5_1),
        TensorType::Q8_0 => each(x, out, q8_0),
        TensorType::Q2K => each(x, out, q2_k),
        TensorType::Q3K => each(x, out, q3_k),
        TensorType::Q4K => each(x, out, q4_k),
        TensorType::Q5K => each(x, out, q5_k),
        TensorType::Q6K => each(x, out, q6_k),
        TensorType::Q2_0 => each(x, out, |x: &[f32; 64]| {
            let (scale, codes) = nearest_codes(x);
            q2_0_block(&codes, scale)
        }),
        TensorType::TL1 | TensorType::TL2 => unreachable!("tiled types have no rows, as checked above"),
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

/// The scale that maps the entry of largest magnitude to -16.
fn q5_0(x: &[f32; 32]) -> BlockQ5_0 {
    let max = x.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    let d = max / -16.0;
    let id = inverse(d);
    let quants: [u8; 32] = std::array::from_fn(|e| ((x[e] * id + 16.5) as i8).min(31) as u8);
    BlockQ5_0 { d: F16::new(d), qh: fifth_bits(&quants), qs: pack_nibbles(|e| f32::from(quants[e] & 15)) }
}

fn q5_1(x: &[f32; 32]) -> BlockQ5_1 {
    let min = x.iter().fold(f32::MAX, |min, v| if *v < min { *v } else { min });
    let max = x.iter().fold(f32::MIN, |max, v| if *v > max { *v } else { max });
    let d = (max - min) / 31.0;
    let id = inverse(d);
    let quants = x.map(|v| ((v - min) * id + 0.5) as u8);
    BlockQ5_1 {
        d: F16::new(d),
        m: F16::new(min),
        qh: fifth_bits(&quants),
        qs: pack_nibbles(|e| f32::from(quants[e] & 15)),
    }
}

fn q2_k(x: &[f32; 256]) -> BlockQ2K {
    let mut quants = [0u8; 256];
    let (mut scales, mut mins) = ([0f32; 16], [0f32; 16]);
    for (g, (x, quants)) in x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0).enumerate() {
        (scales[g], mins[g]) = scale_and_min(&Search::Q2_K, x, &x.map(f32::abs), quants);
    }
    let ((scales, d), (mins, dmin)) = (in_steps(scales, 15.0), in_steps(mins, 15.0));
    for (g, (scale, min)) in scales.into_iter().zip(mins).enumerate() {
        requantize(&x[16 * g..], &mut quants[16 * g..16 * g + 16], (d, scale), (dmin, min), 3);
    }
    let scales = std::array::from_fn(|g| scales[g] | mins[g] << 4);
    BlockQ2K { scales, qs: pack_two_bits(&quants), d, dmin }
}

fn q3_k(x: &[f32; 256]) -> BlockQ3K {
    let mut block = BlockQ3K { hmask: [0; 32], qs: [0; 64], scales: [0; 12], d: F16::default() };
    let mut quants = [0u8; 256];
    let mut scales = [0f32; 16];
    for (g, (x, quants)) in x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0).enumerate() {
        scales[g] = small_signed_scale(x, quants);
    }
    let max_scale = scales.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    if max_scale != 0.0 {
        let iscale = -32.0 / max_scale;
        block.d = F16::new(1.0 / iscale);
        for (g, scale) in scales.into_iter().enumerate() {
            let scale = (nearest_int(iscale * scale).clamp(-32, 31) + 32) as u8;
            block.scales[g % 8] |= (scale & 15) << (g / 8 * 4);
            block.scales[8 + g % 4] |= scale >> 4 << (g / 4 * 2);
        }
    }
    // Without a scale, the six bits are 0 and stand for -32; d is 0 then.
    for (g, scale) in block.scales().into_iter().enumerate() {
        let d = block.d.get() * (i32::from(scale) - 32) as f32;
        if d != 0.0 {
            for e in 16 * g..16 * g + 16 {
                quants[e] = (nearest_int(x[e] / d).clamp(-4, 3) + 4) as u8;
            }
        }
    }
    let high = |i: usize| (0..8).fold(0, |byte, n| byte | quants[i + 32 * n] >> 2 << n);
    block.hmask = std::array::from_fn(high);
    block.qs = pack_two_bits(&quants.map(|q| q & 3));
    block
}

fn q4_k(x: &[f32; 256]) -> BlockQ4K {
    let (d, dmin, scales, quants) = six_bit_scales(x, &Search::Q4_K);
    BlockQ4K { d, dmin, scales, qs: pack_four_bits(&quants) }
}

fn q5_k(x: &[f32; 256]) -> BlockQ5K {
    let (d, dmin, scales, quants) = six_bit_scales(x, &Search::Q5_K);
    let high = |i: usize| (0..8).fold(0, |byte, n| byte | quants[i + 32 * n] >> 4 << n);
    BlockQ5K { d, dmin, scales, qh: std::array::from_fn(high), qs: pack_four_bits(&quants.map(|q| q & 15)) }
}

/// Eight groups of 32 with scales and mins of six bits: (d, dmin, packed scales and mins, quants).
fn six_bit_scales(x: &[f32; 256], search: &Search) -> (F16, F16, [u8; 12], [u8; 256]) {
    let mut quants = [0u8; 256];
    let (mut scales, mut mins) = ([0f32; 8], [0f32; 8]);
    for (g, (x, quants)) in x.as_chunks::<32>().0.iter().zip(quants.as_chunks_mut::<32>().0).enumerate() {
        let rms = (x.iter().fold(0.0, |sum, v| sum + v * v) / 32.0).sqrt();
        (scales[g], mins[g]) = scale_and_min(search, x, &x.map(|v| rms + v.abs()), quants);
    }
    let ((scales, d), (mins, dmin)) = (in_steps(scales, 63.0), in_steps(mins, 63.0));
    for (g, (scale, min)) in scales.into_iter().zip(mins).enumerate() {
        requantize(&x[32 * g..], &mut quants[32 * g..32 * g + 32], (d, scale), (dmin, min), search.max);
    }
    (d, dmin, pack_scales_and_mins(scales, mins), quants)
}

/// Non-negative values as multiples, up to `steps`, of (largest / steps), which is the second result.
fn in_steps<const N: usize>(values: [f32; N], steps: f32) -> ([u8; N], F16) {
    let max = values.iter().fold(0.0f32, |max, v| if *v > max { *v } else { max });
    let inverse = if max > 0.0 { steps / max } else { 0.0 };
    (values.map(|v| (nearest_int(inverse * v) as u8).min(steps as u8)), F16::new(max / steps))
}

/// The quants of a group under its stored scale and min, where that scale is not 0.
fn requantize(x: &[f32], quants: &mut [u8], (d, scale): (F16, u8), (dmin, min): (F16, u8), max: u8) {
    let (scale, min) = (d.get() * f32::from(scale), dmin.get() * f32::from(min));
    if scale != 0.0 {
        for (v, q) in x.iter().zip(quants) {
            *q = nearest_int((v + min) / scale).clamp(0, max.into()) as u8;
        }
    }
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
fn nearest_codes<const N: usize>(x: &[f32; N]) -> (f32, [i8; N]) {
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

/// The fifth bits of 32 quants.
fn fifth_bits(quants: &[u8; 32]) -> [u8; 4] {
    quants.iter().rev().fold(0u32, |bits, q| bits << 1 | u32::from(q >> 4 & 1)).to_le_bytes()
}

/// Packs quants of up to 3; byte j of a 32-byte half holds elements j, j+32, j+64, j+96 of its 128.
fn pack_two_bits(quants: &[u8; 256]) -> [u8; 64] {
    let byte = |i: usize| (0..4).fold(0, |byte, n| byte | quants[i / 32 * 128 + i % 32 + 32 * n] << (2 * n));
    std::array::from_fn(byte)
}

/// Packs quants of up to 15; 32 bytes hold 64 elements, byte i elements i (low nibble) and i + 32.
fn pack_four_bits(quants: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| quants[i / 32 * 64 + i % 32] | quants[i / 32 * 64 + i % 32 + 32] << 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;
    use proptest::prelude::*;

    /// The largest error as a share of the largest magnitude in the row: half a step of the coarsest block,
    /// a whole one for Q4_0, whose range ends at 7/8 on one side, and some slack for scales in f16. The K types look for
    /// the least weighted error under scales of few bits, so that single weights may be off by a step and a half.
    fn tolerance(ty: TensorType) -> f32 {
        match ty {
            TensorType::F32 => 0.0,
            TensorType::F16 => 1.0 / 2048.0,
            TensorType::BF16 => 1.0 / 256.0,
            TensorType::Q8_0 => 1.15 / 254.0,
            TensorType::Q4_0 => 1.01 / 8.0,
            TensorType::Q4_1 => 1.02 / 15.0,
            TensorType::Q5_0 => 1.01 / 16.0,
            TensorType::Q5_1 => 1.05 / 31.0,
            TensorType::Q2K => 1.0,
            TensorType::Q3K => 2.0 / 4.0,
            TensorType::Q4K => 3.0 / 15.0,
            TensorType::Q5K => 3.0 / 31.0,
            TensorType::Q6K => 2.0 / 32.0,
            ternary => {
                assert!(ternary.is_ternary());
                0.0
            }
        }
    }

    proptest! {
        #[test]
        fn rows_survive_packing(
            mut x in proptest::collection::vec(-2.0f32..2.0, 512),
            ternary in proptest::collection::vec(-1i8..=1, 512),
        ) {
            for ty in TensorType::with_rows() {
                if ty.is_ternary() {
                    x = ternary.iter().map(|code| f32::from(*code) * 0.75).collect();
                }
                let (mut packed, mut back) = (Vec::new(), vec![0.0; x.len()]);
                quantize_row(ty, &x, &mut packed);
                prop_assert_eq!(Some(packed.len() as u64), ty.row_bytes(512));
                let tensor_scale = if ty == TensorType::I2S { 0.75 } else { 1.0 };
                dequantize_row(ty, &packed, tensor_scale, &mut back).unwrap();
                let bound = tolerance(ty) * absmax(&x);
                let worst = x.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                prop_assert!(worst <= bound, "{}: {} > {}", ty, worst, bound);
            }
        }
    }

    #[test]
    fn a_row_that_is_not_whole_blocks_is_refused() {
        for (ty, len) in [(TensorType::Q4_0, 33), (TensorType::Q6K, 128), (TensorType::TL2, 96)] {
            let refused = std::panic::catch_unwind(|| quantize_row(ty, &vec![0.0; len], &mut Vec::new()));
            assert!(refused.is_err(), "{ty}");
        }
    }

    #[test]
    fn of_two_largest_scales_of_groups_the_first_is_exact() {
        // The scale of largest magnitude gets the lowest code; one of the other sign has one step less.
        for sign in [1.0, -1.0] {
            let mut row = [0.0f32; 256];
            (row[3], row[16 + 3]) = (sign, -sign);
            for ty in [TensorType::Q3K, TensorType::Q6K] {
                let (mut packed, mut back) = (Vec::new(), [0.0; 256]);
                quantize_row(ty, &row, &mut packed);
                dequantize_row(ty, &packed, 1.0, &mut back).unwrap();
                assert!(back[3].abs() > back[19].abs(), "{ty}: {} and {}", back[3], back[19]);
            }
        }
    }

    #[test]
    fn more_than_a_millionth_is_a_weight_of_i2_s_and_less_is_none() {
        let mut row = [0.0f32; 128];
        // The f32 nearest to a millionth is a little less.
        (row[0], row[1]) = (1e-6f32.next_up(), 1e-6);
        let (mut packed, mut back) = (Vec::new(), [0.0; 128]);
        quantize_row(TensorType::I2S, &row, &mut packed);
        dequantize_row(TensorType::I2S, &packed, 1.0, &mut back).unwrap();
        assert_eq!(back[..3], [1.0, 0.0, 0.0]);
    }

    #[test]
    fn nothing_has_no_scale_and_codes_are_the_nearest() {
        let (codes, scale) = in_steps([0.0; 8], 63.0);
        assert_eq!((codes, scale.get()), ([0; 8], 0.0));
        assert_eq!(nearest_codes(&[0.25, 0.0, -0.25, 0.1]), (0.25, [1, 0, -1, 0]));
    }

    #[test]
    fn of_two_largest_magnitudes_the_first_is_exact() {
        for (first, second) in [(1.0, -1.0), (-1.0, 1.0)] {
            let mut row = [0.0f32; 32];
            (row[3], row[7]) = (first, second);
            for (ty, other) in [(TensorType::Q4_0, 7.0 / 8.0), (TensorType::Q5_0, 15.0 / 16.0)] {
                let (mut packed, mut back) = (Vec::new(), [0.0; 32]);
                quantize_row(ty, &row, &mut packed);
                dequantize_row(ty, &packed, 1.0, &mut back).unwrap();
                assert_eq!((back[3], back[7]), (first, second * other), "{ty}");
            }
        }
    }
}
