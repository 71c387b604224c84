//! From one GGUF file to another with other tensor types; the encoder of `bitnet quantize` and `bitnet convert`.
//!
//! In: tensors of a GGUF file ([`plan`]) or of a checkpoint ([`crate::convert`]) as [`source`]s. Out: a file whose
//! ternary codes are those of the input where it has any, and the rounding of BitNet b1.58 (`ternary`) where it
//! has master weights. [`write`] streams it with all threads (`workers`). Deliberately absent: importance
//! matrices, mixed types per layer.

mod plan;
pub mod source;
mod ternary;
#[cfg(test)]
mod tests;
mod workers;
mod write;

pub use plan::{Options, Role, check_rows, file_keys, plan, tiles_of_items};
pub use workers::Workers;
pub use write::{Item, Plan, TensorReport, Treatment};
