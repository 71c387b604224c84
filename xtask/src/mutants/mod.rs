//! `mutants`: does a test notice when a line of the code that judges others is changed?
//!
//! In: `ci/mutants.toml`, which names modules, the tests that cover each, the floor, and the survivors that are accepted,
//! each with a reason; a pinned cargo-mutants, installed into the cache. Out: a table and JSON with every survivor that is
//! not accepted. Deliberately absent: the whole workspace, which would take days.

mod judge;

use crate::cargo_tool;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use judge::{Outcome, Report, Whole};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = "ci/mutants.toml";
/// Random cases of a property: thousands of mutants are worth more than as many cases of each.
const CASES: &str = "64";

#[derive(clap::Args, Clone, Debug)]
pub struct MutantsArgs {
    /// Modules of ci/mutants.toml (default: all)
    pub modules: Vec<String>,
    /// Build and test so many mutants at once
    #[arg(long, default_value_t = 1)]
    pub jobs: u32,
    /// Only this part of each module's mutants, as 0/8
    #[arg(long)]
    pub shard: Option<String>,
    /// Only mutants whose name, as cargo-mutants prints it, matches this regular expression
    #[arg(long)]
    pub only: Option<String>,
    /// Judge what an earlier run left: outcomes.json files, or folders with some
    #[arg(long, value_name = "PATH", conflicts_with_all = ["jobs", "shard", "only"])]
    pub from: Vec<PathBuf>,
}

/// `ci/mutants.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Percent of the mutants that must be noticed, in each module.
    floor: f64,
    modules: BTreeMap<String, Module>,
    #[serde(default)]
    accepted: Vec<Accepted>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Module {
    package: String,
    /// Globs of the files that are mutated.
    files: Vec<String>,
    /// Which of the package's test targets are built.
    targets: Vec<String>,
    /// Names of tests that are run; all of the targets where there is none.
    #[serde(default)]
    tests: Vec<String>,
}

/// Survivors that no test notices, and why none has to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// The path, a colon and a space, and what is changed: the name without line and column, so that an edit above does not
    /// make it another.
    mutant: String,
    /// How many mutants of that name survive.
    #[serde(default = "one")]
    count: usize,
    reason: String,
}

const fn one() -> usize {
    1
}

pub fn run(ctx: &Ctx, args: &MutantsArgs) -> Result<ExitCode> {
    let config = Config::read(&ctx.root()?.join(CONFIG))?;
    for name in &args.modules {
        if !config.modules.contains_key(name) {
            let known = config.modules.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return fail(ExitCode::Usage, format!("{CONFIG} has no module '{name}'; it has {known}"));
        }
    }
    let chosen =
        config.modules.iter().filter(|(name, _)| args.modules.is_empty() || args.modules.contains(name));
    let chosen: Vec<(&String, &Module)> = chosen.collect();
    let mut outcomes = Vec::new();
    for path in &args.from {
        outcomes.extend(judge::read_below(path)?);
    }
    if args.from.is_empty() {
        fetch(ctx)?;
        for (name, module) in &chosen {
            outcomes.extend(mutate(ctx, args, name, module)?);
        }
    }
    let whole = if args.shard.is_none() && args.only.is_none() { Whole::Yes } else { Whole::No };
    let reports: Vec<Report> =
        chosen.iter().map(|(name, module)| judge::judge(name, module, &config, &outcomes, whole)).collect();
    show(ctx, &config, &reports)?;
    let holds = reports.iter().all(|report| report.state == State::Ok);
    Ok(if holds { ExitCode::Ok } else { ExitCode::CheckFailed })
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let config: Config = toml::from_str(&text)
            .with_context(|| format!("{} does not say what to mutate", path.display()))?;
        match config.accepted.iter().find(|accepted| accepted.reason.trim().is_empty()) {
            Some(Accepted { mutant, .. }) => fail(
                ExitCode::BadInput,
                format!("{}: '{mutant}' is accepted without a reason", path.display()),
            ),
            None => Ok(config),
        }
    }
}

