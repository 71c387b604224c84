//! Repacking of ternary rows: any ternary type becomes codes 0, 1, 2 of a group, and those become trits or fields.

use super::{CannotHold, ROWS};
use crate::quant::blocks::{BlockI2S, BlockQ2_0, BlockTQ1_0, BlockTQ2_0, F16, blocks};
use crate::tensor::TensorType;

/// Groups that a prefill kernel unpacks together: 64 rows of codes fit a second-level cache.
pub(crate) const PANEL_GROUPS: usize = 4;

/// The one scale of a row, which is that of all its blocks but those of scale 0; 0 where all are.
pub(super) fn row_scale(ty: TensorType, row: &[u8], tensor_scale: f32) -> Result<f32, CannotHold> {
    match ty {
        TensorType::TQ1_0 => one_scale(blocks::<BlockTQ1_0>(row).iter().map(|block| block.d)),
        TensorType::TQ2_0 => one_scale(blocks::<BlockTQ2_0>(row).iter().map(|block| block.d)),
        // Two factors are one only where one of them is 1.
        TensorType::Q2_0 => match one_scale(blocks::<BlockQ2_0>(row).iter().map(|block| block.d))? {
            1.0 => Ok(tensor_scale),
            scale if tensor_scale == 1.0 => Ok(scale),
            _ => Err(CannotHold),
        },
        _ => Ok(tensor_scale),
    }
}

fn one_scale(mut scales: impl Iterator<Item = F16>) -> Result<f32, CannotHold> {
    let Some(first) = scales.find(|scale| !scale.is_zero()) else { return Ok(0.0) };
    if scales.all(|scale| scale == first || scale.is_zero()) { Ok(first.get()) } else { Err(CannotHold) }
}

/// Codes by columns become bytes of `FIELDS` columns 4 apart: trits (5) or fields of two bits (4). Four columns are one
/// 32-bit word here, and no byte of it overflows: 2 * (1 + 3 + 9 + 27 + 81) = 242.
pub(super) fn pack<const FIELDS: usize>(
    ty: TensorType,
    rows: &[u8],
    row_bytes: usize,
    codes: &mut [u8],
    group: &mut [u8],
) -> Result<(), CannotHold> {
    let columns = codes.len() / ROWS;
    assert_eq!(codes.len(), group.len() * FIELDS);
    let base = if FIELDS == 5 { 3u32 } else { 4 };
    let mut row_codes = codes.chunks_exact_mut(columns);
    for (row, codes) in rows.chunks_exact(row_bytes).zip(&mut row_codes) {
        unpack(ty, row, codes);
    }
    row_codes.for_each(|codes| codes.fill(0));
    if codes.iter().fold(0, |all, code| all | (code & code >> 1)) & 1 != 0 {
        return Err(CannotHold);
    }
    for (r, codes) in codes.chunks_exact(columns).enumerate() {
        let steps = codes.chunks_exact(4 * FIELDS);
        for (step, out) in steps.zip(group.as_chunks_mut::<64>().0) {
            let words = step.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
            let packed = words.rev().fold(0, |packed, word| packed * base + word);
            out[4 * r..4 * r + 4].copy_from_slice(&packed.to_le_bytes());
        }
    }
    Ok(())
}

/// The codes of one row; columns after its last weight are 0. A block of scale 0 stands for zeros, whatever its codes.
fn unpack(ty: TensorType, row: &[u8], codes: &mut [u8]) {
    let used = match ty {
        TensorType::TQ1_0 => {
            blocks::<BlockTQ1_0>(row)
                .iter()
                .zip(codes.as_chunks_mut::<256>().0)
                .map(|(block, codes)| tq1_codes(block, codes))
                .count()
                * 256
        }
        TensorType::TQ2_0 => {
            blocks::<BlockTQ2_0>(row)
                .iter()
                .zip(codes.as_chunks_mut::<256>().0)
                .map(|(block, codes)| tq2_codes(block, codes))
                .count()
                * 256
        }
        TensorType::I2S => {
            blocks::<BlockI2S>(row)
                .iter()
                .zip(codes.as_chunks_mut::<128>().0)
                .map(|(block, codes)| fields(&block.0, [6, 4, 2, 0], codes))
                .count()
                * 128
        }
        TensorType::Q2_0 => {
            blocks::<BlockQ2_0>(row)
                .iter()
                .zip(codes.as_chunks_mut::<64>().0)
                .map(|(block, codes)| q2_codes(block, codes))
                .count()
                * 64
        }
        other => panic!("{other} is not ternary in rows"),
    };
    codes[used..].fill(0);
}

fn tq2_codes(block: &BlockTQ2_0, codes: &mut [u8; 256]) {
    if block.d.is_zero() {
        return codes.fill(1);
    }
    for (qs, codes) in block.qs.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        fields(qs, [0, 2, 4, 6], codes);
    }
}

fn q2_codes(block: &BlockQ2_0, codes: &mut [u8; 64]) {
    if block.d.is_zero() {
        return codes.fill(1);
    }
    for (byte, codes) in block.qs.iter().zip(codes.as_chunks_mut::<4>().0) {
        *codes = [0, 2, 4, 6].map(|shift| byte >> shift & 3);
    }
}

