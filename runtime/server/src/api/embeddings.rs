//! `/v1/embeddings`: the request and the answer.

use super::completions::Prompt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct EmbeddingRequest {
    /// The served model's name; absent is the same.
    pub model: Option<String>,
    /// Up to 2048 texts or lists of token ids.
    pub input: Prompt,
    /// `float` where absent.
    pub encoding_format: Option<EncodingFormat>,
    /// So many first values, of length 1 again; absent is all of them.
    #[schemars(range(min = 1))]
    pub dimensions: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    #[default]
    Float,
    /// Of the values as little-endian 32-bit floats.
    Base64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Embeddings {
    /// `list`.
    pub object: &'static str,
    /// In the order of the inputs.
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: &'static str,
    pub index: usize,
    pub embedding: Values,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Values {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct EmbeddingUsage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}
