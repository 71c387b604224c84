//! The receipt of a step that builds, fetches or looks: facts by name, and the files it made.

use crate::FileFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `preflight`, `reference`, `symbols`, `kernels` or `model`.
    pub step: String,
    pub facts: BTreeMap<String, String>,
    pub files: Vec<FileFacts>,
}
