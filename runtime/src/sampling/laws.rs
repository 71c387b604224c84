//! Property tests: what must hold for any logits and any settings.

use super::chain::*;
use super::{Sampler, SamplingParams};
use proptest::collection::vec;
use proptest::prelude::*;

/// Logits with ties (steps of 1/8) and, now and then, masked entries; at least one is finite.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let entry = prop_oneof![9 => (-160i32..160).prop_map(|n| n as f32 / 8.0), 1 => Just(f32::NEG_INFINITY)];
    vec(entry, 1..200).prop_filter("one finite logit", |l| l.iter().any(|x| x.is_finite()))
}

fn candidates(logits: &[f32]) -> Vec<Candidate> {
    logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect()
}

fn probabilities(candidates: &[Candidate], temperature: f32) -> Vec<f64> {
    let mut out = Vec::new();
    softmax(candidates, temperature, &mut out);
    out
}

fn sorted(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by(best_first);
    candidates
}

fn params(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, ..Default::default() }
}

/// `n` draws, each accepted, from the same logits.
fn sample_n(params: &SamplingParams, logits: &[f32], n: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params.clone(), logits.len()).expect("parameters in range");
    (0..n)
        .map(|_| {
            let token = sampler.sample(logits).expect("finite logits");
            sampler.accept(token);
            token
        })
        .collect()
}

/// Any settings in their ranges.
fn any_params() -> impl Strategy<Value = SamplingParams> {
    (0.0f32..3.0, 0usize..50, 0.0f32..=1.0, 0.0f32..=1.0, 0.5f32..2.0, -2.0f32..2.0, 0usize..20, any::<u64>())
        .prop_map(
            |(
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty,
                presence_penalty,
                penalty_window,
                seed,
            )| {
                SamplingParams {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    presence_penalty,
                    frequency_penalty: presence_penalty / 2.0,
                    penalty_window,
                    seed,
                }
            },
        )
}

