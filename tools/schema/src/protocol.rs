//! The engine protocol: how a process that evaluates models is driven, ours and every reference alike.
//!
//! `ENGINE evaluate --model FILE ...` loads the model once, prints one [`Hello`] line, then answers each line of
//! stdin (a [`Request`]) with one line of stdout (a [`Response`]) until stdin ends. Text for people goes to
//! stderr. Large values go to files: little-endian f32, row-major [positions, width], one tensor after the other.
//!
//! Spoken by `bitnet evaluate`, `reference-driver-llama`, `reference-driver-bitnet`, tools/oracle and
//! tools/goldens. Deliberately absent: sampling, text, any choice of kernels (that is a flag of the process).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The version every [`Hello`] carries; raised when a line changes its meaning.
pub const PROTOCOL: u32 = 1;

/// The first line an engine prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// `bitforge`, `llama`, `bitnet`, `oracle`, `transformers`.
    pub engine: String,
    pub version: String,
    /// What it was built for or chose to run, in its own words (our selection line, a system-info line).
    pub system: String,
    pub threads: u32,
    pub model: ModelShape,
    /// How ternary layers quantize activations; `None` where the model has no ternary layer.
    pub activation_quant: Option<ActivationMode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    pub architecture: String,
    pub layers: u32,
    pub hidden: u32,
    /// Length of a row of logits.
    pub vocabulary: u32,
}

/// The scale of int8 activations of ternary layers.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationMode {
    /// One scale per token, as BitNet is trained and bitnet.cpp computes.
    Token,
    /// One scale per 256 activations (Q8_K), as llama.cpp computes.
    Block256,
}

impl ActivationMode {
    /// The value of `--activation-quant`.
    pub const fn name(self) -> &'static str {
        match self {
            ActivationMode::Token => "token",
            ActivationMode::Block256 => "block256",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Token ids of a text; special tokens in it are parsed, BOS is added once where the model asks for it.
    Tokenize { text: String },
    /// Evaluates exactly these tokens in an empty context, causal mask on; answers [`Response::Evaluated`].
    Evaluate {
        tokens: Vec<u32>,
        /// The file for logits f32 [positions, vocabulary].
        logits: PathBuf,
        /// The file for intermediate results; `None` for none.
        #[serde(default)]
        taps: Option<PathBuf>,
        /// Intermediate results of another engine. Each value is then computed from these and not from the
        /// engine's own, so that an early difference does not hide a late one. Only the oracle can.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        given: Option<Given>,
    },
    /// Measures in an empty context: `depth` tokens that are not measured, then `prompt` tokens as one prefill,
    /// then `generate` tokens one at a time. The ids are arbitrary and fixed. Answers [`Response::Measured`].
    Bench {
        depth: u32,
        prompt: u32,
        generate: u32,
        /// Sequences that do the same at once; each generated step is one token of every sequence.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        sequences: u32,
    },
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_one(n: &u32) -> bool {
    *n == 1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Response {
    Tokens {
        tokens: Vec<u32>,
    },
    Evaluated {
        positions: u32,
        vocabulary: u32,
        /// In the order of evaluation.
        #[serde(default)]
        taps: Vec<Tap>,
        #[serde(default)]
        kernels: Vec<KernelCount>,
    },
    Measured {
        /// Nanoseconds of the prefill; 0 without one.
        prompt_ns: u64,
        /// Nanoseconds of each generated token, in order.
        generate_ns: Vec<u64>,
        #[serde(default)]
        kernels: Vec<KernelCount>,
    },
    /// The request failed; the process goes on.
    Error {
        message: String,
    },
}

/// A taps file of another engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    pub path: PathBuf,
    pub taps: Vec<Tap>,
}

/// One intermediate result: f32 [positions, width] at `offset` bytes of the taps file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    pub point: TapPoint,
    /// `None` for points outside the layers.
    pub layer: Option<u32>,
    pub width: u32,
    pub offset: u64,
}

/// Where in the graph a [`Tap`] was taken, in the order of evaluation. An engine reports those it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapPoint {
    /// Rows of the token embedding.
    Embedding,
    /// RMS norm before attention.
    AttnNorm,
    /// Query projection, before RoPE.
    Query,
    Key,
    Value,
    /// Queries after RoPE.
    QueryRope,
    KeyRope,
    /// Softmax(QK^T) V of all heads, before the sub-norm and the output projection.
    Attention,
    /// RMS norm after attention (`bitnet*`).
    AttnSubNorm,
    /// Output projection of attention.
    AttnOutput,
    /// Hidden state after attention was added.
    AttnResidual,
    /// RMS norm before the FFN.
    FfnNorm,
    Gate,
    Up,
    /// activation(gate) * up.
    FfnActivation,
    /// RMS norm before the down projection (`bitnet*`).
    FfnSubNorm,
    /// Down projection.
    FfnOutput,
    /// Hidden state after the FFN was added.
    LayerOutput,
    /// RMS norm before the head.
    FinalNorm,
}

