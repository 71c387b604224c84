//! The command line of `bitnet`: types only, behaviour is in the modules of the same names.

mod chat;
mod engine;
mod manual;
mod rewrite;
#[cfg(feature = "server")]
mod serve;

pub use chat::ChatCommandArgs;
pub use engine::{DeviceArg, EngineArgs, WeightArgs};
pub use manual::{CompletionsArgs, ManArgs};
pub use rewrite::{ConvertArgs, QuantizeArgs, RewriteArgs, WeightScaleArg};
#[cfg(feature = "server")]
pub use serve::ServeArgs;

use super::models_args::ModelsCommand;
use bitnet_runtime::chat::ChatMode;
use bitnet_runtime::gguf::Mapping;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Parser)]
#[command(name = "bitnet", version, about = "Runs BitNet (ternary) language models in GGUF files on the CPU")]
#[command(after_help = "\
Examples:
  bitnet run --model smollm2-135m --prompt 'The capital of France is' --max-tokens 32
  bitnet run --model model.gguf --chat --prompt 'Why is the sky blue?' --temperature 0
  bitnet chat --model model.gguf
  bitnet serve --model smollm2-135m
  bitnet models fetch bitnet-2b4t
  bitnet inspect --model model.gguf
  bitnet bench --model model.gguf --pp 512 --tg 128
  bitnet perplexity --model model.gguf --file text.txt

Exit codes: 0 done, 2 usage, 3 bad input, 4 not found, 5 unavailable here, 6 network, 7 refused in
strict mode, 8 limit reached, 9 kernels differ, 10 a tool is missing, 13 gated, 14 mismatch,
15 offline, 130 interrupted.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate text
    Run(Box<RunArgs>),
    /// Talk with a model in the terminal
    Chat(Box<ChatCommandArgs>),
    /// Serve the model over HTTP, with OpenAI's interface and a page to chat with
    #[cfg(feature = "server")]
    Serve(Box<ServeArgs>),
    /// Show the token ids of a text
    Tokenize(TokenizeArgs),
    /// Write the logits of every position of a token sequence
    Logits(LogitsArgs),
    /// Answer requests for logits, intermediate results and times, line by line (for cross-validation)
    Evaluate(EvaluateArgs),
    /// Show what a GGUF file holds
    Inspect(InspectArgs),
    /// Measure how well the model predicts a text
    Perplexity(PerplexityArgs),
    /// Fetch, verify, locate, compare and bundle models
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Make a GGUF file from a Hugging Face model directory
    Convert(ConvertArgs),
    /// Make a GGUF file with other weight types from a GGUF file
    Quantize(QuantizeArgs),
    /// Measure prompt processing and generation
    Bench(BenchArgs),
    /// List the kernels of this build, and which one this CPU would get
    Kernels(KernelsArgs),
    /// Measure what this machine can do: read bandwidth and int8 operations
    Limits(LimitsArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Write man pages
    Man(ManArgs),
}

impl Command {
    pub fn format(&self) -> Format {
        let json = match self {
            Command::Run(args) => args.json,
            Command::Chat(_) => false,
            #[cfg(feature = "server")]
            Command::Serve(args) => args.json,
            Command::Tokenize(args) => args.json,
            Command::Logits(args) => args.json,
            Command::Evaluate(_) => false,
            Command::Inspect(args) => args.json,
            Command::Perplexity(args) => args.json,
            Command::Models(command) => command.json(),
            Command::Convert(args) => args.rewrite.json,
            Command::Quantize(args) => args.rewrite.json,
            Command::Bench(args) => args.json,
            Command::Kernels(args) => args.json,
            Command::Limits(args) => args.json,
            Command::Completions(_) | Command::Man(_) => false,
        };
        if json { Format::Json } else { Format::Human }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human,
    /// One object on stdout.
    Json,
}

/// Which file, and how its bytes are taken.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// A GGUF file, or a model that was fetched (`bitnet models list`)
    #[arg(long, short, value_name = "PATH|NAME")]
    pub model: String,
    /// Read the file into memory instead of mapping it
    #[arg(long)]
    pub no_mmap: bool,
}

impl ModelArgs {
    pub fn mapping(&self) -> Mapping {
        if self.no_mmap { Mapping::Read } else { Mapping::Mmap }
    }
}

/// A prompt from the command line or a file, as text or as token ids.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct PromptArgs {
    /// The text; special tokens in it are parsed. `-` reads stdin
    #[arg(long, short, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Take the text from a file (one newline at its end is dropped)
    #[arg(long, short = 'f', value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Take exactly these token ids; no BOS is added
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "chat")]
    pub prompt_tokens: Option<Vec<u32>>,
}

