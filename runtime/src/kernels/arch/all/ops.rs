//! Element-wise operations: one portable definition each (attention: [`super::attention`]).
//!
//! The order of every float operation is the one in which llama.cpp evaluates on AVX2 with FMA (one token at
//! a time, flash attention off), so that logits can equal its to the last bit: activation quantization
//! downstream turns a difference in the last bit into one in the third digit. Each function is written over
//! eight independent lanes with explicit fused multiply-adds; an arch module only instantiates it under its
//! CPU features, which changes the speed and never the bits. Deliberately absent: threads, allocation,
//! batches (callers loop over tokens).

use super::attention;
use crate::kernels::ops::Ops;

pub(super) const LANES: usize = 8;

pub const OPS: Ops = Ops {
    level: crate::kernels::SimdLevel::Scalar,
    rms_norm,
    silu_mul,
    relu2_mul,
    rope_adjacent,
    rope_neox,
    scores_f16: attention::scores_f16::<PortableF16>,
    scores_q8_0: attention::scores_q8_0::<PortableF16>,
    softmax: attention::softmax::<PortableF16>,
    values_f16: attention::values_f16::<PortableF16>,
    values_q8_0: attention::values_q8_0::<PortableF16>,
    weigh_f16: None,
    add_up_parts: attention::add_up_parts,
    f16_from_f32: f16_from_f32::<PortableF16>,
    round_to_f16: round_to_f16::<PortableF16>,
};

/// Reading and writing IEEE half floats, eight at a time.
pub trait F16 {
    fn widen(values: &[u16; LANES]) -> [f32; LANES];
    /// Rounds to nearest even.
    fn narrow(values: &[f32; LANES]) -> [u16; LANES];
}

pub struct PortableF16;

impl F16 for PortableF16 {
    #[inline(always)]
    fn widen(values: &[u16; LANES]) -> [f32; LANES] {
        values.map(|bits| half::f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn narrow(values: &[f32; LANES]) -> [u16; LANES] {
        values.map(|value| half::f16::from_f32(value).to_bits())
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight`; all of length n. Squares are summed in f64, as ggml does.
#[inline(always)]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [0f64; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            sums[lane] += f64::from(block[lane] * block[lane]);
        }
    }
    for (lane, value) in tail.iter().enumerate() {
        sums[lane] += f64::from(value * value);
    }
    let mean = (sums.iter().sum::<f64>() / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

/// `gate = silu(gate) * up`.
#[inline(always)]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// `gate = max(gate, 0)^2 * up`.
#[inline(always)]
pub fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let positive = gate.max(0.0);
        *gate = positive * positive * up;
    }
}

/// Rotates the pairs (2i, 2i + 1) of one head by the angles whose (cos, sin) are given; `llama`.
#[inline(always)]
pub fn rope_adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        *pair = turn(pair[0], pair[1], *cos, *sin);
    }
}

/// Rotates the pairs (i, i + n/2) where n = 2 * cos.len(); NeoX pairing, `bitnet*`.
#[inline(always)]
pub fn rope_neox(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        [*a, *b] = turn(*a, *b, *cos, *sin);
    }
}

#[inline(always)]
fn turn(a: f32, b: f32, cos: f32, sin: f32) -> [f32; 2] {
    [a.mul_add(cos, -(b * sin)), a.mul_add(sin, b * cos)]
}

/// Rounds every value to half precision.
#[inline(always)]
pub fn round_to_f16<H: F16>(values: &mut [f32]) {
    let (blocks, tail) = values.as_chunks_mut::<LANES>();
    for block in blocks {
        *block = H::widen(&H::narrow(block));
    }
    for value in tail {
        *value = half::f16::from_f32(*value).to_f32();
    }
}

/// Rounds `src` to half floats.
#[inline(always)]
pub fn f16_from_f32<H: F16>(src: &[f32], dst: &mut [u16]) {
    let (blocks, tail) = src.as_chunks::<LANES>();
    let (out_blocks, out_tail) = dst.as_chunks_mut::<LANES>();
    for (out, block) in out_blocks.iter_mut().zip(blocks) {
        *out = H::narrow(block);
    }
    for (out, value) in out_tail.iter_mut().zip(tail) {
        *out = half::f16::from_f32(*value).to_bits();
    }
}

/// e^x without a branch, so that it vectorises: x = n ln 2 + b with |b| <= ln 2 / 2, a polynomial for
/// e^b - 1 and 2^n put into the exponent. Method and constants are those of Arm's optimized routines, which
/// ggml uses too. Below -87.3 (n < -126), where ggml returns denormals, the result is 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped.mul_add(f32::from_bits(0x3fb8_aa3b), ROUND); // log2 e
    let n = shifted - ROUND;
    // ln 2 in two parts: 0x1.62e4p-1 and 0x1.7f7d1cp-20.
    let b = n.mul_add(-f32::from_bits(0x35bf_be8e), n.mul_add(-f32::from_bits(0x3f31_7200), clamped));
    let u = b * b;
    let low = f32::from_bits(0x3e2a_af33).mul_add(b, f32::from_bits(0x3eff_fedb)); // near 1/6, 1/2
    let high = f32::from_bits(0x3c07_2010).mul_add(b, f32::from_bits(0x3d2b_9f17)); // near 1/120, 1/24
    let j = high.mul_add(u, low).mul_add(u, f32::from_bits(0x3f7f_fff6) * b);
    let k = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    // A mask, because a choice becomes a branch, and a loop with a branch is not vectorised.
    let keep = u32::from(x < -87.3).wrapping_sub(1);
    f32::from_bits(j.mul_add(k, k).to_bits() & keep)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        let worst = (-8700..8800)
            .map(|i| i as f32 / 100.0)
            .map(|x| ((f64::from(exp(x)) - f64::from(x).exp()) / f64::from(x).exp()).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2.5e-7, "relative error {worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn norm_of_a_constant_is_the_weight() {
        let mut out = [0.0; 11];
        rms_norm(&[3.0; 11], &[0.5; 11], 0.0, &mut out);
        assert!(out.iter().all(|v| (v - 0.5).abs() < 1e-6));
    }

    #[test]
    fn rope_pairs_differ_and_keep_length() {
        let (cos, sin) = ([0.6f32, 0.8], [0.8f32, 0.6]);
        let mut a = [1.0, 2.0, 3.0, 4.0];
        let mut b = a;
        rope_adjacent(&mut a, &cos, &sin);
        rope_neox(&mut b, &cos, &sin);
        for (got, want) in a.iter().zip([0.6 - 1.6, 0.8 + 1.2, 2.4 - 2.4, 1.8 + 3.2]) {
            assert!((got - want).abs() < 1e-6, "{a:?}");
        }
        for (got, want) in b.iter().zip([0.6 - 2.4, 1.6 - 2.4, 0.8 + 1.8, 1.2 + 3.2]) {
            assert!((got - want).abs() < 1e-6, "{b:?}");
        }
    }
}
