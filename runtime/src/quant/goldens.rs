//! The fixtures of `fixtures/quant`: what ggml and bitnet.cpp made of fixed rows (tests only).

use super::activation::{ActivationType, quantize_activation};
use super::{dequantize_row, i2s, quantize_row};
use crate::tensor::TensorType;

pub(crate) const K: usize = 512;

/// The bytes of a part of the fixture, `None` where it has no such part.
pub(crate) fn part(name: &str) -> Option<&'static [u8]> {
    static BLOB: &[u8] = include_bytes!("../../../fixtures/quant/quant.bin");
    let index: serde_json::Value =
        serde_json::from_str(include_str!("../../../fixtures/quant/quant.json")).unwrap();
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
    for ty in TensorType::ALL {
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
    for ty in TensorType::ALL.into_iter().filter(|ty| *ty != TensorType::I2S) {
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

#[test]
fn packed_activations_equal_the_references() {
    for ty in ActivationType::ALL {
        let golden = part(&format!("activation/{}", activation_name(ty))).unwrap();
        let mut packed = vec![0; golden.len()];
        for (x, out) in floats("activations").chunks_exact(K).zip(packed.chunks_exact_mut(ty.row_bytes(K))) {
            quantize_activation(ty, x, out);
        }
        let differ = packed.iter().zip(golden).position(|(a, b)| a != b);
        assert_eq!(differ, None, "{ty:?}");
    }
}
