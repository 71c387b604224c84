//! `test`: everything that must hold before a change goes in, in one command.
//!
//! Steps: fetch the locked crates and numpy for the oracle, then without network: format, lints, all tests, repository rules,
//! fixtures. Out: a table of what ran with counts and times, and what did not run. Deliberately absent:
//! references, GPUs, browsers, downloads of models.

mod part;

use crate::ci::shard::Shard;
use crate::cli;
use crate::crossval::engines;
use crate::ctx::Ctx;
use crate::exit::{code_of, message_of};
use crate::fixtures::{self, Mode};
use crate::manual;
use crate::proc::{self, Command, Finished, Stdout};
use crate::report::{Reporter, State, table};
use crate::tidy;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::time::Instant;

/// What this command leaves to others, so that nobody takes its green for more than it is.
const NOT_RUN: &[&str] = &[
    "models and C++ references that are not in the cache: their comparisons",
    "building the C++ references (`cargo xtask reference build all`)",
    "GPUs and other CPU architectures",
    "the web page in a browser (`ci/browser.sh`)",
    "the book (`cargo xtask book --check`)",
];

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    seconds: f64,
    steps: Vec<Outcome>,
    not_run: Vec<String>,
}

/// How one step came out.
#[derive(Debug, Serialize)]
struct Outcome {
    step: &'static str,
    state: State,
    detail: String,
    seconds: f64,
    #[serde(skip)]
    code: ExitCode,
}

type Step = fn(&Ctx) -> Result<Checked>;

/// A step that ran to its end: a line for the table, and the explanation where it failed.
struct Checked {
    detail: String,
    problem: Option<String>,
}

const STEPS: &[(&str, Step)] = &[
    ("fetch", fetch),
    ("format", format),
    ("clippy", clippy),
    ("tests", tests),
    ("tidy", tidy_step),
    ("fixtures", fixtures_step),
    ("manual", manual_step),
];

/// For the command line.
pub fn step_names() -> clap::builder::PossibleValuesParser {
    STEPS.iter().map(|(name, _)| *name).into()
}

pub fn run(ctx: &Ctx, args: &cli::Test) -> Result<ExitCode> {
    let start = Instant::now();
    let mut steps: Vec<Outcome> = Vec::new();
    let mut not_run: Vec<String> = NOT_RUN.iter().map(|text| text.to_string()).collect();
    for (name, step) in STEPS {
        proc::check_interrupted()?;
        if !args.only.is_empty() && !args.only.iter().any(|chosen| chosen == name) {
            not_run.push(format!("step {name}, which is not among those of --only"));
            continue;
        }
        let failed = steps.iter().any(|outcome| outcome.state == State::Fail);
        if failed && !args.keep_going {
            not_run.push(format!("step {name}, because an earlier one failed (--keep-going runs it)"));
            continue;
        }
        let outcome = match (*name, args.shard) {
            (_, Shard::WHOLE) => run_step(ctx, name, *step),
            ("tests", shard) => run_step(ctx, name, |ctx| part::tests(ctx, shard)),
            _ => run_step(ctx, name, *step),
        };
        if outcome.code == ExitCode::Interrupted {
            return Ok(ExitCode::Interrupted);
        }
        steps.push(outcome);
    }
    let code = steps.iter().map(|outcome| outcome.code).find(|code| *code != ExitCode::Ok);
    let seconds = round(start.elapsed().as_secs_f64());
    let report = Report { ok: code.is_none(), seconds, steps, not_run };
    ctx.out.line(render(&ctx.out, &report));
    if ctx.out.is_json() {
        ctx.out.json(&report)?;
    }
    Ok(code.unwrap_or(ExitCode::Ok))
}

fn run_step(ctx: &Ctx, name: &'static str, step: impl Fn(&Ctx) -> Result<Checked>) -> Outcome {
    let start = Instant::now();
    let (state, code, detail) = match step(ctx) {
        Ok(Checked { detail, problem: None }) => (State::Ok, ExitCode::Ok, detail),
        Ok(Checked { detail, problem: Some(problem) }) => {
            ctx.out.line(&problem);
            (State::Fail, ExitCode::CheckFailed, detail)
        }
        Err(error) => {
            let message = message_of(&error);
            ctx.out.line(&message);
            let first = message.lines().next().unwrap_or_default().to_string();
            (State::Fail, code_of(&error), first)
        }
    };
    let seconds = round(start.elapsed().as_secs_f64());
    ctx.out.line(format!("{} {name}: {detail} ({seconds:.1} s)", ctx.out.mark(state)));
    Outcome { step: name, state, detail, seconds, code }
}

