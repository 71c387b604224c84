//! config.json: which family a model is of, its shape, and how its linear layers are stored.
//!
//! In: the parsed file and the names of the tensors. Out: a [`Config`] and its GGUF keys. BitNet models (with norms
//! inside attention and feed-forward network) become `bitnet-b1.58` where the hidden activation is squared ReLU (the
//! graph of 2B-4T) and `bitnet` where it is SiLU; models without these norms become `llama` or `qwen3`. A number that the file
//! lacks is an error, never a guess, except where transformers itself has the default given here.

use super::checkpoint::Checkpoint;
use crate::gguf::Value;
use crate::{Error, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub architectures: Vec<String>,
    model_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    pub name: Option<String>,
    pub license: Option<String>,
    pub hidden_size: u32,
    intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    pub vocab_size: u32,
    rope_theta: Option<f32>,
    rope_scaling: Option<RopeScaling>,
    /// The newer name.
    rope_parameters: Option<RopeScaling>,
    hidden_act: Option<String>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    quantization_config: Option<Quantization>,
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    #[serde(default)]
    pub eos_token_id: Option<Ids>,
    #[serde(default)]
    pub pad_token_id: Option<u32>,
}

/// One id or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub fn first(&self) -> Option<u32> {
        match self {
            Ids::One(id) => Some(*id),
            Ids::Many(ids) => ids.first().copied(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct RopeScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct Quantization {
    quant_method: Option<String>,
    linear_class: Option<String>,
    quantization_mode: Option<String>,
}

/// What `weight_scale` of packed weights does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleMeaning {
    /// Weight = code * weight_scale (`AutoBitLinear`).
    Multiplies,
    /// Weight = code / weight_scale (`BitLinear`).
    Divides,
}

impl Config {
    /// # Errors
    /// No config.json, or one that lacks a number.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        checkpoint.json("config.json")?.ok_or_else(|| Error::NotFound {
            what: format!("{} holds no config.json", checkpoint.dir().display()),
            remedy: "fetch the whole directory of the model".into(),
        })
    }

    /// The architecture in the GGUF file.
    pub fn architecture(&self, checkpoint: &Checkpoint, has_sub_norms: bool) -> Result<&'static str> {
        let model_type = self.model_type.as_deref().unwrap_or_default();
        let class = self.architectures.first().map_or("none", String::as_str);
        let known = matches!(model_type, "bitnet" | "llama" | "qwen3")
            || class.eq_ignore_ascii_case("BitnetForCausalLM");
        match (known, has_sub_norms, self.hidden_act.as_deref()) {
            (true, true, Some("relu2")) if model_type != "qwen3" => Ok("bitnet-b1.58"),
            (true, true, Some("silu") | None) if model_type != "qwen3" => Ok("bitnet"),
            (true, false, Some("silu") | None) if model_type == "llama" => Ok("llama"),
            (true, false, Some("silu") | None) if model_type == "qwen3" => Ok("qwen3"),
            _ => {
                let what = format!(
                    "config.json has model_type {model_type:?}, class {class:?} and hidden_act {:?}, {} norms inside the blocks",
                    self.hidden_act.as_deref().unwrap_or("none"),
                    if has_sub_norms { "with" } else { "without" },
                );
                let remedy = "this converter knows BitNet (silu, relu2), the llama family and qwen3 (silu)";
                Err(Error::unsupported(checkpoint.dir(), what, remedy))
            }
        }
    }

    /// Linear layers are ternary: packed, or masters of ternary weights.
    pub fn is_ternary(&self, has_sub_norms: bool) -> bool {
        has_sub_norms || self.bitnet_quantization().is_some()
    }

    fn bitnet_quantization(&self) -> Option<&Quantization> {
        self.quantization_config.as_ref().filter(|q| q.quant_method.as_deref() == Some("bitnet"))
    }

    /// What config.json says about `weight_scale`; transformers' own default class is `bitlinear`.
    pub fn scale_meaning(&self, checkpoint: &Checkpoint) -> Result<ScaleMeaning> {
        let quantization = self.bitnet_quantization();
        match quantization.and_then(|q| q.linear_class.as_deref()).unwrap_or("bitlinear") {
            "autobitlinear" => Ok(ScaleMeaning::Multiplies),
            "bitlinear" => Ok(ScaleMeaning::Divides),
            other => {
                let mode = quantization.and_then(|q| q.quantization_mode.as_deref()).unwrap_or("none");
                let what = format!("config.json has linear_class {other:?} (quantization_mode {mode:?})");
                let remedy = "say what weight_scale does: --weight-scale multiply or divide";
                Err(Error::unsupported(checkpoint.dir(), what, remedy))
            }
        }
    }

    pub fn head_dim(&self) -> u32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    pub fn kv_heads(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// (rows, columns) of a linear layer of the graph.
    pub fn linear_shape(&self, part: &str) -> (u64, u64) {
        let (hidden, ffn) = (u64::from(self.hidden_size), u64::from(self.intermediate_size));
        let query = u64::from(self.num_attention_heads) * u64::from(self.head_dim());
        let kv = u64::from(self.kv_heads()) * u64::from(self.head_dim());
        match part {
            "attn_q" => (query, hidden),
            "attn_k" | "attn_v" => (kv, hidden),
            "attn_output" => (hidden, query),
            "ffn_down" => (hidden, ffn),
            _ => (ffn, hidden),
        }
    }

    /// The numbers that a file of `architecture` with `vocabulary` rows of embedding needs.
    ///
    /// # Errors
    /// RoPE scaling that this runtime does not compute.
    pub fn keys(
        &self,
        checkpoint: &Checkpoint,
        architecture: &str,
        vocabulary: u32,
    ) -> Result<Vec<(String, Value)>> {
        let head_dim = self.head_dim();
        let mut keys: Vec<(&str, Value)> = vec![
            ("vocab_size", vocabulary.into()),
            ("context_length", self.max_position_embeddings.into()),
            ("embedding_length", self.hidden_size.into()),
            ("block_count", self.num_hidden_layers.into()),
            ("feed_forward_length", self.intermediate_size.into()),
            ("attention.head_count", self.num_attention_heads.into()),
            ("attention.head_count_kv", self.kv_heads().into()),
            ("attention.layer_norm_rms_epsilon", self.rms_norm_eps.into()),
            ("rope.dimension_count", head_dim.into()),
            ("rope.freq_base", self.rope_base().into()),
        ];
        if u64::from(head_dim) * u64::from(self.num_attention_heads) != u64::from(self.hidden_size) {
            keys.extend([
                ("attention.key_length", head_dim.into()),
                ("attention.value_length", head_dim.into()),
            ]);
        }
        match self.scaling().and_then(|scaling| scaling.rope_type.as_deref()).unwrap_or("default") {
            "default" | "llama3" => {}
            "linear" => {
                let factor = self.scaling_number(checkpoint, "factor", |scaling| scaling.factor)?;
                keys.extend([("rope.scaling.type", "linear".into()), ("rope.scaling.factor", factor.into())]);
            }
            other => {
                let what = format!("config.json scales RoPE by {other:?}");
                return Err(Error::unsupported(checkpoint.dir(), what, "this runtime has linear and llama3"));
            }
        }
        keys.extend(pooling_type(checkpoint)?.map(|number| ("pooling_type", number.into())));
        Ok(keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect())
    }

    fn scaling(&self) -> Option<&RopeScaling> {
        self.rope_scaling.as_ref().or(self.rope_parameters.as_ref())
    }

    fn rope_base(&self) -> f32 {
        let nested = self.scaling().and_then(|scaling| scaling.rope_theta);
        self.rope_theta.or(nested).unwrap_or(10_000.0)
    }

    fn scaling_number(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        get: impl Fn(&RopeScaling) -> Option<f32>,
    ) -> Result<f32> {
        let number = self.scaling().and_then(get).filter(|number| *number > 0.0 && number.is_finite());
        number.ok_or_else(|| {
            let what = format!("rope_scaling of config.json has no usable {name}");
            Error::unsupported(checkpoint.dir(), what, "fetch the model's config.json again")
        })
    }

    /// Divisors of the RoPE frequencies (`rope_freqs.weight`) where config.json asks for Llama 3.1's scaling.
    /// Source: `_compute_llama3_parameters` of transformers.
    pub fn rope_factors(&self, checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>> {
        if self.scaling().and_then(|scaling| scaling.rope_type.as_deref()) != Some("llama3") {
            return Ok(None);
        }
        let number =
            |name: &str, get: fn(&RopeScaling) -> Option<f32>| self.scaling_number(checkpoint, name, get);
        let factor = number("factor", |s| s.factor)?;
        let low = number("low_freq_factor", |s| s.low_freq_factor)?;
        let high = number("high_freq_factor", |s| s.high_freq_factor)?;
        let trained = number("original_max_position_embeddings", |s| s.original_max_position_embeddings)?;
        let dim = self.head_dim();
        let divisor = |pair: u32| {
            let frequency = 1.0 / self.rope_base().powf((2 * pair) as f32 / dim as f32);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < trained / high {
                1.0
            } else if wavelength > trained / low {
                factor
            } else {
                let smooth = (trained / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Ok(Some((0..dim / 2).map(divisor).collect()))
    }

    /// # Errors
    /// Numbers that cannot be a model's.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let (heads, kv_heads, head_dim) = (self.num_attention_heads, self.kv_heads(), self.head_dim());
        let rules = [
            (
                heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads),
                "num_key_value_heads does not divide num_attention_heads",
            ),
            (
                head_dim.is_multiple_of(2) && (2..=1 << 16).contains(&head_dim),
                "the head dimension is odd or out of range",
            ),
            (
                self.head_dim.is_some() || self.hidden_size.is_multiple_of(heads.max(1)),
                "num_attention_heads does not divide hidden_size",
            ),
            (self.hidden_size > 0 && self.intermediate_size > 0, "a size is 0"),
            ((1..=4096).contains(&self.num_hidden_layers), "num_hidden_layers is not between 1 and 4096"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, why)) => {
                let what = format!("in config.json {why}");
                Err(Error::unsupported(checkpoint.dir(), what, "fetch the model's config.json again"))
            }
        }
    }
}

/// How a directory of sentence-transformers pools, in llama.cpp's numbers; `None` where it does not say that it does.
///
/// # Errors
/// A file that cannot be read.
fn pooling_type(checkpoint: &Checkpoint) -> Result<Option<u32>> {
    let pooling: Option<PoolingConfig> = checkpoint.json("1_Pooling/config.json")?;
    Ok(pooling.and_then(|pooling| {
        let modes = [(pooling.mean, 1), (pooling.cls, 2), (pooling.last, 3)];
        modes.into_iter().find(|(is_on, _)| *is_on).map(|(_, number)| number)
    }))
}

#[derive(Deserialize)]
struct PoolingConfig {
    #[serde(rename = "pooling_mode_mean_tokens", default)]
    mean: bool,
    #[serde(rename = "pooling_mode_cls_token", default)]
    cls: bool,
    #[serde(rename = "pooling_mode_lasttoken", default)]
    last: bool,
}
