//! What answers have in common, and the answers of small routes.

use schemars::JsonSchema;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Taken from the prefix cache.
    pub cached_tokens: usize,
}

#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    pub content: Vec<ChatLogprob>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatLogprob {
    #[serde(flatten)]
    pub token: ScoredToken,
    pub top_logprobs: Vec<ScoredToken>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ScoredToken {
    pub token: String,
    pub logprob: f32,
    /// The token's bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
}

/// The form of `/v1/completions`: lists of equal length.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct TextLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    #[schemars(with = "Vec<std::collections::BTreeMap<String, f32>>")]
    pub top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    pub text_offset: Vec<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Models {
    /// `list`.
    pub object: &'static str,
    pub data: Vec<ModelEntry>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ModelEntry {
    pub id: String,
    /// `model`.
    pub object: &'static str,
    pub created: u64,
    pub owned_by: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorReply {
    pub error: ErrorBody,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ErrorBody {
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `timeout_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that is at fault.
    pub param: Option<String>,
    pub code: Option<&'static str>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Health {
    /// `ok`, `loading` or `stopping`.
    pub status: &'static str,
}
