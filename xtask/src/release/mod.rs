//! `cargo xtask release plan|build|verify|diff|sbom|notes`: the same bytes anywhere, and what is inside.
//!
//! In: a clean tree at a tag. Out: archives, wheels, signatures; judgements of them. `plan` works out what `build` runs;
//! `content` says what an archive holds and `archive` its form; `verify` needs the file alone; `diff` says why two differ;
//! `second_opinion` asks cargo-cyclonedx.
//! Deliberately absent: uploading.

mod archive;
mod build;
mod cause;
mod content;
mod crates;
mod diff;
mod notes;
mod plan;
mod provenance;
mod runs;
mod sbom;
mod second_opinion;
mod sign;
#[cfg(test)]
mod tests;
mod verify;

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;

#[derive(Subcommand, Clone, Debug)]
pub enum ReleaseCommand {
    /// Print what `build` would do, do nothing.
    Plan(ReleaseArgs),
    /// Build archives and wheels, verify them, and with --twice build again elsewhere and compare.
    Build(ReleaseArgs),
    /// Check an archive or a wheel: every byte, digests, provenance, platform, licences; with a key its signature.
    Verify {
        /// Archives and wheels, or folders of them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The public SSH key that signed; needs FILE.sig beside each file.
        #[arg(long, value_name = "KEY.pub")]
        key: Option<PathBuf>,
    },
    /// Compare two files, archives or folders byte by byte and say why they differ.
    Diff { a: PathBuf, b: PathBuf },
    /// Compare the SBOM in archives with what a pinned cargo-cyclonedx says of the same commit, and say why they differ.
    Sbom {
        /// Archives, or folders of them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Release notes from CHANGELOG.md, measurements, and whether the library's interface allows the version.
    Notes,
}

#[derive(clap::Args, Clone, Debug, Default)]
pub struct ReleaseArgs {
    /// Targets, a platform or `PLATFORM+cuda` (default: all).
    #[arg(long, value_delimiter = ',')]
    pub target: Vec<String>,
    /// The oldest glibc to run on, linked with a pinned zig; `host` links with this machine's.
    #[arg(long, default_value = "2.17")]
    pub glibc: String,
    /// Try it without a tag: the version says that it is a snapshot.
    #[arg(long)]
    pub allow_untagged: bool,
    /// Build everything again from a clone in another folder and compare the bytes.
    #[arg(long)]
    pub twice: bool,
    /// Sign with this private SSH key; it is never copied.
    #[arg(long, value_name = "KEY")]
    pub key: Option<PathBuf>,
    /// Where archives go (default: target/release-artifacts/VERSION).
    #[arg(long)]
    pub out: Option<PathBuf>,
}

pub fn run(ctx: &Ctx, command: &ReleaseCommand) -> Result<ExitCode> {
    match command {
        ReleaseCommand::Plan(args) => {
            let plan = plan::plan(ctx, args)?;
            if ctx.out.is_json() {
                ctx.out.json(&plan)?
            } else {
                ctx.out.stdout(&plan::describe(&plan, args))?
            }
        }
        ReleaseCommand::Build(args) => {
            let plan = plan::plan(ctx, args)?;
            ctx.out.line(plan::describe(&plan, args));
            let paths = build::run(&ctx.for_people(), args, &plan)?;
            for path in &paths {
                ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), path.display()));
            }
            if ctx.out.is_json() {
                ctx.out.json(&json!({ "plan": plan, "files": paths }))?;
            }
        }
        ReleaseCommand::Verify { files, key } => {
            let mut reports = Vec::new();
            for path in &files_of(files, &[".tar.zst", ".whl"])? {
                let mut lines = verify::file(path)?;
                if let Some(key) = key {
                    sign::verify(ctx, key, path)?;
                    lines.push(format!("signed by {}", key.display()));
                } else if sign::sidecar(path).is_file() {
                    let state = ctx.out.mark(State::CouldNotCheck);
                    ctx.out.line(format!(
                        "{state} {} is signed; give --key KEY.pub to check by whom",
                        path.display()
                    ));
                }
                for line in &lines {
                    ctx.out.line(format!("{} {}: {line}", ctx.out.mark(State::Ok), path.display()));
                }
                reports.push(json!({ "file": path, "holds": lines }));
            }
            if ctx.out.is_json() {
                ctx.out.json(&reports)?;
            }
        }
        ReleaseCommand::Diff { a, b } => {
            let found = diff::paths(a, b)?;
            if ctx.out.is_json() {
                ctx.out.json(&found)?;
            }
            if !found.is_empty() {
                return Err(Failure::new(ExitCode::Diverged, diff::describe(&found)).into());
            }
            ctx.out.line(format!("{} the same bytes", ctx.out.mark(State::Ok)));
        }
        ReleaseCommand::Sbom { files } => {
            let mut reports = Vec::new();
            for path in files_of(files, &[".tar.zst"])? {
                let found = second_opinion::run(ctx, &path)?;
                if !found.wrong.is_empty() {
                    let message = format!("{}: {}", path.display(), found.wrong.join("\n"));
                    return fail(ExitCode::Diverged, message);
                }
                ctx.out.line(format!("{} {}: {}", ctx.out.mark(State::Ok), path.display(), found.describe()));
                reports.push(json!({ "file": path, "found": found }));
            }
            if ctx.out.is_json() {
                ctx.out.json(&reports)?;
            }
        }
        ReleaseCommand::Notes => ctx.out.stdout(&notes::notes(ctx)?)?,
    }
    Ok(ExitCode::Ok)
}

/// The files at `paths`, and those in folders among them that end so.
///
/// # Errors
/// [`ExitCode::NotFound`] for a folder that has none.
fn files_of(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
        let entries =
            entries.collect::<Result<Vec<_>, _>>().with_context(|| format!("reading {}", path.display()))?;
        let mut inside: Vec<PathBuf> = entries.iter().map(|entry| entry.path()).collect();
        inside.retain(|file| endings.iter().any(|ending| file.to_string_lossy().ends_with(ending)));
        if inside.is_empty() {
            return fail(
                ExitCode::NotFound,
                format!("{} holds no {}", path.display(), endings.join(" and no ")),
            );
        }
        inside.sort();
        found.extend(inside);
    }
    Ok(found)
}
