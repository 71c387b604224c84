//! What `ci/lanes.toml` says: the lanes of the pipeline, their steps, and what the generated workflows need.
//!
//! In: the text of the file. Out: [`Lanes`], or an error with line, key and remedy. Strict: a key that is not known, a
//! step that needs a shell, a shard that no step uses are errors, so that nothing in the file is without effect.
//! Pure: no file is read and no process is started (see `super::run` and [`super::workflow`]).

mod check;
#[cfg(test)]
mod tests;

use crate::exit::fail;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use toml::Spanned;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// The Rust toolchain of the workflows.
    pub toolchain: String,
    /// Actions that workflows may use, by name, each at one commit.
    pub actions: BTreeMap<String, Action>,
    /// In the order of the file.
    pub lanes: Vec<Lane>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// For readers: the release that the commit belongs to.
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    pub name: String,
    pub description: String,
    /// Labels of the machine that a workflow runs on.
    pub runner: Vec<String>,
    pub triggers: BTreeSet<Trigger>,
    /// When [`Trigger::Schedule`] starts it: five fields of cron, in UTC.
    pub cron: Option<String>,
    /// Changes to these files start it; empty: any change does.
    pub paths: Vec<String>,
    /// Debian packages that its steps need.
    pub packages: Vec<String>,
    /// Of all its steps together.
    pub limit: Duration,
    /// Into how many parts it can be split.
    pub shards: u32,
    /// What a workflow keeps, besides results and logs.
    pub artifacts: Vec<String>,
    /// What a workflow carries from run to run, besides crates and tools.
    pub cache: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    /// Program and arguments; [`SHARD`] stands for the part, as `1/2`.
    pub run: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub limit: Duration,
    /// Whether a lane in parts runs it in every part, not in the first alone.
    pub every_shard: bool,
}

/// In a step's command: which part of how many.
pub const SHARD: &str = "{shard}";

impl Step {
    /// Whether it does one part of its work in each shard.
    pub fn is_sharded(&self) -> bool {
        self.run.iter().any(|word| word.contains(SHARD))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Push,
    PullRequest,
    Schedule,
    Manual,
}

impl Lanes {
    /// The lane called `name`; the error lists those there are.
    pub fn lane(&self, name: &str) -> Result<&Lane> {
        self.lanes.iter().find(|lane| lane.name == name).map_or_else(
            || {
                let names: Vec<&str> = self.lanes.iter().map(|lane| lane.name.as_str()).collect();
                fail(ExitCode::Usage, format!("there is no lane {name}; lanes are {}", names.join(", ")))
            },
            Ok,
        )
    }
}

/// Reads the text of a `lanes.toml`.
///
/// # Errors
/// [`ExitCode::BadInput`] with the line, the key and the remedy.
pub fn parse(text: &str) -> Result<Lanes> {
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let message = error.message().lines().collect::<Vec<_>>().join("; ");
            return at(text, error.span().map_or(0, |span| span.start), &message);
        }
    };
    check::lanes(file).or_else(|problem| at(text, problem.offset, &problem.message))
}

fn at<T>(text: &str, offset: usize, message: &str) -> Result<T> {
    let before = text.as_bytes().iter().take(offset);
    let line = before.filter(|byte| **byte == b'\n').count() + 1;
    fail(ExitCode::BadInput, format!("ci/lanes.toml: line {line}: {message}"))
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<i64>,
    toolchain: Spanned<String>,
    actions: BTreeMap<Spanned<String>, RawAction>,
    lane: Vec<RawLane>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAction {
    commit: Spanned<String>,
    version: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLane {
    name: Spanned<String>,
    description: Spanned<String>,
    runner: Spanned<Vec<String>>,
    triggers: Spanned<Vec<Trigger>>,
    cron: Option<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    #[serde(default)]
    packages: Vec<Spanned<String>>,
    minutes: Spanned<i64>,
    shards: Option<Spanned<i64>>,
    #[serde(default)]
    artifacts: Vec<Spanned<String>>,
    #[serde(default)]
    cache: Vec<Spanned<String>>,
    steps: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    name: Spanned<String>,
    run: Spanned<String>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, Spanned<String>>,
    minutes: Option<Spanned<i64>>,
    #[serde(default)]
    every_shard: bool,
}
