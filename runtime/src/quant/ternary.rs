//! Ternary codes (-1, 0, +1) in and out of TQ1_0, TQ2_0, Q2_0 and I2_S rows.
//!
//! Used by converters, quantizers and tests. In: `i8` codes, one per weight, in row order. Out: packed rows.
//! Source: ggml's `quantize_row_tq1_0_ref` and its likes; see [`super::i2s`] for I2_S and [`super::tl`] for TL1 and TL2.
//! Deliberately absent: choosing codes for weights that are not ternary (see [`super::encode`]).

use super::InvalidCode;
use super::blocks::{BlockI2S, BlockQ2_0, BlockTQ1_0, BlockTQ2_0, F16, blocks, blocks_mut, two_bits};
use super::i2s::{pack_group, unpack_group};
use crate::tensor::TensorType;

/// Appends a row of `codes` (a whole number of blocks, each -1, 0 or 1) to `out`.
///
/// `scale` goes into every block of TQ1_0, TQ2_0 and Q2_0 (as f16); I2_S keeps its one scale after the last row
/// (see [`super::i2s::trailer`]), so there it is not used. Panics for types that are not ternary
/// or have no rows.
pub fn pack_ternary(ty: TensorType, codes: &[i8], scale: f32, out: &mut Vec<u8>) {
    let (weights, bytes) = ty.block();
    let fits = ty.is_ternary() && !ty.is_tiled() && codes.len().is_multiple_of(weights);
    assert!(fits, "{} codes for {ty}", codes.len());
    let start = out.len();
    out.resize(start + codes.len() / weights * bytes, 0);
    let packed = &mut out[start..];
    match ty {
        TensorType::TQ1_0 => {
            for (block, codes) in blocks_mut::<BlockTQ1_0>(packed).iter_mut().zip(codes.as_chunks().0) {
                *block = tq1_block(codes, scale);
            }
        }
        TensorType::TQ2_0 => {
            for (block, codes) in blocks_mut::<BlockTQ2_0>(packed).iter_mut().zip(codes.as_chunks().0) {
                *block = tq2_block(codes, scale);
            }
        }
        TensorType::Q2_0 => {
            for (block, codes) in blocks_mut::<BlockQ2_0>(packed).iter_mut().zip(codes.as_chunks().0) {
                *block = q2_0_block(codes, scale);
            }
        }
        _ => {
            for (block, codes) in blocks_mut::<BlockI2S>(packed).iter_mut().zip(codes.as_chunks().0) {
                pack_group(codes, &mut block.0);
            }
        }
    }
}

/// The codes of a packed row (I2_S in the x86 layout), into `codes`. Panics unless `bytes` holds exactly
/// `codes.len()` weights.
///
/// Errors: a 2-bit field with the value 3.
pub fn unpack_ternary(ty: TensorType, bytes: &[u8], codes: &mut [i8]) -> Result<(), InvalidCode> {
    assert!(ty.is_ternary() && ty.row_bytes(codes.len() as u64) == Some(bytes.len() as u64));
    match ty {
        TensorType::TQ1_0 => {
            for (block, codes) in blocks::<BlockTQ1_0>(bytes).iter().zip(codes.as_chunks_mut().0) {
                *codes = tq1_codes(block);
            }
        }
        TensorType::TQ2_0 => {
            for (b, (block, codes)) in
                blocks::<BlockTQ2_0>(bytes).iter().zip(codes.as_chunks_mut().0).enumerate()
            {
                *codes = tq2_codes(block);
                if let Some(e) = codes.iter().position(|&code| code == 2) {
                    return Err(InvalidCode { byte: b * 66 + e / 128 * 32 + e % 32 });
                }
            }
        }
        TensorType::Q2_0 => {
            for (b, (block, codes)) in
                blocks::<BlockQ2_0>(bytes).iter().zip(codes.as_chunks_mut().0).enumerate()
            {
                *codes = q2_0_codes(block);
                if let Some(e) = codes.iter().position(|&code| code == 2) {
                    return Err(InvalidCode { byte: b * 18 + 2 + e / 4 });
                }
            }
        }
        _ => {
            super::i2s::validate(bytes)?;
            for (block, codes) in blocks::<BlockI2S>(bytes).iter().zip(codes.as_chunks_mut().0) {
                *codes = unpack_group(&block.0);
            }
        }
    }
    Ok(())
}

/// Where TQ1_0 puts its 256 elements: (byte of `qs` ++ `qh`, position of the trit, element), trits of a byte
/// in order from the most significant. 32 bytes hold elements m + 32n, 16 bytes 160 + m + 16n (n < 5), and
/// the last 4 bytes 240 + m + 4n (n < 4).
fn tq1_places() -> impl Iterator<Item = (usize, usize, usize)> {
    let run = |byte: usize, width: usize, first: usize, trits: usize| {
        (0..width).flat_map(move |m| (0..trits).map(move |n| (byte + m, n, first + m + width * n)))
    };
    run(0, 32, 0, 5).chain(run(32, 16, 160, 5)).chain(run(48, 4, 240, 4))
}

