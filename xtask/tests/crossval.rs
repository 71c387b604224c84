//! Planted bugs, each a real process: is it caught, and is the right layer and operation blamed?
//!
//! The subject is `bitnet-planted` (cargo feature `planted-bugs`), the other side the same crate without the bug,
//! so neither a reference nor numpy is needed. Where numpy is here, a reference that computes a wrong graph is
//! posed as well, and must be refused by name.

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::{build, root};

fn plain() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("bitnet", &[]))
}

fn planted() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("bitnet-planted", &["--features", "planted-bugs"]))
}

struct Ran {
    code: i32,
    json: Value,
    stderr: String,
}

fn crossval(model: &str, args: &[&str]) -> Ran {
    let model = format!("fixtures/gguf/ok/{model}.gguf");
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["--json", "crossval", "--model", &model])
        .args(args)
        .current_dir(root())
        .env("BITNET_OFFLINE", "1")
        .env("BITNET_BINARY", plain())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    Ran { code: output.status.code().unwrap(), json, stderr }
}

/// `bitnet-planted` with the bug against `bitnet`, which is believed because it is what the bug was planted in.
fn against_plain(model: &str, bug: &str, more: &[&str]) -> Ran {
    let subject = format!("command:{} --plant {bug}", planted().display());
    let other = format!("trusted-command:{}", plain().display());
    let mut args = vec!["--subject", &subject, "--against", &other];
    args.extend(more);
    crossval(model, &args)
}

#[track_caller]
fn blamed(model: &str, bug: &str) -> Value {
    let ran = against_plain(model, bug, &[]);
    assert_eq!(ran.code, 9, "{bug}: {}", ran.stderr);
    let comparison = &ran.json["comparisons"][0];
    assert_eq!(comparison["verdict"], "diverges", "{bug}");
    comparison["blame"].clone()
}

#[test]
fn every_planted_bug_is_caught_and_blamed_on_its_layer_and_operation() {
    let cases = [
        ("code-map@1", 1, "up", Some("blk.1.ffn_up.weight")),
        ("dropped-scale@1", 1, "ffn-output", Some("blk.1.ffn_down.weight")),
        ("silu-for-relu2", 0, "ffn-activation", None),
        ("missing-sub-norm@1", 1, "attn-sub-norm", Some("blk.1.attn_sub_norm.weight")),
        ("rope-pairing", 0, "query-rope", None),
        ("position-off-by-one", 0, "query-rope", None),
        ("norm-length@1", 1, "attn-norm", Some("blk.1.attn_norm.weight")),
    ];
    for (bug, layer, point, tensor) in cases {
        let blame = blamed("bitnet-b158-i2_s", bug);
        assert_eq!(blame["layer"], layer, "{bug}: {blame}");
        assert_eq!(blame["point"], point, "{bug}: {blame}");
        assert_eq!(blame["tensor"].as_str(), tensor, "{bug}: {blame}");
        assert_eq!(blame["kernels"], serde_json::json!([]), "{bug} is no kernel's fault: {blame}");
    }
}

#[test]
fn a_dropped_scale_is_hinted_at() {
    let blame = blamed("bitnet-tq2_0", "dropped-scale");
    assert!(blame["hint"].as_str().is_some_and(|hint| hint.contains("a scale")), "{blame}");
}

#[test]
fn a_wrong_simd_kernel_is_blamed_by_its_id() {
    if !is_x86_avx2() {
        eprintln!("SKIPPED: this CPU has no SIMD kernels to be wrong");
        return;
    }
    let blame = blamed("bitnet-b158-i2_s", "simd-kernel");
    let kernels: Vec<&str> =
        blame["kernels"].as_array().into_iter().flatten().filter_map(|id| id.as_str()).collect();
    assert!(matches!(kernels[..], [id] if id.starts_with("i2_s.i8.")), "{blame}");
    assert_eq!((&blame["layer"], &blame["point"]), (&0.into(), &"query".into()), "{blame}");
}

#[cfg(target_arch = "x86_64")]
fn is_x86_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_x86_avx2() -> bool {
    false
}

#[test]
fn the_engine_agrees_with_itself_and_too_few_positions_are_no_agreement() {
    let other = format!("trusted-command:{}", plain().display());
    let subject = format!("command:{}", plain().display());
    let args = ["--subject", &subject, "--against", &other];
    let ran = crossval("bitnet-b158-tq1_0", &args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.json["comparisons"][0]["metrics"]["bit_equal_positions"], 256);
    let ran = crossval("bitnet-b158-tq1_0", &[&args[..], &["--tokens", "255"]].concat());
    assert_eq!(ran.code, 9, "{}", ran.stderr);
    assert!(ran.stderr.contains("255 positions, and 256 are needed"), "{}", ran.stderr);
}

#[test]
fn a_wrong_product_is_written_as_a_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let ran = against_plain("bitnet-b158-i2_s", "code-map@1", &["--write-fixture", &path]);
    assert_eq!(ran.code, 9, "{}", ran.stderr);
    let file = std::fs::read_dir(dir.path()).unwrap().next().expect("a fixture").unwrap().path();
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((&fixture["weight_type"], &fixture["k"]), (&"I2_S".into(), &256.into()));
    assert_eq!(fixture["weights_hex"].as_str().unwrap().len(), 2 * 64);
    assert_eq!(fixture["activation"].as_array().unwrap().len(), 256);
    assert_ne!(fixture["expected"], fixture["got"]);
}

#[test]
fn an_engine_that_is_not_there_is_never_agreement() {
    let subject = format!("command:{}", plain().display());
    let ran = crossval("bitnet-b158-i2_s", &["--subject", &subject, "--against", "trusted-command:false"]);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
}

/// Whether the oracle can run here without a download.
fn has_numpy() -> bool {
    let ran = crossval(
        "llama-f32",
        &["--subject", &format!("command:{}", plain().display()), "--against", "oracle"],
    );
    if ran.json["comparisons"][0]["verdict"] == "could-not-check" {
        eprintln!("SKIPPED: {}", ran.json["comparisons"][0]["detail"]);
        return false;
    }
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    true
}

#[test]
fn a_reference_with_the_wrong_activation_is_not_believed_and_named() {
    if !has_numpy() {
        return;
    }
    let subject = format!("command:{}", plain().display());
    let posing = format!("command:{} --plant silu-for-relu2", planted().display());
    let ran = crossval("bitnet-b158-i2_s", &["--subject", &subject, "--against", &posing]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let validation = ran.json["comparisons"][0]["validation"].as_str().unwrap();
    assert!(validation.starts_with("not believed"), "{validation}");
    assert!(validation.contains("layer 0, activation of the FFN"), "{validation}");
    assert!(validation.contains("known wrong graph 'silu'"), "{validation}");
}

#[test]
fn the_oracle_blames_as_well() {
    if !has_numpy() {
        return;
    }
    let subject = format!("command:{} --plant norm-length@1", planted().display());
    let ran = crossval("bitnet-b158-embedding", &["--subject", &subject, "--against", "oracle"]);
    assert_eq!(ran.code, 9, "{}", ran.stderr);
    let blame = &ran.json["comparisons"][0]["blame"];
    assert_eq!((&blame["layer"], &blame["point"]), (&1.into(), &"attn-norm".into()), "{blame}");
}
