//! `bench`: the speed of `bitnet` beside the references and beside what the machine can do.
//!
//! In: a model, engines that speak the engine protocol, and the limits that `bitnet limits` measures. Out: a
//! receipt with every raw sample, a Markdown table and an SVG plot. Every engine loads its file once; in every
//! round each engine does each test, and rounds begin with another engine each; limits are sampled before,
//! between and after rounds. Deliberately absent: a speed without its samples.

pub mod baseline;
mod limits;
pub mod markdown;
pub mod noise;
pub mod stats;
pub mod summary;
pub mod svg;
#[cfg(test)]
mod tests;

use crate::binary;
use crate::cli::{self, Backend, Cpu, ModelArg};
use crate::ctx::Ctx;
use crate::engine::Engine;
use crate::exit::{fail, message_of};
use crate::models;
use crate::proc::{self, Command, Stdout};
use crate::receipts::{machine, store};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_discovery::Lane;
use bitforge_receipt_schema::Body;
use bitforge_receipt_schema::bench::{Bench, Limits, Series};
use bitforge_schema::exit::ExitCode;
use bitforge_schema::protocol::KernelCount;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use summary::OURS;

/// No single measurement may take longer.
const LIMIT: Duration = Duration::from_secs(1800);
const LIMIT_MS: u32 = 200;

pub fn run(ctx: &Ctx, args: &cli::Bench) -> Result<ExitCode> {
    let tests = tests_of(args);
    if tests.is_empty() {
        return fail(ExitCode::Usage, "there is nothing to measure; give --pp or --tg a length above 0");
    }
    let earlier = args.baseline.as_deref().map(read_baseline).transpose()?;
    let model = resolve(ctx, &args.model)?;
    let machine = machine::facts()?;
    let threads = args.threads.unwrap_or(machine.cpus);
    let bitnet = binary::release(ctx)?;
    let mut engines = start_engines(ctx, args, &bitnet, &model, threads)?;

    let mut bench = Bench {
        binary: store::file_facts(&bitnet)?,
        synthetic: inspect(ctx, &bitnet, &model)?.synthetic,
        model: store::file_facts(&model)?,
        machine,
        threads,
        limits: Limits {
            buffer_bytes: 0,
            int8_instruction: String::new(),
            read_bandwidth: Vec::new(),
            int8_operations: Vec::new(),
        },
        series: empty_series(&engines, &tests),
        noise: vec![noise::probe(Path::new("/"))],
    };
    let every: Vec<u32> = (1..=threads).collect();
    limits::sample(ctx, &bitnet, &every, LIMIT_MS, &mut bench.limits)?;
    measure(ctx, &mut engines, &tests, args.repetitions, |_| {
        limits::sample(ctx, &bitnet, &[threads], LIMIT_MS, &mut bench.limits)
    })?
    .into_iter()
    .zip(&mut bench.series)
    .for_each(|(samples, series)| (series.samples_ns, series.kernels) = samples);
    bench.noise.push(noise::probe(Path::new("/")));
    report(ctx, args, bench, earlier.as_ref())
}

/// A prefill of so many tokens, or so many generated one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Prompt(u32),
    Generate(u32),
}

impl Test {
    fn name(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generate(n) => format!("tg{n}"),
        }
    }

    const fn tokens(self) -> u32 {
        match self {
            Test::Prompt(n) | Test::Generate(n) => n,
        }
    }
}

fn tests_of(args: &cli::Bench) -> Vec<Test> {
    let prompts = args.pp.iter().map(|n| Test::Prompt(*n));
    let all = prompts.chain(args.tg.iter().map(|n| Test::Generate(*n)));
    all.filter(|test| test.tokens() > 0).collect()
}

/// A running engine, and what one token costs it.
struct Running {
    name: String,
    identity: String,
    engine: Engine,
    inspected: Inspected,
}

