//! Peers that go away, say nothing, read nothing; and the end of the server.

use crate::client::{connect, get, head, post, read};
use crate::support::*;
use bitnet_server::{End, HttpLimits, SchedulerLimits, Server, Settings};
use serde_json::json;
use std::io::{Read, Write};
use std::time::Duration;

/// A request whose answer fills the context.
fn endless() -> serde_json::Value {
    json!({ "prompt": "In the beginning", "max_tokens": 100_000, "ignore_eos": true, "stream": true })
}

#[test]
fn a_client_that_vanishes_frees_its_slot() {
    let limits = SchedulerLimits { slots: 1, kept_sequences: 0 };
    let (loader, gate) = gated();
    let server = Server::start(Settings { scheduler: limits, ..settings() }, loader).unwrap();
    let address = server.address();
    let body = endless().to_string();
    let request = head("POST", "/v1/completions", &[], Some(body.len())) + &body;
    let mut gone = connect(address);
    gone.write_all(request.as_bytes()).unwrap();
    gone.read_exact(&mut [0; 1000]).unwrap();
    let held = gate.lock().unwrap();
    // One that waits for the slot, and goes as well.
    let mut waiting = connect(address);
    waiting.write_all(request.as_bytes()).unwrap();
    until_taken(address, 1.0, 1.0);
    drop((gone, waiting));
    eventually("their connections end", || metric(address, "bitnet_connections") == 1.0);
    drop(held);
    let reply = post(address, "/v1/completions", &json!({ "prompt": "And", "max_tokens": 4 })).json();
    assert_eq!(reply["choices"][0]["text"], alone("And", 4));
    eventually("both are counted", || metric(address, "bitnet_requests_cancelled_total") == 2.0);
    assert_eq!(metric(address, "bitnet_active_answers"), 0.0);
    assert_eq!(metric(address, "bitnet_kv_pages_free"), metric(address, "bitnet_kv_pages"));
    server.shut_down();
}

