//! `cluster run crossval|bench|fuzz`: the commands of these names in shards, and what they found in one receipt.
//!
//! In: what to compare, measure or damage. Out: a receipt of the same kind that one machine writes, with every comparison or series once
//! (of `fuzz`, a line for every shard). Shards of `crossval` and `bench` run xtask in the checkout, which each node has at the same
//! place. Deliberately absent: libFuzzer, whose inputs found on one node would be for all (`cargo xtask fuzz run`).

use super::Cluster;
use super::plan::{Answer, Bounds, Plan};
use crate::binary;
use crate::crossval::{Against, settings::Settings};
use crate::ctx::Ctx;
use crate::fuzz;
use crate::receipts::store;
use anyhow::{Context, Result, bail, ensure};
use bitforge_receipt_schema::bench::Bench;
use bitforge_receipt_schema::crossval::{Crossval, Verdict};
use bitforge_receipt_schema::step::Step;
use bitforge_receipt_schema::{Body, Receipt};
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(clap::Subcommand, Clone, Debug)]
pub enum RunCommand {
    /// A model against an engine in each shard.
    Crossval(CrossvalArgs),
    /// A length of prompt or generation in each shard, on nodes whose machines are alike.
    Bench(BenchArgs),
    /// A kind of damage with a seed in each shard (`fuzz mutate`).
    Fuzz(FuzzArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct CrossvalArgs {
    /// Names of the catalog or GGUF files (default: the fixtures of the standard set)
    #[arg(long)]
    pub model: Vec<String>,
    /// The engines that judge each model
    #[arg(long, value_delimiter = ',', default_value = "oracle")]
    pub against: Vec<Against>,
    /// Positions to compare
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    #[command(flatten)]
    pub bounds: Bounds,
}

#[derive(clap::Args, Clone, Debug)]
pub struct BenchArgs {
    /// A name of the catalog, or a path to a GGUF file
    #[arg(long)]
    pub model: String,
    /// Lengths of prompts
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512], value_parser = clap::value_parser!(u32).range(1..))]
    pub pp: Vec<u32>,
    /// Numbers of generated tokens
    #[arg(long, value_delimiter = ',', default_values_t = [128], value_parser = clap::value_parser!(u32).range(1..))]
    pub tg: Vec<u32>,
    /// Threads, and CPUs of a node, of each shard
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Rounds that count, after one that does not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    #[command(flatten)]
    pub bounds: Bounds,
}

#[derive(clap::Args, Clone, Debug)]
pub struct FuzzArgs {
    /// Of each kind with each seed
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Seeds, from 1
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub seeds: u64,
    #[command(flatten)]
    pub bounds: Bounds,
}

pub fn run(ctx: &Ctx, command: &RunCommand) -> Result<ExitCode> {
    let cluster = Cluster::of(ctx)?;
    let body = match command {
        RunCommand::Crossval(args) => {
            let answers = crossval_plan(ctx, args)?.run(ctx, &cluster)?;
            Body::Crossval(Box::new(crossval(&answers)?))
        }
        RunCommand::Bench(args) => Body::Bench(Box::new(bench(&bench_plan(ctx, args)?.run(ctx, &cluster)?)?)),
        RunCommand::Fuzz(args) => {
            let plan = fuzz_plan(ctx, args)?;
            let facts = fuzzed(&plan.run(ctx, &cluster)?, args.count)?;
            let files = vec![store::file_facts(&plan.files["fuzz-targets"].path)?];
            Body::Step(Box::new(Step { step: "fuzz".into(), facts, files }))
        }
    };
    let (lines, code) = told(&body);
    lines.iter().for_each(|line| ctx.out.line(line));
    let receipt = store::write(ctx, body, &[])?;
    if ctx.out.is_json() {
        ctx.out.json(&store::read(&receipt)?)?;
    }
    ctx.out.line(format!("receipt: {}", receipt.display()));
    Ok(code)
}

