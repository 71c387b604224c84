//! A profile: kernels that a measurement on this machine found better than the default ones.
//!
//! In: the choices that `bitnet kernels --tune` made. Out: a [`KernelSet`](super::KernelSet) with them. A profile holds
//! for one CPU and one binary, by digest: any other ignores it. Deliberately absent: measuring (see [`super::lab`]).

use serde::{Deserialize, Serialize};

/// The file that `bitnet kernels --tune` writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The CPU's name, as the system tells it.
    pub cpu: String,
    /// Of the binary that measured.
    pub binary_sha256: String,
    pub choices: Vec<Choice>,
}

/// The kernels of one pair of types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub weight: String,
    /// Kernel ids for `decode`, `batch` and `prefill`; all take weights that lie in the same way.
    pub kernels: [String; 3],
}
