//! One runner for the attention of every level: against the scalar definition, against a softmax in f64, and that
//! runs and neighbours change nothing.

use super::all::ops::OPS as SCALAR;
use crate::kernels::ops::{
    KeysQ8, Ops, PARTS, Q8_BLOCK, Q8_GROUP, QUERIES, QueriesQ8, RunQ8, ScoresF16, ScoresQ8, ValuesF16,
    ValuesQ8, WeighF16,
};
use crate::kernels::registry::OPS;
use half::f16;
use proptest::prelude::*;

/// Every instance this CPU can run.
fn levels() -> impl Iterator<Item = &'static Ops> {
    OPS.iter().filter(|ops| ops.level.is_available())
}

/// Up to [`QUERIES`] queries over one sequence; q8_0 where heads are whole blocks.
#[derive(Clone, Debug)]
struct Case {
    d: usize,
    queries: Vec<f32>,
    /// Positions that each query sees.
    counts: Vec<usize>,
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Positions of a run.
    run: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kv {
    F16,
    Q8,
}

impl Case {
    fn random(d: usize, counts: Vec<usize>, run: usize, amplitude: f32, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f32 / (1u64 << 30) as f32 - 1.0) * amplitude
        };
        let longest = counts.iter().max().unwrap().next_multiple_of(run);
        let mut many = |n: usize| (0..n).map(|_| f16::from_f32(next()).to_f32()).collect::<Vec<f32>>();
        let (queries, keys, values) = (many(counts.len() * d), many(longest * d), many(longest * d));
        Case { d, queries, counts, keys, values, run }
    }

    /// Attention of every query [queries, d], run by run.
    fn attend(&self, ops: &Ops, kv: Kv) -> Vec<f32> {
        let Case { d, run, .. } = *self;
        let (n, longest) = (self.counts.len(), self.keys.len() / d);
        let mut scores = vec![f32::NAN; n * longest];
        let parts = if kv == Kv::F16 { PARTS } else { 1 };
        let mut sums = vec![0.0; n * parts * d];
        let packed = Packed::new(self);
        for at in (0..longest).step_by(run) {
            let (out, scale) = (&mut scores[at..], 0.2);
            match kv {
                Kv::F16 => {
                    let (queries, keys) = (&self.queries[..], &packed.keys_f16[at * d..][..run * d]);
                    let mut args = ScoresF16 { queries, head_dim: d, keys, scale, out, stride: longest };
                    // SAFETY: `levels` gives those this CPU runs.
                    unsafe { (ops.scores_f16)(&mut args) }
                }
                Kv::Q8 => {
                    let queries = QueriesQ8 { quants: &packed.queries.0, scales: &packed.queries.1 };
                    let keys = KeysQ8 {
                        quants: &packed.keys.0[at * d..][..run * d],
                        scales: &packed.keys.1[at * d / Q8_BLOCK..][..run * d / Q8_BLOCK],
                    };
                    let mut args = ScoresQ8 { queries, head_dim: d, keys, scale, out, stride: longest };
                    // SAFETY: as above.
                    unsafe { (ops.scores_q8_0)(&mut args) }
                }
            }
        }
        for (scores, count) in scores.chunks_exact_mut(longest).zip(&self.counts) {
            // SAFETY: as above.
            unsafe { (ops.softmax)(scores, *count) };
        }
        // Two runs to a call.
        for at in (0..longest).step_by(2 * run) {
            let counts: Vec<usize> = self.counts.iter().map(|c| c.saturating_sub(at).min(2 * run)).collect();
            let (weights, counts, stride, sums) = (&scores[at..], &counts[..], longest, &mut sums[..]);
            let firsts = (at..longest.min(at + 2 * run)).step_by(run);
            match kv {
                Kv::F16 => {
                    let runs: Vec<&[u16]> =
                        firsts.map(|at| &packed.values_f16[at * d..][..run * d]).collect();
                    let mut args = ValuesF16 {
                        weights,
                        stride,
                        counts,
                        runs: &runs,
                        next: &runs,
                        head_dim: d,
                        parts: 0..PARTS,
                        sums,
                    };
                    // SAFETY: as above.
                    unsafe { (ops.values_f16)(&mut args) }
                }
                Kv::Q8 => {
                    let run = |at: usize| RunQ8 {
                        quants: &packed.values.0[at * d..][..run * d],
                        scales: &packed.values.1[at * d / Q8_BLOCK..][..run * d / Q8_BLOCK],
                    };
                    let runs: Vec<RunQ8<'_>> = firsts.map(run).collect();
                    let mut args =
                        ValuesQ8 { weights, stride, counts, runs: &runs, head_dim: d, columns: 0..d, sums };
                    // SAFETY: as above.
                    unsafe { (ops.values_q8_0)(&mut args) }
                }
            }
        }
        if kv == Kv::Q8 {
            return sums;
        }
        let mut out = vec![f32::NAN; n * d];
        for (sums, out) in sums.chunks_exact(PARTS * d).zip(out.chunks_exact_mut(d)) {
            // SAFETY: as above.
            unsafe { (ops.add_up_parts)(sums, out) };
        }
        if let Some(weigh) = ops.weigh_f16.filter(|_| d.is_multiple_of(64)) {
            let mut at_once = vec![f32::NAN; n * d];
            let starts: Vec<usize> = (0..longest / run).map(|number| number * run * d).collect();
            let mut args = WeighF16 {
                weights: &scores,
                stride: longest,
                counts: &self.counts,
                values: &packed.values_f16,
                starts: &starts,
                per_run: run,
                head_dim: d,
                out: &mut at_once,
            };
            // SAFETY: as above.
            unsafe { weigh(&mut args) };
            assert_eq!(bits(&at_once), bits(&out), "weighed at once, and part by part");
        }
        out
    }

    fn alone(&self, q: usize) -> Case {
        let queries = self.queries[q * self.d..][..self.d].to_vec();
        let counts = vec![self.counts[q]];
        let longest = counts[0].next_multiple_of(self.run) * self.d;
        Case {
            queries,
            counts,
            keys: self.keys[..longest].to_vec(),
            values: self.values[..longest].to_vec(),
            ..*self
        }
    }
}

