//! Programs from crates.io that checks run: one pinned version each, installed into the cache.
//!
//! In: the name of a tool of `PINNED`. Out: the path of its binary. `cargo install --locked` builds it from the crate's
//! own lock file, and cargo checks every crate against the index. Deliberately absent: tools on PATH, whose version
//! nobody chose.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::lock::lock;
use crate::proc::{self, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::fs;
use std::path::PathBuf;

/// A crate, which is also the name of its binary, and the version.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub name: &'static str,
    pub version: &'static str,
}

pub const MUTANTS: Tool = Tool { name: "cargo-mutants", version: "27.1.0" };
pub const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };
pub const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };
/// Larger than the others: some minutes.
pub const SEMVER_CHECKS: Tool = Tool { name: "cargo-semver-checks", version: "0.51.0" };
pub const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4" };

/// What `cargo install` is told to build less: mdbook without its server, and unoptimised, which takes 78 s instead of 185 s on
/// two busy cores. The book then takes a second or two; its search costs no more than the noise of that.
/// cargo-semver-checks is built unoptimised too: it runs once for a release, and its own build is the longer part.
fn switches(tool: Tool) -> &'static [&'static str] {
    match tool.name {
        "mdbook" => &["--debug", "--no-default-features", "--features", "search"],
        "cargo-semver-checks" => &["--debug", "--config", "profile.dev.debug=false"],
        _ => &[],
    }
}

/// The binary of `tool`, installed where it is not there yet (one to three minutes).
pub fn installed(ctx: &Ctx, tool: Tool) -> Result<PathBuf> {
    let cache = ctx.cache_dir()?.join("cargo-tools");
    let folder = cache.join(format!("{}-{}", tool.name, tool.version));
    let binary = folder.join("bin").join(tool.name);
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let _lock = lock(ctx, &cache.join(format!("{}.lock", tool.name)))?;
    if binary.is_file() {
        return Ok(binary);
    }
    if ctx.offline {
        return fail(
            ExitCode::Offline,
            format!("{} {} is not in the cache; run it once with the network", tool.name, tool.version),
        );
    }
    ctx.out.line(format!("installing {} {} into {}", tool.name, tool.version, folder.display()));
    let partial = cache.join(format!("{}.partial", tool.name));
    // `cargo install` puts the binary into place last, so a folder with it is a whole one.
    let command = ctx
        .cargo(["install", "--locked", tool.name, "--version", tool.version, "--root"])?
        .args([folder.as_path()])
        .args(["--target-dir"])
        .args([partial.as_path()])
        .args(switches(tool).iter().copied());
    let mut progress = ctx.out.progress(format!("install: {}", tool.name));
    let log = cache.join(format!("{}.log", tool.name));
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?;
    finished.must_succeed(ExitCode::Network)?;
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    Ok(binary)
}
