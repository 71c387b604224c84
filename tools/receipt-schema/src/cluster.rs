//! The receipt of an evaluation by a cluster, written by `cargo xtask cluster eval`: a text in shards.

use crate::FileFacts;
use crate::eval::Measured;
use bitforge_schema::protocol::KernelCount;
use serde::{Deserialize, Serialize};

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEval {
    pub binary: FileFacts,
    /// Chunks of the whole text.
    pub text_chunks: u32,
    /// What the shards add up to; whoever verifies adds them up again.
    pub measured: Measured,
    /// In the order of the text.
    pub shards: Vec<Shard>,
}

/// Some chunks of the text, scored by one process of the binary.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    pub first_chunk: u32,
    /// Tokens that were scored.
    pub scored: u64,
    /// Sum of the negative log likelihoods (nats) of each chunk, and of their squares.
    pub nll: Vec<f64>,
    pub squares: Vec<f64>,
    pub kernels: Vec<KernelCount>,
    /// The beginning of the node's id in the cluster, and its processor.
    pub node: String,
    pub processor: String,
    /// Why it was begun again, each time that a worker was lost.
    pub lost: Vec<String>,
}
