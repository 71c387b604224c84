//! `manual [--check]`: shell completions and man pages of `bitnet`, under `runtime/cli/manual`.
//!
//! In: what the binary itself says (`bitnet completions`, `bitnet man`). Out: the files, or, with `--check`, a failure that names
//! those that are out of date. Deliberately absent: the command line; the binary owns it, xtask does not link it.

use crate::cli;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::collections::BTreeMap;
use std::path::Path;

/// Below the root.
const FOLDER: &str = "runtime/cli/manual";

/// Shells and the names under which they look for completions.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "completions/bitnet.bash"),
    ("zsh", "completions/_bitnet"),
    ("fish", "completions/bitnet.fish"),
];

type Files = BTreeMap<String, Vec<u8>>;

pub fn run(ctx: &Ctx, args: &cli::Check) -> Result<ExitCode> {
    let summary = if args.check { check(ctx)? } else { write(ctx)? };
    ctx.out.line(&summary);
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "folder": FOLDER, "summary": summary }))?;
    }
    Ok(ExitCode::Ok)
}

/// What there is, where it is what the binary says.
///
/// # Errors
/// [`ExitCode::CheckFailed`] where it is not, with the command that refreshes it.
pub fn check(ctx: &Ctx) -> Result<String> {
    let made = generate(ctx)?;
    let stale = stale(&ctx.root()?.join(FOLDER), &made)?;
    if !stale.is_empty() {
        let names = stale.join(", ");
        return fail(
            ExitCode::CheckFailed,
            format!("out of date in {FOLDER}: {names}; run `cargo xtask manual`"),
        );
    }
    Ok(format!("{} files in {FOLDER}, as the binary says", made.len()))
}

fn write(ctx: &Ctx) -> Result<String> {
    let made = generate(ctx)?;
    let folder = ctx.root()?.join(FOLDER);
    let stale = stale(&folder, &made)?;
    for name in &stale {
        let path = folder.join(name);
        let Some(content) = made.get(name) else {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            continue;
        };
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(format!("{} files in {FOLDER}, {} of them written or removed", made.len(), stale.len()))
}

/// Asks the binary of a debug build, which the tests have made already.
fn generate(ctx: &Ctx) -> Result<Files> {
    let build = ctx.cargo(["build", "--locked", "--workspace", "--bin", "bitnet"])?;
    let log = ctx.log_file("manual")?;
    let mut progress = ctx.out.progress("manual");
    proc::run(ctx, &build, Stdout::Log, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::Toolchain)?;
    let binary = ctx.target_dir()?.join("debug/bitnet");
    let mut files = Files::new();
    for (shell, name) in SHELLS {
        let text = proc::read(ctx, &Command::new(&binary).args(["completions", shell]))?;
        files.insert(name.into(), text.into_bytes());
    }
    let dir = tempfile::tempdir().context("creating a folder for man pages")?;
    proc::read(ctx, &Command::new(&binary).args(["man"]).args([dir.path()]))?;
    for (name, content) in read(dir.path())? {
        files.insert(format!("man1/{name}"), content);
    }
    Ok(files)
}

/// Names that differ, are missing or are too many.
fn stale(folder: &Path, made: &Files) -> Result<Vec<String>> {
    let there = if folder.is_dir() { read(folder)? } else { Files::new() };
    let names = made.keys().chain(there.keys().filter(|name| !made.contains_key(*name)));
    Ok(names.filter(|name| made.get(*name) != there.get(*name)).cloned().collect())
}

/// Files below `folder`, by their path from there.
fn read(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(
                read(&path)?.into_iter().map(|(below, content)| (format!("{name}/{below}"), content)),
            );
        } else {
            let content = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            files.insert(name, content);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_missing_or_is_too_many_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("man1")).unwrap();
        for (name, content) in [("man1/same", "a"), ("man1/other", "b"), ("left", "c")] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let made = [("man1/same", "a"), ("man1/other", "x"), ("new", "d")];
        let made = made.map(|(name, content)| (name.to_string(), content.as_bytes().to_vec())).into();
        assert_eq!(stale(dir.path(), &made).unwrap(), ["man1/other", "new", "left"]);
        assert_eq!(stale(&dir.path().join("nowhere"), &made).unwrap().len(), 3);
    }
}
