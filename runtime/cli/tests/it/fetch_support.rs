//! A faulty hub, caches in a folder of their own, and fetches with short waits.

use bitforge_faulty_hub::{Hub, content};
use bitforge_schema::env::Env;
use bitnet_runtime::Result;
use bitnet_runtime::models::fetch::{self, Options};
use bitnet_runtime::models::{Context, Event, Fetched, Spec, Tuning};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const REPO: &str = "owner/model";
pub const FILE: &str = "sub/model.gguf";
pub const SPEC: &str = "hf:owner/model:sub/model.gguf";

pub struct Site {
    pub hub: Hub,
    pub content: Vec<u8>,
    pub dir: tempfile::TempDir,
    pub token: Option<&'static str>,
    pub offline: bool,
    pub more: Vec<(&'static str, String)>,
    pub tuning: Tuning,
    pub interrupt: Arc<AtomicBool>,
}

impl Site {
    /// A hub with one file of three blocks and a bit.
    pub fn new() -> Self {
        let hub = Hub::start();
        let content = content::bytes(1, (3 << 20) + 12_345);
        hub.add(REPO, FILE, content.clone());
        hub.add("plain", "model.gguf", content.clone());
        let backoff = Duration::from_millis(2);
        Site {
            hub,
            content,
            dir: tempfile::tempdir().expect("a temporary directory"),
            token: None,
            offline: false,
            more: Vec::new(),
            // Long enough for any machine: tests of a hub that says nothing have less to wait.
            tuning: Tuning { connections: 3, tries: 4, backoff, stall: Duration::from_secs(20) },
            interrupt: Arc::default(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn env(&self) -> Env {
        let path = |name: &str| self.path(name).display().to_string();
        let mut pairs = vec![
            ("HF_ENDPOINT", self.hub.url()),
            ("HF_HUB_CACHE", path("hub")),
            ("HF_TOKEN_PATH", path("no-token")),
            ("BITNET_CACHE_DIR", path("cache")),
        ];
        pairs.extend(self.token.map(|token| ("HF_TOKEN", token.to_owned())));
        pairs.extend(self.more.iter().cloned());
        Env::from_pairs(pairs)
    }

    /// Calls `work` with a context of this site; every event goes to `watch`.
    pub fn with<T>(
        &self,
        watch: &(dyn Fn(Event) + Sync),
        work: impl FnOnce(&Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let env = self.env();
        let mut ctx = Context::new(&env, Arc::clone(&self.interrupt), self.offline, watch)?;
        ctx.tuning = self.tuning;
        work(&ctx)
    }

    pub fn fetch_with(&self, spec: &str, options: &Options) -> Result<Vec<Fetched>> {
        self.with(&|_| (), |ctx| fetch::fetch(ctx, &Spec::parse(spec)?, options))
    }

    pub fn fetch(&self, spec: &str) -> Result<Vec<Fetched>> {
        self.fetch_with(spec, &Options::default())
    }

    /// Fetches and gives every event, the result last.
    pub fn fetch_and_watch(&self, spec: &str) -> (Vec<Event>, Result<Vec<Fetched>>) {
        let events = Mutex::default();
        let watch = |event| Vec::push(&mut *events.lock().expect("no thread panicked"), event);
        let result = self.with(&watch, |ctx| fetch::fetch(ctx, &Spec::parse(spec)?, &Options::default()));
        (events.into_inner().expect("no thread panicked"), result)
    }

    pub fn blob(&self) -> PathBuf {
        let repo = self.path("hub").join("models--owner--model");
        repo.join("blobs").join(content::sha256(&self.content))
    }

    /// Requests for bytes so far.
    pub fn data_requests(&self) -> usize {
        self.hub.log().iter().filter(|logged| logged.range.is_some()).count()
    }

    /// Files below both caches that are neither locks nor what `.partial` and `.journal` keep for the next time.
    pub fn left(&self) -> Vec<String> {
        let mut files = fetch::files_below(&self.path("hub"));
        files.extend(fetch::files_below(&self.path("cache")));
        files.retain(|file| ![".lock", ".partial", ".journal", ".log"].iter().any(|end| file.ends_with(end)));
        files
    }

    /// Whether a download is kept for the next time.
    pub fn is_kept(&self) -> bool {
        let files = fetch::files_below(&self.path("hub"));
        files.iter().any(|file| file.ends_with(".partial") || file.ends_with(".journal"))
    }
}

pub fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("the file is there")
}