fn start_engines(
    ctx: &Ctx,
    args: &cli::Bench,
    bitnet: &Path,
    model: &Path,
    threads: u32,
) -> Result<Vec<Running>> {
    let mut engines = vec![start(ctx, Backend::Cpu, OURS.into(), bitnet, model, threads)?];
    let built = [Backend::Llama, Backend::Bitnet];
    for backend in args.against.as_deref().unwrap_or(&built) {
        match start(ctx, *backend, backend.name().into(), bitnet, model, threads) {
            Ok(engine) => engines.push(engine),
            // One that was asked for by name is a demand.
            Err(error) if args.against.is_some() => return Err(error),
            Err(error) => ctx.out.line(format!(
                "{} not compared with {}: {}",
                ctx.out.mark(State::CouldNotCheck),
                backend.name(),
                message_of(&error)
            )),
        }
    }
    for also in &args.also {
        let (backend, file) = also_of(also)?;
        if !file.is_file() {
            return fail(ExitCode::NotFound, format!("{} is not a file", file.display()));
        }
        let engine = if backend == Backend::Cpu { OURS } else { backend.name() };
        let name = format!("{engine} ({})", file.file_name().unwrap_or_default().to_string_lossy());
        engines.push(start(ctx, backend, name, bitnet, &file, threads)?);
    }
    Ok(engines)
}

fn also_of(text: &str) -> Result<(Backend, PathBuf)> {
    match text.split_once('=') {
        Some((OURS, file)) => Ok((Backend::Cpu, file.into())),
        Some(("llama", file)) => Ok((Backend::Llama, file.into())),
        Some(("bitnet", file)) => Ok((Backend::Bitnet, file.into())),
        _ => {
            fail(ExitCode::Usage, format!("--also {text}: give bitforge, llama or bitnet, then = and a file"))
        }
    }
}

fn start(
    ctx: &Ctx,
    backend: Backend,
    name: String,
    bitnet: &Path,
    model: &Path,
    threads: u32,
) -> Result<Running> {
    let driver = match backend {
        Backend::Cpu => {
            let identity = store::sha256(bitnet)?;
            binary::Driver { path: bitnet.into(), identity }
        }
        Backend::Llama => binary::driver(ctx, Lane::Llama, Cpu::Native)?,
        Backend::Bitnet => binary::driver(ctx, Lane::Bitnet, Cpu::Native)?,
        Backend::Cuda => return fail(ExitCode::Usage, "--against takes llama and bitnet"),
    };
    let inspected = inspect(ctx, bitnet, model)?;
    let identity = driver.identity;
    let start = |mode: &[&str]| -> Result<Engine> {
        let command = Command::new(&driver.path)
            .args(["evaluate", "--threads", &threads.to_string()])
            .args(mode.iter().copied())
            .args(["--model"])
            .args([model]);
        let mut engine = Engine::start(ctx, &command, &format!("bench-{}", backend.name()), LIMIT)?;
        // A first small sample: an engine that cannot compute here should not end a whole measurement.
        engine.bench(0, 8, 1)?;
        Ok(engine)
    };
    if backend == Backend::Cpu {
        return Ok(Running { name, identity, engine: start(&[])?, inspected });
    }
    // References compute as they are fastest; ours has one way.
    match start(&["--mode", "fast"]) {
        Ok(engine) => Ok(Running { name, identity, engine, inspected }),
        Err(error) => {
            let engine = start(&["--mode", "plain"])?;
            let why = message_of(&error);
            ctx.out.line(format!(
                "{} {name} is measured in its plain mode, because its fast one fails here: {}",
                ctx.out.mark(State::Warn),
                why.lines().next().unwrap_or_default()
            ));
            Ok(Running { name: format!("{name} (plain)"), identity, engine, inspected })
        }
    }
}

