//! From what `--model` says to the path of a file: a path as it is, a name of the catalog, or the address of a model
//! that was fetched.
//!
//! Deliberately absent: fetching (`bitnet models fetch`).

use bitforge_schema::catalog::Catalog;
use bitforge_schema::env::Env;
use bitforge_schema::paths::cache_dir;
use bitnet_runtime::models::{Context, Spec, fetch};
use bitnet_runtime::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that `model` means.
///
/// # Errors
/// `NotFound` with the command that fetches it, or with the nearest name.
pub fn resolve(env: &Env, model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    let catalog = Catalog::committed();
    let is_address =
        ["hf:", "pypi:", "http://", "https://", "file:"].iter().any(|kind| model.starts_with(kind));
    if path.is_file() {
        return Ok(path.into());
    }
    if catalog.get(model).is_none() && !is_address {
        return if path.exists() || looks_like_a_path(model) {
            Ok(path.into())
        } else {
            Err(unknown(model, &catalog))
        };
    }
    if cache_dir(env).is_none() {
        let what = format!("there is no cache folder to look for model '{model}' in");
        let remedy = format!("set BITNET_CACHE_DIR, then run `bitnet models fetch {model}`");
        return Err(Error::not_found(what, remedy));
    }
    let found = fetch::locate(&Context::new(env, Arc::default(), true, &|_| ())?, &Spec::parse(model)?)?;
    if found.is_dir() {
        let what = format!("'{model}' is a checkpoint, not a GGUF file");
        return Err(Error::unsupported(&found, what, "convert it first: `bitnet convert`"));
    }
    Ok(found)
}

fn looks_like_a_path(model: &str) -> bool {
    model.contains(std::path::MAIN_SEPARATOR) || model.ends_with(".gguf")
}

fn unknown(model: &str, catalog: &Catalog) -> Error {
    let near = catalog.nearest(model).map(|near| format!(" (nearest: {near})")).unwrap_or_default();
    let names: Vec<&str> = catalog.models.iter().map(|model| model.name.as_str()).collect();
    Error::NotFound {
        what: format!("'{model}' is neither a file nor a name of the catalog{near}"),
        remedy: format!("give the path of a .gguf file, an address, or one of: {}", names.join(", ")),
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
        assert!(missing.ends_with("run `bitnet models fetch smollm2-135m`"), "{missing}");
        let dir = cache.path().join("models/smollm2-135m");
        std::fs::create_dir_all(&dir).expect("a directory");
        let file = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
        let full = std::fs::File::create(&file).and_then(|file| file.set_len(98_362_432));
        full.expect("a file of the right size");
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
