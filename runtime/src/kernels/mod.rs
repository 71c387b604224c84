//! Kernels: the arithmetic of a forward pass, in a scalar version that defines what is right and in faster
//! versions that are tested against it.
//!
//! In: packed weight rows and packed activation rows. Out: f32 dot products. [`registry`] lists every
//! kernel with what it needs; [`select`] turns a request and a probe of the CPU into a [`KernelSet`], a value
//! that is printed and passed down. Deliberately absent: threads (the engine splits rows), hidden statics,
//! compile-time dispatch on the CPU.
//!
//! Invariant: the result for one (weight row, activation row) pair never depends on how many rows or
//! activations a call holds, bit for bit.

pub mod arch;
pub mod case;
pub mod head;
pub mod lab;
pub mod level;
pub mod ops;
pub mod panel;
pub mod profile;
pub mod registry;
pub mod select;

pub use level::{KernelCapabilities, SimdLevel};
pub use panel::{Columns, PanelTile};
pub use registry::{MatmulKernel, Shape};
pub use select::KernelSet;

/// One call of a matrix kernel: some weight rows times some activation rows.
///
/// `out` is row-major [rows, activations]: `out[r * activations + a] = dot(weight row r, activation row a)`.
pub struct Tile<'a> {
    /// Weights per row; a whole number of the type's blocks.
    pub k: usize,
    /// Packed rows, `row_bytes` each.
    pub weights: &'a [u8],
    pub row_bytes: usize,
    /// Packed activation rows, `activation_bytes` each (see [`crate::quant::activation`]).
    pub activations: &'a [u8],
    pub activation_bytes: usize,
    /// Scale of the whole tensor (I2_S, and Q2_0 that was TL1 or TL2); 1 for types whose blocks carry their own.
    pub tensor_scale: f32,
    pub out: &'a mut [f32],
    /// Dot products written; kernels add to it where they write them.
    pub done: u64,
}

impl Tile<'_> {
    /// Calls `dot(weight row, activation row)` for every pair, in a fixed order.
    #[inline(always)]
    pub fn for_each_pair(&mut self, mut dot: impl FnMut(&[u8], &[u8]) -> f32) {
        let activations = self.activations.len() / self.activation_bytes;
        let rows = self.weights.chunks_exact(self.row_bytes);
        for (row, out) in rows.zip(self.out.chunks_exact_mut(activations)) {
            for (activation, out) in self.activations.chunks_exact(self.activation_bytes).zip(out) {
                *out = dot(row, activation);
                self.done += 1;
            }
        }
    }
}
