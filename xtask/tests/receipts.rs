//! Receipts of real runs pass; every mutation fails, and at the gate that is there for it.
//!
//! The runs are real processes on a committed model. The stubbed kernel is `bitnet-planted`'s. Each gate has a
//! receipt that passes it and one that fails it: the latter are edits of the former, named beside their gate.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::{build, root};

const MODEL: &str = "fixtures/gguf/ok/bitnet-b158-tq2_0.gguf";
const OTHER_MODEL: &str = "fixtures/gguf/ok/bitnet-b158-tq1_0.gguf";

fn bitnet() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("bitnet", &[]))
}

/// The receipt that `binary` writes of a run.
fn receipt(binary: &Path, more: &[&str], head: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.json");
    let output = Command::new(binary)
        .args(more)
        .args(["run", "--model", MODEL, "--prompt-tokens", "344,281,314,274", "--max-tokens", "6"])
        .args(["--temperature", "0", "--ignore-eos", "--threads", "2", "--head", head, "--receipt"])
        .arg(&path)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn honest() -> Value {
    static RECEIPT: OnceLock<Value> = OnceLock::new();
    RECEIPT.get_or_init(|| receipt(bitnet(), &[], "full")).clone()
}

struct Verdict {
    code: i32,
    json: Value,
}

impl Verdict {
    fn gate(&self, number: u64) -> (&str, &str) {
        let gates = self.json["gates"].as_array().unwrap();
        let gate =
            gates.iter().find(|gate| gate["gate"] == number).unwrap_or_else(|| panic!("{}", self.json));
        (gate["judgement"].as_str().unwrap(), gate["detail"].as_str().unwrap())
    }

    #[track_caller]
    fn fails_at(&self, number: u64) -> &str {
        assert_eq!(self.code, 7, "{}", self.json);
        assert_eq!(self.json["compute"], "refuted");
        let (judgement, detail) = self.gate(number);
        assert_eq!(judgement, "fail", "gate {number}: {}", self.json);
        detail
    }
}

fn verify_in(dir: &Path, receipt: &Value, model: &str, more: &[&str]) -> Verdict {
    let path = dir.join("run.json");
    std::fs::write(&path, receipt.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["--json", "receipt", "verify"])
        .arg(&path)
        .args(["--model", model, "--binary"])
        .arg(bitnet())
        .args(more)
        .current_dir(root())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    Verdict { code: output.status.code().unwrap(), json }
}

fn verify(receipt: &Value, more: &[&str]) -> Verdict {
    verify_in(tempfile::tempdir().unwrap().path(), receipt, MODEL, more)
}

/// The honest receipt with the value at `pointer` replaced.
fn edited(pointer: &str, value: Value) -> Value {
    let mut receipt = honest();
    *receipt.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    receipt
}

fn number(pointer: &str) -> u64 {
    honest().pointer(pointer).and_then(Value::as_u64).unwrap()
}

fn sha256_of_tokens(tokens: &[u64]) -> String {
    use sha2::{Digest, Sha256};
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| (*token as u32).to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_honest_receipt_passes_and_replays() {
    let verdict = verify(&honest(), &["--replay", "6"]);
    assert_eq!(verdict.code, 0, "{}", verdict.json);
    assert_eq!(verdict.json["compute"], "replayed");
    for gate in [1, 2, 3, 4, 6, 8, 10] {
        assert_eq!(verdict.gate(gate).0, "pass", "gate {gate}: {}", verdict.json);
    }
    // Nothing vouches for parity here, and that is no pass.
    assert_eq!(verdict.gate(7).0, "could-not-check");
    assert_eq!(verdict.gate(9).0, "could-not-check");
    assert_eq!(verify(&honest(), &[]).json["compute"], "consistent");
}

#[test]
fn gate_1_edited_token() {
    let tokens = honest()["body"]["work"]["output_tokens"][2].as_u64().unwrap();
    let verdict = verify(&edited("/body/work/output_tokens/2", json!(tokens ^ 1)), &[]);
    assert!(verdict.fails_at(1).contains("output tokens"), "{}", verdict.json);
}

#[test]
fn gate_1_unknown_fields_and_bad_digests() {
    let mut receipt = honest();
    receipt["body"]["compute"] = json!("real");
    verify(&receipt, &[]).fails_at(1);
    verify(&edited("/body/binary/sha256", json!("none")), &[]).fails_at(1);
    verify(&edited("/version", json!(2)), &[]).fails_at(1);
}

#[test]
fn gate_10_an_edited_token_with_its_digest() {
    let mut receipt = honest();
    let mut tokens: Vec<u64> = receipt["body"]["work"]["output_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_u64().unwrap())
        .collect();
    tokens[3] ^= 1;
    receipt["body"]["work"]["output_tokens"] = json!(tokens);
    receipt["body"]["work"]["output_sha256"] = json!(sha256_of_tokens(&tokens));
    assert_eq!(verify(&receipt, &[]).code, 0, "only a replay can tell");
    let verdict = verify(&receipt, &["--replay", "6"]);
    assert!(verdict.fails_at(10).starts_with("token 3 is"), "{}", verdict.json);
}

#[test]
fn gate_2_a_swapped_model() {
    let dir = tempfile::tempdir().unwrap();
    let verdict = verify_in(dir.path(), &honest(), OTHER_MODEL, &[]);
    assert!(verdict.fails_at(2).contains("another model"), "{}", verdict.json);
}

#[test]
fn gates_2_and_4_a_model_that_never_ran() {
    // Counters of one model under the name and digest of another.
    let other = receipt_of_other_model_file();
    let mut receipt = honest();
    receipt["body"]["model"]["file"] = other;
    let dir = tempfile::tempdir().unwrap();
    let verdict = verify_in(dir.path(), &receipt, OTHER_MODEL, &[]);
    assert!(verdict.fails_at(4).contains("matrices"), "{}", verdict.json);
}

fn receipt_of_other_model_file() -> Value {
    use sha2::{Digest, Sha256};
    let bytes = std::fs::read(root().join(OTHER_MODEL)).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"name": "bitnet-b158-tq1_0.gguf", "bytes": bytes.len(), "sha256": digest})
}

#[test]
fn gate_2_an_absent_file_is_no_pass() {
    let receipt = edited("/body/model/file/name", json!("nowhere.gguf"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.json");
    std::fs::write(&path, receipt.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["--json", "receipt", "verify"])
        .arg(&path)
        .args(["--binary"])
        .arg(bitnet())
        .current_dir(root())
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = Verdict { code: output.status.code().unwrap(), json };
    assert_eq!(verdict.gate(2).0, "could-not-check", "{}", verdict.json);
    assert_eq!(verdict.json["compute"], "not-shown");
}

#[test]
fn gate_3_a_kernel_that_does_not_exist_or_was_not_selected() {
    let verdict = verify(&edited("/body/kernels/0/id", json!("f16.f16.quantum")), &[]);
    assert!(verdict.fails_at(3).contains("no kernel of the binary"), "{}", verdict.json);
    let mut receipt = honest();
    receipt["body"]["selection"]["detected"] = json!(["none"]);
    verify(&receipt, &[]).fails_at(3);
}

#[test]
fn gate_4_edited_counters() {
    for field in ["rows", "bytes"] {
        let pointer = format!("/body/kernels/1/{field}");
        let verdict = verify(&edited(&pointer, json!(number(&pointer) * 102 / 100)), &[]);
        assert!(verdict.fails_at(4).contains("were counted"), "{}", verdict.json);
        // Within one percent is within what is promised.
        let verdict = verify(&edited(&pointer, json!(number(&pointer) * 1005 / 1000)), &[]);
        assert_eq!(verdict.gate(4).0, "pass", "{}", verdict.json);
    }
    let verdict = verify(&edited("/body/work/evaluated_tokens", json!(500)), &[]);
    verdict.fails_at(4);
}

#[test]
fn gate_4_a_searched_head() {
    let receipt = receipt(bitnet(), &[], "two-stage");
    let verdict = verify(&receipt, &["--replay", "6"]);
    assert_eq!(verdict.gate(4).0, "pass", "{}", verdict.json);
    assert_eq!((verdict.gate(3).0, verdict.gate(10).0), ("pass", "pass"), "{}", verdict.json);
    let counts = receipt["body"]["kernels"].as_array().unwrap();
    let head = counts.iter().position(|count| count["id"].as_str().unwrap().starts_with("head.")).unwrap();
    for (field, part) in [("rows", 0.98), ("rows", 1.02), ("bytes", 0.3), ("bytes", 3.0)] {
        let mut edited = receipt.clone();
        let value = &mut edited["body"]["kernels"][head][field];
        *value = json!((value.as_f64().unwrap() * part) as u64);
        assert!(verify(&edited, &[]).fails_at(4).contains("head"), "{field} times {part}");
    }
    // Candidates that nobody computed with the head itself.
    let mut edited = receipt.clone();
    edited["body"]["kernels"].as_array_mut().unwrap().iter_mut().for_each(|count| {
        if count["id"].as_str().unwrap().starts_with("f16.") {
            (count["rescored_rows"], count["rows"]) = (json!(0), json!(0));
        }
    });
    verify(&edited, &[]).fails_at(4);
}

#[test]
fn gate_4_a_stubbed_kernel() {
    let planted = build("bitnet-planted", &["--features", "planted-bugs"]);
    let stubbed = receipt(&planted, &["--plant", "stubbed-kernel"], "full");
    assert_eq!(stubbed["body"]["kernels"][0]["rows"], 0, "a stub writes nothing");
    let verdict = verify(&stubbed, &["--replay", "6"]);
    verdict.fails_at(4);
    // It is another binary as well, and its tokens are not those of the model.
    verdict.fails_at(2);
    verdict.fails_at(10);
}

#[test]
fn gate_5_impossible_times_and_speeds() {
    let verdict = verify(&edited("/body/kernels/0/nanoseconds", json!(u64::MAX / 4)), &[]);
    verdict.fails_at(5);
    // A working set above twice a small cache, read faster than the memory can.
    let mut receipt = honest();
    receipt["body"]["machine"]["last_level_cache"] = json!(1000);
    receipt["body"]["peak_bandwidth"] = json!(1e6);
    let verdict = verify(&receipt, &[]);
    assert!(verdict.fails_at(5).contains("GB/s"), "{}", verdict.json);
    receipt["body"]["peak_bandwidth"] = json!(1e15);
    assert_eq!(verify(&receipt, &[]).gate(5).0, "pass");
    receipt["body"]["peak_bandwidth"] = Value::Null;
    assert_eq!(verify(&receipt, &[]).gate(5).0, "could-not-check");
}

#[test]
fn gate_6_an_inferred_tokenizer_is_not_strict() {
    let mut receipt = honest();
    receipt["body"]["tokenizer"]["authority"] = json!("discovered");
    assert_eq!(verify(&receipt, &[]).gate(6).0, "pass");
    receipt["body"]["strict"] = json!(true);
    verify(&receipt, &[]).fails_at(6);
    receipt["body"]["tokenizer"]["authority"] = json!("external");
    assert_eq!(verify(&receipt, &[]).gate(6).0, "could-not-check");
}

/// A crossval receipt that vouches for the honest run.
fn crossval() -> Value {
    let run = honest();
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "crossval",
            "binary": run["body"]["binary"],
            "machine": run["body"]["machine"],
            "positions": 256,
            "thresholds": {"min_cosine": 0.9999, "top1_gap": 0.001, "perplexity": 0.001, "min_positions": 256},
            "lanes": [{
                "model": run["body"]["model"]["file"], "engine": "oracle", "identity": "o",
                "activation_quant": "token", "validation": "v", "verdict": "agrees", "detail": "",
                "metrics": {
                    "positions": 256, "min_cosine": 0.99999, "min_cosine_position": 3, "max_abs": 0.01,
                    "max_relative_l2": 0.001, "max_kl": 0.0, "top1_agreement": 1.0, "top5_agreement": 1.0,
                    "decided_disagreements": 0, "perplexity_ours": 30.0, "perplexity_other": 30.0,
                    "bit_equal_positions": 0
                }
            }]
        }
    })
}

