//! Block formats of weights and activations: packing and unpacking rows.
//!
//! In: rows of f32 or of ternary codes. Out: bytes as they lie in GGUF files, and back. Quantizers equal
//! ggml's reference quantizers byte for byte (checked against `fixtures/quant`), so that a file made here is
//! the file llama.cpp would make. Deliberately absent: matrix products (see [`crate::kernels`]), which read
//! packed bytes and never a decoded matrix.

pub mod activation;
pub mod blocks;
mod decode;
mod encode;
#[cfg(test)]
pub(crate) mod goldens;
pub mod i2s;
mod k_search;
pub mod old_i2s;
pub mod panels;
mod ternary;
pub mod tl;

pub use decode::dequantize_row;
pub(crate) use decode::{five_bits, nibbles};
pub use encode::quantize_row;
pub use i2s::{I2sError, I2sLayout, i2s_pack, i2s_to_x86};
pub use ternary::{pack_ternary, unpack_ternary};
pub(crate) use ternary::{q2_0_codes, tq1_codes, tq2_codes};

/// A 2-bit field with the value 3, in byte `byte` of the bytes given; the caller knows the file and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid ternary code 3 in byte {byte} of the tensor")]
pub struct InvalidCode {
    pub byte: usize,
}

/// `value` rounded to the nearest integer, ties to even, for |value| < 2^22: adding 1.5 * 2^23 leaves the
/// integer in the low mantissa bits. ggml rounds its K-quants and activations this way.
#[inline]
pub(crate) fn nearest_int(value: f32) -> i32 {
    ((value + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// The integer nearest to the exact product, half to even: one rounding, as bitnet.cpp's loop has it where its compiler
/// may fuse (GCC with FMA, its default), and as the definition in exact numbers has it.
#[inline(always)]
pub(crate) fn nearest_int_of_product(a: f32, b: f32) -> i32 {
    (a.mul_add(b, 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}
