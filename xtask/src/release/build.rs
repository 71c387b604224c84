//! Runs a plan: compiles, collects, packs, verifies, signs; with `--twice` again elsewhere, and compares.
//!
//! In: a [`Plan`]. Out: archives, wheels and their sidecars in a folder. Whatever the machine could put into the bytes is
//! fixed here: paths by prefix maps, time by SOURCE_DATE_EPOCH, locale, zone and jobs' flags by the environment of the compiler.
//! Deliberately absent: what is in an archive (see [`super::content`]) and its form.

use super::archive;
use super::content;
use super::plan::{Artifact, Plan};
use super::{ReleaseArgs, diff, runs, sign, verify};
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::kernels::cuda;
use crate::proc::{self, Command, Probe, Stdout};
use crate::python::python_with_pip;
use crate::report::{State, bytes};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const REQUIREMENTS: &str = "tools/requirements-release.txt";
/// Without cuda; stripped.
const MAX_BINARY: u64 = 15_000_000;
/// How long one cold build may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// The compiler's environment and arguments: recorded in the provenance with the machine's paths left out.
pub struct Recipe {
    command: Command,
    /// Relative to nothing: what the provenance says.
    pub flags: Vec<String>,
    pub rustc: String,
    binary: PathBuf,
}

impl Recipe {
    /// One that compiles nothing.
    #[cfg(test)]
    pub fn for_tests() -> Self {
        Recipe {
            command: Command::new("true"),
            flags: vec!["--locked".into()],
            rustc: "rustc 1.95.0".into(),
            binary: PathBuf::new(),
        }
    }
}

/// Builds everything into `out` and says what there is.
pub fn run(ctx: &Ctx, args: &ReleaseArgs, plan: &Plan) -> Result<Vec<PathBuf>> {
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => ctx.target_dir()?.join("release-artifacts").join(&plan.version),
    };
    let first = build_all(ctx, plan, &out)?;
    if args.twice {
        let again = ctx.target_dir()?.join("release-twice");
        let second = build_all(
            &clone(ctx, &plan.commit, &again.join("a-second/folder"))?,
            plan,
            &again.join("artifacts"),
        )?;
        let differences =
            first.iter().zip(&second).map(|(a, b)| diff::paths(a, b)).collect::<Result<Vec<_>>>()?;
        let differences: Vec<_> = differences.into_iter().flatten().collect();
        if !differences.is_empty() {
            return fail(ExitCode::Diverged, format!("two builds differ:\n{}", diff::describe(&differences)));
        }
        ctx.out.line(format!(
            "{} {} files, built twice, have the same bytes",
            ctx.out.mark(State::Ok),
            first.len()
        ));
    }
    if let Some(key) = &args.key {
        for path in &first {
            sign::sign(ctx, key, path)?;
        }
    }
    Ok(first)
}

/// Another checkout, of `commit`.
pub fn clone(ctx: &Ctx, commit: &str, folder: &Path) -> Result<Ctx> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let git = |args: Vec<&std::ffi::OsStr>| proc::read(ctx, &Command::new("git").args(args));
    git(["clone", "--quiet", "--no-checkout"]
        .map(AsRef::as_ref)
        .into_iter()
        .chain([ctx.root()?.as_os_str(), folder.as_os_str()])
        .collect())?;
    proc::read(ctx, &Command::new("git").args(["checkout", "--quiet", "--detach", commit]).dir(folder))?;
    // The receipts that are not committed are part of what is bound.
    let (from, to) = (crate::receipts::store::folder(ctx)?, folder.join("target/receipts"));
    if from.is_dir() {
        fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
        for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let path = entry.with_context(|| format!("reading {}", from.display()))?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default();
                fs::copy(&path, to.join(name)).with_context(|| format!("copying {}", path.display()))?;
            }
        }
    }
    let mut second = Ctx::new(Some(folder.into()), ctx.env.clone(), ctx.out);
    second.offline = ctx.offline;
    Ok(second)
}