/// Packs 256 codes. The trits t of a byte make q = sum t_n 3^(4-n); the byte is ceil(256 q / 243), so that
/// the top trit is (byte * 3) >> 8 and multiplying by 3 (mod 256) brings up the next.
pub(super) fn tq1_block(codes: &[i8; 256], scale: f32) -> BlockTQ1_0 {
    const POW3: [u16; 5] = [81, 27, 9, 3, 1];
    let mut sums = [0u16; 52];
    tq1_places().for_each(|(byte, n, element)| sums[byte] += (codes[element] + 1) as u16 * POW3[n]);
    let byte = |i: usize| ((u32::from(sums[i]) * 256).div_ceil(243)) as u8;
    BlockTQ1_0 {
        qs: std::array::from_fn(byte),
        qh: std::array::from_fn(|i| byte(48 + i)),
        d: F16::new(scale),
    }
}

/// The 256 codes of a block; every byte is valid.
pub(crate) fn tq1_codes(block: &BlockTQ1_0) -> [i8; 256] {
    const POW3: [u8; 5] = [1, 3, 9, 27, 81];
    let mut codes = [0; 256];
    tq1_places().for_each(|(byte, n, element)| {
        let packed = if byte < 48 { block.qs[byte] } else { block.qh[byte - 48] };
        let top = packed.wrapping_mul(POW3[n]);
        codes[element] = ((u16::from(top) * 3) >> 8) as i8 - 1;
    });
    codes
}

pub(super) fn tq2_block(codes: &[i8; 256], scale: f32) -> BlockTQ2_0 {
    let code = |element: usize| ((codes[element] + 1) & 3) as u8;
    let byte = |i: usize| (0..4).fold(0, |byte, n| byte | code(i / 32 * 128 + i % 32 + 32 * n) << (2 * n));
    BlockTQ2_0 { qs: std::array::from_fn(byte), d: F16::new(scale) }
}

/// The 256 codes of a block; a field of 3, which no quantizer writes, gives 2, as in ggml.
pub(crate) fn tq2_codes(block: &BlockTQ2_0) -> [i8; 256] {
    std::array::from_fn(|e| two_bits(&block.qs, e) as i8 - 1)
}

pub(super) fn q2_0_block(codes: &[i8; 64], scale: f32) -> BlockQ2_0 {
    let code = |element: usize| ((codes[element] + 1) & 3) as u8;
    let byte = |i: usize| (0..4).fold(0, |byte, n| byte | code(4 * i + n) << (2 * n));
    BlockQ2_0 { d: F16::new(scale), qs: std::array::from_fn(byte) }
}

/// The 64 codes of a block; a field of 3, which no quantizer writes, gives 2, as in ggml.
#[inline]
pub(crate) fn q2_0_codes(block: &BlockQ2_0) -> [i8; 64] {
    std::array::from_fn(|e| (block.qs[e / 4] >> (e % 4 * 2) & 3) as i8 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn codes_round_trip(codes in proptest::collection::vec(-1i8..=1, 1..=4 * 256), scale in 0.01f32..4.0) {
            for ty in TensorType::with_rows().filter(|ty| ty.is_ternary()) {
                let mut codes = codes.clone();
                codes.resize(codes.len().next_multiple_of(256), 0);
                let (mut packed, mut back) = (Vec::new(), vec![0; codes.len()]);
                pack_ternary(ty, &codes, scale, &mut packed);
                prop_assert_eq!(Some(packed.len() as u64), ty.row_bytes(codes.len() as u64));
                unpack_ternary(ty, &packed, &mut back).unwrap();
                prop_assert_eq!(&codes, &back);
            }
        }
    }

    #[test]
    fn code_3_is_refused_with_its_byte() {
        let codes = [0i8; 512];
        let mut packed = Vec::new();
        pack_ternary(TensorType::TQ2_0, &codes, 1.0, &mut packed);
        packed[66 + 40] |= 3 << 4;
        let mut back = [0; 512];
        let error = unpack_ternary(TensorType::TQ2_0, &packed, &mut back);
        assert_eq!(error, Err(InvalidCode { byte: 66 + 40 }));

        packed.clear();
        pack_ternary(TensorType::Q2_0, &codes, 1.0, &mut packed);
        packed[18 + 2 + 5] |= 3 << 6;
        let error = unpack_ternary(TensorType::Q2_0, &packed, &mut back);
        assert_eq!(error, Err(InvalidCode { byte: 18 + 2 + 5 }));
    }

    #[test]
    fn codes_that_are_not_whole_ternary_blocks_are_refused() {
        for (ty, count) in [(TensorType::TQ2_0, 255), (TensorType::Q4_0, 32), (TensorType::TL2, 96)] {
            let refused =
                std::panic::catch_unwind(|| pack_ternary(ty, &vec![0; count], 1.0, &mut Vec::new()));
            assert!(refused.is_err(), "{ty}");
        }
    }
}
