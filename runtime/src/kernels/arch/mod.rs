//! One folder per instruction-set family; `all` is the portable scalar definition of every operation.

use super::SimdLevel;
use crate::quant::activation::ActivationType;

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod all;
#[cfg(test)]
mod attention_tests;
#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod ops_tests;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

/// A function that packs activation rows; bit for bit equal at every level.
#[derive(Clone, Copy)]
pub struct QuantizeActivationKernel {
    pub activation: ActivationType,
    pub level: SimdLevel,
    /// Lengths as in [`crate::quant::activation::quantize_activation`].
    /// # Safety
    /// The CPU must have the features of `level`.
    pub run: unsafe fn(&[f32], &mut [u8]),
}

/// Every such function of this build. F32 rows are only copied, which needs no faster version.
pub const QUANTIZE_ACTIVATION: &[&[QuantizeActivationKernel]] = &[
    all::QUANTIZE,
    #[cfg(target_arch = "x86_64")]
    x86_64::QUANTIZE,
    #[cfg(target_arch = "aarch64")]
    aarch64::QUANTIZE,
];