fn empty_series(engines: &[Running], tests: &[Test]) -> Vec<Series> {
    let pairs = tests.iter().flat_map(|test| engines.iter().map(move |engine| (test, engine)));
    let series = pairs.map(|(test, engine)| {
        let passes = if let Test::Generate(n) = test { u64::from(*n) } else { 1 };
        Series {
            engine: engine.name.clone(),
            identity: engine.identity.clone(),
            test: test.name(),
            tokens: test.tokens(),
            samples_ns: Vec::new(),
            weight_bytes: engine.inspected.weight_bytes * passes,
            operations: 2 * engine.inspected.layer_weights * u64::from(test.tokens()),
            kernels: Vec::new(),
        }
    });
    series.collect()
}

type Samples = (Vec<u64>, Vec<KernelCount>);

/// Samples of every (test, engine), in the order of [`empty_series`]; round 0 warms up and is dropped.
fn measure(
    ctx: &Ctx,
    engines: &mut [Running],
    tests: &[Test],
    repetitions: u32,
    mut between: impl FnMut(u32) -> Result<()>,
) -> Result<Vec<Samples>> {
    let width = engines.len();
    let mut samples: Vec<Samples> = vec![Default::default(); tests.len() * width];
    let mut progress = ctx.out.progress("measuring");
    for round in 0..=repetitions {
        for (t, test) in tests.iter().enumerate() {
            for turn in 0..width {
                let e = (turn + round as usize) % width;
                let running = &mut engines[e];
                progress.message(&format!(
                    "round {round} of {repetitions}: {} {}",
                    running.name,
                    test.name()
                ));
                let measured = match *test {
                    Test::Prompt(n) => running.engine.bench(0, n, 0)?,
                    Test::Generate(n) => running.engine.bench(0, 0, n)?,
                };
                let generated = measured.generate_ns.len();
                if let Test::Generate(n) = *test
                    && generated != n as usize
                {
                    anyhow::bail!("{} timed {generated} tokens of {n}", running.name);
                }
                if round > 0 {
                    let (times, kernels) = &mut samples[t * width + e];
                    times.push(measured.prompt_ns + measured.generate_ns.iter().sum::<u64>());
                    add_counts(kernels, measured.kernels);
                }
            }
        }
        between(round)?;
    }
    Ok(samples)
}

fn add_counts(all: &mut Vec<KernelCount>, more: Vec<KernelCount>) {
    for count in more {
        match all.iter_mut().find(|known| known.id == count.id) {
            Some(known) => {
                known.calls += count.calls;
                known.rows += count.rows;
                known.rescored_rows += count.rescored_rows;
                known.bytes += count.bytes;
                known.nanoseconds += count.nanoseconds;
            }
            None => all.push(count),
        }
    }
}

/// What `bitnet inspect` says about a file, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inspected {
    synthetic: bool,
    /// Bytes of the matrices that a token is multiplied with, head included.
    weight_bytes: u64,
    /// Weights of the layers' matrices.
    layer_weights: u64,
}

#[derive(Deserialize)]
struct InspectOutput {
    metadata: serde_json::Map<String, serde_json::Value>,
    tensors: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    dims: Vec<u64>,
    bytes: Option<u64>,
}

fn inspect(ctx: &Ctx, bitnet: &Path, model: &Path) -> Result<Inspected> {
    let command = Command::new(bitnet).args(["inspect", "--json", "--model"]).args([model]);
    let log = ctx.log_file("bench-inspect")?;
    let finished =
        proc::run(ctx, &command, Stdout::Capture, &log, |_| ())?.must_succeed(ExitCode::BadInput)?;
    inspected(&finished.stdout)
        .with_context(|| format!("`{}` printed JSON that xtask does not know", finished.line))
}

