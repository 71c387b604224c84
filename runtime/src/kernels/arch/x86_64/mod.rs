//! AVX2 kernels, checked against [`super::all`].

use super::QuantizeActivationKernel;
use crate::kernels::MatmulKernel;

pub mod ops;

pub const MATMUL: &[MatmulKernel] = &[];
pub const QUANTIZE: &[QuantizeActivationKernel] = &[];
