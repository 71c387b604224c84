//! Keys, origins, hosts, TLS, and what is logged.

use crate::client::{get, post, read, send};
use crate::support::*;
use bitnet_server::{ApiKey, Settings, TlsFiles};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use tokio_rustls::rustls;

const KEY: &str = "a long and secret key";

#[test]
fn keys_are_asked_for_where_there_are_any() {
    let server = start(Settings { keys: vec![ApiKey::new("another"), ApiKey::new(KEY)], ..settings() });
    let address = server.address();
    for open in ["/health", "/ready"] {
        assert_eq!(get(address, open).status, 200, "{open}");
    }
    for path in ["/v1/models", "/props", "/metrics", "/v1/completions", "/openapi.json", "/nowhere"] {
        for wrong in ["", "Bearer", "Bearer ", "Bearer a long and secret ke", "Basic YTpi", KEY] {
            let reply = send(address, "GET", path, &[("authorization", wrong)], None);
            let error = reply.error();
            assert_eq!((error.0, error.2.as_str()), (401, "authentication_error"), "{path} {wrong}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
    let key = format!("Bearer {KEY}");
    let right = |path| send(address, "GET", path, &[("authorization", &key)], None).status;
    assert_eq!((right("/v1/models"), right("/metrics"), right("/nowhere")), (200, 200, 404));
    // With a key the name of the host is nobody's trick.
    let host = [("authorization", key.as_str()), ("host", "models.example.org")];
    assert_eq!(send(address, "GET", "/props", &host, None).status, 200);
    assert!(!logs().contains(KEY));
    server.shut_down();
}

#[test]
fn pages_of_other_origins_stay_out_unless_they_are_let_in() {
    let server = start(settings());
    let address = server.address();
    let body = json!({ "prompt": "And", "max_tokens": 1 }).to_string();
    let ask =
        |headers: &[(&str, &str)]| send(address, "POST", "/v1/completions", headers, Some(body.as_bytes()));
    assert_eq!(ask(&[("origin", "https://example.org")]).error().0, 403);
    assert_eq!(ask(&[("origin", "null")]).error().0, 403);
    let own = ask(&[("origin", "http://localhost")]);
    assert_eq!((own.status, own.header("access-control-allow-origin")), (200, None));
    // A name that was made to point here.
    assert_eq!(ask(&[("host", "evil.example.org")]).error().3.as_deref(), Some("forbidden"));
    for host in ["127.0.0.1:8080", "[::1]:80", "localhost:1"] {
        assert_eq!(ask(&[("host", host)]).status, 200, "{host}");
    }
    assert_eq!(own.header("x-content-type-options"), Some("nosniff"));
    server.shut_down();

    let allowed = vec!["https://example.org".to_owned()];
    let server = start(Settings { cors_origins: allowed, ..settings() });
    let address = server.address();
    let headers = [("origin", "https://example.org"), ("access-control-request-method", "POST")];
    let preflight = send(address, "OPTIONS", "/v1/completions", &headers, None);
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    let reply = send(address, "POST", "/v1/completions", &headers[..1], Some(body.as_bytes()));
    assert_eq!(
        (reply.status, reply.header("access-control-allow-origin")),
        (200, Some("https://example.org"))
    );
    let other = send(address, "GET", "/health", &[("origin", "https://example.com")], None);
    assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None));
    server.shut_down();
}

#[test]
fn prompts_are_logged_when_that_is_asked_for_and_not_otherwise() {
    let ask = |settings: Settings, words: &str| {
        let server = start(settings);
        post(server.address(), "/v1/completions", &json!({ "prompt": words, "max_tokens": 1 }));
        let chat = json!({ "messages": [{ "role": "user", "content": words }], "max_tokens": 1 });
        post(server.address(), "/v1/chat/completions", &chat);
        let _ = get(server.address(), &format!("/{}", words.replace(' ', "-")));
        server.shut_down();
    };
    ask(settings(), "a quiet word about Nabal");
    let text = logs();
    assert!(text.contains("route=\"/v1/chat/completions\" status=200"), "{text}");
    assert!(!text.contains("quiet word") && !text.contains("quiet-word"));
    ask(Settings { log_prompts: true, ..settings() }, "a loud word about Nabal");
    let text = logs();
    assert!(text.matches("loud word").count() >= 2, "{text}");
    assert!(text.contains("ready model=\"kjv\"") && text.contains("listening address=127.0.0.1"), "{text}");
    assert!(text.contains("ending") || text.contains("ended connections="), "{text}");
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    let server = start(settings());
    let page = get(server.address(), "/");
    // The page is part of the binary where its files were there when it was built.
    if page.status == 200 {
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    } else {
        assert_eq!(page.error().0, 404);
    }
    server.shut_down();
}

#[test]
fn tls_with_a_certificate_of_ones_own() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("chain.pem"), key: folder.path().join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let server = start(Settings { tls: Some(files.clone()), ..settings() });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, crate::client::connect(server.address()));
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(read(&mut stream).json()["status"], "ok");

    // Plain words get no plain answer.
    let mut plain = crate::client::connect(server.address());
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut rest);
    assert!(!rest.starts_with(b"HTTP"));
    server.shut_down();

    let swapped = TlsFiles { certificate: files.key.clone(), key: files.certificate.clone() };
    let error = bitnet_server::Server::start(Settings { tls: Some(swapped), ..settings() }, loader(1));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("no certificate") && error.contains("--tls-cert"), "{error}");
}
