//! What each step of `up` does: it calls the module that serves the step's own command, and keeps a receipt.
//!
//! In: what the steps before left in the [`Pipeline`]. Out: a line of what was proven. Facts that change from run
//! to run (times, free memory) stay out of the receipts, so that an unchanged step has an unchanged receipt and
//! the steps that build on it hold. Deliberately absent: what a failure means for the run.

use super::model::{self, Chosen, How};
use super::{Done, Kind, Model, Pipeline, text};
use crate::bench;
use crate::binary;
use crate::cli::{self, Cpu, ReferenceBuild, ReferenceChoice, UpStep};
use crate::crossval::{self, CrossvalArgs};
use crate::ctx::Ctx;
use crate::eval::settings::perplexity;
use crate::eval::{self, EvalArgs};
use crate::exit::fail;
use crate::preflight::{self, Show};
use crate::proc::{self, Command};
use crate::receipts::gates::Judgement;
use crate::receipts::store::{self, file_facts};
use crate::receipts::verify::{self, VerifyArgs};
use crate::reference::{self, build::read_manifest};
use crate::symbols;
use anyhow::{Context, Result};
use bitforge_discovery::{Lane, discover};
use bitforge_receipt_schema::crossval::Verdict;
use bitforge_receipt_schema::step::Step;
use bitforge_receipt_schema::{Body, FileFacts, Receipt};
use bitforge_schema::exit::ExitCode;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub fn run(ctx: &Ctx, pipeline: &mut Pipeline<'_>, step: UpStep) -> Result<Done> {
    match step {
        UpStep::Preflight => preflight(ctx),
        UpStep::Build => build(ctx, pipeline),
        UpStep::Reference => references(ctx),
        UpStep::Symbols => symbols(ctx),
        UpStep::Kernels => kernels(ctx, pipeline),
        UpStep::Model => choose_model(ctx, pipeline),
        UpStep::Crossval => crossval(ctx, pipeline),
        UpStep::Eval => evaluate(ctx, pipeline),
        UpStep::Bench => bench(ctx, pipeline),
        UpStep::Text => generate(ctx, pipeline),
        UpStep::Receipts => verify(ctx),
    }
}

fn preflight(ctx: &Ctx) -> Result<Done> {
    let (checks, code) = preflight::report(ctx, &[]);
    if code != ExitCode::Ok {
        ctx.out.line(preflight::render(&ctx.out, &checks, Show::NotOk));
        return fail(code, "this machine cannot build and run bitforge yet; the checks above say what to do");
    }
    let facts = checks.checks.iter().map(|check| (check.id.to_string(), format!("{:?}", check.state)));
    record(ctx, UpStep::Preflight, facts.collect(), Vec::new(), &[])?;
    let rest = checks.checks.len() - checks.ok;
    Ok(Done::Did(format!("{} checks ok, {rest} to look at later (`cargo xtask preflight`)", checks.ok)))
}

fn build(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let binary = binary::release(ctx)?;
    let facts = file_facts(&binary)?;
    let detail = format!("{} ({})", binary.display(), short(&facts.sha256));
    record(ctx, UpStep::Build, BTreeMap::new(), vec![facts], &[])?;
    pipeline.binary = Some(binary);
    Ok(Done::Did(detail))
}

fn references(ctx: &Ctx) -> Result<Done> {
    // For this CPU to be measured against, for any with AVX2 to be compared with.
    let mut built = reference::build_all(ctx, &ReferenceBuild::plain(ReferenceChoice::All))?;
    let portable = ReferenceBuild { cpu: Cpu::Portable, ..ReferenceBuild::plain(ReferenceChoice::All) };
    built.extend(reference::build_all(ctx, &portable)?);
    let mut facts = BTreeMap::new();
    let mut files = Vec::new();
    for built in &built {
        let manifest = read_manifest(&built.dir).with_context(|| {
            format!("{} has no manifest; run `cargo xtask reference build all`", built.dir.display())
        })?;
        let cpu = if manifest.variant.cpu == Cpu::Portable { "portable" } else { "native" };
        let mut fact = |name: &str, value| facts.insert(format!("{}.{cpu}.{name}", built.name), value);
        fact("key", manifest.key);
        fact("source", manifest.source);
        fact("source_sha256", manifest.source_sha256);
        fact("compiler", manifest.compiler);
        files.extend(manifest.libraries.into_iter().map(|library| FileFacts {
            name: library.path.rsplit('/').next().unwrap_or_default().to_string(),
            bytes: library.bytes,
            sha256: library.sha256,
        }));
    }
    record(ctx, UpStep::Reference, facts, files, &[])?;
    let text = "llama.cpp and bitnet.cpp from pinned sources, for this CPU and for any with AVX2".to_string();
    Ok(if built.iter().all(|built| built.cached) { Done::Reused(text) } else { Done::Did(text) })
}

