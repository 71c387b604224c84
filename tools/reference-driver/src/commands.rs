//! `tokenize` and `logits` over a [`Session`]: one JSON object on stdout, text for people on stderr.

use crate::session::{Session, system_info};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;

/// Tokenizes and evaluates with the reference this binary is linked to.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the token ids of a text.
    Tokenize {
        #[arg(long, short)]
        model: PathBuf,
        /// The text; special tokens in it are parsed.
        #[arg(long, short)]
        prompt: String,
    },
    /// Evaluate tokens one at a time and write the logits of every position.
    Logits {
        #[arg(long, short)]
        model: PathBuf,
        /// Exactly these ids are evaluated; no BOS is added.
        #[arg(long, value_delimiter = ',', required = true)]
        tokens: Vec<i32>,
        /// Little-endian f32 [positions, vocabulary].
        #[arg(long, short)]
        out: PathBuf,
    },
}

/// Runs the command line; `reference` names the lane.
pub fn main(reference: &str) -> std::process::ExitCode {
    match run(reference, &Cli::parse().command) {
        Ok(value) => {
            println!("{value}");
            ExitCode::Ok.into()
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::BadInput.into()
        }
    }
}

fn run(reference: &str, command: &Command) -> Result<serde_json::Value> {
    match command {
        Command::Tokenize { model, prompt } => {
            let session = Session::open(model, 512)?;
            Ok(serde_json::json!({ "reference": reference, "tokens": session.tokenize(prompt)? }))
        }
        Command::Logits { model, tokens, out } => {
            let positions = u32::try_from(tokens.len()).context("too many tokens")?.max(512);
            let mut session = Session::open(model, positions)?;
            let file = std::fs::File::create(out).with_context(|| format!("creating {}", out.display()))?;
            let mut file = std::io::BufWriter::new(file);
            let mut argmax = Vec::new();
            for token in tokens {
                let logits = session.decode(*token)?;
                let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
                file.write_all(&bytes).with_context(|| format!("writing {}", out.display()))?;
                argmax.push(largest(&logits));
            }
            file.flush().with_context(|| format!("writing {}", out.display()))?;
            Ok(serde_json::json!({
                "reference": reference,
                "out": out,
                "positions": tokens.len(),
                "vocabulary": session.vocabulary,
                "argmax": argmax,
                "system": system_info(),
            }))
        }
    }
}

/// The lowest index among the largest values.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).reduce(|best, at| if values[at] > values[best] { at } else { best }).unwrap_or(0)
}
