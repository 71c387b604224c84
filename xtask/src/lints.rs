//! `lints`: clippy and rustdoc without a warning, on every combination of features that compiles other code.
//!
//! In: the sources. Out: a line per combination, the first warnings where there are some. The feature `cpu` is a name
//! without code, and `cuda` brings `gpu`: what is left is three backends times three switches. Deliberately absent:
//! running anything; `cargo xtask test` lints the defaults on every change.

use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use crate::report::State;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use serde::Serialize;

#[derive(clap::Args, Clone, Debug)]
pub struct LintsArgs {
    /// Print the combinations and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Only one of the two tools
    #[arg(long, value_enum)]
    pub only: Option<Tool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    Clippy,
    Doc,
}

/// Packages that are linted together, and the features that are on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Combination {
    packages: Vec<&'static str>,
    features: Vec<String>,
}

const RUNTIME: [&str; 3] = ["bitnet-runtime", "bitnet-server", "bitnet-cli"];
const BACKENDS: [Option<&str>; 3] = [None, Some("gpu"), Some("cuda")];
const SWITCHES: [&str; 3] = ["net", "server", "planted-bugs"];
/// Types with and without their JSON Schema.
const SCHEMAS: [&str; 2] = ["bitforge-schema", "bitforge-receipt-schema"];

fn combinations() -> Vec<Combination> {
    let mut all = Vec::new();
    for backend in BACKENDS {
        for chosen in 0u32..1 << SWITCHES.len() {
            let switches =
                (0..SWITCHES.len()).filter(|bit| chosen & (1 << bit) != 0).map(|bit| SWITCHES[bit]);
            let features = backend.into_iter().chain(switches).map(|name| format!("bitnet-cli/{name}"));
            all.push(Combination { packages: RUNTIME.into(), features: features.collect() });
        }
    }
    for package in SCHEMAS {
        for features in [vec![], vec![format!("{package}/json-schema")]] {
            all.push(Combination { packages: vec![package], features });
        }
    }
    all
}

impl Combination {
    fn name(&self) -> String {
        let features =
            self.features.iter().map(|name| name.split_once('/').map_or(name.as_str(), |(_, name)| name));
        let features = features.collect::<Vec<_>>().join(",");
        let packages = if self.packages == RUNTIME { "runtime" } else { self.packages[0] };
        format!("{packages} with {}", if features.is_empty() { "no feature" } else { &features })
    }

    fn command(&self, ctx: &Ctx, tool: Tool) -> Result<Command> {
        let first: &[&str] = match tool {
            Tool::Clippy => &["clippy", "--all-targets"],
            Tool::Doc => &["doc", "--no-deps"],
        };
        let packages = self.packages.iter().flat_map(|name| ["--package", name]);
        let words = first.iter().copied().chain(["--locked", "--no-default-features"]).chain(packages);
        let command = ctx.cargo(words)?.args(["--features", &self.features.join(",")]);
        Ok(with_denied_warnings(command, tool))
    }
}

fn with_denied_warnings(command: Command, tool: Tool) -> Command {
    match tool {
        Tool::Clippy => command.args(["--", "-D", "warnings"]),
        Tool::Doc => command.env("RUSTDOCFLAGS", "-D warnings"),
    }
}

pub fn run(ctx: &Ctx, args: &LintsArgs) -> Result<ExitCode> {
    let tools =
        [Tool::Clippy, Tool::Doc].into_iter().filter(|tool| args.only.is_none_or(|only| only == *tool));
    let tools: Vec<Tool> = tools.collect();
    let mut failed = Vec::new();
    let mut clean = Vec::new();
    let mut one = |name: String, tool: Tool, command: Command| -> Result<()> {
        if args.plan {
            ctx.out.line(command.line());
            return Ok(());
        }
        let log = ctx.log_file("lints")?;
        let finished = proc::run(ctx, &command, Stdout::Log, &log, |_| {})?;
        let state = if finished.success() { State::Ok } else { State::Fail };
        ctx.out.line(format!("{} {tool:?}: {name} ({:.1} s)", ctx.out.mark(state), finished.seconds));
        if finished.success() {
            clean.push(name);
        } else {
            ctx.out.line(finished.explain());
            failed.push(name);
        }
        Ok(())
    };
    for tool in tools {
        let words: &[&str] = match tool {
            Tool::Clippy => &["clippy", "--workspace", "--all-targets", "--locked"],
            Tool::Doc => &["doc", "--workspace", "--no-deps", "--locked"],
        };
        one("the workspace".into(), tool, with_denied_warnings(ctx.cargo(words.iter().copied())?, tool))?;
        for combination in combinations() {
            proc::check_interrupted()?;
            one(combination.name(), tool, combination.command(ctx, tool)?)?;
        }
    }
    if ctx.out.is_json() && !args.plan {
        ctx.out.json(&serde_json::json!({ "clean": clean, "failed": failed }))?;
    }
    Ok(if failed.is_empty() { ExitCode::Ok } else { ExitCode::CheckFailed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_feature_of_the_command_is_in_some_combination_and_none_comes_twice() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join("runtime/cli/Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        let known: BTreeSet<String> = manifest["features"].as_table().unwrap().keys().cloned().collect();
        let all = combinations();
        let used: BTreeSet<String> = all
            .iter()
            .flat_map(|one| &one.features)
            .map(|name| name.split_once('/').unwrap().1.to_string())
            .collect();
        let without_code = ["default", "cpu"].map(String::from);
        let missing: Vec<&String> =
            known.iter().filter(|name| !used.contains(*name) && !without_code.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}: say in lints.rs what it is combined with");
        let names: BTreeSet<String> = all.iter().map(Combination::name).collect();
        assert_eq!((all.len(), names.len()), (28, 28));
    }
}
