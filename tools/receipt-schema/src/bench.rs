//! The receipt of a benchmark, written by `cargo xtask bench`: raw samples, never only summaries.

use crate::{FileFacts, MachineFacts};
use bitforge_schema::protocol::KernelCount;
use serde::{Deserialize, Serialize};

#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    pub binary: FileFacts,
    pub model: FileFacts,
    /// Made by a generator, not trained: speed means something, text does not.
    pub synthetic: bool,
    pub machine: MachineFacts,
    pub threads: u32,
    pub limits: Limits,
    pub series: Vec<Series>,
}

/// What the machine can do, measured before and between the samples.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes per second of reading, by number of threads from 1; every sample in the order taken.
    pub read_bandwidth: Vec<Vec<f64>>,
    /// int8 multiply-adds per second (one multiply and one add are two operations), by number of threads.
    pub int8_operations: Vec<Vec<f64>>,
}

/// One engine at one measurement.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    pub engine: String,
    /// What identifies it: sha256 of our binary, or the key of the reference build.
    pub identity: String,
    /// `pp512`, `tg128`.
    pub test: String,
    /// Tokens of one sample.
    pub tokens: u32,
    /// Nanoseconds of each sample, in the order taken (interleaved with the other engines').
    pub samples_ns: Vec<u64>,
    /// Bytes of weights that one token, or one prefill, has to read at least.
    pub weight_bytes: u64,
    /// Of all samples together; empty for engines without counters.
    pub kernels: Vec<KernelCount>,
}
