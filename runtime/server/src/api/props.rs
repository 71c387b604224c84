//! `/props`: what is served, how it computes and why, and what requests get that do not say.

use bitforge_schema::selection::Selection;
use schemars::JsonSchema;
use serde::Serialize;

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Props {
    /// The version of the server.
    pub version: &'static str,
    pub model: ModelProps,
    pub engine: EngineProps,
    /// The kernel set.
    pub selection: SelectionProps,
    pub selection_line: String,
    /// Where it computes.
    pub backend: SelectionProps,
    pub backend_line: String,
    /// The kernel of every product of this model.
    pub kernels: Vec<KernelProps>,
    /// A receipt of what was loaded, in the form of fixtures/schemas/receipt.schema.json.
    pub receipt: serde_json::Value,
    pub default_sampling: SamplingProps,
    pub limits: LimitProps,
    /// Whether substitutions are refused (BITNET_STRICT_MODE).
    pub strict: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ModelProps {
    /// How requests name it.
    pub id: String,
    pub name: Option<String>,
    pub architecture: String,
    pub parameters: u64,
    /// The type that most weights have.
    pub weight_type: Option<String>,
    pub bits_per_weight: Option<f64>,
    pub file_bytes: u64,
    pub layers: usize,
    pub hidden: usize,
    /// Tokens without padding.
    pub vocabulary: usize,
    pub trained_context: usize,
    pub chat_template: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EngineProps {
    /// Positions of one sequence.
    pub context_size: usize,
    pub batch_rows: usize,
    pub threads: usize,
    pub kv_type: String,
    pub kv_cache_bytes: usize,
    pub kv_pages: usize,
    /// How the best tokens are found.
    pub head: String,
    /// The GPU; null where the CPU computes.
    pub device: Option<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SelectionProps {
    pub requested: String,
    pub compiled: Vec<String>,
    pub detected: Vec<String>,
    pub selected: String,
    pub reason: String,
}

impl From<&Selection> for SelectionProps {
    fn from(selection: &Selection) -> Self {
        let Selection { requested, compiled, detected, selected, reason } = selection.clone();
        SelectionProps { requested, compiled, detected, selected, reason }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KernelProps {
    /// `product` or `head`.
    pub operation: String,
    pub weight: String,
    pub activation: String,
    /// The kernel for single tokens.
    pub kernel: String,
    /// Matrices that it is used for.
    pub matrices: usize,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct SamplingProps {
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// Null fills the context.
    pub max_tokens: Option<usize>,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct LimitProps {
    pub answers_side_by_side: usize,
    pub waiting_requests: usize,
    pub choices: usize,
    pub body_bytes: usize,
    pub request_seconds: u64,
}
