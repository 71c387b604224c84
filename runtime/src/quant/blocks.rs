//! Block structs of the packed formats, exactly as they lie in a file, and checked casts from bytes.
//!
//! In: byte slices whose length is a whole number of blocks. Out: slices of blocks, without a copy.
//! Every field is made of bytes, so a block has alignment 1 and any bit pattern is a value: multi-byte
//! numbers are little endian and read through [`F16`] or `from_le_bytes`. Source: ggml's block structs.
//! Deliberately absent: what the numbers mean (see `quant::decode` and `quant::encode`).

use half::f16;

/// A type that bytes may be viewed as.
///
/// # Safety
/// The type must be `repr(C)` or `repr(transparent)` over byte-sized fields only: alignment 1, no padding,
/// every bit pattern valid.
pub unsafe trait Block: Copy + 'static {}

/// The blocks in `bytes`. Panics unless `bytes` is a whole number of them.
#[inline]
pub fn blocks<B: Block>(bytes: &[u8]) -> &[B] {
    const { assert!(align_of::<B>() == 1 && size_of::<B>() > 0) };
    assert!(bytes.len().is_multiple_of(size_of::<B>()), "{} bytes are not whole blocks", bytes.len());
    // SAFETY: `Block` types have alignment 1 and accept any bytes; the length covers `bytes` exactly.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// The blocks in `bytes`, for writing. Panics unless `bytes` is a whole number of them.
#[inline]
pub fn blocks_mut<B: Block>(bytes: &mut [u8]) -> &mut [B] {
    const { assert!(align_of::<B>() == 1 && size_of::<B>() > 0) };
    assert!(bytes.len().is_multiple_of(size_of::<B>()), "{} bytes are not whole blocks", bytes.len());
    // SAFETY: as in `blocks`; the borrow is exclusive, and `Block` types have no padding to expose.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<B>()) }
}

/// A little-endian IEEE half float in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct F16(pub [u8; 2]);

impl F16 {
    #[inline]
    pub fn get(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// Of either sign.
    #[inline]
    pub fn is_zero(self) -> bool {
        u16::from_le_bytes(self.0) & 0x7fff == 0
    }

    /// Rounds to nearest, ties to even.
    #[inline]
    pub fn new(value: f32) -> Self {
        F16(f16::from_f32(value).to_le_bytes())
    }
}

/// 32 weights `d * (q - 8)`; byte j holds elements j (low nibble) and j + 16.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_0 {
    pub d: F16,
    pub qs: [u8; 16],
}

/// 32 weights `d * q + m`; nibbles as in [`BlockQ4_0`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_1 {
    pub d: F16,
    pub m: F16,
    pub qs: [u8; 16],
}

/// 32 weights `d * (q - 16)`; q is 5 bits, four in nibbles as in [`BlockQ4_0`], bit e of `qh` on top of element e.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ5_0 {
    pub d: F16,
    pub qh: [u8; 4],
    pub qs: [u8; 16],
}

/// 32 weights `d * q + m`; q as in [`BlockQ5_0`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ5_1 {
    pub d: F16,
    pub m: F16,
    pub qh: [u8; 4],
    pub qs: [u8; 16],
}

/// 32 values `d * q`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ8_0 {
    pub d: F16,
    pub qs: [i8; 32],
}

/// 32 activations `d * q`, with `s = d * (sum of q)`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ8_1 {
    pub d: F16,
    pub s: F16,
    pub qs: [i8; 32],
}

/// 256 weights in sixteen groups of 16, `d * scale * q - dmin * min`; a byte of `scales` holds a scale (low four
/// bits) and a min; q is 2 bits, in fields as in [`BlockTQ2_0`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ2K {
    pub scales: [u8; 16],
    pub qs: [u8; 64],
    pub d: F16,
    pub dmin: F16,
}

/// 256 weights in sixteen groups of 16, `d * (scale - 32) * (q - 4)`; q is 3 bits, two in fields as in
/// [`BlockTQ2_0`], the high one in `hmask`: bit e / 32 of byte e % 32.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ3K {
    pub hmask: [u8; 32],
    pub qs: [u8; 64],
    pub scales: [u8; 12],
    pub d: F16,
}

/// 256 weights in eight groups of 32, `d * scale * q - dmin * min`; scales and mins are 6 bits each, packed
/// in 12 bytes (see [`BlockQ4K::scales_and_mins`]); each 32 bytes of `qs` hold two groups in their nibbles.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ4K {
    pub d: F16,
    pub dmin: F16,
    pub scales: [u8; 12],
    pub qs: [u8; 128],
}

