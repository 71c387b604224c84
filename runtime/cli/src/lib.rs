//! The `bitnet` command: arguments in, text or one JSON object on stdout out, an exit code of
//! [`bitforge_schema::exit`].
//!
//! `args` and `json` hold types, every command has the module of its name. A failure is printed in one
//! place, here: `error: ...` on stderr, and with `--json` also `{"error": {"code", "kind", "message"}}` on
//! stdout where no result went there before. (A wrong command line is clap's to report: stderr only, code 2.)
//! A reader that closes stdout early is not a failure.

mod args;
mod bench;
mod catalog;
mod chat;
mod convert;
mod ctx;
mod device_check;
mod digest;
mod evaluate;
mod format;
mod inspect;
mod inspect_html;
mod inspect_run;
mod interrupt;
mod json;
mod kernels;
mod lab;
mod limits;
mod log;
mod logits;
mod manual;
mod measure;
mod models;
mod models_args;
mod models_diff;
mod models_progress;
mod output_file;
mod perplexity;
mod progress;
mod prompt;
mod quantize;
mod receipt;
mod replay;
mod rewrite;
mod run;
#[cfg(feature = "server")]
mod serve;
mod settings;
mod summary;
mod tokenize;
mod tune;

use args::{Cli, Command};
use bitforge_schema::env::Env;
use bitforge_schema::exit::ExitCode;
use bitnet_runtime::{Error, Result};
use clap::Parser;
use ctx::Ctx;
use tracing_subscriber::filter::LevelFilter;

/// Runs the command of this process's arguments.
pub fn main() -> std::process::ExitCode {
    run(std::env::args_os())
}

/// Runs the command of `args`, the program's name first.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    let command = Cli::parse_from(args).command;
    let mut ctx = Ctx::new(Env::from_process(), command.format());
    let quiet = match command {
        #[cfg(feature = "server")]
        Command::Serve(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    let _log = match log::level(&ctx.env, quiet) {
        Ok(level) => log::start(level),
        Err(error) => return report(&mut ctx, &error).into(),
    };
    match dispatch(&mut ctx, &command) {
        Ok(()) => ExitCode::Ok.into(),
        Err(error) => report(&mut ctx, &error).into(),
    }
}

fn dispatch(ctx: &mut Ctx, command: &Command) -> Result<()> {
    ctx.strict = settings::strict(&ctx.env)?;
    ctx.fall_back(&ctx.env.unknown_variable_warnings())?;
    match command {
        Command::Run(args) => run::run(ctx, args),
        Command::Chat(args) => chat::run(ctx, args),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(ctx, args),
        Command::Tokenize(args) => tokenize::run(ctx, args),
        Command::Logits(args) => logits::run(ctx, args),
        Command::Evaluate(args) => evaluate::run(ctx, args),
        Command::Inspect(args) => inspect::run(ctx, args),
        Command::Perplexity(args) => perplexity::run(ctx, args),
        Command::Models(command) => models::run(ctx, command),
        Command::Convert(args) => convert::run(ctx, args),
        Command::Quantize(args) => quantize::run(ctx, args),
        Command::Bench(args) => bench::run(ctx, args),
        Command::Kernels(args) => kernels::run(ctx, args),
        Command::Limits(args) => limits::run(ctx, args),
        Command::Completions(args) => manual::completions(ctx, args),
        Command::Man(args) => manual::man(ctx, args),
    }
}

fn report(ctx: &mut Ctx, error: &Error) -> ExitCode {
    if let Error::Io { path, source } = error
        && path.as_os_str() == ctx::STDOUT
        && source.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::Ok;
    }
    let code = error.exit_code();
    ctx.note(format_args!("error: {error}"));
    if ctx.wants_json_error() {
        let error = json::ErrorBody { code: code as u8, kind: code.name(), message: error.to_string() };
        // Nothing is left to tell a reader that is gone.
        let _ = ctx.print_json(&json::ErrorOutput { error });
    }
    code
}
