//! The receipt of a cross-validation, written by `cargo xtask crossval`.

use crate::{FileFacts, MachineFacts};
use bitforge_schema::protocol::ActivationMode;
use serde::{Deserialize, Serialize};

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossval {
    /// Our engine.
    pub binary: FileFacts,
    pub machine: MachineFacts,
    /// Positions that were asked for.
    pub positions: u32,
    /// Those of tools/crossval.toml, where each has its reason.
    pub thresholds: Thresholds,
    pub lanes: Vec<Lane>,
}

/// Our engine against one other on one model.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// Without bytes and digest where the model was not here.
    pub model: FileFacts,
    /// `llama`, `bitnet`, `oracle`, `transformers`, `command`.
    pub engine: String,
    /// What identifies it: the key of the reference build, or digests of the oracle's files.
    pub identity: String,
    /// The mode that both engines computed in; `None` without ternary layers.
    pub activation_quant: Option<ActivationMode>,
    /// How the engine was itself judged before it was believed.
    pub validation: String,
    pub verdict: Verdict,
    pub metrics: Option<Metrics>,
    /// Why there is no verdict, or what diverged.
    pub detail: String,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Agrees,
    Diverges,
    /// Not compared, or the engine could not be believed. Never a pass.
    CouldNotCheck,
}

/// Over all positions, ours against the other's logits.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub positions: u32,
    /// The lowest cosine of a position, and its index.
    pub min_cosine: f64,
    pub min_cosine_position: u32,
    pub max_abs: f64,
    /// The highest relative L2 distance of a position.
    pub max_relative_l2: f64,
    /// The highest KL(other || ours) of a position, nats.
    pub max_kl: f64,
    /// Parts of positions from 0 to 1.
    pub top1_agreement: f64,
    pub top5_agreement: f64,
    /// Top-1 disagreements where the other's two best logits are farther apart than the threshold.
    pub decided_disagreements: u32,
    /// exp of the mean negative log likelihood of the next token.
    pub perplexity_ours: f64,
    pub perplexity_other: f64,
    /// Positions whose logits are equal to the last bit.
    pub bit_equal_positions: u32,
}

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub min_cosine: f64,
    /// A top-1 disagreement counts where the other's two best logits are farther apart than this.
    pub top1_gap: f64,
    /// Relative difference of the perplexities.
    pub perplexity: f64,
    pub min_positions: u32,
}
