//! `models synth`: makes a synthetic model of a real shape, for measuring speed.
//!
//! In: a shape, an architecture and types. Out: the path of a GGUF file, made by the generator (crate
//! `bitforge-fixtures`, which links the runtime; xtask does not). The name of the file holds everything that
//! decides its content, so one that is there is taken. Deliberately absent: which types fit which shape.

use crate::binary;
use crate::cli;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Command, Stdout};
use crate::report::{State, bytes};
use anyhow::{Context, Result};
use std::path::PathBuf;

pub fn run(ctx: &Ctx, args: &cli::Synth) -> Result<()> {
    let path = match &args.out {
        Some(path) => std::path::absolute(path).with_context(|| format!("finding {}", path.display()))?,
        None => ctx.cache_dir()?.join("models/synth").join(file_name(args)),
    };
    if args.out.is_none() && path.is_file() {
        return print(ctx, &path, "already there");
    }
    let dir = path.parent().context("a file has a folder")?;
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let generator = binary::build(ctx, "bitforge-fixtures", "fixtures", &[])?;
    let mut command = Command::new(generator)
        .args(["synth", &args.shape, "--arch", &args.arch, "--type", &args.r#type, "--head", &args.head])
        .args(["--out"])
        .args([&path]);
    if let Some(layers) = args.layers {
        command = command.args(["--layers".to_string(), layers.to_string()]);
    }
    let mut progress = ctx.out.progress("writing a synthetic model");
    let log = ctx.log_file("models-synth")?;
    let finished = proc::run(ctx, &command, Stdout::Capture, &log, |line| progress.message(line))?;
    drop(progress);
    if !finished.success() {
        // The generator's exit code is of the same table.
        return fail(super::exit_code(finished.code), finished.explain());
    }
    print(ctx, &path, &format!("written in {:.1} s", finished.seconds))
}

fn file_name(args: &cli::Synth) -> String {
    let layers = args.layers.map(|layers| format!("-{layers}layers")).unwrap_or_default();
    let head = if args.head == "f16" { String::new() } else { format!("-head-{}", args.head) };
    format!("synth-{}-{}-{}{head}{layers}.gguf", args.shape, args.arch, args.r#type)
}

fn print(ctx: &Ctx, path: &PathBuf, how: &str) -> Result<()> {
    let size = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    ctx.out.line(format!("{} {} of random weights, {how}", ctx.out.mark(State::Ok), bytes(size)));
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "path": path, "bytes": size, "synthetic": true }))
    } else {
        ctx.out.stdout(&path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_decides_the_content_is_in_the_name() {
        let plain = cli::Synth {
            shape: "2b4t".into(),
            arch: "bitnet".into(),
            r#type: "i2_s".into(),
            head: "f16".into(),
            layers: None,
            out: None,
        };
        assert_eq!(file_name(&plain), "synth-2b4t-bitnet-i2_s.gguf");
        let other = cli::Synth { head: "q6_k".into(), layers: Some(4), ..plain };
        assert_eq!(file_name(&other), "synth-2b4t-bitnet-i2_s-head-q6_k-4layers.gguf");
    }
}
