//! Which process evaluates a model: our binary, a reference driver, the oracle, stored logits, or a command.
//!
//! In: a name. Out: a command that speaks the engine protocol, and what identifies the engine. Deliberately absent:
//! what the engine is asked.

use super::Against;
use crate::binary;
use crate::cli::Cpu;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Probe, Stdout};
use crate::python::{self, Wheels};
use crate::receipts::store::sha256;
use anyhow::{Context, Result};
use bitforge_discovery::Lane;
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No answer takes longer: the largest models evaluate hundreds of positions one by one.
pub const LIMIT: Duration = Duration::from_secs(3600);

const GOLDEN: &str = "fixtures/goldens/transformers-b158.json";

/// A command without the model's path, and what identifies the engine in a receipt.
#[derive(Clone, Debug)]
pub struct EngineCommand {
    command: Command,
    pub identity: String,
}

impl EngineCommand {
    /// The command line that evaluates `model`.
    pub fn for_model(&self, model: &Path) -> Command {
        self.command.clone().args(["--model"]).args([model])
    }

    pub fn with(mut self, args: &[&str]) -> Self {
        self.command = self.command.args(args.iter().copied());
        self
    }
}

/// Our engine: the release binary, or another command for debugging.
pub fn subject(ctx: &Ctx, command: Option<&str>) -> Result<EngineCommand> {
    match command {
        Some(line) => custom(line),
        None => {
            let path = binary::release(ctx)?;
            let identity = sha256(&path)?;
            Ok(EngineCommand { command: Command::new(path).args(["evaluate"]), identity })
        }
    }
}

/// The other engine.
///
/// # Errors
/// [`ExitCode::Unavailable`] or [`ExitCode::Network`] where it is not here; the message says what would bring it.
pub fn other(ctx: &Ctx, against: &Against) -> Result<EngineCommand> {
    match against {
        Against::Llama => reference(ctx, Lane::Llama),
        Against::Bitnet => reference(ctx, Lane::Bitnet),
        Against::Oracle => oracle(ctx),
        Against::Transformers => {
            let root = ctx.root()?;
            let identity = golden(ctx)?.version;
            let command = Command::new("python3")
                .args([root.join("tools/oracle/golden.py")])
                .args(["evaluate", "--golden"])
                .args([root.join(GOLDEN)]);
            Ok(EngineCommand { command, identity })
        }
        Against::Cpu => Ok(subject(ctx, None)?.with(&["--device", "cpu"])),
        Against::Command(line) | Against::TrustedCommand(line) => custom(line),
    }
}

/// A command line as it was typed; words are separated by spaces.
fn custom(line: &str) -> Result<EngineCommand> {
    let mut words = line.split_whitespace();
    let Some(program) = words.next() else {
        return fail(ExitCode::Usage, "an empty command; give command:PROGRAM ARGUMENTS");
    };
    let command = Command::new(program).args(words).args(["evaluate"]);
    Ok(EngineCommand { command, identity: line.to_string() })
}

/// The driver of a build for any CPU with AVX2: llama.cpp's other builds round floats otherwise, and a difference in
/// the last bit is all it takes (docs/explanation/reference-arithmetic.md).
fn reference(ctx: &Ctx, lane: Lane) -> Result<EngineCommand> {
    let driver = binary::driver(ctx, lane, Cpu::Portable)?;
    Ok(EngineCommand { command: Command::new(driver.path).args(["evaluate"]), identity: driver.identity })
}

/// The float64 forward pass in numpy.
pub fn oracle(ctx: &Ctx) -> Result<EngineCommand> {
    let folder = ctx.root()?.join("tools/oracle");
    let mut digests = String::new();
    for file in ["evaluate.py", "forward.py", "gguf.py", "protocol.py"] {
        digests.push_str(&sha256(&folder.join(file))?[..8]);
    }
    let command = numpy(ctx)?.args([folder.join("evaluate.py")]).args(["evaluate"]);
    Ok(EngineCommand { command, identity: format!("oracle {digests}") })
}

/// A python3 that imports numpy: the system's own, otherwise with the pinned wheel in the cache.
fn numpy(ctx: &Ctx) -> Result<Command> {
    let imports = |command: &Command| {
        let command = command.clone().args(["-c", "import numpy"]);
        matches!(proc::probe(ctx, &command, Duration::from_secs(60)), Probe::Output(_))
    };
    let system = Command::new("python3");
    if imports(&system) {
        return Ok(system);
    }
    let with_wheel = |dir: &Path| Command::new("python3").env("PYTHONPATH", dir);
    let wheels = Wheels {
        name: "oracle",
        requirements: "tools/requirements-oracle.txt",
        notice: "python3 has no numpy; installing the pinned one into the cache for the oracle",
        offline: "the oracle needs numpy, python3 has none, and the network is off; install numpy, or unset BITNET_OFFLINE",
    };
    let dir = python::wheels(ctx, &wheels, |dir| imports(&with_wheel(dir)), |_| Ok(()))?;
    Ok(with_wheel(&dir))
}

/// What the stored logits are of.
#[derive(Debug, Deserialize)]
pub struct Golden {
    pub version: String,
    pub tokens: Vec<u32>,
}

pub fn golden(ctx: &Ctx) -> Result<Golden> {
    let path = ctx.root()?.join(GOLDEN);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("the JSON of {}", path.display()))
}

/// Where `fixtures layer-2b` puts its models; made when they are not there.
pub fn layer_2b(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let dir = ctx.target_dir()?.join("layer-2b");
    let path = dir.join(format!("{name}.gguf"));
    if path.is_file() {
        return Ok(path);
    }
    let command =
        ctx.cargo(["run", "--quiet", "--locked", "-p", "bitforge-fixtures", "--", "layer-2b"])?.args([&dir]);
    let mut progress = ctx.out.progress("making one-layer models at the shape of 2B-4T");
    let log = ctx.log_file("layer-2b")?;
    proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?
        .must_succeed(ExitCode::Internal)?;
    Ok(path)
}

/// `converted-FAMILY-TYPE`: what `bitnet convert --outtype TYPE` makes of the checkpoint FAMILY of `fixtures checkpoints`.
/// Made anew each time, since the converter is what is compared.
pub fn converted(ctx: &Ctx, name: &str) -> Result<PathBuf> {
    let dir = ctx.target_dir()?.join("converted");
    let out = dir.join(format!("{name}.gguf"));
    let parts = name.strip_prefix("converted-").and_then(|rest| rest.rsplit_once('-'));
    let (family, ty) = parts.with_context(|| format!("{name} is not converted-FAMILY-TYPE"))?;
    let make = ctx
        .cargo(["run", "--quiet", "--locked", "-p", "bitforge-fixtures", "--", "checkpoints"])?
        .args([&dir]);
    let convert = Command::new(binary::release(ctx)?)
        .args(["convert", "--force", "--outtype", ty, "--out"])
        .args([&out, &dir.join(family)]);
    let log = ctx.log_file("converted")?;
    for command in [make, convert] {
        let mut progress = ctx.out.progress(format!("making {name}"));
        proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?
            .must_succeed(ExitCode::Internal)?;
    }
    Ok(out)
}
