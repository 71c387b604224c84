//! What must not bring the server down: a failing engine, and input that is no request.

use crate::client::{connect, get, post, read, send};
use crate::support::*;
use bitnet_server::{HttpLimits, Server, Settings};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

const TEXT: &str = "/v1/completions";

#[test]
fn a_panic_of_the_engine_is_a_500_for_one_request() {
    // A token that no greedy answer here has.
    let bad = 2000;
    let server = Server::start(settings(), faulty(Some(bad), Arc::default())).unwrap();
    let address = server.address();
    let others: Vec<_> = (0..6)
        .map(|i| {
            let request = json!({ "prompt": "In the beginning", "max_tokens": 40 + i });
            std::thread::spawn(move || post(address, TEXT, &request).json())
        })
        .collect();
    for stream in [false, true] {
        let error = post(address, TEXT, &json!({ "prompt": [300, bad, 301], "stream": stream })).error();
        assert_eq!(
            (error.0, error.2.as_str(), error.3.as_deref()),
            (500, "server_error", Some("engine_failed"))
        );
    }
    for (i, other) in others.into_iter().enumerate() {
        assert_eq!(other.join().unwrap()["choices"][0]["text"], alone("In the beginning", 40 + i));
    }
    assert!(metric(address, "bitnet_engine_failures_total") >= 2.0);
    let reply = post(address, TEXT, &json!({ "prompt": "And" })).json();
    assert_eq!(reply["choices"][0]["text"], alone("And", 16), "it lives");
    assert!(logs().contains("the engine failed on a request"));
    server.shut_down();
}

#[test]
fn what_is_no_request_gets_an_error_in_openais_form() {
    let server = start(settings());
    let address = server.address();
    let chat = "/v1/chat/completions";
    let deep = "[".repeat(100_000);
    let bodies: Vec<(&str, Vec<u8>, u16)> = vec![
        (TEXT, b"".to_vec(), 400),
        (TEXT, b"{".to_vec(), 400),
        (TEXT, b"{}".to_vec(), 400),
        (TEXT, b"null".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\"} trailing".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"\xff\xfe\"}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"\\ud800\"}".to_vec(), 400),
        (TEXT, deep.clone().into_bytes(), 400),
        (TEXT, format!("{{\"prompt\": \"x\", \"user\": {deep}").into_bytes(), 400),
        (TEXT, b"{\"prompt\": 5}".to_vec(), 400),
        (TEXT, b"{\"prompt\": []}".to_vec(), 400),
        (TEXT, b"{\"prompt\": [[]]}".to_vec(), 400),
        (TEXT, b"{\"prompt\": [99999999]}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"temperature\": \"hot\"}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"temperature\": -1}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"temperature\": 1e999}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"max_tokens\": -1}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"stop\": \"\"}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"n\": 0}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"n\": 4000000000}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"suffix\": \"y\"}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"best_of\": 3}".to_vec(), 400),
        (TEXT, b"{\"prompt\": \"x\", \"model\": \"../../etc/passwd\"}".to_vec(), 404),
        (chat, b"{\"messages\": []}".to_vec(), 400),
        (chat, b"{\"messages\": [{\"role\": \"oracle\", \"content\": \"x\"}]}".to_vec(), 400),
        (
            chat,
            b"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}".to_vec(),
            400,
        ),
        (chat, b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": [{}]}".to_vec(), 400),
        (
            chat,
            b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"top_logprobs\": 2}".to_vec(),
            400,
        ),
    ];
    for (path, body, status) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let error = send(address, "POST", path, &[], Some(&body)).error();
        assert_eq!((error.0, error.2.as_str()), (status, "invalid_request_error"), "{shown}: {error:?}");
    }
    let named = post(address, chat, &json!({ "messages": [{ "role": "user", "content": 3 }] })).json();
    assert_eq!(named["error"]["param"], "messages[0].content");
    assert_eq!(get(address, "/nowhere").error().0, 404);
    let other = get(address, TEXT);
    assert_eq!((other.error().0, other.header("allow")), (405, Some("POST")));
    let plain = send(address, "POST", TEXT, &[("content-type", "text/plain")], Some(b"{\"prompt\": \"x\"}"));
    assert_eq!(plain.error().0, 415);
    let long = json!({ "prompt": "word ".repeat(3000) });
    assert_eq!(post(address, TEXT, &long).error().3.as_deref(), Some("context_length_exceeded"));
    assert_eq!(get(address, "/ready").status, 200);
    server.shut_down();
}

#[test]
fn enormous_bodies_and_heads_are_refused() {
    let limits = HttpLimits { body_bytes: 10_000, ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    let body = json!({ "prompt": "x".repeat(20_000) }).to_string();
    let told = send(address, "POST", TEXT, &[], Some(body.as_bytes()));
    assert_eq!(told.error().0, 413);
    // In pieces, without a word of how much is to come.
    let mut stream = connect(address);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..20 {
        // It may have had enough already.
        let _ = stream.write_all(format!("400\r\n{}\r\n", "x".repeat(1024)).as_bytes());
    }
    assert_eq!(read(&mut stream).error().0, 413);
    let large = "x".repeat(200_000);
    let refused = send(address, "GET", "/health", &[("x-large", &large)], None);
    assert_eq!(refused.status, 431);
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        let mut stream = connect(address);
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(get(address, "/health").status, 200);
    server.shut_down();
}
