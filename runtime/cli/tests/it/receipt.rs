//! Receipts of runs: what they say is what was asked for, done and counted; and strict mode.

use crate::support::*;
use bitforge_receipt_schema::run::{MatrixRole, Run, TokenizerAuthority};
use bitforge_receipt_schema::{Body, Receipt, VERSION};
use bitforge_schema::protocol::ActivationMode;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Runs `model` with a prompt of ids and returns the run in its receipt, which replaced another file.
fn receipt_of(model: &str, extra: &[&str]) -> Run {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("run.json");
    std::fs::write(&path, "what was there before").expect("writable");
    let path = path.to_str().expect("UTF-8");
    let args =
        ["run", "-m", model, "--prompt-tokens", "5,6,7,8,9", "-n", "4", "--ignore-eos", "--receipt", path];
    let output = json(&[&args[..], extra].concat());
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing half-written");
    let text = std::fs::read_to_string(path).expect("a receipt");
    let receipt: Receipt = serde_json::from_str(&text).expect("a receipt by the schema");
    assert_eq!((receipt.version, receipt.parents.len()), (VERSION, 0));
    let Body::Run(run) = receipt.body else { panic!("another kind: {text}") };
    assert_eq!(ids(&output["prompt_tokens"]), [5, 6, 7, 8, 9]);
    assert_eq!(
        ids(&output["output_tokens"]),
        run.work.output_tokens.iter().map(|id| u64::from(*id)).collect::<Vec<_>>()
    );
    *run
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_matrix_row_was_multiplied_with_every_token() {
    for name in fixtures() {
        for mode in ["token", "block256"] {
            let args = ["--temperature", "0", "--threads", "2", "--activation-quant", mode, "--head", "full"];
            let run = receipt_of(&ok(&name), &args);
            let work = &run.work;
            assert_eq!(
                (work.evaluated_tokens, work.logits_positions, work.decoded_tokens),
                (8, 4, 3),
                "{name}"
            );
            let expected: u64 = run
                .model
                .matrices
                .iter()
                .map(|matrices| match matrices.role {
                    MatrixRole::Layer => matrices.rows * work.evaluated_tokens,
                    MatrixRole::Head => matrices.rows * work.logits_positions,
                })
                .sum();
            assert_eq!(run.kernels.iter().map(|kernel| kernel.rows).sum::<u64>(), expected, "{name}");
            // One pass over all weights for the prompt, and one per token after it.
            let passes = 1 + work.decoded_tokens;
            let bytes: u64 = run.model.matrices.iter().map(|matrices| matrices.bytes).sum();
            assert_eq!(run.kernels.iter().map(|kernel| kernel.bytes).sum::<u64>(), bytes * passes, "{name}");
            assert!(
                run.kernels.iter().all(|kernel| kernel.calls > 0 && kernel.nanoseconds > 0),
                "{:?}",
                run.kernels
            );
        }
    }
}

#[test]
fn a_searched_head_is_counted_and_changes_no_token() {
    for name in ["bitnet-b158-i2_s.gguf", "llama-f16.gguf", "llama-q8_0.gguf"] {
        for sampling in [
            &["--temperature", "0"][..],
            &["--seed", "3", "--top-k", "5"],
            &["--seed", "4", "--top-p", "1", "--top-k", "0"],
        ] {
            let run = |head| receipt_of(&ok(name), &[sampling, &["--head", head]].concat());
            let (full, searched) = (run("full"), run("two-stage"));
            assert_eq!(full.work.output_tokens, searched.work.output_tokens, "{name} {sampling:?}");
            let facts = |run: &Run| run.head.clone().map(|head| (head.mode, head.compact_bytes > 0));
            assert_eq!(facts(&full), Some(("full".into(), false)));
            let is_float = name != "llama-q8_0.gguf";
            let mode = if is_float { "two-stage" } else { "full" };
            assert_eq!(facts(&searched), Some((mode.into(), is_float)), "{name}");
            let head = searched.kernels.iter().find(|count| count.id.starts_with("head."));
            let rows =
                searched.model.matrices.iter().find(|m| m.role == MatrixRole::Head).expect("a head").rows;
            assert_eq!(
                head.map(|count| (count.calls, count.rows)),
                is_float.then_some((4, 4 * rows)),
                "{name}"
            );
        }
    }
}

#[test]
fn digests_settings_and_environment_are_the_run_s_own() {
    let run =
        receipt_of(MODEL, &["--temperature", "0.5", "--seed", "9", "--threads", "1", "--kernels", "scalar"]);
    let model = std::fs::read(root().join(MODEL)).expect("the fixture");
    assert_eq!((run.model.file.sha256, run.model.file.bytes), (sha256(&model), model.len() as u64));
    assert_eq!(run.model.file.name, "bitnet-b158-i2_s.gguf");
    let binary = std::fs::read(env!("CARGO_BIN_EXE_bitnet")).expect("the binary");
    assert_eq!(run.binary.sha256, sha256(&binary));
    let prompt: Vec<u8> = [5u32, 6, 7, 8, 9].iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(run.work.prompt_sha256, sha256(&prompt));
    let output: Vec<u8> = run.work.output_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(run.work.output_sha256, sha256(&output));
    assert_eq!((run.work.seed, run.work.sampling["temperature"], run.work.sampling["top_p"]), (9, 0.5, 0.95));
    assert_eq!((run.threads, run.strict, run.activation_quant), (1, false, ActivationMode::Token));
    assert!(run.kernels.iter().all(|kernel| kernel.id.ends_with(".scalar")), "{:?}", run.kernels);
    let environment = |requested: &[(&str, &str)]| {
        requested.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    assert_eq!(
        run.environment_requested,
        environment(&[("BITNET_KERNELS", "scalar"), ("BITNET_THREADS", "1")])
    );
    assert_eq!(
        run.environment_effective,
        environment(&[("BITNET_KERNELS", "scalar"), ("BITNET_STRICT_MODE", "0"), ("BITNET_THREADS", "1"),])
    );
    assert!(!run.model.synthetic && run.machine.cpus > 0);
    assert_eq!(run.peak_bandwidth, None, "the model fits into the caches");
}

#[test]
fn the_tokenizer_s_digest_and_authority_are_those_that_inspect_shows() {
    let facts = |model: &str| {
        let shown = json(&["inspect", "-m", model])["tokenizer"].clone();
        let run = receipt_of(model, &["--temperature", "0"]);
        assert_eq!(shown["sha256"], run.tokenizer.sha256);
        assert_eq!(shown["authority"], serde_json::to_value(run.tokenizer.authority).expect("JSON"));
        (run.tokenizer.authority, run.tokenizer.sha256)
    };
    let (inferred, sha256) = facts(MODEL);
    assert_eq!(inferred, TokenizerAuthority::Discovered);
    let (whole, other) = facts(&ok(WHOLE));
    assert_eq!(whole, TokenizerAuthority::Embedded);
    assert_ne!(sha256, other);
}

/// A fixture whose tokenizer is complete.
const WHOLE: &str = "llama-q8_0.gguf";

fn strict(args: &[&str]) -> Ran {
    finish(bitnet(args).env("BITNET_STRICT_MODE", "1").output().expect("the binary starts"))
}

#[test]
fn strict_mode_refuses_what_would_be_inferred() {
    let prompt = ["-p", "Hello", "-n", "1", "--json"];
    let refused = strict(&[&["run", "-m", MODEL][..], &prompt].concat());
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert_eq!(refused.json()["error"]["kind"], "check-failed");
    assert!(refused.stderr.contains("no tokenizer.ggml.pre"), "{}", refused.stderr);
    assert_eq!(strict(&["tokenize", "-m", MODEL, "-p", "Hello"]).code, 7);
    let whole = strict(&[&["run", "-m", &ok(WHOLE)][..], &prompt].concat());
    assert_eq!(whole.code, 0, "{}", whole.stderr);
}

#[test]
fn strict_mode_refuses_variables_that_have_no_effect() {
    let command = |value: &str| {
        let mut command = bitnet(&["kernels"]);
        command.env("BITNET_THREAD", "2").env("BITNET_STRICT_MODE", value);
        finish(command.output().expect("the binary starts"))
    };
    let refused = command("1");
    assert_eq!(refused.code, 7);
    assert!(refused.stderr.contains("did you mean BITNET_THREADS?"), "{}", refused.stderr);
    assert_eq!(command("0").code, 0);
    assert_eq!(command("yes").code, 2);
}

#[test]
fn a_receipt_that_cannot_be_written_is_told_before_the_run() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let absent = dir.path().join("absent/run.json");
    for path in [absent.as_path(), dir.path(), Path::new("/")] {
        let path = path.to_str().expect("UTF-8");
        let ran = run(&["run", "-m", MODEL, "-p", "a", "-n", "1", "--receipt", path]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    }
}

#[test]
fn prompt_tokens_are_taken_as_they_are() {
    let text = json(&["tokenize", "-m", MODEL, "-p", "Hello world"]);
    let list: Vec<String> = ids(&text["ids"]).iter().map(u64::to_string).collect();
    let same = json(&["tokenize", "-m", MODEL, "--prompt-tokens", &list.join(",")]);
    assert_eq!(text["tokens"], same["tokens"]);
    let greedy = ["--temperature", "0", "-n", "6"];
    let by_text = json(&[&["run", "-m", MODEL, "-p", "Hello world"][..], &greedy].concat());
    let by_ids = json(&[&["run", "-m", MODEL, "--prompt-tokens", &list.join(",")][..], &greedy].concat());
    assert_eq!(by_text["output_tokens"], by_ids["output_tokens"]);
    for bad in [
        &["--prompt-tokens", "352"][..],
        &["--prompt-tokens", "1", "--chat"],
        &["--prompt-tokens", "1", "-p", "a"],
    ] {
        assert_eq!(run(&[&["run", "-m", MODEL][..], bad].concat()).code, 2, "{bad:?}");
    }
}
