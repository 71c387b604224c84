//! Instances of the portable operations: the same source, compiled with wider vectors, and F16C for half floats.
//! Results equal the scalar ones bit for bit. Attention has versions of its own.

use super::{attention, attention_avx512};
use crate::kernels::SimdLevel;
use crate::kernels::arch::all::attention as portable_attention;
use crate::kernels::arch::all::ops::{self as portable, F16};
use crate::kernels::ops::Ops;
use std::arch::x86_64::*;

/// Compiles the portable operations under `$features` as the module `$name`.
macro_rules! instances {
    ($name:ident, $features:literal) => {
        mod $name {
            use super::{F16c, portable, portable_attention};

            #[target_feature(enable = $features)]
            pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                portable::rms_norm(x, weight, eps, out);
            }

            #[target_feature(enable = $features)]
            pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
                portable::silu_mul(gate, up);
            }

            #[target_feature(enable = $features)]
            pub(super) fn relu2_mul(gate: &mut [f32], up: &[f32]) {
                portable::relu2_mul(gate, up);
            }

            #[target_feature(enable = $features)]
            pub(super) fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
                portable::rope_adjacent(head, cos, sin);
            }

            #[target_feature(enable = $features)]
            pub(super) fn rope_neox(head: &mut [f32], cos: &[f32], sin: &[f32]) {
                portable::rope_neox(head, cos, sin);
            }

            #[target_feature(enable = $features)]
            pub(super) fn softmax(scores: &mut [f32], positions: usize) {
                portable_attention::softmax::<F16c>(scores, positions);
            }

            #[target_feature(enable = $features)]
            pub(super) fn add_up_parts(sums: &[f32], out: &mut [f32]) {
                portable_attention::add_up_parts(sums, out);
            }

            #[target_feature(enable = $features)]
            pub(super) fn f16_from_f32(src: &[f32], dst: &mut [u16]) {
                portable::f16_from_f32::<F16c>(src, dst);
            }

            #[target_feature(enable = $features)]
            pub(super) fn round_to_f16(values: &mut [f32]) {
                portable::round_to_f16::<F16c>(values);
            }
        }
    };
}

instances!(avx2, "avx2,fma,f16c");
instances!(avx512, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,f16c");

/// The operations of module `$name`, with attention from `$attention`.
macro_rules! ops {
    ($level:expr, $name:ident, $attention:ident, $weigh_f16:expr) => {
        Ops {
            level: $level,
            rms_norm: $name::rms_norm,
            silu_mul: $name::silu_mul,
            relu2_mul: $name::relu2_mul,
            rope_adjacent: $name::rope_adjacent,
            rope_neox: $name::rope_neox,
            scores_f16: $attention::scores_f16,
            scores_q8_0: $attention::scores_q8_0,
            softmax: $name::softmax,
            values_f16: $attention::values_f16,
            values_q8_0: $attention::values_q8_0,
            weigh_f16: $weigh_f16,
            add_up_parts: $name::add_up_parts,
            f16_from_f32: $name::f16_from_f32,
            round_to_f16: $name::round_to_f16,
        }
    };
}

pub const OPS: Ops = ops!(SimdLevel::Avx2, avx2, attention, None);
pub const OPS_AVX512: Ops =
    ops!(SimdLevel::Avx512, avx512, attention_avx512, Some(attention_avx512::weigh_f16));

/// Half floats through F16C. Used only inside functions that enable it.
pub(super) struct F16c;

impl F16 for F16c {
    #[inline(always)]
    fn widen(values: &[u16; 8]) -> [f32; 8] {
        let mut out = [0f32; 8];
        // SAFETY: callers enable f16c and avx; source and target are 16 and 32 bytes long.
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
