//! `tools/pins.toml` as values: where each reference's source comes from and how it is built.

use crate::cli::{Kernels, ReferenceName};
use crate::ctx::Ctx;
use crate::exit::Failure;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    pub tools: Tools,
    llama: Pin,
    bitnet: Pin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The requirements file, relative to the root.
    pub requirements: String,
    /// The oldest versions of the system's tools that are used.
    pub cmake: String,
    pub ninja: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The manifest that names the crate, relative to the root.
    pub manifest: String,
    #[serde(rename = "crate")]
    pub krate: String,
    pub version: String,
    /// The C++ tree inside the crate.
    pub tree: String,
    /// What cmake is asked to build.
    pub targets: Vec<String>,
    /// `NAME=VALUE` for cmake, in every variant.
    pub flags: Vec<String>,
    #[serde(default)]
    pub supply: Vec<Supply>,
    #[serde(default)]
    pub patch: Vec<Patch>,
}

/// A file that is made where the tree lacks it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supply {
    pub path: String,
    /// The file of the tree to copy; empty content where absent.
    pub copy: Option<String>,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// The patch, relative to the root; the text before its first `---` line is the reason.
    pub file: String,
    /// The only variant that needs it; every variant where absent.
    pub kernels: Option<Kernels>,
}

impl Pins {
    pub fn load(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root()?.join("tools/pins.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        toml::from_str(&text)
            .map_err(|error| Failure::new(ExitCode::BadInput, format!("{}: {error}", path.display())).into())
    }

    pub fn get(&self, name: ReferenceName) -> &Pin {
        match name {
            ReferenceName::Llama => &self.llama,
            ReferenceName::Bitnet => &self.bitnet,
        }
    }
}