fn symbols(ctx: &Ctx) -> Result<Done> {
    let mut facts = BTreeMap::new();
    let mut found = Vec::new();
    for lane in Lane::ALL {
        let Some(reference) = discover(&ctx.env, lane).reference else { continue };
        let paths: Vec<PathBuf> = reference.libraries.iter().map(|library| library.path.clone()).collect();
        let capabilities = symbols::capabilities_of(&paths)?.join(",");
        found.push(format!("{}: {capabilities}", lane.name()));
        facts.insert(lane.name().to_string(), capabilities);
    }
    if found.is_empty() {
        return Ok(Done::CouldNot("no reference is built; run `cargo xtask reference build all`".into()));
    }
    record(ctx, UpStep::Symbols, facts, Vec::new(), &["reference"])?;
    Ok(Done::Did(found.join("; ")))
}

fn kernels(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let binary = binary(ctx, pipeline)?;
    let text = proc::read(ctx, &Command::new(&binary).args(["kernels", "--json"]))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("the JSON of {} kernels", binary.display()))?;
    let selection = &value["selection"];
    let field = |name: &str| selection[name].as_str().unwrap_or_default().to_string();
    let facts = ["selected", "reason"].map(|name| (name.to_string(), field(name)));
    record(ctx, UpStep::Kernels, facts.into(), Vec::new(), &["build"])?;
    Ok(Done::Did(format!("{}: {}", field("selected"), field("reason"))))
}

fn choose_model(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let Chosen { model, how } = model::choose(ctx, pipeline.args.model.as_deref())?;
    let facts = BTreeMap::from([("name".to_string(), model.name.clone())]);
    record(ctx, UpStep::Model, facts, vec![file_facts(&model.path)?], &[])?;
    let name = model.name.clone();
    pipeline.model = Some(model);
    Ok(match how {
        How::Given => Done::Did(name),
        How::Fetched => Done::Did(format!("{name}, fetched and verified")),
        How::Cached => Done::Reused(format!("{name}, from the cache")),
        How::Instead(why) => Done::CouldNot(why),
    })
}

/// The binary of this run, or what cargo has.
fn binary(ctx: &Ctx, pipeline: &Pipeline<'_>) -> Result<PathBuf> {
    pipeline.binary.clone().map_or_else(|| binary::release(ctx), Ok)
}

