//! `gpu-smoke`: the GPU backends compile everywhere, and where there is a device it computes what the CPU does.
//!
//! In: the sources; a device, if any. Out: without a device, that kernels and every combination of features compile. With
//! one: every kernel against its definition, the logits of models against the CPU's, greedy tokens next to the
//! CPU's, and a parity receipt. Deliberately absent: speed (see [`crate::bench`]).

use crate::binary;
use crate::crossval::{self, Against, Case, CrossvalArgs, settings::Settings};
use crate::ctx::Ctx;
use crate::exit::{code_of, fail, message_of};
use crate::kernels::cuda;
use crate::proc::{self, Command, Stdout};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_receipt_schema::crossval::Verdict;
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args, Clone, Debug)]
pub struct GpuSmoke {
    /// Only compile, also where there is a device
    #[arg(long)]
    pub compile_only: bool,
    /// Fail where there is no device
    #[arg(long, conflicts_with = "compile_only")]
    pub require_device: bool,
    /// More models to compare, as paths to GGUF files
    #[arg(long, value_delimiter = ',')]
    pub models: Vec<PathBuf>,
    /// Random shapes that every kernel is checked at
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Positions whose logits are compared
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
}

/// Every combination of backend features of the runtime; `--no-default-features` with each, so none has `net`.
pub const FEATURES: &[&str] = &["", "cpu", "gpu", "cuda", "cpu,gpu", "cpu,cuda", "gpu,cuda", "cpu,gpu,cuda"];

/// Fixtures whose types the CUDA kernels read.
const FIXTURES: &[&str] = &[
    "bitnet-b158-i2_s",
    "bitnet-b158-tq2_0",
    "bitnet-i2_s",
    "bitnet-tq1_0",
    "llama-f16",
    "llama-q4_1",
    "llama-q8_0",
    "llama-q6_k",
];
/// Greedy tokens that are compared.
const GREEDY: usize = 128;
const PROMPT: &str = "1,2,3,5,8,13,21,34";

pub fn run(ctx: &Ctx, args: &GpuSmoke) -> Result<ExitCode> {
    // A binary that is named was compiled elsewhere, maybe for a machine without a compiler, as this one may be.
    if ctx.env.get("BITNET_BINARY").is_none() {
        compile(ctx)?;
    }
    if args.compile_only {
        return Ok(ExitCode::Ok);
    }
    let binary = match ctx.env.get("BITNET_BINARY") {
        Some(_) => binary::release(ctx)?,
        None => binary::build(ctx, "bitnet-cli", "bitnet", &["cuda"])?,
    };
    let text = proc::read(ctx, &Command::new(&binary).args(["kernels", "--json"]))?;
    let listing: Listing = serde_json::from_str(&text).context("the JSON of `bitnet kernels`")?;
    if !listing.device.gpu_available || listing.device.faked {
        let why = format!("no device: {}", listing.device.selection_line);
        ctx.out.line(format!("{} {why}", ctx.out.mark(State::CouldNotCheck)));
        return if args.require_device { fail(ExitCode::Accelerator, why) } else { Ok(ExitCode::Ok) };
    }
    ctx.out.line(format!("{} {}", ctx.out.mark(State::Ok), listing.device.selection_line));
    let rounds = args.rounds.to_string();
    let check =
        Command::new(&binary).args(["kernels", "--device", "gpu", "--check-device", &rounds]).limit(LIMIT);
    let log = ctx.log_file("gpu-smoke-kernels")?;
    let finished = proc::run(ctx, &check, Stdout::Log, &log, |_| ())?.must_succeed(ExitCode::Diverged)?;
    ctx.out.line(format!(
        "{} every kernel equals its definition ({:.1} s)",
        ctx.out.mark(State::Ok),
        finished.seconds
    ));
    compare(ctx, args, &binary, listing.device.selection.reason)
}

const LIMIT: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
struct Listing {
    device: Device,
}

#[derive(Deserialize)]
struct Device {
    selection_line: String,
    selection: bitforge_schema::selection::Selection,
    gpu_available: bool,
    faked: bool,
}

/// Kernels, then the runtime with every combination of features.
fn compile(ctx: &Ctx) -> Result<()> {
    match cuda::build(ctx) {
        Ok(manifest) => ctx.out.line(format!(
            "{} {} CUDA kernels compiled ({})",
            ctx.out.mark(State::Ok),
            manifest.kernels.len(),
            manifest.compiler
        )),
        Err(error) if code_of(&error) == ExitCode::Network => {
            ctx.out.line(format!(
                "{} CUDA kernels were not compiled: {}",
                ctx.out.mark(State::CouldNotCheck),
                message_of(&error)
            ));
        }
        Err(error) => return Err(error),
    }
    for features in FEATURES {
        let command = ctx
            .cargo(["check", "--locked", "-p", "bitnet-cli", "--no-default-features"])?
            .args(["--features", features]);
        let log = ctx.log_file("gpu-smoke-features")?;
        proc::run(ctx, &command, Stdout::Log, &log, |_| ())?.must_succeed(ExitCode::Toolchain)?;
        let name = if features.is_empty() { "no feature" } else { features };
        ctx.out.line(format!("{} compiles with {name}", ctx.out.mark(State::Ok)));
    }
    Ok(())
}

