//! `tools/eval.toml` and the goldens it names: which models are measured on which texts, and what is right.
//!
//! In: the files. Out: [`Settings`], [`Golden`]s. A tolerance without a reason is an error.

use crate::ctx::Ctx;
use crate::exit::Failure;
use anyhow::{Context, Result, ensure};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const FILE: &str = "tools/eval.toml";
/// What this engine gave: the chunks of every model by its file's name.
pub const OURS: &str = "fixtures/goldens/perplexity.json";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub tolerance: Tolerance,
    #[serde(rename = "model")]
    pub models: Vec<Model>,
    #[serde(skip)]
    pub root: PathBuf,
    #[serde(skip)]
    pub ours: BTreeMap<String, Golden>,
}

/// See the comments in the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    pub golden: f64,
    pub golden_reason: String,
    pub torch: f64,
    pub torch_reason: String,
}

/// Paths are below the root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub file: PathBuf,
    pub text: PathBuf,
    /// A file of tools/train-fixture/export.py.
    pub torch: PathBuf,
}

impl Model {
    /// The file's name: what goldens and receipts know the model by.
    pub fn name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The sums of a whole text.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Golden {
    pub context: u32,
    pub scored: u64,
    pub perplexity: f64,
    /// Of every chunk, nats.
    pub nll: Vec<f64>,
}

impl Golden {
    /// The perplexity of the first `chunks`.
    ///
    /// # Errors
    /// Why it cannot be compared with a measurement in chunks of `context`.
    pub fn of_first(&self, chunks: usize, context: u32) -> Result<f64, String> {
        if context != self.context {
            return Err(format!("the golden is of chunks of {} tokens", self.context));
        }
        match self.nll.get(..chunks) {
            Some(nll) if chunks > 0 => {
                Ok(perplexity(nll, self.scored / self.nll.len() as u64 * chunks as u64))
            }
            _ => Err(format!("the golden has {} chunks", self.nll.len())),
        }
    }
}

/// exp of the mean.
pub fn perplexity(nll: &[f64], scored: u64) -> f64 {
    (nll.iter().sum::<f64>() / scored as f64).exp()
}

impl Settings {
    pub fn load(ctx: &Ctx) -> Result<Self> {
        let root = ctx.root()?;
        let path = root.join(FILE);
        let text = read(&path)?;
        let mut settings = Self::parse(&text)
            .map_err(|error| Failure::new(ExitCode::BadInput, format!("{}: {error:#}", path.display())))?;
        settings.root = root.to_path_buf();
        let ours = root.join(OURS);
        if ours.is_file() {
            settings.ours = parse(&ours)?;
        }
        Ok(settings)
    }

    pub fn parse(text: &str) -> Result<Self> {
        let settings: Settings = toml::from_str(text)?;
        let t = &settings.tolerance;
        let reasons = [&t.golden_reason, &t.torch_reason];
        ensure!(reasons.iter().all(|reason| !reason.trim().is_empty()), "a tolerance has no reason");
        Ok(settings)
    }

    /// The model whose file has this name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name() == name)
    }

    /// What PyTorch gave for the model.
    pub fn torch(&self, model: &Model) -> Result<Golden> {
        #[derive(Deserialize)]
        struct Facts {
            held_out: Golden,
        }
        Ok(parse::<Facts>(&self.root.join(&model.torch))?.held_out)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read(path)?)
        .map_err(|error| Failure::new(ExitCode::BadInput, format!("{}: {error}", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_holds_the_promised_tolerances() {
        let settings = Settings::parse(include_str!("../../../tools/eval.toml")).unwrap();
        assert!(settings.tolerance.torch <= 1e-3 && settings.tolerance.golden <= 1e-4);
        assert!(settings.models.iter().any(|model| model.name() == "kjv-b158.gguf"));
        let text =
            include_str!("../../../tools/eval.toml").replace("torch_reason = \"", "torch_reason = \"\" #");
        assert!(Settings::parse(&text).is_err());
    }

    #[test]
    fn a_golden_answers_for_its_first_chunks() {
        let golden = Golden { context: 8, scored: 6, perplexity: 2.0, nll: vec![3.0, 6.0] };
        assert_eq!(golden.of_first(1, 8), Ok(1f64.exp()));
        assert_eq!(golden.of_first(2, 8), Ok(1.5f64.exp()));
        assert!(golden.of_first(3, 8).unwrap_err().contains("2 chunks"));
        assert!(golden.of_first(0, 8).is_err());
        assert!(golden.of_first(1, 16).unwrap_err().contains("chunks of 8"));
    }
}
