//! A model file and an engine at a glance, for every command's output.

use super::format::{count, mebibytes};
use super::json::{EngineSummary, ModelSummary};
use bitforge_schema::protocol::ActivationMode;
use bitnet_runtime::engine::Engine;
use bitnet_runtime::gguf::{Gguf, TensorInfo};
use std::collections::BTreeMap;

pub fn model(gguf: &Gguf) -> ModelSummary {
    let text = |key: &str| gguf.opt_str(key).ok().flatten().map(str::to_owned);
    let parameters = gguf.tensors().iter().map(elements).fold(0, u64::saturating_add);
    let tensor_bytes = gguf.tensors().iter().map(|info| info.len).try_fold(0u64, |sum, len| Some(sum + len?));
    let mut by_type: BTreeMap<(u32, String), u64> = BTreeMap::new();
    let key = |info: &TensorInfo| (info.type_id, info.type_name());
    gguf.tensors().iter().for_each(|info| *by_type.entry(key(info)).or_default() += elements(info));
    ModelSummary {
        path: gguf.path().display().to_string(),
        name: text("general.name"),
        architecture: text("general.architecture"),
        file_bytes: gguf.file_len(),
        tensor_bytes,
        parameters,
        bits_per_weight: tensor_bytes.filter(|_| parameters > 0).map(|n| n as f64 * 8.0 / parameters as f64),
        weight_type: by_type.into_iter().max_by_key(|(_, n)| *n).map(|((_, name), _)| name),
    }
}

pub fn engine(engine: &Engine) -> EngineSummary {
    EngineSummary {
        threads: engine.threads(),
        context_size: engine.context(),
        kv_cache_bytes: engine.kv_bytes(),
        kv_type: engine.kv_type().name(),
        head: engine.head_mode().name(),
        compact_head_bytes: engine.compact_head_bytes(),
        activation_quant: ActivationMode::from(engine.activation_quant()).name(),
        selection: engine.selection().clone(),
        #[cfg(feature = "gpu")]
        device: engine.device().map(|facts| facts.name.clone()),
        #[cfg(not(feature = "gpu"))]
        device: None,
        #[cfg(feature = "gpu")]
        device_memory: engine.device().cloned(),
    }
}

impl ModelSummary {
    /// `llama 134.52 M Q4_1`, as llama-bench names models.
    pub fn title(&self) -> String {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "unknown".into());
        format!("{} {} {}", part(&self.architecture), count(self.parameters), part(&self.weight_type))
    }

    /// Bytes of the weights, or of the file where a type is not known.
    pub fn size(&self) -> String {
        mebibytes(self.tensor_bytes.unwrap_or(self.file_bytes))
    }
}

/// Number of weights; the header's check keeps it in range for known types.
pub fn elements(info: &TensorInfo) -> u64 {
    info.dims.iter().fold(1, |n, dim| n.saturating_mul(*dim))
}
