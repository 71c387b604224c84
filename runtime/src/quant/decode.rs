//! Packed rows to f32.
//!
//! In: the bytes of one row (or of several rows on end). Out: one f32 per weight, with the same single
//! operations, in the same order, as ggml's `dequantize_row_*`, hence equal bit for bit.

use super::blocks::*;
use super::{InvalidCode, i2s, q2_0_codes, tq1_codes, tq2_codes};
use crate::tensor::TensorType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Decodes `bytes` into `out`.
///
/// `tensor_scale` is the scale of an I2_S tensor (see [`i2s::scale`]; the bytes are in the x86 layout), or what scales
/// of Q2_0 blocks are multiplied by (1 for what lies in a file), and not used for other types. Errors: an I2_S code 3. Panics unless `bytes` holds exactly `out.len()` weights, and for
/// tiled types (see [`super::tl`]).
pub fn dequantize_row(
    ty: TensorType,
    bytes: &[u8],
    tensor_scale: f32,
    out: &mut [f32],
) -> Result<(), InvalidCode> {
    assert_eq!(ty.row_bytes(out.len() as u64), Some(bytes.len() as u64), "{ty} row of {} weights", out.len());
    match ty {
        TensorType::F32 => each(bytes, out, |b: &[u8; 4]| [f32::from_le_bytes(*b)]),
        TensorType::F16 => halves(bytes, out),
        TensorType::BF16 => each(bytes, out, |b: &[u8; 2]| [bf16::from_le_bytes(*b).to_f32()]),
        TensorType::Q4_0 => each(bytes, out, |b: &BlockQ4_0| {
            let d = b.d.get();
            nibbles(&b.qs).map(|q| (i32::from(q) - 8) as f32 * d)
        }),
        TensorType::Q4_1 => each(bytes, out, |b: &BlockQ4_1| {
            let (d, m) = (b.d.get(), b.m.get());
            nibbles(&b.qs).map(|q| f32::from(q) * d + m)
        }),
        TensorType::Q5_0 => each(bytes, out, |b: &BlockQ5_0| {
            let d = b.d.get();
            five_bits(&b.qs, b.qh).map(|q| (i32::from(q) - 16) as f32 * d)
        }),
        TensorType::Q5_1 => each(bytes, out, |b: &BlockQ5_1| {
            let (d, m) = (b.d.get(), b.m.get());
            five_bits(&b.qs, b.qh).map(|q| f32::from(q) * d + m)
        }),
        TensorType::Q8_0 => each(bytes, out, |b: &BlockQ8_0| {
            let d = b.d.get();
            b.qs.map(|q| f32::from(q) * d)
        }),
        TensorType::Q2K => each(bytes, out, |b: &BlockQ2K| {
            let (d, dmin) = (b.d.get(), b.dmin.get());
            let scales = b.scales.map(|byte| d * f32::from(byte & 15));
            let mins = b.scales.map(|byte| dmin * f32::from(byte >> 4));
            std::array::from_fn::<_, 256, _>(|e| scales[e / 16] * f32::from(b.quant(e)) - mins[e / 16])
        }),
        TensorType::Q3K => each(bytes, out, |b: &BlockQ3K| {
            let d = b.d.get();
            let scales = b.scales().map(|scale| d * (i32::from(scale) - 32) as f32);
            std::array::from_fn::<_, 256, _>(|e| scales[e / 16] * (i32::from(b.quant(e)) - 4) as f32)
        }),
        TensorType::Q4K => each(bytes, out, |b: &BlockQ4K| {
            with_mins(b.scales_and_mins(), b.d.get(), b.dmin.get(), |e| b.quant(e))
        }),
        TensorType::Q5K => each(bytes, out, |b: &BlockQ5K| {
            with_mins(b.scales_and_mins(), b.d.get(), b.dmin.get(), |e| b.quant(e))
        }),
        TensorType::Q6K => each(bytes, out, |b: &BlockQ6K| {
            let d = b.d.get();
            let scales = b.scales.map(|scale| d * f32::from(scale));
            std::array::from_fn::<_, 256, _>(|e| scales[e / 16] * (i32::from(b.quant(e)) - 32) as f32)
        }),
        TensorType::TQ1_0 => each(bytes, out, |b: &BlockTQ1_0| {
            let d = b.d.get();
            tq1_codes(b).map(|code| f32::from(code) * d)
        }),
        TensorType::TQ2_0 => each(bytes, out, |b: &BlockTQ2_0| {
            let d = b.d.get();
            tq2_codes(b).map(|code| f32::from(code) * d)
        }),
        TensorType::Q2_0 => each(bytes, out, |b: &BlockQ2_0| {
            let d = b.d.get() * tensor_scale;
            q2_0_codes(b).map(|code| f32::from(code) * d)
        }),
        TensorType::TL1 | TensorType::TL2 => unreachable!("tiled types have no rows, as checked above"),
        TensorType::I2S => {
            i2s::validate(bytes)?;
            each(bytes, out, |b: &BlockI2S| {
                i2s::unpack_group(&b.0).map(|code| f32::from(code) * tensor_scale)
            });
        }
    }
    Ok(())
}