#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Wrap the prompt in a chat template: auto (the file's own, else a detected one), gguf, raw, instruct or
    /// llama3-chat
    #[arg(long, value_parser = chat_mode(), value_name = "TEMPLATE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "auto", hide_possible_values = true)]
    pub chat: Option<ChatMode>,
    /// The system message of the chat
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
}

/// Settings of the sampling chain, in the order they apply; the defaults are llama.cpp's.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divide (positive) or multiply (negative) logits of tokens that occurred; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Subtract from logits of tokens that occurred; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtract for every occurrence; 0 is off
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// How many of the latest tokens the penalties look at
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub penalty_window: usize,
    /// Keep the N best tokens; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the fewest tokens that together are this probable; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep tokens at least this probable as a part of the best one; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Flatten (above 1) or sharpen (below 1) the choice; 0 always takes the best token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Makes the choices repeatable (default: random, and shown)
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet run -m smollm2-135m -p 'Once upon a time' -n 64
  bitnet run -m smollm2-135m --chat -p 'Name three rivers' --temperature 0 --json
  bitnet run -m model.gguf -f prompt.txt --stop '\\n\\n' --seed 7 --top-k 0 --top-p 0.9
  bitnet run -m model.gguf --prompt-tokens 1,450,7483 --temperature 0 --receipt run.json

Text goes to stdout as it is made; everything else to stderr. In --stop, \\n, \\t and \\\\ are understood.")]
pub struct RunArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Tokens to generate at most
    #[arg(long, short = 'n', value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Positions of the context window (default: what the model was trained for, 4096 at most)
    #[arg(long, short, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// When the window is full, drop the older half of what follows the first KEEP positions (1) and go on
    #[arg(long, value_name = "KEEP", num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub context_shift: Option<usize>,
    /// Guess up to N tokens from what followed the same words before, and check them in one pass; the output is the same
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "receipt"
    )]
    pub prompt_lookup: usize,
    /// End at this text (not shown); may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End at this token id; may be given more than once
    #[arg(long, value_name = "ID")]
    pub stop_token: Vec<u32>,
    /// Go on past the model's own end of sequence
    #[arg(long)]
    pub ignore_eos: bool,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub json: bool,
    /// Write a receipt of this run: digests, settings, tokens, and what the kernels counted
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bitnet tokenize -m smollm2-135m -p 'Hello world' --json")]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  bitnet logits -m model.gguf --tokens 1,450,7483 --out logits.f32

The file is little-endian f32 [positions, vocabulary]; exactly the given ids are evaluated, no BOS is added.")]
pub struct LogitsArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Token ids to evaluate
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    pub tokens: Vec<u32>,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Print a JSON object about the file
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  echo '{\"op\":\"evaluate\",\"tokens\":[1,450],\"logits\":\"logits.f32\",\"taps\":\"taps.f32\"}' | bitnet evaluate -m model.gguf

Each line of stdin is a request, each line of stdout its answer, after one line that says what was loaded.
The lines are described in tools/schema/src/protocol.rs.")]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Positions of the context window (default: what the model was trained for, 4096 at most)
    #[arg(long, short, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// The KV cache has room for so many sequences of full length
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub sequences: usize,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bitnet inspect -m smollm2-135m --json")]
pub struct InspectArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Positions to state the memory for (default: what the model was trained for, 4096 at most)
    #[arg(long, short, value_name = "N")]
    pub ctx_size: Option<usize>,
    /// Write a page as well: sizes of the tensors, histograms of their codes and values
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet perplexity -m model.gguf -f wiki.test.raw
  bitnet perplexity -m model.gguf -f text.txt --ctx-size 256 --chunks 8 --json
  bitnet perplexity -m model.gguf -f text.txt --chunks 8..16 --json

As llama.cpp's tool measures it: the text is cut into chunks of the context's length, the first token of each is
replaced by BOS where the model has it, the second half of each is scored, and what is left at the end is dropped.
The result is exp of the mean negative log likelihood, with its standard error.")]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// The text; `-` reads stdin, one newline at the end is dropped
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens of a chunk
    #[arg(long, short, value_name = "N", default_value_t = 512)]
    pub ctx_size: usize,
    /// Chunks to score: the first N at most, or those from A up to B, which the text must have (default: all)
    #[arg(long, value_name = "N|A..B")]
    pub chunks: Option<Chunks>,
    /// Print one JSON object, with the sums of every chunk
    #[arg(long)]
    pub json: bool,
}

/// A part of a text's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunks {
    First(usize),
    Range(Range<usize>),
}

