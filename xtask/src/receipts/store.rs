//! Receipts as files: written whole or not at all, named by their kind, bound to their parents by sha256.
//!
//! In: a [`Body`] and the files of the receipts it built on. Out: `target/receipts/KIND.json`. Reading is
//! strict: a field that the types do not know is an error. Deliberately absent: what a receipt proves.

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use anyhow::{Context, Result};
use bitforge_receipt_schema::{Body, FileFacts, Receipt, VERSION};
use bitforge_schema::exit::ExitCode;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder that steps write their receipts to.
pub fn folder(ctx: &Ctx) -> Result<PathBuf> {
    Ok(ctx.target_dir()?.join("receipts"))
}

/// The file of the receipt of `kind`.
pub fn path(ctx: &Ctx, kind: &str) -> Result<PathBuf> {
    Ok(folder(ctx)?.join(format!("{kind}.json")))
}

/// Writes `KIND.json` into [`folder`], now, with the digests of `parents`, and returns its path.
///
/// # Errors
/// A parent that is no receipt, two parents of one kind, a folder that cannot be written.
pub fn write(ctx: &Ctx, body: Body, parents: &[PathBuf]) -> Result<PathBuf> {
    let parents = parents.iter().map(|path| Ok((read(path)?.body.kind().to_string(), sha256(path)?)));
    let listed: Vec<(String, String)> = parents.collect::<Result<_>>()?;
    let by_kind: BTreeMap<String, String> = listed.iter().cloned().collect();
    if by_kind.len() != listed.len() {
        return fail(ExitCode::Usage, "a receipt has at most one parent of each kind");
    }
    let created = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let receipt = Receipt { version: VERSION, created_unix: created.as_secs(), parents: by_kind, body };
    let dir = folder(ctx)?;
    let path = path(ctx, receipt.body.kind())?;
    // What says the same stays as it is, so that the receipts that build on it hold.
    if let Ok(old) = read(&path)
        && (&old.parents, &old.body) == (&receipt.parents, &receipt.body)
    {
        return Ok(path);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    write_to(&path, &receipt)?;
    Ok(path)
}

/// Removes the receipt of `kind`, if there is one.
pub fn remove(ctx: &Ctx, kind: &str) -> Result<()> {
    let path = path(ctx, kind)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Those of the receipts of `kinds` that are there and about the same model, and the same binary where they name one.
pub fn parents_of(ctx: &Ctx, kinds: &[&str], binary: &FileFacts, model: &FileFacts) -> Result<Vec<PathBuf>> {
    let mut parents = Vec::new();
    for kind in kinds {
        let path = path(ctx, kind)?;
        let fits = match read(&path).map(|receipt| receipt.body) {
            Ok(Body::Crossval(crossval)) => crossval.binary.sha256 == binary.sha256,
            Ok(Body::Step(step)) => step.files.iter().any(|file| file.sha256 == model.sha256),
            _ => false,
        };
        parents.extend(fits.then_some(path));
    }
    Ok(parents)
}

/// Writes a receipt to `path`, replacing what was there in one rename.
pub fn write_to(path: &Path, receipt: &Receipt) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::NamedTempFile::new_in(dir).with_context(|| format!("writing into {}", dir.display()))?;
    let text = serde_json::to_string_pretty(receipt).context("serializing a receipt")?;
    writeln!(file, "{text}").with_context(|| format!("writing {}", path.display()))?;
    file.persist(path).with_context(|| format!("renaming to {}", path.display()))?;
    Ok(())
}

/// The receipt in the file.
///
/// # Errors
/// [`ExitCode::NotFound`] without a file, [`ExitCode::BadInput`] for anything else than a receipt.
pub fn read(path: &Path) -> Result<Receipt> {
    let text = text(path)?;
    parse(&text)
        .map_err(|problem| Failure::new(ExitCode::BadInput, format!("{}: {problem}", path.display())).into())
}

/// The text of a receipt's file.
pub fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => ExitCode::NotFound,
            _ => ExitCode::BadInput,
        };
        Failure::new(code, format!("{}: {error}; give the path of a receipt", path.display())).into()
    })
}

/// A receipt without a field that the types do not know, at any depth; otherwise what is wrong.
pub fn parse(text: &str) -> std::result::Result<Receipt, String> {
    let given: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(version) = given.get("version").and_then(Value::as_u64)
        && version != u64::from(VERSION)
    {
        return Err(format!("version {version}, and this xtask reads version {VERSION}"));
    }
    let receipt: Receipt = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
    let known = serde_json::to_value(&receipt).map_err(|error| error.to_string())?;
    match unknown_field(&given, &known, "") {
        Some(field) => Err(format!("unknown field {field}")),
        None => Ok(receipt),
    }
}

/// The first field of `given` that is not in `known`. Not every type of the schema refuses unknown fields.
fn unknown_field(given: &Value, known: &Value, at: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(name, value)| {
            let at = format!("{at}/{name}");
            match known.get(name) {
                Some(known) => unknown_field(value, known, &at),
                None => Some(at),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (given, known))| unknown_field(given, known, &format!("{at}/{index}"))),
        _ => None,
    }
}