fn round(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn render(out: &Reporter, report: &Report) -> String {
    let rows = report.steps.iter().map(|outcome| {
        [
            out.mark(outcome.state),
            outcome.step.to_string(),
            format!("{:.1} s", outcome.seconds),
            outcome.detail.clone(),
        ]
    });
    let verdict = if report.ok { State::Ok } else { State::Fail };
    let word = if report.ok { "everything that ran passed" } else { "failed" };
    let mut text = format!("\n{}\nnot run:\n", table(["", "step", "time", "what"], rows));
    for item in &report.not_run {
        text.push_str(&format!("  - {item}\n"));
    }
    text.push_str(&format!("{} test: {word} ({:.1} s)", out.mark(verdict), report.seconds));
    text
}

/// A cargo command of a step after `fetch`: without network, plain text, snapshots compared and not written.
fn cargo(ctx: &Ctx, args: &[&str]) -> Result<Command> {
    let command = ctx.cargo(args.iter().copied())?;
    Ok(command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TERM_COLOR", "never").env("INSTA_UPDATE", "no"))
}

fn run_cargo(ctx: &Ctx, name: &str, command: &Command, mut watch: impl FnMut(&str)) -> Result<Finished> {
    let mut progress = ctx.out.progress(format!("test: {name}"));
    proc::run(ctx, command, Stdout::Log, &ctx.log_file(&format!("test-{name}"))?, |line| {
        progress.message(line);
        watch(line);
    })
}

fn checked(finished: &Finished, detail: impl Into<String>) -> Checked {
    Checked { detail: detail.into(), problem: (!finished.success()).then(|| finished.explain()) }
}

fn fetch(ctx: &Ctx) -> Result<Checked> {
    let offline = ctx.offline || ctx.env.get("CARGO_NET_OFFLINE") == Some("true");
    let finished = run_cargo(ctx, "fetch", &ctx.cargo(["fetch", "--locked"])?, |_| {})?;
    if !finished.success() && !offline {
        return Err(crate::exit::Failure::new(ExitCode::Network, finished.explain()).into());
    }
    let how =
        if offline { "all crates of Cargo.lock are here" } else { "crates of Cargo.lock, then no network" };
    // What the oracle's tests need; without it they say so and are skipped.
    let oracle = match engines::oracle(ctx) {
        Ok(_) => "numpy for the oracle".to_string(),
        Err(error) => format!("no numpy, the oracle's tests are skipped: {}", message_of(&error)),
    };
    Ok(checked(&finished, format!("{how}; {}", oracle.lines().next().unwrap_or_default())))
}

fn format(ctx: &Ctx) -> Result<Checked> {
    let finished = run_cargo(ctx, "format", &cargo(ctx, &["fmt", "--all", "--check"])?, |_| {})?;
    Ok(Checked {
        detail: "cargo fmt --all --check".into(),
        problem: (!finished.success())
            .then(|| format!("{}\nrun `cargo fmt --all` to fix the format", finished.explain())),
    })
}

fn clippy(ctx: &Ctx) -> Result<Checked> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let finished = run_cargo(ctx, "clippy", &cargo(ctx, &args)?, |_| {})?;
    Ok(checked(&finished, "the workspace, all targets, warnings denied"))
}

/// Unit, integration and documentation tests of the whole workspace.
fn tests(ctx: &Ctx) -> Result<Checked> {
    let mut tally = Tally::default();
    cargo_test(ctx, &["test", "--workspace", "--locked", "--no-fail-fast"], &mut tally)
}

/// One `cargo test`, counted.
fn cargo_test(ctx: &Ctx, args: &[&str], tally: &mut Tally) -> Result<Checked> {
    let finished = run_cargo(ctx, "tests", &cargo(ctx, args)?, |line| tally.add(line))?;
    let problem = match (finished.success(), tally.failure_text.is_empty()) {
        (true, _) => None,
        (false, true) => Some(finished.explain()),
        (false, false) => {
            Some(format!("{}\nthe whole output: {}", tally.failure_text.join("\n"), finished.log.display()))
        }
    };
    Ok(Checked { detail: tally.summary(), problem })
}

fn tidy_step(ctx: &Ctx) -> Result<Checked> {
    let violations = tidy::check(ctx)?;
    let lines: Vec<String> = violations.iter().map(|violation| violation.to_string()).collect();
    let detail = match lines.len() {
        0 => "the rules of the repository hold".to_string(),
        count => format!("{count} violations"),
    };
    Ok(Checked { detail, problem: (!lines.is_empty()).then(|| lines.join("\n")) })
}

fn fixtures_step(ctx: &Ctx) -> Result<Checked> {
    Ok(Checked { detail: fixtures::generate(ctx, Mode::Check)?, problem: None })
}

fn manual_step(ctx: &Ctx) -> Result<Checked> {
    Ok(Checked { detail: manual::check(ctx)?, problem: None })
}

/// Counts of the test harness's output, and what failing tests printed.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    doc_passed: usize,
    failed: usize,
    ignored: usize,
    binaries: usize,
    in_doc_tests: bool,
    in_failures: bool,
    failure_text: Vec<String>,
}