/// Trits of a byte, first one first: the integer part of 3 q / 256, then the fraction brings up the next.
fn tq1_codes(block: &BlockTQ1_0, codes: &mut [u8; 256]) {
    if block.d.is_zero() {
        return codes.fill(1);
    }
    let (wide, rest) = codes.split_at_mut(160);
    let (narrow, last) = rest.split_at_mut(80);
    trits(&block.qs[..32], wide);
    trits(&block.qs[32..], narrow);
    trits(&block.qh, last);
}

/// `codes` has as many runs of `bytes.len()` as it has trits of each byte.
fn trits(bytes: &[u8], codes: &mut [u8]) {
    let mut power = 1u8;
    for run in codes.chunks_exact_mut(bytes.len()) {
        for (code, byte) in run.iter_mut().zip(bytes) {
            *code = ((u16::from(byte.wrapping_mul(power)) * 3) >> 8) as u8;
        }
        power = power.wrapping_mul(3);
    }
}

/// 128 two-bit fields of 32 bytes; run n of 32 lies at bit `shifts[n]`.
fn fields(bytes: &[u8; 32], shifts: [u32; 4], codes: &mut [u8; 128]) {
    for (run, shift) in codes.as_chunks_mut::<32>().0.iter_mut().zip(shifts) {
        for (code, byte) in run.iter_mut().zip(bytes) {
            *code = byte >> shift & 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layout;
    use super::*;
    use crate::quant::pack_ternary;
    use proptest::prelude::*;

    /// The code of (row, column) in a group, from the drawing of the layout.
    fn code(layout: Layout, group: &[u8], row: usize, column: usize) -> u8 {
        let (per_step, digits) = if layout == Layout::Trits { (20, 3) } else { (16, 4) };
        let byte = group[column / per_step * 64 + 4 * row + column % 4];
        (u32::from(byte) / u32::pow(digits, (column % per_step / 4) as u32) % digits) as u8
    }

    fn packed(layout: Layout, ty: TensorType, rows: &[u8], k: usize) -> Result<Vec<u8>, CannotHold> {
        let mut group = vec![0xff; layout.group_bytes(k)];
        let mut codes = vec![0xff; layout.codes_bytes(k)];
        let row_bytes = ty.row_bytes(k as u64).unwrap() as usize;
        layout.pack(ty, rows, row_bytes, &mut codes, &mut group).map(|()| group)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn every_type_becomes_the_same_group(
            codes in proptest::collection::vec(-1i8..=1, 256..=1024),
            rows in 1usize..=16,
        ) {
            let k = codes.len() / rows / 256 * 256;
            prop_assume!(k > 0);
            let codes: Vec<&[i8]> = codes.chunks_exact(k).take(rows).collect();
            for layout in [Layout::Trits, Layout::Codes] {
                for ty in [TensorType::I2S, TensorType::TQ1_0, TensorType::TQ2_0, TensorType::Q2_0] {
                    let mut bytes = Vec::new();
                    codes.iter().for_each(|row| pack_ternary(ty, row, 0.5, &mut bytes));
                    let group = packed(layout, ty, &bytes, k).unwrap();
                    for (r, row) in codes.iter().enumerate() {
                        for (c, value) in row.iter().enumerate() {
                            prop_assert_eq!(code(layout, &group, r, c) as i8 - 1, *value, "{:?} {} {} {}", layout, ty, r, c);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn scales_of_rows_are_those_of_their_blocks() {
        let scale = |ty, of_blocks, of_tensor| {
            let mut row = Vec::new();
            pack_ternary(ty, &[1; 512], of_blocks, &mut row);
            Layout::Trits.row_scale(ty, &row, of_tensor)
        };
        assert_eq!(scale(TensorType::TQ1_0, 0.5, 1.0), Ok(0.5));
        assert_eq!(scale(TensorType::Q2_0, 0.5, 1.0), Ok(0.5));
        assert_eq!(scale(TensorType::Q2_0, 1.0, 0.25), Ok(0.25));
        assert_eq!(scale(TensorType::Q2_0, 0.5, 0.25), Err(CannotHold), "two factors");
    }

    #[test]
    fn what_a_layout_cannot_hold_is_refused() {
        let mut row = Vec::new();
        pack_ternary(TensorType::TQ2_0, &[1; 512], 0.5, &mut row);
        let scale = |row: &[u8]| Layout::Trits.row_scale(TensorType::TQ2_0, row, 1.0);
        assert_eq!(scale(&row), Ok(0.5));
        row[64..66].fill(0);
        assert_eq!(scale(&row), Ok(0.5), "a block of scale 0 stands for zeros");
        let group = packed(Layout::Trits, TensorType::TQ2_0, &row, 512).unwrap();
        assert_eq!([255, 256].map(|c| code(Layout::Trits, &group, 0, c)), [1, 2]);
        row[64..66].copy_from_slice(&[1, 2]);
        assert_eq!(scale(&row), Err(CannotHold));
        row[3] |= 3;
        assert_eq!(packed(Layout::Trits, TensorType::TQ2_0, &row, 512), Err(CannotHold));
        row[64..66].fill(0);
        row[130..132].fill(0);
        assert_eq!(scale(&row), Ok(0.0));
    }
}
