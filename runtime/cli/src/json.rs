//! What the commands print with `--json`, one type per command. Fields are added, never renamed or removed.

use bitforge_receipt_schema::run::TokenizerAuthority;
use bitforge_schema::protocol::KernelCount;
use bitforge_schema::selection::Selection;
use bitnet_runtime::generate::FinishReason;
use bitnet_runtime::quantize::TensorReport;
use bitnet_runtime::sampling::SamplingParams;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
pub struct ErrorOutput {
    pub error: ErrorBody,
}

#[derive(Serialize)]
pub struct ErrorBody {
    /// The process's exit code.
    pub code: u8,
    /// The code's name in the exit-code table.
    pub kind: &'static str,
    pub message: String,
}

/// A model file at a glance.
#[derive(Clone, Serialize)]
pub struct ModelSummary {
    pub path: String,
    /// `general.name`.
    pub name: Option<String>,
    pub architecture: Option<String>,
    pub file_bytes: u64,
    /// Bytes of tensor data; `None` where a type is not known.
    pub tensor_bytes: Option<u64>,
    pub parameters: u64,
    pub bits_per_weight: Option<f64>,
    /// The type that most weights have.
    pub weight_type: Option<String>,
}

/// How the engine was set up; with the model file it decides every logit.
#[derive(Serialize)]
pub struct EngineSummary {
    pub threads: usize,
    pub context_size: usize,
    pub kv_cache_bytes: usize,
    pub kv_type: &'static str,
    /// `full` or `two-stage`.
    pub head: &'static str,
    /// 0 for a head that is computed in full.
    pub compact_head_bytes: usize,
    pub activation_quant: &'static str,
    pub selection: Selection,
    /// The GPU that holds the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[cfg(feature = "gpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<bitnet_runtime::gpu::Facts>,
}

#[derive(Serialize)]
pub struct RunOutput {
    pub model: ModelSummary,
    pub engine: EngineSummary,
    pub sampling: SamplingParams,
    /// The template that was applied, `None` without `--chat`.
    pub chat: Option<&'static str>,
    pub prompt_tokens: Vec<u32>,
    /// Every sampled id, the one that ended generation included.
    pub output_tokens: Vec<u32>,
    pub text: String,
    pub finish_reason: FinishReason,
    pub timings: RunTimings,
    /// The selection line.
    pub selection: String,
    pub warnings: Vec<String>,
}

#[derive(Serialize)]
pub struct RunTimings {
    pub load_ms: f64,
    pub prompt_ms: f64,
    pub decode_ms: f64,
    /// Sampled tokens that were evaluated.
    pub decoded_tokens: usize,
    pub prompt_tokens_per_second: Option<f64>,
    pub decode_tokens_per_second: Option<f64>,
}

#[derive(Serialize)]
pub struct TokenizeOutput {
    pub model: String,
    pub family: &'static str,
    /// The template that was applied, `None` without `--chat`.
    pub chat: Option<&'static str>,
    pub tokens: Vec<Token>,
    /// The ids alone.
    pub ids: Vec<u32>,
    pub warnings: Vec<String>,
}

#[derive(Serialize)]
pub struct Token {
    pub id: u32,
    /// Bytes that are not UTF-8 are U+FFFD here.
    pub text: String,
}

#[derive(Serialize)]
pub struct LogitsOutput {
    pub model: ModelSummary,
    pub engine: EngineSummary,
    /// The file written: little-endian f32 [positions, vocab].
    pub path: String,
    pub positions: usize,
    pub vocab: usize,
    pub bytes: u64,
}

/// Of `convert` and `quantize`.
#[derive(Serialize)]
pub struct RewriteOutput {
    pub input: String,
    pub output: String,
    /// Of the file written.
    pub bytes: u64,
    pub threads: usize,
    /// From the first byte read of a weight to the file under its name.
    pub elapsed_ms: f64,
    /// In file order.
    pub tensors: Vec<TensorReport>,
    pub warnings: Vec<String>,
}

