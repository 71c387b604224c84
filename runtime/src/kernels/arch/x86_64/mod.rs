//! AVX2 kernels, checked against [`super::all`].

use crate::kernels::MatmulKernel;

pub mod ops;

pub const MATMUL: &[MatmulKernel] = &[];
