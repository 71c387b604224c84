//! `cluster serve`: a model behind Ray Serve, from replicas of `bitnet serve` on the nodes, at one address of this machine.
//!
//! In: a model and how many replicas. Out: the address, once requests are taken; Ctrl-C lets answers under way finish. The Python is
//! tools/ray/front.py and serving.py. Deliberately absent: TLS and access for other machines, which a proxy in front gives.

use super::Cluster;
use super::plan::{Bounds, Plan};
use crate::binary;
use crate::ctx::Ctx;
use crate::eval::file_of;
use crate::exit::fail;
use crate::proc::{self, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::time::Duration;

#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// A name of the catalog or a GGUF file
    #[arg(long)]
    pub model: String,
    /// The port on loopback, 0 for any that is free
    #[arg(long, value_name = "N", default_value_t = 8000)]
    pub port: u16,
    /// Replicas at least
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub min_replicas: u16,
    /// Replicas at most (default: as many as at least); between the two Ray follows the load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_replicas: Option<u16>,
    /// Answers that a replica computes side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// CPUs of a node that a replica takes, and its threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// GPUs of a node that a replica takes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u32,
    /// Seconds that answers under way get when a replica is to end
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub drain_timeout: u32,
    /// More arguments of `bitnet serve`, after `--`
    #[arg(last = true)]
    pub more: Vec<String>,
}

pub fn run(ctx: &Ctx, args: &ServeArgs) -> Result<ExitCode> {
    let most = args.max_replicas.unwrap_or(args.min_replicas);
    if most < args.min_replicas {
        let text = format!("--max-replicas is {most}, below --min-replicas {}", args.min_replicas);
        return fail(ExitCode::Usage, text);
    }
    let cluster = Cluster::of(ctx)?;
    let model = file_of(ctx, &args.model)?;
    let files = Plan::new(&[("bitnet", &binary::release(ctx)?), ("model", &model)], &Bounds::NONE)?.files;
    let mut arguments = vec!["--threads".to_string(), args.threads.to_string()];
    arguments.extend(args.more.iter().cloned());
    let settings = serde_json::json!({
        "files": files, "port": args.port, "min": args.min_replicas, "max": most, "parallel": args.parallel,
        "cpus": args.threads, "gpus": args.gpus, "drain": args.drain_timeout, "arguments": arguments,
    });
    let folder = tempfile::tempdir().context("creating a temporary folder")?;
    let file = folder.path().join("serve.json");
    std::fs::write(&file, settings.to_string()).with_context(|| format!("writing {}", file.display()))?;
    // Answers under way, then Ray's own end.
    let patience = Duration::from_secs(u64::from(args.drain_timeout) + 60);
    let command = cluster.script(ctx, "front.py")?.args([&file]).patience(patience);
    // It prints one line of JSON, when requests are taken.
    let mut told = Ok(());
    let finished = proc::run(ctx, &command, Stdout::Log, &ctx.log_file("cluster-serve")?, |line| {
        let url = serde_json::from_str::<serde_json::Value>(line).ok();
        if let Some(url) = url.as_ref().filter(|line| line["url"].is_string()) {
            ctx.out.line(format!("serving at {} until Ctrl-C", url["url"].as_str().unwrap_or_default()));
            told = if ctx.out.is_json() { ctx.out.json(url) } else { Ok(()) };
        }
    });
    told?;
    finished?.must_succeed(ExitCode::Unavailable)?;
    Ok(ExitCode::Ok)
}