/// As [`BlockQ4K`], with the fifth bit of a quant in `qh`: bit e / 32 of byte e % 32.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ5K {
    pub d: F16,
    pub dmin: F16,
    pub scales: [u8; 12],
    pub qh: [u8; 32],
    pub qs: [u8; 128],
}

/// 256 weights in sixteen groups of 16, `d * scale * (q - 32)`; q is 6 bits, four low (`ql`), two high (`qh`).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ6K {
    pub ql: [u8; 128],
    pub qh: [u8; 64],
    pub scales: [i8; 16],
    pub d: F16,
}

/// 256 ternary weights, five trits a byte in `qs`, four in `qh`, each byte a fraction of 256 in base 3.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockTQ1_0 {
    pub qs: [u8; 48],
    pub qh: [u8; 4],
    pub d: F16,
}

/// 256 ternary weights as 2-bit codes; byte j of a 32-byte half holds elements j, j+32, j+64, j+96 of its
/// 128, low bits first.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockTQ2_0 {
    pub qs: [u8; 64],
    pub d: F16,
}

/// 64 weights `d * (code - 1)` with 2-bit codes; byte j holds elements 4j to 4j + 3, low bits first.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ2_0 {
    pub d: F16,
    pub qs: [u8; 16],
}

/// 256 activations `d * q` (d is an f32), with the sums of each 16 quants (i16).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BlockQ8K {
    pub d: [u8; 4],
    pub qs: [i8; 256],
    pub bsums: [[u8; 2]; 16],
}

/// 128 ternary weights of I2_S in the x86 layout: byte p holds elements p, p+32, p+64, p+96, high bits first.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct BlockI2S(pub [u8; 32]);

macro_rules! byte_blocks {
    ($($ty:ty = $size:literal),* $(,)?) => {$(
        const _: () = assert!(size_of::<$ty>() == $size && align_of::<$ty>() == 1);
        // SAFETY: `repr(C)` or `repr(transparent)` over bytes; the size above shows that nothing is padded.
        unsafe impl Block for $ty {}
    )*};
}

byte_blocks! {
    F16 = 2, BlockQ4_0 = 18, BlockQ4_1 = 20, BlockQ5_0 = 22, BlockQ5_1 = 24, BlockQ8_0 = 34, BlockQ8_1 = 36,
    BlockQ2K = 84, BlockQ3K = 110, BlockQ4K = 144, BlockQ5K = 176, BlockQ6K = 210, BlockTQ1_0 = 54,
    BlockTQ2_0 = 66, BlockQ8K = 292, BlockI2S = 32, BlockQ2_0 = 18,
    [BlockI2S; 2] = 64, [BlockQ8_0; 2] = 68, [i8; 32] = 32, [i8; 64] = 64, [i8; 128] = 128, [i8; 256] = 256,
    [u8; 2] = 2, [u8; 4] = 4, [u8; 8] = 8, [u8; 16] = 16, [u8; 32] = 32, [u8; 64] = 64, [i8; 16] = 16,
    [[u8; 2]; 16] = 32, [[u8; 16]; 4] = 64, [[u8; 32]; 4] = 128, [[u8; 32]; 2] = 64, [[u8; 64]; 2] = 128,
}

/// The eight scales and eight mins (0..=63) of Q4_K and Q5_K. Groups 0 to 3 lie in the low 6 bits of bytes 0..4
/// (scales) and 4..8 (mins); groups 4 to 7 have their low four bits in bytes 8..12 and their high two bits on top
/// of bytes 0..4 (scales) and 4..8 (mins).
#[inline]
fn scales_and_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let words = packed.as_chunks::<4>().0;
    let [low_scales, low_mins, rest] = [0, 1, 2].map(|i| u32::from_le_bytes(words[i]));
    let six = |word: u32| word & 0x3f3f_3f3f;
    let high = |low: u32, tops: u32| low & 0x0f0f_0f0f | (tops >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    (join(six(low_scales), high(rest, low_scales)), join(six(low_mins), high(rest >> 4, low_mins)))
}