fn compare(ctx: &Ctx, args: &GpuSmoke, binary: &Path, gpu: String) -> Result<ExitCode> {
    let settings = Settings::load(ctx)?;
    let root = ctx.root()?;
    let fixtures = FIXTURES.iter().map(|name| root.join(format!("fixtures/gguf/ok/{name}.gguf")));
    let trained = std::fs::read_dir(root.join("fixtures/trained"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let trained = trained.filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let models: Vec<PathBuf> = fixtures.chain(trained).chain(args.models.iter().cloned()).collect();
    let case = |path: &PathBuf| Case {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        model: path.is_file().then(|| path.clone()),
        missing: format!("{} is not a file", path.display()),
        against: Against::Cpu,
    };
    let cases: Vec<Case> = models.iter().map(case).collect();
    let crossval =
        CrossvalArgs { device: Some("gpu".into()), tokens: args.tokens, ..CrossvalArgs::default() };
    let (mut reports, _) = crossval::compare(ctx, &crossval, &settings, &cases)?;
    for (report, path) in reports.iter_mut().zip(&models) {
        if report.verdict == Verdict::CouldNotCheck {
            continue;
        }
        let greedy = greedy(ctx, binary, path)?;
        if !greedy.holds {
            report.verdict = Verdict::Diverges;
            report.code = ExitCode::Diverged;
        }
        report.detail =
            [report.detail.as_str(), greedy.text.as_str()].join("; ").trim_start_matches("; ").to_string();
    }
    crossval::write_receipt(ctx, &reports, &cases, &settings, &crossval, vec![gpu])?;
    ctx.out.line(crossval::render(&ctx.out, &reports));
    for (report, case) in reports.iter().zip(&cases) {
        ctx.out.line(format!("  {}: {}", case.name, report.detail));
    }
    let diverges = reports.iter().any(|report| report.verdict == Verdict::Diverges);
    Ok(if diverges { ExitCode::Diverged } else { ExitCode::Ok })
}

struct Greedy {
    holds: bool,
    text: String,
}

/// Greedy tokens of both; where they part, whether the CPU's two best logits were a tie there.
fn greedy(ctx: &Ctx, binary: &Path, model: &Path) -> Result<Greedy> {
    let tokens = |device: &str| -> Result<Vec<u32>> {
        let count = GREEDY.to_string();
        let command = Command::new(binary)
            .args(["run", "--json", "--temperature", "0", "--ignore-eos", "--top-k", "1"])
            .args(["--prompt-tokens", PROMPT, "--max-tokens", &count, "--device", device, "--model"])
            .args([model])
            .limit(LIMIT);
        let output: RunOutput =
            serde_json::from_str(&proc::read(ctx, &command)?).context("the JSON of `bitnet run`")?;
        Ok(output.output_tokens)
    };
    let (cpu, gpu) = (tokens("cpu")?, tokens("gpu")?);
    let same = cpu.iter().zip(&gpu).take_while(|(a, b)| a == b).count();
    if cpu == gpu {
        return Ok(Greedy { holds: true, text: format!("greedy: {same} of {same} tokens equal") });
    }
    let prompt = PROMPT.split(',').map(String::from).chain(cpu[..same].iter().map(u32::to_string));
    let prompt = prompt.collect::<Vec<_>>().join(",");
    let scratch = tempfile::tempdir().context("creating a folder for logits")?;
    let file = scratch.path().join("logits.f32");
    let command = Command::new(binary)
        .args(["logits", "--device", "cpu", "--tokens", &prompt, "--out"])
        .args([file.as_path()])
        .args(["--model"])
        .args([model])
        .limit(LIMIT);
    proc::read(ctx, &command)?;
    let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let positions = prompt.split(',').count();
    let row = &bytes[bytes.len() - bytes.len() / positions..];
    let logit = |id: u32| {
        let at = 4 * id as usize;
        row.get(at..at + 4).map_or(f32::NAN, |four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
    };
    let (ours, theirs) = (gpu.get(same).copied().unwrap_or(0), cpu.get(same).copied().unwrap_or(0));
    let gap = logit(theirs) - logit(ours);
    // As close as eight-bit rounding of one activation moves a logit.
    let holds = gap.abs() <= TIE;
    let what = if holds { "a tie" } else { "no tie" };
    let text = format!(
        "greedy: {same} of {GREEDY} tokens equal, then {theirs} on the CPU and {ours} on the GPU, {gap:.4} apart: {what}"
    );
    Ok(Greedy { holds, text })
}

/// Logits closer than this are a tie.
const TIE: f32 = 0.05;

#[derive(Deserialize)]
struct RunOutput {
    output_tokens: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_features_is_compiled() {
        let manifest =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/cli/Cargo.toml"))
                .unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let known = manifest["features"].as_table().unwrap();
        let names: Vec<&String> = known
            .keys()
            .filter(|name| !["default", "net", "server", "planted-bugs"].contains(&name.as_str()))
            .collect();
        for combination in 0..1u32 << names.len() {
            let chosen: Vec<&str> = names
                .iter()
                .enumerate()
                .filter(|(i, _)| combination >> i & 1 == 1)
                .map(|(_, name)| name.as_str())
                .collect();
            let mut wanted = chosen.clone();
            wanted.sort_unstable();
            let found = FEATURES.iter().any(|features| {
                let mut listed: Vec<&str> = features.split(',').filter(|name| !name.is_empty()).collect();
                listed.sort_unstable();
                listed == wanted
            });
            assert!(found, "{chosen:?} is not in FEATURES");
        }
    }

    #[test]
    fn fixtures_that_are_named_exist() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf/ok");
        assert!(FIXTURES.iter().all(|name| dir.join(format!("{name}.gguf")).is_file()));
    }
}
