//! Choosing kernels: a request and a probe of the CPU in, a printable [`KernelSet`] out.

use super::SimdLevel;
use super::arch::{QUANTIZE_ACTIVATION, QuantizeActivationKernel};
use super::head::HeadKernel;
use super::ops::Ops;
use super::profile::Profile;
use super::registry::{HEAD, MATMUL, MatmulKernel, OPS, Shape};
use crate::quant::activation::ActivationType;
use crate::quant::panels::Layout;
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

/// The kernels of one run: the best of each operation that this CPU runs at or below the selected level.
///
/// ```
/// use bitnet_runtime::kernels::select::KernelRequest;
/// use bitnet_runtime::kernels::{KernelSet, Shape, SimdLevel};
/// use bitnet_runtime::quant::activation::ActivationType;
/// use bitnet_runtime::tensor::TensorType;
///
/// let scalar = KernelSet::select(KernelRequest::Level(SimdLevel::Scalar))?;
/// let plan = scalar.plan(TensorType::I2S, ActivationType::I8Token).unwrap();
/// assert_eq!(plan.kernel(Shape::Decode).id, "i2_s.i8.scalar");
///
/// // What was asked for, built, found and taken, and why: a value that receipts record.
/// let best = KernelSet::select(KernelRequest::Auto)?;
/// assert!(best.selection.to_string().starts_with("requested=auto compiled=[scalar"));
/// # Ok::<(), bitnet_runtime::Error>(())
/// ```
pub struct KernelSet {
    pub level: SimdLevel,
    pub ops: Ops,
    pub head: HeadKernel,
    pub selection: Selection,
    usable: Vec<SimdLevel>,
    plans: Vec<((TensorType, ActivationType), Plans)>,
}

/// The kernels that multiply one pair of types, one per [`Shape`]; all take weights that lie in the same way.
#[derive(Clone, Copy)]
pub struct Plan {
    kernels: [&'static MatmulKernel; 3],
}

impl Plan {
    /// How weights have to lie; `None` for rows as they are in the file.
    pub fn layout(&self) -> Option<Layout> {
        self.kernels[0].layout()
    }

    pub fn kernel(&self, shape: Shape) -> &'static MatmulKernel {
        self.kernels[shape as usize]
    }
}

/// What to do with weights that could be repacked, and with those that could not or were not.
#[derive(Clone, Copy)]
struct Plans {
    best: Plan,
    rows: Plan,
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
        let usable: Vec<_> =
            compiled.iter().copied().filter(usable).filter(|usable| *usable <= level).collect();
        let ops = OPS.iter().filter(|ops| usable.contains(&ops.level)).max_by_key(|ops| ops.level);
        let head = HEAD.iter().filter(|head| usable.contains(&head.level)).max_by_key(|head| head.level);
        let selection = Selection {
            requested: request.to_string(),
            compiled: names(&compiled),
            detected: names(available),
            selected: level.name().to_owned(),
            reason,
        };
        Ok(KernelSet {
            level,
            ops: *ops.expect("the scalar level has every operation"),
            head: *head.expect("the scalar level has every function"),
            selection,
            plans: plans(&usable),
            usable,
        })
    }

    /// Why the candidate of `level` for an operation is taken or not, where the one of `chosen` is taken.
    pub fn reason(&self, level: SimdLevel, chosen: SimdLevel) -> String {
        let name = level.name();
        if !self.selection.detected.iter().any(|detected| detected == name) {
            format!("this CPU lacks {name}")
        } else if level < chosen {
            format!("{name} is below {}", chosen.name())
        } else if level > chosen {
            format!("{name} is above {}, which was forced", self.level.name())
        } else if level < self.level {
            format!("{} has no version of its own", self.level.name())
        } else {
            self.selection.reason.clone()
        }
    }

    /// Why `kernel` is taken for products of `shape` or not.
    pub fn matmul_reason(&self, kernel: &MatmulKernel, shape: Shape) -> String {
        let Some(plans) = self.plans(kernel.weight, kernel.activation) else {
            return "no level has this pair".into();
        };
        let chosen = plans.best.kernel(shape);
        if kernel.level == chosen.level && kernel.id != chosen.id {
            return match (kernel.layout(), chosen.layout()) {
                (None, Some(_)) => "repacked rows are faster".into(),
                _ => format!("{} has the layout of the other shapes", chosen.id),
            };
        }
        if self.usable.contains(&kernel.level) && !kernel.shapes.contains(&shape) {
            return format!("not made for {}", shape.name());
        }
        self.reason(kernel.level, chosen.level)
    }

    /// Takes the choices of `profile` that this build has and this CPU runs; says in the selection how many.
    /// A forced level has no profile.
    pub fn apply(&mut self, profile: &Profile) {
        if self.selection.requested != KernelRequest::Auto.to_string() {
            return;
        }
        let known = |id: &String| {
            let mut all = MATMUL.iter().copied().flatten();
            all.find(|kernel| kernel.id == id && self.usable.contains(&kernel.level))
        };
        let mut changed = 0;
        for choice in &profile.choices {
            let [Some(decode), Some(batch), Some(prefill)] = choice.kernels.each_ref().map(known) else {
                continue;
            };
            let kernels = [decode, batch, prefill];
            let pair = (decode.weight, decode.activation);
            let fits = |(kernel, shape): (&&MatmulKernel, Shape)| {
                (kernel.weight, kernel.activation) == pair
                    && kernel.layout() == decode.layout()
                    && kernel.shapes.contains(&shape)
            };
            let all_fit = kernels.iter().zip(Shape::ALL).all(fits);
            if let Some((_, plans)) = self.plans.iter_mut().find(|(known, _)| *known == pair && all_fit) {
                plans.best = Plan { kernels };
                changed += 1;
            }
        }
        self.selection.reason += &format!("; {changed} products as tuned on this machine");
    }

    fn plans(&self, weight: TensorType, activation: ActivationType) -> Option<&Plans> {
        self.plans.iter().find(|(pair, _)| *pair == (weight, activation)).map(|(_, plans)| plans)
    }

    /// The kernels for this pair of types; `None` where not even the scalar level has one.
    pub fn plan(&self, weight: TensorType, activation: ActivationType) -> Option<Plan> {
        self.plans(weight, activation).map(|plans| plans.best)
    }

    /// As [`Self::plan`], for weights that lie as in the file.
    pub fn plan_for_rows(&self, weight: TensorType, activation: ActivationType) -> Option<Plan> {
        self.plans(weight, activation).map(|plans| plans.rows)
    }

    /// The function that packs activations of this type.
    pub fn quantize(&self, activation: ActivationType) -> &'static QuantizeActivationKernel {
        let candidates = QUANTIZE_ACTIVATION.iter().copied().flatten();
        candidates
            .filter(|kernel| kernel.activation == activation && self.usable.contains(&kernel.level))
            .max_by_key(|kernel| kernel.level)
            .expect("the scalar level packs every activation type")
    }
}

