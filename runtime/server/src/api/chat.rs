//! `/v1/chat/completions`: the request, the answer and its chunks.

use super::options::Options;
use super::reply::{ChatLogprobs, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The whole request, for the schema; the parts are read one by one.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the schema of a request is generated from it")]
pub struct ChatRequest {
    #[serde(flatten)]
    own: ChatFields,
    #[serde(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ChatFields {
    #[schemars(length(min = 1))]
    pub messages: Vec<ChatMessage>,
    /// As max_tokens, which is its older name.
    pub max_completion_tokens: Option<u32>,
    pub logprobs: Option<bool>,
    /// Needs logprobs.
    #[schemars(range(max = 20))]
    pub top_logprobs: Option<u32>,
    pub response_format: Option<ResponseFormat>,
    /// Not supported, unless empty.
    #[schemars(length(max = 0))]
    pub tools: Option<Vec<Value>>,
    /// Not supported, unless empty.
    #[schemars(length(max = 0))]
    pub functions: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ChatMessage {
    pub role: ChatRole,
    pub content: Option<Content>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChatRole {
    System,
    /// As system.
    Developer,
    User,
    Assistant,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message; only text is understood.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    Text { text: String },
}

impl ChatMessage {
    /// Its text, the parts of it put together.
    pub fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(|Part::Text { text }| text.as_str()).collect(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that the schema describes.
    JsonSchema {
        json_schema: NamedSchema,
    },
}

/// Its name and description, which OpenAI asks for, change nothing here.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct NamedSchema {
    pub schema: Option<Value>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatCompletion {
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
    pub system_fingerprint: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct ChatChoice {
    pub index: usize,
    pub message: AnswerMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct AnswerMessage {
    pub role: &'static str,
    pub content: String,
    pub refusal: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ChatChunk<'a> {
    pub id: &'a str,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub system_fingerprint: &'a str,
    pub choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize)]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
}

#[derive(Debug, Default, Serialize)]
pub struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
