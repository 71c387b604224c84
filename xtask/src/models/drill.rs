//! `models drill kill|speed`: a fetch from a hub on loopback, killed again and again, or timed.
//!
//! In: sizes and counts. Out: the drill's JSON; exit code 7 where a rule was broken. The hub and the rules are the
//! crate `bitforge-faulty-hub`'s, which is started as a process.

use crate::binary;
use crate::cli::{self, DrillKind};
use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;

pub fn run(ctx: &Ctx, args: &cli::Drill) -> Result<ExitCode> {
    let bitnet = binary::release(ctx)?;
    let hub = binary::build(ctx, "bitforge-faulty-hub", "faulty-hub", &[])?;
    let numbers =
        |mib: u64, times: u64| [args.mib.unwrap_or(mib), args.times.unwrap_or(times)].map(|n| n.to_string());
    let command = Command::new(hub);
    let command = match args.kind {
        DrillKind::Kill => {
            command.args(["kill"]).args([bitnet]).args(numbers(200, 50)).args([args.seed.to_string()])
        }
        DrillKind::Speed => {
            let folder = ctx.target_dir()?;
            command.args(["speed"]).args([bitnet]).args(numbers(1024, 5)).args([folder])
        }
    };
    let mut progress = ctx.out.progress("drilling");
    let log = ctx.log_file("models-drill")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |line| progress.message(line))?;
    drop(progress);
    let finished = finished.must_succeed(ExitCode::CheckFailed)?;
    let report: serde_json::Value =
        serde_json::from_str(&finished.stdout).context("reading the drill's JSON")?;
    ctx.out.json(&report)?;
    Ok(ExitCode::Ok)
}
