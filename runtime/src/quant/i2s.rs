//! I2_S, bitnet.cpp's 2-bit ternary tensor: layouts, packing, conversion to the x86 layout, validation.
//!
//! Codes 0, 1, 2 stand for -1, 0, +1; 3 is invalid. Rows are followed by a 32-byte trailer whose first four
//! bytes are the f32 scale of the whole tensor. Three layouts exist, and nothing in a file tells them apart,
//! so the caller says which; in memory this runtime keeps [`I2sLayout::X86`] only.
//! Source: bitnet.cpp `quantize_i2_s` (src/ggml-bitnet-mad.cpp).

use super::InvalidCode;
use crate::tensor::TensorType;

/// Bytes after the last row: the scale and 28 bytes that readers must ignore.
pub const TRAILER: usize = TensorType::I2S.trailer_bytes();

/// How the 2-bit fields of an I2_S tensor are ordered. All hold the first element in the highest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum I2sLayout {
    /// Groups of 128 along the row in 32 bytes; byte p holds elements p, p+32, p+64, p+96.
    #[default]
    X86,
    /// Groups of 64 along the row in 16 bytes; byte p holds elements p, p+16, p+32, p+48.
    Arm,
    /// Four rows together; byte c holds column c of rows 4g, 4g+1, 4g+2, 4g+3.
    Row4,
}

/// Why an I2_S tensor cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum I2sError {
    #[error(transparent)]
    InvalidCode(#[from] InvalidCode),
    #[error("{rows} rows are not a multiple of 4, as the row4 layout needs")]
    RowsNotInFours { rows: usize },
}

impl I2sLayout {
    pub const ALL: [I2sLayout; 3] = [I2sLayout::X86, I2sLayout::Arm, I2sLayout::Row4];

    /// The value of `--i2s-layout`.
    pub const fn name(self) -> &'static str {
        match self {
            I2sLayout::X86 => "x86",
            I2sLayout::Arm => "arm",
            I2sLayout::Row4 => "row4",
        }
    }

    /// Byte and shift of the field of (row, column) in a tensor with rows of `k`.
    fn place(self, row: usize, column: usize, k: usize) -> (usize, usize) {
        let grouped = |lanes: usize| {
            let (group, e) = ((row * k + column) / (4 * lanes), column % (4 * lanes));
            (group * lanes + e % lanes, 6 - 2 * (e / lanes))
        };
        match self {
            I2sLayout::X86 => grouped(32),
            I2sLayout::Arm => grouped(16),
            I2sLayout::Row4 => (row / 4 * k + column, 6 - 2 * (row % 4)),
        }
    }
}

/// A whole tensor from `codes` [rows, k] (each -1, 0 or 1): fields in `layout`, then the trailer.
///
/// ```
/// use bitnet_runtime::quant::{I2sLayout, i2s_pack, i2s_to_x86};
///
/// let codes: Vec<i8> = (0..4 * 128).map(|i| (i % 3) as i8 - 1).collect();
/// let arm = i2s_pack(&codes, 128, 0.25, I2sLayout::Arm)?;
/// assert_eq!(arm.len(), codes.len() / 4 + 32);
/// assert_eq!(i2s_to_x86(&arm, I2sLayout::Arm, 128)?, i2s_pack(&codes, 128, 0.25, I2sLayout::X86)?);
/// # Ok::<(), bitnet_runtime::quant::I2sError>(())
/// ```
///
/// Errors: a row count that `layout` cannot hold. Panics unless k is a multiple of 128 and divides `codes`.
pub fn i2s_pack(codes: &[i8], k: usize, scale: f32, layout: I2sLayout) -> Result<Vec<u8>, I2sError> {
    let rows = checked_rows(codes.len(), k, layout)?;
    let mut packed = vec![0; codes.len() / 4];
    for row in 0..rows {
        for column in 0..k {
            let (byte, shift) = layout.place(row, column, k);
            packed[byte] |= ((codes[row * k + column] + 1) as u8) << shift;
        }
    }
    packed.extend(trailer(scale));
    Ok(packed)
}

