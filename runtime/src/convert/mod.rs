//! From a Hugging Face model directory to a GGUF file.
//!
//! In: a [`Checkpoint`] (config.json, tokenizer files, safetensors). Out: a [`Plan`] for [`crate::quantize`] to
//! write. Families: BitNet b1.58 as masters (bf16) or packed (uint8), the older `bitnet_b1_58` models, the llama
//! family and Qwen3 (also for embeddings), ternary or not. Every tensor of the checkpoint must have a place; one that has none is an error.
//! Deliberately absent: downloading, other weight formats, other families.
//!
//! Source: llama.cpp's convert_hf_to_gguf.py and transformers' bitnet integration.

pub mod checkpoint;
mod config;
mod names;
mod pre;
pub mod safetensors;
pub mod sentencepiece;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use checkpoint::Checkpoint;
pub use config::ScaleMeaning;

use crate::gguf::{GgufWriter, Value};
use crate::model::WeightOptions;
use crate::quant::tl::TlConfig;
use crate::quantize::source::{Mapped, Packing, RowOrder, Source};
use crate::quantize::{Item, Options, Plan, Role, check_rows, file_keys, tiles_of_items};
use crate::tensor::TensorType;
use crate::{Error, Result};
use config::Config;
use half::{bf16, f16};
use names::Meaning;
use safetensors::{Dtype, Safetensors, View};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What may be asked for; `None` is what the checkpoint says or what its kind asks for.
#[derive(Default)]
pub struct Request<'a> {
    /// Type of the linear layers.
    pub linear: Option<TensorType>,
    pub embedding: Option<TensorType>,
    pub output: Option<TensorType>,
    pub weight_scale: Option<ScaleMeaning>,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<&'a str>,
    /// `general.name`.
    pub name: Option<&'a str>,
    /// Tile sizes of TL1 and TL2, before bitnet.cpp's presets.
    pub tl_config: TlConfig,
}

/// What a conversion decided before it writes.
pub struct Converted<'a> {
    pub plan: Plan<'a>,
    pub architecture: &'static str,
    pub linear: TensorType,
    pub warnings: Vec<String>,
}

/// Values made here instead of read, which a [`Plan`] borrows.
pub struct Computed {
    rope_factors: Option<Vec<u8>>,
    dir: std::path::PathBuf,
}

impl Computed {
    /// # Errors
    /// config.json is missing or not a model's.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let config = Config::read(checkpoint)?;
        config.check(checkpoint)?;
        let factors = config.rope_factors(checkpoint)?;
        let bytes = |factors: Vec<f32>| factors.into_iter().flat_map(f32::to_le_bytes).collect();
        Ok(Computed { rope_factors: factors.map(bytes), dir: checkpoint.dir().into() })
    }
}

impl Mapped for Safetensors {
    fn path(&self) -> &Path {
        Safetensors::path(self)
    }

    fn forget(&self, part: &[u8]) {
        Safetensors::forget(self, part);
    }
}

impl Mapped for Computed {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn forget(&self, _: &[u8]) {}
}

