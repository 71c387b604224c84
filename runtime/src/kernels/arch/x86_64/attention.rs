//! AVX2 attention: the portable steps, with keys and values widened through F16C.

use super::ops::F16c;
use crate::kernels::arch::all::attention as portable;
use crate::kernels::ops::{ScoresF16, ScoresQ8, ValuesF16, ValuesQ8};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores_f16(args: &mut ScoresF16<'_>) {
    portable::scores_f16::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores_q8_0(args: &mut ScoresQ8<'_>) {
    portable::scores_q8_0::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values_f16(args: &mut ValuesF16<'_>) {
    portable::values_f16::<F16c>(args);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn values_q8_0(args: &mut ValuesQ8<'_>) {
    portable::values_q8_0::<F16c>(args);
}
