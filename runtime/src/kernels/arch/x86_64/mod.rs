//! x86-64 kernels, checked against [`super::all`] bit for bit: AVX2 (with FMA and F16C) for rows as they lie in the file;
//! AVX2, AVX-VNNI and AVX-512 for repacked rows (`panels_*`).

mod attention;
mod attention_avx512;
pub mod head;
pub mod head_avx512;
mod matmul;
mod matmul_compiled;
mod matmul_float;
mod matmul_float512;
mod matmul_k;
mod matmul_ternary;
pub mod ops;
#[cfg(target_os = "linux")]
mod panels_amx;
mod panels_avx2;
mod panels_avx512;
mod panels_q_avx512;
mod quantize;
mod simd;
mod simd512;

use super::QuantizeActivationKernel;
use crate::kernels::registry::Run;
use crate::kernels::{MatmulKernel, PanelTile, Shape, SimdLevel, Tile};
use crate::quant::activation::ActivationType;
use crate::quant::panels::Layout;
use crate::tensor::TensorType;

const fn kernel(
    id: &'static str,
    weight: TensorType,
    activation: ActivationType,
    run: unsafe fn(&mut Tile<'_>),
) -> MatmulKernel {
    MatmulKernel { id, weight, activation, level: SimdLevel::Avx2, shapes: &Shape::ALL, run: Run::Rows(run) }
}

pub const MATMUL: &[MatmulKernel] = &[
    kernel("f32.f32.avx2", TensorType::F32, ActivationType::F32, matmul_float::f32_f32),
    kernel("f16.f16.avx2", TensorType::F16, ActivationType::F16, matmul_float::f16_f16),
    kernel("bf16.bf16.avx2", TensorType::BF16, ActivationType::BF16, matmul_float::bf16_bf16),
    kernel("q4_0.q8_0.avx2", TensorType::Q4_0, ActivationType::Q8_0, matmul::q4_0_q8_0),
    kernel("q4_1.q8_1.avx2", TensorType::Q4_1, ActivationType::Q8_1, matmul::q4_1_q8_1),
    kernel("q5_0.q8_0.avx2", TensorType::Q5_0, ActivationType::Q8_0, matmul_compiled::q5_0_q8_0),
    kernel("q5_1.q8_1.avx2", TensorType::Q5_1, ActivationType::Q8_1, matmul_compiled::q5_1_q8_1),
    kernel("q8_0.q8_0.avx2", TensorType::Q8_0, ActivationType::Q8_0, matmul::q8_0_q8_0),
    kernel("q2_k.q8_k.avx2", TensorType::Q2K, ActivationType::Q8K, matmul_compiled::q2_k_q8_k),
    kernel("q3_k.q8_k.avx2", TensorType::Q3K, ActivationType::Q8K, matmul_compiled::q3_k_q8_k),
    kernel("q4_k.q8_k.avx2", TensorType::Q4K, ActivationType::Q8K, matmul_k::q4_k_q8_k),
    kernel("q5_k.q8_k.avx2", TensorType::Q5K, ActivationType::Q8K, matmul_compiled::q5_k_q8_k),
    kernel("q6_k.q8_k.avx2", TensorType::Q6K, ActivationType::Q8K, matmul_k::q6_k_q8_k),
    kernel("q2_0.q8_0.avx2", TensorType::Q2_0, ActivationType::Q8_0, matmul_compiled::q2_0_q8_0),
    kernel("tq1_0.q8_k.avx2", TensorType::TQ1_0, ActivationType::Q8K, matmul_ternary::tq1_0_q8_k),
    kernel("tq2_0.q8_k.avx2", TensorType::TQ2_0, ActivationType::Q8K, matmul_ternary::tq2_0_q8_k),
    kernel("i2_s.q8_k.avx2", TensorType::I2S, ActivationType::Q8K, matmul_ternary::i2_s_q8_k),
    kernel("tq1_0.i8.avx2", TensorType::TQ1_0, ActivationType::I8Token, matmul_ternary::tq1_0_i8),
    kernel("tq2_0.i8.avx2", TensorType::TQ2_0, ActivationType::I8Token, matmul_ternary::tq2_0_i8),
    kernel("q2_0.i8.avx2", TensorType::Q2_0, ActivationType::I8Token, matmul_compiled::q2_0_i8),
    kernel("i2_s.i8.avx2", TensorType::I2S, ActivationType::I8Token, matmul_ternary::i2_s_i8),
];

const fn panels(
    id: &'static str,
    weight: TensorType,
    level: SimdLevel,
    layout: Layout,
    run: unsafe fn(&mut PanelTile<'_>),
) -> MatmulKernel {
    let activation = match weight {
        TensorType::Q4_1 => ActivationType::Q8_1,
        TensorType::Q4_0 | TensorType::Q8_0 => ActivationType::Q8_0,
        _ => ActivationType::I8Token,
    };
    MatmulKernel { id, weight, activation, level, shapes: &Shape::ALL, run: Run::Panels(layout, run) }
}

const fn avx512(
    id: &'static str,
    weight: TensorType,
    activation: ActivationType,
    run: unsafe fn(&mut Tile<'_>),
) -> MatmulKernel {
    MatmulKernel {
        id,
        weight,
        activation,
        level: SimdLevel::Avx512,
        shapes: &Shape::ALL,
        run: Run::Rows(run),
    }
}

pub const MATMUL512: &[MatmulKernel] = &[
    avx512("f32.f32.avx512", TensorType::F32, ActivationType::F32, matmul_float512::f32_f32),
    avx512("f16.f16.avx512", TensorType::F16, ActivationType::F16, matmul_float512::f16_f16),
    avx512("bf16.bf16.avx512", TensorType::BF16, ActivationType::BF16, matmul_float512::bf16_bf16),
];

#[cfg(target_os = "linux")]
const fn amx(id: &'static str, weight: TensorType) -> MatmulKernel {
    let kernel = panels(id, weight, SimdLevel::AmxInt8, Layout::Trits, panels_amx::trits);
    MatmulKernel { shapes: &[Shape::Batch, Shape::Prefill], ..kernel }
}

/// Kernels for repacked rows.
pub const PANELS: &[MatmulKernel] = &[
    panels("tq1_0.i8.x16.avx2", TensorType::TQ1_0, SimdLevel::Avx2, Layout::Codes, panels_avx2::avx2::codes),
    panels("tq2_0.i8.x16.avx2", TensorType::TQ2_0, SimdLevel::Avx2, Layout::Codes, panels_avx2::avx2::codes),
    panels("q2_0.i8.x16.avx2", TensorType::Q2_0, SimdLevel::Avx2, Layout::Codes, panels_avx2::avx2::codes),
    panels("i2_s.i8.x16.avx2", TensorType::I2S, SimdLevel::Avx2, Layout::Codes, panels_avx2::avx2::codes),
    panels(
        "tq1_0.i8.x16.avx-vnni",
        TensorType::TQ1_0,
        SimdLevel::AvxVnni,
        Layout::Codes,
        panels_avx2::avx_vnni::codes,
    ),
    panels(
        "tq2_0.i8.x16.avx-vnni",
        TensorType::TQ2_0,
        SimdLevel::AvxVnni,
        Layout::Codes,
        panels_avx2::avx_vnni::codes,
    ),
    panels(
        "q2_0.i8.x16.avx-vnni",
        TensorType::Q2_0,
        SimdLevel::AvxVnni,
        Layout::Codes,
        panels_avx2::avx_vnni::codes,
    ),
    panels(
        "i2_s.i8.x16.avx-vnni",
        TensorType::I2S,
        SimdLevel::AvxVnni,
        Layout::Codes,
        panels_avx2::avx_vnni::codes,
    ),
    panels("tq1_0.i8.x16.avx512", TensorType::TQ1_0, SimdLevel::Avx512, Layout::Trits, panels_avx512::trits),
    panels("tq2_0.i8.x16.avx512", TensorType::TQ2_0, SimdLevel::Avx512, Layout::Trits, panels_avx512::trits),
    panels("q2_0.i8.x16.avx512", TensorType::Q2_0, SimdLevel::Avx512, Layout::Trits, panels_avx512::trits),
    panels("i2_s.i8.x16.avx512", TensorType::I2S, SimdLevel::Avx512, Layout::Trits, panels_avx512::trits),
    #[cfg(target_os = "linux")]
    amx("tq1_0.i8.x16.amx-int8", TensorType::TQ1_0),
    #[cfg(target_os = "linux")]
    amx("tq2_0.i8.x16.amx-int8", TensorType::TQ2_0),
    #[cfg(target_os = "linux")]
    amx("q2_0.i8.x16.amx-int8", TensorType::Q2_0),
    #[cfg(target_os = "linux")]
    amx("i2_s.i8.x16.amx-int8", TensorType::I2S),
    panels(
        "q4_0.q8_0.x16.avx512",
        TensorType::Q4_0,
        SimdLevel::Avx512,
        Layout::Q4_0,
        panels_q_avx512::q4_0::run,
    ),
    panels(
        "q4_1.q8_1.x16.avx512",
        TensorType::Q4_1,
        SimdLevel::Avx512,
        Layout::Q4_1,
        panels_q_avx512::q4_1::run,
    ),
    panels(
        "q8_0.q8_0.x16.avx512",
        TensorType::Q8_0,
        SimdLevel::Avx512,
        Layout::Q8_0,
        panels_q_avx512::q8_0::run,
    ),
];

const fn quantize(activation: ActivationType, run: unsafe fn(&[f32], &mut [u8])) -> QuantizeActivationKernel {
    QuantizeActivationKernel { activation, level: SimdLevel::Avx2, run }
}

pub const QUANTIZE: &[QuantizeActivationKernel] = &[
    quantize(ActivationType::F16, quantize::f16),
    quantize(ActivationType::BF16, quantize::bf16),
    quantize(ActivationType::Q8_0, quantize::q8_0),
    quantize(ActivationType::Q8_1, quantize::q8_1),
    quantize(ActivationType::Q8K, quantize::q8_k),
    quantize(ActivationType::I8Token, quantize::i8_token),
];
