//! `xtask analyze-library` as a process: output on the right stream, exit code from the table.

use std::path::Path;
use std::process::{Command, Output};

fn analyze(words: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/elf/bin");
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("analyze-library")
        .args(words)
        .current_dir(root)
        .output()
        .expect("the binary under test starts")
}

#[test]
fn report_on_stdout_and_success() {
    let output = analyze(&["libvec.so"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("T dot@@VEC_2.0"));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn json_stays_clean_when_an_expectation_fails() {
    let output = analyze(&["libllama-new.so", "--expect", "i2s", "--json"]);
    assert_eq!(output.status.code(), Some(7));
    let libraries: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(libraries[0]["llama_api"]["generation"], "new");
    assert!(String::from_utf8(output.stderr).unwrap().contains("missing ggml_vec_dot_i2_i8_s"));
}

#[test]
fn exit_codes_tell_missing_from_malformed_from_misused() {
    assert_eq!(analyze(&["nothing.so"]).status.code(), Some(4));
    assert_eq!(analyze(&["libthin.a"]).status.code(), Some(3));
    assert_eq!(analyze(&["libvec.so", "--expect", "nonsense"]).status.code(), Some(2));
}
