//! Packed weights: layouts, tiles and blocks, there and back.

use crate::input::Input;
use bitnet_runtime::quant::i2s::{self, I2sLayout};
use bitnet_runtime::quant::tl::{self, TlConfig, TlTile};
use bitnet_runtime::quant::{
    dequantize_row, i2s_pack, i2s_to_x86, pack_ternary, quantize_row, unpack_ternary,
};
use bitnet_runtime::tensor::TensorType;
use half::f16;

/// A layout, sizes, and the bytes of a tensor.
pub fn i2s(data: &[u8]) {
    let mut input = Input(data);
    let layout = I2sLayout::ALL[usize::from(input.byte()) % 3];
    let (rows, k) = (1 + input.below(12), 128 * (1 + input.below(4)));
    let scale = input.f32();
    let mut fields = vec![0u8; rows * k / 4];
    fields.iter_mut().zip(input.rest()).for_each(|(field, byte)| *field = *byte);
    let whole = [fields.as_slice(), &i2s::trailer(scale)].concat();
    assert_eq!(i2s::scale(&whole).to_bits(), scale.to_bits());
    let bad = fields.iter().position(|byte| byte & byte >> 1 & 0x55 != 0);
    assert_eq!(i2s::validate(&fields).err().map(|error| error.byte), bad, "the first code 3");
    let Ok(x86) = i2s_to_x86(&whole, layout, k) else {
        return assert!(bad.is_some() || layout == I2sLayout::Row4 && rows % 4 != 0);
    };
    assert!(bad.is_none());
    let (group, mut codes, mut row) =
        (if layout == I2sLayout::Row4 { 4 } else { 1 }, Vec::new(), vec![0i8; k]);
    for at in 0..rows {
        let from = &fields[at / group * group * k / 4..][..group * k / 4];
        i2s::unpack_row(from, layout, at % group, &mut row).expect("no code 3");
        codes.extend_from_slice(&row);
    }
    assert_eq!(i2s_pack(&codes, k, scale, layout).expect("it was that layout"), whole);
    let mut back = vec![0i8; codes.len()];
    unpack_ternary(TensorType::I2S, &x86[..x86.len() - i2s::TRAILER], &mut back).expect("no code 3");
    assert_eq!(back, codes);
    let mut weights = vec![0.0; codes.len()];
    dequantize_row(TensorType::I2S, &x86[..x86.len() - i2s::TRAILER], 0.5, &mut weights).expect("no code 3");
    assert!(weights.iter().zip(&codes).all(|(weight, code)| *weight == f32::from(*code) * 0.5));
}

pub fn tl1(data: &[u8]) {
    tiled(TensorType::TL1, data);
}

pub fn tl2(data: &[u8]) {
    tiled(TensorType::TL2, data);
}

/// A text of tile sizes, or tile sizes and the bytes of a tensor.
fn tiled(ty: TensorType, data: &[u8]) {
    let mut input = Input(data);
    if input.byte() & 1 != 0 {
        let text = String::from_utf8_lossy(input.rest()).into_owned();
        if let Ok(config) = TlConfig::parse(&text) {
            let again = TlConfig::parse(&config.to_string());
            assert_eq!(again.as_ref(), Ok(&config), "{text:?}");
        }
        return;
    }
    // Multiples of what tiles are made of, and sometimes not.
    let size = |input: &mut Input<'_>, unit: usize, most: usize| {
        let byte = input.byte();
        if byte & 128 == 0 { unit * (1 + usize::from(byte) % most) } else { usize::from(byte) + 1 }
    };
    let tile = TlTile {
        m: size(&mut input, 32, 8),
        k: size(&mut input, 32, 24),
        bm: size(&mut input, 32, 8),
        bk: size(&mut input, if ty == TensorType::TL1 { 4 } else { 24 }, 24),
        bmm: size(&mut input, 32, 2),
    };
    if tile.check(ty).is_err() {
        return;
    }
    let len = ty.tensor_bytes(&[tile.k as u64, tile.m as u64]).expect("tiles that fit have a size") as usize;
    let given = input.rest();
    let mut bytes = vec![0x44u8; len];
    bytes.iter_mut().zip(given).for_each(|(byte, new)| *byte = *new);
    if let Ok(codes) = tl::unpack(ty, &bytes, &tile) {
        there_and_back(ty, &codes, &tile);
    }
    let mut codes: Vec<i8> = given.iter().map(|byte| (byte % 3) as i8 - 1).collect();
    codes.resize(tile.m * tile.k, 0);
    there_and_back(ty, &codes, &tile);
}

fn there_and_back(ty: TensorType, codes: &[i8], tile: &TlTile) {
    assert!(codes.iter().all(|code| (-1..=1).contains(code)));
    let packed = tl::pack(ty, codes, tile, 0.25).expect("the tiles fit");
    assert_eq!(i2s::scale(&packed), 0.25);
    assert_eq!(tl::unpack(ty, &packed, tile).expect("what was packed"), codes, "{tile:?}");
}