/// The crates of Cargo.lock: the builds of the mutants have no network.
fn fetch(ctx: &Ctx) -> Result<()> {
    let command = ctx.cargo(["fetch", "--locked"])?;
    let finished = proc::run(ctx, &command, Stdout::Log, &ctx.log_file("mutants-fetch")?, |_| {})?;
    if finished.success() { Ok(()) } else { fail(ExitCode::Network, finished.explain()) }
}

/// Every mutant of a module, in a copy of the tree.
fn mutate(ctx: &Ctx, args: &MutantsArgs, name: &str, module: &Module) -> Result<Vec<Outcome>> {
    let binary = cargo_tool::installed(ctx, cargo_tool::MUTANTS)?;
    let out = ctx.target_dir()?.join("mutants").join(name);
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let log = ctx.log_file(&format!("mutants-{name}"))?;
    let mut progress = ctx.out.progress(format!("mutants: {name}"));
    let command = command(ctx, args, &binary, module, &out)?;
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?;
    drop(progress);
    // 2: some survived; 3: some ran into the time limit.
    if !matches!(finished.code, Some(0 | 2 | 3)) {
        return fail(ExitCode::CheckFailed, finished.explain());
    }
    judge::read(&out.join("mutants.out/outcomes.json"))
}

fn command(ctx: &Ctx, args: &MutantsArgs, binary: &Path, module: &Module, out: &Path) -> Result<Command> {
    let mut words = vec!["mutants".to_string(), "--package".into(), module.package.clone()];
    // What a `#[path]` attribute brings in has the attribute's folders before it.
    words.extend(module.files.iter().flat_map(|file| ["--file".to_string(), format!("**/{file}")]));
    words.extend(module.targets.iter().flat_map(|target| ["--cargo-arg".to_string(), target.clone()]));
    words.extend(["--profile", "mutants", "--no-shuffle", "--colors", "never"].map(String::from));
    words.extend(["--jobs".to_string(), args.jobs.to_string()]);
    words.extend(args.shard.iter().flat_map(|shard| ["--shard".to_string(), shard.clone()]));
    words.extend(args.only.iter().flat_map(|only| ["--re".to_string(), only.clone()]));
    let command = Command::new(binary).args(words).args(["--output"]).args([out]);
    let tests = module.tests.iter().map(String::as_str);
    let tests: Vec<&str> =
        if module.tests.is_empty() { vec![] } else { ["--", "--"].into_iter().chain(tests).collect() };
    let command = command.env("INSTA_UPDATE", "no").env("CARGO_NET_OFFLINE", "true");
    // That a property fails is enough: nobody reads for which smallest input.
    let command = command.env("PROPTEST_CASES", CASES).env("PROPTEST_MAX_SHRINK_ITERS", "0");
    Ok(command.args(tests).dir(ctx.root()?))
}

fn show(ctx: &Ctx, config: &Config, reports: &[Report]) -> Result<()> {
    let rows = reports.iter().map(|report| {
        let percent = report.percent.map_or("-".into(), |percent| format!("{percent:.1}%"));
        [
            ctx.out.mark(report.state),
            report.module.clone(),
            report.mutants.to_string(),
            report.noticed.to_string(),
            report.accepted.to_string(),
            report.survivors.len().to_string(),
            report.unviable.to_string(),
            percent,
        ]
    });
    ctx.out.line(table(
        ["", "module", "mutants", "noticed", "accepted", "survived", "do not compile", "share"],
        rows,
    ));
    for report in reports {
        for survivor in &report.survivors {
            ctx.out.line(format!("{} no test notices {survivor}", ctx.out.mark(State::Fail)));
        }
        for name in &report.stale {
            ctx.out
                .line(format!("{} {CONFIG} accepts what a test notices: {name}", ctx.out.mark(State::Fail)));
        }
        if report.mutants == 0 {
            ctx.out.line(format!("{} {}: no outcome", ctx.out.mark(State::CouldNotCheck), report.module));
        }
    }
    ctx.out.line(format!("the floor is {}% in each module", config.floor));
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "floor": config.floor, "modules": reports }))?;
    }
    Ok(())
}
