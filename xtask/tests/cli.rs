//! The built `xtask` on planted checkouts: exit codes, JSON on stdout, text on stderr, Ctrl-C.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A folder that xtask takes for a checkout, with a cache of its own.
struct Checkout(tempfile::TempDir);

impl Checkout {
    fn new() -> Self {
        let checkout = Checkout(tempfile::tempdir().unwrap());
        checkout.write("Cargo.lock", "");
        checkout.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"xtask\"]\n");
        checkout.write(
            "xtask/Cargo.toml",
            "[package]\nname = \"xtask\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        );
        checkout.write("xtask/src/main.rs", "fn main() {}\n");
        checkout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.path(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        self.write(name, &format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(args)
            .current_dir(self.0.path())
            .env("BITNET_CACHE_DIR", self.path("cache"))
            .env("COLUMNS", "100")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("BITNET_OFFLINE");
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(args).output().unwrap();
        self.texts(&output)
    }

    /// Exit code, stdout and stderr, with the folder written as ROOT.
    fn texts(&self, output: &Output) -> (Option<i32>, String, String) {
        let plain = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).unwrap().replace(self.0.path().to_str().unwrap(), "ROOT")
        };
        (output.status.code(), plain(&output.stdout), plain(&output.stderr))
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn help_lists_the_commands() {
    let (code, stdout, stderr) = Checkout::new().run(&["--help"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!(stdout);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    assert_eq!(Checkout::new().run(&["models"]).0, Some(2));
    assert_eq!(Checkout::new().run(&["no-such-command"]).0, Some(2));
}

#[test]
fn outside_a_checkout_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("tidy").current_dir(folder.path()).env_remove("CARGO_MANIFEST_DIR");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not inside a bitforge checkout"));
}

/// A command that starts the real binary of the runtime.
fn with_binary(checkout: &Checkout, args: &[&str]) -> Command {
    let mut command = checkout.command(args);
    command.env("BITNET_BINARY", support::build("bitnet", &[])).env_remove("HF_ENDPOINT");
    command
}

#[test]
fn models_are_the_binarys() {
    let checkout = Checkout::new();
    let run = |args: &[&str]| {
        let (code, stdout, stderr) = checkout.texts(&with_binary(&checkout, args).output().unwrap());
        (code.unwrap(), stdout, stderr)
    };
    let (code, stdout, stderr) = run(&["models", "list", "--json"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(json(&stdout)["models"][0]["cached"], false);

    let (code, stdout, _) = run(&["models", "path", "smollm2-135m", "--json"]);
    assert_eq!((code, &json(&stdout)["error"]["kind"]), (4, &"not-found".into()));
    let (code, _, stderr) = run(&["models", "fetch", "smollm2-135"]);
    assert!(code == 4 && stderr.contains("nearest: smollm2-135m"), "{stderr}");
    assert_eq!(run(&["models", "fetch"]).0, 2);

    let (code, stdout, _) = run(&["--offline", "models", "fetch", "fixture-llama"]);
    assert_eq!((code, stdout.as_str()), (0, "ROOT/cache/models/fixture-llama/llama-q4_0.gguf\n"));
    let (code, _, stderr) = run(&["--offline", "models", "fetch", "smollm2-135m"]);
    assert!(code == 15 && stderr.contains("the network is switched off"), "{stderr}");
}

#[test]
fn an_unknown_variable_gets_a_warning() {
    let checkout = Checkout::new();
    let output = checkout.command(&["docs"]).env("BITNET_OFLINE", "1").output().unwrap();
    let (code, _, stderr) = checkout.texts(&output);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!(stderr.lines().next().unwrap());
}

#[test]
fn preflight_prints_one_json_value_and_a_matching_exit_code() {
    let (code, stdout, _) = Checkout::new().run(&["preflight", "--json"]);
    let report = json(&stdout);
    assert_eq!(report["exit_code"].as_i64(), code.map(i64::from));
    let checks = report["checks"].as_array().unwrap();
    let sum = ["ok", "warn", "fail", "could_not_check"]
        .map(|key| report[key].as_u64().unwrap())
        .iter()
        .sum::<u64>();
    assert_eq!(checks.len() as u64, sum);
    let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    for id in
        ["rust", "cc", "python3", "cpu", "memory", "disk-cache", "cuda", "nvrtc", "cargo-index", "pip-index"]
    {
        assert!(ids.contains(&id), "{id} is not among {ids:?}");
    }
    for check in checks {
        assert_eq!(check["state"] == "ok", check["fix"].is_null(), "{check}");
    }
}

#[test]
fn preflight_without_network_is_not_a_pass_and_can_be_required() {
    let checkout = Checkout::new();
    let (code, stdout, stderr) = checkout.run(&["preflight", "--offline", "--require", "network"]);
    assert_eq!((code, stdout.as_str()), (Some(6), ""));
    assert!(stderr.contains("was not asked: offline") || stderr.contains("no pip to ask"), "{stderr}");
}

#[test]
fn docs_are_written_and_checked() {
    let checkout = Checkout::new();
    let (code, _, stderr) = checkout.run(&["docs", "--check"]);
    assert_eq!(code, Some(7));
    insta::assert_snapshot!("docs_stale", stderr);
    let (code, stdout, stderr) = checkout.run(&["docs", "--json"]);
    assert_eq!(code, Some(0));
    insta::assert_snapshot!("docs_written_json", stdout);
    insta::assert_snapshot!("docs_written", stderr);
    assert_eq!(checkout.run(&["docs", "--check"]).0, Some(0));
}

#[test]
fn tidy_names_rule_path_and_remedy() {
    let checkout = Checkout::new();
    for name in [
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "deny.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "ci/a",
        "fixtures/a",
        "runtime/a",
        "tools/a",
    ] {
        checkout.write(name, "x");
    }
    checkout.run(&["docs"]);
    let (code, stdout, stderr) = checkout.run(&["tidy", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    insta::assert_snapshot!("tidy_json", stdout);
    checkout.write("notes.txt", "x");
    checkout.write("README.md", "[gone](gone.md)");
    let (code, stdout, stderr) = checkout.run(&["tidy"]);
    assert_eq!((code, stdout.as_str()), (Some(7), ""));
    insta::assert_snapshot!("tidy_human", stderr);
}

#[test]
fn a_termination_signal_ends_the_children_and_leaves_nothing_half_done() {
    let checkout = Checkout::new();
    // A pip whose download never ends, with a child of its own.
    checkout.program(
        "bin/python3",
        "case \"$*\" in *--version*) echo pip 1 ;;\n*) echo half > \"$TMPDIR/half\"; (sleep 60; :) & echo $! > \"$PIDS\"; wait ;; esac",
    );
    let pids = checkout.path("pids");
    let path = format!("{}:{}", checkout.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = with_binary(&checkout, &["models", "fetch", "smollm2-135m"]);
    command.env("PATH", path).env("PIDS", &pids).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let partial = checkout.path("cache/models/smollm2-135m.partial");
    wait_until(|| std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')));
    assert!(partial.join("half").is_file());
    // SAFETY: the child was not waited for, so its id is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let (code, stdout, stderr) = checkout.texts(&child.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(130), ""), "{stderr}");
    assert!(!partial.exists());
    let grandchild = std::fs::read_to_string(&pids).unwrap();
    wait_until(|| !is_running(grandchild.trim()));
}

/// Whether a process is there and not only waiting to be collected.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// Waits for something that another process does; a minute is far more than it takes.
fn wait_until(mut condition: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited a minute in vain");
}