#[derive(Serialize)]
pub struct PerplexityOutput {
    pub model: ModelSummary,
    pub engine: EngineSummary,
    /// Of the text.
    pub tokens: usize,
    pub ctx_size: usize,
    /// Chunks that were scored, the index of the first of them, and how many the text has.
    pub chunks: usize,
    pub first_chunk: usize,
    pub text_chunks: usize,
    /// Tokens that were scored, in all chunks together; each chunk has as many.
    pub scored: usize,
    pub perplexity: f64,
    /// Of the perplexity, as llama.cpp derives it from the spread of the tokens' log likelihoods.
    pub standard_error: f64,
    /// Sum of the negative log likelihoods (nats) of each chunk, and of their squares.
    pub nll: Vec<f64>,
    pub squares: Vec<f64>,
    pub tokens_per_second: f64,
    pub kernels: Vec<KernelCount>,
}

#[derive(Serialize)]
pub struct InspectOutput {
    pub model: ModelSummary,
    pub gguf_version: u32,
    pub alignment: u64,
    /// Files of a split model, left out where there is one.
    #[serde(skip_serializing_if = "is_one")]
    pub parts: usize,
    /// `None` where the model cannot be run; `warnings` say why.
    pub config: Option<ConfigSummary>,
    pub tokenizer: Option<TokenizerSummary>,
    /// Long arrays as `{"type", "length", "first"}`, long strings cut.
    pub metadata: Map<String, Value>,
    pub tensors: Vec<TensorSummary>,
    /// `None` where the model cannot be run.
    pub memory: Option<MemorySummary>,
    /// Which kernels would multiply by the matrices, for each weight type.
    pub kernels: Vec<KernelUse>,
    pub references: Vec<bitnet_runtime::models::references::Verdict>,
    pub warnings: Vec<String>,
}

/// What a run keeps in memory; small buffers are not counted.
#[derive(Serialize)]
pub struct MemorySummary {
    /// Positions.
    pub context: usize,
    /// Mapped from the file.
    pub weights_bytes: u64,
    pub kv_cache_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Serialize)]
pub struct KernelUse {
    pub weight: &'static str,
    pub matrices: usize,
    pub bytes: u64,
    pub activation: String,
    /// An id of `bitnet kernels`; `None` where no kernel takes these types.
    pub kernel: Option<&'static str>,
}

#[derive(Serialize)]
pub struct ConfigSummary {
    pub layers: usize,
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub context_length: usize,
    pub rope_base: f32,
    pub rope_dim: usize,
    pub rope_pairing: String,
    pub rope_scale: f32,
    pub rms_eps: f32,
    pub activation: String,
}

#[derive(Serialize)]
pub struct TokenizerSummary {
    pub family: &'static str,
    pub vocab_size: usize,
    pub real_vocab_size: usize,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub adds_bos: bool,
    pub end_of_generation: Vec<u32>,
    pub has_chat_template: bool,
    pub chat_template_sha256: Option<String>,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// What the parts of the file say about the number of tokens.
    pub vocabulary: bitnet_runtime::models::tokenizer::Vocabulary,
    /// Why the tokenizer does not fit the model; such a file ends with exit code 14.
    pub mismatch: Option<String>,
    /// Keys that the file lacks and whose values were inferred.
    pub inferred: Vec<&'static str>,
    /// As in receipts.
    pub authority: TokenizerAuthority,
    /// Over every `tokenizer.*` entry of the file, as in receipts.
    pub sha256: String,
}

