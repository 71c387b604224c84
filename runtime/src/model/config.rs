//! Model configuration from GGUF metadata: every number the forward pass needs, checked, none invented.
//!
//! In: the metadata of a file. Out: a [`ModelConfig`]. Keys and their meaning follow llama.cpp's GGUF
//! conventions; the graphs of `bitnet` and `bitnet-b1.58` follow the BitNet b1.58 papers.

use crate::gguf::Gguf;
use crate::{Error, Result};

/// Model families by their graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama: adjacent-pair RoPE, SiLU, no sub-norms.
    Llama,
    /// BitNet b1.58 (0.7B, 3.3B): NeoX RoPE, sub-norms, SiLU.
    Bitnet,
    /// BitNet b1.58 2B-4T, also named `bitnet-25`: as `Bitnet` with squared ReLU.
    BitnetB158,
    /// Qwen3: NeoX RoPE, SiLU, no sub-norms; every head of queries and keys has an RMS norm before RoPE.
    Qwen3,
}

impl Architecture {
    const NAMES: [(&str, Architecture); 5] = [
        ("llama", Architecture::Llama),
        ("bitnet", Architecture::Bitnet),
        ("bitnet-b1.58", Architecture::BitnetB158),
        ("bitnet-25", Architecture::BitnetB158),
        ("qwen3", Architecture::Qwen3),
    ];

    pub const fn has_sub_norms(self) -> bool {
        matches!(self, Architecture::Bitnet | Architecture::BitnetB158)
    }

    pub const fn has_head_norms(self) -> bool {
        matches!(self, Architecture::Qwen3)
    }

    const fn default_activation(self) -> HiddenActivation {
        match self {
            Architecture::BitnetB158 => HiddenActivation::SquaredRelu,
            Architecture::Llama | Architecture::Bitnet | Architecture::Qwen3 => HiddenActivation::Silu,
        }
    }
}

/// The function on the gate of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenActivation {
    Silu,
    SquaredRelu,
}

/// Which two elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// (2i, 2i + 1).
    Adjacent,
    /// (i, i + n/2).
    Neox,
}

/// How the embedding of a text comes from the hidden states of its tokens (`pooling_type`, as llama.cpp numbers them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The state of the last token.
    Last,
    /// One that this runtime does not do.
    Other(u32),
}

/// The shape and constants of a model. Lengths are in elements.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    pub architecture: Architecture,
    /// The name in the file, also the prefix of its keys.
    pub architecture_name: String,
    pub layers: usize,
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Leading elements of a head that are rotated.
    pub rope_dim: usize,
    pub rope_base: f32,
    /// Positions are multiplied by this (1 / the linear scaling factor).
    pub rope_scale: f32,
    pub rope_pairing: RopePairing,
    pub rms_eps: f32,
    pub activation: HiddenActivation,
    /// Positions the model was trained for.
    pub context_length: usize,
    /// `None` where the model was not made for embeddings: the key is absent or 0.
    pub pooling: Option<Pooling>,
}

