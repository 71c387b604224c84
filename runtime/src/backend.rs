//! Where to compute: the registry of backends, what this build has, what this machine has, and the choice.
//!
//! In: a request (`--device`), the rows of [`REGISTRY`], a probe of the machine or what `BITNET_GPU_FAKE` says of it. Out:
//! a [`Choice`] with the [`Selection`] line. A backend is compiled where its row is in the registry; adding one takes
//! new files and a row here. Faked detection serves tests of the choice: nothing that was faked is ever run.
//! Deliberately absent: choosing CPU kernels (see [`crate::kernels::select`]), computing.

use crate::{Error, Result};
use bitforge_schema::env::Env;
use bitforge_schema::selection::Selection;

/// What can compute. HIP and Metal are reserved names: requests for them are understood and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelBackend {
    Cpu,
    Cuda,
    Hip,
    Metal,
}

impl KernelBackend {
    pub const ALL: [KernelBackend; 4] =
        [KernelBackend::Cpu, KernelBackend::Cuda, KernelBackend::Hip, KernelBackend::Metal];

    pub const fn name(self) -> &'static str {
        match self {
            KernelBackend::Cpu => "cpu",
            KernelBackend::Cuda => "cuda",
            KernelBackend::Hip => "hip",
            KernelBackend::Metal => "metal",
        }
    }

    pub const fn is_gpu(self) -> bool {
        !matches!(self, KernelBackend::Cpu)
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name)
    }
}

/// The value of `--device`. Anything but `auto` is a demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceRequest {
    #[default]
    Auto,
    /// Any GPU.
    Gpu,
    Backend(KernelBackend),
}

impl DeviceRequest {
    /// # Errors
    /// [`Error::Usage`] for a name that is neither `auto`, `gpu` nor of a backend.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(DeviceRequest::Auto),
            "gpu" => Ok(DeviceRequest::Gpu),
            _ => KernelBackend::of_name(text).map(DeviceRequest::Backend).ok_or_else(|| {
                let names = KernelBackend::ALL.map(KernelBackend::name).join(", ");
                Error::usage(
                    format!("unknown device '{text}'"),
                    format!("choose auto, gpu or one of {names}"),
                )
            }),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            DeviceRequest::Auto => "auto",
            DeviceRequest::Gpu => "gpu",
            DeviceRequest::Backend(backend) => backend.name(),
        }
    }

    const fn allows(self, backend: KernelBackend) -> bool {
        match self {
            DeviceRequest::Auto => true,
            DeviceRequest::Gpu => backend.is_gpu(),
            DeviceRequest::Backend(wanted) => wanted as u8 == backend as u8,
        }
    }
}

/// What a probe of the machine found for one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// Names of devices, at least one.
    Devices(Vec<String>),
    /// What is missing, with the remedy.
    Missing(String),
}

/// A backend of this build.
#[derive(Clone, Copy)]
pub struct Row {
    pub backend: KernelBackend,
    /// Looks at the machine; never panics, never starts a computation.
    pub detect: fn() -> Detection,
    /// Takes a model to the device; `None` for the CPU, whose engine needs none.
    #[cfg(feature = "gpu")]
    pub open: Option<crate::gpu::Open>,
}

/// The backends of this build, least preferred first.
pub const REGISTRY: &[Row] = &[
    Row {
        backend: KernelBackend::Cpu,
        detect: || Detection::Devices(vec!["this CPU".into()]),
        #[cfg(feature = "gpu")]
        open: None,
    },
    #[cfg(feature = "cuda")]
    crate::cuda::ROW,
];

/// Whether this build has any GPU backend.
pub fn gpu_compiled() -> bool {
    REGISTRY.iter().any(|row| row.backend.is_gpu())
}

/// Whether a GPU that this build can use is in this machine: a probe at run time.
pub fn gpu_available_runtime() -> bool {
    REGISTRY.iter().any(|row| row.backend.is_gpu() && matches!((row.detect)(), Detection::Devices(_)))
}

/// What `BITNET_GPU_FAKE` says: `none`, or `NAME` or `NAME=COUNT` separated by commas, for example `cuda=2,hip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fake(Vec<(KernelBackend, usize)>);

impl Fake {
    pub const VARIABLE: &str = "BITNET_GPU_FAKE";

