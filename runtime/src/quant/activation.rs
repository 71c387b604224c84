//! Packed activation rows: what a row of f32 becomes before it meets packed weights.
//!
//! ggml's own activation types, so that results equal the references', and BitNet's per-token int8.

use crate::tensor::TensorType;

/// How ternary layers quantize their activations; part of the model's arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ActivationQuant {
    /// One scale per token (as BitNet is trained and bitnet.cpp computes).
    #[default]
    Token,
    /// One scale per block of 256 (llama.cpp's Q8_K).
    Block256,
}

/// Layout of one activation row of `k` values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationType {
    /// `k` f32.
    F32,
    /// `k` IEEE half floats (round to nearest even).
    F16,
    /// `k` bfloat16 (round to nearest even).
    BF16,
    /// Per 32 values: f16 scale d, 32 i8 (ggml `block_q8_0`, 34 bytes).
    Q8_0,
    /// Per 32 values: f16 d, f16 s = d * sum of quants, 32 i8 (ggml `block_q8_1`, 36 bytes).
    Q8_1,
    /// Per 256 values: f32 d, 256 i8, 16 i16 sums of 16 (ggml `block_q8_K`, 292 bytes).
    Q8K,
    /// Per row: f32 scale (127 / absmax), i32 sum of the quants, then `k` i8.
    I8Token,
}

impl ActivationType {
    /// The activation type that `weight` is multiplied with under `mode`.
    pub fn for_weight(weight: TensorType, mode: ActivationQuant) -> Self {
        match weight {
            TensorType::F32 => ActivationType::F32,
            TensorType::F16 => ActivationType::F16,
            TensorType::BF16 => ActivationType::BF16,
            TensorType::Q4_0 | TensorType::Q8_0 => ActivationType::Q8_0,
            TensorType::Q4_1 => ActivationType::Q8_1,
            TensorType::Q4K | TensorType::Q6K => ActivationType::Q8K,
            TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::I2S => match mode {
                ActivationQuant::Token => ActivationType::I8Token,
                ActivationQuant::Block256 => ActivationType::Q8K,
            },
        }
    }

    /// Bytes of a packed row of `k` values; `k` is a whole number of blocks.
    pub const fn row_bytes(self, k: usize) -> usize {
        match self {
            ActivationType::F32 => k * 4,
            ActivationType::F16 | ActivationType::BF16 => k * 2,
            ActivationType::Q8_0 => k / 32 * 34,
            ActivationType::Q8_1 => k / 32 * 36,
            ActivationType::Q8K => k / 256 * 292,
            ActivationType::I8Token => k + 8,
        }
    }
}
