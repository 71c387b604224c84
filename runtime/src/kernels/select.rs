//! Choosing kernels: a request and a probe of the CPU in, a printable [`KernelSet`] out.

use super::arch::{QUANTIZE_ACTIVATION, QuantizeActivationKernel};
use super::ops::Ops;
use super::registry::{MATMUL, MatmulKernel, OPS, SimdLevel};
use crate::quant::activation::ActivationType;
use crate::tensor::TensorType;
use crate::{Error, Result};
use bitforge_schema::selection::Selection;

/// What was asked for: `auto` or one level by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KernelRequest {
    #[default]
    Auto,
    Level(SimdLevel),
}

impl KernelRequest {
    pub fn parse(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(KernelRequest::Auto);
        }
        SimdLevel::ALL.into_iter().find(|level| level.name() == text).map(KernelRequest::Level).ok_or_else(
            || {
                let names = SimdLevel::ALL.map(SimdLevel::name).join(", ");
                Error::usage(format!("unknown kernel set '{text}'"), format!("choose auto or one of {names}"))
            },
        )
    }
}

impl std::fmt::Display for KernelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KernelRequest::Auto => "auto",
            KernelRequest::Level(level) => level.name(),
        })
    }
}

/// The kernels of one run: the best of each operation at or below the selected level.
pub struct KernelSet {
    pub level: SimdLevel,
    pub ops: Ops,
    pub selection: Selection,
}

impl KernelSet {
    /// Probes the CPU and selects. A forced level that is not compiled in or not available is an error.
    pub fn select(request: KernelRequest) -> Result<Self> {
        let available: Vec<_> = SimdLevel::ALL.into_iter().filter(|level| level.is_available()).collect();
        Self::select_from(request, &available)
    }

    /// As [`Self::select`], with the outcome of the probe given.
    pub fn select_from(request: KernelRequest, available: &[SimdLevel]) -> Result<Self> {
        let names =
            |levels: &[SimdLevel]| levels.iter().map(|level| level.name().to_owned()).collect::<Vec<_>>();
        let compiled: Vec<_> = SimdLevel::ALL.into_iter().filter(|level| level.is_compiled()).collect();
        let usable = |level: &SimdLevel| compiled.contains(level) && available.contains(level);
        let (level, reason) = match request {
            KernelRequest::Auto => {
                let best = compiled.iter().copied().filter(usable).max().unwrap_or(SimdLevel::Scalar);
                (best, format!("{} is the best level that this build has and this CPU runs", best.name()))
            }
            KernelRequest::Level(level) if usable(&level) => (level, "forced".to_owned()),
            KernelRequest::Level(level) => {
                let lacking = if compiled.contains(&level) {
                    "this CPU does not run it"
                } else {
                    "it is not in this build"
                };
                return Err(Error::Unavailable {
                    what: format!("kernel set '{}' was forced but {lacking}", level.name()),
                    remedy: format!("use --kernels auto, or one of {}", names(available).join(", ")),
                });
            }
        };
        let ops = *best_of(OPS.iter(), level, |ops| ops.level).expect("the scalar level has every operation");
        let selection = Selection {
            requested: request.to_string(),
            compiled: names(&compiled),
            detected: names(available),
            selected: level.name().to_owned(),
            reason,
        };
        Ok(KernelSet { level, ops, selection })
    }

    /// Why the candidate of `level` for an operation is taken or not, where the one of `chosen` is taken.
    pub fn reason(&self, level: SimdLevel, chosen: SimdLevel) -> String {
        let name = level.name();
        if level < chosen {
            format!("{name} is below {}", chosen.name())
        } else if level > chosen && !self.selection.detected.iter().any(|detected| detected == name) {
            format!("this CPU lacks {name}")
        } else if level > chosen {
            format!("{name} is above {}, which was forced", self.level.name())
        } else if level < self.level {
            format!("{} has no version of its own", self.level.name())
        } else {
            self.selection.reason.clone()
        }
    }

    /// The kernel for this pair of types; `None` where not even the scalar level has one.
    pub fn matmul(&self, weight: TensorType, activation: ActivationType) -> Option<&'static MatmulKernel> {
        let candidates = MATMUL.iter().copied().flatten();
        best_of(
            candidates.filter(|kernel| kernel.weight == weight && kernel.activation == activation),
            self.level,
            |kernel| kernel.level,
        )
    }

    /// The function that packs activations of this type.
    pub fn quantize(&self, activation: ActivationType) -> &'static QuantizeActivationKernel {
        let candidates = QUANTIZE_ACTIVATION.iter().copied().flatten();
        best_of(candidates.filter(|kernel| kernel.activation == activation), self.level, |kernel| {
            kernel.level
        })
        .expect("the scalar level packs every activation type")
    }
}

fn best_of<'a, T>(
    candidates: impl Iterator<Item = &'a T>,
    level: SimdLevel,
    level_of: impl Fn(&T) -> SimdLevel,
) -> Option<&'a T> {
    candidates.filter(|candidate| level_of(candidate) <= level).max_by_key(|candidate| level_of(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_level_that_cannot_run_is_an_error() {
        let error = KernelSet::select_from(KernelRequest::Level(SimdLevel::Avx2), &[SimdLevel::Scalar]);
        let message = error.err().unwrap().to_string();
        assert!(message.starts_with("kernel set 'avx2' was forced but"), "{message}");
    }

    #[test]
    fn detected_is_the_probe_and_auto_takes_the_best() {
        let set = KernelSet::select_from(KernelRequest::Auto, &[SimdLevel::Scalar]).unwrap();
        assert_eq!(set.selection.detected, ["scalar"]);
        assert_eq!(set.level, SimdLevel::Scalar);
        assert!(KernelRequest::parse("sse9").is_err());
    }

    #[test]
    fn every_candidate_has_a_reason() {
        use SimdLevel::{Avx2, Scalar};
        let auto = KernelSet::select_from(KernelRequest::Auto, &[Scalar]).unwrap();
        assert_eq!(auto.reason(Avx2, Scalar), "this CPU lacks avx2");
        assert_eq!(auto.reason(Scalar, Scalar), auto.selection.reason);
        let forced = KernelSet::select_from(KernelRequest::Level(Scalar), &[Scalar, Avx2]).unwrap();
        assert_eq!(forced.reason(Avx2, Scalar), "avx2 is above scalar, which was forced");
        assert_eq!(forced.reason(Scalar, Scalar), "forced");
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn lower_candidates_have_a_reason() {
        use SimdLevel::{Avx2, Scalar};
        let best = KernelSet::select_from(KernelRequest::Auto, &[Scalar, Avx2]).unwrap();
        assert_eq!(best.reason(Scalar, Avx2), "scalar is below avx2");
        assert_eq!(best.reason(Scalar, Scalar), "avx2 has no version of its own");
    }

    #[test]
    fn every_weight_type_has_a_kernel_in_both_modes_at_every_level() {
        use crate::quant::activation::ActivationQuant;
        for level in SimdLevel::ALL {
            let set = KernelSet::select_from(KernelRequest::Auto, &[SimdLevel::Scalar, level]).unwrap();
            for weight in TensorType::with_rows() {
                for mode in [ActivationQuant::Token, ActivationQuant::Block256] {
                    let activation = ActivationType::for_weight(weight, mode);
                    assert!(set.matmul(weight, activation).is_some(), "{weight} {activation:?}");
                    assert_eq!(set.quantize(activation).activation, activation);
                }
            }
        }
    }
}
