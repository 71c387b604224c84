//! Receipts: what a step of bitforge did, in a form that a stranger can verify.
//!
//! Types only. A [`Receipt`] is an envelope (version, parents) around the [`Body`] of one kind of step. Whether
//! the compute was real, or the speed possible, is nowhere in here: `cargo xtask receipt verify` derives it.
//! `fixtures/schemas/receipt.schema.json` is generated from these types by `cargo xtask docs`.

#![forbid(unsafe_code)]

pub mod bench;
pub mod cluster;
pub mod crossval;
pub mod eval;
pub mod run;
pub mod step;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version in every receipt; raised when a field changes its meaning or is removed.
pub const VERSION: u32 = 1;

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Seconds since 1970-01-01 UTC when the step ended.
    pub created_unix: u64,
    /// The receipts that this step built on: their kind and the sha256 of the file.
    pub parents: BTreeMap<String, String>,
    pub body: Body,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Body {
    /// Text was generated, by `bitnet run --receipt`.
    Run(Box<run::Run>),
    /// Engines were compared, by `cargo xtask crossval`.
    Crossval(Box<crossval::Crossval>),
    /// Perplexities were measured, by `cargo xtask eval`.
    Eval(Box<eval::Eval>),
    /// A perplexity was measured in shards, by `cargo xtask cluster eval`.
    ClusterEval(Box<cluster::ClusterEval>),
    /// Engines were timed, by `cargo xtask bench`.
    Bench(Box<bench::Bench>),
    /// Any other step of `cargo xtask up`: preflight, reference, symbols, kernels, model.
    Step(Box<step::Step>),
}

impl Body {
    /// The name under which children list this receipt among their parents.
    pub fn kind(&self) -> &str {
        match self {
            Body::Run(_) => "run",
            Body::Crossval(_) => "crossval",
            Body::Bench(_) => "bench",
            Body::Eval(_) => "eval",
            Body::ClusterEval(_) => "cluster-eval",
            Body::Step(step) => &step.step,
        }
    }
}

/// A file by its content. Paths are not recorded: they say nothing to a stranger and tell about the machine.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// The file's name without its folder.
    pub name: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// The machine a step ran on.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineFacts {
    pub cpu: String,
    /// Instruction sets that matter to kernels, as the operating system names them.
    pub features: Vec<String>,
    /// CPUs that the process may use.
    pub cpus: u32,
    /// Bytes of the last-level cache; `None` where the system does not say.
    pub last_level_cache: Option<u64>,
    pub memory_bytes: u64,
    /// Names of GPUs that were used.
    pub gpus: Vec<String>,
}