/// The tensor `bytes` (trailer included), whose fields are in `layout` and whose rows have `k` weights, with
/// its fields in the x86 layout. The trailer is kept.
///
/// Errors: an invalid code, or a row count that `layout` cannot hold. Panics unless k is a multiple of 128
/// and `bytes` has the size of such a tensor.
pub fn i2s_to_x86(bytes: &[u8], layout: I2sLayout, k: usize) -> Result<Vec<u8>, I2sError> {
    let (fields, rest) = bytes.split_at(bytes.len() - TRAILER);
    let rows = checked_rows(fields.len() * 4, k, layout)?;
    validate(fields)?;
    if layout == I2sLayout::X86 {
        return Ok(bytes.to_vec());
    }
    let mut out = vec![0; fields.len()];
    for row in 0..rows {
        for column in 0..k {
            let (from, from_shift) = layout.place(row, column, k);
            let (to, to_shift) = I2sLayout::X86.place(row, column, k);
            out[to] |= (fields[from] >> from_shift & 3) << to_shift;
        }
    }
    out.extend(rest);
    Ok(out)
}

/// The codes of a row that is alone in `fields`, or (`row4`) number `row` of the four in it, into `codes`.
///
/// Errors: an invalid code. Panics unless `fields` has the size of one row, or of four.
pub fn unpack_row(fields: &[u8], layout: I2sLayout, row: usize, codes: &mut [i8]) -> Result<(), InvalidCode> {
    let k = codes.len();
    assert_eq!(fields.len(), if layout == I2sLayout::Row4 { k } else { k / 4 }, "fields of {k} weights");
    for (column, code) in codes.iter_mut().enumerate() {
        let (byte, shift) = layout.place(row, column, k);
        *code = (fields[byte] >> shift & 3) as i8 - 1;
        if *code == 2 {
            return Err(InvalidCode { byte });
        }
    }
    Ok(())
}

/// Checks the 2-bit fields (without the trailer) of any layout: an error names the first byte with a 3.
pub fn validate(fields: &[u8]) -> Result<(), InvalidCode> {
    // A field is 3 where both its bits are set; pieces are tested at once, and only a bad one is searched.
    let has_3 = |word: u64| word & word >> 1 & 0x5555_5555_5555_5555;
    for (piece, chunk) in fields.chunks(4096).enumerate() {
        let (words, tail) = chunk.as_chunks::<8>();
        let bad = words.iter().fold(0, |bad, word| bad | has_3(u64::from_le_bytes(*word)))
            | tail.iter().fold(0, |bad, byte| bad | has_3((*byte).into()));
        if bad != 0 {
            let at = chunk.iter().position(|byte| has_3((*byte).into()) != 0);
            return Err(InvalidCode { byte: piece * 4096 + at.unwrap_or(0) });
        }
    }
    Ok(())
}

/// The 32 bytes after the last row: the scale and zeros.
pub fn trailer(scale: f32) -> [u8; TRAILER] {
    let mut bytes = [0; TRAILER];
    bytes[..4].copy_from_slice(&scale.to_le_bytes());
    bytes
}

