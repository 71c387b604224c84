//! Requests to a real server on loopback: raw bytes of a connection, and JSON bodies.
//!
//! The server has a small model and short limits of time. A client that ends early is part of it: what gets no answer
//! within a moment is ended from this side.

use crate::bases;
use crate::input::Input;
use bitforge_schema::selection::Selection;
use bitnet_runtime::chat::ChatMode;
use bitnet_runtime::engine::{Engine, EngineOptions};
use bitnet_runtime::sampling::SamplingParams;
use bitnet_server::{About, HttpLimits, Loaded, Server, Settings};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long an answer may take to begin before the client gives up.
const MOMENT: Duration = Duration::from_millis(8);
/// A server that then takes longer to close hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const STATUSES: &[u16] =
    &[200, 204, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 422, 429, 431, 501, 503, 504, 505];

/// The address of the one server of this process.
pub fn server() -> SocketAddr {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start).address()
}

fn start() -> Server {
    let backend = Selection {
        requested: "cpu".into(),
        compiled: vec!["cpu".into()],
        detected: vec!["cpu".into()],
        selected: "cpu".into(),
        reason: "fuzzing".into(),
    };
    let about = About {
        id: "small".into(),
        chat: ChatMode::Auto,
        backend,
        receipt: serde_json::json!({ "version": 1 }),
    };
    let load = move || {
        let options =
            EngineOptions { threads: 1, context: Some(96), sequences: 4, ..EngineOptions::default() };
        Loaded::new(Engine::new(Arc::new(bases::served()), &options, &mut |_, _| ())?, &about)
    };
    let short = Duration::from_millis(500);
    let limits = HttpLimits {
        // A head that comes later has no answer. Who sends a whole one must get one, also where the client is kept from
        // sending by a busy machine; who sends a part ends its side.
        header_timeout: PATIENCE / 2,
        body_timeout: short,
        request_timeout: Duration::from_secs(10),
        ..HttpLimits::default()
    };
    let settings = Settings {
        address: "127.0.0.1:0".parse().expect("an address"),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        seed: Some(1),
        max_tokens: Some(4),
        limits,
        ..Settings::default()
    };
    Server::start(settings, Arc::new(load)).expect("a server on loopback")
}

/// What came back on a connection.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
    /// The body is as long as the head says, or ended as chunks end.
    pub whole: bool,
}

/// Sends `bytes` and reads until the server closes; a client that hears nothing for a moment ends its side first, where
/// it is not `patient`.
pub fn exchange(address: SocketAddr, bytes: &[u8], patient: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    // A server that refuses by the head may have closed already.
    let _ = stream.write_all(bytes);
    let started = Instant::now();
    let (mut answer, mut buffer, mut ended) = (Vec::new(), [0; 1 << 14], patient);
    stream.set_read_timeout(Some(if patient { PATIENCE } else { MOMENT })).expect("a socket option");
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(started.elapsed() < PATIENCE, "the server neither answers nor closes");
                if !std::mem::replace(&mut ended, true) {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            }
            // libFuzzer's clock; a read with a time limit is not taken up again by the system.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Closed with bytes of ours unread.
            Err(_) => return answer,
        }
    }
}

/// The first answer in `bytes`.
pub fn parse(bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        assert!(bytes.is_empty() || b"HTTP/1.".starts_with(&bytes[..bytes.len().min(7)]), "no head");
        return None;
    };
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is ASCII");
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status: u16 = status.unwrap_or_else(|| panic!("no status in {first:?}"));
    let (mut content_type, mut length, mut chunked) = (String::new(), None, false);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}"));
        assert!(!name.is_empty() && !name.contains(' ') && !line.contains(['\r', '\n', '\0']), "{line:?}");
        match name.to_ascii_lowercase().as_str() {
            "content-type" => content_type = value.trim().into(),
            "content-length" => length = Some(value.trim().parse::<usize>().expect("a length")),
            "transfer-encoding" => chunked = value.trim() == "chunked",
            _ => {}
        }
    }
    let rest = &bytes[end + 4..];
    let (body, whole) = match (chunked, length) {
        (true, _) => unchunk(rest),
        (false, Some(length)) => (rest[..length.min(rest.len())].to_vec(), rest.len() >= length),
        (false, None) => (rest.to_vec(), true),
    };
    Some(Reply { status, content_type, body, whole })
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return (body, false) };
        let size =
            std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.unwrap_or_else(|| panic!("the size of a chunk is {:?}", &rest[..end]));
        rest = &rest[end + 2..];
        if rest.len() < size + 2 {
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
        if size == 0 {
            return (body, true);
        }
    }
}

pub fn request(data: &[u8]) {
    raw(data);
}

/// The bytes of a connection; the status of the first answer, where there is one.
pub fn raw(data: &[u8]) -> Option<u16> {
    let reply = parse(&exchange(server(), data, false));
    let status = reply.map(|reply| {
        assert!(STATUSES.contains(&reply.status), "status {}", reply.status);
        reply.status
    });
    let health = parse(&exchange(
        server(),
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        true,
    ));
    assert_eq!(health.map(|reply| reply.status), Some(200), "the server is well");
    status
}

/// The first byte says which route; the rest is the body.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    let path = if input.byte() & 1 == 0 { "/v1/chat/completions" } else { "/v1/completions" };
    let body = input.rest();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let answer = exchange(server(), &[head.as_bytes(), body].concat(), true);
    let reply = parse(&answer).expect("every whole request has an answer");
    assert!(reply.whole, "an answer that breaks off");
    judge(&reply);
}

/// The laws of an answer to a completion.
fn judge(reply: &Reply) {
    let text = std::str::from_utf8(&reply.body).expect("answers are UTF-8");
    match (reply.status, reply.content_type.as_str()) {
        (200, "text/event-stream") => {
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            let (last, events) = data.split_last().expect("a stream has events");
            let of = |data: &&str| serde_json::from_str::<Value>(data).expect("an event is JSON");
            let events: Vec<Value> = events.iter().map(of).collect();
            assert!(*last == "[DONE]" || of(last)["error"].is_object(), "a stream ends with {last}");
            assert!(events.iter().all(|event| event["choices"].is_array() || event["error"].is_object()));
        }
        (200, _) => {
            let value: Value = serde_json::from_str(text).expect("an answer is JSON");
            let choices = value["choices"].as_array().expect("choices");
            assert!(!choices.is_empty() && choices.iter().all(|choice| choice["finish_reason"].is_string()));
            assert!(value["usage"]["completion_tokens"].is_u64(), "{value}");
        }
        (status, _) => {
            assert!(STATUSES.contains(&status), "status {status}: {text}");
            let value: Value = serde_json::from_str(text).expect("an error is JSON");
            let message = value["error"]["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && value["error"]["type"].is_string(), "{value}");
        }
    }
}
