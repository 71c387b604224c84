//! `fuzz run`: targets in turns or side by side, each in a process of its own, for a given time.

use super::libfuzzer::{self, Stats};
use super::{RunArgs, Target, artifacts, build, committed, found};
use crate::ctx::Ctx;
use crate::proc::{self, Stdout};
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What one target went through.
#[derive(Debug, Serialize)]
struct Report {
    target: String,
    ok: bool,
    seconds: f64,
    executions: u64,
    edges: u64,
    features: u64,
    /// With the sanitizer's own memory.
    peak_rss_mb: u64,
    /// With the sanitizer, in whole seconds.
    slowest_seconds: u64,
    /// Inputs that break a law, hang, or took over a second here.
    kept: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

pub fn run(ctx: &Ctx, args: &RunArgs) -> Result<ExitCode> {
    let chosen = args.targets.chosen(ctx)?;
    let minutes = args.cpu_minutes.map_or(args.minutes, |all| all / chosen.len() as f64);
    let seconds = (minutes * 60.0).ceil() as u64;
    let binary = build::fuzz_binary(ctx)?;
    let seeds = build::seeds(ctx)?;
    let queue = Mutex::new(chosen.iter());
    let reports: Mutex<Vec<Report>> = Mutex::default();
    let worker = || -> Result<()> {
        loop {
            let next = queue.lock().expect("no worker panics").next();
            let Some(target) = next else { return Ok(()) };
            let report = one(ctx, &binary, target, &seeds.join(&target.name), seconds)?;
            let state = if report.ok { State::Ok } else { State::Fail };
            ctx.out.line(format!(
                "{} {}: {} executions, {} edges, {:.0} s",
                ctx.out.mark(state),
                report.target,
                report.executions,
                report.edges,
                report.seconds
            ));
            reports.lock().expect("no worker panics").push(report);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut reports = reports.into_inner().expect("no worker panics");
    reports.sort_by_key(|report| chosen.iter().position(|target| target.name == report.target));
    let out = args.out.clone().map_or_else(|| Ok(ctx.target_dir()?.join("fuzz")), anyhow::Ok)?;
    std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let path = out.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(&reports)?)
        .with_context(|| format!("writing {}", path.display()))?;
    if ctx.out.is_json() {
        ctx.out.json(&reports)?;
    }
    ctx.out.line(render(&reports));
    ctx.out.line(format!("the report: {}", path.display()));
    let ok = reports.iter().all(|report| report.ok);
    Ok(if ok { ExitCode::Ok } else { ExitCode::CheckFailed })
}

fn one(ctx: &Ctx, binary: &Path, target: &Target, seeds: &Path, seconds: u64) -> Result<Report> {
    let kept_in = artifacts(ctx, target)?;
    let before = files(&kept_in);
    let command = libfuzzer::command(binary, target)
        .args([format!("-max_total_time={seconds}"), format!("-artifact_prefix={}/", kept_in.display())])
        .args([found(ctx, target)?.as_path(), committed(ctx, target)?.as_path(), seeds]);
    let mut stats = Stats::default();
    let log = ctx.log_file(&format!("fuzz-{}", target.name))?;
    let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| stats.line(line))?;
    let kept: Vec<PathBuf> = files(&kept_in).difference(&before).cloned().collect();
    let problem = match finished.success() {
        true => None,
        false => Some(finished.explain()),
    };
    if let Some(problem) = &problem {
        ctx.out.line(problem);
    }
    Ok(Report {
        target: target.name.clone(),
        ok: problem.is_none(),
        seconds: finished.seconds,
        executions: stats.executions,
        edges: stats.edges,
        features: stats.features,
        peak_rss_mb: stats.peak_rss_mb,
        slowest_seconds: stats.slowest_seconds,
        kept,
        problem,
    })
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn render(reports: &[Report]) -> String {
    let rows = reports.iter().map(|report| {
        [
            report.target.clone(),
            if report.ok { "ok".into() } else { "FAILED".into() },
            report.executions.to_string(),
            format!("{:.0} s", report.seconds),
            report.edges.to_string(),
            report.features.to_string(),
            format!("{} MB", report.peak_rss_mb),
            format!("{} s", report.slowest_seconds),
            report.kept.len().to_string(),
        ]
    });
    table(["target", "", "executions", "time", "edges", "features", "memory", "slowest", "kept"], rows)
}
