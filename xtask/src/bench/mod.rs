//! `bench`: the speed of `bitnet` beside the references and beside what the machine can do.
//!
//! In: a model, engines that speak the engine protocol, and the limits that `bitnet limits` measures. Out: a
//! receipt with every raw sample, a Markdown table and an SVG plot. Every engine loads its file once; in every
//! round each engine does each test, and rounds begin with another engine each; limits are sampled before,
//! between and after rounds. Deliberately absent: a speed without its samples.

pub mod baseline;
mod html;
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
use crate::engine::{Engine, Work};
use crate::exit::{fail, message_of};
use crate::models;
use crate::proc::{self, Command, Stdout};
use crate::receipts::{machine, store};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_discovery::Lane;
use bitforge_receipt_schema::bench::{Bench, Limits, Series};
use bitforge_receipt_schema::{Body, MachineFacts};
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
    let mut engines = start_engines(ctx, args, &bitnet, &model)?;

    let mut bench = Bench {
        binary: store::file_facts(&bitnet)?,
        synthetic: inspect(ctx, &bitnet, &model)?.synthetic,
        model: store::file_facts(&model)?,
        machine: MachineFacts { gpus: gpus(&engines[0], &args.device), ..machine },
        threads,
        limits: Limits {
            buffer_bytes: 0,
            int8_instruction: String::new(),
            read_bandwidth: Vec::new(),
            int8_operations: Vec::new(),
        },
        series: empty_series(&engines, &tests, args.kv.as_deref().unwrap_or("f16")),
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

/// The GPUs that our engine says it computes on.
fn gpus(ours: &Running, device: &str) -> Vec<String> {
    let system = &ours.engine.hello.system;
    let reason =
        system.split("reason=").nth(1).filter(|_| device != "cpu" && !system.contains("selected=cpu"));
    reason.map(|reason| reason.rsplit("; ").next().unwrap_or(reason).to_string()).into_iter().collect()
}

/// A prefill of so many tokens, or so many steps of generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Prompt(u32),
    Generate { steps: u32, depth: u32, sequences: u32 },
}

impl Test {
    fn name(self) -> String {
        match self {
            Test::Prompt(n) => format!("pp{n}"),
            Test::Generate { steps, depth: 0, sequences: 1 } => format!("tg{steps}"),
            Test::Generate { steps, depth: 0, sequences } => format!("tg{steps}x{sequences}"),
            Test::Generate { steps, depth, .. } => format!("tg{steps}@{depth}"),
        }
    }

    const fn tokens(self) -> u32 {
        match self {
            Test::Prompt(n) => n,
            Test::Generate { steps, sequences, .. } => steps * sequences,
        }
    }

    const fn work(self) -> Work {
        match self {
            Test::Prompt(prompt) => Work { depth: 0, prompt, generate: 0, sequences: 1 },
            Test::Generate { steps, depth, sequences } => {
                Work { depth, prompt: 0, generate: steps, sequences }
            }
        }
    }

    /// Whether an engine that is not ours can be measured so.
    const fn is_common(self) -> bool {
        matches!(self, Test::Prompt(_) | Test::Generate { sequences: 1, .. })
    }

    /// Positions that attention reads in all steps together.
    const fn positions_read(self) -> u64 {
        match self {
            Test::Prompt(_) => 0,
            Test::Generate { steps, depth, sequences } => {
                let (steps, depth) = (steps as u64, depth as u64);
                (steps * depth + steps * (steps + 1) / 2) * sequences as u64
            }
        }
    }
}

fn tests_of(args: &cli::Bench) -> Vec<Test> {
    let prompts = args.pp.iter().map(|n| Test::Prompt(*n));
    let generate = args.tg.iter().flat_map(|steps| {
        let one = |depth: &u32| Test::Generate { steps: *steps, depth: *depth, sequences: 1 };
        let many = |sequences: &u32| Test::Generate { steps: *steps, depth: 0, sequences: *sequences };
        args.depth.iter().map(one).chain(args.sequences.iter().filter(|n| **n > 1).map(many))
    });
    prompts.chain(generate).filter(|test| test.tokens() > 0).collect()
}

/// A running engine, and what one token costs it.
struct Running {
    name: String,
    identity: String,
    engine: Engine,
    inspected: Inspected,
}

impl Running {
    fn is_ours(&self) -> bool {
        self.name == OURS || self.name.starts_with(&format!("{OURS} ("))
    }
}

