//! The receipt of a generation, written by `bitnet run --receipt FILE` from what the run itself counted.

use crate::{FileFacts, MachineFacts};
use bitforge_schema::protocol::{ActivationMode, KernelCount};
use bitforge_schema::selection::Selection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The executable itself.
    pub binary: FileFacts,
    pub binary_version: String,
    pub model: ModelFacts,
    pub tokenizer: TokenizerFacts,
    pub machine: MachineFacts,
    pub selection: Selection,
    pub activation_quant: ActivationMode,
    pub threads: u32,
    /// How keys and values were stored: `f16` or `q8_0`. Absent in older receipts, which are of `f16`.
    #[serde(default)]
    pub kv: Option<String>,
    /// How the best tokens were found. Absent in older receipts, which read every row of the head.
    #[serde(default)]
    pub head: Option<HeadFacts>,
    /// Environment variables of bitforge that change what is computed, as they were set; an argument that stands
    /// for a variable (`--threads`, `--kernels`) counts in its place, under the variable's name.
    pub environment_requested: BTreeMap<String, String>,
    /// The values that were in force, by the same names, also where nothing was requested.
    pub environment_effective: BTreeMap<String, String>,
    /// `BITNET_STRICT_MODE`: whatever was asked for was had, or the run failed.
    pub strict: bool,
    pub work: Work,
    /// One entry per kernel that was called.
    pub kernels: Vec<KernelCount>,
    /// The highest read bandwidth seen at the end of this run with its threads over the model's own bytes, in bytes
    /// per second; `None` where the matrices are not above twice the last-level cache.
    pub peak_bandwidth: Option<f64>,
}

/// The output head, where only the best candidates were wanted.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadFacts {
    /// `full`, or `two-stage`: all rows by a compact copy, with the same result.
    pub mode: String,
    /// Bytes of the compact copy; 0 without one.
    pub compact_bytes: u64,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    pub file: FileFacts,
    pub architecture: String,
    pub layers: u32,
    /// Every matrix that a token is multiplied with.
    pub matrices: Vec<MatrixFacts>,
    /// Made by a generator (`general.name` or a `bitforge.synthetic` key says so), not trained.
    pub synthetic: bool,
}

/// Matrices of one type and role together.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixFacts {
    pub role: MatrixRole,
    /// GGUF type name.
    pub weight_type: String,
    /// Rows of all of them.
    pub rows: u64,
    /// Packed bytes of all of them.
    pub bytes: u64,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatrixRole {
    /// Multiplied with every evaluated token.
    Layer,
    /// Multiplied with every position whose logits were asked for.
    Head,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerFacts {
    pub authority: TokenizerAuthority,
    /// sha256 over every `tokenizer.*` entry of the file (vocabulary, merges, scores, types, settings), in the file's
    /// order: length of the key (u64), key, type id (u32) and value as in GGUF. `bitnet inspect --json` shows it.
    pub sha256: String,
}

/// Where the tokenizer came from.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerAuthority {
    /// The model file holds it, whole.
    Embedded,
    /// A file named by the user.
    External,
    /// A part was missing and was inferred: the pre-tokenizer, or BOS and EOS by SentencePiece's convention.
    Discovered,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    pub prompt_tokens: Vec<u32>,
    pub output_tokens: Vec<u32>,
    /// sha256 of the ids as little-endian u32.
    pub prompt_sha256: String,
    pub output_sha256: String,
    /// Tokens that went through the layers.
    pub evaluated_tokens: u64,
    /// Positions that went through the head.
    pub logits_positions: u64,
    /// Sampling settings by name; `temperature` 0 makes the output repeatable.
    pub sampling: BTreeMap<String, f64>,
    pub seed: u64,
    pub prompt_ns: u64,
    pub decode_ns: u64,
    /// Sampled tokens that were evaluated in `decode_ns`.
    pub decoded_tokens: u64,
}
