//! `/v1/completions`: the request and the answer, whose chunks have the same form.

use super::options::Options;
use super::reply::{TextLogprobs, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The whole request, for the schema; the parts are read one by one.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema of a request is generated from it")]
pub struct CompletionRequest {
    #[serde(flatten)]
    own: CompletionFields,
    #[serde(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct CompletionFields {
    pub prompt: Prompt,
    /// Report logprobs of every token and of so many best ones.
    #[schemars(range(max = 20))]
    pub logprobs: Option<u32>,
    /// Put the prompt before every answer.
    pub echo: Option<bool>,
    /// Not supported, unless empty.
    #[schemars(length(max = 0))]
    pub suffix: Option<String>,
    /// Not supported, unless 1.
    #[schemars(range(min = 1, max = 1))]
    pub best_of: Option<u32>,
}

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Completion {
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    pub system_fingerprint: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<TextLogprobs>,
    pub finish_reason: Option<&'static str>,
}
