//! `bitnet bench`: speed of prompt processing and of generation, all samples kept.
//!
//! As llama-bench does it: token ids without meaning, an empty context (or `--depth` tokens) before every sample, one
//! round that is not counted. The table shows mean ± standard deviation.

use super::args::{BenchArgs, Format};
use super::ctx::Ctx;
use super::format::{Align, markdown};
#[cfg(feature = "gpu")]
use super::json::Communication;
use super::json::{BenchOutput, BenchResult, Build};
use super::measure::Work;
use super::{settings, summary};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::{Error, Result};
use std::time::Instant;

#[derive(Clone, Copy)]
struct Test(Work);

pub fn run(ctx: &mut Ctx, args: &BenchArgs) -> Result<()> {
    let tests: Vec<Test> = std::iter::empty()
        .chain(args.pp.iter().map(|n| Test(Work { depth: 0, prompt: *n, steps: 0, sequences: 1 })))
        .chain(args.tg.iter().flat_map(|steps| {
            let work = |depth, sequences| Test(Work { depth, prompt: 0, steps: *steps, sequences });
            let many = args.sequences.iter().filter(|n| **n != 1).map(move |n| work(0, *n));
            args.depth.iter().map(move |depth| work(*depth, 1)).chain(many)
        }))
        .filter(|test| test.0.prompt + test.0.steps > 0)
        .collect();
    if tests.is_empty() || args.repetitions == 0 {
        let remedy = "give --pp or --tg a length, and --repetitions at least 1";
        return Err(Error::usage("there is nothing to measure", remedy));
    }
    let context = tests.iter().map(|test| test.0.positions()).max();
    let sequences = tests.iter().map(|test| test.0.sequences as usize).max().unwrap_or(1);
    let started = Instant::now();
    let room = settings::Room { context, sequences, replica: settings::Replica::ONLY };
    let ((), mut engine) = settings::load(ctx, &args.engine, room, |_| Ok(()))?;
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
        #[cfg(feature = "gpu")]
        products: None,
        interrupted: false,
    };
    for test in tests {
        let mut samples = Vec::new();
        let outcome = measure(&mut engine, test, args.repetitions, &mut samples);
        if !samples.is_empty() {
            let result = result(test, samples);
            #[cfg(feature = "gpu")]
            let communication = communication(&mut engine, test, &result.samples_ns)?;
            #[cfg(feature = "gpu")]
            let result = BenchResult { communication, ..result };
            output.results.push(result);
        }
        match outcome {
            Err(Error::Interrupted) => output.interrupted = true,
            outcome => outcome?,
        }
        if output.interrupted {
            break;
        }
    }
    #[cfg(feature = "gpu")]
    if let (Some(device), true) = (engine.accelerator(), args.products && !output.interrupted) {
        output.products = device.time_products()?;
    }
    match ctx.format {
        Format::Json => ctx.print_json(&output)?,
        Format::Human => ctx.print(&table(&output))?,
    }
    if output.interrupted { Err(Error::Interrupted) } else { Ok(()) }
}

/// Appends one duration in nanoseconds per repetition, after one that is not counted.
fn measure(engine: &mut Engine, test: Test, repetitions: usize, samples: &mut Vec<u64>) -> Result<()> {
    for round in 0..=repetitions {
        let measured = test.0.measure(engine)?;
        if round > 0 {
            samples.push((measured.prompt_ns + measured.steps_ns.iter().sum::<u64>()).max(1));
        }
    }
    Ok(())
}

fn result(test: Test, samples_ns: Vec<u64>) -> BenchResult {
    let tokens = test.tokens();
    let rates: Vec<f64> = samples_ns.iter().map(|ns| tokens as f64 * 1e9 / *ns as f64).collect();
    BenchResult {
        test: test.name(),
        tokens,
        samples_ns,
        mean_tokens_per_second: mean(&rates),
        median_tokens_per_second: median(&rates),
        stddev_tokens_per_second: stddev(&rates),
        #[cfg(feature = "gpu")]
        communication: None,
        samples_tokens_per_second: rates,
    }
}

/// What several GPUs tell each other in a step of `test`, measured alone.
#[cfg(feature = "gpu")]
fn communication(engine: &mut Engine, test: Test, samples_ns: &[u64]) -> Result<Option<Communication>> {
    let (Some(device), true) = (engine.accelerator(), test.0.steps > 0) else { return Ok(None) };
    let found = device.communication(test.0.sequences as usize)?;
    let samples: Vec<f64> = samples_ns.iter().map(|ns| *ns as f64).collect();
    let step = median(&samples) / f64::from(test.0.steps);
    Ok(found.map(|found| Communication {
        bytes: found.bytes,
        nanoseconds: found.nanoseconds,
        share: found.nanoseconds as f64 / step,
    }))
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
    markdown(&columns, &rows) + &products(output)
}

/// A line about the products alone, where they were timed.
#[cfg(feature = "gpu")]
fn products(output: &BenchOutput) -> String {
    output.products.map_or(String::new(), |times| {
        let [chained, apart] = [times.chained_ns, times.apart_ns].map(|ns| ns as f64 / 1e3);
        let rate = times.weight_bytes as f64 / times.apart_ns as f64;
        format!("\nproducts of all layers, one row: {chained:.0} µs one after the other, {apart:.0} µs side by side ({rate:.0} GB/s)\n")
    })
}

#[cfg(not(feature = "gpu"))]
fn products(_output: &BenchOutput) -> String {
    String::new()
}

impl Test {
    /// Of one sample.
    fn tokens(self) -> usize {
        (self.0.prompt + self.0.steps * self.0.sequences) as usize
    }

    /// As llama-bench names them, with `@DEPTH` and `xSEQUENCES`.
    fn name(self) -> String {
        match self.0 {
            Work { prompt, steps: 0, .. } => format!("pp{prompt}"),
            Work { steps, depth: 0, sequences: 1, .. } => format!("tg{steps}"),
            Work { steps, depth: 0, sequences, .. } => format!("tg{steps}x{sequences}"),
            Work { steps, depth, .. } => format!("tg{steps}@{depth}"),
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
        let result = result(
            Test(Work { depth: 0, prompt: 512, steps: 0, sequences: 1 }),
            vec![1_000_000_000, 2_000_000_000],
        );
        assert_eq!(result.samples_tokens_per_second, [512.0, 256.0]);
        assert_eq!((result.test.as_str(), result.mean_tokens_per_second), ("pp512", 384.0));
    }
}
