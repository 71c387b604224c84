//! `kernels build --cuda`: compiles the CUDA kernels ahead of time, without a GPU.
//!
//! In: runtime/src/cuda/kernels/*.cu, nvcc of the system or of the pinned wheels. Out: NAME.fatbin per file in
//! target/cuda-kernels (machine code for each `CHIPS` entry, PTX for later ones), and manifest.json with digests and
//! what each kernel takes of a multiprocessor. `cargo build --features cuda` embeds them. [`nccl`]
//! installs the library that several GPUs need to share a model. Deliberately absent: running.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::preflight::system::System;
use crate::preflight::toolchain::version;
use crate::proc::{self, Command, Probe, Stdout};
use crate::python::{self, Wheels};
use crate::receipts::store::sha256;
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOURCES: &str = "runtime/src/cuda/kernels";
const REQUIREMENTS: &str = "tools/requirements-cuda.txt";
/// Compute capabilities with machine code.
const CHIPS: &[&str] = &["80", "86", "89", "90"];
/// The chip whose resources are reported, and whose PTX is for later ones.
const NEWEST: &str = "90";
/// Files that use instructions of the newest chips only.
const NEWEST_ONLY: &[&str] = &["decode"];
/// Files that use instructions of one chip alone, which no later one has: no PTX of them.
const ONE_CHIP: &[&str] = &["step_attend", "step_gemm", "step_gemv", "step_rows", "step_wide"];
/// That chip, as the compiler calls it where these instructions are wanted.
const ONE: &str = "90a";
/// The first nvcc that knows every instruction used.
const OLDEST_NVCC: &str = "12.8";

#[derive(Debug, Serialize)]
pub struct Manifest {
    /// The last line of `nvcc --version`.
    pub compiler: String,
    pub files: Vec<Built>,
    pub kernels: Vec<Resources>,
}

#[derive(Debug, Serialize)]
pub struct Built {
    pub file: String,
    pub sha256: String,
    pub bytes: u64,
    pub chips: Vec<String>,
}

/// What one kernel takes on the newest chip, as ptxas says.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Resources {
    pub kernel: String,
    pub registers: u32,
    pub spill_bytes: u32,
    pub stack_bytes: u32,
    /// Static; kernels ask for more when they are launched.
    pub shared_bytes: u32,
}

/// Compiles everything; returns the manifest.
///
/// # Errors
/// [`ExitCode::Network`] where nvcc is neither here nor to be had, [`ExitCode::Toolchain`] where it fails.
pub fn build(ctx: &Ctx) -> Result<Manifest> {
    let nvcc = nvcc(ctx)?;
    let compiler = match probe_version(ctx, &nvcc) {
        Some(text) => text,
        None => return fail(ExitCode::Toolchain, format!("`{} --version` does not answer", nvcc.display())),
    };
    let sources = ctx.root()?.join(SOURCES);
    let out = output(ctx)?;
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let mut manifest = Manifest { compiler, files: Vec::new(), kernels: Vec::new() };
    for name in names(&sources)? {
        let one = ONE_CHIP.contains(&name.as_str());
        let wanted = |chip: &&&str| !NEWEST_ONLY.contains(&name.as_str()) || **chip == NEWEST;
        let chips: Vec<&str> = if one { vec![ONE] } else { CHIPS.iter().filter(wanted).copied().collect() };
        let ptx = if one { vec![] } else { vec![format!("arch=compute_{NEWEST},code=compute_{NEWEST}")] };
        let path = out.join(format!("{name}.fatbin"));
        let partial = out.join(format!("{name}.partial"));
        // In the folder of the sources, so that no path of this machine gets into the file.
        let command = Command::new(&nvcc)
            .dir(&sources)
            .args(["-std=c++17", "-O3", "-fatbin", "-Xptxas", "-v"])
            .args(
                chips
                    .iter()
                    .flat_map(|chip| ["-gencode".into(), format!("arch=compute_{chip},code=sm_{chip}")]),
            )
            .args(ptx.into_iter().flat_map(|target| ["-gencode".into(), target]))
            .args([format!("{name}.cu"), "-o".into()])
            .args([&partial]);
        let mut progress = ctx.out.progress(format!("compiling {name}.cu for {} chips", chips.len()));
        let log = ctx.log_file(&format!("kernels-{name}"))?;
        let mut lines = Vec::new();
        proc::run(ctx, &command, Stdout::Log, &log, |line| {
            progress.message(line);
            lines.push(line.to_string());
        })?
        .must_succeed(ExitCode::Toolchain)?;
        fs::rename(&partial, &path).with_context(|| format!("renaming to {}", path.display()))?;
        manifest.kernels.extend(resources(&lines));
        manifest.files.push(Built {
            file: format!("{name}.fatbin"),
            sha256: sha256(&path)?,
            bytes: fs::metadata(&path)?.len(),
            chips: chips.into_iter().map(String::from).collect(),
        });
    }
    let text = serde_json::to_string_pretty(&manifest)?;
    fs::write(out.join("manifest.json"), text + "\n")
        .with_context(|| format!("writing to {}", out.display()))?;
    Ok(manifest)
}

