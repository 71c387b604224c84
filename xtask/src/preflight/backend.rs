//! `preflight --backend`: whether one backend can be used now, and the command that would make it so.
//!
//! In: the environment. Out: a [`Verdict`] with every place that was looked at. `--repair` runs the command,
//! in CI only with `--repair=always`. Deliberately absent: how references are found or built.

use super::{Check, accelerator, machine, system::System, toolchain};
use crate::cli::{self, Backend, Class, ReferenceBuild, ReferenceChoice, Repair};
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::reference;
use crate::report::State;
use anyhow::Result;
use bitforge_discovery::{Candidate, Lane, discover};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::path::Path;

#[derive(Debug, Serialize)]
pub struct Verdict {
    pub backend: Backend,
    pub usable: bool,
    pub found: String,
    /// The command that makes it usable, where one is known.
    pub fix: Option<String>,
    /// For references: every place, in the order of precedence.
    pub candidates: Vec<Candidate>,
}

pub fn run(ctx: &Ctx, backend: Backend, args: &cli::Preflight) -> Result<ExitCode> {
    let mut verdict = judge(ctx, backend);
    if let (false, Some(repair), Some(choice)) = (verdict.usable, args.repair, choice(backend)) {
        if repair == Repair::Local && ctx.env.get("CI").is_some_and(|value| value != "false") {
            let message = format!(
                "--repair does nothing in CI (the variable CI is set); say --repair=always, or run `{}`",
                verdict.fix.unwrap_or_default()
            );
            return fail(ExitCode::Unavailable, message);
        }
        reference::build_all(ctx, &ReferenceBuild::plain(choice))?;
        verdict = judge(ctx, backend);
    }
    for candidate in &verdict.candidates {
        let place = candidate.place.as_ref().map(|place| format!(" {}", place.display())).unwrap_or_default();
        let mark = if candidate.taken { ctx.out.mark(State::Ok) } else { "-".into() };
        ctx.out.line(format!("  {mark} {}{place}: {}", candidate.origin, candidate.why));
    }
    let state = if verdict.usable { State::Ok } else { State::Fail };
    ctx.out.line(format!("{} {}: {}", ctx.out.mark(state), backend.name(), verdict.found));
    if let Some(fix) = &verdict.fix {
        ctx.out.line(format!("  fix: {fix}"));
    }
    if ctx.out.is_json() {
        ctx.out.json(&verdict)?;
    }
    Ok(if verdict.usable { ExitCode::Ok } else { ExitCode::Unavailable })
}

const fn choice(backend: Backend) -> Option<ReferenceChoice> {
    match backend {
        Backend::Llama => Some(ReferenceChoice::Llama),
        Backend::Bitnet => Some(ReferenceChoice::Bitnet),
        Backend::Cpu | Backend::Cuda => None,
    }
}

fn judge(ctx: &Ctx, backend: Backend) -> Verdict {
    let system = System { ctx, sysroot: Path::new("/") };
    match backend {
        Backend::Llama => by_discovery(ctx, backend, Lane::Llama),
        Backend::Bitnet => by_discovery(ctx, backend, Lane::Bitnet),
        Backend::Cpu => by_checks(backend, machine::checks(&system), Class::Machine),
        Backend::Cuda => {
            let facts = toolchain::probe_python(&system);
            let checks = vec![accelerator::driver(&system), accelerator::nvrtc(&system, &facts)];
            by_checks(backend, checks, Class::Accelerator)
        }
    }
}

fn by_discovery(ctx: &Ctx, backend: Backend, lane: Lane) -> Verdict {
    let discovery = discover(&ctx.env, lane);
    let taken = discovery.candidates.iter().find(|candidate| candidate.taken);
    let (found, fix) = match taken {
        Some(candidate) => (format!("found by {}", candidate.origin), None),
        None => (
            "no place has a usable library".into(),
            Some(format!("cargo xtask reference build {}", lane.name())),
        ),
    };
    Verdict { backend, usable: fix.is_none(), found, fix, candidates: discovery.candidates }
}

/// The CPU is usable unless a check fails; a GPU only where every check is ok.
fn by_checks(backend: Backend, checks: Vec<Check>, class: Class) -> Verdict {
    let bad = |check: &&Check| match class {
        Class::Accelerator => check.state != State::Ok,
        _ => check.state == State::Fail,
    };
    let problem = checks.iter().find(bad);
    let all = || checks.iter().map(|check| check.found.as_str()).collect::<Vec<_>>().join("; ");
    Verdict {
        backend,
        usable: problem.is_none(),
        found: problem.map_or_else(all, |check| format!("{}: {}", check.id, check.found)),
        fix: problem.and_then(|check| check.fix.clone()),
        candidates: Vec::new(),
    }
}