/// Keys, values and queries in both types.
struct Packed {
    keys_f16: Vec<u16>,
    values_f16: Vec<u16>,
    queries: (Vec<i8>, Vec<f32>),
    keys: (Vec<i8>, Vec<u16>),
    values: (Vec<i8>, Vec<u16>),
}

impl Packed {
    fn new(case: &Case) -> Self {
        let d = case.d;
        let half = |values: &[f32]| values.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
        let (keys_f16, values_f16) = (half(&case.keys), half(&case.values));
        if !d.is_multiple_of(Q8_BLOCK) {
            let none = || (Vec::new(), Vec::new());
            return Packed {
                keys_f16,
                values_f16,
                queries: (Vec::new(), Vec::new()),
                keys: none(),
                values: none(),
            };
        }
        let (quants, scales) = q8(&case.queries);
        let queries = (quants, scales.iter().map(|s| f16::from_bits(*s).to_f32()).collect());
        let (flat, flat_scales) = q8(&case.keys);
        let (mut keys, mut key_scales) = (vec![0; flat.len()], vec![0; flat_scales.len()]);
        for (position, (key, scales)) in flat.chunks(d).zip(flat_scales.chunks(d / Q8_BLOCK)).enumerate() {
            let (group, lane) = (position / Q8_GROUP, position % Q8_GROUP);
            for (i, quant) in key.iter().enumerate() {
                keys[(group * d + i / 4 * 4) * Q8_GROUP + lane * 4 + i % 4] = *quant;
            }
            for (block, scale) in scales.iter().enumerate() {
                key_scales[(group * d / Q8_BLOCK + block) * Q8_GROUP + lane] = *scale;
            }
        }
        Packed { keys_f16, values_f16, queries, keys: (keys, key_scales), values: q8(&case.values) }
    }
}

