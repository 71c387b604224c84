//! The work of a speed measurement, shared by `bitnet bench` and the engine protocol.
//!
//! In: lengths. Out: times. Token ids are arbitrary and fixed. A generated token is chosen as greedy sampling does, so
//! that what it costs is in the time; what comes next is fixed all the same, but for one sequence on a device. Deliberately absent: statistics.

use bitnet_runtime::engine::batch::{Best, Rule};
use bitnet_runtime::engine::pages::SequenceId;
use bitnet_runtime::engine::{Answer, Batch, Engine, Sequences, Want};
use bitnet_runtime::sampling::rng::SplitMix64;
use bitnet_runtime::{Error, Result};
use std::hint::black_box;
use std::time::Instant;

/// `depth` tokens that are not measured, a prompt as one prefill, then steps of one token in every sequence.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub depth: u32,
    pub prompt: u32,
    pub steps: u32,
    pub sequences: u32,
}

pub struct Measured {
    /// 0 without a prompt.
    pub prompt_ns: u64,
    pub steps_ns: Vec<u64>,
}

impl Work {
    /// Positions that one sequence needs.
    pub fn positions(&self) -> usize {
        (self.depth + self.prompt + self.steps) as usize
    }

    /// Measures in sequences that are empty at first and closed at the end. Kernel counts are of what is measured.
    ///
    /// # Errors
    /// No sequences, no room for them, or an interrupt.
    pub fn measure(&self, engine: &mut Engine) -> Result<Measured> {
        if self.sequences == 0 {
            return Err(Error::usage("0 sequences", "measure at least one"));
        }
        let ids: Vec<SequenceId> = (0..self.sequences).map(|_| engine.open()).collect();
        let outcome = self.measure_in(engine, &ids);
        ids.into_iter().for_each(|id| engine.close(id));
        outcome
    }

    fn measure_in(&self, engine: &mut Engine, ids: &[SequenceId]) -> Result<Measured> {
        let vocab = engine.vocab_size() as u64;
        let mut rng = SplitMix64::new(0);
        let mut tokens = |n: u32| -> Vec<u32> { (0..n).map(|_| (rng.next_u64() % vocab) as u32).collect() };
        let (before, prompt, generated) = (tokens(self.depth), tokens(self.prompt), tokens(self.steps));
        let best = Want::Best(Best { below: vocab as u32, rule: Rule::Top(1) });
        let mut batch = Batch::new();
        let mut prefill = |engine: &mut Engine, tokens: &[u32], want: Want| -> Result<()> {
            for id in ids {
                let mut left = tokens;
                while !left.is_empty() {
                    let (chunk, rest) = left.split_at(left.len().min(engine.batch_rows()));
                    left = rest;
                    batch.clear();
                    batch.push_all(*id, chunk, if left.is_empty() { want } else { Want::Nothing });
                    engine.evaluate(&batch, &mut |_, answer| {
                        black_box(choose(answer));
                    })?;
                }
            }
            Ok(())
        };
        prefill(engine, &before, Want::Nothing)?;
        engine.reset_kernel_counts();
        let started = Instant::now();
        prefill(engine, &prompt, Want::Logits)?;
        let prompt_ns = if prompt.is_empty() { 0 } else { started.elapsed().as_nanos() as u64 };
        let mut steps_ns = Vec::with_capacity(generated.len());
        #[cfg(feature = "gpu")]
        if let (Some(device), [id], [first, ..]) = (engine.accelerator(), ids, generated.as_slice()) {
            return Ok(Measured { prompt_ns, steps_ns: chained(device, *id, *first, generated.len())? });
        }
        for token in generated {
            let started = Instant::now();
            for ids in ids.chunks(engine.batch_rows()) {
                batch.clear();
                ids.iter().for_each(|id| batch.push(*id, token, best));
                engine.evaluate(&batch, &mut |_, answer| {
                    black_box(choose(answer));
                })?;
            }
            steps_ns.push(started.elapsed().as_nanos() as u64);
        }
        Ok(Measured { prompt_ns, steps_ns })
    }
}

/// Steps of one sequence on a device: what is chosen there is what comes next, several tokens in one launch. Each token gets
/// its part of the time of its launch.
#[cfg(feature = "gpu")]
fn chained(
    device: &mut dyn bitnet_runtime::gpu::Accelerator,
    id: SequenceId,
    first: u32,
    count: usize,
) -> Result<Vec<u64>> {
    const LAUNCH: usize = 64;
    let (mut token, mut steps_ns) = (first, Vec::with_capacity(count));
    while steps_ns.len() < count {
        let now = LAUNCH.min(count - steps_ns.len());
        let started = Instant::now();
        token = device.generate_greedy(id, token, now)?.last().copied().unwrap_or(token);
        steps_ns.extend(std::iter::repeat_n(started.elapsed().as_nanos() as u64 / now as u64, now));
    }
    Ok(steps_ns)
}

/// The greedy choice.
fn choose(answer: Answer<'_>) -> usize {
    let best = |logits: &mut dyn Iterator<Item = (usize, f32)>| {
        logits.fold((0, f32::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best }).0
    };
    match answer {
        Answer::Logits(logits) => best(&mut logits.iter().copied().enumerate()),
        Answer::Best(found) => best(&mut found.iter().map(|c| (c.id as usize, c.logit))),
        Answer::Hidden(_) => unreachable!("nothing here wants a hidden state"),
    }
}
