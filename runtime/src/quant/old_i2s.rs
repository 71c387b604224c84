//! Two older forms of ternary weights that carry I2_S's type id: BitNet32-F16 and QK256.
//!
//! In: packed rows and a [`CodeMap`], which says what the four codes stand for: no file does, and readers disagreed.
//! Out: rows of I2_S or Q4_0 with the same weights exactly. Deliberately absent: writing them.
//!
//! BitNet32-F16: 32 weights in 8 bytes, four a byte, low bits first, then their f16 scale: 10 bytes. QK256: 256 weights
//! in 64 bytes, four a byte, low bits first; a scale is elsewhere, if there is one.

use super::blocks::{Block, BlockI2S, BlockQ4_0, F16, blocks};
use super::i2s::pack_group;
use crate::tensor::TensorType;

/// The two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldI2s {
    Block32,
    Qk256,
}

impl OldI2s {
    pub const fn name(self) -> &'static str {
        match self {
            OldI2s::Block32 => "BitNet32-F16",
            OldI2s::Qk256 => "QK256",
        }
    }

    /// (weights per block, bytes per block).
    pub const fn block(self) -> (usize, usize) {
        match self {
            OldI2s::Block32 => (32, 10),
            OldI2s::Qk256 => (256, 64),
        }
    }
}

/// What the codes 0 to 3 stand for, each from -8 to 7; `None` for a code that must not occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeMap([Option<i8>; 4]);

impl CodeMap {
    /// Four values with commas between them, `x` for a code that must not occur: `-1,0,1,x`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value = |part: &str| match part.trim() {
            "x" => Ok(None),
            number => match number.parse::<i8>() {
                Ok(value @ -8..=7) => Ok(Some(value)),
                _ => Err(format!("'{number}' is neither x nor a whole number from -8 to 7")),
            },
        };
        let values = text.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let count = values.len();
        values.try_into().map(CodeMap).map_err(|_| format!("{count} values, not four"))
    }

    /// Whether every code stands for -1, 0 or 1.
    pub fn is_ternary(&self) -> bool {
        self.0.iter().flatten().all(|value| (-1..=1).contains(value))
    }
}

/// Rows of `form` in a type that kernels multiply: I2_S with a tensor scale of 1 for ternary QK256, whose activations
/// are then those of a ternary layer; else Q4_0, which holds any code map with an f16 scale for 32 weights.
///
/// # Errors
/// The first byte with a code that must not occur. Panics unless `bytes` is a whole number of blocks.
pub fn convert(form: OldI2s, bytes: &[u8], map: &CodeMap) -> Result<(TensorType, Vec<u8>), usize> {
    match form {
        OldI2s::Qk256 if map.is_ternary() => {
            let mut out = Vec::with_capacity(bytes.len());
            for (i, block) in blocks::<[u8; 32]>(bytes).iter().enumerate() {
                let codes = values::<32, 128>(block, map).map_err(|byte| 32 * i + byte)?;
                let mut group = BlockI2S([0; 32]);
                pack_group(&codes, &mut group.0);
                out.extend(group.0);
            }
            Ok((TensorType::I2S, out))
        }
        OldI2s::Qk256 => q4_0::<[u8; 8]>(bytes, map, |block| (F16::new(1.0), *block)),
        OldI2s::Block32 => q4_0::<Packed32>(bytes, map, |block| (block.d, block.qs)),
    }
}

/// A block of BitNet32-F16.
#[derive(Clone, Copy)]
#[repr(C)]
struct Packed32 {
    qs: [u8; 8],
    d: F16,
}

const _: () = assert!(size_of::<Packed32>() == 10 && align_of::<Packed32>() == 1);
// SAFETY: `repr(C)` over bytes; the size above shows that nothing is padded.
unsafe impl Block for Packed32 {}

