//! The fixtures of `fixtures/quant`: what ggml and bitnet.cpp made of fixed rows (tests only).

use super::activation::{ActivationType, I8_TOKEN_HEADER, quantize_activation};
use super::tl::{self, TlConfig, TlTile};
use super::{dequantize_row, i2s, quantize_row};
use crate::tensor::TensorType;

pub(crate) const K: usize = 512;

fn index() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../fixtures/quant/quant.json")).unwrap()
}

/// The bytes of a part of the fixture, `None` where it has no such part.
pub(crate) fn part(name: &str) -> Option<&'static [u8]> {
    static BLOB: &[u8] = include_bytes!("../../../fixtures/quant/quant.bin");
    let index = index();
    assert_eq!(index["k"], K);
    let span = index["parts"].get(name)?;
    let number = |i: usize| span[i].as_u64().unwrap() as usize;
    Some(&BLOB[number(0)..number(0) + number(1)])
}

pub(crate) fn floats(name: &str) -> Vec<f32> {
    part(name).unwrap().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The name of an activation type in the fixture.
pub(crate) fn activation_name(ty: ActivationType) -> String {
    if ty == ActivationType::Q8K { "Q8_K".into() } else { format!("{ty:?}") }
}

fn inputs(ty: TensorType) -> Vec<f32> {
    floats(if ty.is_ternary() { "ternary" } else { "weights" })
}

#[test]
fn packed_rows_equal_the_references() {
    for ty in TensorType::with_rows() {
        let mut packed = Vec::new();
        inputs(ty).chunks_exact(K).for_each(|row| quantize_row(ty, row, &mut packed));
        if ty == TensorType::I2S {
            packed.extend(i2s::trailer(0.8125));
        }
        let golden = part(&format!("packed/{ty}")).unwrap();
        let differ = packed.iter().zip(golden).position(|(a, b)| a != b);
        assert_eq!((packed.len(), differ), (golden.len(), None), "{ty}");
    }
}

#[test]
fn decoded_rows_equal_the_references() {
    for ty in TensorType::with_rows().filter(|ty| *ty != TensorType::I2S) {
        let golden = floats(&format!("decoded/{ty}"));
        let mut decoded = vec![0.0; golden.len()];
        dequantize_row(ty, part(&format!("packed/{ty}")).unwrap(), 1.0, &mut decoded).unwrap();
        let differ = decoded.iter().zip(&golden).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(differ, None, "{ty}");
    }
}

#[test]
fn i2s_rows_decode_to_the_weights_they_came_from() {
    let (weights, packed) = (floats("ternary"), part("packed/I2_S").unwrap());
    let mut decoded = vec![0.0; weights.len()];
    let fields = &packed[..packed.len() - i2s::TRAILER];
    dequantize_row(TensorType::I2S, fields, i2s::scale(packed), &mut decoded).unwrap();
    assert_eq!(decoded, weights);
}

/// (type, tiles, whole tensor) as bitnet.cpp's converter wrote it of [`tiled_codes`].
fn tiled() -> Vec<(TensorType, TlTile, &'static [u8])> {
    let index = index();
    let names = index["parts"].as_object().unwrap().keys().filter_map(|name| name.strip_prefix("tiled/"));
    let tensor = |name: &str| {
        let (ty, spec) = name.split_once('/').unwrap();
        let ty = [TensorType::TL1, TensorType::TL2].into_iter().find(|known| known.name() == ty).unwrap();
        let [m, k] = spec.split(['x', ':']).take(2).map(|n| n.parse().unwrap()).collect::<Vec<_>>()[..]
        else {
            panic!("{spec} has a shape")
        };
        let tile = TlConfig::parse(spec).unwrap().find(ty, m, k).unwrap();
        (ty, tile, part(&format!("tiled/{name}")).unwrap())
    };
    names.map(tensor).collect()
}

/// The codes of the ternary rows, repeated; all tiled tensors were made of one such series.
fn tiled_codes() -> impl Iterator<Item = i8> {
    floats("ternary").into_iter().map(|v| if v == 0.0 { 0 } else { v.signum() as i8 }).cycle()
}

/// Activation rows as the references pack them; only the room in the header of an int8 row is ours.
pub(crate) fn activations(ty: ActivationType) -> Vec<u8> {
    let golden = part(&format!("activation/{}", activation_name(ty))).unwrap();
    if ty != ActivationType::I8Token {
        return golden.to_vec();
    }
    let rows = golden.chunks_exact(8 + K).map(|row| row.split_at(8));
    rows.flat_map(|(facts, quants)| [facts, &[0; I8_TOKEN_HEADER - 8], quants].concat()).collect()
}

#[test]
fn tiled_tensors_equal_the_reference() {
    let tensors = tiled();
    assert_eq!(tensors.len(), 4);
    let mut codes = tiled_codes();
    for (ty, tile, golden) in tensors {
        let codes: Vec<i8> = codes.by_ref().take(tile.m * tile.k).collect();
        let packed = tl::pack(ty, &codes, &tile, 0.8125).unwrap();
        let differ = packed.iter().zip(golden).position(|(a, b)| a != b);
        assert_eq!((packed.len(), differ), (golden.len(), None), "{ty} {tile:?}");
        assert_eq!(tl::unpack(ty, golden, &tile).unwrap(), codes, "{ty} {tile:?}");
    }
}

#[test]
fn packed_activations_equal_the_references() {
    for ty in ActivationType::ALL {
        let golden = activations(ty);
        let mut packed = vec![0; golden.len()];
        for (x, out) in floats("activations").chunks_exact(K).zip(packed.chunks_exact_mut(ty.row_bytes(K))) {
            quantize_activation(ty, x, out);
        }
        let differ = packed.iter().zip(&golden).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{ty:?}");
    }
}