/// For every pair of types: the layout is the one of the best kernel for decoding, and every shape gets the best kernel
/// of that layout. Repacked rows are better than rows of the file at the same level.
fn plans(usable: &[SimdLevel]) -> Vec<((TensorType, ActivationType), Plans)> {
    let best = |pair, shape: Shape, layouts: &dyn Fn(Option<Layout>) -> bool| {
        let candidates = MATMUL.iter().copied().flatten().filter(|kernel| {
            (kernel.weight, kernel.activation) == pair
                && usable.contains(&kernel.level)
                && kernel.shapes.contains(&shape)
                && layouts(kernel.layout())
        });
        candidates.max_by_key(|kernel| (kernel.level, kernel.layout().is_some()))
    };
    let plan = |pair, layout: Option<Layout>| {
        let kernel =
            |shape| best(pair, shape, &|found| found == layout).expect("a layout has kernels of every shape");
        Plan { kernels: Shape::ALL.map(kernel) }
    };
    let pairs = MATMUL[0].iter().map(|kernel| (kernel.weight, kernel.activation));
    pairs
        .map(|pair| {
            let decode = best(pair, Shape::Decode, &|_| true).expect("the scalar level is always usable");
            (pair, Plans { best: plan(pair, decode.layout()), rows: plan(pair, None) })
        })
        .collect()
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

    #[test]
    fn a_profile_changes_what_fits_and_nothing_else() {
        use super::super::profile::Choice;
        let set = || KernelSet::select_from(KernelRequest::Auto, &[SimdLevel::Scalar]).unwrap();
        let choice = |ids: [&str; 3]| Choice { weight: "F32".into(), kernels: ids.map(String::from) };
        let profile = |ids| Profile { choices: vec![choice(ids)], ..Profile::default() };
        let mut tuned = set();
        tuned.apply(&profile(["f32.f32.scalar"; 3]));
        assert!(tuned.selection.reason.ends_with("; 1 products as tuned on this machine"));
        for ids in [["f32.f32.avx9"; 3], ["f32.f32.scalar", "f16.f16.scalar", "f32.f32.scalar"]] {
            let mut same = set();
            same.apply(&profile(ids));
            assert!(same.selection.reason.contains("; 0 products"), "{}", same.selection.reason);
            let plan = same.plan(TensorType::F32, ActivationType::F32).unwrap();
            assert_eq!(Shape::ALL.map(|shape| plan.kernel(shape).id), ["f32.f32.scalar"; 3]);
        }
        let mut forced =
            KernelSet::select_from(KernelRequest::Level(SimdLevel::Scalar), &[SimdLevel::Scalar]).unwrap();
        forced.apply(&profile(["f32.f32.scalar"; 3]));
        assert_eq!(forced.selection.reason, "forced");
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
                    assert!(set.plan(weight, activation).is_some(), "{weight} {activation:?}");
                    assert_eq!(set.quantize(activation).activation, activation);
                }
            }
        }
    }
}
