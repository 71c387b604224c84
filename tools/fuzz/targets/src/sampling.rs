//! The sampling chain, next to a naive one.

use crate::input::Input;
use bitnet_runtime::engine::batch::{Answer, Candidate, Rule, Want};
use bitnet_runtime::sampling::{Sampler, SamplingParams};

/// Settings, a history, logits.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    let params = settings(&mut input, flags);
    let vocab = 1 + input.below(300);
    let history: Vec<u32> =
        (0..input.byte() % 32).map(|_| u32::from(input.u16()) % (vocab as u32 + 3)).collect();
    let mut logits = Vec::new();
    while !input.is_empty() && logits.len() < 512 {
        let sane = f32::from(input.byte() as i8) / 8.0;
        logits.push(if flags & 128 != 0 && sane.fract() == 0.5 { input.f32() } else { sane });
    }
    let Ok(mut sampler) = Sampler::new(params.clone(), vocab) else {
        return assert!(params.validate().is_err());
    };
    if logits.is_empty() {
        return;
    }
    history.iter().for_each(|token| sampler.accept(*token));
    // Ids past the vocabulary do not count.
    let history: Vec<u32> = history.into_iter().filter(|token| (*token as usize) < vocab).collect();
    let known = &logits[..vocab.min(logits.len())];
    let want = sampler.want();
    let mut other = Sampler::new(params.clone(), vocab).expect("as before");
    history.iter().for_each(|token| other.accept(*token));
    let broken = known.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY);
    for _ in 0..3 {
        let token = match sampler.sample(&logits) {
            Ok(token) => token,
            Err(_) => {
                return assert!(
                    broken || penalized(known, &history, &params).iter().all(|l| *l == f32::NEG_INFINITY)
                );
            }
        };
        assert!(!broken && (token as usize) < known.len(), "token {token} of {}", known.len());
        let allowed = allowed(&penalized(known, &history, &params), &params);
        assert!(allowed.contains(&token), "{token} is not of {allowed:?} under {params:?}");
        // The same choice from the answer that the engine would give.
        if let Want::Best(best) = want {
            let candidates = best_of(known, best.rule);
            let chosen = other.choose(Answer::Best(&candidates)).expect("as from all logits");
            assert_eq!(chosen, token, "from the best candidates under {params:?}");
        }
    }
}

fn settings(input: &mut Input<'_>, flags: u8) -> SamplingParams {
    let unit = |byte: u8| f32::from(byte) / 255.0;
    let default = SamplingParams::default();
    let any = flags & 64 != 0;
    let mut value = |usual: f32| if any { input.f32() } else { usual };
    let (wild, top_p, min_p) = (value(0.8), value(0.95), value(0.05));
    let mut params = SamplingParams {
        temperature: if flags & 1 == 0 { 0.0 } else { wild },
        top_p: if flags & 2 == 0 { top_p } else { unit(input.byte()) },
        min_p: if flags & 4 == 0 { min_p } else { unit(input.byte()) },
        top_k: if flags & 8 == 0 { usize::from(input.byte()) } else { 0 },
        penalty_window: usize::from(input.byte()),
        seed: input.u64(),
        ..default
    };
    if flags & 16 != 0 {
        params.repetition_penalty = 0.5 + unit(input.byte());
        params.presence_penalty = unit(input.byte()) - 0.5;
        params.frequency_penalty = unit(input.byte()) - 0.5;
    }
    params
}

/// The logits after penalties.
fn penalized(logits: &[f32], history: &[u32], params: &SamplingParams) -> Vec<f32> {
    let mut out = logits.to_vec();
    let start = history.len().saturating_sub(params.penalty_window);
    let (r, p, f) = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty);
    if (r, p, f) == (1.0, 0.0, 0.0) || params.penalty_window == 0 {
        return out;
    }
    for (id, logit) in out.iter_mut().enumerate() {
        let count = history[start..].iter().filter(|token| **token as usize == id).count();
        if count > 0 {
            let scaled = if *logit > 0.0 { *logit / r } else { *logit * r };
            *logit = (scaled - (count as f32 * f + p)).min(f32::MAX);
        }
    }
    out
}

/// Ids that a naive chain can draw. Sums are not compared where they tie: a nucleus may end a candidate later.
fn allowed(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let mut order: Vec<u32> =
        (0..logits.len() as u32).filter(|id| logits[*id as usize] > f32::NEG_INFINITY).collect();
    let logit = |id: u32| f64::from(logits[id as usize]);
    order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
    if params.temperature == 0.0 {
        // -0.0 and 0.0 are equal.
        let best = order.first().map_or(0.0, |id| logit(*id));
        return order.into_iter().filter(|id| logit(*id) == best).min().into_iter().collect();
    }
    if params.top_k > 0 {
        // Equal logits at the end of the list: either zero may be the one.
        let least = order.get(params.top_k - 1).map_or(f64::NEG_INFINITY, |id| logit(*id));
        order.retain(|id| logit(*id) >= least);
    }
    let best = order.first().map_or(0.0, |id| logit(*id));
    let weight = |id: u32| (logit(id) - best).exp();
    if params.top_p < 1.0 {
        let total: f64 = order.iter().map(|id| weight(*id)).sum();
        let (mut reached, mut kept) = (0.0, 0);
        for id in &order {
            kept += 1;
            reached += weight(*id);
            if reached >= f64::from(params.top_p) * total + 1e-9 * total {
                break;
            }
        }
        order.truncate(kept);
    }
    order.retain(|id| weight(*id) >= f64::from(params.min_p) * (1.0 - 1e-9));
    order
}

/// What an engine would answer: by ascending id.
fn best_of(logits: &[f32], rule: Rule) -> Vec<Candidate> {
    let mut all: Vec<Candidate> =
        logits.iter().zip(0..).map(|(logit, id)| Candidate { id, logit: *logit }).collect();
    match rule {
        Rule::Top(count) => {
            all.sort_by(|a, b| b.logit.partial_cmp(&a.logit).expect("no NaN").then(a.id.cmp(&b.id)));
            all.truncate(count);
        }
        Rule::MinP(share) => {
            let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            all.retain(|c| f64::from(c.logit - best).exp() >= f64::from(share) * 0.99);
        }
    }
    all.sort_by_key(|candidate| candidate.id);
    all
}