fn start_engines(ctx: &Ctx, args: &cli::Bench, bitnet: &Path, model: &Path) -> Result<Vec<Running>> {
    let mut engines = vec![start(ctx, args, Backend::Cpu, OURS.into(), bitnet, model)?];
    if args.alone || args.device != "cpu" {
        return Ok(engines);
    }
    let built = [Backend::Llama, Backend::Bitnet];
    for backend in args.against.as_deref().unwrap_or(&built) {
        match start(ctx, args, *backend, backend.name().into(), bitnet, model) {
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
        engines.push(start(ctx, args, backend, name, bitnet, &file)?);
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
    args: &cli::Bench,
    backend: Backend,
    name: String,
    bitnet: &Path,
    model: &Path,
) -> Result<Running> {
    let threads = args.threads.map_or_else(|| machine::facts().map(|machine| machine.cpus), Ok)?;
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
        engine.bench(Work { depth: 0, prompt: 8, generate: 1, sequences: 1 })?;
        Ok(engine)
    };
    if backend == Backend::Cpu {
        let context =
            tests_of(args).iter().map(|test| test.work().positions()).max().unwrap_or(1).max(16).to_string();
        let sequences = args.sequences.iter().max().unwrap_or(&1).to_string();
        let mut options = vec!["--device", &args.device, "--ctx-size", &context, "--sequences", &sequences];
        options.extend(args.kv.iter().flat_map(|kv| ["--kv", kv]));
        options.extend(args.head.iter().flat_map(|head| ["--head", head]));
        return Ok(Running { name, identity, engine: start(&options)?, inspected });
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

/// What is measured: every test with every engine that can do it.
fn pairs<'a>(engines: &'a [Running], tests: &'a [Test]) -> impl Iterator<Item = (&'a Test, &'a Running)> {
    let all = tests.iter().flat_map(move |test| engines.iter().map(move |engine| (test, engine)));
    all.filter(|(test, engine)| test.is_common() || engine.is_ours())
}

fn empty_series(engines: &[Running], tests: &[Test], kv: &str) -> Vec<Series> {
    let series = pairs(engines, tests).map(|(test, engine)| {
        let passes = if let Test::Generate { steps, .. } = test { u64::from(*steps) } else { 1 };
        Series {
            engine: engine.name.clone(),
            identity: engine.identity.clone(),
            test: test.name(),
            tokens: test.tokens(),
            samples_ns: Vec::new(),
            weight_bytes: engine.inspected.weight_bytes * passes,
            kv_bytes: test.positions_read()
                * engine.inspected.kv_bytes(if engine.is_ours() { kv } else { "f16" }),
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
    let mut samples: Vec<Samples> = vec![Default::default(); pairs(engines, tests).count()];
    let mut progress = ctx.out.progress("measuring");
    for round in 0..=repetitions {
        let mut first = 0;
        for test in tests {
            let able: Vec<usize> = (0..width).filter(|e| test.is_common() || engines[*e].is_ours()).collect();
            let place = first;
            first += able.len();
            for turn in 0..able.len() {
                let nth = (turn + round as usize) % able.len();
                let running = &mut engines[able[nth]];
                progress.message(&format!(
                    "round {round} of {repetitions}: {} {}",
                    running.name,
                    test.name()
                ));
                let measured = running.engine.bench(test.work())?;
                let generated = measured.generate_ns.len();
                if let Test::Generate { steps, .. } = *test
                    && generated != steps as usize
                {
                    anyhow::bail!("{} timed {generated} steps of {steps}", running.name);
                }
                if round > 0 {
                    let (times, kernels) = &mut samples[place + nth];
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
    /// Elements of keys and values of one position.
    kv_elements: u64,
}

impl Inspected {
    /// Of keys and values of one position.
    fn kv_bytes(self, ty: &str) -> u64 {
        match ty {
            "q8_0" => self.kv_elements / 32 * 34,
            _ => self.kv_elements * 2,
        }
    }
}

#[derive(Deserialize)]
struct InspectOutput {
    metadata: serde_json::Map<String, serde_json::Value>,
    tensors: Vec<Tensor>,
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    layers: u64,
    kv_heads: u64,
    head_dim: u64,
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
        kv_elements: output.config.map_or(0, |config| 2 * config.layers * config.kv_heads * config.head_dim),
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
    let page = args.html.then(|| html::render(&bench, &noise::warnings(&bench)));
    let parents = store::parents_of(ctx, &["crossval", "model"], &bench.binary, &bench.model)?;
    let receipt = store::write(ctx, Body::Bench(Box::new(bench)), &parents)?;
    let json = store::text(&receipt)?;
    let dir = args.out.clone().map_or_else(|| store::folder(ctx), Ok)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let files = [("bench.json", &json), ("bench.md", &text), ("bench.svg", &picture)];
    for (name, content) in files.into_iter().chain(page.iter().map(|page| ("bench.html", page))) {
        let path = dir.join(name);
        if path != receipt {
            std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    ctx.out.line(&text);
    ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), dir.join("bench.json").display()));
    if page.is_some() {
        ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), dir.join("bench.html").display()));
    }
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
