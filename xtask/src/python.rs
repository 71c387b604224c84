//! A Python with pip: the system's, or one in a private venv in the cache. And pinned wheels, installed by it into the cache.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::lock::lock;
use crate::proc::{self, Command, Stdout};
use crate::receipts::store::sha256;
use anyhow::{Context, Result};
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

/// Pinned wheels: `requirements`, below the root, names each with its sha256.
pub struct Wheels<'a> {
    /// Begins the folder's name in the cache.
    pub name: &'a str,
    pub requirements: &'a str,
    /// What to say before they are installed.
    pub notice: &'a str,
    /// What to say where they are not there and the network is off.
    pub offline: &'a str,
}

/// The folder with the wheels, installed once; the digest of the requirements names it. `ready` looks whether what is
/// needed lies in a folder, `finish` completes a new one.
///
/// # Errors
/// [`ExitCode::Network`] where they cannot be installed, [`ExitCode::Toolchain`] where they are not what is needed.
pub fn wheels(
    ctx: &Ctx,
    wheels: &Wheels<'_>,
    ready: impl Fn(&Path) -> bool,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let (name, cache) = (wheels.name, ctx.cache_dir()?);
    let requirements = ctx.root()?.join(wheels.requirements);
    let dir = cache.join(format!("{name}-{}", &sha256(&requirements)?[..16]));
    if ready(&dir) {
        return Ok(dir);
    }
    if ctx.offline {
        return fail(ExitCode::Network, wheels.offline);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let _lock = lock(ctx, &cache.join(format!("{name}.lock")))?;
    if ready(&dir) {
        return Ok(dir);
    }
    ctx.out.line(wheels.notice);
    let partial = cache.join(format!("{name}.partial"));
    for old in [&partial, &dir] {
        if old.exists() {
            std::fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    let command = Command::new(python_with_pip(ctx, &cache)?)
        .args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--target"])
        .args([partial.as_path()])
        .args(["-r"])
        .args([&requirements]);
    let log = cache.join(format!("{name}.log"));
    proc::run(ctx, &command, Stdout::Log, &log, |_| {})?.must_succeed(ExitCode::Network)?;
    finish(&partial)?;
    std::fs::rename(&partial, &dir).with_context(|| format!("renaming to {}", dir.display()))?;
    if ready(&dir) {
        return Ok(dir);
    }
    fail(
        ExitCode::Toolchain,
        format!("the wheels of {} are not what is needed; see {}", wheels.requirements, dir.display()),
    )
}
