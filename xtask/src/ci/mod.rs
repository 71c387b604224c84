//! `ci`: the pipeline, defined once in `ci/lanes.toml` and the same on a laptop and in CI.
//!
//! In: the name of a lane. Out: its steps run in order, with results as JUnit XML and JSON under `target/ci`; the workflows
//! of GitHub (`ci generate`). Deliberately absent: what the steps do; each is a command of its own.

pub mod junit;
pub mod lanes;
pub mod page;
pub mod run;
pub mod shard;
#[cfg(test)]
mod tests;
pub mod workflow;

use crate::cli::Check;
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::report::{State, table};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use clap::{Args, Subcommand};
use lanes::{Lane, Lanes, Step};
use shard::Shard;
use std::path::Path;

/// Below the root.
pub const FILE: &str = "ci/lanes.toml";
/// The file as it was when xtask was compiled, for pages that are made from it.
pub const TEXT: &str = include_str!("../../../ci/lanes.toml");

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CiArgs {
    #[command(subcommand)]
    pub command: Option<CiCommand>,
    /// The lane to run; without it, the lanes are listed.
    pub lane: Option<String>,
    /// List the steps of the lane.
    #[arg(long, requires = "lane", conflicts_with = "plan")]
    pub list: bool,
    /// Run these steps alone.
    #[arg(long, requires = "lane", value_delimiter = ',', value_name = "STEP")]
    pub only: Vec<String>,
    /// Run part I of N: of a step that can be split its part, of the other steps those that this part needs.
    #[arg(long, requires = "lane", value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Print what would run, with limits; do nothing.
    #[arg(long, requires = "lane")]
    pub plan: bool,
}

#[derive(Debug, Subcommand)]
pub enum CiCommand {
    /// Write the workflows under .github/workflows from the lanes, or check that they are fresh.
    Generate(Check),
}

pub fn run(ctx: &Ctx, args: &CiArgs) -> Result<ExitCode> {
    let root = ctx.root()?;
    let lanes = read(root)?;
    if let Some(CiCommand::Generate(check)) = &args.command {
        return workflow::run(ctx, &lanes, check);
    }
    let Some(name) = &args.lane else { return list_lanes(ctx, &lanes) };
    let lane = lanes.lane(name)?;
    for name in &args.only {
        if !lane.steps.iter().any(|step| step.name == *name) {
            let known: Vec<&str> = lane.steps.iter().map(|step| step.name.as_str()).collect();
            let message =
                format!("lane {} has no step {name}; its steps are {}", lane.name, known.join(", "));
            return fail(ExitCode::Usage, message);
        }
    }
    let shard = args.shard.unwrap_or(Shard::WHOLE);
    if shard.count > 1 && lane.shards == 1 {
        return fail(ExitCode::Usage, format!("lane {} has no parts; leave --shard out", lane.name));
    }
    if args.list || args.plan {
        return list_steps(ctx, lane, args, shard);
    }
    run::lane(ctx, lane, &args.only, shard)
}

/// The lanes of the checkout at `root`.
pub fn read(root: &Path) -> Result<Lanes> {
    let path = root.join(FILE);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(ExitCode::NotFound, format!("{}: {error}; restore it from git", path.display()))
    })?;
    lanes::parse(&text)
}

fn list_lanes(ctx: &Ctx, lanes: &Lanes) -> Result<ExitCode> {
    if ctx.out.is_json() {
        let value = lanes.lanes.iter().map(|lane| {
            serde_json::json!({
                "lane": lane.name,
                "description": lane.description,
                "triggers": lane.triggers,
                "shards": lane.shards,
                "limit_minutes": lane.limit.as_secs() / 60,
                "steps": lane.steps.iter().map(|step| &step.name).collect::<Vec<_>>(),
            })
        });
        ctx.out.json(&value.collect::<Vec<_>>())?;
    }
    let rows = lanes.lanes.iter().map(|lane| {
        let limit = format!("{} min", lane.limit.as_secs() / 60);
        [
            lane.name.clone(),
            lane.steps.len().to_string(),
            limit,
            page::started_by(lane),
            lane.description.clone(),
        ]
    });
    ctx.out.line(table(["lane", "steps", "at most", "started by", "what"], rows));
    Ok(ExitCode::Ok)
}

fn list_steps(ctx: &Ctx, lane: &Lane, args: &CiArgs, shard: Shard) -> Result<ExitCode> {
    let why_not = |step: &Step| run::left_out(step, &args.only, shard);
    if ctx.out.is_json() {
        let steps = lane.steps.iter().map(|step| {
            serde_json::json!({
                "step": step.name,
                "command": run::words(step, shard).join(" "),
                "env": step.env,
                "limit_seconds": step.limit.as_secs(),
                "not_run": why_not(step),
            })
        });
        ctx.out.json(&serde_json::json!({ "lane": lane.name, "steps": steps.collect::<Vec<_>>() }))?;
    }
    let rows = lane.steps.iter().map(|step| {
        let limit = format!("{} min", step.limit.as_secs() / 60);
        let env = step.env.iter().map(|(name, value)| format!("{name}={value} "));
        let command = env.collect::<String>() + &run::words(step, shard).join(" ");
        let detail = match why_not(step) {
            Some(why) if args.plan => format!("not run: {why}"),
            _ => command,
        };
        [step.name.clone(), limit, detail]
    });
    ctx.out.line(table(["step", "at most", "command"], rows));
    if args.plan {
        let packages = match lane.packages.as_slice() {
            [] => "no packages beyond those of ci/setup.sh".to_string(),
            names => format!("Debian packages {}", names.join(", ")),
        };
        ctx.out.line(format!("{} needs {packages}; nothing was done", lane.name));
    }
    Ok(ExitCode::Ok)
}

/// The verdict on one step as a symbol.
const fn mark(state: run::StepState) -> State {
    match state {
        run::StepState::Passed => State::Ok,
        run::StepState::Failed => State::Fail,
        run::StepState::NotRun => State::CouldNotCheck,
    }
}
