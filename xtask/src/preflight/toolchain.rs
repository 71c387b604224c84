//! Compilers and build tools: Rust, C and C++, cmake, ninja, python3 with pip or venv.

use super::Check;
use super::system::{Package, System};
use crate::cli::Class;
use crate::proc::Probe;
use crate::report::State;
use serde::Deserialize;

/// The oldest Rust that builds the workspace: `rust-version` in Cargo.toml.
const RUST: &str = env!("CARGO_PKG_RUST_VERSION");
const PYTHON: [u32; 3] = [3, 8, 0];

pub fn rust(system: &System<'_>) -> Vec<Check> {
    let check = |found: String| Check::ok("rust", Class::Toolchain, found, "building everything");
    let [rustc, fmt, clippy] = std::thread::scope(|scope| {
        ["rustc", "cargo-fmt", "cargo-clippy"]
            .map(|program| scope.spawn(move || system.probe(program, &["--version"])))
            .map(|thread| thread.join().expect("a probe does not panic"))
    });
    let compiler = match rustc {
        Probe::Output(text) => match version(&text) {
            Some(found) if found >= version(RUST).unwrap_or_default() => check(text),
            Some(_) => check(format!("{text}, older than {RUST}")).but(State::Fail, "rustup update stable"),
            None => check(format!("`rustc --version` printed {text}"))
                .but(State::CouldNotCheck, "rustc --version"),
        },
        Probe::Missing => check("rustc is not on PATH".into())
            .but(State::Fail, format!("rustup toolchain install {RUST} --component clippy,rustfmt")),
        other => check(describe("rustc", &other)).but(State::CouldNotCheck, "rustc --version"),
    };
    let component = |id, component: &str, probe: Probe| {
        let check = |found: String| Check::ok(id, Class::Toolchain, found, "cargo xtask test");
        match probe {
            Probe::Output(text) => check(text),
            Probe::TimedOut => {
                check(describe(id, &probe)).but(State::CouldNotCheck, format!("cargo {id} --version"))
            }
            _ => check("not installed".into()).but(State::Warn, format!("rustup component add {component}")),
        }
    };
    vec![compiler, component("fmt", "rustfmt", fmt), component("clippy", "clippy", clippy)]
}

