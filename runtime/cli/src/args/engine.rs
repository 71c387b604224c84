//! Arguments that every command with an engine takes.

use super::ModelArgs;
use bitnet_runtime::backend::{DeviceRequest, KernelBackend};
use bitnet_runtime::engine::head::HeadMode;
use bitnet_runtime::engine::kv_cache::KvType;
use bitnet_runtime::quant::I2sLayout;
use bitnet_runtime::quant::activation::ActivationQuant;
use clap::{Args, ValueEnum};

/// How the engine is set up.
#[derive(Args, Clone, Debug)]
pub struct EngineArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Compute threads (default: BITNET_THREADS, else the CPUs this process may use)
    #[arg(long, short, value_name = "N")]
    pub threads: Option<usize>,
    /// How ternary layers quantize activations: per token as BitNet is trained, or per block of 256 as llama.cpp does
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub activation_quant: ActivationQuantArg,
    /// Kernel set to use, of those that `bitnet kernels` shows; one that this CPU cannot run is an error
    /// (default: BITNET_KERNELS, else auto)
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    /// Where to compute; anything but auto is a demand, never a wish
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceArg,
    /// GPUs that share the model, through NCCL: each holds its part of every matrix
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub tensor_parallel: u8,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// How the KV cache stores keys and values: half floats, or blocks of int8 in a little over half the bytes
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub kv: KvArg,
    /// How the best tokens are found: from all rows of the output head, or, with the same result, from a compact copy
    /// that leaves few rows to read
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub head: HeadArg,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HeadArg {
    Full,
    #[default]
    TwoStage,
}

impl From<HeadArg> for HeadMode {
    fn from(arg: HeadArg) -> Self {
        match arg {
            HeadArg::Full => HeadMode::Full,
            HeadArg::TwoStage => HeadMode::TwoStage,
        }
    }
}

/// What a file does not say about its packed weights.
#[derive(Args, Clone, Debug)]
pub struct WeightArgs {
    /// How I2_S weights are packed, which the file does not say
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t)]
    pub i2s_layout: I2sLayoutArg,
    /// Tile sizes of TL1 or TL2 weights: a kernel_config.ini of bitnet.cpp, or MxK:BM,BK,BMM per shape with semicolons
    /// between shapes (default: the file's own, else bitnet.cpp's presets)
    #[arg(long, value_name = "FILE|SIZES")]
    pub tl_config: Option<String>,
    /// What the codes 0 to 3 stand for in the older forms of I2_S (BitNet32-F16, QK256), x for one that must not occur:
    /// such files are refused without it
    #[arg(long, value_name = "V,V,V,V", allow_hyphen_values = true)]
    pub code_map: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KvArg {
    #[default]
    F16,
    Q8_0,
}

impl From<KvArg> for KvType {
    fn from(arg: KvArg) -> Self {
        match arg {
            KvArg::F16 => KvType::F16,
            KvArg::Q8_0 => KvType::Q8_0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ActivationQuantArg {
    #[default]
    Token,
    Block256,
}

impl From<ActivationQuantArg> for ActivationQuant {
    fn from(arg: ActivationQuantArg) -> Self {
        match arg {
            ActivationQuantArg::Token => ActivationQuant::Token,
            ActivationQuantArg::Block256 => ActivationQuant::Block256,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    #[default]
    Auto,
    Cpu,
    Gpu,
    Cuda,
    // Reserved, as the next.
    Hip,
    Metal,
}

impl From<DeviceArg> for DeviceRequest {
    fn from(arg: DeviceArg) -> Self {
        match arg {
            DeviceArg::Auto => DeviceRequest::Auto,
            DeviceArg::Cpu => DeviceRequest::Backend(KernelBackend::Cpu),
            DeviceArg::Gpu => DeviceRequest::Gpu,
            DeviceArg::Cuda => DeviceRequest::Backend(KernelBackend::Cuda),
            DeviceArg::Hip => DeviceRequest::Backend(KernelBackend::Hip),
            DeviceArg::Metal => DeviceRequest::Backend(KernelBackend::Metal),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum I2sLayoutArg {
    #[default]
    X86,
    Arm,
    Row4,
}

impl From<I2sLayoutArg> for I2sLayout {
    fn from(arg: I2sLayoutArg) -> Self {
        match arg {
            I2sLayoutArg::X86 => I2sLayout::X86,
            I2sLayoutArg::Arm => I2sLayout::Arm,
            I2sLayoutArg::Row4 => I2sLayout::Row4,
        }
    }
}
