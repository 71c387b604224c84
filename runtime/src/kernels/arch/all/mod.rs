//! Scalar kernels: the definition of right.

use crate::kernels::MatmulKernel;

pub const MATMUL: &[MatmulKernel] = &[];
