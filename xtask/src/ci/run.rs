//! Runs the steps of a lane, one after the other.
//!
//! In: a [`Lane`], what was chosen of it. Out: logs, `junit.xml` and `results.json` under `target/ci/LANE`, a table, and
//! an exit code that is not zero where any step failed: by its status, a signal, a limit, or because its program is not
//! there. Steps after a failure are not run and are reported as that. Deliberately absent: any way to let a failure pass.

use super::lanes::{Lane, SHARD, Step};
use super::shard::Shard;
use super::{junit, mark};
use crate::ctx::Ctx;
use crate::exit::{Failure, code_of, message_of};
use crate::proc::{self, Command, Stdout};
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Passed,
    Failed,
    NotRun,
}

#[derive(Debug, Serialize)]
pub struct StepResult {
    pub step: String,
    pub command: String,
    pub state: StepState,
    /// Why it failed or was not run; empty where it passed.
    pub detail: String,
    pub seconds: f64,
    /// Its whole output, where it ran.
    pub log: Option<PathBuf>,
    #[serde(skip)]
    pub code: ExitCode,
}

#[derive(Debug, Serialize)]
pub struct LaneResult {
    pub version: u32,
    pub lane: String,
    pub shard: String,
    pub ok: bool,
    pub seconds: f64,
    pub steps: Vec<StepResult>,
}

impl LaneResult {
    pub fn count(&self, state: StepState) -> usize {
        self.steps.iter().filter(|step| step.state == state).count()
    }

    /// That of the first failure.
    pub fn code(&self) -> ExitCode {
        let failed = self.steps.iter().find(|step| step.state == StepState::Failed);
        failed.map_or(ExitCode::Ok, |step| step.code)
    }
}

pub fn lane(ctx: &Ctx, lane: &Lane, only: &[String], shard: Shard) -> Result<ExitCode> {
    let mut dir = ctx.target_dir()?.join("ci").join(&lane.name);
    if shard.count > 1 {
        dir.push(format!("{}-of-{}", shard.index, shard.count));
    }
    if only.is_empty() && dir.is_dir() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let result = steps(ctx, lane, only, shard, &dir)?;
    if ctx.out.is_json() {
        ctx.out.json(&result)?;
    }
    ctx.out.line(render(ctx, &result, &dir));
    Ok(result.code())
}

/// Runs and writes the results into `dir`.
pub fn steps(ctx: &Ctx, lane: &Lane, only: &[String], shard: Shard, dir: &Path) -> Result<LaneResult> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let start = Instant::now();
    let mut results: Vec<StepResult> = Vec::new();
    for step in &lane.steps {
        let failed = results.iter().find(|result| result.state == StepState::Failed);
        let not_run = match failed {
            Some(failed) => Some(format!("step {} failed before it", failed.step)),
            None => left_out(step, only, shard),
        };
        let result = match not_run {
            Some(why) => result(step, shard, StepState::NotRun, why, ExitCode::Ok),
            None => one(ctx, lane, step, shard, start, dir),
        };
        if result.state != StepState::NotRun {
            let text = if result.detail.is_empty() { &result.command } else { &result.detail };
            let symbol = ctx.out.mark(mark(result.state));
            ctx.out.line(format!("{symbol} {}: {text} ({:.1} s)", result.step, result.seconds));
        }
        results.push(result);
    }
    let result = LaneResult {
        version: 1,
        lane: lane.name.clone(),
        shard: shard.to_string(),
        ok: results.iter().all(|result| result.state != StepState::Failed),
        seconds: rounded(start),
        steps: results,
    };
    let json = serde_json::to_string_pretty(&result).context("serializing the results")? + "\n";
    for (name, text) in [("results.json", json), ("junit.xml", junit::render(&result))] {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(result)
}

/// Why this run leaves a step out, where it does.
pub fn left_out(step: &Step, only: &[String], shard: Shard) -> Option<String> {
    if !only.is_empty() {
        return (!only.contains(&step.name)).then(|| "not among those of --only".to_string());
    }
    let elsewhere = shard.index > 1 && !step.is_sharded() && !step.every_shard;
    elsewhere.then(|| "part 1 runs it".to_string())
}

/// The command of a step in one part.
pub fn words(step: &Step, shard: Shard) -> Vec<String> {
    step.run.iter().map(|word| word.replace(SHARD, &shard.to_string())).collect()
}

fn one(ctx: &Ctx, lane: &Lane, step: &Step, shard: Shard, lane_start: Instant, dir: &Path) -> StepResult {
    let start = Instant::now();
    let log = dir.join(format!("{}.log", step.name));
    let (state, detail, code) = match attempt(ctx, lane, step, shard, lane_start, &log) {
        Ok(()) => (StepState::Passed, String::new(), ExitCode::Ok),
        Err(error) => (StepState::Failed, message_of(&error), code_of(&error)),
    };
    let log = log.is_file().then_some(log);
    StepResult { seconds: rounded(start), log, ..result(step, shard, state, detail, code) }
}

/// Runs a step within its own limit and what the lane has left of its one.
fn attempt(ctx: &Ctx, lane: &Lane, step: &Step, shard: Shard, lane_start: Instant, log: &Path) -> Result<()> {
    let rest = lane.limit.saturating_sub(lane_start.elapsed());
    if rest.is_zero() {
        let message = format!("lane {} ran past its limit of {} s", lane.name, lane.limit.as_secs());
        return Err(Failure::new(ExitCode::Timeout, message).into());
    }
    let command = command(ctx, step, shard)?.limit(step.limit.min(rest));
    let mut progress = ctx.out.progress(format!("{} {}", lane.name, step.name));
    proc::run(ctx, &command, Stdout::Log, log, |line| progress.message(line))?
        .must_succeed(ExitCode::CheckFailed)?;
    Ok(())
}

fn command(ctx: &Ctx, step: &Step, shard: Shard) -> Result<Command> {
    let words = words(step, shard);
    let (program, args) = words.split_first().context("a step without a command")?;
    let root = ctx.root()?;
    let program = match program.as_str() {
        "cargo" => PathBuf::from(ctx.env.get("CARGO").unwrap_or("cargo")),
        path if path.contains('/') => root.join(path),
        name => PathBuf::from(name),
    };
    let mut command = Command::new(program).args(args).dir(root);
    if ctx.offline {
        command = command.env("BITNET_OFFLINE", "1").env("CARGO_NET_OFFLINE", "true");
    }
    Ok(step.env.iter().fold(command, |command, (name, value)| command.env(name, value)))
}

fn result(step: &Step, shard: Shard, state: StepState, detail: String, code: ExitCode) -> StepResult {
    let (step, command) = (step.name.clone(), words(step, shard).join(" "));
    StepResult { step, command, state, detail, seconds: 0.0, log: None, code }
}

fn rounded(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

fn render(ctx: &Ctx, result: &LaneResult, dir: &Path) -> String {
    let rows = result.steps.iter().map(|step| {
        let time = format!("{:.1} s", step.seconds);
        let what = if step.detail.is_empty() { &step.command } else { &step.detail };
        let what = what.lines().next().unwrap_or_default().to_string();
        [ctx.out.mark(mark(step.state)), step.step.clone(), time, what]
    });
    let verdict = if result.ok { State::Ok } else { State::Fail };
    format!(
        "\n{}\n{} {}: {} passed, {} failed, {} not run ({:.1} s); results: {}",
        table(["", "step", "time", "what"], rows),
        ctx.out.mark(verdict),
        result.lane,
        result.count(StepState::Passed),
        result.count(StepState::Failed),
        result.count(StepState::NotRun),
        result.seconds,
        dir.display()
    )
}
