//! NEON packing of activation rows; bit for bit equal to `quant::activation`.

use super::simd::*;
use crate::quant::activation::{
    I8_TOKEN_HEADER, bf16_row, f16_row, i8_token_quant, i8_token_scale, scales_127,
};
use crate::quant::blocks::*;
use std::arch::aarch64::*;

/// Values that do not fill a vector are left to the scalar definition.
#[target_feature(enable = "neon")]
pub(super) fn f16(x: &[f32], out: &mut [u8]) {
    let (x, x_tail) = x.as_chunks::<8>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        let x = x.as_chunks::<4>().0;
        let halves = vcvt_high_f16_f32(vcvt_f16_f32(load_f32(&x[0])), load_f32(&x[1]));
        store(out, vreinterpretq_u8_f16(halves));
    }
    f16_row(x_tail, out_tail);
}

/// Adds 0x7fff and the lowest kept bit, which rounds half to even, and keeps the high half; NaN is kept quiet.
#[target_feature(enable = "neon")]
pub(super) fn bf16(x: &[f32], out: &mut [u8]) {
    let (x, x_tail) = x.as_chunks::<8>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        let mut halves = [vdup_n_u16(0); 2];
        for (halves, x) in halves.iter_mut().zip(x.as_chunks::<4>().0) {
            let value = load_f32(x);
            let bits = vreinterpretq_u32_f32(value);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            *halves = vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(value, value), rounded, quiet));
        }
        store(out, vreinterpretq_u8_u16(vcombine_u16(halves[0], halves[1])));
    }
    bf16_row(x_tail, out_tail);
}

#[target_feature(enable = "neon")]
pub(super) fn q8_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(blocks_mut::<BlockQ8_0>(out)) {
        let (d, id) = scales_127(absmax(x));
        round(x, id, &mut out.qs);
        out.d = F16::new(d);
    }
}

#[target_feature(enable = "neon")]
pub(super) fn q8_1(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(blocks_mut::<BlockQ8_1>(out)) {
        let (d, id) = scales_127(absmax(x));
        let [first, second] = round(x, id, &mut out.qs);
        (out.d, out.s) = (F16::new(d), F16::new(d * (first + second) as f32));
    }
}

#[target_feature(enable = "neon")]
pub(super) fn q8_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<256>().0.iter().zip(blocks_mut::<BlockQ8K>(out)) {
        let largest = absmax(x);
        let max = x.iter().copied().find(|v| v.abs() == largest).unwrap_or(0.0);
        let iscale = -127.0 / max;
        if !iscale.is_finite() {
            *out = BlockQ8K { d: [0; 4], qs: [0; 256], bsums: [[0; 2]; 16] };
            continue;
        }
        let groups = x.as_chunks::<32>().0.iter().zip(out.qs.as_chunks_mut::<32>().0);
        for ((x, qs), bsums) in groups.zip(out.bsums.as_chunks_mut::<2>().0) {
            *bsums = round(x, iscale, qs).map(|sum| (sum as i16).to_le_bytes());
        }
        out.d = (1.0 / iscale).to_le_bytes();
    }
}

/// Exact products with the scale, rounded once, half to even: adding 1.5 * 2^23 leaves the integer in the low bits.
#[target_feature(enable = "neon")]
pub(super) fn i8_token(x: &[f32], out: &mut [u8]) {
    let (chunks, x_tail) = x.as_chunks::<16>();
    let mut largest = vdupq_n_f32(0.0);
    for x in chunks.as_flattened().as_chunks::<4>().0 {
        largest = vmaxnmq_f32(largest, vabsq_f32(load_f32(x)));
    }
    let largest = x_tail.iter().fold(vmaxnmvq_f32(largest), |max, v| max.max(v.abs()));
    let scale = i8_token_scale(largest);
    let (header, quants) = out.split_at_mut(I8_TOKEN_HEADER);
    let (out, out_tail) = quants.as_chunks_mut::<16>();
    let magic = vdupq_n_f32(12_582_912.0);
    let mut sum = 0;
    for (x, out) in chunks.iter().zip(out) {
        let mut quants = [vdupq_n_s32(0); 4];
        for (quants, x) in quants.iter_mut().zip(x.as_chunks::<4>().0) {
            let shifted = vfmaq_n_f32(magic, load_f32(x), scale);
            let integer = vsubq_s32(vreinterpretq_s32_f32(shifted), vreinterpretq_s32_f32(magic));
            // 0 for what is no number.
            *quants = vandq_s32(integer, vreinterpretq_s32_u32(vceqq_f32(shifted, shifted)));
        }
        let quants = narrow(quants);
        sum += i32::from(vaddlvq_s8(quants));
        store(out, vreinterpretq_u8_s8(quants));
    }
    for (x, out) in x_tail.iter().zip(out_tail) {
        let q = i8_token_quant(*x, scale);
        sum += q;
        *out = q as i8 as u8;
    }
    header[..4].copy_from_slice(&scale.to_le_bytes());
    header[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// 32 products with `scale`, rounded half to even (NaN to 0), into `out`; the sums of each sixteen.
#[inline]
#[target_feature(enable = "neon")]
fn round(x: &[f32; 32], scale: f32, out: &mut [i8; 32]) -> [i32; 2] {
    let mut sums = [0; 2];
    let halves = x.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
    for (sum, (x, out)) in sums.iter_mut().zip(halves) {
        let mut quants = [vdupq_n_s32(0); 4];
        for (quants, x) in quants.iter_mut().zip(x.as_chunks::<4>().0) {
            *quants = vcvtnq_s32_f32(vmulq_n_f32(load_f32(x), scale));
        }
        let quants = narrow(quants);
        *sum = i32::from(vaddlvq_s8(quants));
        store(out, vreinterpretq_u8_s8(quants));
    }
    sums
}

/// Sixteen integers to bytes, with saturation.
#[inline]
#[target_feature(enable = "neon")]
fn narrow([a, b, c, d]: [int32x4_t; 4]) -> int8x16_t {
    let (low, high) = (vqmovn_high_s32(vqmovn_s32(a), b), vqmovn_high_s32(vqmovn_s32(c), d));
    vqmovn_high_s16(vqmovn_s16(low), high)
}

#[inline]
#[target_feature(enable = "neon")]
fn absmax<const K: usize>(x: &[f32; K]) -> f32 {
    let mut max = vdupq_n_f32(0.0);
    for x in x.as_chunks::<4>().0 {
        max = vmaxnmq_f32(max, vabsq_f32(load_f32(x)));
    }
    vmaxnmvq_f32(max)
}
