//! Results against goldens from llama.cpp (`tools/goldens/llama_goldens.py`): equal to the last bit.

use crate::support::{bitnet, finish, ids, json, ok, root, run};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;

fn golden(name: &str) -> Value {
    let path = root().join("fixtures/goldens").join(name);
    serde_json::from_str(&fs::read_to_string(path).expect("a committed golden")).expect("JSON")
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Evaluates the golden's tokens and compares the digest of every position's logits.
fn logits_equal_the_reference(kernels: &str) {
    let golden = golden("fixture-logits.json");
    let tokens = ids(&golden["tokens"]).iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("logits.bin");
    let models = golden["models"].as_object().expect("models");
    assert!(models.len() >= 16, "every type that llama.cpp reads");
    for (name, expected) in models {
        let ran = run(&[
            "logits",
            "--model",
            &ok(name),
            "--tokens",
            &tokens,
            "--out",
            out.to_str().expect("UTF-8"),
            "--activation-quant",
            "block256",
            "--kernels",
            kernels,
            "--threads",
            "2",
        ]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        let bytes = fs::read(&out).expect("logits");
        let expected = expected["sha256"].as_array().expect("digests");
        for (position, (row, expected)) in
            bytes.chunks(bytes.len() / expected.len()).zip(expected).enumerate()
        {
            assert_eq!(Value::from(hex(row)), *expected, "{name}, {kernels} kernels, position {position}");
        }
    }
}

#[test]
fn scalar_logits_equal_llama_cpp_bit_for_bit() {
    logits_equal_the_reference("scalar");
}

#[test]
fn selected_logits_equal_llama_cpp_bit_for_bit() {
    logits_equal_the_reference("auto");
}

/// Needs `cargo xtask models fetch smollm2-135m` beforehand; says so and passes where the model is not cached.
#[test]
fn smollm2_writes_the_tokens_llama_cpp_writes() {
    let golden = golden("smollm2-135m.json");
    let cache = bitforge_schema::paths::cache_dir(&bitforge_schema::env::Env::from_process());
    let model = cache.map(|cache| cache.join("models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let Some(model) = model.filter(|model| model.is_file()) else {
        // Past the test harness's capture, so that a skipped test is seen.
        let why = b"SKIPPED: smollm2-135m is not in the cache; run `cargo xtask models fetch smollm2-135m`\n";
        std::io::stderr().write_all(why).expect("stderr is open");
        return;
    };
    let model = model.to_str().expect("UTF-8");
    let entries = golden["entries"].as_array().expect("entries");
    assert!(entries.len() >= 8);
    for entry in entries {
        let (name, prompt) = (&entry["name"], entry["prompt"].as_str().expect("a prompt"));
        let output = json(&[
            "run",
            "--model",
            model,
            "--prompt",
            prompt,
            "--max-tokens",
            "64",
            "--temperature",
            "0",
            "--ignore-eos",
        ]);
        assert_eq!(output["prompt_tokens"], entry["prompt_tokens"], "{name}: prompt tokens");
        let (got, expected) = (ids(&output["output_tokens"]), ids(&entry["output_tokens"]));
        let Some(at) = got.iter().zip(&expected).position(|(got, expected)| got != expected) else {
            assert_eq!(got.len(), expected.len(), "{name}");
            continue;
        };
        let gap = entry["gaps"][at].as_f64().expect("a gap");
        assert!(
            gap < 1e-3,
            "{name}: token {at} is {} where llama.cpp has {}, gap {gap}",
            got[at],
            expected[at]
        );
        eprintln!("{name}: parts from llama.cpp at token {at}, where its two best logits are {gap} apart");
    }
    let digest = hex(&fs::read(model).expect("the model"));
    assert_eq!(golden["model_sha256"], digest, "the golden was made with another file");
}

/// Several prefill chunks, the last one not full.
#[test]
fn long_prompts_do_not_depend_on_threads() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tokens = (1..300).map(|token| (token % 320).to_string()).collect::<Vec<_>>().join(",");
    for name in ["bitnet-b158-i2_s.gguf", "llama-q4_1.gguf", "llama-q6_k.gguf"] {
        let logits = ["1", "2", "3", "5"].map(|threads| {
            let out = dir.path().join(threads);
            let command = ["logits", "--model", &ok(name), "--tokens", &tokens, "--threads", threads];
            let ran = finish(bitnet(&command).arg("--out").arg(&out).output().expect("the binary starts"));
            assert_eq!(ran.code, 0, "{}", ran.stderr);
            fs::read(out).expect("logits")
        });
        assert!(logits.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
}
