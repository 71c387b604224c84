//! How a model of a file would run here: memory at a context length, kernels; and what references would say.

use super::format::mebibytes;
use super::json::{InspectOutput, KernelUse, MemorySummary};
use bitnet_runtime::engine::kv_cache::{KvShape, KvType};
use bitnet_runtime::engine::pages::PAGE;
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::kernels::KernelSet;
use bitnet_runtime::kernels::registry::Shape;
use bitnet_runtime::kernels::select::KernelRequest;
use bitnet_runtime::model::ModelConfig;
use bitnet_runtime::quant::activation::{ActivationQuant, ActivationType};
use bitnet_runtime::tensor::TensorType;
use bitnet_runtime::{Error, Result};
use std::collections::BTreeMap;

/// Context without `--ctx-size`, as `bitnet run` takes it.
const DEFAULT_CONTEXT: usize = 4096;

/// What a run with `context` positions keeps in memory.
pub fn memory(gguf: &Gguf, config: &ModelConfig, context: Option<usize>) -> Result<MemorySummary> {
    let context = context.unwrap_or(config.context_length.min(DEFAULT_CONTEXT));
    let ModelConfig { layers, kv_heads, head_dim, .. } = *config;
    let (pages, ty) = (context.div_ceil(PAGE), KvType::default());
    let kv = KvShape { layers, kv_heads, head_dim, context, pages, ty }.bytes();
    let weights: u64 = gguf.tensors().iter().filter_map(|info| info.len).fold(0, u64::saturating_add);
    let total = kv.and_then(|kv| Some((kv as u64, weights.checked_add(kv as u64)?)));
    let (kv_cache_bytes, total_bytes) = total.ok_or_else(|| {
        Error::limit(format!("a context of {context} positions is more than any memory"), "choose less")
    })?;
    Ok(MemorySummary { context, weights_bytes: weights, kv_cache_bytes, total_bytes })
}

/// The kernel for each type that matrices of the file have.
pub fn kernels(gguf: &Gguf, request: KernelRequest) -> Result<Vec<KernelUse>> {
    let set = KernelSet::select(request)?;
    let mut types: BTreeMap<TensorType, (usize, u64)> = BTreeMap::new();
    for info in gguf.tensors().iter().filter(|info| info.dims.len() > 1) {
        if let (Some(ty), Some(len)) = (info.ty(), info.len) {
            let (matrices, bytes) = types.entry(ty).or_default();
            (*matrices, *bytes) = (*matrices + 1, bytes.saturating_add(len));
        }
    }
    let row = |(ty, (matrices, bytes)): (TensorType, (usize, u64))| {
        let activation = ActivationType::for_weight(ty, ActivationQuant::default());
        let kernel = set.plan(ty, activation).map(|plan| plan.kernel(Shape::Decode).id);
        KernelUse { weight: ty.name(), matrices, bytes, activation: format!("{activation:?}"), kernel }
    };
    Ok(types.into_iter().map(row).collect())
}

/// The same for people.
pub fn facts(output: &InspectOutput) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(memory) = &output.memory {
        let [total, weights, kv] =
            [memory.total_bytes, memory.weights_bytes, memory.kv_cache_bytes].map(mebibytes);
        let context = memory.context;
        facts.push(("memory", format!("{total} at {context} positions ({weights} weights, {kv} KV cache)")));
    }
    for KernelUse { weight, matrices, bytes, kernel, .. } in &output.kernels {
        let kernel = kernel.unwrap_or("none");
        facts.push(("kernel", format!("{kernel} for {matrices} {weight} matrices ({})", mebibytes(*bytes))));
    }
    for verdict in &output.references {
        let loads = if verdict.loads { "loads it" } else { "refuses it" };
        let notes: String = verdict.notes.iter().map(|note| format!("; {note}")).collect();
        facts.push(("reference", format!("{} ({}) {loads}{notes}", verdict.reference, verdict.version)));
    }
    facts
}
