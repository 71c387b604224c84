//! What chat and completion requests have in common.

use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Settings of an answer. What is absent or null has the default that `/props` shows.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct Options {
    /// The served model's name; absent is the same.
    pub model: Option<String>,
    /// 0 takes the best token always.
    #[schemars(range(min = 0, max = 100))]
    pub temperature: Option<f32>,
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f32>,
    /// Ours: candidates kept, 0 keeps all.
    pub top_k: Option<u32>,
    /// Ours: least probability kept, as a part of the best one's.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f32>,
    /// Ours: 1 is off.
    #[schemars(range(min = 0.01, max = 100))]
    pub repetition_penalty: Option<f32>,
    #[schemars(range(min = -100, max = 100))]
    pub presence_penalty: Option<f32>,
    #[schemars(range(min = -100, max = 100))]
    pub frequency_penalty: Option<f32>,
    /// The same seed, settings and prompt give the same answer; choice `i` has the seed plus `i`.
    pub seed: Option<i64>,
    /// Tokens of an answer at most.
    pub max_tokens: Option<u32>,
    /// Choices.
    #[schemars(range(min = 1, max = 16))]
    pub n: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Option<Stop>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    /// Added to the logits of tokens, by id.
    #[schemars(with = "Option<BTreeMap<String, f32>>")]
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Ours: the end of a sequence is a token like any other.
    pub ignore_eos: Option<bool>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Stop {
    One(String),
    Many(Vec<String>),
}

impl Stop {
    pub fn strings(&self) -> Vec<String> {
        match self {
            Stop::One(text) => vec![text.clone()],
            Stop::Many(texts) => texts.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// A last chunk tells the usage.
    pub include_usage: Option<bool>,
}
