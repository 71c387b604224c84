//! The command lines of `bitnet convert` and `bitnet quantize`.

use super::WeightArgs;
use bitnet_runtime::tensor::TensorType;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How a new model file is written.
#[derive(Args, Debug)]
pub struct RewriteArgs {
    /// Type of the token embedding (default: f16 beside ternary layers, else as --type; the embedding that is also the
    /// head as the head)
    #[arg(long, value_name = "TYPE")]
    pub embedding_type: Option<TensorType>,
    /// Type of the head, where it is a tensor of its own (default: f16 beside ternary layers, q6_k beside smaller types)
    #[arg(long, value_name = "TYPE")]
    pub output_type: Option<TensorType>,
    /// Replace the output file where it exists
    #[arg(long)]
    pub force: bool,
    /// Threads (default: BITNET_THREADS, else the CPUs this process may use)
    #[arg(long, short, value_name = "N")]
    pub threads: Option<usize>,
    /// Print one JSON object, with what was done to every tensor
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet convert bitnet-b1.58-2B-4T-bf16 -o 2b4t-i2_s.gguf
  bitnet convert Llama3-8B-1.58-100B-tokens -o llama3-tq2_0.gguf --outtype tq2_0
  bitnet convert bitnet_b1_58-3B -o masters-f16.gguf --outtype f16

The directory has config.json, the tokenizer's files, and the weights as safetensors. docs/howto/convert.md has a
walk-through for each family.")]
pub struct ConvertArgs {
    /// The directory of the model
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
    /// Type of the linear layers (default: i2_s for ternary models, else f16)
    #[arg(long, value_name = "TYPE")]
    pub outtype: Option<TensorType>,
    /// What weight_scale does to packed weights (default: by config.json)
    #[arg(long, value_enum, value_name = "MEANING")]
    pub weight_scale: Option<WeightScaleArg>,
    /// The pre-tokenizer, where tokenizer.json has one that is not recognised
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// Tile sizes for TL1 or TL2: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons between
    /// shapes (default: bitnet.cpp's presets)
    #[arg(long, value_name = "FILE|SIZES")]
    pub tl_config: Option<String>,
    /// The model's name in the file (default: by config.json, else the directory's)
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    #[command(flatten)]
    pub rewrite: RewriteArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightScaleArg {
    /// Weight = code * weight_scale (AutoBitLinear)
    Multiply,
    /// Weight = code / weight_scale (BitLinear)
    Divide,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  bitnet quantize masters-f16.gguf model-i2_s.gguf --type i2_s
  bitnet quantize model-i2_s.gguf model-tq2_0.gguf --type tq2_0 --embedding-type q6_k
  bitnet quantize smollm2-135m smollm2-q8_0.gguf --type q8_0 --allow-requantize

Master weights become ternary by the mean of their magnitudes; weights that are ternary already keep their codes.")]
pub struct QuantizeArgs {
    /// A GGUF file, or a name of the catalog
    #[arg(value_name = "IN")]
    pub input: String,
    /// The file to write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Type of the linear layers
    #[arg(long, value_name = "TYPE")]
    pub r#type: TensorType,
    /// Decode and quantize again what is block-quantized already
    #[arg(long)]
    pub allow_requantize: bool,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub rewrite: RewriteArgs,
}
