//! `cargo xtask`: the one entry point of bitforge.
//!
//! In: a command line. Out: text for people on stderr, JSON on stdout, an exit code of the one table.
//! A library, so that the fuzz targets reach the parsers; the binary is one call.
//! Deliberately absent: the runtime. xtask starts the `bitnet` binary and reads its JSON, so preflight works
//! before the runtime compiles.

pub mod audit;
pub mod bench;
pub mod binary;
pub mod book;
pub mod bug_report;
pub mod cargo_tool;
pub mod ci;
pub mod clean;
pub mod cli;
pub mod cluster;
pub mod crossval;
pub mod ctx;
pub mod docs;
pub mod engine;
pub mod eval;
pub mod exit;
pub mod fixtures;
pub mod fuzz;
pub mod gpu_smoke;
pub mod kernels;
pub mod linked;
pub mod lints;
pub mod lock;
pub mod manual;
pub mod markdown;
pub mod models;
pub mod mutants;
pub mod preflight;
pub mod proc;
pub mod python;
pub mod receipts;
pub mod reference;
pub mod release;
pub mod report;
pub mod symbols;
pub mod test;
pub mod tidy;
pub mod up;

use anyhow::Result;
use bitforge_schema::env::Env;
use bitforge_schema::exit::ExitCode;
use clap::Parser;
use cli::{Cli, Command};
use ctx::Ctx;
use report::{Format, Reporter, State};

/// The whole program: what `cargo xtask` runs.
pub fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let env = Env::from_process();
    let out = Reporter::from_process(if cli.json { Format::Json } else { Format::Human }, &env);
    for warning in env.unknown_variable_warnings() {
        out.line(format!("{} {warning}", out.mark(State::Warn)));
    }
    let root = std::env::current_dir().ok().and_then(|dir| ctx::find_root(&dir, &env));
    let mut ctx = Ctx::new(root, env, out);
    ctx.offline |= cli.offline;
    proc::install_interrupt_handler()
        .and_then(|()| dispatch(&ctx, &cli.command))
        .unwrap_or_else(|error| report_error(&out, &error))
        .into()
}

fn dispatch(ctx: &Ctx, command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) => up::run(ctx, args),
        Command::Test(args) => test::run(ctx, args),
        Command::Preflight(args) => preflight::run(ctx, args),
        Command::Models(args) => models::run(ctx, args),
        Command::Reference(args) => reference::run(ctx, args),
        Command::Bench(args) => bench::run(ctx, args),
        Command::Clean(args) => clean::run(ctx, args),
        Command::Fixtures(args) => fixtures::run(ctx, args),
        Command::Docs(args) => docs::run(ctx, args),
        Command::Book(args) => book::run(ctx, args),
        Command::Manual(args) => manual::run(ctx, args),
        Command::AnalyzeLibrary(args) => symbols::run(args, &mut std::io::stdout().lock()),
        Command::Crossval(args) => crossval::run(ctx, args),
        Command::Eval(args) => eval::run(ctx, args),
        Command::Receipt(command) => receipts::verify::run(ctx, command),
        Command::Kernels(command) => kernels::run(ctx, command),
        Command::GpuSmoke(args) => gpu_smoke::run(ctx, args),
        Command::Audit(args) => audit::run(ctx, args),
        Command::Lints(args) => lints::run(ctx, args),
        Command::Mutants(args) => mutants::run(ctx, args),
        Command::Fuzz(command) => fuzz::run(ctx, command),
        Command::Ci(args) => ci::run(ctx, args),
        Command::Cluster(command) => cluster::run(ctx, command),
        Command::Release(command) => release::run(ctx, command),
        Command::Tidy => tidy::run(ctx),
        Command::Report(args) => bug_report::run(ctx, args),
    }
}

fn report_error(out: &Reporter, error: &anyhow::Error) -> ExitCode {
    let code = exit::code_of(error);
    let message = exit::message_of(error);
    out.line(format!("{} {message}", out.mark(State::Fail)));
    if out.is_json() {
        let value = serde_json::json!({
            "error": { "code": code as u8, "kind": code.name(), "message": message }
        });
        if let Err(error) = out.json(&value) {
            out.line(format!("{error:#}"));
        }
    }
    code
}