/// The verdict on the honest run beside `crossval.json`, which it names as its parent.
fn beside(crossval: &Value, parent_digest: Option<&str>) -> Verdict {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    let text = crossval.to_string();
    std::fs::write(dir.path().join("crossval.json"), &text).unwrap();
    let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut receipt = honest();
    receipt["parents"] = json!({"crossval": parent_digest.unwrap_or(&digest)});
    verify_in(dir.path(), &receipt, MODEL, &[])
}

#[test]
fn gate_7_parity_is_recomputed() {
    let verdict = beside(&crossval(), None);
    assert_eq!((verdict.code, verdict.gate(7).0), (0, "pass"), "{}", verdict.json);
    for (pointer, value) in [
        ("/body/lanes/0/metrics/min_cosine", json!(0.999)),
        ("/body/lanes/0/metrics/decided_disagreements", json!(1)),
        ("/body/lanes/0/metrics/positions", json!(255)),
        ("/body/lanes/0/metrics", Value::Null),
        ("/body/lanes/0/verdict", json!("diverges")),
        ("/body/thresholds/min_cosine", json!(0.9)),
    ] {
        let mut mutated = crossval();
        *mutated.pointer_mut(pointer).unwrap() = value;
        let verdict = beside(&mutated, None);
        assert_eq!(verdict.gate(7).0, "fail", "{pointer}: {}", verdict.json);
    }
    let mut unknown = crossval();
    unknown["body"]["lanes"][0]["verdict"] = json!("could-not-check");
    assert_eq!(beside(&unknown, None).gate(7).0, "could-not-check");
}

#[test]
fn gate_8_what_was_requested_was_in_force() {
    let verdict = verify(&edited("/body/environment_requested/BITNET_THREADS", json!("64")), &[]);
    assert!(verdict.fails_at(8).contains("BITNET_THREADS=64"), "{}", verdict.json);
}

#[test]
fn gate_9_the_chain_is_unbroken() {
    assert_eq!(beside(&crossval(), None).gate(9).0, "pass");
    let other = "0".repeat(64);
    assert!(beside(&crossval(), Some(&other)).fails_at(9).contains("is not the file it was"));
    let mut of_other_binary = crossval();
    of_other_binary["body"]["binary"]["sha256"] = json!(other);
    assert!(beside(&of_other_binary, None).fails_at(9).contains("another binary"));
    let mut receipt = honest();
    receipt["parents"] = json!({"symbols": other});
    assert!(verify(&receipt, &[]).fails_at(9).contains("does not build on"));
}