fn q4_0<B: Block>(
    bytes: &[u8],
    map: &CodeMap,
    parts: impl Fn(&B) -> (F16, [u8; 8]),
) -> Result<(TensorType, Vec<u8>), usize> {
    let mut out = Vec::with_capacity(bytes.len() / size_of::<B>() * size_of::<BlockQ4_0>());
    for (i, block) in blocks::<B>(bytes).iter().enumerate() {
        let (d, qs) = parts(block);
        let values = values::<8, 32>(&qs, map).map_err(|byte| i * size_of::<B>() + byte)?;
        let nibble = |e: usize| (values[e] + 8) as u8;
        out.extend(d.0);
        out.extend((0..16).map(|e| nibble(e) | nibble(e + 16) << 4));
    }
    Ok((TensorType::Q4_0, out))
}

/// The values of N bytes of codes in element order, or the byte with a code that stands for none.
fn values<const N: usize, const W: usize>(qs: &[u8; N], map: &CodeMap) -> Result<[i8; W], usize> {
    let mut values = [0; W];
    for (e, value) in values.iter_mut().enumerate() {
        *value = map.0[usize::from(qs[e / 4] >> (e % 4 * 2) & 3)].ok_or(e / 4)?;
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize_row;
    use proptest::prelude::*;

    #[test]
    fn forms_have_blocks_and_ternary_ones_become_i2_s() {
        assert_eq!([OldI2s::Block32.block(), OldI2s::Qk256.block()], [(32, 10), (256, 64)]);
        assert_eq!([OldI2s::Block32.name(), OldI2s::Qk256.name()], ["BitNet32-F16", "QK256"]);
        let ternary = CodeMap::parse("-1,0,1,x").unwrap();
        assert_eq!(convert(OldI2s::Qk256, &[0b01_01_01_01; 64], &ternary).unwrap().0, TensorType::I2S);
    }

    proptest! {
        #[test]
        fn every_form_keeps_its_weights(codes in proptest::collection::vec(0u8..4, 512), scale in 0.01f32..2.0) {
            let scale = F16::new(scale);
            let ternary = CodeMap::parse("-1,0,1,x").unwrap();
            for (map, values) in [(ternary, [-1, 0, 1, 1]), (CodeMap::parse("-2,-1,1,2").unwrap(), [-2, -1, 1, 2])] {
                let codes: Vec<u8> = codes.iter().map(|code| if map == ternary { code % 3 } else { *code }).collect();
                let packed: Vec<u8> = codes.chunks(4).map(|c| c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6).collect();
                let with_scales: Vec<u8> = packed.chunks(8).flat_map(|block| [block, &scale.0[..]].concat()).collect();
                for (form, bytes, d) in [(OldI2s::Qk256, &packed, 1.0), (OldI2s::Block32, &with_scales, scale.get())] {
                    let (ty, rows) = convert(form, bytes, &map).unwrap();
                    let mut weights = vec![0.0; 512];
                    dequantize_row(ty, &rows, 1.0, &mut weights).unwrap();
                    let expected: Vec<f32> = codes.iter().map(|c| values[usize::from(*c)] as f32 * d).collect();
                    prop_assert_eq!(weights, expected);
                }
            }
        }
    }

    #[test]
    fn codes_that_must_not_occur_are_named_by_byte() {
        let ternary = CodeMap::parse("-1, 0, 1, x").unwrap();
        let mut bytes = vec![0x55; 128];
        bytes[70] = 0x5d;
        assert_eq!(convert(OldI2s::Qk256, &bytes, &ternary), Err(70));
        let mut bytes = vec![0x55; 20];
        bytes[13] = 0xd5;
        assert_eq!(convert(OldI2s::Block32, &bytes, &ternary), Err(13));
    }

    #[test]
    fn maps_that_say_nothing_are_refused() {
        for (text, part) in
            [("-1,0,1", "3 values"), ("-1,0,1,9", "'9' is neither"), ("a,0,1,x", "'a' is neither")]
        {
            let error = CodeMap::parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
