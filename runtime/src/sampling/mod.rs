//! Sampling: logits in, one token id out.
//!
//! The chain, in llama.cpp's default order: penalties, top-k, top-p, min-p, temperature, draw. Temperature 0
//! is greedy: the best logit after penalties, the lowest id among equals. Only ids below the tokenizer's real
//! vocabulary can be drawn; logits of padding are never looked at. The same seed, settings and logits give
//! the same tokens on every platform. Deliberately absent: stop rules (see [`crate::generate`]), any
//! allocation after [`Sampler::new`].

pub mod chain;
pub mod rng;

#[cfg(test)]
mod laws;

use crate::engine::batch::{Answer, Best, Rule, Want};
use crate::error::{Error, Result};
use chain::{Candidate, Penalties};
use rng::SplitMix64;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Settings of the chain; the default is llama.cpp's.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Candidates kept; 0 keeps all.
    pub top_k: usize,
    /// Probability mass kept; 1 keeps all.
    pub top_p: f32,
    /// Least probability kept, as a part of the best one's; 0 keeps all.
    pub min_p: f32,
    /// 1 does nothing.
    pub repetition_penalty: f32,
    /// 0 does nothing.
    pub presence_penalty: f32,
    /// 0 does nothing.
    pub frequency_penalty: f32,
    /// How many of the latest tokens (prompt included) the penalties look at; 0 turns them off.
    pub penalty_window: usize,
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// # Errors
    /// `Usage` naming the setting, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let settings: [(&str, f32, RangeInclusive<f32>); 6] = [
            ("temperature", self.temperature, 0.0..=100.0),
            ("top-p", self.top_p, 0.0..=1.0),
            ("min-p", self.min_p, 0.0..=1.0),
            ("repetition-penalty", self.repetition_penalty, 0.01..=100.0),
            ("presence-penalty", self.presence_penalty, -100.0..=100.0),
            ("frequency-penalty", self.frequency_penalty, -100.0..=100.0),
        ];
        for (name, value, range) in settings {
            if !range.contains(&value) {
                return Err(out_of_range(name, value, *range.start(), *range.end()));
            }
        }
        if self.penalty_window > MAX_PENALTY_WINDOW {
            return Err(out_of_range("penalty-window", self.penalty_window, 0, MAX_PENALTY_WINDOW));
        }
        Ok(())
    }

    fn penalties(&self) -> Penalties {
        Penalties {
            repetition: self.repetition_penalty,
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
        }
    }
}

/// The history is allocated at the start, so it has a bound.
const MAX_PENALTY_WINDOW: usize = 1 << 20;

fn out_of_range<T: std::fmt::Display>(name: &str, value: T, low: T, high: T) -> Error {
    Error::usage(format!("--{name} {value} is out of range"), format!("give a value from {low} to {high}"))
}

/// The chain with its settings, random state and history.
///
/// ```
/// use bitnet_runtime::sampling::{Sampler, SamplingParams};
///
/// let logits = [0.5, 2.0, -1.0, 1.9];
/// let mut greedy = Sampler::new(SamplingParams::greedy(), logits.len())?;
/// assert_eq!(greedy.sample(&logits)?, 1);
///
/// // The same seed draws the same tokens.
/// let draw = |seed| {
///     let mut sampler = Sampler::new(SamplingParams { seed, ..SamplingParams::default() }, logits.len())?;
///     (0..8).map(|_| sampler.sample(&logits)).collect::<bitnet_runtime::Result<Vec<u32>>>()
/// };
/// assert_eq!(draw(7)?, draw(7)?);
/// # Ok::<(), bitnet_runtime::Error>(())
/// ```
pub struct Sampler {
    params: SamplingParams,
    vocab: usize,
    rng: SplitMix64,
    candidates: Vec<Candidate>,
    probabilities: Vec<f64>,
    /// The latest `penalty_window` tokens, oldest first, and how often each id is among them.
    history: VecDeque<u32>,
    counts: Vec<u32>,
}

