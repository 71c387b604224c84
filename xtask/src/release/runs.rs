//! Runs the binary of a release before it is packed: it must start, and generate what every other one does.
//!
//! In: the binary; for another processor, qemu and the glibc for cross-compiling. Out: a line, or a failure. Deliberately
//! absent: what is inside the binary (see [`super::content`]), and times, which mean nothing in an emulator.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Probe};
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::fs;
use std::path::Path;
use std::time::Duration;

const GENERATION: &str = "fixtures/goldens/generation.json";

/// What the binary of a release must generate, on whatever processor.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Generation {
    model: String,
    prompt: String,
    max_tokens: u32,
    text: String,
}

/// Runs the binary, in an emulator where it is for another processor: it must start, and generate what every other one does.
pub fn check(ctx: &Ctx, machine: &str, binary: &Path) -> Result<()> {
    let ask = |args: &[&str]| {
        let command = runner(machine, binary).args(args.iter().copied());
        match proc::probe(ctx, &command, Duration::from_secs(120)) {
            Probe::Output(text) => Ok(text),
            Probe::Missing => {
                let message = format!(
                    "qemu-{machine} is not on PATH, so nothing shows that the binary runs; install qemu-user and its glibc for cross-compiling"
                );
                fail(ExitCode::Toolchain, message)
            }
            other => {
                let line = format!("{} {}: {other:?}", binary.display(), args.join(" "));
                fail(ExitCode::CheckFailed, line)
            }
        }
    };
    let version = ask(&["--version"])?;
    let root = ctx.root()?;
    let path = root.join(GENERATION);
    let golden = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let golden: Generation =
        serde_json::from_str(&golden).with_context(|| format!("reading {}", path.display()))?;
    let model = root.join(&golden.model).display().to_string();
    let tokens = golden.max_tokens.to_string();
    // Two threads, so that a thread has to start.
    let fixed = ["run", "--temperature", "0", "--threads", "2"];
    let given = ["--model", &model, "--prompt", &golden.prompt, "--max-tokens", &tokens];
    let text = ask(&[&fixed[..], &given[..]].concat())?;
    if text != golden.text {
        let message = format!(
            "{} generates {text:?} from {}, and not {:?} as {GENERATION} says",
            binary.display(),
            golden.model,
            golden.text
        );
        return fail(ExitCode::CheckFailed, message);
    }
    let ok = ctx.out.mark(State::Ok);
    ctx.out.line(format!("{ok} it starts: {version}; it generates {tokens} tokens as {GENERATION} says"));
    Ok(())
}

/// Starts `binary` here, or in qemu with the glibc for cross-compiling. Its libraries are named, since qemu looks for what
/// it does not find below `-L` on this machine: with Debian's libc6 for that processor installed, `ld.so` would be of one
/// build and `libc.so` of another, and the first thread would never start.
fn runner(machine: &str, binary: &Path) -> Command {
    if machine == std::env::consts::ARCH {
        return Command::new(binary);
    }
    let sysroot = format!("/usr/{machine}-linux-gnu");
    Command::new(format!("qemu-{machine}"))
        .args(["-E", &format!("LD_LIBRARY_PATH={sysroot}/lib"), "-L", &sysroot])
        .args([binary])
}
