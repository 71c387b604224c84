//! The command line: types only. Each command's behaviour lives in the module of the same name.

use crate::reference::source::Source;
use bitforge_discovery::Lane;
use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// The one entry point of bitforge: check the machine, build, fetch, generate text, test.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub struct Cli {
    /// Print one JSON value on stdout; text for people goes to stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// Never touch the network (as BITNET_OFFLINE=1 does).
    #[arg(long, global = true)]
    pub offline: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// From a checkout to text that is proven: build everything, compare, measure, generate, verify.
    Up(Up),
    /// Format check, lints, every test of the workspace, repository rules, fixtures.
    Test(Test),
    /// Say what this machine has, what it lacks, and the command that fixes it.
    Preflight(Preflight),
    /// Fetch, verify, locate, compare and bundle models (through `bitnet models`), make synthetic ones, drill.
    #[command(subcommand)]
    Models(Models),
    /// Build the C++ references from pinned sources, list, remove and locate the builds.
    #[command(subcommand)]
    Reference(Reference),
    /// Measure the speed of bitnet beside the references and the limits of this machine.
    Bench(Bench),
    /// Show what the caches hold, and free it.
    Clean(Clean),
    /// Generate the fixtures under fixtures/gguf, or check that they are what the generator makes.
    Fixtures(Check),
    /// Generate docs/reference and docs/diagrams from the code, or check that it is fresh.
    Docs(Check),
    /// Build the documentation as a book with checked links, in target/book.
    Book(crate::book::BookArgs),
    /// Generate shell completions and man pages of `bitnet`, or check that they are fresh.
    Manual(Check),
    /// What a library is, what it exports and needs, and what it is able to do.
    AnalyzeLibrary(crate::symbols::AnalyzeArgs),
    /// Our logits against llama.cpp, bitnet.cpp, the float64 oracle and stored goldens; blame where they part.
    Crossval(crate::crossval::CrossvalArgs),
    /// How well models predict held-out text, against committed perplexities and PyTorch's.
    Eval(crate::eval::EvalArgs),
    /// Judge what a step wrote about itself.
    #[command(subcommand)]
    Receipt(crate::receipts::verify::ReceiptCommand),
    /// Which kernels this machine gets, and why.
    #[command(subcommand)]
    Kernels(crate::kernels::KernelsCommand),
    /// Compile the GPU kernels and every combination of features; where there is a GPU, compare it with the CPU.
    GpuSmoke(crate::gpu_smoke::GpuSmoke),
    /// Licences, bans, sources, advisories, hashes of Python packages, sources of the references.
    Audit(crate::audit::AuditArgs),
    /// Clippy and rustdoc without a warning on every combination of features.
    Lints(crate::lints::LintsArgs),
    /// Change the code that judges others, one place at a time: does a test notice?
    Mutants(crate::mutants::MutantsArgs),
    /// Fuzz what reads strangers' files, text and requests, with the laws that every input must keep.
    #[command(subcommand)]
    Fuzz(crate::fuzz::FuzzCommand),
    /// Run a lane of the pipeline (ci/lanes.toml) here as CI does, list them, or write the workflows.
    Ci(crate::ci::CiArgs),
    /// Work for several machines through Ray: evaluation and other jobs in shards, a model served by replicas.
    #[command(subcommand)]
    Cluster(crate::cluster::ClusterCommand),
    /// Plan, build, verify and compare releases: archives, wheels, their provenance; release notes.
    #[command(subcommand)]
    Release(crate::release::ReleaseCommand),
    /// Check the rules of the repository itself.
    Tidy,
    /// Write a redacted bundle (facts, receipts, ends of logs) for a bug report.
    Report(BugReport),
}

