//! `kernels list|select|lab|tune|build`: the kernel that each operation gets, why the others were not chosen, how fast
//! they are, and what a build for some target has.
//!
//! In: `bitnet kernels`, run here or in an emulator. Out: tables. [`cuda`] compiles GPU kernels. Deliberately absent: any choice and any arithmetic; the
//! binary makes them.

pub mod cuda;

use crate::binary;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum KernelsCommand {
    /// What every operation gets, and why not something else.
    List,
    /// What is selected, with what was asked for: an error where that cannot run here.
    Select {
        /// A level, as `--kernels` of `bitnet run` takes it.
        #[arg(default_value = "auto")]
        name: String,
    },
    /// Every kernel for one type of weights: checked against the scalar definition, timed in turns, next to the limits.
    Lab {
        /// For example I2_S or Q4_1.
        weight: String,
        #[arg(long, default_value_t = 2560)]
        columns: usize,
        /// Numbers of activation rows.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 128])]
        count: Vec<usize>,
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Times the kernels for a model's products and keeps what is better than the default beyond noise.
    Tune {
        /// A path or a name of the catalog.
        #[arg(long)]
        model: String,
        #[arg(long)]
        threads: Option<usize>,
    },
    /// Compiles the runtime for a target and says which kernels the build has.
    /// With --cuda the GPU kernels alone are compiled, ahead of time, for a build that embeds them.
    Build {
        /// For example x86_64-unknown-linux-gnu; the linker and an emulator are cargo's to know.
        #[arg(long, required_unless_present = "cuda")]
        target: Option<String>,
        /// The kernels for NVIDIA GPUs (needs no GPU; installs a pinned nvcc where there is none).
        #[arg(long, conflicts_with = "target")]
        cuda: bool,
    },
    /// Installs the pinned NCCL, for `bitnet run --tensor-parallel` where the system has none, and says what to set.
    Nccl,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listing {
    selection_line: String,
    operations: Vec<Operation>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Operation {
    operation: String,
    weight: Option<String>,
    activation: Option<String>,
    #[serde(default)]
    shapes: Vec<String>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Candidate {
    id: String,
    level: String,
    available: bool,
    selected: bool,
    reason: String,
}

pub fn run(ctx: &Ctx, command: &KernelsCommand) -> Result<ExitCode> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let threads = |threads: &Option<usize>| match threads {
        Some(threads) => vec!["--threads".to_string(), threads.to_string()],
        None => Vec::new(),
    };
    match command {
        KernelsCommand::List => list(ctx, &Command::new(binary::release(ctx)?), &[]),
        KernelsCommand::Select { name } => {
            list(ctx, &Command::new(binary::release(ctx)?), &words(&["--kernels", name]))
        }
        KernelsCommand::Lab { weight, columns, count, threads: n } => {
            let count: Vec<String> = count.iter().map(usize::to_string).collect();
            let lab = ["--lab", weight, "--columns", &columns.to_string(), "--count", &count.join(",")];
            pass_on(ctx, [words(&lab), threads(n)].concat())
        }
        KernelsCommand::Tune { model, threads: n } => {
            pass_on(ctx, [words(&["--tune", model]), threads(n)].concat())
        }
        KernelsCommand::Build { target: Some(target), .. } => build(ctx, target),
        KernelsCommand::Build { target: None, .. } => cuda::run(ctx),
        KernelsCommand::Nccl => cuda::nccl(ctx),
    }
}

/// Runs `bitnet kernels` with `args` and shows what it prints.
fn pass_on(ctx: &Ctx, args: Vec<String>) -> Result<ExitCode> {
    let format = if ctx.out.is_json() { vec!["--json".to_string()] } else { Vec::new() };
    let command = Command::new(binary::release(ctx)?).args(["kernels"]).args(args).args(format);
    let log = ctx.log_file("kernels")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |_| {})?;
    if !finished.success() {
        // The binary's exit code is of the same table.
        let code = ExitCode::ALL.into_iter().find(|code| Some(*code as i32) == finished.code);
        return fail(code.unwrap_or(ExitCode::Internal), finished.explain());
    }
    ctx.out.stdout(finished.stdout.trim_end())?;
    Ok(ExitCode::Ok)
}

/// `program` starts the binary; `kernels` and `args` are added.
fn list(ctx: &Ctx, program: &Command, args: &[String]) -> Result<ExitCode> {
    let command = program.clone().args(["kernels", "--json"]).args(args.to_vec());
    let log = ctx.log_file("kernels")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |_| {})?;
    if !finished.success() {
        let code = ExitCode::ALL.into_iter().find(|code| Some(*code as i32) == finished.code);
        return fail(code.unwrap_or(ExitCode::Internal), finished.explain());
    }
    let listing: Listing =
        serde_json::from_str(&finished.stdout).with_context(|| format!("what {} printed", command.line()))?;
    if ctx.out.is_json() {
        ctx.out.json(&listing)?;
    } else {
        ctx.out.stdout(&render(&listing))?;
    }
    Ok(ExitCode::Ok)
}

/// Builds for `target` and asks the build for its kernels: here, or in qemu for another architecture.
fn build(ctx: &Ctx, target: &str) -> Result<ExitCode> {
    let path = binary::build_for(ctx, "bitnet-cli", "bitnet", target)?;
    ctx.out.line(format!("{} {} is built for {target}", ctx.out.mark(State::Ok), path.display()));
    let arch = target.split('-').next().unwrap_or(target);
    if arch == std::env::consts::ARCH {
        return list(ctx, &Command::new(path), &[]);
    }
    let emulator = format!("qemu-{arch}");
    let found = std::env::split_paths(ctx.env.get("PATH").unwrap_or_default())
        .any(|dir| dir.join(&emulator).is_file());
    if !found {
        return fail(
            ExitCode::Unavailable,
            format!(
                "{target} was built, but cannot be asked for its kernels here: install {emulator} (qemu-user)"
            ),
        );
    }
    list(ctx, &Command::new(emulator).args(["-cpu", "max"]).args([path]), &[])
}

fn render(listing: &Listing) -> String {
    let rows = listing.operations.iter().map(|operation| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let selected = operation.candidates.iter().find(|candidate| candidate.selected);
        let others: Vec<String> = operation
            .candidates
            .iter()
            .filter(|candidate| !candidate.selected)
            .map(|candidate| format!("{}: {}", candidate.id, candidate.reason))
            .collect();
        let shapes = operation.shapes.join(", ");
        let what = format!(
            "{} {} {} {shapes}",
            operation.operation,
            part(&operation.weight),
            part(&operation.activation)
        );
        [
            what.split_whitespace().collect::<Vec<_>>().join(" "),
            selected.map_or("none".to_string(), |candidate| candidate.id.clone()),
            others.join("; "),
        ]
    });
    format!("{}\n{}", table(["operation", "selected", "not chosen"], rows), listing.selection_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_why_not() {
        let json = r#"{"selection_line": "requested=auto", "operations": [{"operation": "matmul", "weight": "F32",
            "activation": "F32", "candidates": [
            {"id": "f32.f32.scalar", "level": "scalar", "available": true, "selected": false, "reason": "scalar is below avx2"},
            {"id": "f32.f32.avx2", "level": "avx2", "available": true, "selected": true, "reason": "best"}]}]}"#;
        insta::assert_snapshot!(render(&serde_json::from_str(json).unwrap()));
    }
}
