//! What tests with real processes share: the checkout, and binaries of the runtime built for them.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Builds a binary of the runtime once, with the profile of the tests.
pub fn build(name: &str, features: &[&str]) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--locked", "-p", "bitnet-cli", "--bin", name, "--message-format", "json"])
        .args(features)
        .current_dir(root())
        .env("CARGO_NET_OFFLINE", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let messages = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let executable =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.expect("cargo names the executable")
}
