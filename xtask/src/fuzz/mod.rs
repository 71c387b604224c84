//! `fuzz list|run|cmin|repro|mutate|generate`: libFuzzer with an address sanitizer over the targets of
//! `tools/fuzz/targets`, and good files damaged at random.
//!
//! In: names of targets, committed inputs under `fixtures/fuzz`. Out: what each target went through, as a table and as JSON;
//! crashes under `tools/fuzz/artifacts`. Works with the stable toolchain. Deliberately absent: what a target does; the
//! targets link the runtime, xtask does not.

mod build;
mod libfuzzer;
mod run;

pub use build::tool;

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use crate::report::{State, bytes, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// What is damaged.
pub const KINDS: [&str; 3] = ["gguf", "object", "request"];

/// Committed inputs, one folder per target, below the root.
const CORPORA: &str = "fixtures/fuzz";
/// Bytes of committed inputs of one target at most.
const CORPUS_BYTES: u64 = 100_000;
/// And of them so many at most.
const CORPUS_FILES: usize = 35;

#[derive(clap::Subcommand, Debug)]
pub enum FuzzCommand {
    /// Every target, what its bytes are and what must hold.
    List,
    /// Fuzz targets for some time, from the committed inputs and what earlier runs found.
    Run(RunArgs),
    /// Reduce what was found to the inputs that matter, and make them the committed ones.
    Cmin(Targets),
    /// Run a target on files, such as a crash.
    Repro {
        target: String,
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Damage good models, libraries and requests: each must be refused with an error, or be right.
    Mutate {
        /// Of each kind.
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        /// The same seed gives the same damage.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Without the checks of a debug build, several times as fast
        #[arg(long)]
        release: bool,
    },
    /// Write the list of targets to where it is kept, or check that it is fresh.
    Generate(crate::cli::Check),
}

#[derive(clap::Args, Clone, Debug)]
pub struct Targets {
    /// Names as `fuzz list` has them
    #[arg(required_unless_present = "all")]
    pub targets: Vec<String>,
    /// Every target
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
}

#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub targets: Targets,
    /// Minutes of each target
    #[arg(long, default_value_t = 1.0, value_parser = minutes)]
    pub minutes: f64,
    /// Minutes of all targets together, in equal parts, in place of --minutes
    #[arg(long, value_parser = minutes, conflicts_with = "minutes")]
    pub cpu_minutes: Option<f64>,
    /// Targets at once, each in a process of one thread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Where report.json goes (default: fuzz in the target folder)
    #[arg(long)]
    pub out: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of minutes"))?;
    if value > 0.0 && value <= 10_000.0 { Ok(value) } else { Err("give more than 0 minutes".into()) }
}

/// What `tools/fuzz/targets.json` says of a target.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Target {
    pub name: String,
    /// `parser` or `operation`.
    pub kind: String,
    pub about: String,
    pub oracle: String,
    /// Longest input that is tried.
    pub max_len: u64,
}

pub fn run(ctx: &Ctx, command: &FuzzCommand) -> Result<ExitCode> {
    match command {
        FuzzCommand::List => list(ctx),
        FuzzCommand::Run(args) => run::run(ctx, args),
        FuzzCommand::Cmin(args) => cmin(ctx, args),
        FuzzCommand::Repro { target, files } => repro(ctx, target, files),
        FuzzCommand::Mutate { count, seed, release } => mutate(ctx, *count, *seed, *release),
        FuzzCommand::Generate(args) => generate(ctx, args),
    }
}

