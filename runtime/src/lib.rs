//! A compact runtime for BitNet (ternary, 1.58-bit) language models in GGUF files.
//!
//! Bytes flow one way: [`gguf`] (checked views of a file) -> [`model`] (configuration and named weights)
//! -> [`kernels`] (chosen once, passed down as a value) -> [`engine`] (state in, logits out) -> the `bitnet`
//! binary. See `docs/architecture.md`.
//!
//! # A model in ten lines
//!
//! ```
#![doc = include_str!("../examples/ten_lines.rs")]
//! ```
//!
//! [`engine::Engine::prefill`] and [`decode`](engine::Engine::decode) are the steps below [`generate()`](generate::generate);
//! [`engine::Sequences`] is what a server needs, with many sequences in one batch. Errors say what was wrong, where, and what to
//! do about it ([`Error`]). Features: `net` fetches models over HTTP, `cuda` computes on NVIDIA GPUs.

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_the_example_that_is_run() {
        let (readme, example) = (include_str!("../../README.md"), include_str!("../examples/ten_lines.rs"));
        let body = example.split_once("fn main()").unwrap().1;
        assert!(body.lines().count() <= 12, "more than ten lines");
        assert!(readme.contains(&format!("```rust\n{example}```")), "README.md shows another example");
    }
}