/// Plans the file `out` from `checkpoint`.
///
/// # Errors
/// A family or a quantization that is not known, tensors that are missing, left over, or of another shape than
/// config.json says, and everything that the tokenizer lacks.
pub fn plan<'a>(
    checkpoint: &'a Checkpoint,
    computed: &'a Computed,
    request: &Request<'_>,
    out: &Path,
) -> Result<Converted<'a>> {
    let config = Config::read(checkpoint)?;
    config.check(checkpoint)?;
    let mut warnings = Vec::new();
    let tensors = by_gguf_name(checkpoint)?;
    let has_sub_norms = tensors.keys().any(|name| name.ends_with("_sub_norm.weight"));
    let architecture = config.architecture(checkpoint, has_sub_norms)?;
    let ternary = config.is_ternary(has_sub_norms);
    let linear = request.linear.unwrap_or(if ternary { TensorType::I2S } else { TensorType::F16 });
    let options = Options {
        linear,
        embedding: request.embedding,
        output: request.output,
        allow_requantize: false,
        weights: WeightOptions { tl_config: request.tl_config.clone(), ..Default::default() },
    };
    options.check()?;

    let reader = Reader { checkpoint, config: &config, architecture, scales: request.weight_scale };
    let rows = reader.embedding_rows(&tensors)?;
    let tied = !tensors.contains_key("output.weight");
    let mut items = Vec::new();
    let mut used = BTreeSet::new();
    for name in expected(architecture, config.num_hidden_layers) {
        let Some(theirs) = tensors.get(&name) else {
            if name == "output.weight" && config.tie_word_embeddings {
                continue;
            }
            if name == "output.weight" {
                warnings.push(
                    "there is no lm_head, although config.json does not tie it; the embedding is the head"
                        .into(),
                );
                continue;
            }
            let what = format!("the checkpoint has no tensor for {name:?}");
            return Err(Error::unsupported(checkpoint.dir(), what, "fetch all shards of the model"));
        };
        used.insert(name.clone());
        if name == "output.weight" && config.tie_word_embeddings {
            // Saved beside the embedding it shares its weights with.
            continue;
        }
        let (source, dims) = reader.source(&name, theirs, rows)?;
        let from = match source.packing {
            Packing::Rows { ty, .. } => Some(ty),
            _ => None,
        };
        let role = Role::of(&name, &dims);
        let tied = tied || config.tie_word_embeddings;
        // Norms are F32 in every graph.
        let ty = match role {
            Role::Other => TensorType::F32,
            _ => options.target(role, from, dims[0], tied).unwrap_or(TensorType::F16),
        };
        items.push(Item { name, ty, dims, source });
    }
    if let Some(left) = tensors.iter().find(|(name, _)| !used.contains(*name)) {
        let what = format!(
            "tensor {:?} has no place in a {architecture} model of {} layers",
            left.1, config.num_hidden_layers
        );
        let remedy = "leaving it out would make another model; this family is not supported, or config.json is another's";
        return Err(Error::unsupported(checkpoint.dir(), what, remedy));
    }
    if let Some(bytes) = &computed.rope_factors {
        let columns = bytes.len() / 4;
        let packing = Packing::Rows { ty: TensorType::F32, scale: 1.0 };
        let source = Source {
            file: computed,
            name: "rope_freqs.weight",
            offset: 0,
            bytes,
            packing,
            order: RowOrder::AsIs,
            rows: 1,
            columns,
        };
        items.insert(
            0,
            Item {
                name: "rope_freqs.weight".into(),
                ty: TensorType::F32,
                dims: vec![columns as u64],
                source,
            },
        );
    }
    check_rows(checkpoint.dir(), &items)?;
    let tiles = tiles_of_items(checkpoint.dir(), &items, &options.weights.tl_config)?;
    if ternary
        && !linear.is_ternary()
        && items.iter().any(|item| Role::of(&item.name, &item.dims) == Role::Linear && item.source.is_float())
    {
        warnings.push(format!(
            "the linear layers are kept as they are, as {linear}: master weights are for `bitnet quantize`, and give other text when they are run"
        ));
    }

    let mut writer = GgufWriter::new();
    general(&mut writer, checkpoint, &config, architecture, request.name);
    for (key, value) in file_keys(linear, &items, &tiles) {
        writer.meta(key, value);
    }
    for (key, value) in config.keys(checkpoint, architecture, rows as u32)? {
        writer.meta(key, value);
    }
    let overrides = tokenizer::Overrides { pre: request.pre };
    for (key, value) in tokenizer::keys(checkpoint, &config, rows, &overrides, &mut warnings)? {
        writer.meta(key, value);
    }
    Ok(Converted { plan: Plan::new(writer, items, tiles, out)?, architecture, linear, warnings })
}

