//! Element-wise operations and attention: one portable definition each.
//!
//! Each is written over eight independent lanes and without fused multiply-add, so that the compiler's
//! vector code for any instruction set gives the same bits as the scalar code: an arch module only
//! instantiates these functions under its CPU features. The one thing that differs is how f16 is read, which
//! is exact everywhere. Deliberately absent: threads, allocation, batches (callers loop over tokens).

use crate::kernels::ops::{Attend, Ops};

const LANES: usize = 8;
/// Keys handled between two updates of the running maximum.
const KEY_BLOCK: usize = 64;

pub const OPS: Ops = Ops {
    level: crate::kernels::SimdLevel::Scalar,
    rms_norm,
    silu_mul,
    relu2_mul,
    rope_adjacent,
    rope_neox,
    attend: attend::<PortableF16>,
    f16_from_f32: f16_from_f32::<PortableF16>,
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
        *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
    }
}

/// Rotates the pairs (i, i + n/2) where n = 2 * cos.len(); NeoX pairing, `bitnet*`.
#[inline(always)]
pub fn rope_neox(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

/// Softmax attention of one query head over the first `positions` keys, with a running maximum
/// (Milakov and Gimelshein 2018), so that scores need no buffer. The order of additions depends on the
/// position alone.
#[inline(always)]
pub fn attend<H: F16>(args: &mut Attend<'_>) {
    let d = args.query.len();
    let (keys, values) = (args.keys.chunks(KEY_BLOCK * d), args.values.chunks(KEY_BLOCK * d));
    let mut maximum = f32::NEG_INFINITY;
    let mut sum = 0f32;
    args.out.fill(0.0);
    for (keys, values) in keys.zip(values) {
        let mut scores = [f32::NEG_INFINITY; KEY_BLOCK];
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
            *score = dot::<H>(args.query, key) * args.scale;
        }
        let block_maximum = scores.iter().fold(maximum, |a, b| a.max(*b));
        if block_maximum > maximum {
            let shrink = if maximum == f32::NEG_INFINITY { 0.0 } else { exp(maximum - block_maximum) };
            sum *= shrink;
            args.out.iter_mut().for_each(|out| *out *= shrink);
            maximum = block_maximum;
        }
        for score in &mut scores {
            *score = exp(*score - maximum);
        }
        for (weight, value) in scores.iter().zip(values.chunks_exact(d)) {
            sum += weight;
            axpy::<H>(args.out, *weight, value);
        }
    }
    let scale = 1.0 / sum;
    args.out.iter_mut().for_each(|out| *out *= scale);
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

#[inline(always)]
fn dot<H: F16>(query: &[f32], key: &[u16]) -> f32 {
    let mut sums = [0f32; LANES];
    let (queries, keys) = (query.as_chunks::<LANES>(), key.as_chunks::<LANES>());
    for (query, key) in queries.0.iter().zip(keys.0) {
        let key = H::widen(key);
        for lane in 0..LANES {
            sums[lane] += query[lane] * key[lane];
        }
    }
    for (lane, (query, key)) in queries.1.iter().zip(keys.1).enumerate() {
        sums[lane] += query * half::f16::from_bits(*key).to_f32();
    }
    let halves: [f32; 4] = std::array::from_fn(|i| sums[i] + sums[i + 4]);
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}

#[inline(always)]
fn axpy<H: F16>(out: &mut [f32], weight: f32, value: &[u16]) {
    let (outs, values) = (out.as_chunks_mut::<LANES>(), value.as_chunks::<LANES>());
    for (out, value) in outs.0.iter_mut().zip(values.0) {
        let value = H::widen(value);
        for lane in 0..LANES {
            out[lane] += weight * value[lane];
        }
    }
    for (out, value) in outs.1.iter_mut().zip(values.1) {
        *out += weight * half::f16::from_bits(*value).to_f32();
    }
}

/// e^x to about one unit in the last place, without a branch so that it vectorises: x = n ln 2 + r with
/// |r| <= ln 2 / 2, a degree-6 polynomial for e^r, and n added to the exponent. Below -87.3 the result is 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts; the first has few enough bits that n times it is exact.
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let exponent = (shifted.to_bits() << 23).wrapping_add(p.to_bits());
    if x < -87.3 { 0.0 } else { f32::from_bits(exponent) }
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

    #[test]
    fn attention_equals_a_plain_softmax() {
        let (d, n) = (12usize, 150usize);
        let wave = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
        let query: Vec<f32> = (0..d).map(wave).collect();
        let half = |v: f32| half::f16::from_f32(v).to_bits();
        let keys: Vec<u16> = (0..n * d).map(|i| half(wave(i + 5))).collect();
        let values: Vec<u16> = (0..n * d).map(|i| half(wave(3 * i))).collect();
        let mut out = vec![0.0; d];
        attend::<PortableF16>(&mut Attend {
            query: &query,
            keys: &keys,
            values: &values,
            scale: 0.3,
            out: &mut out,
        });
        let wide = |bits: u16| f64::from(half::f16::from_bits(bits).to_f32());
        let scores: Vec<f64> = keys
            .chunks(d)
            .map(|key| key.iter().zip(&query).map(|(k, q)| wide(*k) * f64::from(*q)).sum::<f64>() * 0.3)
            .collect();
        let total: f64 = scores.iter().map(|s| s.exp()).sum();
        for (i, got) in out.iter().enumerate() {
            let want: f64 = (0..n).map(|p| scores[p].exp() / total * wide(values[p * d + i])).sum();
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
        }
    }
}