fn q8(values: &[f32]) -> (Vec<i8>, Vec<u16>) {
    let mut quants = Vec::new();
    let scales = values.chunks(Q8_BLOCK).map(|block| {
        let scale = f16::from_f32(block.iter().fold(0f32, |m, v| m.max(v.abs())) / 127.0);
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        quants.extend(block.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8));
        scale.to_bits()
    });
    let scales = scales.collect();
    (quants, scales)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn kinds(d: usize) -> &'static [Kv] {
    if d.is_multiple_of(Q8_BLOCK) { &[Kv::F16, Kv::Q8] } else { &[Kv::F16] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_level_equals_scalar_whatever_the_runs(
        d in prop_oneof![Just(32usize), Just(64), Just(80), Just(96), Just(128), (1usize..40).prop_map(|d| d * 2)],
        counts in proptest::collection::vec(1usize..200, 1..=QUERIES),
        run in prop_oneof![Just(32usize), Just(64), Just(128)],
        amplitude in prop_oneof![Just(1f32), Just(0.01), Just(30.0)],
        seed: u64,
    ) {
        let case = Case::random(d, counts, run, amplitude, seed);
        for kv in kinds(d) {
            let expected = bits(&case.attend(&SCALAR, *kv));
            for ops in levels() {
                prop_assert_eq!(&bits(&case.attend(ops, *kv)), &expected, "{:?} {:?}", ops.level, kv);
            }
            for q in 0..case.counts.len() {
                let alone = case.alone(q).attend(&SCALAR, *kv);
                prop_assert_eq!(bits(&alone), expected[q * d..][..d].to_vec(), "query {} {:?}", q, kv);
            }
        }
    }
}

/// Keys, values and queries of the largest magnitude: 8-bit products must not wrap.
#[test]
fn long_contexts_equal_scalar() {
    // More rows of a partial sum than are widened at a time, and numbers of queries that are not whole fours.
    for (run, counts) in [(64, vec![1100, 513, 512, 511, 1, 1099]), (512, vec![700; 13])] {
        let case = Case::random(64, counts, run, 1.0, 7);
        let expected = case.attend(&SCALAR, Kv::F16);
        for ops in levels() {
            assert_eq!(bits(&case.attend(ops, Kv::F16)), bits(&expected), "{:?}", ops.level);
        }
    }
}

#[test]
fn extremes_equal_scalar() {
    for d in [64, 128] {
        let mut case = Case::random(d, vec![70, 64, 3, 128], 64, 1.0, 3);
        for values in [&mut case.queries, &mut case.keys, &mut case.values] {
            values.iter_mut().for_each(|v| *v = if *v < -0.9 { 1.0 } else { -1.0 });
        }
        for ops in levels() {
            for kv in [Kv::F16, Kv::Q8] {
                assert_eq!(
                    bits(&case.attend(ops, kv)),
                    bits(&case.attend(&SCALAR, kv)),
                    "{:?} {kv:?}",
                    ops.level
                );
            }
        }
    }
}

#[test]
fn attention_equals_a_plain_softmax() {
    for (d, tolerances) in [(12, [4e-3, 0.0]), (64, [4e-3, 2e-2])] {
        let case = Case::random(d, vec![150, 1, 37], 32, 1.0, 11);
        for (kv, tolerance) in kinds(d).iter().zip(tolerances) {
            let out = case.attend(&SCALAR, *kv);
            for (q, (query, count)) in case.queries.chunks(d).zip(&case.counts).enumerate() {
                let dot = |a: &[f32], b: &[f32]| {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
                };
                let scores: Vec<f64> =
                    case.keys.chunks(d).take(*count).map(|key| dot(key, query) * 0.2).collect();
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                for i in 0..d {
                    let weighted = scores.iter().zip(case.values.chunks(d));
                    let want: f64 = weighted.map(|(s, value)| s.exp() / total * f64::from(value[i])).sum();
                    let got = f64::from(out[q * d + i]);
                    assert!((got - want).abs() < tolerance, "{kv:?} {d}: {got} {want}");
                }
            }
        }
    }
}
