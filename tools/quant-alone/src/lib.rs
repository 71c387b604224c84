//! The runtime's block formats, compiled alone.
//!
//! In: `runtime/src/quant` and `tensor.rs`, the files themselves and no copies. Out: their unit tests, for
//! `cargo xtask mutants`: thousands of mutants, each of which costs a build of these files and not of the whole runtime.
//! Deliberately absent: anything else; `cargo xtask test` runs the same tests where they belong.
#![expect(unused_imports, reason = "what is unused here others of the runtime use")]

#[path = "../../../runtime/src/quant/mod.rs"]
pub mod quant;
#[path = "../../../runtime/src/tensor.rs"]
pub mod tensor;