/// Name, size and sha256 of a file.
pub fn file_facts(path: &Path) -> Result<FileFacts> {
    let bytes = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileFacts { name, bytes, sha256: sha256(path)? })
}

/// Lower-case hexadecimal sha256 of a file.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        crate::proc::check_interrupted()?;
        match file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? {
            0 => return Ok(hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Lower-case hexadecimal sha256 of token ids as little-endian u32.
pub fn tokens_sha256(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;
    use crate::report::Reporter;
    use bitforge_receipt_schema::step::Step;
    use bitforge_schema::env::Env;

    fn ctx(root: &Path) -> Ctx {
        Ctx::new(Some(root.into()), Env::default(), Reporter::for_tests())
    }

    fn step(name: &str) -> Body {
        Body::Step(Box::new(Step { step: name.into(), facts: BTreeMap::new(), files: Vec::new() }))
    }

    #[test]
    fn a_receipt_lists_its_parents_by_the_digest_of_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = ctx(dir.path());
        let parent = write(&ctx, step("model"), &[]).unwrap();
        assert!(parent.ends_with("target/receipts/model.json"));
        let child = read(&write(&ctx, step("reference"), std::slice::from_ref(&parent)).unwrap()).unwrap();
        assert_eq!(child.parents.get("model"), Some(&sha256(&parent).unwrap()));
        assert!(child.created_unix > 1_700_000_000);
        let twice = write(&ctx, step("reference"), &[parent.clone(), parent]).unwrap_err();
        assert_eq!(code_of(&twice), ExitCode::Usage);
        assert_eq!(std::fs::read_dir(folder(&ctx).unwrap()).unwrap().count(), 2, "nothing half-written");
    }

    #[test]
    fn reading_is_strict_and_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(code_of(&read(&path).unwrap_err()), ExitCode::NotFound);
        let fields = r#""created_unix": 1, "parents": {}"#;
        let body = r#"{"kind": "step", "step": "model", "facts": {}, "files": [], "real": true}"#;
        std::fs::write(&path, format!(r#"{{"version": 1, {fields}, "body": {body}}}"#)).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(code_of(&error), ExitCode::BadInput);
        assert!(error.to_string().contains("real"), "{error}");
        std::fs::write(&path, format!(r#"{{"version": 2, {fields}, "body": {body}}}"#)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("version 2, and this xtask reads version 1"), "{error}");
    }

    #[test]
    fn fields_that_serde_lets_through_are_found_too() {
        let known = serde_json::json!({"a": [{"b": 1}]});
        let given = serde_json::json!({"a": [{"b": 1, "c": 2}]});
        assert_eq!(unknown_field(&given, &known, "").as_deref(), Some("/a/0/c"));
        assert_eq!(unknown_field(&known, &known, ""), None);
    }

    #[test]
    fn token_digests_are_over_little_endian_ids() {
        // printf '\x01\x00\x00\x00\x00\x01\x00\x00' | sha256sum
        assert_eq!(
            tokens_sha256(&[1, 256]),
            "242045e2f1bb37769b514f182fd91b3d215324cb57f187cced1e9c62921dbac3"
        );
    }

    #[test]
    fn what_says_the_same_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = ctx(dir.path());
        let path = write(&ctx, step("model"), &[]).unwrap();
        let mut old = read(&path).unwrap();
        old.created_unix = 7;
        write_to(&path, &old).unwrap();
        write(&ctx, step("model"), &[]).unwrap();
        assert_eq!(read(&path).unwrap().created_unix, 7, "its digest is what others name");
        let facts = BTreeMap::from([("name".to_string(), "other".to_string())]);
        let body = Body::Step(Box::new(Step { step: "model".into(), facts, files: Vec::new() }));
        write(&ctx, body, &[]).unwrap();
        assert!(read(&path).unwrap().created_unix > 7);
    }

    #[test]
    fn a_receipt_is_removed_once_and_its_absence_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = ctx(dir.path());
        let path = write(&ctx, step("model"), &[]).unwrap();
        remove(&ctx, "model").unwrap();
        assert!(!path.exists());
        remove(&ctx, "model").unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(remove(&ctx, "model").unwrap_err().to_string().starts_with("removing "));
    }

    #[test]
    fn parents_are_about_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = ctx(dir.path());
        let facts = |name: &str| FileFacts { name: name.into(), bytes: 1, sha256: name.repeat(64) };
        let body = |file: &str| {
            Body::Step(Box::new(Step {
                step: "model".into(),
                facts: BTreeMap::new(),
                files: vec![facts(file)],
            }))
        };
        let path = write(&ctx, body("a"), &[]).unwrap();
        let found =
            |model: &str| parents_of(&ctx, &["model", "crossval"], &facts("0"), &facts(model)).unwrap();
        assert_eq!(found("a"), [path]);
        assert!(found("b").is_empty());
    }

    #[test]
    fn facts_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        std::fs::write(&path, "abc").unwrap();
        let facts = file_facts(&path).unwrap();
        assert_eq!((facts.name.as_str(), facts.bytes), ("a.bin", 3));
        // printf abc | sha256sum
        assert_eq!(facts.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(code_of(&text(dir.path()).unwrap_err()), ExitCode::BadInput, "a folder is no receipt");
    }
}
