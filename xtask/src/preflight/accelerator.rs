//! NVIDIA driver, devices and NVRTC, by looking at files; nothing is loaded, so a broken driver cannot hurt.

use super::Check;
use super::system::{Package, System};
use super::toolchain::PythonFacts;
use crate::cli::Class;
use crate::proc::Probe;
use crate::report::State;
use std::path::{Path, PathBuf};

/// Folders where a loader looks, beside LD_LIBRARY_PATH and /etc/ld.so.conf.d.
const LIBRARY_DIRS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/cuda/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

pub fn driver(system: &System<'_>) -> Check {
    let check = |found: String| Check::ok("cuda", Class::Accelerator, found, "running models on a GPU");
    let install = || {
        system.install(&Package {
            apt: "nvidia-driver",
            dnf: "akmod-nvidia",
            apk: "nvidia-driver",
            brew: "nvidia-driver",
        })
    };
    let library = find_library(system, &library_dirs(system), "libcuda.so.1");
    let version = system.read("/proc/driver/nvidia/version").and_then(|text| driver_version(&text));
    let (version, devices) = match (version, device_names(system)) {
        (version, names) if !names.is_empty() => (version, names),
        (version, _) => match ask_nvidia_smi(system) {
            Ok(Some((smi_version, names))) => (version.or(Some(smi_version)), names),
            Ok(None) => (version, Vec::new()),
            Err(problem) => return check(problem).but(State::CouldNotCheck, "nvidia-smi"),
        },
    };
    match (library, devices.as_slice()) {
        (Some(library), [_, ..]) => {
            let version = version.unwrap_or_else(|| "of unknown version".into());
            check(format!("driver {version}, {}, {}", devices.join(", "), library.display()))
        }
        (None, [_, ..]) => {
            check(format!("{}, but no libcuda.so.1", devices.join(", "))).but(State::Warn, install())
        }
        (Some(library), []) => {
            check(format!("{}, but no device", library.display())).but(State::Warn, "nvidia-smi -L")
        }
        (None, []) if has_nvidia_hardware(system) => {
            check("an NVIDIA device without a driver".into()).but(State::Warn, install())
        }
        (None, []) => check("no NVIDIA device".into()).but(State::Warn, "bitnet run --device cpu"),
    }
}

/// The run-time compiler for CUDA kernels, from a toolkit or a Python wheel.
pub fn nvrtc(system: &System<'_>, python: &PythonFacts) -> Check {
    let mut dirs = library_dirs(system);
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        dirs.extend(system.ctx.env.get(name).map(|dir| Path::new(dir).join("lib64")));
    }
    for site in &python.site {
        let packages = system.list(&format!("{site}/nvidia"));
        dirs.extend(packages.into_iter().map(|package| package.join("lib")));
    }
    let check = |found: String| Check::ok("nvrtc", Class::Accelerator, found, "compiling CUDA kernels");
    match find_library(system, &dirs, "libnvrtc.so") {
        Some(path) => check(path.display().to_string()),
        None => check("libnvrtc was not found".into())
            .but(State::Warn, "python3 -m pip install nvidia-cuda-nvrtc"),
    }
}

fn library_dirs(system: &System<'_>) -> Vec<PathBuf> {
    let from_variable = system.ctx.env.get("LD_LIBRARY_PATH").unwrap_or_default();
    let configured = system.list("/etc/ld.so.conf.d").into_iter().flat_map(|file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(str::trim)
            .filter(|line| line.starts_with('/'))
            .map(PathBuf::from)
            .collect::<Vec<_>>()
    });
    std::env::split_paths(from_variable)
        .filter(|dir| dir.is_absolute())
        .chain(configured)
        .chain(LIBRARY_DIRS.iter().map(PathBuf::from))
        .collect()
}