/// Half floats, a slice at a time, for which `half` uses the CPU's own conversion.
fn halves(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks(256).zip(out.chunks_mut(128)) {
        let mut halves = [f16::ZERO; 128];
        let halves = &mut halves[..out.len()];
        halves
            .iter_mut()
            .zip(bytes.as_chunks().0)
            .for_each(|(half, bytes)| *half = f16::from_le_bytes(*bytes));
        halves.convert_to_f32_slice(out);
    }
}

/// Decodes block after block.
fn each<B: Block, const W: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&B) -> [f32; W]) {
    for (block, out) in blocks::<B>(bytes).iter().zip(out.as_chunks_mut::<W>().0) {
        *out = decode(block);
    }
}

/// Groups of 32 with six-bit scales and minima.
fn with_mins(
    (scales, mins): ([u8; 8], [u8; 8]),
    d: f32,
    dmin: f32,
    quant: impl Fn(usize) -> u8,
) -> [f32; 256] {
    let scales = scales.map(|scale| d * f32::from(scale));
    let mins = mins.map(|min| dmin * f32::from(min));
    std::array::from_fn(|e| scales[e / 32] * f32::from(quant(e)) - mins[e / 32])
}

/// The 32 nibbles of a Q4_0 or Q4_1 block in element order.
#[inline(always)]
pub(crate) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|e| qs[e % 16] >> (e / 16 * 4) & 15)
}

/// The 32 quants of a Q5_0 or Q5_1 block in element order.
#[inline(always)]
pub(crate) fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(qh));
    std::array::from_fn(|e| low[e] | ((high >> e & 1) as u8) << 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_block_are_in_order() {
        // Byte j holds elements j and j + 16; the fifth bits are those of the word.
        let qs = std::array::from_fn(|j| j as u8 | (15 - j as u8) << 4);
        let low = |e: usize| if e < 16 { e as u8 } else { 31 - e as u8 };
        assert_eq!(nibbles(&qs), std::array::from_fn(low));
        let fifth = |e: usize| u8::from(e.is_multiple_of(3)) << 4;
        let qh = (0..32).fold(0, |word, e| word | u32::from(fifth(e) >> 4) << e);
        assert_eq!(five_bits(&qs, qh.to_le_bytes()), std::array::from_fn(|e| low(e) | fifth(e)));
    }

    #[test]
    fn the_tensor_scale_counts_where_a_type_has_one() {
        let mut packed = Vec::new();
        crate::quant::quantize_row(TensorType::Q2_0, &[0.75; 64], &mut packed);
        let mut back = [0.0; 64];
        dequantize_row(TensorType::Q2_0, &packed, 0.5, &mut back).unwrap();
        assert_eq!(back, [0.375; 64]);
    }
}