/// Names in the checkpoint by names in the GGUF file.
fn by_gguf_name(checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>> {
    let mut tensors = BTreeMap::new();
    for name in checkpoint.names() {
        match names::meaning(name) {
            Meaning::Tensor(ours) => {
                if let Some(other) = tensors.insert(ours, name.to_owned()) {
                    let what = format!("tensors {other:?} and {name:?} mean the same");
                    return Err(Error::unsupported(checkpoint.dir(), what, "fetch the model again"));
                }
            }
            Meaning::WeightScale(weight) if checkpoint.tensor(&weight).is_some() => {}
            Meaning::Derived => {}
            Meaning::WeightScale(_) | Meaning::Unknown => {
                let what = format!("tensor {name:?} is not one that this converter knows");
                let remedy = "leaving it out would make another model; this family is not supported";
                return Err(Error::unsupported(checkpoint.dir(), what, remedy));
            }
        }
    }
    Ok(tensors)
}

/// Every tensor of a model, in the order of the file; `output.weight` may be missing.
fn expected(architecture: &str, layers: u32) -> Vec<String> {
    let mut names = vec!["token_embd.weight".to_owned()];
    for layer in 0..layers {
        let parts = [
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_q_norm",
            "attn_k_norm",
            "attn_sub_norm",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_sub_norm",
            "ffn_down",
        ];
        let is_there = |part: &&str| match *part {
            "attn_sub_norm" | "ffn_sub_norm" => architecture.starts_with("bitnet"),
            "attn_q_norm" | "attn_k_norm" => architecture == "qwen3",
            _ => true,
        };
        let parts = parts.into_iter().filter(is_there);
        names.extend(parts.map(|part| format!("blk.{layer}.{part}.weight")));
    }
    names.extend(["output_norm.weight".to_owned(), "output.weight".to_owned()]);
    names
}

struct Reader<'a, 'c> {
    checkpoint: &'a Checkpoint,
    config: &'c Config,
    architecture: &'static str,
    scales: Option<ScaleMeaning>,
}

impl<'a> Reader<'a, '_> {
    fn view(&self, name: &str) -> Result<View<'a>> {
        Ok(self.checkpoint.tensor(name).expect("names come from the checkpoint"))
    }

    fn embedding_rows(&self, tensors: &BTreeMap<String, String>) -> Result<usize> {
        let rows = tensors.get("token_embd.weight").map(|name| self.view(name)).transpose()?;
        let rows = rows.and_then(|view| view.shape.first().copied()).unwrap_or(0);
        if rows < u64::from(self.config.vocab_size) || rows > 1 << 24 {
            let (dir, size) = (self.checkpoint.dir(), self.config.vocab_size);
            let what = format!("the embedding has {rows} rows, config.json a vocab_size of {size}");
            return Err(Error::unsupported(dir, what, "fetch all shards of the model"));
        }
        Ok(rows as usize)
    }

    /// The tensor that becomes `name`, and its dimensions there.
    fn source(&self, name: &str, theirs: &str, vocabulary: usize) -> Result<(Source<'a>, Vec<u64>)> {
        let view = self.view(theirs)?;
        let part = name.strip_prefix("blk.").and_then(|rest| rest.split('.').nth(1)).unwrap_or(name);
        let hidden = u64::from(self.config.hidden_size);
        let is_linear = Role::of(name, &[1, 1]) == Role::Linear;
        let dims: Vec<u64> = match part {
            "token_embd.weight" | "output.weight" => vec![hidden, vocabulary as u64],
            "attn_sub_norm" => vec![self.config.linear_shape("attn_q").0],
            "ffn_sub_norm" => vec![self.config.linear_shape("ffn_up").0],
            "attn_q_norm" | "attn_k_norm" => vec![u64::from(self.config.head_dim())],
            part if is_linear => {
                let (rows, columns) = self.config.linear_shape(part);
                vec![columns, rows]
            }
            _ => vec![hidden],
        };
        let packing = match view.dtype {
            Dtype::F32 => Packing::Rows { ty: TensorType::F32, scale: 1.0 },
            Dtype::F16 => Packing::Rows { ty: TensorType::F16, scale: 1.0 },
            Dtype::BF16 => Packing::Rows { ty: TensorType::BF16, scale: 1.0 },
            Dtype::U8 if is_linear => Packing::Slabs { scale: self.weight_scale(theirs)? },
            other => return Err(self.bad(&view, format!("has the type {}", other.name()))),
        };
        let mut shape: Vec<u64> = dims.iter().rev().copied().collect();
        if matches!(packing, Packing::Slabs { .. }) {
            if !shape[0].is_multiple_of(4) {
                return Err(self.bad(&view, format!("packs four rows a byte, but there are {}", shape[0])));
            }
            shape[0] /= 4;
        }
        if view.shape != shape {
            let why = format!("has the shape {:?} where config.json asks for {shape:?}", view.shape);
            return Err(self.bad(&view, why));
        }
        let head_dim = self.config.head_dim() as usize;
        let order = match (self.architecture, part) {
            ("llama", "attn_q" | "attn_k") => RowOrder::AdjacentPairs { head_dim },
            _ => RowOrder::AsIs,
        };
        let (columns, rows) = (dims[0] as usize, dims.get(1).copied().unwrap_or(1) as usize);
        let View { name, offset, bytes, file, .. } = view;
        Ok((Source { file, name, offset, bytes, packing, order, rows, columns }, dims))
    }

    /// The factor of the codes of packed weights.
    fn weight_scale(&self, weight: &str) -> Result<f32> {
        let name = format!("{weight}_scale");
        let Some(view) = self.checkpoint.tensor(&name) else {
            let what = format!("tensor {weight:?} is packed but has no {name:?}");
            return Err(Error::unsupported(self.checkpoint.dir(), what, "fetch all shards of the model"));
        };
        let value = match (view.dtype, view.bytes) {
            (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            _ => return Err(self.bad(&view, "is not one float".into())),
        };
        let meaning = match self.scales {
            Some(meaning) => meaning,
            None => self.config.scale_meaning(self.checkpoint)?,
        };
        let scale = match meaning {
            ScaleMeaning::Multiplies => value,
            ScaleMeaning::Divides => 1.0 / value,
        };
        if !(value.is_finite() && scale.is_finite() && scale > 0.0) {
            return Err(self.bad(&view, format!("is {value}, which gives no scale")));
        }
        Ok(scale)
    }

    fn bad(&self, view: &View<'_>, why: String) -> Error {
        let what = format!("tensor {:?} {why}", view.name);
        Error::malformed(
            view.file.path(),
            view.offset,
            what,
            "fetch the model again, or check its config.json",
        )
    }
}

/// `general.*` but for what tells how the file is quantized.
fn general(
    writer: &mut GgufWriter<'_>,
    checkpoint: &Checkpoint,
    config: &Config,
    architecture: &str,
    name: Option<&str>,
) {
    let dir = checkpoint.dir().canonicalize().ok();
    let dir = dir.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
    let theirs =
        config.name.as_deref().filter(|name| !name.is_empty() && !name.starts_with(['.', '/'])).map(last);
    let name = name.map(str::to_owned).or(theirs).or(dir);
    writer.meta("general.architecture", architecture).meta("general.type", "model");
    if let Some(name) = name {
        writer.meta("general.name", name.as_str());
    }
    if let Some(license) = config.license.clone().or_else(|| card_license(checkpoint)) {
        writer.meta("general.license", Value::from(license.as_str()));
    }
}

/// `license:` of the model card's front matter.
fn card_license(checkpoint: &Checkpoint) -> Option<String> {
    let card = String::from_utf8(checkpoint.bytes("README.md").ok()??).ok()?;
    let front = card.strip_prefix("---\n")?.split("\n---").next()?;
    let license = front.lines().find_map(|line| line.strip_prefix("license:"))?.trim();
    Some(license.to_owned()).filter(|license| !license.is_empty())
}
