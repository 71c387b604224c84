//! Golden paths: a prompt goes in, tokens of a real forward pass come out, and every switch does what it says.

use crate::support::*;
use std::io::Write;
use std::process::Stdio;

const GREEDY: [&str; 6] = ["--temperature", "0", "--max-tokens", "12", "--kernels", "scalar"];

fn generate(model: &str, extra: &[&str]) -> serde_json::Value {
    json(&[&["run", "--model", model, "--prompt", "Hello world"], extra].concat())
}

#[test]
fn every_fixture_generates_the_recorded_tokens() {
    let mut recorded = String::new();
    for name in fixtures() {
        let output = generate(&ok(&name), &GREEDY);
        let (tokens, text) = (ids(&output["output_tokens"]), &output["text"]);
        recorded += &format!("{name}: {tokens:?} {text}\n");
    }
    insta::assert_snapshot!(recorded);
}

/// What `cargo xtask release build` asks of each binary that it packs.
#[test]
fn the_generation_that_releases_must_give_is_that_of_this_build() {
    let golden = std::fs::read_to_string(root().join("fixtures/goldens/generation.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let text = |key: &str| golden[key].as_str().unwrap();
    let model = root().join(text("model"));
    let tokens = golden["max_tokens"].to_string();
    let output = json(&[
        "run",
        "--temperature",
        "0",
        "--model",
        model.to_str().unwrap(),
        "--prompt",
        text("prompt"),
        "--max-tokens",
        &tokens,
    ]);
    assert_eq!(output["text"], golden["text"]);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let sampled = |seed| {
        let args = ["--temperature", "2", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", seed];
        ids(&generate(MODEL, &[&args[..], &["--max-tokens", "24"]].concat())["output_tokens"])
    };
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
}

#[test]
fn threads_and_mapping_do_not_change_a_token() {
    let tokens = |extra: &[&str]| ids(&generate(MODEL, &[&GREEDY[..], extra].concat())["output_tokens"]);
    let one = tokens(&["--threads", "1"]);
    assert_eq!(one, tokens(&["--threads", "3"]));
    assert_eq!(one, tokens(&["--no-mmap"]));
}

#[test]
fn a_prompt_file_is_the_same_as_the_prompt() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "Hello world\n").expect("a file");
    let path = file.to_str().expect("UTF-8");
    let from_file = json(&[&["run", "--model", MODEL, "--prompt-file", path], &GREEDY[..]].concat());
    let direct = generate(MODEL, &GREEDY);
    assert_eq!(from_file["prompt_tokens"], direct["prompt_tokens"]);
    assert_eq!(from_file["output_tokens"], direct["output_tokens"]);
}

#[test]
fn a_prompt_comes_from_stdin() {
    let mut child = bitnet(&["tokenize", "--model", MODEL, "--prompt", "-", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary starts");
    child.stdin.take().expect("piped").write_all(b"Hello world\n").expect("it reads");
    let piped = finish(child.wait_with_output().expect("it ends")).json();
    assert_eq!(piped, json(&["tokenize", "--model", MODEL, "--prompt", "Hello world"]));
}

#[test]
fn a_chat_wraps_the_prompt_in_the_files_template_with_one_bos() {
    let tokenized =
        |extra: &[&str]| json(&[&["tokenize", "--model", MODEL, "--prompt", "Hello"], extra].concat());
    let plain = tokenized(&[]);
    let chat = tokenized(&["--chat", "--system", "Be brief"]);
    assert_eq!((&plain["chat"], &chat["chat"]), (&serde_json::Value::Null, &"gguf".into()));
    let (plain, chat_ids) = (ids(&plain["ids"]), ids(&chat["ids"]));
    assert_eq!(chat_ids.iter().filter(|id| **id == plain[0]).count(), 1, "BOS once: {chat_ids:?}");
    assert!(chat_ids.windows(plain.len() - 1).any(|part| part == &plain[1..]), "{chat_ids:?}");
    let run = generate(MODEL, &[&GREEDY[..], &["--chat=llama3-chat"]].concat());
    assert_eq!(run["chat"], "llama3-chat");
}

#[test]
fn every_kernel_set_of_this_cpu_generates_the_same_tokens() {
    let kernels = json(&["kernels"]);
    for level in kernels["selection"]["detected"].as_array().expect("an array") {
        let tokens =
            |level| ids(&generate(MODEL, &["--temperature", "0", "--kernels", level])["output_tokens"]);
        assert_eq!(tokens(level.as_str().expect("a name")), tokens("scalar"), "{level}");
    }
}

#[test]
fn a_stop_token_ends_and_is_the_last_token() {
    let all = ids(&generate(MODEL, &GREEDY)["output_tokens"]);
    let stop = all[3];
    let first = all.iter().position(|id| *id == stop).expect("it is there");
    let output = generate(MODEL, &[&GREEDY[..], &["--stop-token", &stop.to_string()]].concat());
    assert_eq!(ids(&output["output_tokens"]), all[..=first]);
    assert_eq!(output["finish_reason"], serde_json::json!({"kind": "stop_token", "id": stop}));
}

#[test]
fn a_stop_string_is_cut_from_the_text() {
    let text = generate(MODEL, &GREEDY)["text"].as_str().expect("text").to_owned();
    let stop: String = text.chars().skip(2).take(3).collect();
    let output = generate(MODEL, &[&GREEDY[..], &["--stop", &stop]].concat());
    let before = text.split(&stop).next().expect("a part before");
    assert_eq!(output["text"], before);
    assert_eq!(output["finish_reason"], serde_json::json!({"kind": "stop_string", "string": stop}));
}

#[test]
fn a_full_context_is_an_error_that_keeps_the_text_or_is_shifted() {
    let args =
        ["run", "--model", MODEL, "--prompt", "Hello", "--temperature", "0", "--max-tokens", "40", "--json"];
    let full = run(&[&args[..], &["--ctx-size", "16"]].concat());
    assert_eq!(full.code, 8);
    assert!(full.stderr.contains("--ctx-size"), "{}", full.stderr);
    assert_eq!(full.json()["finish_reason"]["kind"], "context_full");
    let shifted = run(&[&args[..], &["--ctx-size", "16", "--context-shift"]].concat());
    assert_eq!(shifted.code, 0, "{}", shifted.stderr);
    assert_eq!(ids(&shifted.json()["output_tokens"]).len(), 40);
}

#[test]
fn text_streams_to_stdout_and_the_rest_to_stderr() {
    let args = [&["run", "--model", MODEL, "--prompt", "Hello world"], &GREEDY[..]].concat();
    let human = run(&args);
    assert_eq!(human.code, 0, "{}", human.stderr);
    let text = generate(MODEL, &GREEDY)["text"].as_str().expect("text").to_owned();
    assert_eq!(human.stdout, text + "\n");
    assert!(human.stderr.contains("requested=scalar "), "{}", human.stderr);
    assert!(human.stderr.contains("tokens/s"), "{}", human.stderr);
}
