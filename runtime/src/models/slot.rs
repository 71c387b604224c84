//! The cache below `CACHE/models`: one folder, a slot, for each model that does not live in the hub's cache, and for
//! each name of the catalog.
//!
//! In: a [`Spec`]. Out: the slot's file, with a record of where it came from and which digest it must have. Names of
//! the catalog that come from the hub are links into its cache.

use super::digest::{self, Expected, Sums};
use super::spec::url_file;
use super::{Context, Spec, place};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub dir: PathBuf,
    pub file: String,
}

/// What is known about a slot's file; lies beside it as `bitforge.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// As [`Spec`] writes itself.
    pub source: String,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
}

const RECORD: &str = "bitforge.json";

impl Slot {
    /// The slot of what lies in one; `None` for hub addresses and bundles.
    pub fn of(cache: &Path, spec: &Spec) -> Option<Self> {
        let models = cache.join("models");
        let named = |kind: &str, file: &str| {
            let name = format!("{kind}--{}", &digest::sha256(spec.to_string().as_bytes())[..16]);
            Some(Slot { dir: models.join(name), file: file.into() })
        };
        match spec {
            Spec::Catalog(model) => Some(Slot { dir: models.join(&model.name), file: model.file().into() }),
            Spec::Pypi { member, .. } => named("pypi", member.rsplit('/').next().unwrap_or(member)),
            Spec::Http(url) => named("http", url_file(url)),
            Spec::File(path) => named("file", path.file_name()?.to_str()?),
            Spec::Hub(_) | Spec::Bundle { .. } => None,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.file)
    }

    pub fn lock_path(&self) -> PathBuf {
        super::with_suffix(&self.dir, ".lock")
    }

    pub fn record(&self) -> Option<Record> {
        Self::record_in(&self.dir).filter(|record| record.file == self.file)
    }

    /// The record of any slot's folder.
    pub fn record_in(dir: &Path) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(dir.join(RECORD)).ok()?).ok()
    }

    /// Writes the record of a file that was just verified.
    pub fn keep(&self, source: &str, sums: &Sums) -> Result<()> {
        let record = Record {
            source: source.into(),
            file: self.file.clone(),
            bytes: sums.bytes,
            sha256: sums.sha256.clone(),
        };
        let text = serde_json::to_vec_pretty(&record).expect("keys are strings");
        place::write_whole(&self.dir.join(RECORD), &text)
    }

    /// Reads the file again and compares it with `sha256`, else with the record.
    pub fn verify(&self, ctx: &Context<'_>, sha256: Option<&str>) -> Result<Sums> {
        let path = self.path();
        let known = sha256.map(str::to_owned).or_else(|| self.record().map(|record| record.sha256));
        let Some(known) = known else {
            return Err(Error::mismatch(
                format!("{} has no record of what it must be", path.display()),
                "remove it with `bitnet models rm`, then fetch it again",
            ));
        };
        let sums = digest::file(ctx, &path, None)?;
        let remedy = "remove it with `bitnet models rm`, then fetch it again";
        sums.check(&Expected::Sha256(known), &path.display().to_string(), remedy)?;
        Ok(sums)
    }

    /// Removes the slot; returns the bytes that this frees.
    pub fn remove(&self) -> Result<u64> {
        let bytes = std::fs::symlink_metadata(self.path()).map_or(0, |meta| meta.len());
        place::remove(&self.dir)?;
        place::remove(&self.lock_path())?;
        Ok(bytes)
    }
}

/// Records of every slot that has one, sorted by folder.
pub fn records(cache: &Path) -> Vec<(PathBuf, Record)> {
    let folders = std::fs::read_dir(cache.join("models")).into_iter().flatten().flatten();
    let mut records: Vec<(PathBuf, Record)> =
        folders.filter_map(|dir| Some((dir.path(), Slot::record_in(&dir.path())?))).collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    records
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::with_context;
    use super::*;

    #[test]
    fn every_source_has_a_slot_of_its_own() {
        let slot = |text: &str| Slot::of(Path::new("/c"), &Spec::parse(text).unwrap());
        let first = slot("https://h/a/model.gguf?x=1").unwrap();
        assert_eq!(first.file, "model.gguf");
        assert!(first.dir.starts_with("/c/models/") && slot("https://h/a/model.gguf?x=2").unwrap() != first);
        assert_eq!(
            slot("fixture-llama").unwrap().path(),
            Path::new("/c/models/fixture-llama/llama-q4_0.gguf")
        );
        assert_eq!(slot("hf:a/b:c.gguf"), None);
    }

    #[test]
    fn a_record_tells_a_changed_file() {
        with_context(&[], |ctx, _| {
            let slot = Slot::of(&ctx.cache, &Spec::parse("https://h/m.gguf").unwrap()).unwrap();
            place::write_whole(&slot.path(), b"right").unwrap();
            assert!(slot.verify(ctx, None).is_err(), "no record");
            let sums = digest::file(ctx, &slot.path(), None).unwrap();
            slot.keep("https://h/m.gguf", &sums).unwrap();
            assert_eq!(slot.verify(ctx, None).unwrap(), sums);
            assert_eq!(records(&ctx.cache)[0].1.source, "https://h/m.gguf");
            std::fs::write(slot.path(), b"wrong").unwrap();
            assert!(slot.verify(ctx, None).unwrap_err().to_string().contains("instead of"));
            assert_eq!(slot.remove().unwrap(), 5);
            assert!(!slot.dir.exists());
        });
    }
}