    /// # Errors
    /// [`Error::Usage`] for a text that is not of the grammar, or a backend named twice or that is no GPU.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Fake(Vec::new()));
        }
        let mut found: Vec<(KernelBackend, usize)> = Vec::new();
        for item in text.split(',') {
            let (name, count) = item.split_once('=').unwrap_or((item, "1"));
            let backend = KernelBackend::of_name(name).filter(|backend| backend.is_gpu());
            let count = count.parse().ok().filter(|count| (1..=64).contains(count));
            match (backend, count) {
                (Some(backend), Some(count)) if found.iter().all(|(known, _)| *known != backend) => {
                    found.push((backend, count));
                }
                _ => {
                    return Err(Error::usage(
                        format!("{} is '{text}', and '{item}' is not understood", Self::VARIABLE),
                        "give none, or cuda, hip, metal, each once, with =COUNT from 1 to 64, separated by commas",
                    ));
                }
            }
        }
        Ok(Fake(found))
    }

    /// The faked detection of the environment, `None` where it fakes nothing.
    ///
    /// # Errors
    /// A text that is not of the grammar; [`Error::Refused`] in strict mode, which takes no fakes.
    pub fn from_env(env: &Env, strict: bool) -> Result<Option<Self>> {
        let Some(text) = env.get(Self::VARIABLE) else { return Ok(None) };
        let fake = Self::parse(text)?;
        if strict {
            return Err(Error::Refused {
                what: format!("{}={text} fakes which GPUs are detected", Self::VARIABLE),
            });
        }
        Ok(Some(fake))
    }

    fn detection(&self, backend: KernelBackend) -> Detection {
        match self.0.iter().find(|(faked, _)| *faked == backend) {
            Some((_, count)) => Detection::Devices(
                (0..*count).map(|n| format!("fake {} device {n}", backend.name())).collect(),
            ),
            None => Detection::Missing(format!("{} says there is none", Self::VARIABLE)),
        }
    }
}

/// What is to be used, and why.
pub struct Choice {
    pub row: Row,
    pub selection: Selection,
    /// Detection was faked: the choice may be shown and must not be run.
    pub faked: bool,
    /// A GPU that `auto` would have preferred and why it is not taken.
    pub passed_over: Vec<String>,
}

impl Choice {
    /// # Errors
    /// [`Error::Unavailable`] where a GPU was chosen by faked detection.
    pub fn check_real(&self) -> Result<()> {
        if self.faked && self.row.backend.is_gpu() {
            return Err(Error::Unavailable {
                what: format!("{} was selected because {} says so", self.row.backend.name(), Fake::VARIABLE),
                remedy: format!(
                    "unset {} to run anything: detection is faked, execution never",
                    Fake::VARIABLE
                ),
            });
        }
        Ok(())
    }
}

/// Chooses among [`REGISTRY`].
///
/// # Errors
/// [`Error::Unavailable`] for a demand that this build or this machine cannot meet.
pub fn select(request: DeviceRequest, fake: Option<&Fake>) -> Result<Choice> {
    select_from(REGISTRY, request, fake)
}

