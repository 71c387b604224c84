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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::SimdLevel;
    use proptest::prelude::*;

    /// Runs `check(scalar, avx2)` where the CPU has AVX2, and says so where it has not.
    fn with_both(check: impl FnOnce(&Ops, &Ops)) {
        if SimdLevel::Avx2.is_available() {
            check(&portable::OPS, &OPS);
        } else {
            eprintln!("skipped: this CPU has no AVX2");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn element_wise_operations_equal_the_scalar_ones(
            values in proptest::collection::vec((-90f32..90.0, -4f32..4.0), 1..70),
        ) {
            let (x, y): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
            with_both(|scalar, avx2| {
                let run = |ops: &Ops| {
                    let mut norm = vec![0.0; x.len()];
                    let (mut silu, mut relu2) = (x.clone(), x.clone());
                    let mut half = vec![0u16; x.len()];
                    let mut rounded = x.clone();
                    // SAFETY: `with_both` checked the CPU.
                    unsafe {
                        (ops.rms_norm)(&x, &y, 1e-5, &mut norm);
                        (ops.silu_mul)(&mut silu, &y);
                        (ops.relu2_mul)(&mut relu2, &y);
                        (ops.f16_from_f32)(&x, &mut half);
                        (ops.round_to_f16)(&mut rounded);
                    }
                    ([norm, silu, relu2, rounded].map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>()), half)
                };
                assert_eq!(run(scalar), run(avx2));
            });
        }

        #[test]
        fn rope_equals_the_scalar_one(pairs in proptest::collection::vec((-4f32..4.0, -4f32..4.0, -7f32..7.0), 1..40)) {
            let (cos, sin): (Vec<f32>, Vec<f32>) = pairs.iter().map(|(_, _, angle)| (angle.cos(), angle.sin())).unzip();
            let head: Vec<f32> = pairs.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
            with_both(|scalar, avx2| {
                let run = |ops: &Ops| {
                    let (mut adjacent, mut neox) = (head.clone(), head.clone());
                    // SAFETY: `with_both` checked the CPU.
                    unsafe {
                        (ops.rope_adjacent)(&mut adjacent, &cos, &sin);
                        (ops.rope_neox)(&mut neox, &cos, &sin);
                    }
                    [adjacent, neox].map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
                };
                assert_eq!(run(scalar), run(avx2));
            });
        }
    }
}
