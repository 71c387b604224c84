//! Arguments of `bitnet serve`.

use super::{EngineArgs, SamplingArgs, chat_mode};
use bitnet_runtime::chat::ChatMode;
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Args, Debug, Clone)]
#[command(after_help = "\
Examples:
  bitnet serve --model smollm2-135m
  bitnet serve -m model.gguf --port 0 --ctx-size 2048 --parallel 32
  bitnet serve -m model.gguf --host 0.0.0.0 --api-key-file keys.txt --tls-cert chain.pem --tls-key key.pem

The interface is OpenAI's, under /v1; a page to chat with is at /. SIGTERM ends the server after the answers under way,
SIGHUP loads the model again and swaps it in. The sampling settings are what requests get that do not say.")]
pub struct ServeArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// The address to listen on; any but this machine's own needs an API key
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// 0 takes a free one, which is printed
    #[arg(long, value_name = "N", default_value_t = 8080)]
    pub port: u16,
    /// How requests name the model (default: its name, or the file's without its ending)
    #[arg(long, value_name = "NAME")]
    pub alias: Option<String>,
    /// The chat template: auto (the file's own, else a detected one), gguf, raw, instruct or llama3-chat
    #[arg(long, value_parser = chat_mode(), value_name = "TEMPLATE", default_value = "auto")]
    #[arg(hide_possible_values = true)]
    pub chat: ChatMode,
    /// Positions of each answer with its prompt (default: what the model was trained for, 4096 at most)
    #[arg(long, short, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// Answers that are computed side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// Engines side by side behind one queue, each with its share of the threads, or with GPUs of its own; --parallel and
    /// --kv-sequences are of each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub replicas: u8,
    /// The KV cache has room for so many answers of full length, or for more that are shorter
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub kv_sequences: u16,
    /// Beginnings of prompts that are kept for later ones; 0 keeps none
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub prefix_cache: usize,
    /// Requests that may wait, all clients together; more get 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue: usize,
    /// Requests of one client that may wait
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub queue_per_client: usize,
    /// Tokens of an answer where the request does not say (default: as many as the context holds)
    #[arg(long, short = 'n', value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Choices of one request at most
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_choices: usize,
    /// A file with one API key per line; requests need one of them (BITNET_API_KEY adds another)
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Serve other machines without a key
    #[arg(long)]
    pub open_to_all: bool,
    /// Let pages of this origin use the server (such as https://example.org, or * for all); may be given more than once
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// The certificate chain in PEM; serves TLS only
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Seconds that an answer may take, waiting included
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub request_timeout: u64,
    /// Seconds that answers under way get when the server is told to end
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub drain_timeout: u64,
    /// Seconds for the head of a request, for its body, and for a write that makes no progress
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub client_timeout: u64,
    /// Bytes of the body of a request
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub max_body: usize,
    /// Open connections; more are closed at once
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub max_connections: usize,
    /// Log the text of prompts
    #[arg(long)]
    pub log_prompts: bool,
    /// Do not serve /metrics
    #[arg(long)]
    pub no_metrics: bool,
    /// Print where it listens as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
