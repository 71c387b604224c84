//! Servers for tests, and what answers must be.

use crate::client;
use crate::faulty::Faulty;
use bitforge_schema::selection::Selection;
use bitnet_runtime::chat::ChatMode;
use bitnet_runtime::engine::{Engine, EngineOptions};
use bitnet_runtime::generate::{AtEndOfSequence, Overflow, Request, StopRules, generate, load_tokenizer};
use bitnet_runtime::sampling::{Sampler, SamplingParams};
use bitnet_runtime::tokenizer::{Bos, SpecialTokens};
use bitnet_server::{About, Loaded, Loader, Server, Settings};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

pub fn model() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/trained/kjv-b158.gguf"))
}

pub fn engine(sequences: usize) -> Engine {
    let options = EngineOptions { threads: 1, sequences, ..EngineOptions::default() };
    Engine::load(&model(), &options, &mut |_, _| ()).unwrap()
}

pub fn about() -> About {
    let backend = Selection {
        requested: "auto".into(),
        compiled: vec!["cpu".into()],
        detected: vec!["cpu".into()],
        selected: "cpu".into(),
        reason: "a test".into(),
    };
    About { id: "kjv".into(), chat: ChatMode::Auto, backend, receipt: serde_json::json!({ "version": 1 }) }
}

pub fn loader(sequences: usize) -> Loader {
    Arc::new(move || Loaded::new(engine(sequences), &about()))
}

/// As [`loader`], of an engine that waits while somebody holds the gate.
pub fn gated() -> (Loader, Arc<Mutex<()>>) {
    let gate: Arc<Mutex<()>> = Arc::default();
    (faulty(None, Arc::clone(&gate)), gate)
}

/// An engine that panics at the token `bad`.
pub fn faulty(bad: Option<u32>, gate: Arc<Mutex<()>>) -> Loader {
    Arc::new(move || {
        let Loaded { sequences, model } = Loaded::new(engine(4), &about())?;
        let (once, gate) = (Arc::default(), Arc::clone(&gate));
        Ok(Loaded { sequences: Box::new(Faulty { engine: sequences, bad, once, gate }), model })
    })
}

/// Settings for a free port, greedy where a request does not say.
pub fn settings() -> Settings {
    logs();
    Settings {
        address: "127.0.0.1:0".parse().unwrap(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(16),
        ..Settings::default()
    }
}

pub fn start(settings: Settings) -> Server {
    Server::start(settings, loader(4)).unwrap()
}

/// The greedy text after `prompt`, as the runtime gives it when nothing else is there.
pub fn alone(prompt: &str, max_tokens: usize) -> String {
    let mut engine = engine(1);
    let (tokenizer, _) = load_tokenizer(engine.gguf()).unwrap();
    let prompt = tokenizer.encode(prompt, SpecialTokens::Parse, Bos::AsFileAsks).unwrap();
    let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let mut sampler = Sampler::new(params, tokenizer.real_vocab_size()).unwrap();
    let request = Request {
        prompt: &prompt,
        rules: StopRules { max_tokens, ..StopRules::default() },
        at_end_of_sequence: AtEndOfSequence::Stop,
        overflow: Overflow::Stop,
        prompt_lookup: 0,
    };
    generate(&mut engine, &tokenizer, &mut sampler, request, &mut |_| Ok(())).unwrap().text
}

/// The value of a metric without labels.
pub fn metric(address: SocketAddr, name: &str) -> f64 {
    let reply = client::get(address, "/metrics");
    let line = reply.text().lines().find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {}", reply.text()))
}

/// Waits until so many requests were taken up by the engine, and so many more wait.
pub fn until_taken(address: SocketAddr, running: f64, waiting: f64) {
    eventually("requests are there", || {
        metric(address, "bitnet_queue_seconds_count") == running
            && metric(address, "bitnet_queued_requests") == waiting
    });
}

/// Waits for what happens soon; gives up where it does not happen at all.
pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if happened() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("it never happened: {what}");
}

/// Everything that was logged in this process.
pub fn logs() -> String {
    static LINES: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&lines);
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || Sink(Arc::clone(&own))).finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        lines
    });
    String::from_utf8_lossy(&lines.lock().unwrap()).into_owned()
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
