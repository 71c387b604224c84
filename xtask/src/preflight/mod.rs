//! `preflight`: what this machine has, what it lacks, what that is needed for, and the command that fixes it.
//!
//! In: the environment and a system root (files under /proc, /sys and /usr; tests plant their own). Out: one
//! [`Check`] per fact. The checks run in threads and none waits longer than a second. Deliberately absent:
//! any change to the machine, and any library of a GPU vendor (files are looked at, nothing is loaded).

pub mod accelerator;
pub mod backend;
pub mod machine;
pub mod network;
pub mod system;
pub mod toolchain;

use crate::cli::{self, Class};
use crate::ctx::Ctx;
use crate::report::{Reporter, State};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use system::System;

/// One fact about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub id: &'static str,
    pub class: Class,
    pub state: State,
    /// What was seen.
    pub found: String,
    pub needed_for: &'static str,
    /// A command, where something can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    pub fn ok(id: &'static str, class: Class, found: impl Into<String>, needed_for: &'static str) -> Self {
        Check { id, class, state: State::Ok, found: found.into(), needed_for, fix: None }
    }

    /// The same check in another state, with the command that helps.
    pub fn but(self, state: State, fix: impl Into<String>) -> Self {
        Check { state, fix: Some(fix.into()), ..self }
    }
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub ok: usize,
    pub warn: usize,
    pub fail: usize,
    pub could_not_check: usize,
    pub exit_code: u8,
    pub seconds: f64,
    pub checks: Vec<Check>,
}

pub fn run(ctx: &Ctx, args: &cli::Preflight) -> Result<ExitCode> {
    if let Some(backend) = args.backend {
        return backend::run(ctx, backend, args);
    }
    let (report, code) = report(ctx, &args.require);
    ctx.out.line(render(&ctx.out, &report, if args.verbose { Show::All } else { Show::NotOk }));
    if args.verbose {
        for lane in bitforge_discovery::Lane::ALL {
            ctx.out.line(bitforge_discovery::discover(&ctx.env, lane).render());
        }
    }
    if ctx.out.is_json() {
        ctx.out.json(&report)?;
    }
    Ok(code)
}

/// Runs every check. A warning or an unknown in a class of `require` counts as a failure.
pub fn report(ctx: &Ctx, require: &[Class]) -> (Report, ExitCode) {
    let start = Instant::now();
    let mut checks = gather(&System { ctx, sysroot: Path::new("/") });
    for check in &mut checks {
        if check.state != State::Ok && require.contains(&check.class) {
            check.state = State::Fail;
        }
    }
    summarize(checks, start.elapsed().as_secs_f64())
}

/// Every check, in the order of the report, gathered concurrently.
fn gather(system: &System<'_>) -> Vec<Check> {
    std::thread::scope(|scope| {
        let rust = scope.spawn(|| toolchain::rust(system));
        let native = scope.spawn(|| toolchain::native(system));
        let cargo_index = scope.spawn(|| network::cargo_index(system));
        let driver = scope.spawn(|| accelerator::driver(system));
        let python = scope.spawn(|| {
            let facts = toolchain::probe_python(system);
            let index = network::pip_index(system, &facts);
            let nvrtc = accelerator::nvrtc(system, &facts);
            (toolchain::python(system, &facts), index, nvrtc)
        });
        let machine = machine::checks(system);
        let mut checks = rust.join().expect("a check does not panic");
        checks.extend(native.join().expect("a check does not panic"));
        let (python, pip_index, nvrtc) = python.join().expect("a check does not panic");
        checks.extend(python);
        checks.extend(machine);
        checks.push(driver.join().expect("a check does not panic"));
        checks.push(nvrtc);
        checks.push(cargo_index.join().expect("a check does not panic"));
        checks.push(pip_index);
        checks
    })
}