impl Sampler {
    /// `vocab` is the tokenizer's real vocabulary size; ids from there on are never drawn.
    ///
    /// # Errors
    /// As [`SamplingParams::validate`].
    pub fn new(params: SamplingParams, vocab: usize) -> Result<Self> {
        params.validate()?;
        Ok(Sampler {
            vocab,
            rng: SplitMix64::new(params.seed),
            candidates: Vec::with_capacity(vocab),
            probabilities: Vec::with_capacity(vocab),
            history: VecDeque::with_capacity(params.penalty_window),
            counts: vec![0; vocab],
            params,
        })
    }

    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Tells the penalties that `token` is now part of the text (prompt tokens too).
    pub fn accept(&mut self, token: u32) {
        if self.params.penalty_window == 0 || token as usize >= self.vocab {
            return;
        }
        if self.history.len() == self.params.penalty_window
            && let Some(oldest) = self.history.pop_front()
        {
            self.counts[oldest as usize] -= 1;
        }
        self.history.push_back(token);
        self.counts[token as usize] += 1;
    }

    /// What [`Self::choose`] needs to know of the logits: the best ones where the chain begins by keeping only those,
    /// all of them otherwise.
    pub fn want(&self) -> Want {
        let params = &self.params;
        let rule = if !params.penalties().is_identity() {
            return Want::Logits;
        } else if params.temperature == 0.0 {
            Rule::Top(1)
        } else if params.top_k > 0 {
            Rule::Top(params.top_k)
        } else if params.top_p >= 1.0 && params.min_p > 0.0 {
            Rule::MinP(params.min_p)
        } else {
            return Want::Logits;
        };
        Want::Best(Best { below: self.vocab as u32, rule })
    }

    /// As [`Self::sample`], from the answer to [`Self::want`]: the same token and the same next state.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn choose(&mut self, answer: Answer<'_>) -> Result<u32> {
        match answer {
            Answer::Logits(logits) => self.sample(logits),
            Answer::Best(best) => {
                self.candidates.clear();
                self.candidates.extend_from_slice(best);
                self.sample_candidates()
            }
            Answer::Hidden(_) => {
                Err(Error::usage("a hidden state is nothing to choose a token from", "want logits"))
            }
        }
    }

    /// Chooses the next token from `logits` (one per id, at least one). Does not [`Self::accept`] it.
    ///
    /// # Errors
    /// `Numeric` where a logit is NaN or +inf, or all are -inf.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        if self.params.temperature == 0.0
            && self.params.penalties().is_identity()
            && let Some(best) = chain::best_of(&logits[..logits.len().min(self.vocab)])
        {
            return Ok(best);
        }
        self.candidates.clear();
        let logits = logits.iter().take(self.vocab).zip(0..);
        self.candidates.extend(logits.map(|(&logit, id)| Candidate { id, logit }));
        self.sample_candidates()
    }

    fn sample_candidates(&mut self) -> Result<u32> {
        let Sampler { params, candidates, probabilities, .. } = self;
        if let Some(bad) = candidates.iter().find(|c| c.logit.is_nan() || c.logit == f32::INFINITY) {
            return Err(not_finite(format!("the logit of token {} is {}", bad.id, bad.logit)));
        }
        let penalties = params.penalties();
        if !penalties.is_identity() {
            chain::penalize(candidates, &self.counts, penalties);
        }
        let best = chain::argmax(candidates)
            .filter(|best| best.logit > f32::NEG_INFINITY)
            .ok_or_else(|| not_finite("no token has a finite logit".into()))?;
        if params.temperature == 0.0 {
            return Ok(best.id);
        }
        chain::top_k(candidates, params.top_k);
        chain::top_p(candidates, params.top_p);
        chain::min_p(candidates, params.min_p);
        chain::softmax(candidates, params.temperature, probabilities);
        Ok(candidates[chain::draw(probabilities, self.rng.next_unit())].id)
    }
}

fn not_finite(what: String) -> Error {
    Error::Numeric {
        what,
        remedy: "the weights are damaged or overflow: compare the model file's sha256 with its source".into(),
    }
}
