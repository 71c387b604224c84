//! A team of GPUs against one, to the last bit: prompts, single tokens, batches that decode, forks.
//!
//! In: a model, a number of ranks. Out: a [`Check`] per kind of work. One GPU computes kernel by kernel here, as every rank
//! of a team does; what it does faster elsewhere has checks of its own. Deliberately absent: speed.

use super::executor::Executor;
use super::kernels::Shape;
use super::params::{NormRow, TeamRows};
use super::smoke::{Check, Lab};
use super::team::Team;
use crate::Result;
use crate::engine::batch::{Best, Rule};
use crate::engine::{Answer, Batch, Want};
use crate::gpu::shard::{Shard, Split};
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
    Ok(alone
        .into_iter()
        .zip(together)
        .map(|((what, want), (_, got))| check(what, ranks, &want, &got))
        .collect())
}

fn check(kernel: String, ranks: usize, want: &[u32], got: &[u32]) -> Check {
    let first = want.iter().zip(got).position(|(want, got)| want != got);
    let differ =
        want.iter().zip(got).filter(|(want, got)| want != got).count() + want.len().abs_diff(got.len());
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
        Answer::Logits(values) | Answer::Hidden(values) => {
            bits.extend(values.iter().map(|value| value.to_bits()));
        }
        Answer::Best(best) => bits.extend(best.iter().flat_map(|best| [best.id, best.logit.to_bits()])),
    })?;
    Ok(bits)
}

/// Quants, scales and sums of rows.
type Packed = (Vec<i8>, Vec<u32>, Vec<i32>);

impl Lab {
    /// Rows that several ranks have columns of, all of them played by this device: normed and packed from gathered floats and
    /// from gathered quants, against whole rows.
    pub(super) fn exchange(&mut self) -> Result<()> {
        let (m, width, ranks) = (1 + self.below(6), 64 * (1 + self.below(90)), 1 + self.below(5));
        let split = Split::of(width, 64, ranks);
        let (x, weight) = (self.floats(m * width), self.floats(width));
        let mut parts = vec![f32::NAN; ranks * m * split.slice];
        for rank in 0..ranks {
            let here = split.range(rank);
            let room = parts[rank * m * split.slice..].chunks_exact_mut(here.len().max(1));
            x.chunks_exact(width)
                .zip(room)
                .for_each(|(row, to)| to[..here.len()].copy_from_slice(&row[here.clone()]));
        }
        let device = &self.device;
        let (whole, gathered, ws) =
            (device.upload("rows", &x)?, device.upload("parts", &parts)?, device.upload("weights", &weight)?);
        let weight = |at: usize| if m % 3 == 0 { 0 } else { ws.at + 4 * at as u64 };
        let quants = device.upload("a poisoned output", &vec![99i8; m * width])?;
        let (scales, sums) = (self.poisoned(m)?, device.upload("a poisoned output", &vec![-1i32; m])?);
        let read = || -> Result<Packed> {
            let (mut q, mut sum) = (vec![0i8; m * width], vec![0i32; m]);
            self.device.read(&quants, 0, &mut q)?;
            self.device.read(&sums, 0, &mut sum)?;
            Ok((q, self.floats_of(&scales, m)?.into_iter().map(f32::to_bits).collect(), sum))
        };
        let row = |x: u64, slice: usize| NormRow {
            x,
            weight: weight(0),
            quants: quants.at,
            scales: scales.at,
            sums: sums.at,
            values: quants.at,
            offsets: 0,
            width: width as i32,
            packing: 1,
            eps: 1e-5,
            slice: slice as i32,
        };
        let norm = Shape::new((m, 1, 1), 512, 4 * width);
        self.launch("norm_row", norm, &row(whole.at, 0))?;
        let want = read()?;
        self.launch("norm_row", norm, &row(gathered.at, split.slice))?;
        let floats = read()?;
        let known = device.upload("a poisoned output", &vec![u32::MAX; 6 * ranks * m])?;
        let slices = device.upload("a poisoned output", &vec![77i8; ranks * m * split.slice])?;
        let of = |rank: usize| TeamRows {
            x: gathered.at + (4 * rank * m * split.slice) as u64,
            weight: weight(split.range(rank).start),
            part: known.at + (24 * rank * m) as u64,
            parts: known.at,
            quants: slices.at + (rank * m * split.slice) as u64,
            slices: slices.at,
            rows: quants.at,
            scales: scales.at,
            sums: sums.at,
            width: width as i32,
            slice: split.slice as i32,
            columns: split.columns(rank) as i32,
            ranks: ranks as i32,
            eps: 1e-5,
            spare: 0,
        };
        let rows = Shape::new((m, 1, 1), 256, 0);
        for name in ["team_stats", "team_quantize"] {
            (0..ranks).try_for_each(|rank| self.launch(name, rows, &of(rank)))?;
        }
        self.launch("team_collect", rows, &of(0))?;
        let quantized = read()?;
        let differ = |got: &Packed| {
            let part = |equal: bool| if equal { 0.0 } else { 1.0 };
            part(got.0 == want.0) + part(got.1 == want.1) + part(got.2 == want.2)
        };
        let (floats, quantized) = (differ(&floats), differ(&quantized));
        let at = format!("m {m} width {width} ranks {ranks}");
        self.note("norm_row", format!("{at} gathered"), floats, 0.0);
        self.note("team_quantize", at, quantized, 0.0);
        Ok(())
    }
}
