//! From what `--model` says to the path of a file: a path as it is, or a name of the catalog.
//!
//! The catalog is `tools/models.toml`, compiled in. A name is where `cargo xtask models fetch` puts it:
//! `<cache>/models/<name>/<file>`. Deliberately absent: fetching.

use crate::{Error, Result};
use bitforge_schema::env::{Env, nearest};
use bitforge_schema::paths::cache_dir;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const CATALOG: &str = include_str!("../../../tools/models.toml");

#[derive(Deserialize)]
struct Catalog {
    model: Vec<Entry>,
}

/// What this side needs of an entry.
#[derive(Deserialize)]
struct Entry {
    name: String,
    /// Path of the file inside its source; the cache keeps the last part.
    member: String,
}

/// The file that `model` means.
///
/// # Errors
/// `NotFound` with the command that fetches a catalog entry, or with the nearest name.
pub fn resolve(env: &Env, model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    let entries = entries();
    let Some(entry) = entries.iter().find(|entry| entry.name == model) else {
        return if path.exists() || looks_like_a_path(model) {
            Ok(path.into())
        } else {
            Err(unknown(model, &entries))
        };
    };
    if path.is_file() {
        return Ok(path.into());
    }
    let fetch = format!("run `cargo xtask models fetch {}`", entry.name);
    let Some(cache) = cache_dir(env) else {
        let what = format!("there is no cache directory to look for model '{model}' in");
        return Err(Error::NotFound { what, remedy: format!("set BITNET_CACHE_DIR, then {fetch}") });
    };
    let file = entry.member.rsplit('/').next().unwrap_or(&entry.member);
    let cached = cache.join("models").join(&entry.name).join(file);
    if cached.is_file() {
        return Ok(cached);
    }
    let what = format!("model '{model}' is not in the cache ({})", cached.display());
    Err(Error::NotFound { what, remedy: fetch })
}

fn entries() -> Vec<Entry> {
    toml::from_str::<Catalog>(CATALOG).expect("the catalog is compiled in and a test parses it").model
}

fn looks_like_a_path(model: &str) -> bool {
    model.contains(std::path::MAIN_SEPARATOR) || model.ends_with(".gguf")
}

fn unknown(model: &str, entries: &[Entry]) -> Error {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let near =
        nearest(model, names.iter().copied()).map(|near| format!(" (nearest: {near})")).unwrap_or_default();
    Error::NotFound {
        what: format!("'{model}' is neither a file nor a name of the catalog{near}"),
        remedy: format!("give the path of a .gguf file or one of: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_are() {
        let env = Env::default();
        assert_eq!(resolve(&env, "dir/absent").expect("a path"), Path::new("dir/absent"));
        assert_eq!(resolve(&env, "absent.gguf").expect("a path"), Path::new("absent.gguf"));
    }

    #[test]
    fn names_resolve_into_the_cache_and_say_how_to_get_there() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let env = Env::from_pairs([("BITNET_CACHE_DIR", cache.path().to_str().expect("UTF-8"))]);
        let missing = resolve(&env, "smollm2-135m").expect_err("not fetched").to_string();
        assert!(missing.ends_with("run `cargo xtask models fetch smollm2-135m`"), "{missing}");
        let dir = cache.path().join("models/smollm2-135m");
        std::fs::create_dir_all(&dir).expect("a directory");
        let file = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
        std::fs::write(&file, b"GGUF").expect("a file");
        assert_eq!(resolve(&env, "smollm2-135m").expect("fetched"), file);
    }

    #[test]
    fn unknown_names_get_the_nearest() {
        let error = resolve(&Env::default(), "smollm2-135").expect_err("unknown");
        assert!(error.to_string().contains("(nearest: smollm2-135m)"), "{error}");
        let error = resolve(&Env::default(), "smollm2-135m").expect_err("no cache");
        assert!(error.to_string().contains("set BITNET_CACHE_DIR"), "{error}");
    }
}