/// Every target, from the committed list.
pub fn targets(ctx: &Ctx) -> Result<Vec<Target>> {
    let path = ctx.root()?.join("tools/fuzz/targets.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

impl Targets {
    fn chosen(&self, ctx: &Ctx) -> Result<Vec<Target>> {
        let all = targets(ctx)?;
        if self.all {
            return Ok(all);
        }
        let find = |name: &String| match all.iter().find(|target| target.name == *name) {
            Some(target) => Ok(target.clone()),
            None => {
                fail(ExitCode::Usage, format!("{name:?} is no target; `cargo xtask fuzz list` prints them"))
            }
        };
        self.targets.iter().map(find).collect()
    }
}

fn list(ctx: &Ctx) -> Result<ExitCode> {
    let all = targets(ctx)?;
    if ctx.out.is_json() {
        ctx.out.json(&all)?;
        return Ok(ExitCode::Ok);
    }
    let rows = all.into_iter().map(|target| [target.name, target.kind, target.about, target.oracle]);
    ctx.out.line(table(["target", "", "what the bytes are", "what must hold"], rows));
    Ok(ExitCode::Ok)
}

/// Inputs that runs on this machine found.
fn found(ctx: &Ctx, target: &Target) -> Result<PathBuf> {
    folder(ctx.target_dir()?.join("fuzz/corpus").join(&target.name))
}

fn committed(ctx: &Ctx, target: &Target) -> Result<PathBuf> {
    folder(ctx.root()?.join(CORPORA).join(&target.name))
}

/// Where inputs that break a law go.
fn artifacts(ctx: &Ctx, target: &Target) -> Result<PathBuf> {
    folder(ctx.root()?.join("tools/fuzz/artifacts").join(&target.name))
}

fn folder(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    Ok(path)
}

fn cmin(ctx: &Ctx, args: &Targets) -> Result<ExitCode> {
    let binary = build::fuzz_binary(ctx)?;
    build::seeds(ctx)?;
    for target in args.chosen(ctx)? {
        let kept = tempfile::tempdir().context("creating a temporary folder")?;
        let (found, committed) = (found(ctx, &target)?, committed(ctx, &target)?);
        let seeds = folder(ctx.target_dir()?.join("fuzz/seeds").join(&target.name))?;
        // Few inputs that together reach everything, where -merge=1 keeps small ones first.
        let command = libfuzzer::command(&binary, &target).args(["-set_cover_merge=1"]).args([
            kept.path(),
            found.as_path(),
            committed.as_path(),
            seeds.as_path(),
        ]);
        let log = ctx.log_file(&format!("fuzz-cmin-{}", target.name))?;
        proc::run(ctx, &command, Stdout::Log, &log, |_| ())?.must_succeed(ExitCode::CheckFailed)?;
        let (files, size) = replace(kept.path(), &committed)?;
        ctx.out.line(format!("{} {}: {files} inputs, {}", ctx.out.mark(State::Ok), target.name, bytes(size)));
    }
    Ok(ExitCode::Ok)
}

/// Puts files of `from` in place of the files of `to`: long ones, which reach most, and after every three the
/// shortest, up to [`CORPUS_FILES`] and [`CORPUS_BYTES`], of which one takes at most a quarter of what is left.
fn replace(from: &Path, to: &Path) -> Result<(usize, u64)> {
    let reading = || format!("reading {}", from.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(from).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        files.push((entry.metadata().with_context(reading)?.len(), entry.file_name()));
    }
    files.sort();
    for entry in std::fs::read_dir(to).with_context(|| format!("reading {}", to.display()))?.flatten() {
        std::fs::remove_file(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
    }
    let (mut count, mut size, mut files) = (0, 0, VecDeque::from(files));
    let next = |turn: usize| if turn % 4 == 3 { files.pop_front() } else { files.pop_back() };
    for (len, name) in (0..).map_while(next) {
        if len <= (CORPUS_BYTES - size) / 4 && count < CORPUS_FILES {
            std::fs::copy(from.join(&name), to.join(&name))
                .with_context(|| format!("copying to {}", to.display()))?;
            (count, size) = (count + 1, size + len);
        }
    }
    Ok((count, size))
}

fn repro(ctx: &Ctx, name: &str, files: &[PathBuf]) -> Result<ExitCode> {
    let chosen = Targets { targets: vec![name.to_owned()], all: false }.chosen(ctx)?;
    let binary = build::fuzz_binary(ctx)?;
    let command = libfuzzer::command(&binary, &chosen[0]).args(files);
    let log = ctx.log_file(&format!("fuzz-repro-{name}"))?;
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| ctx.out.line(line))?;
    let ok = finished.success();
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "target": name, "files": files, "ok": ok, "log": log }))?;
    }
    Ok(if ok { ExitCode::Ok } else { ExitCode::CheckFailed })
}

fn mutate(ctx: &Ctx, count: u64, seed: u64, release: bool) -> Result<ExitCode> {
    let tool = tool(ctx, release)?;
    let mut results: Vec<serde_json::Value> = Vec::new();
    for kind in KINDS {
        let (count, seed) = (count.to_string(), seed.to_string());
        let command = Command::new(&tool).args(["mutate", kind, &count, &seed]).dir(ctx.root()?);
        let log = ctx.log_file(&format!("fuzz-mutate-{kind}"))?;
        let finished =
            proc::run(ctx, &command, Stdout::Capture, &log, |_| ())?.must_succeed(ExitCode::CheckFailed)?;
        let result: serde_json::Value = serde_json::from_str(&finished.stdout).context("the tool's JSON")?;
        let number = |name: &str| result["outcome"][name].as_u64().unwrap_or_default();
        ctx.out.line(format!(
            "{} {count} damaged {kind}s: {} refused, {} accepted and right ({:.0} s)",
            ctx.out.mark(State::Ok),
            number("refused"),
            number("accepted"),
            finished.seconds
        ));
        results.push(result);
    }
    if ctx.out.is_json() {
        ctx.out.json(&results)?;
    }
    Ok(ExitCode::Ok)
}

fn generate(ctx: &Ctx, args: &crate::cli::Check) -> Result<ExitCode> {
    build::lock_is_fresh(ctx)?;
    let tool = tool(ctx, false)?;
    let check = args.check.then_some("--check");
    let command = Command::new(tool).args(["manifest"].into_iter().chain(check)).dir(ctx.root()?);
    proc::run(ctx, &command, Stdout::Log, &ctx.log_file("fuzz-generate")?, |_| ())?
        .must_succeed(ExitCode::CheckFailed)?;
    let targets = targets(ctx)?.len();
    ctx.out.line(format!("{} {targets} targets, listed where they are kept", ctx.out.mark(State::Ok)));
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "targets": targets, "check": args.check }))?;
    }
    Ok(ExitCode::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_inputs_are_kept_and_none_takes_all_the_room() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (name, len) in [("huge", 25_001), ("long", 24_990), ("next", 18_747), ("small", 10)] {
            std::fs::write(from.path().join(name), vec![0; len]).unwrap();
        }
        std::fs::write(to.path().join("old"), "x").unwrap();
        assert_eq!(replace(from.path(), to.path()).unwrap(), (3, 43_747));
        assert!(!to.path().join("old").exists() && to.path().join("next").exists());
        for number in 0..50 {
            std::fs::write(from.path().join(number.to_string()), vec![0; number]).unwrap();
        }
        assert_eq!(replace(from.path(), to.path()).unwrap().0, CORPUS_FILES);
    }

    #[test]
    fn minutes_are_more_than_none() {
        assert_eq!(minutes("0.5"), Ok(0.5));
        assert!(minutes("0").is_err() && minutes("x").is_err() && minutes("nan").is_err());
    }
}
