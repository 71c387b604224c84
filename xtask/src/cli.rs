//! The command line: types only. Each command's behaviour lives in the module of the same name.

use clap::{Args, Parser, Subcommand};
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
    /// From a checkout to real text: preflight, build, fetch a model, generate.
    Up(Up),
    /// Format check, lints, every test of the workspace, repository rules, fixtures.
    Test(Test),
    /// Say what this machine has, what it lacks, and the command that fixes it.
    Preflight(Preflight),
    /// List, fetch and locate the models of the catalog.
    #[command(subcommand)]
    Models(Models),
    /// Generate the fixtures under fixtures/gguf, or check that they are what the generator makes.
    Fixtures(Check),
    /// Generate docs/reference from the tables in the code, or check that it is fresh.
    Docs(Check),
    /// What a library is, what it exports and needs, and what it is able to do.
    AnalyzeLibrary(crate::symbols::AnalyzeArgs),
    /// Check the rules of the repository itself.
    Tidy,
}

#[derive(Debug, Args)]
pub struct Up {
    /// A name of the catalog, or a path to a GGUF file (default: smollm2-135m, or a fixture without network).
    #[arg(long)]
    pub model: Option<String>,
    /// The beginning of the text.
    #[arg(long, default_value = "The three primary colors are")]
    pub prompt: String,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 64)]
    pub max_tokens: u32,
}

#[derive(Debug, Args)]
pub struct Test {
    /// Run the later steps although one failed.
    #[arg(long)]
    pub keep_going: bool,
}

#[derive(Debug, Args)]
pub struct Preflight {
    /// List every check, not only those that need attention.
    #[arg(long, short)]
    pub verbose: bool,
    /// Treat a warning or an unknown in this class as a failure.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub require: Vec<Class>,
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
    /// What the catalog holds and what is already here.
    List,
    /// Download a model, verify it, and print its path.
    Fetch(Fetch),
    /// Print the path of a fetched model.
    Path {
        /// A name of the catalog.
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct Fetch {
    /// A name of the catalog.
    pub name: String,
    /// Read the cached file again and compare its sha256.
    #[arg(long)]
    pub verify: bool,
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