impl ModelConfig {
    /// # Errors
    /// An unknown architecture, a missing key, or numbers that do not fit together.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let name = gguf.str("general.architecture")?;
        let Some((_, architecture)) = Architecture::NAMES.into_iter().find(|(known, _)| *known == name)
        else {
            let known = Architecture::NAMES.map(|(known, _)| known).join(", ");
            let what = format!("general.architecture is '{name}'");
            return Err(Error::unsupported(gguf.path(), what, format!("this runtime runs {known}")));
        };
        let key = |suffix: &str| format!("{name}.{suffix}");
        let number = |suffix: &str| gguf.u32(&key(suffix)).map(|value| value as usize);
        let optional = |suffix: &str| Ok::<_, Error>(gguf.opt_u32(&key(suffix))?.map(|value| value as usize));
        let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let kv_heads = optional("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = match optional("attention.key_length")? {
            Some(length) => length,
            None if hidden.is_multiple_of(heads) => hidden / heads.max(1),
            None => {
                let reason = format!("is {heads}, which does not divide the embedding length of {hidden}");
                return Err(gguf.bad_key(&key("attention.head_count"), reason));
            }
        };
        let config = ModelConfig {
            architecture,
            architecture_name: name.to_owned(),
            layers: number("block_count")?,
            hidden,
            feed_forward: number("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            rope_dim: optional("rope.dimension_count")?.unwrap_or(head_dim),
            rope_base: gguf.opt_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_scale: rope_scale(gguf, &key("rope.scaling"), &key("rope.scale_linear"))?,
            rope_pairing: match architecture {
                Architecture::Llama => RopePairing::Adjacent,
                Architecture::Bitnet | Architecture::BitnetB158 | Architecture::Qwen3 => RopePairing::Neox,
            },
            rms_eps: gguf.f32(&key("attention.layer_norm_rms_epsilon"))?,
            activation: hidden_activation(gguf, &key("hidden_activation"))?
                .unwrap_or(architecture.default_activation()),
            context_length: number("context_length")?,
            pooling: gguf.opt_u32(&key("pooling_type"))?.and_then(|number| match number {
                0 => None,
                3 => Some(Pooling::Last),
                other => Some(Pooling::Other(other)),
            }),
        };
        config.check(gguf)?;
        Ok(config)
    }

    /// Elements of one token's keys (or values) in one layer.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Elements of one token's queries.
    pub fn query_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn check(&self, gguf: &Gguf) -> Result<()> {
        let heads = format!("does not divide the {} query heads", self.heads);
        let zero = "is 0".to_owned();
        let positive = |value: f32| value > 0.0 && value.is_finite();
        let rope_fits = self.rope_dim.is_multiple_of(2) && (2..=self.head_dim).contains(&self.rope_dim);
        let rules = [
            (self.layers > 0, "block_count", zero.clone()),
            (self.hidden > 0, "embedding_length", zero.clone()),
            (self.feed_forward > 0, "feed_forward_length", zero.clone()),
            (self.context_length > 0, "context_length", zero.clone()),
            (self.heads > 0, "attention.head_count", zero),
            (self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "attention.head_count_kv", heads),
            (
                rope_fits,
                "rope.dimension_count",
                format!("is {}, the head dimension {}", self.rope_dim, self.head_dim),
            ),
            (positive(self.rms_eps), "attention.layer_norm_rms_epsilon", format!("is {}", self.rms_eps)),
            (positive(self.rope_base), "rope.freq_base", format!("is {}", self.rope_base)),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, key, reason)) => Err(gguf.bad_key(&format!("{}.{key}", self.architecture_name), reason)),
        }
    }
}

/// `none` and `linear` scaling; others change attention in ways this runtime does not have.
fn rope_scale(gguf: &Gguf, scaling: &str, legacy: &str) -> Result<f32> {
    let kind = gguf.opt_str(&format!("{scaling}.type"))?.unwrap_or(match gguf.value(legacy) {
        Some(_) => "linear",
        None => "none",
    });
    let factor = match kind {
        "none" => return Ok(1.0),
        "linear" => match gguf.opt_f32(&format!("{scaling}.factor"))? {
            Some(factor) => factor,
            None => gguf.f32(legacy)?,
        },
        other => {
            return Err(Error::unsupported(
                gguf.path(),
                format!("{scaling}.type is '{other}'"),
                "this runtime scales RoPE by none, linear, or a rope_freqs.weight tensor",
            ));
        }
    };
    if factor > 0.0 && factor.is_finite() {
        Ok(1.0 / factor)
    } else {
        let what = format!("the linear RoPE scaling factor is {factor}");
        Err(Error::unsupported(gguf.path(), what, "it must be a positive number"))
    }
}

