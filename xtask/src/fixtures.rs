//! `fixtures [--check]`: runs the deterministic generator of `fixtures/gguf` (crate `bitforge-fixtures`).
//!
//! Deliberately absent: what a fixture holds; the generator links the runtime, xtask does not.

use crate::cli;
use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use crate::report::bytes;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use std::path::Path;

/// Below the root.
const FOLDER: &str = "fixtures/gguf";

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

    const fn verdict(self) -> &'static str {
        match self {
            Mode::Generate => "generated",
            Mode::Check => "as the generator makes them",
        }
    }
}

/// Builds and runs the generator; returns what lies in the folder afterwards.
pub fn generate(ctx: &Ctx, mode: Mode) -> Result<String> {
    // With --workspace, so that dependencies have the features that the tests built them with.
    let build = ctx.cargo(["build", "--locked", "--workspace", "--bin", "fixtures"])?;
    let generator = ctx.target_dir()?.join("debug/fixtures");
    let generate = Command::new(generator).args([mode.name(), FOLDER]).dir(ctx.root()?);
    let mut progress = ctx.out.progress(format!("fixtures: {}", mode.name()));
    let log = ctx.log_file("fixtures")?;
    proc::run(ctx, &build, Stdout::Log, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::Toolchain)?;
    proc::run(ctx, &generate, Stdout::Log, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::CheckFailed)?;
    let (files, size) = measure(&ctx.root()?.join(FOLDER));
    Ok(format!("{files} files, {} in {FOLDER}, {}", bytes(size), mode.verdict()))
}

/// Number of files and bytes below `dir`.
fn measure(dir: &Path) -> (usize, u64) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.fold((0, 0), |(files, size), entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => {
            let (more, larger) = measure(&entry.path());
            (files + more, size + larger)
        }
        Ok(meta) => (files + 1, size + meta.len()),
        Err(_) => (files, size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_in_sub_folders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ok")).unwrap();
        std::fs::write(dir.path().join("ok/a"), "12345").unwrap();
        std::fs::write(dir.path().join("b"), "1").unwrap();
        assert_eq!(measure(dir.path()), (2, 6));
        assert_eq!(measure(&dir.path().join("none")), (0, 0));
    }
}
