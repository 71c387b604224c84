//! `bitnet kernels --replay`: one row of a model, by every kernel that this CPU runs.

use crate::support::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wave(k: usize) -> Vec<f32> {
    (0..k).map(|i| (i * 37 % 101) as f32 / 25.0 - 2.0).collect()
}

/// The first row of a matrix of a fixture, found as another program would: by what `inspect` says.
fn row_of(model: &str, tensor: &str, activation_quant: &str) -> Value {
    let shown = json(&["inspect", "-m", model]);
    let tensors = shown["tensors"].as_array().expect("an array");
    let info = tensors.iter().find(|info| info["name"] == tensor).expect("the tensor");
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    let (offset, bytes) = (number(&info["offset"]), number(&info["bytes"]));
    let (k, rows) = (number(&info["dims"][0]), number(&info["dims"][1]));
    let file = std::fs::read(root().join(model)).expect("the fixture");
    let (mut row_bytes, mut scale) = (bytes / rows, 1.0);
    if info["type"] == "I2_S" {
        let trailer = offset + bytes - 32;
        row_bytes = (bytes - 32) / rows;
        scale = f32::from_le_bytes(file[trailer..trailer + 4].try_into().expect("four bytes"));
    }
    json!({
        "operation": "matmul", "tensor": tensor, "weight_type": info["type"], "activation_quant": activation_quant,
        "k": k, "tensor_scale": scale, "weights_hex": hex(&file[offset..offset + row_bytes]),
        "activation": wave(k), "expected": 1.5, "got": 2.5,
    })
}

fn write(fixture: &Value) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("fixture.json");
    std::fs::write(&path, fixture.to_string()).expect("writable");
    (dir, path)
}

fn replay(fixture: &Value) -> Ran {
    let (_dir, path) = write(fixture);
    run(&["kernels", "--replay", path.to_str().expect("UTF-8"), "--json"])
}

#[test]
fn kernels_agree_on_a_row_of_every_type() {
    let mut types = std::collections::BTreeSet::new();
    // Tiled types have no rows: what kernels multiply is I2_S made of them.
    for name in fixtures().into_iter().filter(|name| !name.contains("-tl")) {
        for mode in ["token", "block256"] {
            let fixture = row_of(&ok(&name), "blk.0.ffn_down.weight", mode);
            types.insert(fixture["weight_type"].to_string());
            let ran = replay(&fixture);
            assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
            let output = ran.json();
            let results = output["results"].as_array().expect("an array");
            assert!(results[0]["kernel"].as_str().is_some_and(|id| id.ends_with(".scalar")), "{output}");
            for result in results {
                assert_eq!(
                    (&result["bits"], &result["computed"]),
                    (&results[0]["bits"], &true.into()),
                    "{output}"
                );
            }
            assert!(results[0]["result"].as_f64().is_some_and(|result| result != 0.0), "{output}");
            assert_eq!(
                (&output["agree"], &output["expected"], &output["got"]),
                (&true.into(), &1.5.into(), &2.5.into())
            );
        }
    }
    assert_eq!(types.len(), 17, "{types:?}");
}

/// Floats that are exact in any order.
fn exact() -> Value {
    let weights: Vec<u8> = (0..40).flat_map(|i| (i as f32).to_le_bytes()).collect();
    json!({
        "operation": "matmul", "tensor": "t", "weight_type": "F32", "activation_quant": "token", "k": 40,
        "tensor_scale": 1.0, "weights_hex": hex(&weights), "activation": vec![0.5; 40], "expected": null, "got": null,
    })
}

#[test]
fn the_result_is_the_product() {
    let output = replay(&exact()).json();
    assert_eq!(output["results"][0]["result"], 390.0);
    assert_eq!(output["results"][0]["bits"], format!("{:#010x}", 390f32.to_bits()));
}

#[test]
fn files_that_are_no_fixture_are_refused_with_the_reason() {
    let cases = [
        ("operation", json!("norm"), "operation is \"norm\""),
        ("weight_type", json!("Q9"), "\"Q9\", which has no kernel"),
        ("weights_hex", json!("zz"), "not hexadecimal"),
        ("weights_hex", json!("00"), "has 1 bytes"),
        ("k", json!(0), "k is 0"),
        ("weight_type", json!("Q4_0"), "k is 40"),
        ("activation", json!([1.0]), "activation has 1 values"),
        ("activation", json!([1e300]), "number out of range"),
        ("activation_quant", json!("row"), "not a kernel fixture"),
    ];
    for (field, value, says) in cases {
        let mut fixture = exact();
        fixture[field] = value;
        let ran = replay(&fixture);
        assert_eq!(ran.code, 3, "{field}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{field}: {}", ran.stderr);
    }
    assert_eq!(run(&["kernels", "--replay", "absent.json"]).code, 4);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_kernel_bugs_are_told_with_code_9() {
    let mut bugs = vec![("stubbed-kernel", "wrote no result")];
    if json(&["kernels"])["selection"]["detected"].as_array().is_some_and(|levels| levels.len() > 1) {
        bugs.push(("simd-kernel", "gives"));
    }
    let (_dir, path) = write(&row_of(MODEL, "blk.0.ffn_down.weight", "token"));
    for (bug, says) in bugs {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bitnet-planted"));
        command.args(["--plant", bug, "kernels", "--replay"]).arg(&path).env_clear();
        let ran = finish(command.output().expect("the binary starts"));
        assert_eq!(ran.code, 9, "{bug}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{bug}: {}", ran.stderr);
    }
}