fn hidden_activation(gguf: &Gguf, key: &str) -> Result<Option<HiddenActivation>> {
    match gguf.opt_str(key)? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(HiddenActivation::Silu)),
        Some("relu2" | "relu_squared" | "squared_relu" | "relu_sqr") => {
            Ok(Some(HiddenActivation::SquaredRelu))
        }
        Some(other) => Err(Error::unsupported(
            gguf.path(),
            format!("{key} is '{other}'"),
            "this runtime has silu and relu2",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::GgufWriter;

    /// The configuration of a file with the usual keys of `architecture`, after `change`.
    fn config(architecture: &str, change: impl FnOnce(&mut GgufWriter<'_>)) -> Result<ModelConfig> {
        let mut writer = GgufWriter::new();
        writer.meta("general.architecture", architecture);
        let numbers = [
            ("block_count", 2u32),
            ("embedding_length", 64),
            ("feed_forward_length", 96),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", 128),
        ];
        for (key, value) in numbers {
            writer.meta(format!("{architecture}.{key}"), value);
        }
        writer.meta(format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5f32);
        change(&mut writer);
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        ModelConfig::from_gguf(&Gguf::from_bytes("test.gguf", bytes)?)
    }

    #[test]
    fn each_architecture_has_its_graph() {
        let graph = |name| {
            let c = config(name, |_| ()).unwrap();
            (c.rope_pairing, c.activation, c.architecture.has_sub_norms())
        };
        assert_eq!(graph("llama"), (RopePairing::Adjacent, HiddenActivation::Silu, false));
        assert_eq!(graph("bitnet"), (RopePairing::Neox, HiddenActivation::Silu, true));
        assert_eq!(graph("bitnet-b1.58"), (RopePairing::Neox, HiddenActivation::SquaredRelu, true));
        assert_eq!(graph("bitnet-25"), graph("bitnet-b1.58"));
        assert_eq!(graph("qwen3"), (RopePairing::Neox, HiddenActivation::Silu, false));
    }

    #[test]
    fn the_pooling_type_says_whether_and_how_a_model_embeds() {
        let pooling = |number: Option<u32>| {
            let with = |w: &mut GgufWriter<'_>| {
                if let Some(number) = number {
                    w.meta("qwen3.pooling_type", number);
                }
            };
            config("qwen3", with).unwrap().pooling
        };
        assert_eq!([None, Some(0)].map(pooling), [None, None]);
        assert_eq!(
            [1, 3].map(|number| pooling(Some(number))),
            [Some(Pooling::Other(1)), Some(Pooling::Last)]
        );
    }

    #[test]
    fn the_hidden_activation_key_decides() {
        let with = |value: &'static str| {
            config("bitnet", |w| {
                w.meta("bitnet.hidden_activation", value);
            })
        };
        assert_eq!(with("relu2").unwrap().activation, HiddenActivation::SquaredRelu);
        assert_eq!(with("silu").unwrap().activation, HiddenActivation::Silu);
        let error = with("gelu").unwrap_err().to_string();
        assert!(error.contains("'gelu'") && error.contains("silu and relu2"), "{error}");
    }

    #[test]
    fn rope_scaling_is_none_or_linear() {
        assert_eq!(config("llama", |_| ()).unwrap().rope_scale, 1.0);
        let scaled = |kind: &'static str| {
            config("llama", |w| {
                w.meta("llama.rope.scaling.type", kind).meta("llama.rope.scaling.factor", 4f32);
            })
        };
        assert_eq!(scaled("linear").unwrap().rope_scale, 0.25);
        assert_eq!(scaled("none").unwrap().rope_scale, 1.0);
        assert!(scaled("yarn").unwrap_err().to_string().contains("'yarn'"));
    }

    #[test]
    fn numbers_that_do_not_fit_are_errors_at_their_key() {
        let heads = config("llama", |w| {
            w.meta("llama.rope.dimension_count", 48u32);
        })
        .unwrap_err()
        .to_string();
        assert!(heads.contains("llama.rope.dimension_count") && heads.contains("byte offset"), "{heads}");
        let missing = config("gpt2", |_| ()).unwrap_err().to_string();
        assert!(missing.contains("'gpt2'") && missing.contains("bitnet-b1.58"), "{missing}");
    }
}
