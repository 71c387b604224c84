//! `tools/crossval.toml`: the standard set of comparisons, and when two engines agree.
//!
//! In: the file. Out: [`Settings`]. A threshold without a reason is an error.

use super::Against;
use crate::ctx::Ctx;
use crate::exit::Failure;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};

pub const FILE: &str = "tools/crossval.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub thresholds: Thresholds,
    pub standard: Vec<Standard>,
}

/// See the comments in the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub min_positions: u32,
    pub min_cosine: f64,
    pub min_cosine_reason: String,
    pub top1_gap: f64,
    pub top1_gap_reason: String,
    pub perplexity: f64,
    pub perplexity_reason: String,
    pub operation_l2: f64,
    pub operation_l2_reason: String,
    pub free_run_min_cosine: f64,
    pub free_run_min_cosine_reason: String,
}

/// One comparison of the standard set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standard {
    /// A name of the catalog, a path in the checkout, a model of `fixtures layer-2b`, or
    /// `converted-FAMILY-TYPE`: a checkpoint of `fixtures checkpoints`, converted.
    pub model: String,
    pub against: Against,
}

impl Settings {
    pub fn load(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root()?.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).map_err(|error| {
            Failure::new(ExitCode::BadInput, format!("{}: {error:#}", path.display())).into()
        })
    }

    pub fn parse(text: &str) -> Result<Self> {
        let settings: Settings = toml::from_str(text)?;
        let t = &settings.thresholds;
        let reasons = [
            &t.min_cosine_reason,
            &t.top1_gap_reason,
            &t.perplexity_reason,
            &t.operation_l2_reason,
            &t.free_run_min_cosine_reason,
        ];
        anyhow::ensure!(reasons.iter().all(|reason| !reason.trim().is_empty()), "a threshold has no reason");
        Ok(settings)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn committed() -> Settings {
        Settings::parse(include_str!("../../../tools/crossval.toml")).unwrap()
    }

    #[test]
    fn the_committed_file_holds_the_promised_thresholds() {
        let settings = committed();
        assert!(settings.thresholds.min_cosine >= 0.9999);
        assert!(settings.thresholds.min_positions >= 256);
        assert!(settings.thresholds.top1_gap <= 1e-3);
        assert!(settings.standard.len() >= 10);
    }

    #[test]
    fn a_threshold_without_a_reason_is_refused() {
        let text = include_str!("../../../tools/crossval.toml");
        let start = text.find("top1_gap_reason").unwrap();
        let line = text[start..].lines().next().unwrap();
        assert!(Settings::parse(&text.replace(line, "top1_gap_reason = \"\"")).is_err());
        assert!(Settings::parse(&text.replace(line, "")).is_err());
    }
}