pub fn run(ctx: &Ctx) -> Result<ExitCode> {
    let manifest = build(ctx)?;
    if ctx.out.is_json() {
        ctx.out.json(&manifest)?;
    } else {
        ctx.out.stdout(&render(&manifest))?;
    }
    ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), output(ctx)?.display()));
    Ok(ExitCode::Ok)
}

fn output(ctx: &Ctx) -> Result<PathBuf> {
    Ok(match ctx.env.get("BITNET_CUDA_KERNELS") {
        Some(dir) => dir.into(),
        None => ctx.root()?.join("target/cuda-kernels"),
    })
}

/// Names of the files to compile, sorted, without extension.
fn names(sources: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(sources).with_context(|| format!("reading {}", sources.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_string());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .filter_map(stem)
        .collect();
    names.sort();
    Ok(names)
}

/// The system's nvcc where it is new enough, otherwise that of the pinned wheels.
fn nvcc(ctx: &Ctx) -> Result<PathBuf> {
    let system = System { ctx, sysroot: Path::new("/") };
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(|name| ctx.env.get(name));
    let places = homes.map(|home| Path::new(home).join("bin/nvcc")).chain(system.which("nvcc"));
    let new_enough =
        |path: &PathBuf| probe_version(ctx, path).is_some_and(|text| version(&text) >= version(OLDEST_NVCC));
    match places.into_iter().find(new_enough) {
        Some(nvcc) => Ok(nvcc),
        None => pinned(ctx),
    }
}

/// `Build cuda_13.0.r13.0/compiler...` or the line before it.
fn probe_version(ctx: &Ctx, nvcc: &Path) -> Option<String> {
    let command = Command::new(nvcc).args(["--version"]);
    let Probe::Output(text) = proc::probe(ctx, &command, Duration::from_secs(20)) else { return None };
    text.lines().find(|line| line.contains("release")).map(|line| line.trim().to_string())
}

/// nvcc of the pinned wheels.
fn pinned(ctx: &Ctx) -> Result<PathBuf> {
    const NVCC: &str = "nvidia/cu13/bin/nvcc";
    let wheels = Wheels {
        name: "cuda",
        requirements: REQUIREMENTS,
        notice: "no nvcc that is new enough; installing the pinned one into the cache (100 MiB)",
        offline: &format!(
            "no nvcc of {OLDEST_NVCC} or later, and the network is off; install CUDA, or unset BITNET_OFFLINE"
        ),
    };
    let finish = |dir: &Path| {
        // nvcc looks for headers in include; the C++ standard headers come in a folder of their own.
        let include = dir.join("nvidia/cu13/include");
        if include.join("nv").exists() {
            return Ok(());
        }
        std::os::unix::fs::symlink("cccl/nv", include.join("nv")).context("linking include/nv")
    };
    Ok(python::wheels(ctx, &wheels, |dir| dir.join(NVCC).is_file(), finish)?.join(NVCC))
}

/// `kernels nccl`: the library of the pinned wheel, and how `bitnet` finds it.
pub fn nccl(ctx: &Ctx) -> Result<ExitCode> {
    const LIBRARY: &str = "nvidia/nccl/lib/libnccl.so.2";
    let wheels = Wheels {
        name: "nccl",
        requirements: "tools/requirements-nccl.txt",
        notice: "installing the pinned NCCL into the cache (291 MiB)",
        offline: "NCCL is not in the cache and the network is off; install the system's libnccl2, or unset BITNET_OFFLINE",
    };
    let dir = python::wheels(ctx, &wheels, |dir| dir.join(LIBRARY).is_file(), |_| Ok(()))?;
    ctx.out.line(format!("{} NCCL is here; `bitnet` takes it where this is set:", ctx.out.mark(State::Ok)));
    ctx.out.stdout(&format!("BITNET_NCCL={}", dir.join(LIBRARY).display()))?;
    Ok(ExitCode::Ok)
}

/// Reads `-Xptxas -v`, the part about the newest chip.
fn resources(lines: &[String]) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    let mut open = false;
    let number_before = |line: &str, unit: &str| -> u32 {
        let before = line.split(unit).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    for line in lines {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let name = rest.split('\'').next().unwrap_or_default();
            let newest = [NEWEST, ONE].iter().any(|chip| rest.contains(&format!("'sm_{chip}'")));
            open = newest && !name.is_empty();
            if open {
                found.push(Resources { kernel: name.into(), ..Resources::default() });
            }
        }
        let Some(last) = found.last_mut().filter(|_| open) else { continue };
        if line.contains("bytes stack frame") {
            last.stack_bytes = number_before(line, " bytes stack frame");
            last.spill_bytes =
                number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        }
        if line.contains("registers") {
            last.registers = number_before(line, " registers");
            last.shared_bytes =
                if line.contains("bytes smem") { number_before(line, " bytes smem") } else { 0 };
        }
    }
    found.sort_by(|a, b| a.kernel.cmp(&b.kernel));
    found
}