#[derive(Serialize)]
pub struct TensorSummary {
    pub name: String,
    pub r#type: String,
    /// The first is the fastest: the length of a row.
    pub dims: Vec<u64>,
    /// The part of a split model that has the data, from 0; left out for the first.
    #[serde(skip_serializing_if = "is_zero")]
    pub part: usize,
    /// From the start of the file (of the part).
    pub offset: u64,
    pub bytes: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(n: &usize) -> bool {
    *n == 1
}

#[derive(Serialize)]
pub struct BenchOutput {
    pub build: Build,
    pub model: ModelSummary,
    pub engine: EngineSummary,
    pub load_ms: f64,
    pub results: Vec<BenchResult>,
    /// With --products, where a device can tell.
    #[cfg(feature = "gpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub products: Option<bitnet_runtime::gpu::ProductTimes>,
    /// Stopped by Ctrl-C: the last result may have fewer samples than asked for.
    pub interrupted: bool,
}

#[derive(Clone, Copy, Serialize)]
pub struct Build {
    pub version: &'static str,
    /// `debug` numbers mean nothing.
    pub profile: &'static str,
    pub target_arch: &'static str,
    pub target_os: &'static str,
}

#[derive(Serialize)]
pub struct BenchResult {
    /// `pp512`: a prompt of 512 tokens; `tg128`: 128 tokens one by one.
    pub test: String,
    pub tokens: usize,
    pub samples_ns: Vec<u64>,
    pub samples_tokens_per_second: Vec<f64>,
    pub mean_tokens_per_second: f64,
    pub median_tokens_per_second: f64,
    /// Of the sample (n - 1); 0 for one sample.
    pub stddev_tokens_per_second: f64,
    /// What one step of so many sequences tells several GPUs of each other.
    #[cfg(feature = "gpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub communication: Option<Communication>,
}

#[cfg(feature = "gpu")]
#[derive(Serialize)]
pub struct Communication {
    /// Bytes that each GPU receives for a step.
    pub bytes: u64,
    /// Nanoseconds of a step's collectives alone.
    pub nanoseconds: u64,
    /// Their part of the median step.
    pub share: f64,
}

/// Which backend would compute.
#[derive(Serialize)]
pub struct DeviceOutput {
    pub selection_line: String,
    pub selection: Selection,
    pub gpu_compiled: bool,
    /// Detected at run time, or faked.
    pub gpu_available: bool,
    pub faked: bool,
}

#[derive(Serialize)]
pub struct KernelsOutput {
    pub selection: Selection,
    pub device: DeviceOutput,
    pub selection_line: String,
    /// The matrix kernels of this build.
    pub kernels: Vec<KernelRow>,
    /// The levels of this build: what they need, and whether this CPU runs them.
    pub capabilities: Vec<CapabilitiesRow>,
    /// Every operation with all its candidates.
    pub operations: Vec<OperationRow>,
    /// Every id that a count of a receipt may have.
    pub kernel_ids: Vec<&'static str>,
}

#[derive(Serialize)]
pub struct CapabilitiesRow {
    pub level: &'static str,
    /// CPU features by the names of `/proc/cpuinfo`.
    pub features: &'static [&'static str],
    pub register_bytes: usize,
    pub int8_instruction: &'static str,
    pub compiled: bool,
    pub available: bool,
}

#[derive(Serialize)]
pub struct OperationRow {
    /// `matmul`, `quantize` (of activations), or an element-wise operation.
    pub operation: &'static str,
    /// Of a `matmul`.
    pub weight: Option<&'static str>,
    /// Of a `matmul` and of `quantize`.
    pub activation: Option<String>,
    /// Of a `matmul`: by the number of activation rows, `decode` 1, `batch` 2 to 15, `prefill` 16 and more. Shapes that
    /// choose the same are one entry.
    pub shapes: Vec<&'static str>,
    /// Scalar first.
    pub candidates: Vec<CandidateRow>,
}

#[derive(Serialize)]
pub struct CandidateRow {
    pub id: String,
    pub level: &'static str,
    /// Whether this CPU runs it: a probe at run time.
    pub available: bool,
    pub selected: bool,
    /// Why it was taken, or why not.
    pub reason: String,
}

#[derive(Serialize)]
pub struct ReplayOutput {
    pub tensor: String,
    pub weight: &'static str,
    pub activation: String,
    pub k: usize,
    /// As the fixture says.
    pub expected: Option<f64>,
    pub got: Option<f64>,
    /// Whether all kernels gave the same bits.
    pub agree: bool,
    /// Scalar first.
    pub results: Vec<ReplayRow>,
}

#[derive(Serialize)]
pub struct ReplayRow {
    pub kernel: &'static str,
    pub result: f32,
    pub bits: String,
    /// Whether the kernel says that it wrote the result.
    pub computed: bool,
}

#[derive(Serialize)]
pub struct KernelRow {
    pub id: &'static str,
    pub weight: &'static str,
    pub activation: String,
    pub level: &'static str,
    /// Whether this CPU runs it: a probe at run time.
    pub available: bool,
    /// Of the repacked rows that it takes; `null` for rows as they lie in the file.
    pub layout: Option<&'static str>,
    /// Whether a model with such weights would use it for some shape.
    pub selected: bool,
}
