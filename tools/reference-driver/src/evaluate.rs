//! `evaluate`: the engine protocol over a [`Session`]; JSON lines on stdin and stdout, text for people on stderr.
//!
//! In: requests. Out: tokens, logits and taps of one token at a time, and times as llama-bench takes them: one
//! prompt in batches of 512 of which the last token's logits are computed, then one token a step.

use crate::session::{Mode, Session, system_info, tensor_type};
use crate::taps::Taps;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use bitforge_schema::protocol::{ActivationMode, Hello, ModelShape, PROTOCOL, Request, Response};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokenizes, evaluates and measures with the reference this binary is linked to.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests of the engine protocol, one JSON line each, until stdin ends.
    Evaluate {
        #[arg(long, short)]
        model: PathBuf,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=512))]
        threads: i32,
        /// How the reference computes: to compare numbers with, or at its best speed.
        #[arg(long, value_enum, default_value_t = Mode::Plain)]
        mode: Mode,
    },
}

/// Runs the command line; `reference` names the lane, `version` what was linked.
pub fn main(reference: &str, version: &str) -> std::process::ExitCode {
    let Command::Evaluate { model, threads, mode } = Cli::parse().command;
    match run(reference, version, &model, threads, mode) {
        Ok(()) => ExitCode::Ok.into(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::BadInput.into()
        }
    }
}

fn run(reference: &str, version: &str, model: &Path, threads: i32, mode: Mode) -> Result<()> {
    let mut session = Session::open(model, threads, mode)?;
    print(&hello(reference, version, model, threads, &session)?)?;
    for line in std::io::stdin().lines() {
        let line = line.context("reading stdin")?;
        let answer = serde_json::from_str(&line)
            .context("not a request of the engine protocol")
            .and_then(|request| answer(&mut session, mode, request));
        print(&answer.unwrap_or_else(|error| Response::Error { message: format!("{error:#}") }))?;
    }
    Ok(())
}

fn print(line: &impl serde::Serialize) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, line).context("writing to stdout")?;
    stdout.write_all(b"\n").and_then(|()| stdout.flush()).context("writing to stdout")
}

fn hello(reference: &str, version: &str, model: &Path, threads: i32, session: &Session) -> Result<Hello> {
    // The weight that every architecture has in its first layer decides how ternary products are computed.
    let activation_quant = match tensor_type(model, c"blk.0.ffn_down.weight").as_deref() {
        Some("i2_s") => Some(ActivationMode::Token),
        Some("tq1_0" | "tq2_0" | "q2_0") => Some(ActivationMode::Block256),
        _ => None,
    };
    Ok(Hello {
        protocol: PROTOCOL,
        engine: reference.into(),
        version: version.into(),
        system: system_info(),
        threads: threads.unsigned_abs(),
        model: ModelShape {
            architecture: session.metadata(c"general.architecture").unwrap_or_default(),
            layers: session.layers(),
            hidden: session.hidden(),
            vocabulary: u32::try_from(session.vocabulary).context("the vocabulary size")?,
        },
        activation_quant,
    })
}

fn answer(session: &mut Session, mode: Mode, request: Request) -> Result<Response> {
    match request {
        Request::Tokenize { text } => {
            let tokens = session.tokenize(&text)?;
            Ok(Response::Tokens { tokens: tokens.into_iter().map(i32::cast_unsigned).collect() })
        }
        Request::Evaluate { tokens, logits, taps, given } => {
            anyhow::ensure!(given.is_none(), "a reference computes from its own intermediate results");
            anyhow::ensure!(taps.is_none() || mode == Mode::Plain, "taps need `--mode plain`");
            evaluate(session, &tokens, &logits, taps.as_deref())
        }
        Request::Bench { sequences: 2.., .. } => anyhow::bail!("a reference is measured with one sequence"),
        Request::Bench { depth, prompt, generate, .. } => bench(session, depth, prompt, generate),
    }
}

fn evaluate(session: &mut Session, tokens: &[u32], path: &Path, taps: Option<&Path>) -> Result<Response> {
    let positions = u32::try_from(tokens.len()).context("too many tokens")?;
    session.begin(positions)?;
    let writing = || format!("writing {}", path.display());
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).with_context(writing)?);
    let mut taps = taps.map(|path| Taps::create(path, tokens.len())).transpose()?;
    let mut logits = vec![0.0; session.vocabulary];
    for token in tokens {
        match &mut taps {
            Some(taps) => {
                session.step(*token, &mut logits, Some(taps))?;
                taps.end_position()?;
            }
            None => session.step(*token, &mut logits, None)?,
        }
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        file.write_all(&bytes).with_context(writing)?;
    }
    file.flush().with_context(writing)?;
    Ok(Response::Evaluated {
        positions,
        vocabulary: u32::try_from(session.vocabulary).context("the vocabulary size")?,
        taps: taps.map(Taps::table).unwrap_or_default(),
        kernels: Vec::new(),
    })
}

fn bench(session: &mut Session, depth: u32, prompt: u32, generate: u32) -> Result<Response> {
    let total =
        depth.checked_add(prompt).and_then(|sum| sum.checked_add(generate)).context("too many tokens")?;
    let vocabulary = u32::try_from(session.vocabulary).context("the vocabulary size")?;
    // Arbitrary and spread over the vocabulary, so that rows of the embedding are not all in the cache.
    let id = |at: u32| (u64::from(at) * 7919 % u64::from(vocabulary)) as u32;
    let ids = |from: u32, count: u32| (from..from + count).map(id).collect::<Vec<u32>>();
    let mut logits = vec![0.0; session.vocabulary];
    if session.begin(total.max(1))? {
        // Pages of a new context are touched before anything is measured, as llama-bench does.
        session.prefill(&ids(0, total.clamp(1, 512)))?;
        session.begin(total)?;
    }
    session.prefill(&ids(0, depth))?;
    let start = Instant::now();
    session.prefill(&ids(depth, prompt))?;
    let prompt_ns = if prompt == 0 { 0 } else { nanoseconds(start) };
    let mut generate_ns = Vec::with_capacity(generate as usize);
    for at in depth + prompt..total {
        let start = Instant::now();
        session.step(id(at), &mut logits, None)?;
        generate_ns.push(nanoseconds(start));
    }
    Ok(Response::Measured { prompt_ns, generate_ns, kernels: Vec::new() })
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