fn render(manifest: &Manifest) -> String {
    let rows = manifest.kernels.iter().map(|kernel| {
        [
            kernel.kernel.clone(),
            kernel.registers.to_string(),
            kernel.spill_bytes.to_string(),
            kernel.stack_bytes.to_string(),
            kernel.shared_bytes.to_string(),
        ]
    });
    let files = manifest.files.iter().map(|built| format!("{}  {}\n", built.sha256, built.file));
    format!(
        "{}\n{}{}",
        table(
            [
                &format!("kernel (sm_{NEWEST})"),
                "registers",
                "spilled bytes",
                "stack bytes",
                "static shared bytes"
            ],
            rows
        ),
        files.collect::<String>(),
        manifest.compiler
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_ptxas_is_read_for_the_newest_chip() {
        let text = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'embed' for 'sm_80'
ptxas info    : Function properties for embed
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers
ptxas info    : Compiling entry function 'embed' for 'sm_90'
    64 bytes stack frame, 60 bytes spill stores, 68 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 256 bytes smem, 64 bytes cumulative stack size";
        let lines: Vec<String> = text.lines().map(String::from).collect();
        let expected = Resources {
            kernel: "embed".into(),
            registers: 128,
            spill_bytes: 128,
            stack_bytes: 64,
            shared_bytes: 256,
        };
        assert_eq!(resources(&lines), [expected]);
    }

    #[test]
    fn every_kernel_file_is_compiled() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SOURCES);
        assert_eq!(
            names(&sources).unwrap(),
            [
                "attention",
                "decode",
                "exact",
                "gemm",
                "quants",
                "rows",
                "step_attend",
                "step_gemm",
                "step_gemv",
                "step_rows",
                "step_wide",
                "team"
            ]
        );
    }
}