fn summarize(checks: Vec<Check>, seconds: f64) -> (Report, ExitCode) {
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let code = checks
        .iter()
        .find(|check| check.state == State::Fail)
        .map_or(ExitCode::Ok, |check| exit_code(check.class));
    let report = Report {
        ok: count(State::Ok),
        warn: count(State::Warn),
        fail: count(State::Fail),
        could_not_check: count(State::CouldNotCheck),
        exit_code: code as u8,
        seconds: (seconds * 1000.0).round() / 1000.0,
        checks,
    };
    (report, code)
}

const fn exit_code(class: Class) -> ExitCode {
    match class {
        Class::Toolchain => ExitCode::Toolchain,
        Class::Machine => ExitCode::Machine,
        Class::Accelerator => ExitCode::Accelerator,
        Class::Network => ExitCode::Network,
    }
}

/// Which checks a person sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    All,
    NotOk,
}

/// The report for people: one line per check, its fix below, and a summary line.
pub fn render(out: &Reporter, report: &Report, show: Show) -> String {
    let mut text = String::new();
    for check in &report.checks {
        if show == Show::NotOk && check.state == State::Ok {
            continue;
        }
        text.push_str(&format!("{} {:<12} {}", out.mark(check.state), check.id, check.found));
        if check.state != State::Ok {
            text.push_str(&format!(" (needed for {})", check.needed_for));
        }
        text.push('\n');
        if let Some(fix) = &check.fix {
            text.push_str(&format!("  {:<12} fix: {fix}\n", ""));
        }
    }
    let worst = if report.fail > 0 {
        State::Fail
    } else if report.warn > 0 {
        State::Warn
    } else {
        State::Ok
    };
    let mark = out.mark(worst);
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text.push_str(&format!(
        "{mark} preflight: {} ok, {}, {}, {} could not be checked ({:.2} s)",
        report.ok,
        plural(report.warn, "warning"),
        plural(report.fail, "failure"),
        report.could_not_check,
        report.seconds
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        vec![
            Check::ok("rust", Class::Toolchain, "cargo 1.95.0", "building everything"),
            Check::ok("cmake", Class::Toolchain, "not found", "reference builds")
                .but(State::Warn, "apt-get install cmake"),
            Check::ok("memory", Class::Machine, "512.0 MiB", "the release build")
                .but(State::Fail, "free memory"),
            Check::ok("pip-index", Class::Network, "offline was asked for", "fetching models")
                .but(State::CouldNotCheck, "cargo xtask preflight"),
        ]
    }

    #[test]
    fn human_output_shows_what_needs_attention() {
        let (report, code) = summarize(checks(), 0.25);
        assert_eq!(code, ExitCode::Machine);
        insta::assert_snapshot!(render(&Reporter::for_tests(), &report, Show::NotOk));
        insta::assert_snapshot!("verbose", render(&Reporter::for_tests(), &report, Show::All));
    }

    #[test]
    fn a_good_machine_gets_one_line() {
        let (report, code) = summarize(checks().into_iter().take(1).collect(), 0.25);
        assert_eq!(code, ExitCode::Ok);
        insta::assert_snapshot!(
            render(&Reporter::for_tests(), &report, Show::NotOk),
            @"✔ preflight: 1 ok, 0 warnings, 0 failures, 0 could not be checked (0.25 s)"
        );
    }

    #[test]
    fn json_output() {
        let (report, _) = summarize(checks(), 0.25);
        insta::assert_json_snapshot!(report);
    }

    #[test]
    fn each_class_has_its_exit_code() {
        for (class, code) in [
            (Class::Toolchain, ExitCode::Toolchain),
            (Class::Machine, ExitCode::Machine),
            (Class::Accelerator, ExitCode::Accelerator),
            (Class::Network, ExitCode::Network),
        ] {
            let check = Check::ok("x", class, "", "").but(State::Fail, "");
            assert_eq!(summarize(vec![check], 0.0).1, code);
        }
    }
}