fn build_all(ctx: &Ctx, plan: &Plan, out: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut paths = Vec::new();
    for artifact in &plan.artifacts {
        paths.extend(build_one(ctx, plan, artifact, out)?);
    }
    Ok(paths)
}

fn build_one(ctx: &Ctx, plan: &Plan, artifact: &Artifact, out: &Path) -> Result<[PathBuf; 2]> {
    if artifact.cuda {
        cuda::build(ctx)?;
    }
    let recipe = recipe(ctx, plan, artifact)?;
    let mut progress = ctx.out.progress(format!("building {}", artifact.name));
    let log = ctx.log_file(&artifact.name)?;
    let finished = proc::run(ctx, &recipe.command, Stdout::Log, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::Toolchain)?;
    drop(progress);
    let binary = fs::read(&recipe.binary).with_context(|| format!("reading {}", recipe.binary.display()))?;
    let size = binary.len() as u64;
    ctx.out.line(format!("{} {:.0} s, {} ({size} bytes)", artifact.name, finished.seconds, bytes(size)));
    if !artifact.cuda && size > MAX_BINARY {
        ctx.out.line(format!("{} the binary is larger than {MAX_BINARY} bytes", ctx.out.mark(State::Warn)));
    }
    runs::check(ctx, artifact.machine(), &recipe.binary)?;
    let made = content::collect(ctx, plan, artifact, &recipe, binary)?;
    let archive = out.join(format!("{}.tar.zst", artifact.name));
    let packed = archive::pack(&made.archive, &artifact.name, plan.epoch)?;
    let wheel = out.join(made.wheel_name);
    for (path, data) in [(&archive, packed), (&wheel, archive::pack_zip(&made.wheel)?)] {
        fs::write(path, data).with_context(|| format!("writing {}", path.display()))?;
        verify::file(path)?;
    }
    Ok([archive, wheel])
}

/// What cargo is started with.
fn recipe(ctx: &Ctx, plan: &Plan, artifact: &Artifact) -> Result<Recipe> {
    let root = ctx.root()?;
    let cross = artifact.machine() != std::env::consts::ARCH;
    let rustc = rustc(ctx, artifact)?;
    let ask = |args: &[&str]| proc::read(ctx, &Command::new(&rustc).args(args.iter().copied()));
    let sysroot = ask(&["--print", "sysroot"])?;
    let cargo_home = match ctx
        .env
        .get("CARGO_HOME")
        .map(String::from)
        .or(ctx.env.get("HOME").map(|home| format!("{home}/.cargo")))
    {
        Some(dir) => dir,
        None => {
            return fail(
                ExitCode::Usage,
                "neither CARGO_HOME nor HOME is set, so the crates' paths are not known",
            );
        }
    };
    let maps = [(root.display().to_string(), "/bitforge"), (cargo_home, "/cargo"), (sysroot, "/rust")];
    let rust = |(from, to): &(String, &str)| format!("--remap-path-prefix={from}={to}");
    // The profile's `strip` alone left the symbols in: 17.4 MB instead of 13.5.
    let rustflags = maps.iter().map(rust).chain(["-Cstrip=symbols".to_string()]);
    let c = |(from, to): &(String, &str)| format!("-ffile-prefix-map={from}={to}");
    // With and without cuda share what both are made of.
    let target_dir = root.join("target/release-build").join(&artifact.platform);
    let (subcommand, target) = match &artifact.glibc {
        Some(glibc) => ("zigbuild", format!("{}.{glibc}", artifact.platform)),
        None => ("build", artifact.platform.clone()),
    };
    let mut command = ctx
        .cargo([subcommand, "--locked", "--profile", "dist", "-p", "bitnet-cli", "--bin", "bitnet"])?
        .args(["--target".into(), target.clone()])
        .args(["--target-dir".into(), target_dir.clone().into_os_string()])
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.collect::<Vec<_>>().join("\x1f"))
        .env("CFLAGS", maps.iter().map(c).collect::<Vec<_>>().join(" "))
        .env("SOURCE_DATE_EPOCH", plan.epoch.to_string())
        .env("CARGO_INCREMENTAL", "0")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .limit(LIMIT);
    if cross {
        command = command.env("RUSTC", &rustc);
    }
    if artifact.cuda {
        command = command.args(["--features".to_string(), artifact.features().join(",")]);
    }
    if artifact.glibc.is_some() {
        let tools = zig(ctx)?;
        let path =
            format!("{}:{}", tools.join("bin").display(), ctx.env.get("PATH").unwrap_or("/usr/bin:/bin"));
        command = command.env("PATH", path).env("PYTHONPATH", tools);
    } else if cross {
        let linker = format!("CARGO_TARGET_{}_LINKER", artifact.platform.to_uppercase().replace('-', "_"));
        command = command.env(linker, format!("{}-linux-gnu-gcc", artifact.machine()));
    }
    let flags = ["workspace=/bitforge", "cargo-home=/cargo", "sysroot=/rust"];
    let flags = flags
        .iter()
        .flat_map(|map| [format!("--remap-path-prefix={map}"), format!("-ffile-prefix-map={map}")]);
    let fixed = ["--locked", "--profile dist", "CARGO_INCREMENTAL=0", "LC_ALL=C", "TZ=UTC"].map(String::from);
    Ok(Recipe {
        command,
        flags: fixed.into_iter().chain([format!("--target {target}")]).chain(flags).collect(),
        rustc: ask(&["-vV"])?,
        binary: target_dir.join(&artifact.platform).join("dist/bitnet"),
    })
}

