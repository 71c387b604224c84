//! `bitnet logits`: token ids in, a file of little-endian f32 [positions, vocab] out.
//!
//! Exactly the given ids are evaluated. The file appears under its name only when it is complete.

use super::args::{Format, LogitsArgs};
use super::ctx::Ctx;
use super::json::LogitsOutput;
use super::{settings, summary};
use crate::engine::Engine;
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

pub fn run(ctx: &mut Ctx, args: &LogitsArgs) -> Result<()> {
    let ((), mut engine) = settings::load(ctx, &args.engine, Some(args.tokens.len()), |_| Ok(()))?;
    ctx.note(engine.selection());
    let partial = partial_path(&args.out);
    if let Err(error) = write(&mut engine, &args.tokens, &partial) {
        // The error that counts is the one of writing.
        let _ = std::fs::remove_file(&partial);
        return Err(error);
    }
    std::fs::rename(&partial, &args.out).map_err(|e| Error::io(&args.out, e))?;

    let (positions, vocab) = (args.tokens.len(), engine.vocab_size());
    let output = LogitsOutput {
        model: summary::model(engine.gguf()),
        engine: summary::engine(&engine),
        path: args.out.display().to_string(),
        positions,
        vocab,
        bytes: (positions * vocab * size_of::<f32>()) as u64,
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => {
            let (path, bytes) = (&output.path, output.bytes);
            ctx.print(&format!("{path}: {positions} positions x {vocab} logits, {bytes} bytes\n"))
        }
    }
}

fn write(engine: &mut Engine, tokens: &[u32], path: &Path) -> Result<()> {
    let io = |e| Error::io(path, e);
    let mut file = BufWriter::new(File::create(path).map_err(io)?);
    engine.logits_all(tokens, &mut |_, logits| {
        logits.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes())).map_err(io)
    })?;
    file.flush().map_err(io)
}

/// A name in the same directory, so that renaming is atomic.
fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}