/// The scale of a whole tensor (trailer included). Panics where `bytes` is shorter than the trailer.
pub fn scale(bytes: &[u8]) -> f32 {
    let at = bytes.len() - TRAILER;
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// One group of 128 in the x86 layout.
pub(super) fn pack_group(codes: &[i8; 128], out: &mut [u8; 32]) {
    *out = std::array::from_fn(|p| {
        (0..4).fold(0, |byte, n| byte | ((codes[p + 32 * n] + 1) as u8) << (6 - 2 * n))
    });
}

/// The codes of one x86 group; a field of 3 gives 2.
pub(crate) fn unpack_group(bytes: &[u8; 32]) -> [i8; 128] {
    std::array::from_fn(|e| (bytes[e % 32] >> (6 - e / 32 * 2) & 3) as i8 - 1)
}

fn checked_rows(weights: usize, k: usize, layout: I2sLayout) -> Result<usize, I2sError> {
    assert!(k > 0 && k.is_multiple_of(128) && weights.is_multiple_of(k), "{weights} weights in rows of {k}");
    let rows = weights / k;
    if layout == I2sLayout::Row4 && !rows.is_multiple_of(4) {
        return Err(I2sError::RowsNotInFours { rows });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::ternary::{pack_ternary, unpack_ternary};
    use proptest::prelude::*;

    #[test]
    fn layouts_have_the_names_of_the_option() {
        assert_eq!(I2sLayout::ALL.map(I2sLayout::name), ["x86", "arm", "row4"]);
    }

    proptest! {
        #[test]
        fn every_layout_converts_to_x86(seed: [i8; 64], rows in 1usize..3, groups in 1usize..3, scale: f32) {
            let (rows, k) = (rows * 4, groups * 128);
            let codes: Vec<i8> =
                (0..rows * k).map(|i| (seed[i % 64].wrapping_mul(i as i8 | 1) as i32).rem_euclid(3) as i8 - 1).collect();
            let x86 = i2s_pack(&codes, k, scale, I2sLayout::X86).unwrap();
            for layout in I2sLayout::ALL {
                let packed = i2s_pack(&codes, k, scale, layout).unwrap();
                prop_assert_eq!(packed.len() as u64, TensorType::I2S.tensor_bytes(&[k as u64, rows as u64]).unwrap());
                prop_assert_eq!(&i2s_to_x86(&packed, layout, k).unwrap(), &x86);
                let (group, mut row) = (if layout == I2sLayout::Row4 { 4 } else { 1 }, vec![0; k]);
                for (at, expected) in codes.chunks_exact(k).enumerate() {
                    let fields = &packed[at / group * group * k / 4..][..group * k / 4];
                    unpack_row(fields, layout, at % group, &mut row).unwrap();
                    prop_assert_eq!(&row, expected);
                }
            }
            prop_assert_eq!(super::scale(&x86).to_bits(), scale.to_bits());
            let (mut row_wise, mut back) = (Vec::new(), vec![0; codes.len()]);
            pack_ternary(TensorType::I2S, &codes, scale, &mut row_wise);
            prop_assert_eq!(&row_wise, &x86[..x86.len() - TRAILER]);
            unpack_ternary(TensorType::I2S, &row_wise, &mut back).unwrap();
            prop_assert_eq!(back, codes);
        }

        #[test]
        fn validate_names_the_first_bad_byte(len in 1usize..10_000, at: usize, field in 0usize..4) {
            let mut fields = vec![0x92; len];
            prop_assert_eq!(validate(&fields), Ok(()));
            let at = at % len;
            fields[at] |= 3 << (2 * field);
            prop_assert_eq!(validate(&fields), Err(InvalidCode { byte: at }));
        }
    }

    #[test]
    fn layouts_are_as_documented() {
        let mut codes = vec![0i8; 4 * 128];
        codes[33] = 1;
        codes[128 + 17] = -1;
        let zero = 0x55;
        let x86 = i2s_pack(&codes, 128, 1.0, I2sLayout::X86).unwrap();
        assert_eq!((x86[1], x86[32 + 17]), (zero + (1 << 4), zero - (1 << 6)));
        let arm = i2s_pack(&codes, 128, 1.0, I2sLayout::Arm).unwrap();
        assert_eq!((arm[1], arm[32 + 1]), (zero + (1 << 2), zero - (1 << 4)));
        let row4 = i2s_pack(&codes, 128, 1.0, I2sLayout::Row4).unwrap();
        assert_eq!((row4[33], row4[17]), (zero + (1 << 6), zero - (1 << 4)));
        assert_eq!(
            i2s_pack(&codes[..128], 128, 1.0, I2sLayout::Row4),
            Err(I2sError::RowsNotInFours { rows: 1 })
        );
    }

    #[test]
    fn two_codes_of_3_do_not_hide_each_other() {
        // The same field of two words, of two bytes behind the last word, and of a word and a byte behind it.
        for bad in [[0, 8], [16, 17], [0, 16]] {
            let mut fields = [0x55u8; 18];
            bad.iter().for_each(|at| fields[*at] = 0x57);
            assert_eq!(validate(&fields).unwrap_err().byte, bad[0]);
        }
        assert!(validate(&[0x55; 18]).is_ok());
    }
}