pub fn tq(data: &[u8]) {
    let mut input = Input(data);
    let ty = [TensorType::TQ1_0, TensorType::TQ2_0, TensorType::Q2_0][usize::from(input.byte()) % 3];
    let (bytes, mut codes, mut weights) = blocks(ty, &mut input, 8);
    let unpacked = unpack_ternary(ty, &bytes, &mut codes);
    dequantize_row(ty, &bytes, 1.0, &mut weights).expect("only I2_S refuses codes");
    let per_block = ty.block().0;
    let scale_at = if ty == TensorType::Q2_0 { 0 } else { ty.block().1 - 2 };
    let scale = |block: usize| {
        f16::from_le_bytes([
            bytes[block * ty.block().1 + scale_at],
            bytes[block * ty.block().1 + scale_at + 1],
        ])
    };
    if unpacked.is_ok() {
        for (at, (weight, code)) in weights.iter().zip(&codes).enumerate() {
            let expected = scale(at / per_block).to_f32() * f32::from(*code);
            assert!(
                *weight == expected || weight.is_nan() && expected.is_nan(),
                "{ty} {at}: {weight} {expected}"
            );
        }
        let (mut packed, mut back) = (Vec::new(), vec![0i8; codes.len()]);
        pack_ternary(ty, &codes, 0.5, &mut packed);
        unpack_ternary(ty, &packed, &mut back).expect("what was packed");
        assert_eq!(back, codes);
    }
}

/// Whole blocks out of the input, with memory for their codes and weights.
fn blocks(ty: TensorType, input: &mut Input<'_>, most: usize) -> (Vec<u8>, Vec<i8>, Vec<f32>) {
    let (weights, bytes) = ty.block();
    let count = 1 + input.below(most);
    let mut packed = vec![0u8; count * bytes];
    packed.iter_mut().zip(input.bytes(count * bytes)).for_each(|(byte, new)| *byte = *new);
    (packed, vec![0; count * weights], vec![0.0; count * weights])
}

const TYPES: [TensorType; 13] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q2K,
    TensorType::Q3K,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

pub fn q(data: &[u8]) {
    let mut input = Input(data);
    let ty = TYPES[usize::from(input.byte()) % TYPES.len()];
    let (bytes, _, mut weights) = blocks(ty, &mut input, 4);
    dequantize_row(ty, &bytes, 1.0, &mut weights).expect("any bytes are weights");
    naive(ty, &bytes, &weights);
    // Rows of sane numbers come back near what they were.
    let unit = 2f32.powi(i32::from(input.byte() % 16) - 8);
    let row: Vec<f32> = weights.iter().map(|_| input.weight() * unit).collect();
    let (mut packed, mut back) = (Vec::new(), vec![0.0; row.len()]);
    quantize_row(ty, &row, &mut packed);
    assert_eq!(Some(packed.len() as u64), ty.row_bytes(row.len() as u64));
    dequantize_row(ty, &packed, 1.0, &mut back).expect("what was packed");
    let largest = row.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let bound = error_bound(ty) * largest + f32::MIN_POSITIVE;
    for (v, back) in row.iter().zip(&back) {
        assert!((v - back).abs() <= bound, "{ty}: {v} came back as {back}, of at most {largest}");
    }
}

/// The largest error as a part of the largest magnitude: about a step for simple types, more for those that search for
/// the least weighted error; and what scales in f16 lose near 2^-14.
fn error_bound(ty: TensorType) -> f32 {
    match ty {
        TensorType::F32 => 0.0,
        TensorType::F16 => 1.0 / 1024.0,
        TensorType::BF16 => 1.0 / 256.0,
        TensorType::Q8_0 => 1.0 / 100.0,
        TensorType::Q4_0 | TensorType::Q4_1 => 1.0 / 6.0,
        TensorType::Q5_0 | TensorType::Q5_1 => 1.0 / 12.0,
        TensorType::Q2K => 1.2,
        TensorType::Q3K => 0.6,
        _ => 0.3,
    }
}

/// Decodes the simplest types the slow way.
fn naive(ty: TensorType, bytes: &[u8], weights: &[f32]) {
    let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    for (at, weight) in weights.iter().enumerate() {
        let expected = match ty {
            TensorType::F32 => f32::from_le_bytes([0, 1, 2, 3].map(|n| bytes[4 * at + n])),
            TensorType::F16 => half(2 * at),
            TensorType::BF16 => {
                f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])) << 16)
            }
            TensorType::Q8_0 => {
                let block = at / 32 * 34;
                f32::from(bytes[block + 2 + at % 32] as i8) * half(block)
            }
            TensorType::Q4_0 => {
                let (block, e) = (at / 32 * 18, at % 32);
                let nibble = bytes[block + 2 + e % 16] >> (e / 16 * 4) & 15;
                (f32::from(nibble) - 8.0) * half(block)
            }
            _ => return,
        };
        assert!(
            *weight == expected || weight.is_nan() && expected.is_nan(),
            "{ty} {at}: {weight} {expected}"
        );
    }
}
