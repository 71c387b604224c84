//! The binaries that xtask starts: built by cargo when they are asked for, found by what cargo says it made.
//!
//! In: a package and a target. Out: the path of the executable; for reference drivers also what identifies the
//! reference they are linked to. Deliberately absent: starting them (see [`crate::proc`], [`crate::engine`]).

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Stdout};
use crate::reference::build::read_manifest;
use anyhow::{Context, Result};
use bitforge_discovery::{Lane, discover};
use bitforge_schema::exit::ExitCode;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The release build of `bitnet`.
pub fn release(ctx: &Ctx) -> Result<PathBuf> {
    build(ctx, "bitnet-runtime", "bitnet", &[])
}

/// A reference driver, and what identifies the reference it is linked to.
#[derive(Debug)]
pub struct Driver {
    pub path: PathBuf,
    /// The key of the reference build, or the sha256 of its libraries where bitforge did not build it.
    pub identity: String,
}

/// The release build of the driver of `lane`.
///
/// # Errors
/// [`ExitCode::Unavailable`] where the reference is not found; the message says how to build it.
pub fn driver(ctx: &Ctx, lane: Lane) -> Result<Driver> {
    let name = lane.name();
    let Some(reference) = discover(&ctx.env, lane).reference else {
        return fail(
            ExitCode::Unavailable,
            format!("{name} is not built here; run `cargo xtask reference build {name}`"),
        );
    };
    let path = build(ctx, "bitforge-reference-driver", &format!("reference-driver-{name}"), &[])?;
    // DIR/lib/libllama.so of a build of ours has DIR/manifest.json.
    let manifest = reference.llama_dir().parent().and_then(read_manifest);
    let identity = match manifest {
        Some(manifest) => format!("{name}-{}", manifest.key),
        None => {
            let mut hasher = Sha256::new();
            for library in &reference.libraries {
                hash_into(&mut hasher, &library.path)?;
            }
            format!("{name}-sha256-{}", hex(&hasher.finalize()))
        }
    };
    Ok(Driver { path, identity })
}

/// Builds `target` of `package` in release mode with `features` and returns where cargo put it.
pub fn build(ctx: &Ctx, package: &str, target: &str, features: &[&str]) -> Result<PathBuf> {
    let mut command = ctx
        .cargo(["build", "--release", "--locked", "-p", package, "--bin", target])?
        .args(["--message-format", "json-render-diagnostics"]);
    if !features.is_empty() {
        command = command.args(["--features".to_string(), features.join(",")]);
    }
    let mut progress = ctx.out.progress(format!("building {target} (release)"));
    let log = ctx.log_file(&format!("build-{target}"))?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::Toolchain)?;
    executable(&finished.stdout, target).with_context(|| format!("cargo named no executable {target}"))
}

/// Lower-case hexadecimal sha256 of a file.
pub fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    hash_into(&mut hasher, path)?;
    Ok(hex(&hasher.finalize()))
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
            r#"{"reason":"compiler-artifact","package_id":"bitnet-runtime 0.1.0","manifest_path":"m","target":{"kind":["bin"],"crate_types":["bin"],"name":"bitnet","src_path":"s","edition":"2024","doc":true,"doctest":false,"test":true},"profile":{"opt_level":"3","debuginfo":1,"debug_assertions":false,"overflow_checks":false,"test":false},"features":[],"filenames":["t/bitnet"],"executable":"t/bitnet","fresh":true}"#,
            "\n"
        );
        assert_eq!(executable(messages, "bitnet"), Some("t/bitnet".into()));
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn digests_are_those_of_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-4, example 1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), expected);
        assert!(sha256(&dir.path().join("none")).is_err());
    }
}
