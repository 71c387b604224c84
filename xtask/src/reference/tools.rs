//! The build tools of the references: cmake and ninja, and the compiler.
//!
//! In: PATH and tools/pins.toml. Out: programs to run, and the identity of the compiler for the key. Where the
//! system's cmake or ninja is missing or too old, the pinned wheels go into a private folder of the cache.

use super::pins::Tools;
use super::source::{digest_file, hex};
use crate::cli::{CompilerKind, Launcher};
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::lock::lock;
use crate::preflight::system::System;
use crate::preflight::toolchain::version;
use crate::proc::{self, Command, Probe, Stdout};
use crate::python::python_with_pip;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct BuildTools {
    pub cmake: PathBuf,
    pub ninja: PathBuf,
}

/// The system's cmake and ninja where both are good enough, otherwise the pinned ones.
pub fn build_tools(ctx: &Ctx, tools: &Tools, cache: &Path) -> Result<BuildTools> {
    let system = System { ctx, sysroot: Path::new("/") };
    let cmake = system_tool(ctx, &system, &["cmake"], &tools.cmake);
    let ninja = system_tool(ctx, &system, &["ninja", "ninja-build", "samu"], &tools.ninja);
    if let (Some(cmake), Some(ninja)) = (cmake, ninja) {
        return Ok(BuildTools { cmake, ninja });
    }
    pinned(ctx, &ctx.root()?.join(&tools.requirements), cache)
}

fn system_tool(ctx: &Ctx, system: &System<'_>, names: &[&str], oldest: &str) -> Option<PathBuf> {
    names.iter().filter_map(|name| system.which(name)).find(|path| {
        let command = Command::new(path).args(["--version"]);
        let Probe::Output(text) = proc::probe(ctx, &command, Duration::from_secs(10)) else { return false };
        version(&text) >= version(oldest)
    })
}

/// Installs the wheels of the requirements file once; its digest names the folder.
fn pinned(ctx: &Ctx, requirements: &Path, cache: &Path) -> Result<BuildTools> {
    let digest = digest_file(requirements)?;
    let dir = cache.join(format!("build-tools-{}", &digest[..16]));
    let tools = BuildTools { cmake: dir.join("cmake/data/bin/cmake"), ninja: dir.join("bin/ninja") };
    if dir.is_dir() {
        return Ok(tools);
    }
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let _lock = lock(ctx, &cache.join("build-tools.lock"))?;
    if dir.is_dir() {
        return Ok(tools);
    }
    if ctx.offline {
        return fail(
            ExitCode::Network,
            "cmake or ninja is missing or too old, and the network is off; install both, or unset BITNET_OFFLINE",
        );
    }
    ctx.out
        .line("the system's cmake or ninja is missing or too old; installing the pinned ones into the cache");
    let partial = cache.join("build-tools.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    let command = Command::new(python_with_pip(ctx, cache)?)
        .args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--target"])
        .args([partial.as_path()])
        .args(["-r"])
        .args([requirements]);
    let log = cache.join("build-tools.log");
    proc::run(ctx, &command, Stdout::Log, &log, |_| {})?.must_succeed(ExitCode::Network)?;
    for tool in [&tools.cmake, &tools.ninja] {
        let file = partial.join(tool.strip_prefix(&dir).unwrap_or(tool));
        if !file.is_file() {
            return fail(ExitCode::Toolchain, format!("the pinned wheels hold no {}", file.display()));
        }
    }
    fs::rename(&partial, &dir).with_context(|| format!("renaming to {}", dir.display()))?;
    Ok(tools)
}

/// A C and a C++ compiler that belong together.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub c: PathBuf,
    pub cxx: PathBuf,
    /// zig is one program for both languages: `zig cc`, `zig c++`.
    pub first_argument: Option<(&'static str, &'static str)>,
    /// The first line of `--version`.
    pub version: String,
    /// sha256 of the version text and the path.
    pub identity: String,
}

impl Compiler {
    /// The compiler asked for; otherwise CC and CXX, otherwise gcc, otherwise clang.
    pub fn find(ctx: &Ctx, kind: Option<CompilerKind>) -> Result<Self> {
        let system = System { ctx, sysroot: Path::new("/") };
        let pairs: Vec<(String, String)> = match kind {
            Some(CompilerKind::Gcc) => vec![("gcc".into(), "g++".into())],
            Some(CompilerKind::Clang) => vec![("clang".into(), "clang++".into())],
            Some(CompilerKind::Zig) => vec![("zig".into(), "zig".into())],
            None => {
                let from_env = ctx.env.get("CC").zip(ctx.env.get("CXX"));
                let from_env = from_env.map(|(c, cxx)| (c.to_string(), cxx.to_string()));
                let usual = [("gcc", "g++"), ("clang", "clang++"), ("cc", "c++")];
                from_env.into_iter().chain(usual.map(|(c, cxx)| (c.into(), cxx.into()))).collect()
            }
        };
        let locate = |program: &str| {
            let path = Path::new(program);
            if path.is_absolute() { path.is_file().then(|| path.into()) } else { system.which(program) }
        };
        let found = pairs.iter().find_map(|(c, cxx)| Some((locate(c)?, locate(cxx)?)));
        let Some((c, cxx)) = found else {
            let tried =
                pairs.iter().map(|(c, cxx)| format!("{c} and {cxx}")).collect::<Vec<_>>().join(", or ");
            return fail(
                ExitCode::Toolchain,
                format!(
                    "no C and C++ compiler: {tried} are not on PATH; `cargo xtask preflight` says how to install them"
                ),
            );
        };
        let zig = kind == Some(CompilerKind::Zig);
        let ask = Command::new(&cxx).args([if zig { "version" } else { "--version" }]);
        let text = match proc::probe(ctx, &ask, Duration::from_secs(20)) {
            Probe::Output(text) => text,
            other => {
                return fail(ExitCode::Toolchain, format!("`{}` does not answer: {other:?}", ask.line()));
            }
        };
        let version = format!("{}{}", if zig { "zig " } else { "" }, text.lines().next().unwrap_or_default());
        let identity = hex(&Sha256::digest(format!("{}\n{text}", cxx.display()).as_bytes()));
        Ok(Compiler { c, cxx, first_argument: zig.then_some(("cc", "c++")), version, identity })
    }

    /// `NAME=VALUE` for cmake.
    pub fn definitions(&self) -> Vec<String> {
        let mut list = vec![
            format!("CMAKE_C_COMPILER={}", self.c.display()),
            format!("CMAKE_CXX_COMPILER={}", self.cxx.display()),
        ];
        if let Some((c, cxx)) = self.first_argument {
            list.extend([format!("CMAKE_C_COMPILER_ARG1={c}"), format!("CMAKE_CXX_COMPILER_ARG1={cxx}")]);
        }
        list
    }
}

/// The program of a compiler launcher.
pub fn launcher(ctx: &Ctx, launcher: Launcher) -> Result<PathBuf> {
    let name = match launcher {
        Launcher::Sccache => "sccache",
        Launcher::Ccache => "ccache",
        Launcher::Icecc => "icecc",
    };
    System { ctx, sysroot: Path::new("/") }.which(name).ok_or_else(|| {
        let message = format!("{name} is not on PATH; install it, or build without --launcher");
        Failure::new(ExitCode::Toolchain, message).into()
    })
}
