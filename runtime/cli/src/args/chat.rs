//! Arguments of `bitnet chat`.

use super::{EngineArgs, SamplingArgs, chat_mode};
use bitnet_runtime::chat::ChatMode;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet chat -m bitnet-2b4t
  bitnet chat -m model.gguf --system 'Answer in one sentence.' --temperature 0
  printf 'Name three rivers\\n/regen\\n' | bitnet chat -m model.gguf --seed 7

/help in the chat lists its commands. Ctrl-C stops an answer, twice leaves; Ctrl-D leaves. Off a terminal every line of
stdin is a message or a command, answers go to stdout, and the first failure ends the chat.")]
pub struct ChatCommandArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// The chat template: auto (the file's own, else a detected one), gguf, raw, instruct or llama3-chat
    #[arg(long, value_parser = chat_mode(), value_name = "TEMPLATE", default_value = "auto", hide_possible_values = true)]
    pub chat: ChatMode,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Tokens of an answer at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 2048)]
    pub max_tokens: usize,
    /// Positions of the context window (default: what the model was trained for, 4096 at most)
    #[arg(long, short, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// End an answer at this text (not shown); may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Show tokens/s, context and kernel selection after every answer
    #[arg(long)]
    pub metrics: bool,
    /// Go on with a conversation that /save or the web page wrote
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Keep what is typed in no history file
    #[arg(long)]
    pub no_history: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
