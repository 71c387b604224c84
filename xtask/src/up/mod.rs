//! `up`: from a checkout to text that is proven, in one command.
//!
//! Steps in order: preflight, build, reference, symbols, kernels, model, crossval, eval, bench, text, receipts. Each
//! reads what the steps before it left (their receipts, the cache) and writes a receipt of its own, so `--only`
//! runs one alone and a run after a failure goes on where that one stopped. `--plan` prints them first. A step
//! that this machine or a missing network cannot do is named and left out; everything else that fails ends the
//! run. Deliberately absent: any link to the runtime, and what the single steps do.

mod model;
mod plan;
mod steps;
mod text;

use crate::cli::{self, UpStep};
use crate::ctx::Ctx;
use crate::exit::{code_of, fail, message_of};
use crate::proc;
use crate::receipts::store;
use crate::report::{Reporter, State, table};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// What the steps of one run hand on.
struct Pipeline<'a> {
    args: &'a cli::Up,
    binary: Option<PathBuf>,
    model: Option<Model>,
    text: Option<text::Generated>,
}

/// The model of this run.
#[derive(Clone, Debug, Serialize)]
struct Model {
    name: String,
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Catalog,
    File,
    /// The committed one, trained on one book.
    TrainedFixture,
}

impl Kind {
    /// How a text begins that such a model can go on with.
    const fn prompt(self) -> &'static str {
        match self {
            Kind::Catalog | Kind::File => "The three primary colors are",
            Kind::TrainedFixture => "And it came to pass",
        }
    }
}

/// How a step that did not fail ended, each with what was proven or why not.
enum Done {
    Did(String),
    /// An earlier run did it with the same inputs.
    Reused(String),
    CouldNot(String),
}

#[derive(Debug, Serialize)]
struct Outcome {
    step: UpStep,
    state: State,
    how: How,
    detail: String,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    Did,
    Reused,
    CouldNot,
    Failed,
    NotReached,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    seconds: f64,
    steps: &'a [Outcome],
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a text::Generated>,
}

pub fn run(ctx: &Ctx, args: &cli::Up) -> Result<ExitCode> {
    let chosen = chosen(args);
    if args.plan {
        return plan::print(ctx, args, &chosen);
    }
    let start = Instant::now();
    let mut pipeline = Pipeline { args, binary: None, model: None, text: None };
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut code = ExitCode::Ok;
    for step in chosen {
        proc::check_interrupted()?;
        if code != ExitCode::Ok {
            outcomes.push(outcome(step, How::NotReached, "an earlier step failed".into(), 0.0));
            continue;
        }
        let began = Instant::now();
        let result = steps::run(ctx, &mut pipeline, step);
        let seconds = began.elapsed().as_secs_f64();
        let outcome = match result {
            Ok(Done::Did(detail)) => outcome(step, How::Did, detail, seconds),
            Ok(Done::Reused(detail)) => outcome(step, How::Reused, detail, seconds),
            Ok(Done::CouldNot(why)) => outcome(step, How::CouldNot, why, seconds),
            Err(error) if may_be_left_out(step, code_of(&error)) => {
                outcome(step, How::CouldNot, message_of(&error), seconds)
            }
            Err(error) => {
                code = code_of(&error);
                outcome(step, How::Failed, message_of(&error), seconds)
            }
        };
        if code == ExitCode::Interrupted {
            return fail(code, "interrupted; `cargo xtask up` goes on where this stopped");
        }
        if outcome.how == How::CouldNot {
            // What an earlier run left says nothing about this one.
            store::remove(ctx, step.name())?;
        }
        ctx.out.line(format!("{} {}: {}", ctx.out.mark(outcome.state), step.name(), outcome.detail));
        outcomes.push(outcome);
    }
    let report = Report {
        ok: code == ExitCode::Ok,
        seconds: start.elapsed().as_secs_f64(),
        steps: &outcomes,
        text: pipeline.text.as_ref(),
    };
    if ctx.out.is_json() {
        ctx.out.json(&report)?;
    }
    ctx.out.line(render(&ctx.out, &report));
    Ok(code)
}

