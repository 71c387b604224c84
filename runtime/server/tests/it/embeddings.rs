//! Embeddings: the bits of llama.cpp, in the forms that clients ask for, whatever else is computed beside them.

use crate::client::{Reply, post};
use crate::support::*;
use base64::Engine as _;
use bitnet_runtime::engine::{Answer, Batch, Engine, EngineOptions, Sequences, Want};
use bitnet_runtime::quant::activation::ActivationQuant;
use bitnet_server::{Loaded, Loader, SchedulerLimits, Server, Settings};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const PATH: &str = "/v1/embeddings";
const MODELS: [&str; 2] = ["qwen3-f16.gguf", "qwen3-tq2_0.gguf"];

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/goldens/fixture-embeddings.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tokens(golden: &Value) -> Vec<u32> {
    golden["tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

/// As llama.cpp computes: activations of ternary layers in blocks of 256.
fn qwen3(name: &str) -> Engine {
    let path = format!("{}/../../fixtures/gguf/ok/{name}", env!("CARGO_MANIFEST_DIR"));
    let options = EngineOptions {
        threads: 1,
        sequences: 4,
        activation_quant: ActivationQuant::Block256,
        ..EngineOptions::default()
    };
    Engine::load(path.as_ref(), &options, &mut |_, _| ()).unwrap()
}

fn start_qwen3(name: &'static str, settings: Settings) -> Server {
    let loader: Loader = Arc::new(move || Loaded::new(qwen3(name), &about()));
    Server::start(settings, loader).unwrap()
}

/// The hidden state of the last of `tokens`, evaluated in one batch.
fn pooled(engine: &mut Engine, tokens: &[u32]) -> Vec<f32> {
    let (sequence, mut batch, mut found) = (engine.open(), Batch::new(), Vec::new());
    batch.push_all(sequence, tokens, Want::Hidden);
    engine
        .evaluate(&batch, &mut |_, answer| {
            let Answer::Hidden(values) = answer else { panic!("a hidden state was asked for") };
            found = values.to_vec();
        })
        .unwrap();
    engine.close(sequence);
    found
}

/// In double precision, for a comparison within rounding.
fn normalized(values: &[f32]) -> Vec<f64> {
    let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    values.iter().map(|value| f64::from(*value) / length).collect()
}

fn floats(embedding: &Value) -> Vec<f32> {
    embedding.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn vectors(reply: &Reply) -> Vec<Vec<f32>> {
    let reply = reply.json();
    let data = reply["data"].as_array().unwrap_or_else(|| panic!("{reply}"));
    assert!(data.iter().enumerate().all(|(i, one)| one["index"] == i && one["object"] == "embedding"));
    data.iter().map(|one| floats(&one["embedding"])).collect()
}

fn assert_close(got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    let worst = got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs());
    assert!(worst.fold(0.0, f64::max) < 1e-6);
}

#[test]
fn hidden_states_and_logits_equal_llama_cpp_bit_for_bit() {
    let golden = golden();
    let tokens = tokens(&golden);
    let digest = |values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for name in MODELS {
        let (mut engine, expected) = (qwen3(name), &golden["models"][name]);
        for end in 1..=tokens.len() {
            let digest = digest(&pooled(&mut engine, &tokens[..end]));
            assert_eq!(json!(digest), expected["pooled_sha256"][end - 1], "{name}, {end} tokens");
        }
        for (position, token) in tokens.iter().enumerate() {
            let digest = digest(engine.decode(*token).unwrap());
            assert_eq!(json!(digest), expected["sha256"][position], "{name}, position {position}");
        }
    }
}

#[test]
fn embeddings_come_in_every_form() {
    let golden = golden();
    let tokens = tokens(&golden);
    for name in MODELS {
        let server = start_qwen3(name, settings());
        let address = server.address();
        let expected = normalized(&floats(&golden["models"][name]["last_pooled"]));
        let whole = post(address, PATH, &json!({ "model": "kjv", "input": tokens }));
        let reply = whole.json();
        assert_eq!((&reply["object"], &reply["model"]), (&json!("list"), &json!("kjv")));
        assert_eq!(reply["usage"], json!({ "prompt_tokens": tokens.len(), "total_tokens": tokens.len() }));
        let found = vectors(&whole);
        let [values] = &found[..] else { panic!("one input, one vector") };
        assert_close(values, &expected);

        let request = json!({ "input": [tokens], "encoding_format": "base64" });
        let packed = post(address, PATH, &request).json()["data"][0]["embedding"].clone();
        let bytes = base64::prelude::BASE64_STANDARD.decode(packed.as_str().unwrap()).unwrap();
        let unpacked: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(unpacked, *values);

        let fewer = vectors(&post(address, PATH, &json!({ "input": tokens, "dimensions": 8 })));
        assert_close(&fewer[0], &normalized(&floats(&golden["models"][name]["last_pooled"])[..8]));
        server.shut_down();
    }
}

#[test]
fn many_texts_beside_answers_get_what_each_would_get_alone() {
    let limits = SchedulerLimits { slots: 4, kept_sequences: 4 };
    let server = start_qwen3(MODELS[0], Settings { scheduler: limits, ..settings() });
    let address = server.address();
    let texts: Vec<String> =
        (0..40).map(|i| format!("{} the text number {i}", "and so on ".repeat(i % 5))).collect();
    let asked = json!({ "input": texts });
    let answers = std::thread::spawn(move || {
        for _ in 0..4 {
            post(address, "/v1/completions", &json!({ "prompt": "and so on", "max_tokens": 8 })).json();
        }
    });
    let reply = post(address, PATH, &asked);
    answers.join().unwrap();
    let (mut engine, vectors) = (qwen3(MODELS[0]), vectors(&reply));
    let (tokenizer, _) = bitnet_runtime::generate::load_tokenizer(engine.gguf()).unwrap();
    let mut total = 0;
    assert_eq!(vectors.len(), texts.len());
    for (text, vector) in texts.iter().zip(&vectors) {
        let tokens = tokenizer
            .encode(
                text,
                bitnet_runtime::tokenizer::SpecialTokens::Parse,
                bitnet_runtime::tokenizer::Bos::AsFileAsks,
            )
            .unwrap();
        assert_eq!(tokens.last().copied(), tokenizer.eos(), "as the file asks");
        total += tokens.len();
        assert_close(vector, &normalized(&pooled(&mut engine, &tokens)));
    }
    assert_eq!(reply.json()["usage"]["total_tokens"], total);
    assert_eq!(metric(address, "bitnet_active_answers"), 0.0);
    server.shut_down();
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let server = start_qwen3(MODELS[0], settings());
    let address = server.address();
    for (request, param, code) in [
        (json!({ "input": "x", "dimensions": 65 }), "dimensions", None),
        (json!({ "input": "x", "dimensions": 0 }), "dimensions", None),
        (json!({ "input": [] }), "input", None),
        (json!({ "input": vec!["x"; 2049] }), "input", None),
        (json!({ "input": [[1, 2], []] }), "input", None),
        (json!({ "input": [1, 99999] }), "input", None),
        (json!({ "input": vec![1; 513] }), "input", Some("context_length_exceeded")),
        (json!({ "input": "x", "encoding_format": "hex" }), "encoding_format", None),
        (json!({ "input": "x", "model": "other" }), "model", Some("model_not_found")),
    ] {
        let reply = post(address, PATH, &request);
        let error = reply.json()["error"].clone();
        assert_eq!(error["param"], param, "{error}");
        assert_eq!(error["code"].as_str(), code, "{error}");
    }
    server.shut_down();
    let server = start(settings());
    let error = post(server.address(), PATH, &json!({ "input": "x" })).error();
    assert_eq!((error.0, error.3.as_deref()), (400, Some("unsupported_model")));
    assert!(error.1.contains("bitnet-b1.58.pooling_type"), "{error:?}");
    server.shut_down();
}
