//! Queues that are full, deadlines, and being ready before the model is.

use crate::client::{get, post};
use crate::support::*;
use bitnet_server::{HttpLimits, Loaded, QueueLimits, SchedulerLimits, Server, Settings};
use serde_json::json;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

#[test]
fn a_full_queue_says_when_to_come_back() {
    let settings = Settings {
        scheduler: SchedulerLimits { slots: 1, kept_sequences: 0 },
        queue: QueueLimits { all: 1, per_client: 1 },
        ..settings()
    };
    let (loader, gate) = gated();
    let server = Server::start(settings, loader).unwrap();
    let address = server.address();
    let complete = move || post(address, "/v1/completions", &json!({ "prompt": "And", "max_tokens": 4 }));
    let held = gate.lock().unwrap();
    let running = std::thread::spawn(complete);
    until_taken(address, 1.0, 0.0);
    let waiting = std::thread::spawn(complete);
    until_taken(address, 1.0, 1.0);
    let reply = complete();
    let after: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&after));
    let error = reply.error();
    assert_eq!(
        (error.0, error.2.as_str(), error.3.as_deref()),
        (429, "rate_limit_error", Some("rate_limit_exceeded"))
    );
    // The engine does not move, and nobody else waits for it.
    for path in ["/health", "/ready", "/props", "/v1/models", "/metrics"] {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    drop(held);
    for client in [running, waiting] {
        assert_eq!(client.join().unwrap().json()["choices"][0]["text"], alone("And", 4));
    }
    assert_eq!(complete().status, 200, "there is room again");
    server.shut_down();
}

#[test]
fn a_deadline_is_a_504_and_an_event_within_a_stream() {
    let limits = HttpLimits { request_timeout: Duration::from_micros(1), ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    for stream in [false, true] {
        let request = json!({ "prompt": "And", "max_tokens": 100, "stream": stream });
        let error = post(address, "/v1/completions", &request).error();
        assert_eq!((error.0, error.2.as_str(), error.3.as_deref()), (504, "timeout_error", Some("timeout")));
    }
    server.shut_down();
    // Long enough for the first token, too short for so many.
    let limits = HttpLimits { request_timeout: Duration::from_millis(700), ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let request = json!({ "prompt": "And", "max_tokens": 100_000, "stream": true, "n": 16, "ignore_eos": true,
        "logprobs": 20 });
    let reply = post(server.address(), "/v1/completions", &request);
    if reply.status == 200 {
        let last = reply.text().trim_end().lines().last().unwrap().to_owned();
        let data: serde_json::Value = match last.strip_prefix("data: ") {
            Some("[DONE]") => json!({ "error": { "code": "timeout" } }),
            data => serde_json::from_str(data.unwrap()).unwrap(),
        };
        assert_eq!(data["error"]["code"], "timeout");
    }
    server.shut_down();
}

#[test]
fn health_answers_while_the_model_is_being_loaded() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let loader = Arc::new(move || {
        let _ = gate.lock().unwrap().recv();
        Loaded::new(engine(1), &about())
    });
    // A port that is known before the server is started.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let starting =
        std::thread::spawn(move || Server::start(Settings { address, ..settings() }, loader).unwrap());
    eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
    assert_eq!(get(address, "/health").json()["status"], "ok");
    let ready = get(address, "/ready");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("loading")));
    let early = post(address, "/v1/completions", &json!({ "prompt": "And" }));
    assert_eq!((early.error().3.as_deref(), early.header("retry-after")), (Some("loading"), Some("1")));
    assert_eq!(get(address, "/metrics").status, 200);
    go.send(()).unwrap();
    let server = starting.join().unwrap();
    assert_eq!(get(address, "/ready").status, 200);
    server.shut_down();
}

#[test]
fn a_model_that_cannot_be_loaded_is_an_error_of_the_start() {
    let loader = Arc::new(|| Err(bitnet_runtime::Error::usage("no such thing", "give another")));
    let error = Server::start(settings(), loader).err().unwrap().to_string();
    assert_eq!(error, "no such thing; give another");
    let panics = Arc::new(|| panic!("planted while loading"));
    let error = Server::start(settings(), panics).err().unwrap().to_string();
    assert!(error.contains("planted while loading"), "{error}");
}