impl TapPoint {
    pub const ALL: [TapPoint; 19] = [
        TapPoint::Embedding,
        TapPoint::AttnNorm,
        TapPoint::Query,
        TapPoint::Key,
        TapPoint::Value,
        TapPoint::QueryRope,
        TapPoint::KeyRope,
        TapPoint::Attention,
        TapPoint::AttnSubNorm,
        TapPoint::AttnOutput,
        TapPoint::AttnResidual,
        TapPoint::FfnNorm,
        TapPoint::Gate,
        TapPoint::Up,
        TapPoint::FfnActivation,
        TapPoint::FfnSubNorm,
        TapPoint::FfnOutput,
        TapPoint::LayerOutput,
        TapPoint::FinalNorm,
    ];

    /// The name in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            TapPoint::Embedding => "embedding",
            TapPoint::AttnNorm => "attn-norm",
            TapPoint::Query => "query",
            TapPoint::Key => "key",
            TapPoint::Value => "value",
            TapPoint::QueryRope => "query-rope",
            TapPoint::KeyRope => "key-rope",
            TapPoint::Attention => "attention",
            TapPoint::AttnSubNorm => "attn-sub-norm",
            TapPoint::AttnOutput => "attn-output",
            TapPoint::AttnResidual => "attn-residual",
            TapPoint::FfnNorm => "ffn-norm",
            TapPoint::Gate => "gate",
            TapPoint::Up => "up",
            TapPoint::FfnActivation => "ffn-activation",
            TapPoint::FfnSubNorm => "ffn-sub-norm",
            TapPoint::FfnOutput => "ffn-output",
            TapPoint::LayerOutput => "layer-output",
            TapPoint::FinalNorm => "final-norm",
        }
    }
}

impl fmt::Display for TapPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one kernel did, counted where its results are written.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelCount {
    /// An id of `bitnet kernels`.
    pub id: String,
    /// Calls by a thread.
    pub calls: u64,
    /// Dot products: weight rows times activation rows.
    pub rows: u64,
    /// Dot products computed again at a higher precision; not among `rows`.
    pub rescored_rows: u64,
    /// Bytes of packed weights that the calls went through.
    pub bytes: u64,
    /// Time in the calls, summed over threads.
    pub nanoseconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_this() {
        let line = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(
            line(&Request::Evaluate { tokens: vec![1, 2], logits: "l".into(), taps: None, given: None }),
            r#"{"op":"evaluate","tokens":[1,2],"logits":"l","taps":null}"#
        );
        assert_eq!(
            line(&Request::Bench { depth: 0, prompt: 512, generate: 1, sequences: 1 }),
            r#"{"op":"bench","depth":0,"prompt":512,"generate":1}"#
        );
        let eight = r#"{"op":"bench","depth":0,"prompt":0,"generate":1,"sequences":8}"#;
        let request = Request::Bench { depth: 0, prompt: 0, generate: 1, sequences: 8 };
        assert_eq!(
            (line(&request).as_str(), serde_json::from_str::<Request>(eight).unwrap()),
            (eight, request)
        );
        let evaluated = r#"{"result":"evaluated","positions":2,"vocabulary":3,
            "taps":[{"point":"attn-sub-norm","layer":1,"width":4,"offset":16}]}"#;
        let Response::Evaluated { taps, kernels, .. } = serde_json::from_str(evaluated).unwrap() else {
            panic!("another result");
        };
        assert_eq!((taps[0].point, kernels.len()), (TapPoint::AttnSubNorm, 0));
    }

    #[test]
    fn names_are_those_of_the_json() {
        for point in TapPoint::ALL {
            assert_eq!(serde_json::to_value(point).unwrap(), point.name());
        }
        assert!(TapPoint::ALL.is_sorted());
    }
}
