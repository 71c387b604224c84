//! `up --plan`: the steps with what is there already, what they download and how long they may take.
//!
//! In: the cache and the target folder, looked at and not changed. Out: one row per step. The times are what a
//! machine with two cores took, not promises.

use super::model::DEFAULT_MODEL;
use crate::cli::{self, Cpu, ModelArg, UpStep};
use crate::ctx::Ctx;
use crate::models;
use crate::receipts::store;
use crate::reference;
use crate::report::{bytes, table};
use anyhow::Result;
use bitforge_discovery::Lane;
use bitforge_schema::exit::ExitCode;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Planned {
    step: UpStep,
    action: Action,
    /// Bytes to fetch, as far as they are known.
    download_bytes: u64,
    /// Seconds on a machine with two cores.
    estimate_seconds: u32,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Run,
    /// Only checked: an earlier run did it.
    Cached,
    /// Needs the network, which is off.
    CouldNot,
}

pub fn print(ctx: &Ctx, args: &cli::Up, steps: &[UpStep]) -> Result<ExitCode> {
    let planned: Vec<Planned> = steps.iter().map(|step| plan(ctx, args, *step)).collect::<Result<_>>()?;
    if ctx.out.is_json() {
        ctx.out.json(&planned)?;
    }
    ctx.out.line(render(&planned));
    Ok(ExitCode::Ok)
}

fn plan(ctx: &Ctx, args: &cli::Up, step: UpStep) -> Result<Planned> {
    let planned = |action, download_bytes, estimate_seconds, detail: String| Planned {
        step,
        action,
        download_bytes,
        estimate_seconds,
        detail,
    };
    let needs_network = if ctx.offline { Action::CouldNot } else { Action::Run };
    Ok(match step {
        UpStep::Preflight => planned(Action::Run, 0, 1, "looks at the machine".into()),
        UpStep::Build => match ctx.target_dir()?.join("release/bitnet").is_file() {
            true => planned(Action::Run, 0, 1, "cargo builds what changed".into()),
            false => {
                planned(Action::Run, 0, 90, "cargo builds bitnet, about 400 MiB in the target folder".into())
            }
        },
        UpStep::Reference => {
            let builds = reference::list(&ctx.cache_dir()?.join("references"))?;
            let has = |lane: Lane, cpu: Cpu| {
                builds.iter().any(|build| {
                    let variant = build.manifest.as_ref().map(|manifest| manifest.variant.cpu);
                    build.name == lane.name() && variant == Some(cpu)
                })
            };
            let both = |lane: &Lane| has(*lane, Cpu::Native) && has(*lane, Cpu::Portable);
            let missing: Vec<&str> =
                Lane::ALL.into_iter().filter(|lane| !both(lane)).map(Lane::name).collect();
            match missing.as_slice() {
                [] => planned(Action::Cached, 0, 1, built(ctx)?),
                names => planned(
                    needs_network,
                    REFERENCE_DOWNLOAD * names.len() as u64,
                    120 * names.len() as u32,
                    format!("builds {} twice from pinned crates, about 200 MiB each", names.join(" and ")),
                ),
            }
        }
        UpStep::Symbols => planned(Action::Run, 0, 1, "reads the references' symbols".into()),
        UpStep::Kernels => planned(Action::Run, 0, 1, "asks the binary what it selects".into()),
        UpStep::Model => {
            let name = args.model.as_deref().unwrap_or(DEFAULT_MODEL);
            match ModelArg::parse(name) {
                ModelArg::File(path) => planned(Action::Cached, 0, 1, path.display().to_string()),
                ModelArg::Name(name) => {
                    let size = models::known(&name)?.bytes.unwrap_or(0);
                    match models::cached(ctx, &name)? {
                        Some(_) => planned(Action::Cached, 0, 1, format!("{name}, {}", bytes(size))),
                        None => planned(needs_network, size, 30, format!("fetches {name}")),
                    }
                }
            }
        }
        UpStep::Crossval => planned(
            Action::Run,
            if !store::path(ctx, "crossval")?.is_file() { ORACLE_DOWNLOAD } else { 0 },
            60,
            "evaluates the standard set on every engine that is there".into(),
        ),
        UpStep::Eval => planned(Action::Run, 0, 10, "scores held-out text with the trained fixtures".into()),
        UpStep::Bench => planned(Action::Run, 0, 60, "measures in turns with the references".into()),
        UpStep::Text => planned(Action::Run, 0, 5, format!("{} tokens at most", args.max_tokens)),
        UpStep::Receipts => planned(Action::Run, 0, 5, "verifies what the steps wrote".into()),
    })
}

/// Of the crate of one reference, and of cmake and ninja where the system lacks them.
const REFERENCE_DOWNLOAD: u64 = 40 << 20;
/// numpy, where python3 lacks it.
const ORACLE_DOWNLOAD: u64 = 18 << 20;

fn built(ctx: &Ctx) -> Result<String> {
    let entries = reference::list(&ctx.cache_dir()?.join("references"))?;
    let size = entries.iter().map(|entry| entry.bytes).sum();
    Ok(format!("llama and bitnet are built, {} in the cache", bytes(size)))
}

fn render(planned: &[Planned]) -> String {
    let rows = planned.iter().map(|row| {
        let action = match row.action {
            Action::Run => "run",
            Action::Cached => "cached",
            Action::CouldNot => "cannot: offline",
        };
        let download = match row.download_bytes {
            0 => String::new(),
            count => bytes(count),
        };
        let time = format!("{} s", row.estimate_seconds);
        [row.step.name().into(), action.to_string(), download, time, row.detail.clone()]
    });
    let seconds: u32 =
        planned.iter().filter(|row| row.action != Action::CouldNot).map(|row| row.estimate_seconds).sum();
    let download = planned.iter().filter(|row| row.action == Action::Run).map(|row| row.download_bytes).sum();
    format!(
        "{}\nabout {} to download and {}:{:02} minutes on two cores; nothing was done",
        table(["step", "", "download", "about", "what"], rows),
        bytes(download),
        seconds / 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_for_people() {
        let row = |step, action, download_bytes, estimate_seconds, detail: &str| Planned {
            step,
            action,
            download_bytes,
            estimate_seconds,
            detail: detail.into(),
        };
        insta::assert_snapshot!(render(&[
            row(UpStep::Build, Action::Run, 0, 90, "cargo builds bitnet"),
            row(UpStep::Reference, Action::Cached, 0, 1, "built"),
            row(UpStep::Model, Action::CouldNot, 98 << 20, 30, "fetches smollm2-135m"),
        ]));
    }
}