/// The first file in `dirs` (below the system root) named `name` or `name.VERSION`.
fn find_library(system: &System<'_>, dirs: &[PathBuf], name: &str) -> Option<PathBuf> {
    dirs.iter().find_map(|dir| {
        let dir = if dir.starts_with(system.sysroot) { dir.clone() } else { system.path(dir.to_str()?) };
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
                file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .collect();
        files.sort();
        files.into_iter().next()
    })
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed ...`.
fn driver_version(text: &str) -> Option<String> {
    let words = text.lines().next()?.split_whitespace();
    words
        .into_iter()
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(Into::into)
}

fn device_names(system: &System<'_>) -> Vec<String> {
    let model = |dir: PathBuf| {
        let text = std::fs::read_to_string(dir.join("information")).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_string()))
    };
    system.list("/proc/driver/nvidia/gpus").into_iter().filter_map(model).collect()
}

/// Driver version and device names where the kernel's files do not show them (WSL, some containers).
/// `Err` where the tool is there but gave no answer.
fn ask_nvidia_smi(system: &System<'_>) -> Result<Option<(String, Vec<String>)>, String> {
    match system.probe("nvidia-smi", &["--query-gpu=driver_version,name", "--format=csv,noheader"]) {
        Probe::Output(text) => {
            let rows: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(", ")).collect();
            let names = rows.iter().map(|(_, name)| name.trim().to_string()).collect();
            Ok(rows.first().map(|(version, _)| (version.to_string(), names)))
        }
        Probe::Missing => Ok(None),
        Probe::Failed(message) => Err(format!("nvidia-smi failed: {message}")),
        Probe::TimedOut => Err("nvidia-smi did not answer in time".into()),
    }
}

fn has_nvidia_hardware(system: &System<'_>) -> bool {
    system.list("/sys/bus/pci/devices").iter().any(|device| {
        let read = |name: &str| std::fs::read_to_string(device.join(name)).unwrap_or_default();
        read("vendor").trim() == "0x10de" && read("class").starts_with("0x03")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Ctx;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    fn with_files<T>(files: &[(&str, &str)], look: impl FnOnce(&System<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = dir.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let ctx = Ctx::new(None, Env::default(), Reporter::for_tests());
        look(&System { ctx: &ctx, sysroot: dir.path() })
    }

    const LIBRARY: (&str, &str) = ("/usr/lib64/libcuda.so.1", "");
    const VERSION: (&str, &str) = (
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed Aug 27\nGCC version: 12.2.0\n",
    );
    const DEVICE: (&str, &str) =
        ("/proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n");

    #[test]
    fn a_driver_with_a_device_is_ok() {
        let check = with_files(&[LIBRARY, VERSION, DEVICE], driver);
        assert_eq!(check.state, State::Ok);
        assert!(check.found.starts_with("driver 580.82.07, NVIDIA H100 80GB HBM3, "), "{}", check.found);
    }

    #[test]
    fn half_a_driver_is_a_warning_that_says_which_half() {
        let check = with_files(&[DEVICE], driver);
        assert_eq!(check.state, State::Warn);
        assert_eq!(check.found, "NVIDIA H100 80GB HBM3, but no libcuda.so.1");
        let check = with_files(&[LIBRARY], driver);
        assert_eq!(check.state, State::Warn);
        assert!(check.found.ends_with("libcuda.so.1, but no device"), "{}", check.found);
        let hardware =
            [("/sys/bus/pci/devices/0/vendor", "0x10de\n"), ("/sys/bus/pci/devices/0/class", "0x030200\n")];
        assert_eq!(with_files(&hardware, driver).found, "an NVIDIA device without a driver");
        assert_eq!(with_files(&[], driver).found, "no NVIDIA device");
    }

    #[test]
    fn nvrtc_is_found_in_a_wheel_and_by_exact_name() {
        let facts = PythonFacts { site: vec!["/site".into()], ..PythonFacts::default() };
        let wheel = [("/site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "")];
        assert_eq!(with_files(&wheel, |system| nvrtc(system, &facts).state), State::Ok);
        let other = [("/usr/lib64/libnvrtc-builtins.so.12", "")];
        assert_eq!(with_files(&other, |system| nvrtc(system, &facts).state), State::Warn);
    }

    #[test]
    fn configured_folders_are_searched() {
        let files = [("/etc/ld.so.conf.d/x.conf", "# a\n/opt/cuda/lib\n"), ("/opt/cuda/lib/libnvrtc.so", "")];
        assert_eq!(with_files(&files, |system| nvrtc(system, &PythonFacts::default()).state), State::Ok);
    }
}
