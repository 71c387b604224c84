//! The built drivers on the fixtures: llama.cpp's logits against the goldens, bitnet.cpp's I2_S, and what a
//! driver says when its reference is missing.

use serde_json::Value;
#[cfg(any(reference_llama, reference_bitnet))]
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Exit code, the answers to `requests` after the hello, stderr.
fn driver(binary: &str, model: &str, requests: &[Value]) -> (Option<i32>, Vec<Value>, String) {
    let mut child = Command::new(binary)
        .args(["evaluate", "--model", model])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for request in requests {
        // A driver that has ended already reads nothing.
        let _ = writeln!(stdin, "{request}");
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), lines, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(not(all(reference_llama, reference_bitnet)))]
fn assert_says_what_is_missing(binary: &str, name: &str) {
    let (code, _, stderr) = driver(binary, "x", &[]);
    assert_eq!(code, Some(5), "{stderr}");
    assert!(stderr.contains(&format!("cargo xtask reference build {name}")), "{stderr}");
    assert!(stderr.contains("BITNET_CROSSVAL_LIBDIR"), "{stderr}");
}

const LLAMA: &str = env!("CARGO_BIN_EXE_reference-driver-llama");
const BITNET: &str = env!("CARGO_BIN_EXE_reference-driver-bitnet");

#[cfg(not(reference_llama))]
#[test]
fn without_llama_the_driver_says_so() {
    assert_says_what_is_missing(LLAMA, "llama");
}

#[cfg(not(reference_bitnet))]
#[test]
fn without_bitnet_the_driver_says_so() {
    assert_says_what_is_missing(BITNET, "bitnet");
}

#[cfg(reference_llama)]
#[test]
fn llama_gives_the_logits_of_the_goldens() {
    use sha2::{Digest, Sha256};
    let golden = std::fs::read_to_string(root().join("fixtures/goldens/fixture-logits.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let tokens = golden["tokens"].as_array().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits").display().to_string();
    let mut different = Vec::new();
    for (name, expected) in golden["models"].as_object().unwrap() {
        let model = format!("fixtures/gguf/ok/{name}");
        let request = json!({"op": "evaluate", "tokens": tokens, "logits": out});
        let (code, answers, stderr) = driver(LLAMA, &model, &[request]);
        assert_eq!((code, &answers[0]["result"]), (Some(0), &"evaluated".into()), "{name}: {stderr}");
        let bytes = std::fs::read(&out).unwrap();
        let rows = bytes.chunks(bytes.len() / tokens.len());
        let digests: Vec<String> = rows.map(|row| format!("{:x}", HexOf(&Sha256::digest(row)))).collect();
        if json!(digests) != expected["sha256"] {
            different.push(name.clone());
        }
    }
    // The goldens are those of a native build with AVX2, FMA and F16C, and without AVX-512 or AMX.
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && !std::arch::is_x86_feature_detected!("avx512f") {
        assert!(different.is_empty(), "other last bits than the goldens: {different:?}");
    }
}

#[cfg(reference_llama)]
struct HexOf<'a>(&'a [u8]);

#[cfg(reference_llama)]
impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(reference_bitnet)]
#[test]
fn bitnet_tokenizes_and_evaluates_a_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits").display().to_string();
    let model = "fixtures/gguf/ok/bitnet-i2_s.gguf";
    let requests = [
        json!({"op": "tokenize", "text": "a b"}),
        json!({"op": "evaluate", "tokens": [1, 20, 34, 55], "logits": out, "taps": format!("{out}.taps")}),
        json!({"op": "bench", "depth": 2, "prompt": 3, "generate": 2}),
        json!({"op": "evaluate", "tokens": [999_999], "logits": format!("{out}.none")}),
        json!({"op": "dance"}),
    ];
    let (code, answers, stderr) = driver(BITNET, model, &requests);
    assert_eq!(code, Some(0), "{stderr}");
    let results: Vec<&str> = answers.iter().map(|answer| answer["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["tokens", "evaluated", "measured", "error", "error"]);
    assert!(!answers[0]["tokens"].as_array().unwrap().is_empty());
    assert_eq!(answers[1]["taps"].as_array().unwrap().len(), 19);
    assert!(answers[2]["prompt_ns"].as_u64().unwrap() > 0);
    let count = 4 * answers[1]["vocabulary"].as_u64().unwrap() as usize;
    let bytes = std::fs::read(&out).unwrap();
    let logits: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(logits.len(), count);
    assert!(logits.iter().all(|logit| logit.is_finite()));
    assert!(logits.iter().any(|logit| *logit != logits[0]));
}
