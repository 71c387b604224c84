//! `cluster up|status|down|eval|run|serve`: work for several machines, done through Ray.
//!
//! In: a cluster, which `up` starts on this machine or is told of. Out: receipts of work in shards, a model served by replicas. The
//! Python is thin and lies in tools/ray; what it is written with is pinned there. [`plan`] cuts work into shards,
//! [`merge`] and `jobs` put it together. Deliberately absent: scheduling, health and transport, which are Ray's.

mod eval;
mod jobs;
pub mod merge;
pub mod plan;
mod serve;

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::proc::{self, Command, Stdout};
use crate::python::{Wheels, wheels};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the Python lies, below the root.
const SCRIPTS: &str = "tools/ray";

#[derive(clap::Subcommand, Clone, Debug)]
pub enum ClusterCommand {
    /// Start a cluster of nodes on this machine, for trying it, or remember one that exists.
    Up(UpArgs),
    /// Which nodes there are, and what listens.
    Status,
    /// End the nodes that `up` started, and forget the cluster.
    Down,
    /// The perplexity of a text in shards: the same sums as on one machine, in one receipt.
    Eval(eval::EvalArgs),
    /// Shards of `crossval`, `bench` or `fuzz`, put together into one receipt.
    #[command(subcommand)]
    Run(jobs::RunCommand),
    /// Serve a model from replicas of `bitnet serve` at one address, until Ctrl-C.
    Serve(serve::ServeArgs),
}

#[derive(clap::Args, Clone, Debug)]
#[group(required = true, multiple = false, args = ["local", "address"])]
pub struct UpArgs {
    /// Nodes to start on this machine; they listen on loopback alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub local: Option<u16>,
    /// A cluster that exists, as HOST:PORT of its head (authentication: Ray's own RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH)
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// CPUs that each node of --local has to give
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub cpus: u32,
}

/// What `nodes.py` remembers of a cluster; it knows more.
#[derive(Debug, Deserialize)]
pub struct Cluster {
    pub address: String,
    /// For everything that talks to it.
    environment: BTreeMap<String, String>,
}

pub fn run(ctx: &Ctx, command: &ClusterCommand) -> Result<ExitCode> {
    match command {
        ClusterCommand::Up(args) => up(ctx, args),
        ClusterCommand::Status => nodes(ctx, "status", &[]),
        ClusterCommand::Down => nodes(ctx, "down", &[]),
        ClusterCommand::Eval(args) => eval::run(ctx, args),
        ClusterCommand::Run(command) => jobs::run(ctx, command),
        ClusterCommand::Serve(args) => serve::run(ctx, args),
    }
}

fn up(ctx: &Ctx, args: &UpArgs) -> Result<ExitCode> {
    let what = match (&args.address, args.local) {
        (Some(address), _) => vec!["--address".to_string(), address.clone()],
        (None, nodes) => {
            vec!["--local".into(), nodes.unwrap_or(1).to_string(), "--cpus".into(), args.cpus.to_string()]
        }
    };
    nodes(ctx, "up", &what)
}

/// Has nodes.py do something; what it prints is shown.
fn nodes(ctx: &Ctx, what: &str, args: &[String]) -> Result<ExitCode> {
    let command = python(ctx, "nodes.py")?.args([what.to_string()]).args([state(ctx)?]).args(args);
    let log = ctx.log_file(&format!("cluster-{what}"))?;
    let finished = proc::run(ctx, &command.limit(Duration::from_secs(300)), Stdout::Capture, &log, |_| {})?;
    let (finished, told) = understood(finished)?;
    ctx.out.line(told["text"].as_str().unwrap_or_default());
    if ctx.out.is_json() {
        ctx.out.json(&told)?;
    }
    Ok(if finished.success() { ExitCode::Ok } else { ExitCode::CheckFailed })
}

/// The JSON of a script that ended with 0, or found something amiss and said so.
fn understood(finished: proc::Finished) -> Result<(proc::Finished, serde_json::Value)> {
    match finished.stdout.lines().last().map(serde_json::from_str) {
        Some(Ok(told)) => Ok((finished, told)),
        _ if finished.success() => fail(ExitCode::Internal, "the script printed no JSON"),
        _ => fail(ExitCode::Unavailable, finished.explain()),
    }
}

/// Where it is written which cluster is meant.
fn state(ctx: &Ctx) -> Result<PathBuf> {
    Ok(ctx.target_dir()?.join("cluster.json"))
}

/// A script of tools/ray, with Ray.
fn python(ctx: &Ctx, script: &str) -> Result<Command> {
    let pinned = Wheels {
        name: "ray",
        requirements: "tools/ray/requirements.txt",
        notice: "installing Ray (about 150 MB of wheels) through pip into the cache",
        offline: "Ray is not in the cache; run `cargo xtask cluster up` once with network",
    };
    let ready = |dir: &Path| dir.join("ray/serve/__init__.py").is_file();
    let packages = wheels(ctx, &pinned, ready, |_| Ok(()))?;
    let script = ctx.root()?.join(SCRIPTS).join(script);
    let command = Command::new("python3").args([script]).env("PYTHONPATH", packages);
    Ok(command.env("RAY_USAGE_STATS_ENABLED", "0").env("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"))
}

impl Cluster {
    /// The one that `up` started or was told of.
    pub fn of(ctx: &Ctx) -> Result<Self> {
        let path = state(ctx)?;
        let text = std::fs::read_to_string(&path).map_err(|_| {
            Failure::new(
                ExitCode::NotFound,
                format!(
                    "no cluster is known ({} is missing); start one with `cargo xtask cluster up --local 3`",
                    path.display()
                ),
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// A script of tools/ray with the cluster's address.
    pub fn script(&self, ctx: &Ctx, script: &str) -> Result<Command> {
        let command = python(ctx, script)?.args([&self.address]);
        Ok(self.environment.iter().fold(command, |command, (name, value)| command.env(name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    #[test]
    fn without_a_cluster_the_remedy_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::new(Some(dir.path().into()), Env::default(), Reporter::for_tests());
        let error = Cluster::of(&ctx).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::NotFound);
        assert!(error.to_string().contains("cargo xtask cluster up --local 3"), "{error}");
        std::fs::create_dir(dir.path().join("target")).unwrap();
        let text = r#"{"address": "127.0.0.1:1", "environment": {"A": "b"}, "folder": null, "sessions": []}"#;
        std::fs::write(state(&ctx).unwrap(), text).unwrap();
        let cluster = Cluster::of(&ctx).unwrap();
        assert_eq!((cluster.address.as_str(), cluster.environment["A"].as_str()), ("127.0.0.1:1", "b"));
    }

    /// Routing, shards and resumed streams need no Ray.
    #[test]
    fn the_python_passes_its_own_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let ctx = Ctx::new(Some(root.into()), Env::default(), Reporter::for_tests());
        let tests = root.join(SCRIPTS).join("tests");
        let command = Command::new("python3").args(["-B", "-m", "unittest", "discover", "-s"]).args([&tests]);
        proc::read(&ctx, &command).unwrap();
    }
}
