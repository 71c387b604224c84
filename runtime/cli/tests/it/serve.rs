//! `bitnet serve` as a process: signals, a full disk behind its log, many idle connections, refusals at the start.

use crate::support::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

const TRAINED: &str = "fixtures/trained/kjv-b158.gguf";

/// A server that is killed with the test.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(more: &[&str], stderr: Stdio) -> Self {
        let args =
            ["serve", "--model", TRAINED, "--port", "0", "--json", "--threads", "1", "--temperature", "0"];
        let mut command = bitnet(&[&args[..], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let url = told["url"].as_str().expect("a url");
        Served { child, address: url.strip_prefix("http://").expect("plain").to_owned() }
    }

    /// Waits for the end; returns the exit code and what it logged.
    fn end(mut self) -> (i32, String) {
        let mut logged = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut logged).expect("UTF-8");
        }
        (self.child.wait().expect("it ends").code().expect("no signal"), logged)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(address: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    let body = body.map(Value::to_string).unwrap_or_default();
    let method = if body.is_empty() { "GET" } else { "POST" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a whole reply");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

fn complete(address: &str, prompt: &str, max_tokens: usize) -> String {
    let body = serde_json::json!({ "prompt": prompt, "max_tokens": max_tokens });
    let (status, body) = ask(address, "/v1/completions", Some(&body));
    assert_eq!(status, 200, "{body}");
    let value: Value = serde_json::from_str(&body).expect("JSON");
    value["choices"][0]["text"].as_str().expect("text").to_owned()
}

fn metric(address: &str, name: &str) -> f64 {
    let (_, text) = ask(address, "/metrics", None);
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it never happened: {what}");
}

/// What `bitnet run` says, which has one sequence and no server.
fn alone(prompt: &str, max_tokens: usize) -> String {
    let most = max_tokens.to_string();
    let args = ["run", "--model", TRAINED, "--prompt", prompt, "-n", &most, "--temperature", "0", "--json"];
    let ran = finish(bitnet(&args).output().expect("it runs"));
    ran.json()["text"].as_str().expect("text").to_owned()
}

#[test]
fn termination_under_load_finishes_what_was_taken() {
    let served = Served::start(&["--parallel", "4"], Stdio::piped());
    let clients: Vec<_> = (0..10)
        .map(|i| {
            let address = served.address.clone();
            std::thread::spawn(move || complete(&address, "And it came to pass", 50 + i))
        })
        .collect();
    let taken = || {
        let text = ask(&served.address, "/metrics", None).1;
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.split(' ').next() == Some(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
        };
        // Those that have ended already are counted by their first tokens.
        value("bitnet_queued_requests") + value("bitnet_queue_seconds_count") >= 10.0
    };
    until("all were taken", taken);
    signal(&served.child, libc::SIGTERM);
    for (i, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().expect("an answer"), alone("And it came to pass", 50 + i));
    }
    let (code, logged) = served.end();
    assert_eq!(code, 0, "{logged}");
    for part in [
        "backend selected requested=\"auto\"",
        "kernels selected requested=\"auto\"",
        "ready model=\"kjv-b158\"",
        "ended connections=0",
    ] {
        assert!(logged.contains(part), "{part}: {logged}");
    }
}

#[test]
fn a_hangup_loads_the_model_again_without_losing_a_request() {
    let served = Served::start(&[], Stdio::null());
    let address = served.address.clone();
    let client = std::thread::spawn(move || {
        let texts = (0..20).map(|_| complete(&address, "In the beginning", 12));
        texts.collect::<std::collections::BTreeSet<_>>()
    });
    signal(&served.child, libc::SIGHUP);
    until("it is swapped", || metric(&served.address, "bitnet_model_swaps_total") == 1.0);
    assert_eq!(client.join().expect("answers"), [alone("In the beginning", 12)].into());
    signal(&served.child, libc::SIGINT);
    assert_eq!(served.end().0, 0);
}

#[test]
fn a_full_disk_behind_the_log_loses_lines_and_nothing_else() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let served = Served::start(&[], full.into());
    for _ in 0..3 {
        assert_eq!(complete(&served.address, "In the beginning", 8), alone("In the beginning", 8));
    }
    signal(&served.child, libc::SIGTERM);
    assert_eq!(served.end().0, 0);
}

#[test]
fn ten_thousand_idle_connections_hold_up_nobody() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls; a limit that is refused stays as it was.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
    }
    let count = 10_000.min((limit.rlim_cur as usize).saturating_sub(1000));
    if count < 10_000 {
        eprintln!("ONLY {count} idle connections: this process may have {} descriptors", limit.rlim_cur);
    }
    let served = Served::start(&["--client-timeout", "600"], Stdio::null());
    let idle: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(&served.address).expect("a connection")).collect();
    until("all are open", || metric(&served.address, "bitnet_connections") > count as f64);
    assert_eq!(ask(&served.address, "/health", None).0, 200);
    assert_eq!(complete(&served.address, "In the beginning", 8), alone("In the beginning", 8));
    drop(idle);
    until("all are closed", || metric(&served.address, "bitnet_connections") == 1.0);
    signal(&served.child, libc::SIGTERM);
    assert_eq!(served.end().0, 0);
}

/// Arguments, environment, exit code, and a part of the message.
type Refused<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn what_cannot_be_served_is_refused_at_the_start() {
    let run = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = bitnet(&[&["serve", "--model", TRAINED, "--port", "0"], args].concat());
        finish(command.envs(variables.iter().copied()).output().expect("it ends"))
    };
    let refused: &[Refused<'_>] = &[
        (&["--host", "0.0.0.0"], &[], 2, "--api-key-file"),
        (&["--api-key-file", "absent"], &[], 4, "absent"),
        (&["--kernels", "nonesuch"], &[], 2, "nonesuch"),
        (&["--device", "hip"], &[], 5, "hip"),
        (&["--tls-cert", TRAINED], &[], 2, "--tls-key"),
        (&["--tls-cert", TRAINED, "--tls-key", TRAINED], &[], 3, "certificate"),
        (&[], &[("BITNET_STRICT_MODE", "1"), ("BITNET_GPU_FAKE", "none")], 7, "BITNET_GPU_FAKE"),
        (&[], &[("BITNET_STRICT_MODE", "1"), ("BITNET_THREAD", "2")], 7, "BITNET_THREAD"),
        (&[], &[("BITNET_LOG", "loud")], 2, "BITNET_LOG"),
        (&[], &[("BITNET_API_KEY", "short")], 2, "shorter than 16"),
    ];
    for (args, variables, code, part) in refused {
        let ran = run(args, variables);
        assert_eq!((ran.code, ran.stdout.as_str()), (*code, ""), "{args:?} {variables:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn the_selection_is_logged_by_every_command_with_an_engine() {
    let mut command = bitnet(&["run", "--model", MODEL, "--prompt", "x", "-n", "1", "--kernels", "scalar"]);
    let ran = finish(command.env("BITNET_LOG", "info").output().expect("it runs"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let line = |what: &str| ran.stderr.lines().find(|line| line.contains(what)).expect(what).to_owned();
    let kernels = line("kernels selected");
    for part in [
        "requested=\"scalar\"",
        "compiled=\"scalar",
        "detected=\"scalar",
        "selected=\"scalar\"",
        "reason=\"forced\"",
    ] {
        assert!(kernels.contains(part), "{part}: {kernels}");
    }
    assert!(line("backend selected").contains("requested=\"auto\" compiled=\"cpu"));
}
