//! `bitnet bench`: speed of prompt processing and of generation, all samples kept.
//!
//! As llama-bench does it: token ids without meaning, an empty context before every sample, one round that is
//! not counted, no sampling: generated tokens are the best after the one before. The table shows mean ± standard deviation.

use super::args::{BenchArgs, Format};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::json::{BenchOutput, BenchResult, Build};
use super::{settings, summary};
use crate::engine::pages::SequenceId;
use crate::engine::{Batch, Engine, Sequences, Want};
use crate::sampling::rng::SplitMix64;
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Tokens of every sequence of a batch.
const BATCH_TOKENS: usize = 64;

#[derive(Clone, Copy)]
enum Test {
    /// A prompt of this many tokens, evaluated together.
    Prompt(usize),
    /// This many tokens, one by one, each the best after the one before.
    Generation(usize),
    /// This many tokens of so many sequences, a token of each at a time.
    Batch { sequences: usize, tokens: usize },
}

pub fn run(ctx: &mut Ctx, args: &BenchArgs) -> Result<()> {
    let tests: Vec<Test> = std::iter::empty()
        .chain(args.pp.iter().filter(|n| **n > 0).map(|n| Test::Prompt(*n)))
        .chain(args.tg.iter().filter(|n| **n > 0).map(|n| Test::Generation(*n)))
        .chain(
            args.batch
                .iter()
                .filter(|n| **n > 0)
                .map(|n| Test::Batch { sequences: *n, tokens: BATCH_TOKENS }),
        )
        .collect();
    if tests.is_empty() || args.repetitions == 0 {
        let remedy = "give --pp or --tg a length, and --repetitions at least 1";
        return Err(Error::usage("there is nothing to measure", remedy));
    }
    let context = tests.iter().map(|test| test.positions() + args.depth).max();
    let sequences = tests.iter().map(|test| test.sequences()).max().unwrap_or(1);
    let started = Instant::now();
    let ((), mut engine) = settings::load_for(ctx, &args.engine, context, sequences, |_| Ok(()))?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    ctx.note(engine.selection());
    if cfg!(debug_assertions) {
        ctx.note("warning: this is a debug build, its numbers mean nothing; build with --release");
    }
    let mut output = BenchOutput {
        build: build(),
        model: summary::model(engine.gguf()),
        engine: summary::engine(&engine),
        load_ms,
        results: Vec::new(),
        interrupted: false,
    };
    for test in tests {
        let mut samples = Vec::new();
        let outcome = measure(&mut engine, test, args.depth, args.repetitions, &mut samples);
        if !samples.is_empty() {
            output.results.push(result(test, args.depth, samples));
        }
        match outcome {
            Err(Error::Interrupted) => output.interrupted = true,
            outcome => outcome?,
        }
        if output.interrupted {
            break;
        }
    }
    match ctx.format {
        Format::Json => ctx.print_json(&output)?,
        Format::Human => ctx.print(&table(&output))?,
    }
    if output.interrupted { Err(Error::Interrupted) } else { Ok(()) }
}

/// Appends one duration in nanoseconds per repetition, after one that is not counted.
fn measure(
    engine: &mut Engine,
    test: Test,
    depth: usize,
    repetitions: usize,
    samples: &mut Vec<u64>,
) -> Result<()> {
    let mut rng = SplitMix64::new(0);
    let vocab = engine.vocab_size() as u64;
    let mut ids = |n: usize| -> Vec<u32> { (0..n).map(|_| (rng.next_u64() % vocab) as u32).collect() };
    let (before, tokens) = (ids(depth), ids(test.positions().max(test.sequences())));
    for round in 0..=repetitions {
        engine.reset();
        let spent = match test {
            Test::Batch { sequences, tokens: count } => batch(engine, &before, &tokens[..sequences], count)?,
            Test::Prompt(_) | Test::Generation(_) => {
                if !before.is_empty() {
                    engine.prefill(&before)?;
                }
                let started = Instant::now();
                match test {
                    Test::Prompt(_) => drop(engine.prefill(&tokens)?.len()),
                    _ => drop(engine.generate_greedy(tokens[0], tokens.len())?),
                }
                started.elapsed()
            }
        };
        if round > 0 {
            samples.push(spent.as_nanos() as u64);
        }
    }
    Ok(())
}

