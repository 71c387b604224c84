//! The table of matrix kernels: what each multiplies, which CPU features it needs, and its function.
//!
//! Adding a kernel is one file under `arch/` and one row here.

use super::arch;
use super::head::HeadKernel;
use super::level::SimdLevel;
use super::ops::Ops;
use super::{PanelTile, Tile};
use crate::quant::activation::ActivationType;
use crate::quant::panels::Layout;
use crate::tensor::TensorType;

/// How many activation rows a product has; kernels differ in what they are good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One row: a token that is being decoded.
    Decode,
    /// 2 to 15 rows: several sequences, or the end of a prompt.
    Batch,
    /// 16 rows and more: a prompt.
    Prefill,
}

impl Shape {
    pub const ALL: [Shape; 3] = [Shape::Decode, Shape::Batch, Shape::Prefill];

    /// The shape of a product with `count` activation rows.
    pub const fn of(count: usize) -> Self {
        match count {
            0 | 1 => Shape::Decode,
            2..16 => Shape::Batch,
            _ => Shape::Prefill,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Shape::Decode => "decode",
            Shape::Batch => "batch",
            Shape::Prefill => "prefill",
        }
    }
}

/// A kernel's function, by how the weights lie.
#[derive(Clone, Copy)]
pub enum Run {
    /// Rows as they lie in the file.
    Rows(unsafe fn(&mut Tile<'_>)),
    /// Rows repacked when the model is loaded.
    Panels(Layout, unsafe fn(&mut PanelTile<'_>)),
}

/// A matrix kernel. Its function needs the CPU features of `level`; callers check them once, in [`super::select`].
#[derive(Clone, Copy)]
pub struct MatmulKernel {
    /// `weight.activation.level`, for example `q4_1.q8_1.avx2`, with `x16` before the level where rows are repacked
    /// in sixteens; recorded in receipts.
    pub id: &'static str,
    pub weight: TensorType,
    pub activation: ActivationType,
    pub level: SimdLevel,
    /// The shapes it is made for.
    pub shapes: &'static [Shape],
    /// # Safety
    /// The CPU must have the features of `level`.
    pub run: Run,
}

impl MatmulKernel {
    /// The layout it wants; `None` for rows as they lie in the file.
    pub const fn layout(&self) -> Option<Layout> {
        match self.run {
            Run::Rows(_) => None,
            Run::Panels(layout, _) => Some(layout),
        }
    }

    /// Runs a kernel that takes rows as they lie in the file. Panics for any other.
    ///
    /// # Safety
    /// The CPU must have the features of `level`.
    #[inline(always)]
    pub unsafe fn call(&self, tile: &mut Tile<'_>) {
        let Run::Rows(run) = self.run else { panic!("{} takes repacked rows", self.id) };
        #[cfg(feature = "planted-bugs")]
        if crate::planted::skips_kernels() {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe { run(tile) };
        #[cfg(feature = "planted-bugs")]
        crate::planted::after_kernel(self.level, tile.out.last_mut());
    }

    /// Runs a kernel that takes repacked rows. Panics for any other.
    ///
    /// # Safety
    /// The CPU must have the features of `level`.
    #[inline(always)]
    pub unsafe fn call_panels(&self, tile: &mut PanelTile<'_>) {
        let Run::Panels(_, run) = self.run else { panic!("{} takes rows of the file", self.id) };
        #[cfg(feature = "planted-bugs")]
        if crate::planted::skips_kernels() {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe { run(tile) };
        #[cfg(feature = "planted-bugs")]
        crate::planted::after_kernel(self.level, tile.out.last_mut());
    }
}

/// Every matrix kernel of this build.
pub const MATMUL: &[&[MatmulKernel]] = &[
    arch::all::MATMUL,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::MATMUL,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::MATMUL512,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::PANELS,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::FLOAT,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::NEON,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::DOTPROD,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::I8MM,
];

/// Every instance of the element-wise operations and attention.
pub const OPS: &[Ops] = &[
    arch::all::ops::OPS,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::ops::OPS,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::ops::OPS_AVX512,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::ops::NEON,
    #[cfg(target_arch = "aarch64")]
    arch::aarch64::ops::DOTPROD,
];

/// Every instance of the functions of the compact output head.
pub const HEAD: &[HeadKernel] = &[
    arch::all::head::HEAD,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::head::HEAD,
    #[cfg(target_arch = "x86_64")]
    arch::x86_64::head_avx512::HEAD,
];
