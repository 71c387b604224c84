//! What every GPU backend shares: the interface that an engine drives, and the packed form of ternary weights.
//!
//! In: a loaded [`Model`]. Out: an [`Accelerator`] that holds it on a device and evaluates batches. Deliberately absent:
//! any vendor's API (see `crate::cuda`), and the choice of a backend (see [`crate::backend`]).

pub mod device;
pub mod pack;
pub mod plan;
pub mod shard;
#[cfg(test)]
mod simulation;

use crate::Result;
use crate::engine::{Sequences, pages::SequenceId};
use crate::model::Model;
use crate::quant::activation::ActivationQuant;
use bitforge_schema::protocol::KernelCount;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Takes a model to a device.
pub type Open = fn(&Model, &OpenOptions) -> Result<Box<dyn Accelerator>>;

/// How a model is to be held.
pub struct OpenOptions {
    /// Positions that one sequence may have.
    pub context: usize,
    /// The KV cache has room for so many sequences of full length.
    pub sequences: usize,
    pub activation_quant: ActivationQuant,
    /// The first of the devices that are used.
    pub first_device: usize,
    /// Devices that share the model: see [`shard`].
    pub tensor_parallel: usize,
    /// The library of their collectives; `None` for the one that the loader finds.
    pub nccl: Option<String>,
    /// Set from elsewhere to end an evaluation between launches.
    pub interrupt: Arc<AtomicBool>,
}

/// A device and what it holds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Facts {
    pub name: String,
    /// Of the matrices, in the form in which they lie on the device.
    pub weight_bytes: u64,
    /// Of the compact copy of the head, 0 without one.
    pub compact_head_bytes: u64,
    pub kv_bytes: u64,
    /// All memory that the model, its cache and its buffers take.
    pub device_bytes: u64,
    /// How single tokens are computed.
    pub decode: &'static str,
    /// Devices that share the model; the bytes above are of all of them.
    pub tensor_parallel: usize,
}

/// What a decoding step of several devices tells them of each other.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Communication {
    /// Bytes that each device receives for one step.
    pub bytes: u64,
    /// Median nanoseconds of all the step's collectives alone, in one graph.
    pub nanoseconds: u64,
}

/// The products of all layers alone, for one row: nanoseconds of a pass over weights that no cache holds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct ProductTimes {
    /// Each waits for the one before it, as in a decoding step.
    pub chained_ns: u64,
    /// Each starts as soon as there is room.
    pub apart_ns: u64,
    /// Of the weights that a pass reads.
    pub weight_bytes: u64,
}

/// A model on a device, with its sequences.
pub trait Accelerator: Sequences + Send {
    fn facts(&self) -> &Facts;

    /// Evaluates `first` after the positions of `id`, then `count - 1` times the token with the highest logit of the one
    /// before; returns the `count` tokens that were best. Chosen on the device, ties to the lowest id; of ids below
    /// the padded vocabulary's length all count.
    ///
    /// # Errors
    /// As [`Sequences::evaluate`].
    fn generate_greedy(&mut self, id: SequenceId, first: u32, count: usize) -> Result<Vec<u32>>;

    /// One greedy step of several sequences at once: evaluates `tokens[i]` after `ids[i]`, returns the best next tokens.
    ///
    /// # Errors
    /// As [`Sequences::evaluate`].
    fn step_greedy(&mut self, ids: &[SequenceId], tokens: &[u32]) -> Result<Vec<u32>>;

    /// What a decoding step of `rows` rows communicates, measured without the computation; `None` on one device.
    ///
    /// # Errors
    /// The devices'.
    fn communication(&mut self, _rows: usize) -> Result<Option<Communication>> {
        Ok(None)
    }

    /// Times the products of the layers alone; `None` where the device has no kernels that can be told apart.
    ///
    /// # Errors
    /// The device's.
    fn time_products(&mut self) -> Result<Option<ProductTimes>> {
        Ok(None)
    }

    /// Matrix kernels since the last reset.
    fn kernel_counts(&self) -> Vec<KernelCount>;

    fn reset_kernel_counts(&mut self);
}