/// The C and C++ compilers, cmake and ninja.
pub fn native(system: &System<'_>) -> Vec<Check> {
    let gcc = Package { apt: "gcc libc6-dev", dnf: "gcc glibc-devel", apk: "gcc musl-dev", brew: "gcc" };
    let gxx = Package { apt: "g++", dnf: "gcc-c++", apk: "g++", brew: "gcc" };
    let cmake = Package { apt: "cmake", dnf: "cmake", apk: "cmake", brew: "cmake" };
    let ninja = Package { apt: "ninja-build", dnf: "ninja-build", apk: "samurai", brew: "ninja" };
    let cc_override = system.ctx.env.get("CC");
    let cxx_override = system.ctx.env.get("CXX");
    let references = "building the C++ references (not for `up` and `test`)";
    let builders = "building the C++ references (`reference build` installs its own where it is missing)";
    let tools: [(&str, Vec<&str>, Package, State, &str); 4] = [
        (
            "cc",
            cc_override.into_iter().chain(["cc", "gcc", "clang"]).collect(),
            gcc,
            State::Fail,
            "linking Rust programs",
        ),
        (
            "c++",
            cxx_override.into_iter().chain(["c++", "g++", "clang++"]).collect(),
            gxx,
            State::Warn,
            references,
        ),
        ("cmake", vec!["cmake"], cmake, State::Warn, builders),
        ("ninja", vec!["ninja", "samu"], ninja, State::Warn, builders),
    ];
    std::thread::scope(|scope| {
        let threads: Vec<_> = tools
            .into_iter()
            .map(|(id, programs, package, absent, needed_for)| {
                scope.spawn(move || tool(system, id, &programs, &package, absent, needed_for))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a check does not panic")).collect()
    })
}

/// The first of `programs` that answers; the state `absent` where none does.
fn tool(
    system: &System<'_>,
    id: &'static str,
    programs: &[&str],
    package: &Package,
    absent: State,
    needed_for: &'static str,
) -> Check {
    let mut seen = format!("none of {} is on PATH", programs.join(", "));
    let mut state = absent;
    for program in programs {
        match system.probe(program, &["--version"]) {
            Probe::Output(text) => {
                let first = text.lines().next().unwrap_or_default();
                return Check::ok(id, Class::Toolchain, format!("{program}: {first}"), needed_for);
            }
            Probe::Missing => {}
            other => {
                seen = describe(program, &other);
                state = if other == Probe::TimedOut { State::CouldNotCheck } else { absent };
            }
        }
    }
    Check::ok(id, Class::Toolchain, seen, needed_for).but(state, system.install(package))
}

/// What one run of python3 said about itself and about pip.
#[derive(Debug, Default, Deserialize)]
pub struct PythonFacts {
    pub version: [u32; 3],
    pub pip: Option<String>,
    pub venv: bool,
    /// Folders where pip installs packages.
    #[serde(default)]
    pub site: Vec<String>,
    /// The package index as pip is configured, `None` where it is told to use none.
    pub index_url: Option<String>,
    #[serde(default)]
    pub proxy: Option<String>,
    /// Why there are no facts.
    #[serde(skip)]
    pub problem: Option<Probe>,
}

/// Asks python3 once for everything. pip's configuration is read by the rules pip documents, which takes a
/// tenth of the time of `pip config`.
const ASK_PYTHON: &str = include_str!("ask_python.py");

pub fn probe_python(system: &System<'_>) -> PythonFacts {
    match system.probe("python3", &["-c", ASK_PYTHON]) {
        Probe::Output(text) => serde_json::from_str(&text).unwrap_or_else(|error| PythonFacts {
            problem: Some(Probe::Failed(format!("unexpected answer: {error}"))),
            ..PythonFacts::default()
        }),
        other => PythonFacts { problem: Some(other), ..PythonFacts::default() },
    }
}

pub fn python(system: &System<'_>, facts: &PythonFacts) -> Vec<Check> {
    let package = Package { apt: "python3 python3-venv", dnf: "python3", apk: "python3", brew: "python3" };
    let needed_for = "fetching models";
    let check = |found: String| Check::ok("python3", Class::Toolchain, found, needed_for);
    let [major, minor, patch] = facts.version;
    let python = match &facts.problem {
        Some(Probe::Missing) => {
            return vec![check("python3 is not on PATH".into()).but(State::Fail, system.install(&package))];
        }
        Some(other) => {
            return vec![check(describe("python3", other)).but(State::CouldNotCheck, "python3 --version")];
        }
        None if facts.version < PYTHON => {
            check(format!("{major}.{minor}.{patch}, older than {}.{}", PYTHON[0], PYTHON[1]))
                .but(State::Fail, system.install(&package))
        }
        None => check(format!("{major}.{minor}.{patch}")),
    };
    let pip = |found: String| Check::ok("pip", Class::Toolchain, found, needed_for);
    let pip = match &facts.pip {
        Some(version) => pip(format!("pip {version}")),
        None if facts.venv => pip("no pip; a private venv will be made".into()),
        None => pip("neither pip nor venv".into()).but(
            State::Warn,
            system.install(&Package {
                apt: "python3-venv python3-pip",
                dnf: "python3-pip",
                apk: "py3-pip",
                brew: "python3",
            }),
        ),
    };
    vec![python, pip]
}

fn describe(program: &str, probe: &Probe) -> String {
    match probe {
        Probe::Output(text) => text.clone(),
        Probe::Missing => format!("{program} is not on PATH"),
        Probe::Failed(message) => format!("{program} failed: {message}"),
        Probe::TimedOut => format!("{program} did not answer in time"),
    }
}

/// The first dotted number in `text`, as (major, minor).
pub fn version(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).find_map(|word| {
        let mut parts = word.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Ctx;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A PATH with only the given scripts.
    fn with_programs<T>(programs: &[(&str, &str)], look: impl FnOnce(&System<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        for (name, body) in programs {
            let file = dir.path().join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let env = Env::from_pairs([("PATH", dir.path().to_str().unwrap())]);
        let ctx = Ctx::new(None, env, Reporter::for_tests());
        look(&System { ctx: &ctx, sysroot: Path::new("/") })
    }

    fn states(checks: &[Check]) -> Vec<(&str, State)> {
        checks.iter().map(|check| (check.id, check.state)).collect()
    }

    #[test]
    fn versions_are_found_in_prose() {
        assert_eq!(version("rustc 1.95.0 (59807616e 2026-04-14)"), Some((1, 95)));
        assert_eq!(version("1.95"), Some((1, 95)));
        assert_eq!(version("gcc (Debian 12.2.0-14) 12.2.0"), Some((12, 2)));
        assert_eq!(version("no number"), None);
    }

    #[test]
    fn an_old_rust_fails_and_missing_components_warn() {
        let checks = with_programs(&[("rustc", "echo rustc 1.80.0")], rust);
        assert_eq!(states(&checks), [("rust", State::Fail), ("fmt", State::Warn), ("clippy", State::Warn)]);
        assert_eq!(checks[0].fix.as_deref(), Some("rustup update stable"));
        assert_eq!(checks[2].fix.as_deref(), Some("rustup component add clippy"));
    }

    #[test]
    fn a_machine_without_a_compiler_fails_with_the_install_command() {
        let checks = with_programs(&[("dnf", "")], native);
        assert_eq!(
            states(&checks),
            [("cc", State::Fail), ("c++", State::Warn), ("cmake", State::Warn), ("ninja", State::Warn)]
        );
        assert_eq!(checks[0].fix.as_deref(), Some("dnf install -y gcc glibc-devel"));
    }

    #[test]
    fn the_second_name_of_a_compiler_is_taken() {
        let checks = with_programs(&[("clang", "echo clang version 19.1")], native);
        assert_eq!((checks[0].state, checks[0].found.as_str()), (State::Ok, "clang: clang version 19.1"));
    }

    #[test]
    fn python_is_judged_by_its_answer() {
        let answer = r#"echo '{"version":[3,7,2],"pip":null,"venv":false,"index_url":null}'"#;
        let checks = with_programs(&[("python3", answer)], |s| python(s, &probe_python(s)));
        assert_eq!(states(&checks), [("python3", State::Fail), ("pip", State::Warn)]);
        let checks = with_programs(&[], |s| python(s, &probe_python(s)));
        assert_eq!(states(&checks), [("python3", State::Fail)]);
        let checks = with_programs(&[("python3", "echo nonsense")], |s| python(s, &probe_python(s)));
        assert_eq!(states(&checks), [("python3", State::CouldNotCheck)]);
    }

    #[test]
    fn the_real_python_answers_with_its_configuration() {
        let env = Env::from_process();
        let path = env.get("PATH").unwrap_or_default();
        let env = Env::from_pairs([("PATH", path), ("PIP_INDEX_URL", "https://index.example/simple")]);
        let ctx = Ctx::new(None, env, Reporter::for_tests());
        let system = System { ctx: &ctx, sysroot: Path::new("/") };
        let Some(python) = system.which("python3") else { return };
        let command = crate::proc::Command::new(python).args(["-c", ASK_PYTHON]);
        let text = crate::proc::read(&ctx, &command).unwrap();
        let facts: PythonFacts = serde_json::from_str(&text).unwrap();
        assert!(facts.version >= PYTHON);
        assert_eq!(facts.index_url.as_deref(), Some("https://index.example/simple"));
    }
}
