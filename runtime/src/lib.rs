//! A compact runtime for BitNet (ternary, 1.58-bit) language models in GGUF files.
//!
//! Bytes flow one way: [`gguf`] (checked views of a file) -> [`model`] (configuration and named weights)
//! -> [`kernels`] (chosen once, passed down as a value) -> [`engine`] (state in, logits out) -> the `bitnet`
//! binary. See `docs/architecture.md`.

pub mod backend;
pub mod chat;
pub mod convert;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod error;
pub mod generate;
pub mod gguf;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod kernels;
pub mod limits;
pub mod machine;
pub mod model;
pub mod models;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod quant;
pub mod quantize;
pub mod sampling;
mod sync;
pub mod tensor;
pub mod threads;
pub mod tokenizer;

pub use error::{Error, Result};
