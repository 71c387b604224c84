//! `bitnet perplexity` on the trained fixtures: as PyTorch computes it, as committed, and moved by every planted bug.

use crate::support::*;
use serde_json::Value;

const TEXT: &str = "fixtures/trained/held-out.txt";

fn measure(model: &str, extra: &[&str]) -> Value {
    let model = format!("fixtures/trained/{model}.gguf");
    json(&[&["perplexity", "-m", &model, "-f", TEXT], extra].concat())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn file(path: &str) -> Value {
    let text = std::fs::read_to_string(root().join(path)).expect("it is committed");
    serde_json::from_str(&text).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(number).collect()
}

/// Sums of the first chunks of a golden.
fn sum(golden: &Value, chunks: usize) -> f64 {
    numbers(&golden["nll"])[..chunks].iter().sum()
}

#[test]
fn the_perplexity_is_pytorchs_and_the_committed_one() {
    let ours = file("fixtures/goldens/perplexity.json");
    for model in ["kjv-b158", "kjv-bitnet"] {
        let torch = &file(&format!("fixtures/trained/{model}.json"))["held_out"];
        let golden = &ours[format!("{model}.gguf")];
        let measured = measure(model, &["--chunks", "4"]);
        let scored = number(&measured["scored"]);
        assert_eq!(scored, 4.0 * 255.0);
        let perplexity = number(&measured["perplexity"]);
        assert!((perplexity / (sum(golden, 4) / scored).exp() - 1.0).abs() < 1e-6, "{model}: {perplexity}");
        // Over the whole text: the committed values are those of every chunk, and these four are as committed.
        let (whole, torch) = (number(&golden["perplexity"]), number(&torch["perplexity"]));
        assert!((whole / torch - 1.0).abs() < 1e-3, "{model}: {whole} and {torch}");
    }
}

#[test]
fn the_models_beat_the_five_gram_by_a_quarter() {
    // tools/train-fixture/ngram.py on the same split: order 5, the tokens that are scored in chunks of 512.
    const FIVE_GRAM: f64 = 25.397;
    let ours = file("fixtures/goldens/perplexity.json");
    for (model, golden) in ours.as_object().expect("an object") {
        assert!(number(&golden["perplexity"]) < 0.75 * FIVE_GRAM, "{model}");
    }
}

#[test]
fn threads_kernels_and_chunks_do_not_change_a_sum() {
    let args = ["--ctx-size", "64", "--chunks", "3"];
    let sums = |extra: &[&str]| numbers(&measure("kjv-b158", &[&args[..], extra].concat())["nll"]);
    let one = sums(&["--threads", "1"]);
    assert_eq!(one.len(), 3);
    assert_eq!(one, sums(&["--threads", "3"]));
    assert_eq!(one, sums(&["--kernels", "scalar"]));
    let fewer = numbers(&measure("kjv-b158", &["--ctx-size", "64", "--chunks", "2"])["nll"]);
    assert_eq!(one[..2], fewer);
}

#[test]
fn parts_of_a_text_have_the_sums_of_the_whole() {
    let measured = |chunks: &str| measure("kjv-b158", &["--ctx-size", "64", "--chunks", chunks]);
    let whole = measured("6");
    assert_eq!((&whole["first_chunk"], &whole["text_chunks"]), (&Value::from(0), &Value::from(916)));
    let parts = ["0..1", "1..4", "4..6"].map(measured);
    for name in ["nll", "squares"] {
        let joined: Vec<f64> = parts.iter().flat_map(|part| numbers(&part[name])).collect();
        assert_eq!(joined, numbers(&whole[name]), "{name}, to the last bit");
    }
    assert_eq!(
        parts.iter().map(|part| part["first_chunk"].as_u64().unwrap_or(9)).collect::<Vec<_>>(),
        [0, 1, 4]
    );
    assert_eq!(parts.iter().map(|part| number(&part["scored"])).sum::<f64>(), number(&whole["scored"]));
    let last = numbers(&measured("915..916")["nll"]);
    assert_eq!(last.len(), 1);
}

/// By the definition: a softmax over the logits of `bitnet logits`, BOS first in every chunk.
#[test]
fn a_chunk_is_scored_as_its_logits_say() {
    let model = "fixtures/trained/kjv-bitnet.gguf";
    let text = std::fs::read_to_string(root().join(TEXT)).expect("it is committed");
    let tokens = ids(&json(&["tokenize", "-m", model, "-p", &text[..2000]])["ids"]);
    let mut chunk = tokens[32..64].to_vec();
    chunk[0] = tokens[0];
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("logits.f32");
    let out = out.to_str().expect("UTF-8");
    let list: Vec<String> = chunk.iter().map(u64::to_string).collect();
    json(&["logits", "-m", model, "--tokens", &list.join(","), "--out", out]);
    let bytes = std::fs::read(out).expect("it was written");
    let logits: Vec<f32> =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect();
    let vocabulary = logits.len() / chunk.len();
    let nll = |position: usize| -> f64 {
        let row = &logits[position * vocabulary..][..vocabulary];
        let whole: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        whole.ln() - f64::from(row[chunk[position + 1] as usize])
    };
    let expected: f64 = (16..31).map(nll).sum();
    let measured = measure("kjv-bitnet", &["--ctx-size", "32", "--chunks", "2"]);
    assert_eq!(measured["scored"], 30);
    assert!((numbers(&measured["nll"])[1] / expected - 1.0).abs() < 1e-9, "{measured} and {expected}");
}

#[test]
fn the_estimate_for_people_is_llama_cpps_line() {
    let args =
        ["perplexity", "-m", "fixtures/trained/kjv-b158.gguf", "-f", TEXT, "-c", "64", "--chunks", "2"];
    let (human, json) = (run(&args), json(&args));
    let (perplexity, error) = (number(&json["perplexity"]), number(&json["standard_error"]));
    assert_eq!(human.stdout, format!("Final estimate: PPL = {perplexity:.4} +/- {error:.5}\n"));
    assert!(human.stderr.contains("62 tokens of 2 chunks scored"), "{}", human.stderr);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let refused = |extra: &[&str]| {
        let args = ["perplexity", "-m", "fixtures/trained/kjv-b158.gguf"];
        let ran = run(&[&args[..], extra].concat());
        (ran.code, ran.stderr)
    };
    let (code, said) = refused(&["-f", TEXT, "--ctx-size", "100000"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("the text has 58627 tokens, and a chunk is 100000"), "{said}");
    assert_eq!(refused(&["-f", TEXT, "--ctx-size", "4"]).0, 2);
    for chunks in ["0", "3..3", "4..3", "x", "1..", "-1..2"] {
        assert_eq!(refused(&["-f", TEXT, "--chunks", chunks]).0, 2, "{chunks}");
    }
    let (code, said) = refused(&["-f", TEXT, "--chunks", "113..115"]);
    assert!(code == 2 && said.contains("the text has 114 chunks, and --chunks ends at 115"), "{said}");
    assert_eq!(refused(&["-f", "absent.txt"]).0, 4);
}

/// Codes and f16-exact scales are what every ternary type can hold, and rows of one scale are summed as integers in all.
#[test]
fn every_ternary_type_gives_the_same_perplexity() {
    const TL1: &str = "256x256:128,64,64;128x256:64,64,32;768x256:256,128,32;256x768:128,128,64";
    const TL2: &str = "256x256:128,96,32;128x256:64,192,32;768x256:256,96,32;256x768:32,96,32";
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ours = file("fixtures/goldens/perplexity.json");
    for model in ["kjv-b158", "kjv-bitnet"] {
        let source = format!("fixtures/trained/{model}.gguf");
        let golden = &numbers(&ours[format!("{model}.gguf")]["nll"])[..2];
        for (ty, tiles) in
            [("tl1", Some(TL1)), ("tl2", Some(TL2)), ("tq1_0", None), ("tq2_0", None), ("q2_0", None)]
        {
            let path = dir.path().join(format!("{model}-{ty}.gguf"));
            let path = path.to_str().expect("UTF-8");
            let mut quantize = vec!["quantize", source.as_str(), path, "--type", ty];
            quantize.extend(tiles.iter().flat_map(|tiles| ["--tl-config", *tiles]));
            let ran = run(&quantize);
            assert_eq!(ran.code, 0, "{model} to {ty}: {}", ran.stderr);
            let measured = json(&["perplexity", "-m", path, "-f", TEXT, "--chunks", "2"]);
            for (measured, golden) in numbers(&measured["nll"]).iter().zip(golden) {
                assert!((measured / golden - 1.0).abs() < 1e-9, "{model} as {ty}: {measured}, not {golden}");
            }
        }
    }
}
