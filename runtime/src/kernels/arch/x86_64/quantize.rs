//! AVX2 packing of activation rows; bit for bit equal to `quant::activation`.

use super::simd::*;
use crate::quant::activation::{I8_TOKEN_HEADER, i8_token_quant, i8_token_scale, scales_127};
use crate::quant::blocks::*;
use std::arch::x86_64::*;

/// Values that do not fill a vector are left to the scalar definition.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f16(x: &[f32], out: &mut [u8]) {
    let (x, x_tail) = x.as_chunks::<8>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        store128(out, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load_f32(x)));
    }
    crate::quant::activation::f16_row(x_tail, out_tail);
}

/// Adds 0x7fff and the lowest kept bit, which rounds half to even, and keeps the high half; NaN is kept quiet.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bf16(x: &[f32], out: &mut [u8]) {
    let (x, x_tail) = x.as_chunks::<8>();
    let (out, out_tail) = out.as_chunks_mut::<16>();
    for (x, out) in x.iter().zip(out) {
        let value = load_f32(x);
        let bits = _mm256_castps_si256(value);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
        let result = _mm256_blendv_epi8(rounded, quiet, nan);
        let packed = _mm256_packus_epi32(result, result);
        store128(out, _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed)));
    }
    crate::quant::activation::bf16_row(x_tail, out_tail);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_0(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(blocks_mut::<BlockQ8_0>(out)) {
        let (d, id) = scales_127(absmax(x));
        store256(&mut out.qs, pack(round(x, id)));
        out.d = half(d);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_1(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(blocks_mut::<BlockQ8_1>(out)) {
        let (d, id) = scales_127(absmax(x));
        let quants = round(x, id);
        store256(&mut out.qs, pack(quants));
        (out.d, out.s) = (half(d), half(d * sum_i32(add4(quants)) as f32));
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8_k(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.as_chunks::<256>().0.iter().zip(blocks_mut::<BlockQ8K>(out)) {
        let largest = absmax(x);
        let max = x.iter().copied().find(|v| v.abs() == largest).unwrap_or(0.0);
        let iscale = -127.0 / max;
        if !iscale.is_finite() {
            *out = BlockQ8K { d: [0; 4], qs: [0; 256], bsums: [[0; 2]; 16] };
            continue;
        }
        for (g, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let quants = round(x, iscale);
            store256(&mut out.qs.as_chunks_mut::<32>().0[g], pack(quants));
            let sums = [_mm256_add_epi32(quants[0], quants[1]), _mm256_add_epi32(quants[2], quants[3])];
            for (bsum, sum) in out.bsums[2 * g..2 * g + 2].iter_mut().zip(sums) {
                *bsum = (sum_i32(sum) as i16).to_le_bytes();
            }
        }
        out.d = (1.0 / iscale).to_le_bytes();
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn i8_token(x: &[f32], out: &mut [u8]) {
    let (chunks, x_tail) = x.as_chunks::<32>();
    let mut largest = _mm256_setzero_ps();
    for x in chunks {
        largest = _mm256_max_ps(abs_max4(x), largest);
    }
    let largest = x_tail.iter().fold(max_lane(largest), |max, v| max.max(v.abs()));
    let scale = i8_token_scale(largest);
    let (header, quants) = out.split_at_mut(I8_TOKEN_HEADER);
    let (out, out_tail) = quants.as_chunks_mut::<32>();
    let mut sum = _mm256_setzero_si256();
    for (x, out) in chunks.iter().zip(out) {
        let quants = round_product(x, scale);
        sum = _mm256_add_epi32(sum, add4(quants));
        store256(out, pack(quants));
    }
    let mut sum = sum_i32(sum);
    for (x, out) in x_tail.iter().zip(out_tail) {
        let q = i8_token_quant(*x, scale);
        sum += q;
        *out = q as i8 as u8;
    }
    header[..4].copy_from_slice(&scale.to_le_bytes());
    header[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// 32 exact products with `scale`, rounded once, half to even: adding 1.5 * 2^23 leaves the integer in the low bits. 0 for
/// what is no number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn round_product(x: &[f32; 32], scale: f32) -> [__m256i; 4] {
    let magic = _mm256_set1_ps(12_582_912.0);
    let mut out = [_mm256_setzero_si256(); 4];
    for (out, x) in out.iter_mut().zip(x.as_chunks::<8>().0) {
        let sum = _mm256_fmadd_ps(load_f32(x), _mm256_set1_ps(scale), magic);
        let integer = _mm256_sub_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(magic));
        *out = _mm256_and_si256(integer, numbers(sum));
    }
    out
}

/// 32 products with `scale`, rounded half to even; 0 for what is no number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn round(x: &[f32; 32], scale: f32) -> [__m256i; 4] {
    let mut out = [_mm256_setzero_si256(); 4];
    for (out, x) in out.iter_mut().zip(x.as_chunks::<8>().0) {
        let product = _mm256_mul_ps(load_f32(x), _mm256_set1_ps(scale));
        *out = _mm256_and_si256(_mm256_cvtps_epi32(product), numbers(product));
    }
    out
}

/// All bits of what is no NaN.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn numbers(x: __m256) -> __m256i {
    _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(x, x))
}

/// 32 integers to bytes, with saturation; the packs work within halves, so 32-bit groups are put back in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pack([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add4([a, b, c, d]: [__m256i; 4]) -> __m256i {
    _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn absmax<const K: usize>(x: &[f32; K]) -> f32 {
    let mut max = _mm256_setzero_ps();
    for x in x.as_chunks::<32>().0 {
        max = _mm256_max_ps(abs_max4(x), max);
    }
    max_lane(max)
}

/// Largest magnitudes of four vectors. The instruction gives its second operand where one is NaN: those count as 0.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn abs_max4(x: &[f32; 32]) -> __m256 {
    let mut max = _mm256_setzero_ps();
    for x in x.as_chunks::<8>().0 {
        max = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), load_f32(x)), max);
    }
    max
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn max_lane(lanes: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half(value: f32) -> F16 {
    let bits = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
    F16((_mm_extract_epi16::<0>(bits) as u16).to_le_bytes())
}