/// As [`select`], of the given rows (the CPU's is among them).
pub fn select_from(rows: &[Row], request: DeviceRequest, fake: Option<&Fake>) -> Result<Choice> {
    // A CPU that was asked for needs no look at drivers.
    let look = |row: &Row| match fake {
        _ if !row.backend.is_gpu() => (row.detect)(),
        Some(fake) => fake.detection(row.backend),
        None if request == DeviceRequest::Backend(KernelBackend::Cpu) => {
            Detection::Missing("not looked for".into())
        }
        None => (row.detect)(),
    };
    let found: Vec<(&Row, Detection)> = rows.iter().map(|row| (row, look(row))).collect();
    let names =
        |rows: Vec<&Row>| rows.into_iter().map(|row| row.backend.name().to_owned()).collect::<Vec<_>>();
    let detected =
        found.iter().filter(|(_, found)| matches!(found, Detection::Devices(_))).map(|(row, _)| *row);
    let (compiled, detected) = (names(rows.iter().collect()), names(detected.collect()));
    let missing = |backend: KernelBackend| {
        let looked = found.iter().find(|(row, _)| row.backend == backend);
        match looked {
            Some((_, Detection::Missing(why))) => format!("{}: {why}", backend.name()),
            Some(_) => String::new(),
            None => format!("this build has no {} backend", backend.name()),
        }
    };
    let allowed = KernelBackend::ALL.into_iter().filter(|backend| request.allows(*backend));
    let missing: Vec<String> = allowed.map(missing).filter(|why| !why.is_empty()).collect();
    let usable = found.iter().rev().find_map(|(row, found)| match found {
        Detection::Devices(devices) if request.allows(row.backend) => Some((**row, devices)),
        _ => None,
    });
    let Some((row, devices)) = usable else {
        return Err(Error::Unavailable {
            what: format!("device '{}' was demanded: {}", request.name(), missing.join("; ")),
            remedy: format!(
                "use --device auto or one of {}, or a build with `--features cuda` on a machine with its driver",
                detected.join(", ")
            ),
        });
    };
    let reason = match request {
        DeviceRequest::Auto => {
            format!("{} is the best that this build and this machine have", devices.join(" and "))
        }
        _ => format!("demanded; {}", devices.join(" and ")),
    };
    let selection = Selection {
        requested: request.name().into(),
        compiled,
        detected,
        selected: row.backend.name().into(),
        reason,
    };
    let of_build = |why: &String| rows.iter().any(|row| why.starts_with(row.backend.name()));
    let passed_over =
        if row.backend.is_gpu() { Vec::new() } else { missing.into_iter().filter(of_build).collect() };
    Ok(Choice { row, selection, faked: fake.is_some(), passed_over })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backend that exists in tests alone: a row is all it takes.
    fn third(detect: fn() -> Detection) -> Row {
        Row {
            backend: KernelBackend::Hip,
            detect,
            #[cfg(feature = "gpu")]
            open: None,
        }
    }

    fn rows(detect: fn() -> Detection) -> Vec<Row> {
        vec![REGISTRY[0], third(detect)]
    }

    fn there() -> Detection {
        Detection::Devices(vec!["test device".into()])
    }

    fn absent() -> Detection {
        Detection::Missing("no driver; install it".into())
    }

    fn select_of(rows: &[Row], request: &str, fake: Option<&str>) -> Result<Choice> {
        let fake = fake.map(|text| Fake::parse(text).unwrap());
        select_from(rows, DeviceRequest::parse(request).unwrap(), fake.as_ref())
    }

    #[test]
    fn a_third_backend_takes_one_row() {
        for request in ["auto", "gpu", "hip"] {
            let choice = select_of(&rows(there), request, None).unwrap();
            assert_eq!((choice.row.backend, choice.faked), (KernelBackend::Hip, false), "{request}");
            assert!(choice.check_real().is_ok());
            let line = choice.selection.to_string();
            assert!(line.contains("compiled=[cpu,hip] detected=[cpu,hip] selected=hip"), "{line}");
        }
        let choice = select_of(&rows(there), "cpu", None).unwrap();
        assert_eq!(choice.selection.detected, ["cpu"], "a CPU that was asked for needs no look at drivers");
    }

    #[test]
    fn auto_falls_back_and_says_why_a_demand_does_not() {
        let choice = select_of(&rows(absent), "auto", None).unwrap();
        assert_eq!(choice.row.backend, KernelBackend::Cpu);
        assert_eq!(choice.passed_over, ["hip: no driver; install it"]);
        for request in ["gpu", "hip", "cuda", "metal"] {
            let Err(error) = select_of(&rows(absent), request, None) else {
                panic!("{request} is not there")
            };
            assert_eq!(error.exit_code(), bitforge_schema::exit::ExitCode::Unavailable);
            let text = error.to_string();
            let why = if request == "metal" { "this build has no metal backend" } else { "no driver" };
            assert!(text.contains(request) && (request == "cuda" || text.contains(why)), "{text}");
        }
    }

    #[test]
    fn compiled_detected_and_selected_are_apart() {
        let choice = select_of(&rows(absent), "auto", None).unwrap();
        let Selection { compiled, detected, selected, .. } = choice.selection;
        assert_eq!(
            (compiled, detected, selected.as_str()),
            (vec!["cpu".into(), "hip".into()], vec!["cpu".to_string()], "cpu")
        );
        assert_eq!(gpu_compiled(), cfg!(feature = "cuda"));
        assert!(gpu_compiled() || !gpu_available_runtime());
    }

    #[test]
    fn a_fake_shows_in_the_choice_and_never_runs() {
        let choice = select_of(&rows(absent), "auto", Some("hip=2")).unwrap();
        assert_eq!((choice.row.backend, choice.faked), (KernelBackend::Hip, true));
        assert!(choice.selection.reason.contains("fake hip device 1"), "{}", choice.selection.reason);
        let text = choice.check_real().unwrap_err().to_string();
        assert!(text.contains("BITNET_GPU_FAKE"), "{text}");
        let none = select_of(&rows(there), "auto", Some("none")).unwrap();
        assert_eq!((none.row.backend, none.check_real().is_ok()), (KernelBackend::Cpu, true));
        assert!(
            select_of(&rows(there), "gpu", Some("cuda")).is_err(),
            "a fake does not compile a backend in"
        );
    }

    #[test]
    fn the_grammar_of_fakes() {
        let parsed = Fake::parse("cuda=2,hip").unwrap();
        assert_eq!(parsed, Fake(vec![(KernelBackend::Cuda, 2), (KernelBackend::Hip, 1)]));
        assert_eq!(Fake::parse("none").unwrap(), Fake(vec![]));
        for bad in
            ["", "cpu", "cuda=0", "cuda=x", "cuda=65", "cuda,cuda", "cuda;hip", "none,cuda", "cuda=", "rocm"]
        {
            let text = Fake::parse(bad).unwrap_err().to_string();
            assert!(text.contains(Fake::VARIABLE) && text.contains("=COUNT"), "{bad}: {text}");
        }
    }

    #[test]
    fn strict_mode_refuses_fakes_with_an_error() {
        let env = Env::from_pairs([(Fake::VARIABLE, "cuda")]);
        assert!(Fake::from_env(&env, false).unwrap().is_some());
        assert!(Fake::from_env(&Env::default(), true).unwrap().is_none());
        let error = Fake::from_env(&env, true).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("BITNET_STRICT_MODE"));
    }

    #[test]
    fn requests_by_name() {
        for name in ["auto", "gpu", "cpu", "cuda", "hip", "metal"] {
            assert_eq!(DeviceRequest::parse(name).unwrap().name(), name);
        }
        assert!(DeviceRequest::parse("tpu").unwrap_err().to_string().contains("hip, metal"));
    }
}