/// The inverse of [`scales_and_mins`].
pub(super) fn pack_scales_and_mins(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for g in 0..4 {
        packed[g] = scales[g] | scales[g + 4] >> 4 << 6;
        packed[g + 4] = mins[g] | mins[g + 4] >> 4 << 6;
        packed[g + 8] = scales[g + 4] & 15 | (mins[g + 4] & 15) << 4;
    }
    packed
}

/// Four 2-bit fields a byte, low bits first; byte j of a 32-byte half holds elements j, j+32, j+64, j+96 of its 128.
#[inline]
pub(super) fn two_bits(qs: &[u8; 64], element: usize) -> u8 {
    qs[element / 128 * 32 + element % 32] >> (element % 128 / 32 * 2) & 3
}

/// The low four bits of an element: 32 bytes hold 64 elements, byte i elements i (low nibble) and i + 32.
#[inline]
fn four_bits(qs: &[u8; 128], element: usize) -> u8 {
    qs[element / 64 * 32 + element % 32] >> (element % 64 / 32 * 4) & 15
}

impl BlockQ2K {
    /// The quant (0..=3) of an element.
    #[inline]
    pub fn quant(&self, element: usize) -> u8 {
        two_bits(&self.qs, element)
    }
}

impl BlockQ3K {
    /// The quant (0..=7) of an element.
    #[inline]
    pub fn quant(&self, element: usize) -> u8 {
        two_bits(&self.qs, element) | (self.hmask[element % 32] >> (element / 32) & 1) << 2
    }

    /// The sixteen scales (0..=63): low four bits in the nibbles of bytes 0..8 (groups 0 to 7, then 8 to 15), high
    /// two bits of group g in byte 8 + g % 4 at bits 2 * (g / 4).
    #[inline]
    pub fn scales(&self) -> [u8; 16] {
        std::array::from_fn(|g| {
            self.scales[g % 8] >> (g / 8 * 4) & 15 | (self.scales[8 + g % 4] >> (g / 4 * 2) & 3) << 4
        })
    }
}

impl BlockQ4K {
    #[inline]
    pub fn scales_and_mins(&self) -> ([u8; 8], [u8; 8]) {
        scales_and_mins(&self.scales)
    }

    /// The quant (0..=15) of an element.
    #[inline]
    pub fn quant(&self, element: usize) -> u8 {
        four_bits(&self.qs, element)
    }
}

impl BlockQ5K {
    #[inline]
    pub fn scales_and_mins(&self) -> ([u8; 8], [u8; 8]) {
        scales_and_mins(&self.scales)
    }

    /// The quant (0..=31) of an element.
    #[inline]
    pub fn quant(&self, element: usize) -> u8 {
        four_bits(&self.qs, element) | (self.qh[element % 32] >> (element / 32) & 1) << 4
    }
}

impl BlockQ6K {
    /// The quant (0..=63) of an element: in each half of 128, element e lies in `ql` byte e % 64 (low nibble for
    /// e < 64) and in `qh` byte e % 32 at bits 2 * (e / 32).
    #[inline]
    pub fn quant(&self, element: usize) -> u8 {
        let (half, e) = (element / 128, element % 128);
        let low = self.ql[half * 64 + e % 64] >> (e / 64 * 4) & 15;
        low | (self.qh[half * 32 + e % 32] >> (e / 32 * 2) & 3) << 4
    }
}

impl BlockQ8K {
    #[inline]
    pub fn d(&self) -> f32 {
        f32::from_le_bytes(self.d)
    }

    /// Sum of the 16 quants of group `g`.
    #[inline]
    pub fn bsum(&self, g: usize) -> i32 {
        i16::from_le_bytes(self.bsums[g]).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn scales_and_mins_round_trip(scales: [u8; 8], mins: [u8; 8]) {
            let (scales, mins) = (scales.map(|s| s & 63), mins.map(|m| m & 63));
            prop_assert_eq!(scales_and_mins(&pack_scales_and_mins(scales, mins)), (scales, mins));
        }
    }

    #[test]
    fn blocks_are_as_many_for_writing_as_for_reading() {
        let mut bytes = [0; 3 * size_of::<BlockQ8_0>()];
        assert_eq!((blocks::<BlockQ8_0>(&bytes).len(), blocks_mut::<BlockQ8_0>(&mut bytes).len()), (3, 3));
    }

    #[test]
    #[should_panic(expected = "not whole blocks")]
    fn a_partial_block_is_refused() {
        blocks::<BlockQ4_0>(&[0; 19]);
    }
}