/// The model of this run; where the step model was left out, what it would take without a download.
fn model_of(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Model> {
    if pipeline.model.is_none() {
        pipeline.model = Some(model::choose(ctx, pipeline.args.model.as_deref())?.model);
    }
    pipeline.model.clone().context("a model was chosen")
}

fn crossval(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let binary = file_facts(&binary(ctx, pipeline)?)?;
    let reusable = |receipt: &Receipt| match &receipt.body {
        Body::Crossval(body) => {
            let undecided = body.lanes.iter().any(|lane| lane.verdict != Verdict::Agrees);
            body.binary == binary && !undecided
        }
        _ => false,
    };
    let (before, how): (bool, fn(String) -> Done) =
        match !pipeline.args.fresh && unchanged(ctx, "crossval", &["reference", "model"], reusable)? {
            true => (true, Done::Reused),
            false => (false, Done::Did),
        };
    if !before {
        let args = CrossvalArgs { model: pipeline.args.model.clone(), tokens: 256, ..Default::default() };
        let code = crossval::run(&ctx.for_people(), &args)?;
        if code != ExitCode::Ok {
            return fail(code, "not every comparison agrees; the lines above say which and why");
        }
    }
    let Body::Crossval(body) = store::read(&store::path(ctx, "crossval")?)?.body else {
        return fail(ExitCode::Internal, "the crossval receipt is of another kind");
    };
    let count = |verdict| body.lanes.iter().filter(|lane| lane.verdict == verdict).count();
    let equal = body.lanes.iter().filter_map(|lane| lane.metrics.as_ref());
    let equal = equal.filter(|metrics| metrics.bit_equal_positions == metrics.positions).count();
    let mut text = format!(
        "{} comparisons agree, {equal} of them to the last bit of every logit",
        count(Verdict::Agrees)
    );
    match count(Verdict::CouldNotCheck) {
        0 => {}
        missing => text.push_str(&format!("; {missing} could not be made")),
    }
    Ok(how(text))
}

fn evaluate(ctx: &Ctx, pipeline: &Pipeline<'_>) -> Result<Done> {
    let binary = file_facts(&binary(ctx, pipeline)?)?;
    let reusable = |receipt: &Receipt| matches!(&receipt.body, Body::Eval(eval) if eval.binary == binary);
    let done: fn(String) -> Done = match !pipeline.args.fresh && unchanged(ctx, "eval", &["build"], reusable)?
    {
        true => Done::Reused,
        false => {
            let args = EvalArgs { chunks: Some(SCORED), ctx_size: 512, ..Default::default() };
            let code = eval::run(&ctx.for_people(), &args)?;
            if code != ExitCode::Ok {
                return fail(code, "a perplexity is not what it must be; the lines above say which");
            }
            Done::Did
        }
    };
    let Body::Eval(receipt) = store::read(&store::path(ctx, "eval")?)?.body else {
        return fail(ExitCode::Internal, "the eval receipt is of another kind");
    };
    let parts = receipt.measured.iter().map(|measured| {
        let perplexity = perplexity(&measured.nll, measured.scored);
        format!("{} {perplexity:.3} in {} chunks", measured.model.name, measured.nll.len())
    });
    Ok(done(format!("perplexity as committed and as PyTorch's: {}", parts.collect::<Vec<_>>().join(", "))))
}

/// Chunks of the held-out text that `up` scores; `cargo xtask eval` scores all.
const SCORED: u32 = 16;

fn bench(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let binary = file_facts(&binary(ctx, pipeline)?)?;
    let model = model_of(ctx, pipeline)?;
    if model.kind == Kind::TrainedFixture {
        return Ok(Done::CouldNot("a model this small measures nothing but calls".into()));
    }
    let reusable = |receipt: &Receipt| match &receipt.body {
        Body::Bench(bench) => bench.binary == binary,
        _ => false,
    };
    let done: fn(String) -> Done = if !pipeline.args.fresh
        && unchanged(ctx, "bench", &["crossval", "model"], reusable)?
    {
        Done::Reused
    } else {
        let path = model.path.display().to_string();
        let words = ["xtask", "bench", "--model", &path, "--pp", "128", "--tg", "64", "--repetitions", "5"];
        let cli = <cli::Cli as clap::Parser>::try_parse_from(words).context("the bench command line")?;
        let cli::Command::Bench(args) = &cli.command else { return fail(ExitCode::Internal, "not bench") };
        let code = bench::run(&ctx.for_people(), args)?;
        if code != ExitCode::Ok {
            return fail(code, "the benchmark failed; the lines above say why");
        }
        Done::Did
    };
    let Body::Bench(receipt) = store::read(&store::path(ctx, "bench")?)?.body else {
        return fail(ExitCode::Internal, "the bench receipt is of another kind");
    };
    let summary = bench::summary::summarize(&receipt);
    let ours = summary.rows.iter().filter(|row| row.engine == bench::summary::OURS);
    let mut parts: Vec<String> = ours.map(|row| format!("{} {:.0} tokens/s", row.test, row.median)).collect();
    parts.extend(summary.comparisons.iter().map(|comparison| {
        format!("{:.2} of {} at {}", comparison.ratio.median, comparison.engine, comparison.test)
    }));
    Ok(done(parts.join(", ")))
}

/// Whether the receipt of `kind` was made from the receipts that are there now, and `holds` of it.
fn unchanged(ctx: &Ctx, kind: &str, parents: &[&str], holds: impl Fn(&Receipt) -> bool) -> Result<bool> {
    let Ok(receipt) = store::read(&store::path(ctx, kind)?) else { return Ok(false) };
    for parent in parents {
        let path = store::path(ctx, parent)?;
        let now = if path.is_file() { Some(store::sha256(&path)?) } else { None };
        if receipt.parents.get(*parent) != now.as_ref() {
            return Ok(false);
        }
    }
    Ok(holds(&receipt))
}

fn generate(ctx: &Ctx, pipeline: &mut Pipeline<'_>) -> Result<Done> {
    let (binary, model) = (binary(ctx, pipeline)?, model_of(ctx, pipeline)?);
    let folder = tempfile::tempdir().context("creating a folder for the receipt")?;
    let written = folder.path().join("run.json");
    let generated = text::generate(ctx, &binary, &model, &written, pipeline.args)?;
    let body = store::read(&written)?.body;
    let parents = match &body {
        Body::Run(run) => store::parents_of(ctx, &["crossval", "model"], &run.binary, &run.model.file)?,
        _ => Vec::new(),
    };
    store::write(ctx, body, &parents)?;
    let rendered = text::render(&generated);
    pipeline.text = Some(generated);
    ctx.out.line(&rendered);
    let line = rendered.lines().find_map(|line| line.strip_prefix("generated: ")).unwrap_or_default();
    Ok(Done::Did(line.to_string()))
}

/// Judges the receipts that say something about compute; the text is generated once more.
fn verify(ctx: &Ctx) -> Result<Done> {
    let mut parts = Vec::new();
    for kind in ["crossval", "eval", "bench", "run"] {
        let file = store::path(ctx, kind)?;
        if !file.is_file() {
            continue;
        }
        let args = VerifyArgs { file, replay: Some(REPLAYED), model: None, binary: None, receipts: None };
        let verdict = verify::verify(ctx, &args)?;
        let count = |wanted| verdict.gates.iter().filter(|gate| gate.judgement == wanted).count();
        if let Some(gate) = verdict.gates.iter().find(|gate| gate.judgement == Judgement::Fail) {
            return fail(
                ExitCode::CheckFailed,
                format!("the receipt of {kind} fails gate {} ({}): {}", gate.gate, gate.name, gate.detail),
            );
        }
        let replayed = if verdict.compute == "replayed" { ", replayed" } else { "" };
        let missing = match count(Judgement::CouldNotCheck) {
            0 => String::new(),
            n => format!(", {n} could not be checked"),
        };
        parts.push(format!("{kind}: {} gates pass{missing}{replayed}", count(Judgement::Pass)));
    }
    match parts.is_empty() {
        true => Ok(Done::CouldNot("there is no receipt of compute; run the steps before".into())),
        false => Ok(Done::Did(parts.join("; "))),
    }
}

/// Tokens that are generated again to verify a run.
const REPLAYED: usize = 16;

/// The receipts of these kinds that are there.
fn there(ctx: &Ctx, kinds: &[&str]) -> Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = kinds.iter().map(|kind| store::path(ctx, kind)).collect::<Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}

/// Keeps the receipt of a step. One that says the same as before stays as it is, so that what builds on it holds.
fn record(
    ctx: &Ctx,
    step: UpStep,
    facts: BTreeMap<String, String>,
    files: Vec<FileFacts>,
    parents: &[&str],
) -> Result<()> {
    let body = Body::Step(Box::new(Step { step: step.name().into(), facts, files }));
    store::write(ctx, body, &there(ctx, parents)?).map(drop)
}

fn short(sha256: &str) -> String {
    format!("sha256 {}", &sha256[..sha256.len().min(12)])
}
