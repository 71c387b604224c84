//! Ternary weights in the form that GPU kernels read, whatever form they had in the file.
//!
//! A row of K weights (a multiple of 64) takes K / 4 bytes: 32-bit word w holds elements 16w to 16w + 15, the code
//! (weight + 1) of element 16w + 4c + b in byte b at shift 2c. So one mask leaves four codes that lie together, ready
//! for a product with four int8 activations. All weights of a matrix share one scale: types with a scale per
//! block can be packed where their scales are all the same. Deliberately absent: any other type.

use crate::model::Matrix;
use crate::quant::blocks::{BlockQ2_0, BlockTQ1_0, BlockTQ2_0, blocks};
use crate::quant::unpack_ternary;
use crate::tensor::TensorType;
use std::ops::Range;

/// The scale that every weight of `matrix` shares; `None` where it has several, is not ternary, or its rows are not whole
/// groups of 64.
pub fn uniform_scale(matrix: &Matrix) -> Option<f32> {
    if !matrix.columns.is_multiple_of(64) {
        return None;
    }
    match matrix.ty {
        TensorType::I2S => Some(matrix.tensor_scale),
        TensorType::TQ1_0 => the_same(blocks::<BlockTQ1_0>(matrix.bytes()).iter().map(|block| block.d.get())),
        TensorType::TQ2_0 => the_same(blocks::<BlockTQ2_0>(matrix.bytes()).iter().map(|block| block.d.get())),
        TensorType::Q2_0 => the_same(blocks::<BlockQ2_0>(matrix.bytes()).iter().map(|block| block.d.get())),
        _ => None,
    }
}

fn the_same(mut scales: impl Iterator<Item = f32>) -> Option<f32> {
    let first = scales.next()?;
    scales.all(|scale| scale.to_bits() == first.to_bits()).then_some(first)
}

/// Appends some rows of a ternary matrix to `out`. Panics on other types; codes were checked when the model was loaded.
pub fn pack(matrix: &Matrix, rows: Range<usize>, out: &mut Vec<u8>) {
    out.reserve(rows.len() * matrix.columns / 4);
    let bytes = matrix.bytes_of(rows);
    if matrix.ty == TensorType::I2S {
        for group in bytes.as_chunks::<32>().0 {
            out.extend(i2s_group(group).into_iter().flat_map(u32::to_le_bytes));
        }
        return;
    }
    let mut codes = vec![0i8; matrix.columns];
    for row in bytes.chunks_exact(matrix.row_bytes) {
        unpack_ternary(matrix.ty, row, &mut codes).expect("codes were checked when the model was loaded");
        out.extend(codes.as_chunks::<16>().0.iter().flat_map(|codes| word(codes).to_le_bytes()));
    }
}

/// Sixteen codes (-1, 0, 1) in a word.
pub(crate) fn word(codes: &[i8; 16]) -> u32 {
    let field = |e: usize| ((codes[e] + 1) as u32) << (8 * (e % 4) + 2 * (e / 4));
    (0..16).map(field).sum()
}

/// The eight words of a group of 128: byte p of I2_S has elements p, p + 32, p + 64, p + 96 from the high bits down, so
/// the elements of one word lie at one shift of sixteen neighbouring bytes.
fn i2s_group(bytes: &[u8; 32]) -> [u32; 8] {
    let source = bytes.as_chunks::<4>().0;
    std::array::from_fn(|w| {
        let shift = 6 - 2 * (w / 2);
        (0..4).fold(0, |word, c| {
            let four = u32::from_le_bytes(source[4 * (w % 2) + c]);
            word | (four >> shift & 0x0303_0303) << (2 * c)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{I2sLayout, i2s_pack, pack_ternary};
    use proptest::prelude::*;

    fn scaled(ty: TensorType, rows: usize, k: usize, bytes: Vec<u8>) -> Matrix {
        let mut matrix = Matrix::of_bytes("m", ty, rows, k, bytes);
        matrix.tensor_scale = 0.5;
        matrix
    }

    /// Element `k` of a packed row.
    fn code(row: &[u8], k: usize) -> i8 {
        (row[k / 16 * 4 + k % 4] >> (2 * (k % 16 / 4)) & 3) as i8 - 1
    }

    proptest! {
        #[test]
        fn every_ternary_type_packs_to_the_same_rows(seed: [i8; 64], rows in 1usize..4, blocks in 1usize..3) {
            let k = 256 * blocks;
            let codes: Vec<i8> = (0..rows * k)
                .map(|i| (seed[i % 64].wrapping_mul(i as i8 | 1) as i32).rem_euclid(3) as i8 - 1)
                .collect();
            for ty in [TensorType::I2S, TensorType::TQ1_0, TensorType::TQ2_0, TensorType::Q2_0] {
                let mut bytes = Vec::new();
                if ty == TensorType::I2S {
                    bytes = i2s_pack(&codes, k, 0.5, I2sLayout::X86).unwrap();
                    bytes.truncate(rows * k / 4);
                } else {
                    codes.chunks_exact(k).for_each(|row| pack_ternary(ty, row, 0.5, &mut bytes));
                }
                let matrix = scaled(ty, rows, k, bytes);
                prop_assert_eq!(uniform_scale(&matrix), Some(0.5));
                let mut packed = Vec::new();
                pack(&matrix, 0..rows, &mut packed);
                prop_assert_eq!(packed.len(), rows * k / 4);
                let back: Vec<i8> = (0..rows * k).map(|i| code(&packed[i / k * k / 4..], i % k)).collect();
                prop_assert_eq!(&back, &codes);
                let mut last = Vec::new();
                pack(&matrix, rows - 1..rows, &mut last);
                prop_assert_eq!(&last, &packed[(rows - 1) * k / 4..], "rows pack alone as together");
            }
        }
    }

    #[test]
    fn the_layout_is_as_documented() {
        let mut codes = [0i8; 16];
        codes[9] = 1; // c = 2, b = 1
        assert_eq!(word(&codes), 0x5555_5555 + (1 << (8 + 4)));
    }

    #[test]
    fn several_scales_are_not_one() {
        let mut bytes = Vec::new();
        for scale in [0.5, 0.25] {
            pack_ternary(TensorType::TQ2_0, &[1; 256], scale, &mut bytes);
        }
        assert_eq!(uniform_scale(&Matrix::of_bytes("m", TensorType::TQ2_0, 2, 256, bytes)), None);
        let floats = Matrix::of_bytes("m", TensorType::F32, 1, 64, vec![0; 256]);
        assert_eq!(uniform_scale(&floats), None);
    }
}
