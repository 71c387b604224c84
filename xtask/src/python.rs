//! A Python with pip: the system's, or one in a private venv in the cache.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The system's python3 where it has pip, otherwise one in a private venv in the cache.
pub fn python_with_pip(ctx: &Ctx, cache: &Path) -> Result<PathBuf> {
    let has_pip = |python: &Path| {
        let command = Command::new(python).args(["-m", "pip", "--version"]);
        proc::probe(ctx, &command, Duration::from_secs(60))
    };
    match has_pip(Path::new("python3")) {
        proc::Probe::Output(_) => return Ok("python3".into()),
        proc::Probe::Missing => {
            return fail(
                ExitCode::Toolchain,
                "python3 is not on PATH and fetching needs it; `cargo xtask preflight` says how to install it",
            );
        }
        proc::Probe::Failed(_) | proc::Probe::TimedOut => {}
    }
    let venv = cache.join("pip-venv");
    let python = venv.join("bin/python3");
    if matches!(has_pip(&python), proc::Probe::Output(_)) {
        return Ok(python);
    }
    ctx.out.line(format!("python3 has no pip; making a venv at {}", venv.display()));
    let command = Command::new("python3").args(["-m", "venv", "--clear"]).args([&venv]);
    let finished = proc::run(ctx, &command, Stdout::Log, &cache.join("pip-venv.log"), |_| {})?;
    if !finished.success() {
        return fail(
            ExitCode::Toolchain,
            format!(
                "python3 has neither pip nor a working venv; `cargo xtask preflight` says what to install\n{}",
                finished.explain()
            ),
        );
    }
    Ok(python)
}
