//! Arguments of `bitnet completions` and `bitnet man`.

use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet completions bash > ~/.local/share/bash-completion/completions/bitnet
  bitnet completions fish > ~/.config/fish/completions/bitnet.fish")]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bitnet man ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The folder to write to; it is made where it is not there
    pub dir: PathBuf,
}