impl FromStr for Chunks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number of chunks"));
        match text.split_once("..") {
            None => Ok(Chunks::First(number(text)?)),
            Some((first, end)) => Ok(Chunks::Range(number(first)?..number(end)?)),
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet bench -m smollm2-135m --threads 2
  bitnet bench -m model.gguf --pp 128,512 --tg 0 --repetitions 3 --json

The table has the shape of llama-bench's; the JSON has every sample.")]
pub struct BenchArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Prompt lengths to measure, 0 for none
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512])]
    pub pp: Vec<u32>,
    /// Numbers of generated tokens to measure, 0 for none
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [128])]
    pub tg: Vec<u32>,
    /// Generate after so many tokens, 0 in an empty context
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0])]
    pub depth: Vec<u32>,
    /// Generate in so many sequences at once, in empty contexts
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub sequences: Vec<u32>,
    /// Also time the products of all layers alone, one row, from weights that no cache holds (on an H100)
    #[arg(long)]
    pub products: bool,
    /// Samples of each, after one that is not counted
    #[arg(long, short, value_name = "N", default_value_t = 5)]
    pub repetitions: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet kernels --kernels scalar --json
  bitnet kernels --replay fixture.json")]
pub struct KernelsArgs {
    /// Select as if this had been given to `run`
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceArg,
    /// Instead, run every GPU kernel on random inputs of this many random shapes and compare it with its definition; exit
    /// code 9 where one is wrong
    #[arg(long, value_name = "ROUNDS", conflicts_with = "replay")]
    pub check_device: Option<usize>,
    /// Instead, compute this model on --tensor-parallel GPUs and on one, and compare; exit code 9 where they differ in a bit
    #[arg(long, value_name = "PATH|NAME", conflicts_with_all = ["replay", "check_device"])]
    pub check_team: Option<String>,
    /// GPUs that --check-team takes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub tensor_parallel: u8,
    /// Instead, compute one row of a matrix product from this file with every kernel that this CPU runs; exit code 9
    /// where they differ in a bit
    #[arg(long, value_name = "FILE", conflicts_with = "kernels")]
    pub replay: Option<PathBuf>,
    /// Instead, check every kernel for weights of this type against the scalar definition and time them in turns
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["kernels", "replay"])]
    pub lab: Option<String>,
    /// Instead, time the kernels for the shapes of this model, and write a profile that later runs on this CPU with
    /// this binary load
    #[arg(long, value_name = "PATH|NAME", conflicts_with_all = ["kernels", "replay", "lab"])]
    pub tune: Option<String>,
    /// Columns of the weights of the lab
    #[arg(long, value_name = "N", default_value_t = 2560)]
    pub columns: usize,
    /// Rows of the weights of the lab and of tuning (default: more than the caches hold where reading is the limit)
    #[arg(long, value_name = "N")]
    pub rows: Option<usize>,
    /// Numbers of activation rows of the lab
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 128])]
    pub count: Vec<usize>,
    /// Threads of the lab and of tuning (default: the CPUs this process may use)
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Rounds of the lab and of tuning
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub rounds: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bitnet limits --threads 1,2,4 --json")]
pub struct LimitsArgs {
    /// Numbers of threads to measure (default: 1 to the CPUs this process may use)
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub threads: Vec<usize>,
    /// Milliseconds of each measurement
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub ms: u64,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn chat_mode() -> impl TypedValueParser<Value = ChatMode> {
    PossibleValuesParser::new(ChatMode::ALL.map(ChatMode::name)).map(|name| {
        let mode = ChatMode::ALL.into_iter().find(|mode| mode.name() == name);
        mode.expect("the parser takes no other name")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every `bitnet` command line of the README and the docs is one that this program takes; values that are not given
    /// and placeholders in capitals are the reader's.
    #[test]
    fn every_command_on_a_page_is_taken() {
        use bitforge_schema::markdown::command_lines;
        use clap::error::{ContextKind, ContextValue, ErrorKind};
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut folders = vec![root.join("docs")];
        let mut pages = vec![root.join("README.md")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let into = if path.is_dir() { &mut folders } else { &mut pages };
                into.push(path);
            }
        }
        let (mut count, mut wrong) = (0, Vec::new());
        for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
            for command in command_lines(&std::fs::read_to_string(page).unwrap(), "bitnet") {
                count += 1;
                let words = ["bitnet"].into_iter().chain(command.words.iter().map(String::as_str));
                let Err(error) = Cli::try_parse_from(words) else { continue };
                let fine = match error.kind() {
                    ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand => true,
                    ErrorKind::InvalidValue | ErrorKind::ValueValidation => matches!(
                        error.get(ContextKind::InvalidValue),
                        Some(ContextValue::String(value)) if !value.contains(|c: char| c.is_ascii_lowercase())
                    ),
                    _ => false,
                };
                if !fine {
                    let text = error.to_string();
                    let line = text.lines().next().unwrap_or_default();
                    wrong.push(format!("{}:{}: {:?}: {line}", page.display(), command.line, command.words));
                }
            }
        }
        assert!(count > 50, "only {count} commands were found");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
