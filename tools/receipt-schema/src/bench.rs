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
    /// The state of the machine before the first sample and after the last.
    pub noise: Vec<Noise>,
}

/// What else the machine did at one moment; `None` where the system does not say.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Runnable tasks, averaged over a minute.
    pub load_average: Option<f64>,
    /// Since boot: time that the hypervisor gave to others, and all time, in the same unit.
    pub steal_ticks: Option<u64>,
    pub total_ticks: Option<u64>,
    /// The mean over the CPUs.
    pub megahertz: Option<f64>,
}

/// What the machine can do, measured before and between the samples.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes that one pass of reading went over; more than twice the last-level cache, or a part of the
    /// bandwidth is the cache's.
    pub buffer_bytes: u64,
    /// The instruction that the int8 operations were done with.
    pub int8_instruction: String,
    /// Bytes per second of reading, by number of threads from 1 (empty where that number was not measured);
    /// every sample in the order taken.
    pub read_bandwidth: Vec<Vec<f64>>,
    /// int8 multiply-adds per second (one multiply and one add are two operations), by number of threads.
    pub int8_operations: Vec<Vec<f64>>,
}

/// One engine at one measurement.
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// `bitforge`, `llama`, `bitnet`; with another file than the receipt's model, `NAME (FILE)`.
    pub engine: String,
    /// What identifies it: sha256 of our binary, or the key of the reference build.
    pub identity: String,
    /// `pp512`, `tg128`, `tg128@4096` (after 4096 tokens), `tg128x8` (in eight sequences at once).
    pub test: String,
    /// Tokens of one sample.
    pub tokens: u32,
    /// Nanoseconds of each sample, in the order taken (interleaved with the other engines').
    pub samples_ns: Vec<u64>,
    /// Bytes of weights that one sample has to read at least: all of them, once per generated token or prefill.
    pub weight_bytes: u64,
    /// Bytes of keys and values that one sample has to read: those of all positions before each generated token.
    #[serde(default)]
    pub kv_bytes: u64,
    /// int8 operations of the layers' matrices in one sample (a multiply and an add are two).
    pub operations: u64,
    /// Of all samples together; empty for engines without counters.
    pub kernels: Vec<KernelCount>,
}
