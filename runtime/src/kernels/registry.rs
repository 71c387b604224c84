//! The table of matrix kernels: what each multiplies, which CPU features it needs, and its function.
//!
//! Adding a kernel is one file under `arch/` and one row here.

use super::head::HeadKernel;
use super::ops::Ops;
use super::{Tile, arch};
use crate::quant::activation::ActivationType;
use crate::tensor::TensorType;

/// Instruction sets a kernel may need, worst first; later ones imply nothing about earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
}

impl SimdLevel {
    pub const ALL: [SimdLevel; 2] = [SimdLevel::Scalar, SimdLevel::Avx2];

    pub const fn name(self) -> &'static str {
        match self {
            SimdLevel::Scalar => "scalar",
            SimdLevel::Avx2 => "avx2",
        }
    }

    /// Whether this build contains kernels for the level.
    pub const fn is_compiled(self) -> bool {
        match self {
            SimdLevel::Scalar => true,
            SimdLevel::Avx2 => cfg!(target_arch = "x86_64"),
        }
    }

    /// Whether this CPU can run the level: a probe at run time.
    pub fn is_available(self) -> bool {
        match self {
            SimdLevel::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            SimdLevel::Avx2 => false,
        }
    }
}

/// A matrix kernel. `run` needs the CPU features of `level`; callers check them once, in [`super::select`].
#[derive(Clone, Copy)]
pub struct MatmulKernel {
    /// `weight.activation.level`, for example `q4_1.q8_1.avx2`; recorded in receipts.
    pub id: &'static str,
    pub weight: TensorType,
    pub activation: ActivationType,
    pub level: SimdLevel,
    /// # Safety
    /// The CPU must have the features of `level`.
    pub run: unsafe fn(&mut Tile<'_>),
}

impl MatmulKernel {
    /// Runs the kernel.
    ///
    /// # Safety
    /// The CPU must have the features of `level`.
    #[inline(always)]
    pub unsafe fn call(&self, tile: &mut Tile<'_>) {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::skips_kernels() {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe { (self.run)(tile) };
        #[cfg(feature = "planted-bugs")]
        crate::planted::after_kernel(self.level, tile);
    }
}

/// Every matrix kernel of this build.
pub const MATMUL: &[&[MatmulKernel]] = &[
    arch::all::MATMUL,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::MATMUL,
];

/// Every instance of the element-wise operations and attention.
pub const OPS: &[Ops] = &[
    arch::all::ops::OPS,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::ops::OPS,
];

/// Every instance of the functions of the compact output head.
pub const HEAD: &[HeadKernel] = &[
    arch::all::head::HEAD,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::head::HEAD,
];
