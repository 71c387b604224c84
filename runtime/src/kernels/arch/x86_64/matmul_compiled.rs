//! Scalar products compiled for AVX2, FMA and F16C: the same source as `arch::all`, so the same bits.
//!
//! For types that are read but that no hand-written kernel is worth: the compiler's vectors, and above all fused
//! multiply-adds that are instructions instead of calls.

use crate::kernels::Tile;
use crate::kernels::arch::all::{matmul, matmul_k};

macro_rules! compiled {
    ($($module:ident :: $name:ident),* $(,)?) => {$(
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $name(tile: &mut Tile<'_>) {
            $module::$name(tile);
        }
    )*};
}

compiled! {
    matmul::q5_0_q8_0, matmul::q5_1_q8_1, matmul::q2_0_q8_0, matmul::q2_0_i8,
    matmul_k::q2_k_q8_k, matmul_k::q3_k_q8_k, matmul_k::q5_k_q8_k,
}