/// The time of `count` steps of as many sequences as there are `first` tokens, each `before` long when it starts.
fn batch(engine: &mut Engine, before: &[u32], first: &[u32], count: usize) -> Result<Duration> {
    let sequences = engine.sequences();
    let ids: Vec<SequenceId> = first.iter().map(|_| sequences.open()).collect();
    let outcome = fill(sequences, &ids, before).and_then(|()| {
        let started = Instant::now();
        let mut tokens = first.to_vec();
        for _ in 0..count {
            tokens = engine.step_greedy(&ids, &tokens)?;
        }
        Ok(started.elapsed())
    });
    ids.into_iter().for_each(|id| engine.sequences().close(id));
    outcome
}

fn fill(sequences: &mut dyn Sequences, ids: &[SequenceId], before: &[u32]) -> Result<()> {
    let mut batch = Batch::new();
    for id in ids {
        for chunk in before.chunks(sequences.batch_rows()) {
            batch.clear();
            batch.push_all(*id, chunk, Want::Nothing);
            sequences.evaluate(&batch, &mut |_, _| ())?;
        }
    }
    Ok(())
}

fn result(test: Test, depth: usize, samples_ns: Vec<u64>) -> BenchResult {
    let tokens = test.tokens();
    let rates: Vec<f64> = samples_ns.iter().map(|ns| tokens as f64 * 1e9 / *ns as f64).collect();
    BenchResult {
        test: if depth > 0 { format!("{} @ d{depth}", test.name()) } else { test.name() },
        tokens,
        samples_ns,
        mean_tokens_per_second: mean(&rates),
        median_tokens_per_second: median(&rates),
        stddev_tokens_per_second: stddev(&rates),
        samples_tokens_per_second: rates,
    }
}

fn table(output: &BenchOutput) -> String {
    let left = |name| (name, Align::Left);
    let right = |name| (name, Align::Right);
    let columns = [
        left("model"),
        right("size"),
        right("params"),
        left("backend"),
        right("threads"),
        right("test"),
        right("t/s"),
    ];
    let rows: Vec<Vec<String>> = output
        .results
        .iter()
        .map(|result| {
            let rate =
                format!("{:.2} ± {:.2}", result.mean_tokens_per_second, result.stddev_tokens_per_second);
            vec![
                output.model.title(),
                output.model.size(),
                super::format::count(output.model.parameters),
                match &output.engine.device {
                    Some(name) => name.clone(),
                    None => format!("CPU {}", output.engine.selection.selected),
                },
                output.engine.threads.to_string(),
                result.test.clone(),
                rate,
            ]
        })
        .collect();
    markdown(&columns, &rows)
}

impl Test {
    fn tokens(self) -> usize {
        match self {
            Test::Prompt(n) | Test::Generation(n) => n,
            Test::Batch { sequences, tokens } => sequences * tokens,
        }
    }

    /// Positions of one sequence.
    fn positions(self) -> usize {
        match self {
            Test::Prompt(n) | Test::Generation(n) => n,
            Test::Batch { tokens, .. } => tokens,
        }
    }

    fn sequences(self) -> usize {
        if let Test::Batch { sequences, .. } = self { sequences } else { 1 }
    }

    fn name(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generation(n) => format!("tg{n}"),
            Test::Batch { sequences, tokens } => format!("tg{tokens} x {sequences}"),
        }
    }
}

fn build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        target_arch: std::env::consts::ARCH,
        target_os: std::env::consts::OS,
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

/// Standard deviation of a sample; 0 for fewer than two values.
fn stddev(samples: &[f64]) -> f64 {
    if samples.len() < 2 {
        return 0.0;
    }
    let mean = mean(samples);
    (samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (samples.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_samples() {
        let samples = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!((mean(&samples), median(&samples)), (5.0, 4.5));
        assert!((stddev(&samples) - (32.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!((median(&[3.0, 1.0, 2.0]), stddev(&[3.0])), (2.0, 0.0));
    }

    #[test]
    fn rates_come_from_tokens_and_time() {
        let result = result(Test::Prompt(512), 0, vec![1_000_000_000, 2_000_000_000]);
        assert_eq!(result.samples_tokens_per_second, [512.0, 256.0]);
        assert_eq!((result.test.as_str(), result.mean_tokens_per_second), ("pp512", 384.0));
    }
}