fn told(body: &Body) -> (Vec<String>, ExitCode) {
    match body {
        Body::Crossval(crossval) => {
            let agreeing = crossval.lanes.iter().filter(|lane| lane.verdict == Verdict::Agrees).count();
            let parted = crossval.lanes.iter().filter(|lane| lane.verdict == Verdict::Diverges);
            let mut lines = vec![format!("{agreeing} of {} comparisons agree", crossval.lanes.len())];
            lines
                .extend(parted.map(|l| format!("{} diverges from {}: {}", l.model.name, l.engine, l.detail)));
            let code = if lines.len() == 1 { ExitCode::Ok } else { ExitCode::Diverged };
            (lines, code)
        }
        Body::Bench(bench) => {
            let median = |ns: &[u64]| {
                let mut ns = ns.to_vec();
                ns.sort_unstable();
                ns.get(ns.len() / 2).map_or(f64::NAN, |ns| *ns as f64 * 1e-9)
            };
            let speed = |s: &bitforge_receipt_schema::bench::Series| {
                format!(
                    "{} {}: {:.1} tokens/s",
                    s.engine,
                    s.test,
                    f64::from(s.tokens) / median(&s.samples_ns)
                )
            };
            (bench.series.iter().map(speed).collect(), ExitCode::Ok)
        }
        Body::Step(step) => {
            let lines = step.facts.iter().map(|(shard, outcome)| format!("{shard}: {outcome}")).collect();
            (lines, ExitCode::Ok)
        }
        _ => (Vec::new(), ExitCode::Ok),
    }
}

/// A plan of xtask and the binary in this checkout; its shards write receipts of their own.
fn checkout(ctx: &Ctx, bounds: &Bounds) -> Result<Plan> {
    let xtask = std::env::current_exe().context("finding this program")?;
    let mut plan = Plan::new(&[("xtask", &xtask), ("bitnet", &binary::release(ctx)?)], bounds)?;
    plan.root = Some(ctx.root()?.to_path_buf());
    Ok(plan)
}

fn add_xtask<'a>(plan: &mut Plan, id: String, cpus: u32, words: impl IntoIterator<Item = &'a str>) {
    let shard = plan.add(id, cpus, std::iter::once("{file:xtask}").chain(words));
    // That two engines part is an answer.
    shard.accept.push(ExitCode::Diverged as i32);
    for (name, value) in [("BITNET_BINARY", "{file:bitnet}"), ("CARGO_TARGET_DIR", "{out}")] {
        shard.env.insert(name.into(), value.into());
    }
}

fn crossval_plan(ctx: &Ctx, args: &CrossvalArgs) -> Result<Plan> {
    let mut plan = checkout(ctx, &args.bounds)?;
    let pairs: Vec<(String, Against)> = if args.model.is_empty() {
        let standard = Settings::load(ctx)?.standard;
        let judged = standard
            .into_iter()
            .filter(|one| one.model.starts_with("fixtures/") && args.against.contains(&one.against));
        judged.map(|one| (one.model, one.against)).collect()
    } else {
        let of = |model: &String| {
            args.against.iter().map(|engine| (model.clone(), engine.clone())).collect::<Vec<_>>()
        };
        args.model.iter().flat_map(of).collect()
    };
    let tokens = args.tokens.to_string();
    for (model, engine) in pairs {
        let words =
            ["crossval", "--model", &model, "--against", &String::from(engine.clone()), "--tokens", &tokens];
        add_xtask(&mut plan, format!("{model} {}", engine.name()), 1, words);
    }
    ensure!(!plan.shards.is_empty(), "no model of the standard set is judged by these engines; give --model");
    Ok(plan)
}

fn bench_plan(ctx: &Ctx, args: &BenchArgs) -> Result<Plan> {
    let mut plan = checkout(ctx, &args.bounds)?;
    let tests = args
        .pp
        .iter()
        .map(|n| (format!("pp{n}"), *n, 0))
        .chain(args.tg.iter().map(|n| (format!("tg{n}"), 0, *n)));
    for (id, pp, tg) in tests {
        let [pp, tg, threads, repetitions] =
            [pp, tg, args.threads, args.repetitions].map(|number| number.to_string());
        // A reference that is not built on a node would be, each time.
        let words = ["bench", "--model", &args.model, "--alone", "--pp", &pp, "--tg", &tg];
        let more = ["--threads", &threads, "--repetitions", &repetitions];
        add_xtask(&mut plan, id, args.threads, words.into_iter().chain(more));
    }
    Ok(plan)
}

