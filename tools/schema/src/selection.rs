//! The selection line: what was asked for, what this binary has, what the machine has, and what was taken.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The outcome of choosing a kernel set or a device. `detected` is what a probe saw at run time,
/// never what was compiled.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub requested: String,
    pub compiled: Vec<String>,
    pub detected: Vec<String>,
    pub selected: String,
    pub reason: String,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requested={} compiled=[{}] detected=[{}] selected={} reason={}",
            self.requested,
            self.compiled.join(","),
            self.detected.join(","),
            self.selected,
            self.reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_format() {
        let selection = Selection {
            requested: "auto".into(),
            compiled: vec!["scalar".into(), "avx2".into()],
            detected: vec!["scalar".into()],
            selected: "scalar".into(),
            reason: "avx2 not detected".into(),
        };
        assert_eq!(
            selection.to_string(),
            "requested=auto compiled=[scalar,avx2] detected=[scalar] selected=scalar reason=avx2 not detected"
        );
    }
}
