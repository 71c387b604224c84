//! `bitnet completions` and `bitnet man`: what shells and `man` know of this command, made from [`super::args`].

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::ctx::Ctx;
use bitnet_runtime::{Error, Result};
use clap::CommandFactory;

pub fn completions(ctx: &Ctx, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bitnet", &mut script);
    ctx.print(&String::from_utf8_lossy(&script))
}

/// Writes `bitnet.1` and a page for every command.
pub fn man(ctx: &Ctx, args: &ManArgs) -> Result<()> {
    let failed = |source| Error::io(&args.dir, source);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    ctx.note(format_args!("man pages are in {}; read one with `man -l {0}/bitnet.1`", args.dir.display()));
    Ok(())
}