#[derive(Debug, Args)]
pub struct BugReport {
    /// The file to write (default: bitforge-report.zip in the current folder).
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Replace the file where it is there already.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Up {
    /// A name of the catalog, or a path to a GGUF file (default: smollm2-135m, or the trained fixture without network).
    #[arg(long)]
    pub model: Option<String>,
    /// The beginning of the text (default: one that suits the model).
    #[arg(long)]
    pub prompt: Option<String>,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 64)]
    pub max_tokens: u32,
    /// Print the steps with what is cached, what they download and how long they may take; do nothing.
    #[arg(long)]
    pub plan: bool,
    /// Leave these steps out.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub skip: Vec<UpStep>,
    /// Run these steps alone, on what earlier runs left.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<UpStep>,
    /// Compare and measure again, also where an earlier run did with the same inputs.
    #[arg(long)]
    pub fresh: bool,
}

/// A step of `up`, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpStep {
    /// What the machine has.
    Preflight,
    /// The release binary.
    Build,
    /// llama.cpp and bitnet.cpp.
    Reference,
    /// What the references' libraries can do.
    Symbols,
    /// Which kernels this CPU gets.
    Kernels,
    /// Fetch and verify.
    Model,
    /// Our logits against every engine that can judge them.
    Crossval,
    /// How well the trained fixtures predict held-out text.
    Eval,
    /// Speed, next to the references and the machine's limits.
    Bench,
    /// Text from the model.
    Text,
    /// Verify what the steps wrote.
    Receipts,
}

impl UpStep {
    pub const ALL: [UpStep; 11] = [
        UpStep::Preflight,
        UpStep::Build,
        UpStep::Reference,
        UpStep::Symbols,
        UpStep::Kernels,
        UpStep::Model,
        UpStep::Crossval,
        UpStep::Eval,
        UpStep::Bench,
        UpStep::Text,
        UpStep::Receipts,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            UpStep::Preflight => "preflight",
            UpStep::Build => "build",
            UpStep::Reference => "reference",
            UpStep::Symbols => "symbols",
            UpStep::Kernels => "kernels",
            UpStep::Model => "model",
            UpStep::Crossval => "crossval",
            UpStep::Eval => "eval",
            UpStep::Bench => "bench",
            UpStep::Text => "text",
            UpStep::Receipts => "receipts",
        }
    }
}

#[derive(Debug, Args)]
pub struct Test {
    /// Run the later steps although one failed.
    #[arg(long)]
    pub keep_going: bool,
    /// Run these steps alone.
    #[arg(long, value_delimiter = ',', value_parser = crate::test::step_names(), value_name = "STEP")]
    pub only: Vec<String>,
    /// Of the tests, run part I of N alone.
    #[arg(long, value_name = "I/N", default_value_t = crate::ci::shard::Shard::WHOLE)]
    pub shard: crate::ci::shard::Shard,
}

#[derive(Debug, Args)]
pub struct Preflight {
    /// List every check, not only those that need attention.
    #[arg(long, short)]
    pub verbose: bool,
    /// Treat a warning or an unknown in this class as a failure.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub require: Vec<Class>,
    /// Only say whether this backend can be used now, and what would make it so.
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// Run the command that makes the backend usable; in CI only with --repair=always.
    #[arg(long, value_enum, requires = "backend", num_args = 0..=1, require_equals = true,
          default_missing_value = "local")]
    pub repair: Option<Repair>,
}

/// Something that evaluates models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    Bitnet,
    Llama,
    Cuda,
    Cpu,
}

impl Backend {
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Bitnet => "bitnet",
            Backend::Llama => "llama",
            Backend::Cuda => "cuda",
            Backend::Cpu => "cpu",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Repair {
    /// Not in CI.
    Local,
    Always,
}

/// What a preflight check is about; each class has its own exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Toolchain,
    Machine,
    Accelerator,
    Network,
}

#[derive(Debug, Subcommand)]
pub enum Models {
    /// Make a model of random weights at a real model's shape, and print its path.
    Synth(Synth),
    /// Fetch from a faulty hub on loopback: killed again and again, or timed.
    Drill(Drill),
    /// Everything else is `bitnet models`: list, fetch, verify, path, rm, inspect, diff, bundle.
    #[command(external_subcommand)]
    Binary(Vec<OsString>),
}

