//! `models`: what `bitnet models` does, for a checkout whose binary may have to be built first; and `synth` and
//! `drill`, which need the workspace.
//!
//! In: a name of the catalog, or a command line to hand on. Out: verified files, at the paths that
//! `bitforge_schema::catalog` gives. Deliberately absent: fetching and verifying; the binary does both.

pub mod drill;
pub mod synth;

use crate::binary;
use crate::cli;
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::catalog::{Catalog, Model};
use bitforge_schema::exit::ExitCode;
use std::ffi::OsString;
use std::path::PathBuf;

pub fn run(ctx: &Ctx, command: &cli::Models) -> Result<ExitCode> {
    match command {
        cli::Models::Synth(args) => synth::run(ctx, args)?,
        cli::Models::Drill(args) => return drill::run(ctx, args),
        cli::Models::Binary(args) => return hand_on(ctx, args),
    }
    Ok(ExitCode::Ok)
}

/// The entry of the catalog called `name`.
pub fn known(name: &str) -> Result<Model> {
    let catalog = Catalog::committed();
    let near = catalog.nearest(name).unwrap_or("nothing");
    let unknown = || {
        let what =
            format!("no model is called {name}; did you mean {near}? `cargo xtask models list` shows all");
        Failure::new(ExitCode::NotFound, what)
    };
    Ok(catalog.get(name).ok_or_else(unknown)?.clone())
}

/// Where the model `name` lies, where it was fetched.
pub fn cached(ctx: &Ctx, name: &str) -> Result<Option<PathBuf>> {
    let (model, cache) = (known(name)?, ctx.cache_dir()?);
    Ok(model.is_cached(&cache).then(|| model.path_in(&cache)))
}

/// A model that is here, and whether it was before.
#[derive(Debug)]
pub struct Fetched {
    pub path: PathBuf,
    pub cached: bool,
}

/// Fetches the model `name` with the binary unless it is there.
pub fn fetch(ctx: &Ctx, name: &str) -> Result<Fetched> {
    if let Some(path) = cached(ctx, name)? {
        return Ok(Fetched { path, cached: true });
    }
    if ctx.offline {
        return fail(
            ExitCode::Offline,
            format!(
                "{name} is not in the cache and the network is switched off; run without --offline and BITNET_OFFLINE"
            ),
        );
    }
    let command = Command::new(binary::release(ctx)?).args(["models", "fetch", name, "--json"]);
    let mut progress = ctx.out.progress(format!("fetching {name}"));
    let log = ctx.log_file("models-fetch")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |line| progress.message(line))?;
    drop(progress);
    let last = finished.stdout.lines().next_back().unwrap_or_default();
    let result: serde_json::Value = serde_json::from_str(last).with_context(|| finished.explain())?;
    if !finished.success() {
        let message = result["error"]["message"].as_str().map(str::to_owned);
        return fail(exit_code(finished.code), message.unwrap_or_else(|| finished.explain()));
    }
    let path = result["models"][0]["path"].as_str().context("the binary names no path")?;
    Ok(Fetched { path: path.into(), cached: false })
}

/// Runs `bitnet models` with these arguments and passes on what it prints and how it ends.
fn hand_on(ctx: &Ctx, args: &[OsString]) -> Result<ExitCode> {
    let mut command = Command::new(binary::release(ctx)?).args(["models"]).args(args);
    if ctx.out.is_json() && !args.iter().any(|arg| arg == "--json") {
        command = command.args(["--json"]);
    }
    if ctx.offline {
        command = command.env("BITNET_OFFLINE", "1");
    }
    let log = ctx.log_file("models")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |line| ctx.out.line(line))?;
    if !finished.stdout.is_empty() {
        ctx.out.stdout(finished.stdout.trim_end())?;
    }
    Ok(if finished.success() { ExitCode::Ok } else { exit_code(finished.code) })
}

/// A code of the table as the other binaries end with it.
fn exit_code(code: Option<i32>) -> ExitCode {
    ExitCode::ALL.into_iter().find(|known| Some(*known as i32) == code).unwrap_or(ExitCode::Internal)
}
