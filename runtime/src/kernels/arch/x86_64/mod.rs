//! AVX2 kernels, checked against [`super::all`].

use crate::kernels::MatmulKernel;

pub const MATMUL: &[MatmulKernel] = &[];