#[derive(Debug, Args)]
pub struct Drill {
    #[arg(value_enum)]
    pub kind: DrillKind,
    /// Size of the file (default: 200 to kill, 1024 to time).
    #[arg(long)]
    pub mib: Option<u64>,
    /// Kills, or rounds (default: 50, 5).
    #[arg(long)]
    pub times: Option<u64>,
    /// Where the kills fall.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DrillKind {
    /// SIGKILL at random points: it goes on, and never leaves a bad file.
    Kill,
    /// Next to what the disk and one core's sha256 allow.
    Speed,
}

#[derive(Debug, Args)]
pub struct Synth {
    /// 2b4t, 700m, 3b, 8b or 30b.
    pub shape: String,
    /// bitnet, bitnet-b1.58 or llama.
    #[arg(long, default_value = "bitnet")]
    pub arch: String,
    /// Type of the linear layers: i2_s, tq2_0, tq1_0, q4_0, f16 and others.
    #[arg(long, default_value = "i2_s")]
    pub r#type: String,
    /// Type of the embedding and the head.
    #[arg(long, default_value = "f16")]
    pub head: String,
    /// Fewer or more layers than the real model has.
    #[arg(long)]
    pub layers: Option<u32>,
    /// The file to write (default: in the cache folder, under a name that says what it is).
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// A name of the catalog, or a path to a GGUF file.
    #[arg(long, default_value = "smollm2-135m")]
    pub model: String,
    /// References to measure beside ours, on the same file (default: those that are built).
    #[arg(long, value_delimiter = ',', value_enum)]
    pub against: Option<Vec<Backend>>,
    /// Measure ours alone.
    #[arg(long, conflicts_with_all = ["against", "also"])]
    pub alone: bool,
    /// Another engine on another file of the same shape: bitforge, llama or bitnet, =, and a path.
    #[arg(long, value_name = "NAME=FILE")]
    pub also: Vec<String>,
    /// Where our engine computes; a device is measured alone, since the references here compute on the CPU.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads of every engine (default: the CPUs this process may use).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Lengths of prompts, 0 for none.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512])]
    pub pp: Vec<u32>,
    /// Numbers of generated tokens, 0 for none.
    #[arg(long, value_delimiter = ',', default_values_t = [128])]
    pub tg: Vec<u32>,
    /// Generate after so many tokens (0: in an empty context).
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    pub depth: Vec<u32>,
    /// Generate in so many sequences at once, in an empty context; above 1 only with our engine.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..))]
    pub sequences: Vec<u32>,
    /// How our engine stores keys and values: f16 or q8_0.
    #[arg(long)]
    pub kv: Option<String>,
    /// How our engine finds the best tokens: full or two-stage.
    #[arg(long)]
    pub head: Option<String>,
    /// Rounds that count, after one that does not.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// An earlier bench.json: fail where this run is slower beyond what can be told.
    #[arg(long)]
    pub baseline: Option<PathBuf>,
    /// Write bench.html as well: one page with plots of everything that was measured.
    #[arg(long)]
    pub html: bool,
    /// The folder for bench.json, bench.md and bench.svg (default: receipts in the target folder).
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Reference {
    /// Build what is not built yet, and print the folders.
    Build(ReferenceBuild),
    /// The builds in the cache, and where each reference is looked for.
    Status,
    /// Remove the builds of a reference.
    Clean { name: ReferenceChoice },
    /// Print the folder of the library that would be used.
    Path { name: ReferenceChoice },
}

#[derive(Debug, Args)]
pub struct ReferenceBuild {
    pub name: ReferenceChoice,
    /// The C++ tree: crate, dir:PATH, git:URL#REV or archive:FILE#SHA256.
    #[arg(long, default_value = "crate", value_parser = Source::parse)]
    pub source: Source,
    /// The ternary kernels of bitnet.cpp.
    #[arg(long, value_enum, default_value = "i2s")]
    pub kernels: Kernels,
    /// Compile for this CPU, or for any with AVX2.
    #[arg(long, value_enum, default_value = "native")]
    pub cpu: Cpu,
    #[arg(long, value_enum, default_value = "shared")]
    pub linkage: Linkage,
    /// The compiler (default: CC and CXX, then gcc, then clang).
    #[arg(long, value_enum)]
    pub compiler: Option<CompilerKind>,
    /// Start the compiler through a cache or a build farm.
    #[arg(long, value_enum)]
    pub launcher: Option<Launcher>,
    /// Compile this many files at once (default: ninja's choice).
    #[arg(long)]
    pub jobs: Option<u32>,
}

impl ReferenceBuild {
    /// What a plain `reference build NAME` does.
    pub fn plain(name: ReferenceChoice) -> Self {
        ReferenceBuild {
            name,
            source: Source::Crate,
            kernels: Kernels::I2s,
            cpu: Cpu::Native,
            linkage: Linkage::Shared,
            compiler: None,
            launcher: None,
            jobs: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceName {
    Llama,
    Bitnet,
}

impl ReferenceName {
    pub const ALL: [ReferenceName; 2] = [ReferenceName::Llama, ReferenceName::Bitnet];

    pub const fn lane(self) -> Lane {
        match self {
            ReferenceName::Llama => Lane::Llama,
            ReferenceName::Bitnet => Lane::Bitnet,
        }
    }

    pub const fn name(self) -> &'static str {
        self.lane().name()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReferenceChoice {
    Llama,
    Bitnet,
    All,
}

impl ReferenceChoice {
    pub const fn names(self) -> &'static [ReferenceName] {
        match self {
            ReferenceChoice::Llama => &[ReferenceName::Llama],
            ReferenceChoice::Bitnet => &[ReferenceName::Bitnet],
            ReferenceChoice::All => &ReferenceName::ALL,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    I2s,
    Tl2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cpu {
    Native,
    Portable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linkage {
    Shared,
    Static,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CompilerKind {
    Gcc,
    Clang,
    Zig,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Launcher {
    Sccache,
    Ccache,
    Icecc,
}

#[derive(Debug, Args)]
pub struct Clean {
    /// What to free; without it, only the sizes are shown.
    #[arg(value_enum)]
    pub what: Vec<CacheKind>,
}

/// A part of the cache that can be freed on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheKind {
    /// Fetched models.
    Models,
    /// Builds of the references.
    References,
    /// Unpacked and cloned sources of references.
    Sources,
    /// Build tools and virtual environments.
    Tools,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Compare only; fail where a file is out of date.
    #[arg(long)]
    pub check: bool,
}

/// What `up` runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelArg {
    Name(String),
    File(PathBuf),
}

impl ModelArg {
    /// A value with a path separator or a `.gguf` ending is a path.
    pub fn parse(text: &str) -> Self {
        if text.contains('/') || text.ends_with(".gguf") {
            ModelArg::File(text.into())
        } else {
            ModelArg::Name(text.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["xtask", "preflight", "--json", "--require", "network,accelerator"])
            .unwrap();
        assert!(cli.json);
        let Command::Preflight(preflight) = cli.command else { panic!("not preflight") };
        assert_eq!(preflight.require, [Class::Network, Class::Accelerator]);
    }

    #[test]
    fn a_model_is_a_name_or_a_path() {
        assert_eq!(ModelArg::parse("smollm2-135m"), ModelArg::Name("smollm2-135m".into()));
        assert_eq!(ModelArg::parse("a.gguf"), ModelArg::File("a.gguf".into()));
        assert_eq!(ModelArg::parse("dir/a"), ModelArg::File("dir/a".into()));
    }
}