/// The steps of this run, in order.
fn chosen(args: &cli::Up) -> Vec<UpStep> {
    let only = |step: &UpStep| args.only.is_empty() || args.only.contains(step);
    UpStep::ALL.into_iter().filter(only).filter(|step| !args.skip.contains(step)).collect()
}

/// Whether the run goes on without this step: what needs the network or a C++ compiler, and only that.
fn may_be_left_out(step: UpStep, code: ExitCode) -> bool {
    match step {
        UpStep::Reference => matches!(code, ExitCode::Network | ExitCode::Toolchain),
        UpStep::Symbols | UpStep::Crossval | UpStep::Bench => code == ExitCode::Network,
        _ => false,
    }
}

fn outcome(step: UpStep, how: How, detail: String, seconds: f64) -> Outcome {
    let state = match how {
        How::Did | How::Reused => State::Ok,
        How::CouldNot => State::Warn,
        How::NotReached => State::CouldNotCheck,
        How::Failed => State::Fail,
    };
    Outcome { step, state, how, detail, seconds: (seconds * 10.0).round() / 10.0 }
}

fn render(out: &Reporter, report: &Report<'_>) -> String {
    let rows = report.steps.iter().map(|outcome| {
        let how = match outcome.how {
            How::Did => "",
            How::Reused => "as before",
            How::CouldNot => "could not",
            How::Failed => "failed",
            How::NotReached => "not reached",
        };
        let detail = outcome.detail.lines().next().unwrap_or_default().to_string();
        let seconds = format!("{:.1} s", outcome.seconds);
        [out.mark(outcome.state), outcome.step.name().to_string(), how.to_string(), seconds, detail]
    });
    let mut text = format!("\n{}", table(["", "step", "", "time", "what was proven"], rows));
    let left_out = report.steps.iter().filter(|outcome| outcome.how == How::CouldNot).count();
    let verdict = match (report.ok, left_out) {
        (true, 0) => format!("{} up: every step holds", out.mark(State::Ok)),
        (true, n) => format!(
            "{} up: done, {n} step{} left out; the table says why",
            out.mark(State::Warn),
            if n == 1 { "" } else { "s" }
        ),
        (false, _) => format!(
            "{} up: failed; what is done is kept, and `cargo xtask up` goes on from there",
            out.mark(State::Fail)
        ),
    };
    text.push_str(&format!("\n{verdict} ({:.1} s)", report.seconds));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(words: &[&str]) -> cli::Up {
        let words = ["xtask", "up"].iter().chain(words);
        let cli::Command::Up(args) = cli::Cli::try_parse_from(words).unwrap().command else {
            panic!("not up");
        };
        args
    }

    #[test]
    fn steps_are_chosen_in_order() {
        assert_eq!(chosen(&args(&[])), UpStep::ALL);
        assert_eq!(chosen(&args(&["--only", "text,model"])), [UpStep::Model, UpStep::Text]);
        let without = chosen(&args(&["--skip", "bench", "--skip", "crossval"]));
        assert_eq!(without.len(), UpStep::ALL.len() - 2);
    }

    #[test]
    fn only_what_the_network_or_a_compiler_lacks_is_left_out() {
        assert!(may_be_left_out(UpStep::Reference, ExitCode::Network));
        assert!(may_be_left_out(UpStep::Crossval, ExitCode::Network));
        assert!(!may_be_left_out(UpStep::Crossval, ExitCode::Diverged));
        assert!(!may_be_left_out(UpStep::Receipts, ExitCode::CheckFailed));
    }

    #[test]
    fn the_table_for_people() {
        let steps = [
            outcome(UpStep::Preflight, How::Did, "14 checks ok".into(), 0.31),
            outcome(UpStep::Reference, How::CouldNot, "no network\nsecond line".into(), 1.0),
            outcome(UpStep::Model, How::Reused, "smollm2-135m".into(), 0.0),
        ];
        let report = Report { ok: true, seconds: 1.3, steps: &steps, text: None };
        insta::assert_snapshot!(render(&Reporter::for_tests(), &report));
        let steps = [outcome(UpStep::Crossval, How::Failed, "diverged".into(), 2.0)];
        let report = Report { ok: false, seconds: 2.0, steps: &steps, text: None };
        insta::assert_snapshot!("failed", render(&Reporter::for_tests(), &report));
    }
}
