//! Laws of the forward pass, seen through `bitnet logits`: causality, no dependence on batch or threads.

use crate::support::*;
use std::path::Path;

const TOKENS: [u64; 7] = [1, 5, 9, 2, 7, 7, 30];

/// Logits [positions, vocab] of `tokens`, bit patterns.
fn logits(model: &str, tokens: &[u64], extra: &[&str]) -> (usize, Vec<f32>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("logits.f32");
    let list = tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let path = out.to_str().expect("UTF-8");
    let output = json(&[&["logits", "--model", model, "--tokens", &list, "--out", path], extra].concat());
    let values = read(&out);
    let vocab = output["vocab"].as_u64().expect("a number") as usize;
    assert_eq!(
        (values.len(), output["bytes"].as_u64()),
        (tokens.len() * vocab, Some(values.len() as u64 * 4))
    );
    assert!(!dir.path().join("logits.f32.partial").exists());
    (vocab, values)
}

fn read(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("the file was written");
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn argmax(row: &[f32]) -> u64 {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a))).expect("not empty") as u64
}

#[test]
fn later_tokens_never_change_earlier_logits() {
    for name in fixtures() {
        let (vocab, all) = logits(&ok(&name), &TOKENS, &[]);
        for n in [1, 4] {
            let (_, some) = logits(&ok(&name), &TOKENS[..n], &[]);
            assert_eq!(bits(&some), bits(&all[..n * vocab]), "{name}: the first {n}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for name in fixtures() {
        let (_, one) = logits(&ok(&name), &TOKENS, &["--threads", "1"]);
        let (_, four) = logits(&ok(&name), &TOKENS, &["--threads", "4"]);
        assert_eq!(bits(&one), bits(&four), "{name}");
    }
}

#[test]
fn greedy_generation_follows_the_logits() {
    let args =
        ["run", "--model", MODEL, "--prompt", "Hello world", "--temperature", "0", "--max-tokens", "8"];
    let output = json(&args);
    let (prompt, generated) = (ids(&output["prompt_tokens"]), ids(&output["output_tokens"]));
    let (vocab, all) = logits(MODEL, &[&prompt[..], &generated].concat(), &[]);
    for (i, token) in generated.iter().enumerate() {
        let row = &all[(prompt.len() + i - 1) * vocab..][..vocab];
        assert_eq!(argmax(row), *token, "token {i}");
    }
}

#[test]
fn packings_of_the_same_weights_give_the_same_logits() {
    let (_, i2s) = logits(&ok("bitnet-i2_s.gguf"), &TOKENS, &["--kernels", "scalar"]);
    let (_, tq1) = logits(&ok("bitnet-tq1_0.gguf"), &TOKENS, &["--kernels", "scalar"]);
    let (_, tq2) = logits(&ok("bitnet-tq2_0.gguf"), &TOKENS, &["--kernels", "scalar"]);
    assert_eq!(bits(&tq1), bits(&tq2));
    for tiled in ["bitnet-tl1.gguf", "bitnet-tl2.gguf"] {
        assert_eq!(bits(&logits(&ok(tiled), &TOKENS, &["--kernels", "scalar"]).1), bits(&i2s), "{tiled}");
    }
    // I2_S has one scale for a tensor in f32, the others f16 scales.
    let (_, q2) = logits(&ok("bitnet-q2_0.gguf"), &TOKENS, &["--kernels", "scalar"]);
    for other in [tq2, q2] {
        let worst = i2s.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.05, "{worst}");
    }
}

#[test]
fn activation_modes_differ_a_little() {
    let (_, token) = logits(MODEL, &TOKENS, &["--activation-quant", "token"]);
    let (_, block) = logits(MODEL, &TOKENS, &["--activation-quant", "block256"]);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&token, &block) / (dot(&token, &token) * dot(&block, &block)).sqrt();
    assert!(bits(&token) != bits(&block) && cosine > 0.98, "cosine {cosine}");
}

/// Guesses are checked, so that they change the number of passes and nothing else.
#[test]
fn prompt_lookup_changes_no_token() {
    let prompt = "5,6,7,8,9,5,6,7,8,9,5,6";
    for name in ["bitnet-b158-i2_s.gguf", "bitnet-tq1_0.gguf", "llama-q4_1.gguf", "llama-f16.gguf"] {
        for sampling in [
            &["--temperature", "0"][..],
            &["--seed", "1", "--temperature", "0.3"],
            &["--temperature", "0", "--repetition-penalty", "1.3"],
            &["--temperature", "0", "--ctx-size", "24", "--context-shift"],
        ] {
            let run = |guesses| {
                let model = ok(name);
                let args = ["run", "-m", &model, "--prompt-tokens", prompt, "-n", "40", "--ignore-eos"];
                let output = json(&[&args[..], sampling, &["--prompt-lookup", guesses]].concat());
                (output["output_tokens"].clone(), output["text"].clone(), output["finish_reason"].clone())
            };
            let plain = run("0");
            for guesses in ["1", "5"] {
                assert_eq!(run(guesses), plain, "{name} {sampling:?} {guesses}");
            }
        }
    }
}
