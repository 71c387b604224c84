//! aarch64 kernels, checked against [`super::all`] bit for bit: NEON, which every CPU of this kind has, and faster
//! products of int8 with dotprod (`sdot`, Armv8.2) and i8mm (`smmla`, Armv8.6).
//!
//! The integer products are written once over the level's way to multiply int8 (`simd::Dot`). Ternary rows are repacked
//! in sixteens with two bits a weight, which one shift and one mask take apart.

mod matmul;
mod matmul_float;
mod matmul_k;
mod matmul_ternary;
pub mod ops;
mod panels;
mod quantize;
mod simd;

use super::QuantizeActivationKernel;
use crate::kernels::registry::Run;
use crate::kernels::{MatmulKernel, PanelTile, Shape, SimdLevel, Tile};
use crate::quant::activation::ActivationType;
use crate::quant::panels::Layout;
use crate::tensor::TensorType;
use simd::{Dotprod, Neon};

const fn rows(
    id: &'static str,
    weight: TensorType,
    activation: ActivationType,
    level: SimdLevel,
    run: unsafe fn(&mut Tile<'_>),
) -> MatmulKernel {
    MatmulKernel { id, weight, activation, level, shapes: &Shape::ALL, run: Run::Rows(run) }
}

const fn codes(
    id: &'static str,
    weight: TensorType,
    level: SimdLevel,
    shapes: &'static [Shape],
    run: unsafe fn(&mut PanelTile<'_>),
) -> MatmulKernel {
    let activation = ActivationType::I8Token;
    MatmulKernel { id, weight, activation, level, shapes, run: Run::Panels(Layout::Codes, run) }
}

/// Kernels of floats, the same at every level.
pub const FLOAT: &[MatmulKernel] = &[
    rows(
        "f32.f32.neon",
        TensorType::F32,
        ActivationType::F32,
        SimdLevel::Neon,
        matmul_float::f32_f32::<Neon>,
    ),
    rows(
        "f16.f16.neon",
        TensorType::F16,
        ActivationType::F16,
        SimdLevel::Neon,
        matmul_float::f16_f16::<Neon>,
    ),
    rows(
        "bf16.bf16.neon",
        TensorType::BF16,
        ActivationType::BF16,
        SimdLevel::Neon,
        matmul_float::bf16_bf16::<Neon>,
    ),
];

/// The kernels of one level that multiply integers as `$dot` does.
macro_rules! integers {
    ($level:ident, $name:literal, $dot:ty) => {{
        use ActivationType::*;
        use TensorType as W;
        const LEVEL: SimdLevel = SimdLevel::$level;
        &[
            rows(concat!("q4_0.q8_0.", $name), W::Q4_0, Q8_0, LEVEL, matmul::q4_0_q8_0::<$dot>),
            rows(concat!("q4_1.q8_1.", $name), W::Q4_1, Q8_1, LEVEL, matmul::q4_1_q8_1::<$dot>),
            rows(concat!("q8_0.q8_0.", $name), W::Q8_0, Q8_0, LEVEL, matmul::q8_0_q8_0::<$dot>),
            rows(concat!("q4_k.q8_k.", $name), W::Q4K, Q8K, LEVEL, matmul_k::q4_k_q8_k::<$dot>),
            rows(concat!("q6_k.q8_k.", $name), W::Q6K, Q8K, LEVEL, matmul_k::q6_k_q8_k::<$dot>),
            rows(concat!("tq1_0.q8_k.", $name), W::TQ1_0, Q8K, LEVEL, matmul_ternary::tq1_0_q8_k::<$dot>),
            rows(concat!("tq2_0.q8_k.", $name), W::TQ2_0, Q8K, LEVEL, matmul_ternary::tq2_0_q8_k::<$dot>),
            rows(concat!("i2_s.q8_k.", $name), W::I2S, Q8K, LEVEL, matmul_ternary::i2_s_q8_k::<$dot>),
            rows(concat!("tq1_0.i8.", $name), W::TQ1_0, I8Token, LEVEL, matmul_ternary::tq1_0_i8::<$dot>),
            rows(concat!("tq2_0.i8.", $name), W::TQ2_0, I8Token, LEVEL, matmul_ternary::tq2_0_i8::<$dot>),
            rows(concat!("i2_s.i8.", $name), W::I2S, I8Token, LEVEL, matmul_ternary::i2_s_i8::<$dot>),
            codes(concat!("tq1_0.i8.x16.", $name), W::TQ1_0, LEVEL, &Shape::ALL, panels::codes::<$dot>),
            codes(concat!("tq2_0.i8.x16.", $name), W::TQ2_0, LEVEL, &Shape::ALL, panels::codes::<$dot>),
            codes(concat!("q2_0.i8.x16.", $name), W::Q2_0, LEVEL, &Shape::ALL, panels::codes::<$dot>),
            codes(concat!("i2_s.i8.x16.", $name), W::I2S, LEVEL, &Shape::ALL, panels::codes::<$dot>),
        ]
    }};
}

pub const NEON: &[MatmulKernel] = integers!(Neon, "neon", Neon);
pub const DOTPROD: &[MatmulKernel] = integers!(Dotprod, "dotprod", Dotprod);

/// `smmla` wants two activation rows.
const SEVERAL: &[Shape] = &[Shape::Batch, Shape::Prefill];

pub const I8MM: &[MatmulKernel] = &[
    codes("tq1_0.i8.x16.i8mm", TensorType::TQ1_0, SimdLevel::I8mm, SEVERAL, panels::codes_i8mm),
    codes("tq2_0.i8.x16.i8mm", TensorType::TQ2_0, SimdLevel::I8mm, SEVERAL, panels::codes_i8mm),
    codes("q2_0.i8.x16.i8mm", TensorType::Q2_0, SimdLevel::I8mm, SEVERAL, panels::codes_i8mm),
    codes("i2_s.i8.x16.i8mm", TensorType::I2S, SimdLevel::I8mm, SEVERAL, panels::codes_i8mm),
];

const fn quantize(activation: ActivationType, run: unsafe fn(&[f32], &mut [u8])) -> QuantizeActivationKernel {
    QuantizeActivationKernel { activation, level: SimdLevel::Neon, run }
}

pub const QUANTIZE: &[QuantizeActivationKernel] = &[
    quantize(ActivationType::F16, quantize::f16),
    quantize(ActivationType::BF16, quantize::bf16),
    quantize(ActivationType::Q8_0, quantize::q8_0),
    quantize(ActivationType::Q8_1, quantize::q8_1),
    quantize(ActivationType::Q8K, quantize::q8_k),
    quantize(ActivationType::I8Token, quantize::i8_token),
];
