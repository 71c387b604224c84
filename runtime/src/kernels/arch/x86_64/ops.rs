//! AVX2 instances of the portable operations: the same source, compiled with wider vectors, and F16C for
//! half floats. Results equal the scalar ones bit for bit.

use crate::kernels::arch::all::attention;
use crate::kernels::arch::all::ops::{self as portable, F16};
use crate::kernels::ops::{Ops, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8};
use std::arch::x86_64::*;

pub const OPS: Ops = Ops {
    level: crate::kernels::SimdLevel::Avx2,
    rms_norm,
    silu_mul,
    relu2_mul,
    rope_adjacent,
    rope_neox,
    scores_f16,
    scores_q8_0,
    softmax,
    values_f16,
    values_q8_0,
    add_up_parts,
    f16_from_f32,
    round_to_f16,
};

/// Half floats through F16C. Used only inside the functions of this file, which enable it.
struct F16c;

impl F16 for F16c {
    #[inline(always)]
    fn widen(values: &[u16; 8]) -> [f32; 8] {
        let mut out = [0f32; 8];
        // SAFETY: callers in this file enable f16c and avx; source and target are 16 and 32 bytes long.
        unsafe {
            let half = _mm_loadu_si128(values.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
        out
    }

    #[inline(always)]
    fn narrow(values: &[f32; 8]) -> [u16; 8] {
        let mut out = [0u16; 8];
        // SAFETY: as in `widen`.
        unsafe {
            let wide = _mm256_loadu_ps(values.as_ptr());
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide));
        }
        out
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    portable::rms_norm(x, weight, eps, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    portable::silu_mul(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    portable::relu2_mul(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    portable::rope_adjacent(head, cos, sin);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rope_neox(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    portable::rope_neox(head, cos, sin);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores_f16(args: &mut ScoresF16<'_>) {
    attention::scores_f16::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn scores_q8_0(args: &mut ScoresQ8<'_>) {
    attention::scores_q8_0::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn softmax(scores: &mut [f32], positions: usize) {
    attention::softmax::<F16c>(scores, positions);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn values_f16(args: &mut ValuesF16<'_>) {
    attention::values_f16::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn values_q8_0(args: &mut ValuesQ8<'_>) {
    attention::values_q8_0::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add_up_parts(sums: &[f32], out: &mut [f32]) {
    attention::add_up_parts(sums, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_from_f32(src: &[f32], dst: &mut [u16]) {
    portable::f16_from_f32::<F16c>(src, dst);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn round_to_f16(values: &mut [f32]) {
    portable::round_to_f16::<F16c>(values);
}
