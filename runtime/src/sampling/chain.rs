//! The steps of the sampling chain as functions on a list of candidates.
//!
//! In: candidates (id, logit), every logit finite or -inf, at least one finite. Out: fewer candidates, or
//! probabilities. Weights are `exp(logit - best logit)` in f64 from an exponential of additions and
//! multiplications only, and sums run in a defined order, so results are the same on every platform.
//! Deliberately absent: state between tokens (see [`super::Sampler`]).

pub use crate::engine::batch::Candidate;
use std::cmp::Ordering;

/// Higher logit first; among equal logits the lower id first. A total order: logits are not NaN.
pub fn best_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The best candidate (ties: the lowest id).
pub fn argmax(candidates: &[Candidate]) -> Option<Candidate> {
    candidates.iter().copied().min_by(best_first)
}

/// The id of the largest logit (ties: the lowest id), as [`argmax`] has it, without a list of candidates; `None` where a
/// logit is NaN or +inf, or none is finite.
pub fn best_of(logits: &[f32]) -> Option<u32> {
    let (mut most, mut all_below) = ([f32::NEG_INFINITY; 16], true);
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (most, logit) in most.iter_mut().zip(chunk) {
            *most = if *logit > *most { *logit } else { *most };
            all_below &= *logit < f32::INFINITY;
        }
    }
    all_below &= rest.iter().all(|logit| *logit < f32::INFINITY);
    let best = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let first = || logits.iter().position(|logit| *logit == best).map(|id| id as u32);
    (all_below && best > f32::NEG_INFINITY).then(first).flatten()
}

/// What an earlier occurrence costs. The identity is 1, 0, 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Divides positive logits and multiplies the others (Keskar et al. 2019, as llama.cpp extends it).
    pub repetition: f32,
    /// Subtracted once from every token that occurred.
    pub presence: f32,
    /// Subtracted once per occurrence.
    pub frequency: f32,
}

impl Penalties {
    pub fn is_identity(&self) -> bool {
        self.repetition == 1.0 && self.presence == 0.0 && self.frequency == 0.0
    }
}

/// Lowers the logits of tokens that occurred; `counts[id]` is how often. Ids past `counts` did not occur.
pub fn penalize(candidates: &mut [Candidate], counts: &[u32], penalties: Penalties) {
    for candidate in candidates {
        let count = counts.get(candidate.id as usize).copied().unwrap_or(0);
        if count == 0 {
            continue;
        }
        let logit = &mut candidate.logit;
        *logit = if *logit > 0.0 { *logit / penalties.repetition } else { *logit * penalties.repetition };
        *logit = (*logit - (count as f32 * penalties.frequency + penalties.presence)).min(f32::MAX);
    }
}

/// Keeps the `k` best, best first; 0 keeps all. Sorted also where no more than `k` came in, so that a draw does not
/// depend on how many were left out before.
pub fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        return;
    }
    let k = k.min(candidates.len());
    sort_best(candidates, 0, k);
    candidates.truncate(k);
}

/// Keeps the shortest best-first prefix whose probability reaches `p` (nucleus, Holtzman et al. 2019), at
/// least one candidate; 1 keeps all.
pub fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let Some(best) = argmax(candidates) else { return };
    let target = f64::from(p) * candidates.iter().map(|c| weight(c.logit, best.logit, 1.0)).sum::<f64>();
    // The nucleus is nearly always short: sort as much of the list as it turns out to need.
    let (mut sorted, mut end, mut reached) = (0, candidates.len().min(64), 0.0);
    while sorted < candidates.len() {
        sort_best(candidates, sorted, end);
        for kept in sorted..end {
            reached += weight(candidates[kept].logit, best.logit, 1.0);
            if reached >= target {
                return candidates.truncate(kept + 1);
            }
        }
        (sorted, end) = (end, candidates.len().min(end * 8));
    }
}

/// Keeps candidates at least `min_p` times as probable as the best; 0 keeps all.
pub fn min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p <= 0.0 {
        return;
    }
    let Some(best) = argmax(candidates) else { return };
    candidates.retain(|c| weight(c.logit, best.logit, 1.0) >= f64::from(min_p));
}

/// Probabilities of `candidates` at a temperature above 0, in their order, into `out`.
pub fn softmax(candidates: &[Candidate], temperature: f32, out: &mut Vec<f64>) {
    out.clear();
    let Some(best) = argmax(candidates) else { return };
    out.extend(candidates.iter().map(|c| weight(c.logit, best.logit, temperature)));
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|p| *p /= total);
}

/// Index of the first candidate where the cumulative probability passes `unit` in [0, 1). Never one of
/// probability 0.
pub fn draw(probabilities: &[f64], unit: f64) -> usize {
    let mut cumulative = 0.0;
    for (i, p) in probabilities.iter().enumerate() {
        cumulative += p;
        if cumulative > unit {
            return i;
        }
    }
    // Rounding left the sum below `unit`: the last candidate that can be drawn at all.
    probabilities.iter().rposition(|p| *p > 0.0).unwrap_or(0)
}

/// Puts the best of `candidates[from..]` sorted into `from..to`; `..from` is already sorted and better.
fn sort_best(candidates: &mut [Candidate], from: usize, to: usize) {
    if to < candidates.len() {
        candidates[from..].select_nth_unstable_by(to - from - 1, best_first);
    }
    candidates[from..to].sort_unstable_by(best_first);
}

fn weight(logit: f32, best: f32, temperature: f32) -> f64 {
    exp((f64::from(logit) - f64::from(best)) / f64::from(temperature))
}

/// e^x for x <= 0, to about 1 unit in the last place; exact zero below -700.
///
/// x = k ln 2 + r with |r| <= ln 2 / 2, and a Taylor series for e^r. A system's own `exp` may differ in the
/// last bit from another's; this one cannot.
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8; // ln 2 with the low 32 bits of its fraction cleared
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x < -700.0 {
        return 0.0;
    }
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let series = (1..=13).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    series * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_agrees_with_the_system_to_two_units() {
        for i in 0..=70_000 {
            let x = -f64::from(i) * 0.01;
            let (own, system) = (exp(x), x.exp());
            assert!((own - system).abs() <= 2.0 * f64::EPSILON * system, "e^{x}: {own:e} {system:e}");
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }
}