fn fuzz_plan(ctx: &Ctx, args: &FuzzArgs) -> Result<Plan> {
    let mut plan = Plan::new(&[("fuzz-targets", &fuzz::tool(ctx, false)?)], &args.bounds)?;
    plan.root = Some(ctx.root()?.to_path_buf());
    for kind in fuzz::KINDS {
        for seed in 1..=args.seeds {
            let (count, seed) = (args.count.to_string(), seed.to_string());
            plan.add(format!("{kind} {seed}"), 1, ["{file:fuzz-targets}", "mutate", kind, &count, &seed]);
        }
    }
    Ok(plan)
}

/// The receipt that a shard wrote.
fn receipt(answer: &Answer, kind: &str) -> Result<Receipt> {
    let text = answer.written.get(&format!("{kind}.json"));
    let text = text.with_context(|| format!("shard {} wrote no receipt of {kind}", answer.id))?;
    store::parse(text).map_err(|problem| anyhow::anyhow!("the receipt of shard {}: {problem}", answer.id))
}

fn crossval(answers: &[Answer]) -> Result<Crossval> {
    let mut all: Option<Crossval> = None;
    for answer in answers {
        let Body::Crossval(one) = receipt(answer, "crossval")?.body else {
            bail!("shard {} wrote another receipt", answer.id)
        };
        let Some(all) = &mut all else {
            all = Some(*one);
            continue;
        };
        ensure!(
            (&one.binary, &one.thresholds, one.positions) == (&all.binary, &all.thresholds, all.positions),
            "shard {} compared with another binary or other thresholds",
            answer.id
        );
        for lane in one.lanes {
            let same = all.lanes.iter().any(|l| (&l.model, &l.engine) == (&lane.model, &lane.engine));
            ensure!(!same, "{} against {} was compared twice", lane.model.name, lane.engine);
            all.lanes.push(lane);
        }
    }
    all.context("there are no shards")
}

fn bench(answers: &[Answer]) -> Result<Bench> {
    let mut all: Option<Bench> = None;
    for answer in answers {
        let Body::Bench(one) = receipt(answer, "bench")?.body else {
            bail!("shard {} wrote another receipt", answer.id)
        };
        let Some(all) = &mut all else {
            all = Some(*one);
            continue;
        };
        ensure!(
            (&one.binary, &one.model, one.threads) == (&all.binary, &all.model, all.threads),
            "shard {} measured another binary or model",
            answer.id
        );
        ensure!(one.machine == all.machine, "shard {} ran on a machine of another kind", answer.id);
        for series in one.series {
            let same = all.series.iter().any(|s| (&s.engine, &s.test) == (&series.engine, &series.test));
            ensure!(!same, "{} of {} was measured twice", series.test, series.engine);
            all.series.push(series);
        }
        let limits = [
            (&mut all.limits.read_bandwidth, one.limits.read_bandwidth),
            (&mut all.limits.int8_operations, one.limits.int8_operations),
        ];
        for (samples, more) in limits {
            samples.iter_mut().zip(more).for_each(|(samples, more)| samples.extend(more));
        }
        all.noise.extend(one.noise);
    }
    all.context("there are no shards")
}

/// A line for every shard, if each did what it is called after and all of it.
fn fuzzed(answers: &[Answer], wanted: u64) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Output {
        kind: String,
        seed: u64,
        outcome: Outcome,
    }
    #[derive(Deserialize)]
    struct Outcome {
        refused: u64,
        accepted: u64,
    }
    let line = |answer: &Answer| {
        let output: Output = serde_json::from_str(&answer.stdout)
            .with_context(|| format!("what shard {} printed is not known to xtask", answer.id))?;
        let Outcome { refused, accepted } = output.outcome;
        ensure!(
            answer.id == format!("{} {}", output.kind, output.seed) && refused + accepted == wanted,
            "shard {} did {} of {wanted}, of {} with seed {}",
            answer.id,
            refused + accepted,
            output.kind,
            output.seed
        );
        let lost = answer.lost.len();
        let text = format!(
            "{refused} refused, {accepted} accepted and right; node {}, lost {lost} times",
            answer.node
        );
        Ok((answer.id.clone(), text))
    };
    answers.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
