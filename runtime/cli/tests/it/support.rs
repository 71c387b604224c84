//! Running the binary, and taking out of its output what differs between machines and runs.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// File names of the good fixtures: every architecture and tensor type.
pub fn fixtures() -> Vec<String> {
    gguf_files("fixtures/gguf/ok")
}

/// Names of the GGUF files in a folder of the workspace, sorted.
pub fn gguf_files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).expect("the folder is there");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".gguf")).collect();
    names.sort();
    assert!(names.len() >= 6, "{folder}: {names:?}");
    names
}

/// The one that tests use where any would do.
pub const MODEL: &str = "fixtures/gguf/ok/bitnet-b158-i2_s.gguf";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate is in the workspace")
        .to_owned()
}

pub fn ok(name: &str) -> String {
    format!("fixtures/gguf/ok/{name}")
}

/// A command in the workspace root, so that paths in the output are the same everywhere, without any of the
/// caller's environment. Where cargo starts the tests with a runner, an emulator of another CPU, so does this.
pub fn bitnet(args: &[&str]) -> Command {
    let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
    let runner = std::env::var(runner).unwrap_or_default();
    let mut words = runner.split_whitespace().chain([env!("CARGO_BIN_EXE_bitnet")]);
    let mut command = Command::new(words.next().expect("at least the binary"));
    command.args(words).args(args).current_dir(root()).env_clear().stdin(Stdio::null());
    command
}

pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e} in {:?}\n{}", self.stdout, self.stderr))
    }
}

pub fn run(args: &[&str]) -> Ran {
    finish(bitnet(args).output().expect("the binary starts"))
}

/// Sends a signal, without a program that may not be there.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: the child was not waited for, so its id is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

pub fn finish(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("not ended by a signal");
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs with `--json` and expects success.
pub fn json(args: &[&str]) -> Value {
    let ran = run(&[args, &["--json"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.json()
}

/// The ids in a JSON array.
pub fn ids(value: &Value) -> Vec<u64> {
    value.as_array().expect("an array").iter().map(|id| id.as_u64().expect("an id")).collect()
}

/// Replaces what differs between machines, builds and runs.
pub fn stable(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => map.iter_mut().for_each(|(key, value)| {
                let varies = key.ends_with("_ms")
                    || key.ends_with("_per_second")
                    || ["samples_ns", "detected", "compiled", "selection", "selection_line"]
                        .contains(&key.as_str())
                    || ["build", "available"].contains(&key.as_str());
                // `selection` is a line in some outputs and an object with stable parts in others.
                if varies && !(key == "selection" && value.is_object()) {
                    *value = "[varies]".into();
                } else {
                    walk(value);
                }
            }),
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}