proptest! {
    #[test]
    fn softmax_sums_to_one(l in logits(), t in 0.05f32..10.0) {
        let p = probabilities(&candidates(&l), t);
        prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
    }

    #[test]
    fn softmax_keeps_the_order(l in logits(), t in 0.05f32..10.0) {
        let p = probabilities(&sorted(candidates(&l)), t);
        prop_assert!(p.windows(2).all(|pair| pair[0] >= pair[1]));
    }

    #[test]
    fn softmax_ignores_a_shift(l in logits(), shift in -64i32..64, t in 0.05f32..10.0) {
        // Logits are multiples of 1/8 and the shift is whole, so the sums are exact.
        let shifted: Vec<f32> = l.iter().map(|x| x + shift as f32).collect();
        prop_assert_eq!(probabilities(&candidates(&l), t), probabilities(&candidates(&shifted), t));
    }

    #[test]
    fn masked_logits_have_probability_zero(l in logits(), t in 0.05f32..10.0) {
        for (logit, p) in l.iter().zip(probabilities(&candidates(&l), t)) {
            prop_assert!(logit.is_finite() || p == 0.0);
        }
    }

    #[test]
    fn the_quick_argmax_is_the_argmax(mut l in logits(), bad in proptest::option::of((any::<usize>(), any::<bool>()))) {
        prop_assert_eq!(best_of(&l), argmax(&candidates(&l)).map(|best| best.id));
        if let Some((at, is_nan)) = bad {
            let at = at % l.len();
            l[at] = if is_nan { f32::NAN } else { f32::INFINITY };
            prop_assert_eq!(best_of(&l), None);
        }
    }

    #[test]
    fn low_temperature_approaches_argmax(l in logits()) {
        // Distinct logits are 1/8 apart: at 1/1000 anything but the best (and its equals) weighs e^-125.
        let best = argmax(&candidates(&l)).expect("not empty").logit;
        let p = probabilities(&candidates(&l), 0.001);
        let mass: f64 = l.iter().zip(p).filter(|(logit, _)| **logit == best).map(|(_, p)| p).sum();
        prop_assert!(mass > 1.0 - 1e-9);
    }

    #[test]
    fn high_temperature_approaches_uniform(l in vec(-20f32..20.0, 1..200)) {
        let n = l.len() as f64;
        for p in probabilities(&candidates(&l), 1e6) {
            prop_assert!((p * n - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn top_k_keeps_the_k_best_in_order(l in logits(), k in 1usize..250) {
        let mut kept = candidates(&l);
        top_k(&mut kept, k);
        let mut expected = sorted(candidates(&l));
        expected.truncate(k);
        prop_assert_eq!(kept, expected);
    }

    #[test]
    fn top_k_is_idempotent_and_nests(l in logits(), a in 1usize..100, b in 1usize..100) {
        let mut twice = candidates(&l);
        top_k(&mut twice, a);
        top_k(&mut twice, b);
        let mut once = candidates(&l);
        top_k(&mut once, a.min(b));
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn top_p_keeps_the_minimal_prefix(l in logits(), p in 0.0f32..0.999) {
        let mut kept = candidates(&l);
        top_p(&mut kept, p);
        let all = sorted(candidates(&l));
        prop_assert!(!kept.is_empty());
        prop_assert_eq!(&kept[..], &all[..kept.len()]);
        let mass: Vec<f64> = probabilities(&all, 1.0);
        let reached: f64 = mass[..kept.len()].iter().sum();
        let without_last: f64 = mass[..kept.len() - 1].iter().sum();
        prop_assert!(reached >= f64::from(p) - 1e-12, "enough: {} of {}", reached, p);
        prop_assert!(kept.len() == 1 || without_last < f64::from(p) + 1e-12, "minimal: {} of {}", without_last, p);
    }

    #[test]
    fn top_p_grows_with_p(l in logits(), a in 0.0f32..1.0, b in 0.0f32..1.0) {
        let (mut less, mut more) = (candidates(&l), candidates(&l));
        top_p(&mut less, a.min(b));
        top_p(&mut more, a.max(b));
        prop_assert!(less.len() <= more.len());
    }

    #[test]
    fn min_p_keeps_what_is_probable_enough(l in logits(), p in 0.001f32..=1.0) {
        let mut kept = candidates(&l);
        min_p(&mut kept, p);
        let all = candidates(&l);
        let mass = probabilities(&all, 1.0);
        let best = mass.iter().copied().fold(0.0, f64::max);
        for (candidate, mass) in all.iter().zip(mass) {
            let ratio = mass / best;
            if (ratio - f64::from(p)).abs() > 1e-9 {
                prop_assert_eq!(kept.contains(candidate), ratio > f64::from(p));
            }
        }
    }

    #[test]
    fn filters_keep_the_best(l in logits(), k in 1usize..9, p in 0.0f32..=1.0, m in 0.0f32..=1.0) {
        let mut kept = candidates(&l);
        top_k(&mut kept, k);
        top_p(&mut kept, p);
        min_p(&mut kept, m);
        prop_assert_eq!(argmax(&kept), argmax(&candidates(&l)));
    }

    #[test]
    fn identity_settings_change_nothing(l in logits(), counts in vec(0u32..4, 0..200)) {
        let mut kept = candidates(&l);
        penalize(&mut kept, &counts, Penalties { repetition: 1.0, presence: 0.0, frequency: 0.0 });
        top_k(&mut kept, 0);
        top_p(&mut kept, 1.0);
        min_p(&mut kept, 0.0);
        prop_assert_eq!(kept, candidates(&l));
    }

    #[test]
    fn penalties_touch_only_what_occurred(l in logits(), counts in vec(0u32..4, 0..200),
                                          r in 1.0f32..2.0, presence in 0.0f32..2.0, frequency in 0.0f32..2.0) {
        let mut penalized = candidates(&l);
        penalize(&mut penalized, &counts, Penalties { repetition: r, presence, frequency });
        for (before, after) in candidates(&l).iter().zip(penalized) {
            match counts.get(before.id as usize).copied().unwrap_or(0) {
                0 => prop_assert_eq!(*before, after),
                _ => prop_assert!(after.logit <= before.logit, "{} to {}", before.logit, after.logit),
            }
        }
    }

    #[test]
    fn presence_counts_once_and_frequency_each_time(logit in -20f32..20.0, count in 1u32..50) {
        let penalized = |presence, frequency| {
            let mut c = vec![Candidate { id: 0, logit }];
            penalize(&mut c, &[count], Penalties { repetition: 1.0, presence, frequency });
            c[0].logit
        };
        prop_assert_eq!(penalized(0.5, 0.0), logit - 0.5);
        prop_assert_eq!(penalized(0.0, 0.25), logit - 0.25 * count as f32);
    }

    #[test]
    fn greedy_is_the_lowest_of_the_best(l in logits(), seed in any::<u64>()) {
        let best = l.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let expected = l.iter().position(|x| *x == best).expect("the maximum occurs") as u32;
        let sampled = sample_n(&SamplingParams { temperature: 0.0, seed, ..params(0.0) }, &l, 2);
        prop_assert_eq!(sampled, vec![expected, expected]);
        prop_assert_eq!(sample_n(&SamplingParams { seed, ..SamplingParams::greedy() }, &l, 1), vec![expected]);
    }

    #[test]
    fn one_candidate_is_greedy_at_any_temperature(l in logits(), t in 0.01f32..50.0) {
        let one = SamplingParams { top_k: 1, ..params(t) };
        prop_assert_eq!(sample_n(&one, &l, 1), sample_n(&params(0.0), &l, 1));
    }

    #[test]
    fn a_seed_decides_everything(l in logits(), p in any_params()) {
        prop_assert_eq!(sample_n(&p, &l, 20), sample_n(&p, &l, 20));
    }

    #[test]
    fn padding_is_never_looked_at(l in logits(), p in any_params(), pad in 1usize..40) {
        let mut padded = l.clone();
        padded.extend(std::iter::repeat_n(f32::NAN, pad));
        let mut sampler = Sampler::new(p.clone(), l.len()).expect("parameters in range");
        let token = sampler.sample(&padded).expect("NaN only in the padding");
        prop_assert!((token as usize) < l.len());
        prop_assert_eq!(vec![token], sample_n(&p, &l, 1));
    }

    #[test]
    fn masked_tokens_are_never_drawn(l in logits(), p in any_params()) {
        for token in sample_n(&p, &l, 20) {
            prop_assert!(l[token as usize].is_finite());
        }
    }

    #[test]
    fn only_the_window_counts(history in vec(0u32..20, 0..60), window in 1usize..20) {
        let p = SamplingParams { presence_penalty: 1.0, frequency_penalty: 0.5, penalty_window: window, ..params(0.0) };
        let with = |tokens: &[u32]| {
            let mut sampler = Sampler::new(p.clone(), 20).expect("parameters in range");
            tokens.iter().for_each(|t| sampler.accept(*t));
            sampler.counts
        };
        prop_assert_eq!(with(&history), with(&history[history.len().saturating_sub(window)..]));
    }
}

#[test]
fn draws_follow_the_probabilities() {
    let l = [0.0, 3.0f32.ln(), f32::NEG_INFINITY, 0.0];
    let drawn = sample_n(&SamplingParams { seed: 1, ..params(1.0) }, &l, 20_000);
    let share = |id| drawn.iter().filter(|d| **d == id).count() as f64 / 20_000.0;
    assert!((share(0) - 0.2).abs() < 0.01 && (share(1) - 0.6).abs() < 0.01 && (share(3) - 0.2).abs() < 0.01);
}

#[test]
fn a_seed_gives_the_recorded_tokens() {
    let l: Vec<f32> = (0..100).map(|i| ((i * 37 % 100) as f32) / 20.0).collect();
    let drawn = sample_n(&SamplingParams { seed: 42, ..Default::default() }, &l, 12);
    assert_eq!(drawn, RECORDED);
}

/// Computed from the definitions by a separate program: a change here breaks every recorded seed.
const RECORDED: [u32; 12] = [86, 81, 35, 62, 27, 48, 8, 40, 62, 51, 8, 70];

#[test]
fn a_repetition_penalty_breaks_a_loop() {
    let l = [1.0, 0.9, -0.5];
    let p = SamplingParams { repetition_penalty: 2.0, ..params(0.0) };
    assert_eq!(sample_n(&params(0.0), &l, 4), [0, 0, 0, 0]);
    assert_eq!(sample_n(&p, &l, 4), [0, 1, 0, 0]);
}

#[test]
fn logits_that_are_not_numbers_are_errors() {
    let mut sampler = Sampler::new(params(1.0), 3).expect("parameters in range");
    for (logits, says) in [
        ([0.0, f32::NAN, 0.0], "the logit of token 1 is NaN"),
        ([0.0, 0.0, f32::INFINITY], "the logit of token 2 is inf"),
        ([f32::NEG_INFINITY; 3], "no token has a finite logit"),
    ] {
        assert!(sampler.sample(&logits).expect_err("must fail").to_string().starts_with(says));
    }
}

#[test]
fn settings_out_of_range_name_the_range() {
    let cases: [(SamplingParams, &str); 4] = [
        (
            SamplingParams { temperature: -1.0, ..params(1.0) },
            "--temperature -1 is out of range; give a value from 0 to 100",
        ),
        (
            SamplingParams { top_p: f32::NAN, ..params(1.0) },
            "--top-p NaN is out of range; give a value from 0 to 1",
        ),
        (
            SamplingParams { repetition_penalty: 0.0, ..params(1.0) },
            "--repetition-penalty 0 is out of range; give a value from 0.01 to 100",
        ),
        (
            SamplingParams { penalty_window: 1 << 21, ..params(1.0) },
            "--penalty-window 2097152 is out of range; give a value from 0 to 1048576",
        ),
    ];
    for (params, message) in cases {
        assert_eq!(params.validate().expect_err("out of range").to_string(), message);
    }
}

#[test]
fn nothing_is_allocated_after_the_start() {
    let l: Vec<f32> = (0..500).map(|i| (i % 17) as f32).collect();
    let mut sampler =
        Sampler::new(SamplingParams { presence_penalty: 0.1, ..params(1.0) }, 500).expect("in range");
    let capacity = |s: &Sampler| (s.candidates.capacity(), s.probabilities.capacity(), s.history.capacity());
    let before = capacity(&sampler);
    for _ in 0..200 {
        let token = sampler.sample(&l).expect("finite logits");
        sampler.accept(token);
    }
    assert_eq!(before, capacity(&sampler));
}

#[test]
fn the_ends_of_every_range_are_inside() {
    type Set = fn(&mut SamplingParams, f32);
    let settings: [(&str, Set, f32, f32); 6] = [
        ("temperature", |p, value| p.temperature = value, 0.0, 100.0),
        ("top-p", |p, value| p.top_p = value, 0.0, 1.0),
        ("min-p", |p, value| p.min_p = value, 0.0, 1.0),
        ("repetition-penalty", |p, value| p.repetition_penalty = value, 0.01, 100.0),
        ("presence-penalty", |p, value| p.presence_penalty = value, -100.0, 100.0),
        ("frequency-penalty", |p, value| p.frequency_penalty = value, -100.0, 100.0),
    ];
    for (name, set, low, high) in settings {
        let judged = |value: f32| {
            let mut p = params(1.0);
            set(&mut p, value);
            p.validate()
        };
        assert!(judged(low).is_ok() && judged(high).is_ok(), "{name}");
        for outside in [low - 0.5, high + 0.5] {
            let message = judged(outside).expect_err("out of range").to_string();
            assert_eq!(
                message,
                format!("--{name} {outside} is out of range; give a value from {low} to {high}")
            );
        }
    }
    let window = |penalty_window| SamplingParams { penalty_window, ..params(1.0) }.validate();
    assert!(window(1 << 20).is_ok() && window((1 << 20) + 1).is_err());
}

#[test]
fn what_is_wanted_of_the_logits_is_what_the_chain_begins_with() {
    use crate::engine::batch::{Best, Rule, Want};
    let want = |p: SamplingParams| Sampler::new(p, 50).expect("in range").want();
    let best = |rule| Want::Best(Best { below: 50, rule });
    assert_eq!(want(params(0.0)), best(Rule::Top(1)));
    assert_eq!(want(SamplingParams { top_k: 7, ..params(1.0) }), best(Rule::Top(7)));
    assert_eq!(want(SamplingParams { min_p: 0.25, ..params(1.0) }), best(Rule::MinP(0.25)));
    assert_eq!(want(params(1.0)), Want::Logits);
    assert_eq!(
        want(SamplingParams { min_p: 0.25, top_p: 0.9, ..params(1.0) }),
        Want::Logits,
        "top-p comes first"
    );
    for penalized in [
        SamplingParams { repetition_penalty: 1.1, ..params(0.0) },
        SamplingParams { presence_penalty: 0.1, ..params(0.0) },
        SamplingParams { frequency_penalty: 0.1, ..params(0.0) },
    ] {
        assert_eq!(want(penalized), Want::Logits);
    }
}

#[test]
fn penalties_by_hand() {
    let mut list = candidates(&[2.0, -2.0, 0.0, 5.0]);
    penalize(&mut list, &[1, 2, 3], Penalties { repetition: 2.0, presence: 0.5, frequency: 0.25 });
    let found: Vec<f32> = list.iter().map(|candidate| candidate.logit).collect();
    assert_eq!(found, [0.25, -5.0, -1.25, 5.0]);
}

#[test]
fn a_draw_passes_over_what_cannot_be_drawn() {
    assert_eq!(draw(&[0.25, 0.0, 0.75], 0.25), 2, "a sum that is only reached is not passed");
    assert_eq!(draw(&[0.25, 0.0, 0.75], 0.0), 0);
    assert_eq!(draw(&[0.5, 0.25, 0.0], 0.9), 1, "what rounding left over goes to the last that can be drawn");
    assert_eq!(draw(&[], 0.5), 0);
}

#[test]
fn a_token_beyond_the_vocabulary_is_not_remembered() {
    let p = SamplingParams { presence_penalty: 1.0, penalty_window: 2, ..params(0.0) };
    let mut sampler = Sampler::new(p.clone(), 3).expect("in range");
    for token in [2, 3, 9] {
        sampler.accept(token);
    }
    assert_eq!((sampler.history.len(), sampler.counts.as_slice()), (1, [0, 0, 1].as_slice()));
    assert_eq!(sampler.params(), &p);
    let mut without = Sampler::new(SamplingParams { penalty_window: 0, ..p }, 3).expect("in range");
    without.accept(1);
    assert!(without.history.is_empty());
}

#[test]
fn a_wide_nucleus_is_the_prefix_of_the_sorted_list() {
    // Nearly flat: hundreds of candidates are needed, more than are sorted at first.
    let flat: Vec<f32> = (0..2000).map(|i| (i * 37 % 2000) as f32 / 1000.0).collect();
    let all = sorted(candidates(&flat));
    let mass = probabilities(&all, 1.0);
    for p in [0.1, 0.5, 0.9] {
        let mut kept = candidates(&flat);
        top_p(&mut kept, p);
        let sum = |count: usize| mass[..count].iter().sum::<f64>();
        assert!(
            kept.len() > 64 && sum(kept.len()) >= f64::from(p) && sum(kept.len() - 1) < f64::from(p),
            "{p}"
        );
        assert_eq!(kept, all[..kept.len()]);
    }
    let mut equal = candidates(&[1.0; 300]);
    top_p(&mut equal, 0.75);
    assert_eq!(equal.iter().map(|candidate| candidate.id).collect::<Vec<_>>(), (0..225).collect::<Vec<_>>());
}

#[test]
fn no_finite_logit_has_no_best() {
    for len in [0, 1, 16, 40] {
        assert_eq!(best_of(&vec![f32::NEG_INFINITY; len]), None, "{len}");
    }
    let mut last = vec![f32::NEG_INFINITY; 40];
    last[39] = -1e30;
    assert_eq!(best_of(&last), Some(39));
}

#[test]
fn an_answer_of_the_best_gives_the_token_of_all_logits() {
    use crate::engine::batch::Answer;
    let l: Vec<f32> = (0..100).map(|i| ((i * 37 % 100) as f32) / 20.0).collect();
    let p = SamplingParams { top_k: 5, seed: 3, ..params(1.0) };
    let sampler = || Sampler::new(p.clone(), 100).expect("in range");
    let mut best = candidates(&l);
    top_k(&mut best, 5);
    best.sort_by_key(|candidate| candidate.id);
    let (mut of_all, mut of_best, mut sampled) = (sampler(), sampler(), sampler());
    let drawn: Vec<[u32; 3]> = (0..20)
        .map(|_| {
            [
                of_all.choose(Answer::Logits(&l)).expect("finite"),
                of_best.choose(Answer::Best(&best)).expect("finite"),
                sampled.sample(&l).expect("finite"),
            ]
        })
        .collect();
    assert!(drawn.iter().all(|[a, b, c]| a == b && b == c) && drawn.iter().any(|d| d[0] != drawn[0][0]));
    let error = of_all.choose(Answer::Hidden(&l)).expect_err("no logits").to_string();
    assert_eq!(error, "a hidden state is nothing to choose a token from; want logits");
}