impl Tally {
    /// Lines of failing tests that are kept.
    const FAILURE_LINES: usize = 80;

    fn add(&mut self, line: &str) {
        let text = line.trim();
        if text.starts_with("Running ") {
            self.in_doc_tests = false;
        } else if text.starts_with("Doc-tests ") {
            self.in_doc_tests = true;
        } else if let Some(result) = text.strip_prefix("test result: ") {
            self.in_failures = false;
            self.binaries += 1;
            let count = |word: &str| {
                let part = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(word));
                part.and_then(|number| number.trim().parse::<usize>().ok()).unwrap_or(0)
            };
            if self.in_doc_tests {
                self.doc_passed += count("passed")
            } else {
                self.passed += count("passed")
            }
            self.failed += count("failed");
            self.ignored += count("ignored");
            return;
        } else if text == "failures:" {
            self.in_failures = true;
        }
        if self.in_failures && self.failure_text.len() < Self::FAILURE_LINES {
            self.failure_text.push(line.to_string());
        }
    }

    fn summary(&self) -> String {
        let Tally { passed, doc_passed, failed, ignored, binaries, .. } = self;
        let mut text = format!("{passed} tests and {doc_passed} doc tests passed in {binaries} runs");
        if *failed > 0 {
            text.push_str(&format!(", {failed} failed"));
        }
        if *ignored > 0 {
            text.push_str(&format!(", {ignored} ignored"));
        }
        text
    }
}

#[cfg(test)]
mod tests_of_test {
    use super::*;

    const OUTPUT: &str = "\
   Compiling xtask v0.1.0
     Running unittests src/main.rs (target/debug/deps/xtask-1)
running 2 tests
test a ... ok
test b ... FAILED

failures:

---- b stdout ----
thread 'b' panicked at src/x.rs:1:1:
left is not right

failures:
    b

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/cli.rs (target/debug/deps/cli-1)
test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s
   Doc-tests bitnet_runtime
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s
";

    #[test]
    fn the_harness_output_is_counted() {
        let mut tally = Tally::default();
        OUTPUT.lines().for_each(|line| tally.add(line));
        assert_eq!(tally.summary(), "8 tests and 3 doc tests passed in 3 runs, 1 failed, 1 ignored");
        let text = tally.failure_text.join("\n");
        assert!(text.contains("left is not right") && !text.contains("tests/cli.rs"), "{text}");
    }

    fn report() -> Report {
        let outcome = |step, state, detail: &str| Outcome {
            step,
            state,
            detail: detail.into(),
            seconds: 1.5,
            code: ExitCode::Ok,
        };
        Report {
            ok: false,
            seconds: 3.0,
            steps: vec![
                outcome("format", State::Ok, "cargo fmt --all --check"),
                outcome("tests", State::Fail, "8 tests and 3 doc tests passed in 3 runs, 1 failed"),
            ],
            not_run: vec!["step tidy, because an earlier one failed (--keep-going runs it)".into()],
        }
    }

    #[test]
    fn the_report_for_people_and_programs() {
        insta::assert_snapshot!(render(&Reporter::for_tests(), &report()));
        insta::assert_json_snapshot!("json", report());
    }
}
