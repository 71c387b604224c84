//! A team of GPUs against one, to the last bit: prompts, single tokens, batches that decode, forks.
//!
//! In: a model, a number of ranks. Out: a [`Check`] per kind of work. One GPU computes kernel by kernel here, as every rank
//! of a team does; what it does faster elsewhere has checks of its own. Deliberately absent: speed.

use super::executor::Executor;
use super::smoke::Check;
use super::team::Team;
use crate::Result;
use crate::engine::batch::{Best, Rule};
use crate::engine::{Answer, Batch, Want};
use crate::gpu::shard::Shard;
use crate::gpu::{Accelerator, OpenOptions};
use crate::model::Model;
use crate::quant::activation::ActivationQuant;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const CONTEXT: usize = 512;
/// Sequences that decode together, one set after the other.
const BATCHES: [usize; 4] = [1, 3, 12, 40];
const STEPS: usize = 6;

/// What one kind of work left: the bits of logits, or tokens.
type Found = (String, Vec<u32>);

/// # Errors
/// Those of the devices and of NCCL.
pub fn run(model: &Model, ranks: usize, nccl: Option<&str>) -> Result<Vec<Check>> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let options = OpenOptions {
        context: CONTEXT,
        sequences: BATCHES[BATCHES.len() - 1] + 1,
        activation_quant: ActivationQuant::Token,
        first_device: 0,
        tensor_parallel: ranks,
        nccl: nccl.map(String::from),
        interrupt: Arc::clone(&interrupt),
    };
    let alone = {
        let shard = Shard::whole(&model.config, model.vocab_size());
        let mut one = Executor::new(model, &options, shard, &interrupt)?;
        one.kernel_by_kernel();
        work(&mut one)?
    };
    let together = work(&mut Team::open(model, &options)?)?;
    Ok(alone.into_iter().zip(together).map(|((what, want), (_, got))| check(what, ranks, &want, &got)).collect())
}

fn check(kernel: String, ranks: usize, want: &[u32], got: &[u32]) -> Check {
    let first = want.iter().zip(got).position(|(want, got)| want != got);
    let differ = want.iter().zip(got).filter(|(want, got)| want != got).count() + want.len().abs_diff(got.len());
    let of = |bits: Option<&u32>| bits.map_or(f32::NAN, |bits| f32::from_bits(*bits));
    let where_ = first.map_or(String::new(), |at| {
        format!(", first at {at}: {} and not {}", of(got.get(at)), of(want.get(at)))
    });
    Check {
        kernel,
        shape: format!("{ranks} ranks, {} values{where_}", want.len()),
        error: differ as f64 / want.len().max(1) as f64,
        allowed: 0.0,
    }
}

fn work(on: &mut dyn Accelerator) -> Result<Vec<Found>> {
    let vocab = on.vocab_size() as u32;
    let tokens = |n: usize| -> Vec<u32> { (0..n).map(|i| (7 + 31 * i as u32) % vocab).collect() };
    let greedy = Want::Best(Best { below: vocab - vocab / 3, rule: Rule::Top(1) });
    let (mut found, mut batch) = (Vec::new(), Batch::new());
    for length in [1, 5, 40, 200] {
        let id = on.open();
        batch.clear();
        tokens(length).into_iter().for_each(|token| batch.push(id, token, Want::Logits));
        found.push((format!("a prompt of {length}, all logits"), evaluate(on, &batch)?));
        batch.clear();
        batch.push(id, 3, greedy);
        found.push((format!("the best of some after {length}"), evaluate(on, &batch)?));
        on.close(id);
    }
    let root = on.open();
    batch.clear();
    batch.push_all(root, &tokens(5), Want::Nothing);
    evaluate(on, &batch)?;
    found.push(("a chain of 16".into(), on.generate_greedy(root, 1, 16)?));
    for rows in BATCHES {
        let ids = (0..rows).map(|i| on.fork(root, 3 + i % 9)).collect::<Result<Vec<_>>>()?;
        let mut next = tokens(rows);
        for (what, want) in [("the best of some", greedy), ("all logits", Want::Logits)] {
            batch.clear();
            ids.iter().zip(&next).for_each(|(id, token)| batch.push(*id, *token, want));
            found.push((format!("a step of {rows}, {what}"), evaluate(on, &batch)?));
        }
        let mut chosen = Vec::new();
        for _ in 0..STEPS {
            next = on.step_greedy(&ids, &next)?;
            chosen.extend_from_slice(&next);
        }
        found.push((format!("{STEPS} greedy steps of {rows}"), chosen));
        ids.into_iter().for_each(|id| on.close(id));
    }
    Ok(found)
}

/// The bits of all that was answered.
fn evaluate(on: &mut dyn Accelerator, batch: &Batch) -> Result<Vec<u32>> {
    let mut bits = Vec::new();
    on.evaluate(batch, &mut |_, answer| match answer {
        Answer::Logits(logits) => bits.extend(logits.iter().map(|logit| logit.to_bits())),
        Answer::Best(best) => bits.extend(best.iter().flat_map(|best| [best.id, best.logit.to_bits()])),
    })?;
    Ok(bits)
}