/// A server that closed with bytes of the client unread would reset the connection, and the answer would be lost.
#[test]
fn who_still_sends_when_refused_reads_why() {
    let limits = HttpLimits { body_bytes: 1 << 10, ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    // More than the buffers of a connection hold.
    let body = vec![b'x'; 8 << 20];
    let too_large = &head("POST", "/v1/completions", &[], Some(body.len()));
    let no_json = &head("POST", "/v1/completions", &[("content-type", "text/plain")], Some(body.len()));
    let nowhere = &head("POST", "/nowhere", &[], Some(body.len()));
    let elsewhere = &head("POST", "/v1/completions", &[("origin", "http://else.where")], Some(body.len()));
    let no_http = &"POST completions\r\n\r\n".to_owned();
    for round in 0..40 {
        for (head, status) in
            [(too_large, 413), (no_json, 415), (nowhere, 404), (elsewhere, 403), (no_http, 400)]
        {
            let mut stream = connect(address);
            stream.write_all(head.as_bytes()).unwrap();
            let sent = stream.write_all(&body);
            assert!(sent.is_ok(), "round {round}, {status}: {sent:?}");
            assert_eq!(read(&mut stream).status, status, "round {round}");
        }
    }
    eventually("their connections end", || metric(address, "bitnet_connections") == 1.0);
    server.shut_down();
}

/// A client that sends for ever, or neither ends nor sends, is given up.
#[test]
fn what_is_read_for_nothing_is_bounded() {
    let limits = HttpLimits { body_timeout: Duration::from_millis(300), ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    let refused = head("POST", "/nowhere", &[], Some(1 << 40));
    let mut silent = connect(address);
    silent.write_all(refused.as_bytes()).unwrap();
    assert_eq!(read(&mut silent).status, 404);
    let mut endless = connect(address);
    endless.write_all(refused.as_bytes()).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let broken = (0..1 << 20).find_map(|_| endless.write_all(&piece).err());
    assert!(broken.is_some(), "a terabyte was taken");
    eventually("only the one that asks is open", || metric(address, "bitnet_connections") == 1.0);
    server.shut_down();
}

#[test]
fn half_open_and_silent_connections_are_given_up() {
    let short = Duration::from_millis(300);
    let limits = HttpLimits { header_timeout: short, body_timeout: short, ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    let mut silent = connect(address);
    let mut half = connect(address);
    half.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: loc").unwrap();
    let mut bodyless = connect(address);
    bodyless.write_all(head("POST", "/v1/completions", &[], Some(100)).as_bytes()).unwrap();
    bodyless.write_all(b"{\"prompt\"").unwrap();
    // Kept open after its answer, then silent.
    let mut kept = connect(address);
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(read(&mut bodyless).status, 408);
    for (name, stream) in [("silent", &mut silent), ("half", &mut half), ("kept", &mut kept)] {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 "), "{name}: {text}");
    }
    eventually("only the one that asks is open", || metric(address, "bitnet_connections") == 1.0);
    server.shut_down();
}

#[test]
fn who_does_not_read_is_given_up_and_holds_up_nobody() {
    let limits = HttpLimits { write_timeout: Duration::from_millis(300), ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    // More than the buffers of a connection hold.
    let request = json!({ "prompt": "And", "max_tokens": 400, "ignore_eos": true, "stream": true, "n": 16,
        "logprobs": 20 });
    let body = request.to_string();
    let mut deaf = connect(address);
    deaf.write_all((head("POST", "/v1/completions", &[], Some(body.len())) + &body).as_bytes()).unwrap();
    eventually("it is computed", || metric(address, "bitnet_active_answers") > 0.0);
    let reply = post(address, "/v1/completions", &json!({ "prompt": "And", "max_tokens": 4 })).json();
    assert_eq!(reply["choices"][0]["text"], alone("And", 4));
    eventually("its connection ends", || metric(address, "bitnet_connections") == 1.0);
    drop(deaf);
    server.shut_down();
}

#[test]
fn what_is_under_way_is_finished_before_the_end() {
    let limits = SchedulerLimits { slots: 4, kept_sequences: 4 };
    let (loader, gate) = gated();
    let server = Server::start(Settings { scheduler: limits, ..settings() }, loader).unwrap();
    let address = server.address();
    let held = gate.lock().unwrap();
    let ask = |i: usize| {
        let request =
            json!({ "prompt": "And it came to pass", "max_tokens": 20 + i, "stream": i.is_multiple_of(2) });
        std::thread::spawn(move || post(address, "/v1/completions", &request))
    };
    // The engine begins with the first and waits at the gate.
    let mut clients = vec![ask(0)];
    until_taken(address, 1.0, 0.0);
    clients.extend((1..12).map(ask));
    until_taken(address, 1.0, 11.0);
    let end = std::thread::spawn(move || server.shut_down());
    eventually("it says so", || get(address, "/ready").status == 503);
    let late = post(address, "/v1/completions", &json!({ "prompt": "And" }));
    assert_eq!((late.error().3.as_deref(), late.header("retry-after")), (Some("shutting_down"), Some("5")));
    drop(held);
    for (i, client) in clients.into_iter().enumerate() {
        let reply = client.join().unwrap();
        let text: String = match i % 2 {
            0 => reply.events().iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect(),
            _ => reply.json()["choices"][0]["text"].as_str().unwrap().to_owned(),
        };
        assert_eq!(text, alone("And it came to pass", 20 + i), "client {i}");
    }
    assert_eq!(end.join().unwrap(), End::Drained);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn answers_that_take_too_long_are_cut_off_at_the_end() {
    let (loader, gate) = gated();
    let server = Server::start(Settings { drain: Duration::ZERO, ..settings() }, loader).unwrap();
    let address = server.address();
    let held = gate.lock().unwrap();
    let request = json!({ "prompt": "And", "max_tokens": 500, "ignore_eos": true, "n": 8 });
    let client = std::thread::spawn(move || post(address, "/v1/completions", &request));
    until_taken(address, 1.0, 0.0);
    let end = std::thread::spawn(move || server.shut_down());
    eventually("it says so", || get(address, "/ready").status == 503);
    drop(held);
    assert_eq!(end.join().unwrap(), End::CutOff);
    let error = client.join().unwrap().error();
    assert_eq!((error.0, error.3.as_deref()), (503, Some("shutting_down")));
}

#[test]
fn a_model_is_swapped_while_answers_are_under_way() {
    let server = start(settings());
    let address = server.address();
    let long = json!({ "prompt": "And", "max_tokens": 300, "ignore_eos": true, "n": 2 });
    let client = std::thread::spawn(move || post(address, "/v1/completions", &long));
    eventually("it runs", || metric(address, "bitnet_active_answers") > 0.0);
    server.load().unwrap();
    let reply = post(address, "/v1/completions", &json!({ "prompt": "In the beginning" })).json();
    assert_eq!(reply["choices"][0]["text"], alone("In the beginning", 16));
    assert_eq!(client.join().unwrap().json()["usage"]["completion_tokens"], 600);
    assert_eq!(metric(address, "bitnet_model_swaps_total"), 1.0);
    server.shut_down();
}

#[test]
fn connections_have_a_limit_and_are_used_again() {
    let limits = HttpLimits { connections: 3, ..HttpLimits::default() };
    let server = start(Settings { limits, ..settings() });
    let address = server.address();
    let mut open: Vec<_> = (0..3).map(|_| connect(address)).collect();
    for stream in &mut open {
        for _ in 0..3 {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            assert_eq!(read(stream).status, 200);
        }
    }
    let mut refused = connect(address);
    let mut nothing = Vec::new();
    let _ = refused.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    open.pop();
    eventually("there is room again", || {
        let mut stream = connect(address);
        let _ = stream.write_all(head("GET", "/health", &[], None).as_bytes());
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).is_ok() && reply.starts_with(b"HTTP/1.1 200")
    });
    drop(open);
    eventually("it is counted", || get(address, "/health").status == 200);
    assert!(metric(address, "bitnet_connections_refused_total") >= 1.0);
    server.shut_down();
}
