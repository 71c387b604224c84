//! What answers hold: text, streams, choices, logprobs, usage, stop texts, seeds, schemas.

use crate::client::{get, post};
use crate::support::*;
use bitnet_server::{SchedulerLimits, Settings};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn chat(text: &str) -> Value {
    json!({ "model": "kjv", "messages": [{ "role": "user", "content": text }] })
}

fn with(mut request: Value, more: Value) -> Value {
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

#[test]
fn sixty_four_clients_get_what_each_would_get_alone() {
    let limits = SchedulerLimits { slots: 64, kept_sequences: 16 };
    let server =
        bitnet_server::Server::start(Settings { scheduler: limits, ..settings() }, loader(8)).unwrap();
    let address = server.address();
    let names = ["Moses", "Aaron", "David", "Saul", "Jacob", "Esau", "Ruth", "Job"];
    let prompt = |i: usize| match i % 4 {
        0 => format!("And {} said", names[i % 8]),
        1 => format!("In the day that {} went up to the mountain", names[i / 8]),
        2 => "The words of the covenant, ".repeat(1 + i / 4),
        _ => format!("{} begat", names[i % 8]),
    };
    let clients: Vec<_> = (0..64)
        .map(|i| {
            let request = json!({ "prompt": prompt(i), "max_tokens": 8 + i % 17, "temperature": 0 });
            std::thread::spawn(move || post(address, TEXT, &request).json())
        })
        .collect();
    for (i, client) in clients.into_iter().enumerate() {
        let reply = client.join().unwrap();
        assert_eq!(reply["choices"][0]["text"], alone(&prompt(i), 8 + i % 17), "client {i}");
    }
    assert!(metric(address, "bitnet_batch_rows_sum") > metric(address, "bitnet_batch_rows_count"));
    assert_eq!(metric(address, "bitnet_active_answers"), 0.0);
    server.shut_down();
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let server = start(settings());
    let whole = post(server.address(), CHAT, &chat("Who is like thee?")).json();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(text, alone("Q: Who is like thee?\nA:", 16));
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("kjv")));
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");

    let request = with(
        chat("Who is like thee?"),
        json!({ "stream": true, "stream_options": { "include_usage": true } }),
    );
    let reply = post(server.address(), CHAT, &request);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let pieces: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(pieces, text);
    let [.., last, usage] = &events[..] else { panic!("too few events") };
    assert_eq!(last["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!((usage["choices"].as_array().unwrap().len(), &last["usage"]), (0, &Value::Null));
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage["usage"][name], whole["usage"][name], "{name}");
    }
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));

    let request = json!({ "prompt": "In the beginning", "stream": true, "echo": true });
    let events = post(server.address(), TEXT, &request).events();
    let pieces: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(pieces, format!("In the beginning{}", alone("In the beginning", 16)));
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    server.shut_down();
}

#[test]
fn stop_texts_end_an_answer_and_are_no_part_of_it() {
    let server = start(settings());
    let text = alone("In the beginning", 16);
    let stop = &text[6..11];
    for stop in [json!(stop), json!(["nowhere to be found", stop])] {
        let request = json!({ "prompt": "In the beginning", "stop": stop });
        let choice = post(server.address(), TEXT, &request).json()["choices"][0].clone();
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text[..6]), &json!("stop")));
    }
    let length = post(server.address(), TEXT, &json!({ "prompt": "In the beginning" })).json();
    assert_eq!(length["choices"][0]["finish_reason"], "length");
    let none = post(server.address(), TEXT, &json!({ "prompt": "In the beginning", "max_tokens": 0 })).json();
    assert_eq!((&none["choices"][0]["text"], &none["usage"]["completion_tokens"]), (&json!(""), &json!(0)));
    server.shut_down();
}

#[test]
fn seeds_repeat_answers_and_choices_differ() {
    let server = start(settings());
    let request = |seed: i64, n: usize| json!({ "prompt": "And the", "temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "n": n });
    let texts = |request: Value| -> Vec<String> {
        let reply = post(server.address(), TEXT, &request).json();
        let choices = reply["choices"].as_array().unwrap().clone();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let four = texts(request(7, 4));
    assert_eq!(four, texts(request(7, 4)));
    assert_eq!(four.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{four:?}");
    assert_eq!(texts(request(8, 1))[0], four[1], "choice i has the seed plus i");
    assert_ne!(texts(request(-1, 1)), texts(request(7, 1)));
    server.shut_down();
}

#[test]
fn prompts_come_as_texts_and_as_tokens() {
    let server = start(settings());
    let (tokenizer, _) = bitnet_runtime::generate::load_tokenizer(engine(1).gguf()).unwrap();
    let encode = |text: &str| {
        tokenizer
            .encode(
                text,
                bitnet_runtime::tokenizer::SpecialTokens::Parse,
                bitnet_runtime::tokenizer::Bos::AsFileAsks,
            )
            .unwrap()
    };
    let prompts = ["In the beginning", "Thou shalt"];
    let many = json!({ "prompt": prompts, "n": 2 });
    let reply = post(server.address(), TEXT, &many).json();
    let expected: Vec<String> = prompts.iter().flat_map(|prompt| vec![alone(prompt, 16); 2]).collect();
    for (index, expected) in expected.iter().enumerate() {
        let choice = &reply["choices"][index];
        assert_eq!((&choice["index"], &choice["text"]), (&json!(index), &json!(expected)));
    }
    let tokens: usize = prompts.iter().map(|prompt| encode(prompt).len()).sum();
    assert_eq!(reply["usage"]["prompt_tokens"], tokens);
    let of_tokens = json!({ "prompt": prompts.map(encode) });
    let reply = post(server.address(), TEXT, &of_tokens).json();
    assert_eq!(reply["choices"][1]["text"], expected[2].as_str());
    server.shut_down();
}

#[test]
fn logprobs_are_probabilities_of_the_tokens_that_came() {
    let server = start(settings());
    let request = with(chat("Who?"), json!({ "logprobs": true, "top_logprobs": 3 }));
    let reply = post(server.address(), CHAT, &request).json();
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let mut bytes = Vec::new();
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(top[0]["token"], token["token"], "greedy takes the best");
        let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0, "{values:?}");
        assert!(values.iter().map(|value| value.exp()).sum::<f64>() <= 1.0 + 1e-6);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8));
    }
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        reply["choices"][0]["message"]["content"].as_str().unwrap()
    );

    let request = json!({ "prompt": "In the beginning", "logprobs": 2, "echo": true, "stop": [" the"] });
    let reply = post(server.address(), TEXT, &request).json();
    let (text, logprobs) = (&reply["choices"][0]["text"], &reply["choices"][0]["logprobs"]);
    let tokens: String =
        logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(json!(format!("In the beginning{tokens}")), *text, "tokens of the stop text are left out");
    assert_eq!(logprobs["text_offset"][0], "In the beginning".len());
    server.shut_down();
}

