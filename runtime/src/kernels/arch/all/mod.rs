//! Scalar kernels: the definition of right, down to the order of every float operation.

pub mod attention;
pub mod head;
pub(super) mod matmul;
mod matmul_float;
pub(super) mod matmul_k;
pub mod ops;

use super::QuantizeActivationKernel;
use crate::kernels::registry::Run;
use crate::kernels::{MatmulKernel, Shape, SimdLevel, Tile};
use crate::quant::activation::{self, ActivationType};
use crate::tensor::TensorType;

const fn kernel(
    id: &'static str,
    weight: TensorType,
    activation: ActivationType,
    run: fn(&mut Tile<'_>),
) -> MatmulKernel {
    MatmulKernel {
        id,
        weight,
        activation,
        level: SimdLevel::Scalar,
        shapes: &Shape::ALL,
        run: Run::Rows(run),
    }
}

pub const MATMUL: &[MatmulKernel] = &[
    kernel("f32.f32.scalar", TensorType::F32, ActivationType::F32, matmul_float::f32),
    kernel("f16.f16.scalar", TensorType::F16, ActivationType::F16, matmul_float::f16),
    kernel("bf16.bf16.scalar", TensorType::BF16, ActivationType::BF16, matmul_float::bf16),
    kernel("q4_0.q8_0.scalar", TensorType::Q4_0, ActivationType::Q8_0, matmul::q4_0_q8_0),
    kernel("q4_1.q8_1.scalar", TensorType::Q4_1, ActivationType::Q8_1, matmul::q4_1_q8_1),
    kernel("q5_0.q8_0.scalar", TensorType::Q5_0, ActivationType::Q8_0, matmul::q5_0_q8_0),
    kernel("q5_1.q8_1.scalar", TensorType::Q5_1, ActivationType::Q8_1, matmul::q5_1_q8_1),
    kernel("q8_0.q8_0.scalar", TensorType::Q8_0, ActivationType::Q8_0, matmul::q8_0_q8_0),
    kernel("q2_k.q8_k.scalar", TensorType::Q2K, ActivationType::Q8K, matmul_k::q2_k_q8_k),
    kernel("q3_k.q8_k.scalar", TensorType::Q3K, ActivationType::Q8K, matmul_k::q3_k_q8_k),
    kernel("q4_k.q8_k.scalar", TensorType::Q4K, ActivationType::Q8K, matmul_k::q4_k_q8_k),
    kernel("q5_k.q8_k.scalar", TensorType::Q5K, ActivationType::Q8K, matmul_k::q5_k_q8_k),
    kernel("q6_k.q8_k.scalar", TensorType::Q6K, ActivationType::Q8K, matmul_k::q6_k_q8_k),
    kernel("q2_0.q8_0.scalar", TensorType::Q2_0, ActivationType::Q8_0, matmul::q2_0_q8_0),
    kernel("tq1_0.q8_k.scalar", TensorType::TQ1_0, ActivationType::Q8K, matmul::tq1_0_q8_k),
    kernel("tq2_0.q8_k.scalar", TensorType::TQ2_0, ActivationType::Q8K, matmul::tq2_0_q8_k),
    kernel("i2_s.q8_k.scalar", TensorType::I2S, ActivationType::Q8K, matmul::i2_s_q8_k),
    kernel("tq1_0.i8.scalar", TensorType::TQ1_0, ActivationType::I8Token, matmul::tq1_0_i8),
    kernel("tq2_0.i8.scalar", TensorType::TQ2_0, ActivationType::I8Token, matmul::tq2_0_i8),
    kernel("q2_0.i8.scalar", TensorType::Q2_0, ActivationType::I8Token, matmul::q2_0_i8),
    kernel("i2_s.i8.scalar", TensorType::I2S, ActivationType::I8Token, matmul::i2_s_i8),
];

const fn quantize(activation: ActivationType, run: fn(&[f32], &mut [u8])) -> QuantizeActivationKernel {
    QuantizeActivationKernel { activation, level: SimdLevel::Scalar, run }
}

/// Defined in [`activation`].
pub const QUANTIZE: &[QuantizeActivationKernel] = &[
    quantize(ActivationType::F32, activation::f32_row),
    quantize(ActivationType::F16, activation::f16_row),
    quantize(ActivationType::BF16, activation::bf16_row),
    quantize(ActivationType::Q8_0, activation::q8_0),
    quantize(ActivationType::Q8_1, activation::q8_1),
    quantize(ActivationType::Q8K, activation::q8_k),
    quantize(ActivationType::I8Token, activation::i8_token),
];
