//! The receipt of an evaluation, written by `cargo xtask eval`: how well models predict texts.

use crate::{FileFacts, MachineFacts};
use bitforge_schema::protocol::{ActivationMode, KernelCount};
use serde::{Deserialize, Serialize};

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    pub binary: FileFacts,
    pub machine: MachineFacts,
    pub measured: Vec<Measured>,
}

/// One model on one text. The perplexity is exp(sum of `nll` / `scored`); what it is compared with lies in the
/// checkout, not here.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    pub model: FileFacts,
    pub text: FileFacts,
    /// Tokens of a chunk.
    pub context: u32,
    /// Tokens that were scored, in all chunks together.
    pub scored: u64,
    pub activation_quant: ActivationMode,
    /// Sum of the negative log likelihoods (nats) of each chunk.
    pub nll: Vec<f64>,
    /// Of the perplexity.
    pub standard_error: f64,
    pub kernels: Vec<KernelCount>,
}