/// A compiler that has a standard library for the platform.
fn rustc(ctx: &Ctx, artifact: &Artifact) -> Result<PathBuf> {
    for candidate in [ctx.env.get("RUSTC").unwrap_or("rustc"), "/usr/bin/rustc"] {
        let ask = Command::new(candidate).args(["--print", "target-libdir", "--target", &artifact.platform]);
        if let Probe::Output(dir) = proc::probe(ctx, &ask, Duration::from_secs(20))
            && Path::new(&dir).is_dir()
        {
            return Ok(candidate.into());
        }
    }
    let platform = &artifact.platform;
    fail(
        ExitCode::Toolchain,
        format!(
            "no standard library for {platform}; `rustup target add {platform}`, or on Debian the packages of ci/aarch64.sh, or leave it out with --target"
        ),
    )
}

/// The pinned zig and cargo-zigbuild, installed into the cache.
fn zig(ctx: &Ctx) -> Result<PathBuf> {
    let requirements = ctx.root()?.join(REQUIREMENTS);
    let text = fs::read(&requirements).with_context(|| format!("reading {}", requirements.display()))?;
    let cache = ctx.cache_dir()?;
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let _held = crate::lock::lock(ctx, &cache.join("release-tools.lock"))?;
    let dir = cache.join(format!("release-tools-{}", &archive::digest(&text)[..16]));
    if dir.join("bin/cargo-zigbuild").is_file() {
        return Ok(dir);
    }
    if ctx.offline {
        return fail(
            ExitCode::Offline,
            "zig is not in the cache and the network is off; unset BITNET_OFFLINE, or link with --glibc host",
        );
    }
    ctx.out.line("installing the pinned zig and cargo-zigbuild into the cache");
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    let command = Command::new(python_with_pip(ctx, &cache)?)
        .args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--target"])
        .args([partial.as_path()])
        .args(["-r"])
        .args([&requirements]);
    proc::run(ctx, &command, Stdout::Log, &cache.join("release-tools.log"), |_| {})?
        .must_succeed(ExitCode::Network)?;
    fs::rename(&partial, &dir).with_context(|| format!("renaming to {}", dir.display()))?;
    Ok(dir)
}
