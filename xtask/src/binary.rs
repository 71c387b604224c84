//! The binaries that xtask starts: built by cargo when they are asked for, found by what cargo says it made.
//!
//! In: a package and a target. Out: the path of the executable; for reference drivers also what identifies the
//! reference they are linked to. Deliberately absent: starting them (see [`crate::proc`], [`crate::engine`]).

use crate::cli::{Cpu, Kernels};
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Command, Stdout};
use crate::reference;
use anyhow::{Context, Result};
use bitforge_discovery::{Lane, discover};
use bitforge_schema::exit::ExitCode;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The release build of `bitnet`, built once per process; `BITNET_BINARY` names one to take instead.
pub fn release(ctx: &Ctx) -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path.clone());
    }
    let path = match ctx.env.get("BITNET_BINARY") {
        Some(path) if Path::new(path).is_file() => path.into(),
        Some(path) => {
            return fail(ExitCode::NotFound, format!("BITNET_BINARY is {path}, which is not a file"));
        }
        None => build(ctx, "bitnet-cli", "bitnet", &[])?,
    };
    Ok(BUILT.get_or_init(|| path).clone())
}

/// A reference driver, and what identifies the reference it is linked to.
#[derive(Debug)]
pub struct Driver {
    pub path: PathBuf,
    /// The key of the reference build, or the sha256 of its libraries where bitforge did not build it.
    pub identity: String,
}

/// The driver of `lane`, linked to the build for `cpu` where bitforge made one, otherwise to what is found.
///
/// # Errors
/// [`ExitCode::Unavailable`] where the reference is not found; the message says how to build it.
pub fn driver(ctx: &Ctx, lane: Lane, cpu: Cpu) -> Result<Driver> {
    let (name, target) = (lane.name(), format!("reference-driver-{}", lane.name()));
    let cache = ctx.cache_dir()?.join("references");
    let builds = reference::list(&cache)?;
    let ours = |wanted: Lane| {
        let fits = |build: &&reference::Entry| {
            build.name == wanted.name()
                && build.manifest.as_ref().is_some_and(|manifest| {
                    (manifest.variant.cpu, manifest.variant.kernels) == (cpu, Kernels::I2s)
                })
        };
        builds.iter().rev().find(fits)
    };
    let given = bitforge_discovery::NAMED_PLACES.iter().any(|variable| ctx.env.get(variable).is_some());
    if let Some(build) = ours(lane).filter(|_| !given) {
        // A target folder per variant: cargo would rebuild a shared one at every change of the variables.
        let variant = if cpu == Cpu::Portable { "drivers-portable" } else { "drivers-native" };
        let mut command = build_command(ctx, "bitforge-reference-driver", &target, &[])?
            .env("CARGO_TARGET_DIR", ctx.target_dir()?.join(variant));
        for (lane, variable) in
            [(Lane::Llama, "CROSSVAL_RPATH_LLAMA"), (Lane::Bitnet, "CROSSVAL_RPATH_BITNET")]
        {
            if let Some(build) = ours(lane) {
                command = command.env(variable, build.dir.join("lib"));
            }
        }
        let path = run_build(ctx, &command, &target)?;
        let key = build.manifest.as_ref().map(|manifest| manifest.key.clone()).unwrap_or_default();
        return Ok(Driver { path, identity: format!("{name}-{key}") });
    }
    let flag = if cpu == Cpu::Portable { " --cpu portable" } else { "" };
    let Some(reference) = discover(&ctx.env, lane).reference.filter(|_| given) else {
        return fail(
            ExitCode::Unavailable,
            format!("{name} is not built here; run `cargo xtask reference build {name}{flag}`"),
        );
    };
    let path = build(ctx, "bitforge-reference-driver", &target, &[])?;
    let mut hasher = Sha256::new();
    for library in &reference.libraries {
        hash_into(&mut hasher, &library.path)?;
    }
    Ok(Driver { path, identity: format!("{name}-sha256-{}", hex(&hasher.finalize())) })
}

/// Builds `target` of `package` in release mode with `features` and returns where cargo put it.
pub fn build(ctx: &Ctx, package: &str, target: &str, features: &[&str]) -> Result<PathBuf> {
    run_build(ctx, &build_command(ctx, package, target, features)?, target)
}

/// As [`build`], for the platform `platform`.
pub fn build_for(ctx: &Ctx, package: &str, target: &str, platform: &str) -> Result<PathBuf> {
    run_build(ctx, &build_command(ctx, package, target, &[])?.args(["--target", platform]), target)
}

fn build_command(ctx: &Ctx, package: &str, target: &str, features: &[&str]) -> Result<Command> {
    let mut command = ctx
        .cargo(["build", "--release", "--locked", "-p", package, "--bin", target])?
        .args(["--message-format", "json-render-diagnostics"]);
    if !features.is_empty() {
        command = command.args(["--features".to_string(), features.join(",")]);
    }
    Ok(command)
}

fn run_build(ctx: &Ctx, command: &Command, target: &str) -> Result<PathBuf> {
    let mut progress = ctx.out.progress(format!("building {target} (release)"));
    let log = ctx.log_file(&format!("build-{target}"))?;
    let finished = proc::run(ctx, command, Stdout::Capture, &log, |line| progress.message(line))?;
    if ctx.offline && !finished.success() && lacks_crates(&finished.tail()) {
        return fail(
            ExitCode::Offline,
            "crates of Cargo.lock are not on this machine and the network is off; run `cargo fetch --locked` once with the network",
        );
    }
    let finished = finished.must_succeed(ExitCode::Toolchain)?;
    executable(&finished.stdout, target).with_context(|| format!("cargo named no executable {target}"))
}

/// Whether cargo stopped because it may not download.
fn lacks_crates(output: &str) -> bool {
    output.contains("failed to download") && output.contains("--offline was specified")
}

fn hash_into(hasher: &mut Sha256, path: &Path) -> Result<()> {
    let unreadable =
        |error| Failure::new(ExitCode::NotFound, format!("{} cannot be read: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => return Ok(()),
            len => hasher.update(&buffer[..len]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The executable of the target `name` among cargo's JSON messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    cargo_metadata::Message::parse_stream(messages.as_bytes()).flatten().find_map(|message| match message {
        cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == name => {
            artifact.executable.map(|path| path.into_std_path_buf())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_binary_is() {
        let messages = concat!(
            r#"{"reason":"build-script-executed","package_id":"a 0.1.0","linked_libs":[],"linked_paths":[],"cfgs":[],"env":[],"out_dir":"o"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"bitnet-cli 0.1.0","manifest_path":"m","target":{"kind":["bin"],"crate_types":["bin"],"name":"bitnet","src_path":"s","edition":"2024","doc":true,"doctest":false,"test":true},"profile":{"opt_level":"3","debuginfo":1,"debug_assertions":false,"overflow_checks":false,"test":false},"features":[],"filenames":["t/bitnet"],"executable":"t/bitnet","fresh":true}"#,
            "\n"
        );
        assert_eq!(executable(messages, "bitnet"), Some("t/bitnet".into()));
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn a_build_that_may_not_download_is_told_from_one_that_fails() {
        let offline = "error: failed to download `a v1.0.0`\n\nCaused by:\n  attempting to make an HTTP request, but --offline was specified";
        assert!(lacks_crates(offline));
        assert!(!lacks_crates("error: failed to download `a v1.0.0`\n\nCaused by:\n  timed out"));
        assert!(!lacks_crates("error[E0308]: mismatched types"));
    }
}
