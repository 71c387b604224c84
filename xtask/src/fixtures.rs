//! `fixtures [--check]`: runs the deterministic generator of `fixtures/gguf` (crate `bitforge-fixtures`).
//!
//! Deliberately absent: what a fixture holds; the generator links the runtime, xtask does not.

use crate::cli;
use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;

pub fn run(ctx: &Ctx, args: &cli::Check) -> Result<ExitCode> {
    let mode = if args.check { Mode::Check } else { Mode::Generate };
    let summary = generate(ctx, mode)?;
    ctx.out.line(&summary);
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "mode": mode.name(), "summary": summary }))?;
    }
    Ok(ExitCode::Ok)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Generate,
    Check,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Mode::Generate => "generate",
            Mode::Check => "check",
        }
    }
}

/// Builds and runs the generator; returns its last line.
pub fn generate(ctx: &Ctx, mode: Mode) -> Result<String> {
    let root = ctx.root()?;
    let command = Command::new(ctx.cargo())
        .args(["run", "--locked", "-p", "bitforge-fixtures", "--bin", "fixtures", "--", mode.name()])
        .args(["fixtures/gguf"])
        .dir(root);
    let log = ctx.log_file("fixtures")?;
    let mut progress = ctx.out.progress(format!("fixtures: {}", mode.name()));
    let mut last = String::new();
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| {
        progress.message(line);
        if !line.trim().is_empty() {
            last = line.trim().to_string();
        }
    })?;
    finished.must_succeed(ExitCode::CheckFailed)?;
    Ok(last)
}