#[test]
fn a_bias_changes_what_is_chosen() {
    let server = start(settings());
    let first = with(chat("Who?"), json!({ "logprobs": true, "max_tokens": 1 }));
    let request = |bias: Value| with(first.clone(), json!({ "logit_bias": bias }));
    let token = |request: Value| {
        post(server.address(), CHAT, &request).json()["choices"][0]["logprobs"]["content"][0]["token"].clone()
    };
    let forced = token(request(json!({ "100": 100 })));
    assert_ne!(forced, token(first.clone()));
    let error = post(server.address(), CHAT, &request(json!({ "99999999": 1 }))).error();
    assert!(error.0 == 400 && error.1.contains("99999999"), "{error:?}");
    server.shut_down();
}

#[test]
fn json_follows_its_schema() {
    let server = start(settings());
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "kind": { "enum": ["king", "prophet"] },
            "old": { "type": "boolean" },
            "of": { "$ref": "#/$defs/number" },
        },
        "$defs": { "number": { "type": "integer", "minimum": 1, "maximum": 12 } },
        "required": ["name", "kind", "old", "of"],
        "additionalProperties": false,
    });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } });
    for temperature in [0.0, 1.0] {
        let more =
            json!({ "response_format": format, "max_tokens": 200, "temperature": temperature, "seed": 3 });
        let reply = post(server.address(), CHAT, &with(chat("Who was he?"), more)).json();
        let choice = &reply["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap();
        assert_eq!(choice["finish_reason"], "stop", "{text}");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(value["name"].as_str().unwrap().chars().count() <= 12);
        assert!(["king", "prophet"].contains(&value["kind"].as_str().unwrap()) && value["old"].is_boolean());
        assert!((1..=12).contains(&value["of"].as_i64().unwrap()));
    }
    let object = with(chat("Who?"), json!({ "response_format": { "type": "json_object" }, "max_tokens": 8 }));
    let reply = post(server.address(), CHAT, &object).json();
    assert!(reply["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'));
    for bad in [json!({ "type": "nothing" }), json!({ "$ref": "https://example.org/schema" })] {
        let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": bad } });
        let error =
            post(server.address(), CHAT, &with(chat("x"), json!({ "response_format": format }))).error();
        assert_eq!((error.0, error.2.as_str()), (400, "invalid_request_error"), "{error:?}");
    }
    server.shut_down();
}

#[test]
fn a_prompt_that_came_before_is_taken_from_the_cache() {
    let server = start(settings());
    let story = "And it came to pass in those days that there was no king in Israel. ".repeat(4);
    let ask = |end: &str| {
        let prompt = format!("{story}{end}");
        let reply = post(server.address(), TEXT, &json!({ "prompt": prompt })).json();
        assert_eq!(reply["choices"][0]["text"], alone(&prompt, 16));
        reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(ask("And"), 0);
    assert!(ask("Then") > 40);
    server.shut_down();
}

#[test]
fn the_server_tells_what_it_is() {
    let server = start(settings());
    let address = server.address();
    let models = get(address, "/v1/models").json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("kjv")));
    assert_eq!(get(address, "/v1/models/kjv").json(), models["data"][0]);
    assert_eq!(get(address, "/v1/models/other").error().3.as_deref(), Some("model_not_found"));
    let props = get(address, "/props").json();
    assert_eq!(props["engine"]["context_size"], 512);
    assert_eq!(props["selection"]["requested"], "auto");
    let selected = format!("selected={}", props["selection"]["selected"].as_str().unwrap());
    assert!(props["selection_line"].as_str().unwrap().contains(&selected));
    assert_eq!(
        props["kernels"].as_array().unwrap().iter().filter(|row| row["operation"] == "head").count(),
        1
    );
    assert_eq!(props["default_sampling"]["temperature"], 0.0);
    assert_eq!(get(address, "/openapi.json").json(), bitnet_server::openapi());
    let metrics = get(address, "/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    assert!(metrics.text().contains("bitnet_model_info{model=\"kjv\",kernels="));
    server.shut_down();
}
