//! An engine: a process that speaks the engine protocol ([`bitforge_schema::protocol`]), ours or a reference.
//!
//! In: a command line. Out: what the engine says it is, and answers to requests. Deliberately absent: a
//! difference between our binary and the others; what an engine is asked is decided elsewhere.

use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::Command;
use crate::proc::session::Session;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use bitforge_schema::protocol::{Given, Hello, KernelCount, PROTOCOL, Request, Response, Tap};
use std::path::Path;
use std::time::Duration;

pub struct Engine {
    pub hello: Hello,
    session: Session,
    limit: Duration,
}

/// The logits and taps of one evaluation; the numbers are in the files the request named.
#[derive(Debug)]
pub struct Evaluated {
    pub positions: usize,
    pub vocabulary: usize,
    pub taps: Vec<Tap>,
    pub kernels: Vec<KernelCount>,
}

/// What to measure (see [`Request::Bench`]).
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub depth: u32,
    pub prompt: u32,
    pub generate: u32,
    pub sequences: u32,
}

impl Work {
    /// That a sequence needs.
    pub const fn positions(self) -> u32 {
        self.depth + self.prompt + self.generate
    }
}

/// The times of one measurement.
#[derive(Debug)]
pub struct Measured {
    pub prompt_ns: u64,
    pub generate_ns: Vec<u64>,
    pub kernels: Vec<KernelCount>,
}

impl Engine {
    /// Starts `command` (its model is among its arguments) and reads its first line. No answer may take longer
    /// than `limit`; the process's messages go to the log `name`.
    pub fn start(ctx: &Ctx, command: &Command, name: &str, limit: Duration) -> Result<Self> {
        let mut session = Session::start(ctx, command, &ctx.log_file(name)?)?;
        let line = session.receive(limit)?;
        let hello: Hello = serde_json::from_str(&line)
            .with_context(|| format!("`{}` does not speak the engine protocol: {line}", command.line()))?;
        if hello.protocol != PROTOCOL {
            return fail(
                ExitCode::BadInput,
                format!(
                    "`{}` speaks version {} of the engine protocol and this xtask {PROTOCOL}; build both from one checkout",
                    command.line(),
                    hello.protocol
                ),
            );
        }
        Ok(Engine { hello, session, limit })
    }

    pub fn tokenize(&mut self, text: &str) -> Result<Vec<u32>> {
        match self.ask(&Request::Tokenize { text: text.into() })? {
            Response::Tokens { tokens } => Ok(tokens),
            other => self.unexpected(&other),
        }
    }

    /// Evaluates into the files `logits` and, if wanted, `taps`; from the values of `given`, if any (the oracle).
    pub fn evaluate(
        &mut self,
        tokens: &[u32],
        logits: &Path,
        taps: Option<&Path>,
        given: Option<Given>,
    ) -> Result<Evaluated> {
        let request = Request::Evaluate {
            tokens: tokens.to_vec(),
            logits: logits.into(),
            taps: taps.map(Path::to_path_buf),
            given,
        };
        match self.ask(&request)? {
            Response::Evaluated { positions, vocabulary, taps, kernels } => Ok(Evaluated {
                positions: positions as usize,
                vocabulary: vocabulary as usize,
                taps,
                kernels,
            }),
            other => self.unexpected(&other),
        }
    }

    pub fn bench(&mut self, work: Work) -> Result<Measured> {
        let Work { depth, prompt, generate, sequences } = work;
        match self.ask(&Request::Bench { depth, prompt, generate, sequences })? {
            Response::Measured { prompt_ns, generate_ns, kernels } => {
                Ok(Measured { prompt_ns, generate_ns, kernels })
            }
            other => self.unexpected(&other),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response> {
        let line = serde_json::to_string(request).context("serializing a request")?;
        self.session.send(&line)?;
        let answer = self.session.receive(self.limit)?;
        serde_json::from_str(&answer)
            .with_context(|| format!("{} answered what is not of the protocol: {answer}", self.hello.engine))
    }

    fn unexpected<T>(&self, response: &Response) -> Result<T> {
        match response {
            Response::Error { message } => {
                fail(ExitCode::BadInput, format!("{}: {message}", self.hello.engine))
            }
            other => anyhow::bail!("{} answered another request: {other:?}", self.hello.engine),
        }
    }
}