fn inspected(json: &str) -> Result<Inspected> {
    let output: InspectOutput = serde_json::from_str(json)?;
    let own_head = output.tensors.iter().any(|tensor| tensor.name == "output.weight");
    let read = |tensor: &&Tensor| tensor.dims.len() > 1 && (tensor.name != "token_embd.weight" || !own_head);
    let matrices = output.tensors.iter().filter(read);
    let layers =
        output.tensors.iter().filter(|tensor| tensor.name.starts_with("blk.") && tensor.dims.len() > 1);
    let named = output.metadata.get("general.name").and_then(|name| name.as_str());
    Ok(Inspected {
        synthetic: output.metadata.get("bitforge.synthetic").is_some_and(|value| value == true)
            || named.is_some_and(|name| name.starts_with("synthetic")),
        weight_bytes: matrices.filter_map(|tensor| tensor.bytes).sum(),
        layer_weights: layers.map(|tensor| -> u64 { tensor.dims.iter().product() }).sum(),
    })
}

fn resolve(ctx: &Ctx, model: &str) -> Result<PathBuf> {
    match ModelArg::parse(model) {
        ModelArg::File(path) if path.is_file() => Ok(path),
        ModelArg::File(path) => fail(
            ExitCode::NotFound,
            format!("{} is not a file; give --model a name or a path", path.display()),
        ),
        ModelArg::Name(name) => Ok(models::fetch(ctx, &name)?.path),
    }
}

fn read_baseline(path: &Path) -> Result<Bench> {
    match store::read(path)?.body {
        Body::Bench(bench) => Ok(*bench),
        other => fail(
            ExitCode::BadInput,
            format!("{} is no baseline: it is a receipt of {}", path.display(), other.kind()),
        ),
    }
}

fn report(ctx: &Ctx, args: &cli::Bench, bench: Bench, earlier: Option<&Bench>) -> Result<ExitCode> {
    let text = markdown::render(&bench, &noise::warnings(&bench));
    let changes = earlier.map(|earlier| baseline::compare(&bench, earlier));
    let picture = svg::render(&bench);
    let parents = store::parents_of(ctx, &["crossval", "model"], &bench.binary, &bench.model)?;
    let receipt = store::write(ctx, Body::Bench(Box::new(bench)), &parents)?;
    let json = store::text(&receipt)?;
    let dir = args.out.clone().map_or_else(|| store::folder(ctx), Ok)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    for (name, content) in [("bench.json", &json), ("bench.md", &text), ("bench.svg", &picture)] {
        let path = dir.join(name);
        if path != receipt {
            std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    ctx.out.line(&text);
    ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), dir.join("bench.json").display()));
    if ctx.out.is_json() {
        ctx.out.json(&store::read(&receipt)?)?;
    }
    changes.map_or(Ok(ExitCode::Ok), |changes| judge(ctx, &changes))
}

/// # Errors
/// [`ExitCode::CheckFailed`] for a regression, and where nothing could be compared.
fn judge(ctx: &Ctx, changes: &[baseline::Change]) -> Result<ExitCode> {
    if changes.is_empty() {
        return fail(
            ExitCode::CheckFailed,
            "the baseline has no test in common with this run; measure with its --pp and --tg",
        );
    }
    for change in changes {
        let (state, bound) = match change.bound {
            None => {
                (State::CouldNotCheck, "too few rounds to tell; give --repetitions 5 or more".to_string())
            }
            Some(bound) => {
                let state = if change.is_regression() { State::Fail } else { State::Ok };
                (state, format!("cannot tell below {:.1}%", bound * 100.0))
            }
        };
        ctx.out.line(format!(
            "{} {} in {}: {:+.1}% against the baseline, {bound}",
            ctx.out.mark(state),
            change.test,
            change.unit,
            (change.factor - 1.0) * 100.0
        ));
    }
    let slower: Vec<&str> =
        changes.iter().filter(|change| change.is_regression()).map(|change| change.test.as_str()).collect();
    if !slower.is_empty() {
        return fail(
            ExitCode::CheckFailed,
            format!("slower than the baseline beyond what can be told: {}", slower.join(", ")),
        );
    }
    if changes.iter().any(|change| change.bound.is_none()) {
        return fail(ExitCode::CheckFailed, "a test could not be compared with the baseline");
    }
    Ok(ExitCode::Ok)
}
