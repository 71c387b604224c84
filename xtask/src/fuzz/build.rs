//! Building the fuzz binary and the tool beside it.
//!
//! Coverage and the address sanitizer are flags of the compiler that the stable toolchain has and does not promise:
//! `RUSTC_BOOTSTRAP=1` lets it take them. The flags are those of cargo-fuzz, which is not needed.

use super::folder;
use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use std::path::PathBuf;

const FLAGS: &[&str] = &[
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg",
    "fuzzing",
    "-Ccodegen-units=16",
];

/// Named, so that build scripts and macros are built without the flags.
fn platform() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The binary of `tools/fuzz`, which has every target.
pub fn fuzz_binary(ctx: &Ctx) -> Result<PathBuf> {
    let (target_dir, platform) = (ctx.target_dir()?.join("fuzz"), platform());
    let build = ctx
        .cargo(["build", "--locked", "--release", "--target", &platform, "--target-dir"])?
        .args([&target_dir])
        .dir(ctx.root()?.join("tools/fuzz"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", FLAGS.join(" "));
    build_with(ctx, &build, "fuzz-build")?;
    Ok(target_dir.join(platform).join("release/bitforge-fuzz"))
}

/// `fuzz-targets`, which runs the targets without libFuzzer.
pub fn tool(ctx: &Ctx, release: bool) -> Result<PathBuf> {
    // With --workspace, so that dependencies have the features that the tests built them with.
    let build = ctx.cargo(["build", "--locked", "--workspace", "--bin", "fuzz-targets"])?;
    let build = build.args(release.then_some("--release"));
    build_with(ctx, &build, "fuzz-tool")?;
    let profile = if release { "release" } else { "debug" };
    Ok(ctx.target_dir()?.join(profile).join("fuzz-targets"))
}

/// The lock file of `tools/fuzz`, a workspace of its own, is up to date.
pub fn lock_is_fresh(ctx: &Ctx) -> Result<()> {
    let command = ctx.cargo(["update", "--workspace", "--locked"])?.dir(ctx.root()?.join("tools/fuzz"));
    proc::run(ctx, &command, Stdout::Log, &ctx.log_file("fuzz-lock")?, |_| ())?
        .must_succeed(ExitCode::CheckFailed)?;
    Ok(())
}

/// Writes inputs to start from to the target folder.
pub fn seeds(ctx: &Ctx) -> Result<PathBuf> {
    let seeds = folder(ctx.target_dir()?.join("fuzz/seeds"))?;
    let command = Command::new(tool(ctx, false)?).args(["seeds"]).args([&seeds]).dir(ctx.root()?);
    proc::run(ctx, &command, Stdout::Log, &ctx.log_file("fuzz-seeds")?, |_| ())?
        .must_succeed(ExitCode::CheckFailed)?;
    Ok(seeds)
}

fn build_with(ctx: &Ctx, build: &Command, log: &str) -> Result<()> {
    let mut progress = ctx.out.progress(format!("fuzz: building ({log})"));
    proc::run(ctx, build, Stdout::Log, &ctx.log_file(log)?, |line| progress.message(line))?
        .must_succeed(ExitCode::Toolchain)?;
    Ok(())
}
