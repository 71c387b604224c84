//! `bitnet logits`: token ids in, a file of little-endian f32 [positions, vocab] out.
//!
//! Exactly the given ids are evaluated. The file appears under its name only when it is complete.

use super::args::{Format, LogitsArgs};
use super::ctx::Ctx;
use super::json::LogitsOutput;
use super::{output_file, settings, summary};
use bitnet_runtime::{Error, Result};
use std::io::Write;

pub fn run(ctx: &mut Ctx, args: &LogitsArgs) -> Result<()> {
    let ((), mut engine) = settings::load(ctx, &args.engine, Some(args.tokens.len()), |_| Ok(()))?;
    ctx.note(engine.selection());
    output_file::write_whole(&args.out, |file| {
        engine.logits_all(&args.tokens, &mut |_, logits| {
            let mut bytes = logits.iter().map(|logit| logit.to_le_bytes());
            bytes.try_for_each(|logit| file.write_all(&logit)).map_err(|e| Error::io(&args.out, e))
        })
    })?;

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
