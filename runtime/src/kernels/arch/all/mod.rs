//! Scalar kernels: the definition of right.

use crate::kernels::MatmulKernel;

pub mod ops;

pub const MATMUL: &[MatmulKernel] = &[];
