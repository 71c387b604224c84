//! One runner for the kernels of every level: against the scalar definition and against the references.

use super::{QUANTIZE_ACTIVATION, all};
use crate::kernels::registry::MATMUL;
use crate::kernels::{MatmulKernel, SimdLevel, Tile};
use crate::quant::activation::{ActivationType, I8_TOKEN_HEADER, quantize_activation};
use crate::quant::goldens::{K, activation_name, floats, part};
use crate::quant::{i2s, quantize_row};
use crate::tensor::TensorType;
use proptest::prelude::*;

/// Every kernel this CPU can run.
fn kernels() -> impl Iterator<Item = &'static MatmulKernel> {
    MATMUL.iter().copied().flatten().filter(|kernel| kernel.level.is_available())
}

/// Weight rows and activation rows of a product.
#[derive(Debug)]
struct Case {
    k: usize,
    weights: Vec<u8>,
    activations: Vec<u8>,
    tensor_scale: f32,
}

impl Case {
    /// [rows, activations], row-major.
    fn run(&self, kernel: &MatmulKernel) -> Vec<f32> {
        let row_bytes = kernel.weight.row_bytes(self.k as u64).unwrap() as usize;
        let activation_bytes = kernel.activation.row_bytes(self.k);
        let pairs = (self.weights.len() / row_bytes) * (self.activations.len() / activation_bytes);
        let mut out = vec![f32::NAN; pairs];
        let mut tile = Tile {
            done: 0,
            k: self.k,
            weights: &self.weights,
            row_bytes,
            activations: &self.activations,
            activation_bytes,
            tensor_scale: self.tensor_scale,
            out: &mut out,
        };
        assert!(kernel.level.is_available());
        // SAFETY: the CPU has the level, as was just checked.
        unsafe { (kernel.run)(&mut tile) };
        out
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_level_has_the_same_pairs() {
    let pairs =
        |kernels: &[MatmulKernel]| kernels.iter().map(|k| (k.weight, k.activation)).collect::<Vec<_>>();
    for kernels in MATMUL {
        assert_eq!(pairs(kernels), pairs(all::MATMUL));
        assert!(kernels.iter().all(|kernel| kernel.id.ends_with(kernel.level.name())));
    }
}

/// Equal bits: ggml's own AVX2 kernels define the order of float operations that ours follow.
#[test]
fn dot_products_equal_the_references() {
    let mut compared = 0;
    for kernel in kernels() {
        let activation = activation_name(kernel.activation);
        let Some(golden) = part(&format!("dot/{}.{activation}", kernel.weight)) else { continue };
        let mut weights = part(&format!("packed/{}", kernel.weight)).unwrap().to_vec();
        let mut tensor_scale = 1.0;
        if kernel.weight == TensorType::I2S {
            tensor_scale = i2s::scale(&weights);
            weights.truncate(weights.len() - i2s::TRAILER);
        }
        let activations = part(&format!("activation/{activation}")).unwrap().to_vec();
        let out = Case { k: K, weights, activations, tensor_scale }.run(kernel);
        let golden: Vec<f32> = golden.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(bits(&out), bits(&golden), "{}: {out:?} {golden:?}", kernel.id);
        compared += 1;
    }
    let levels = SimdLevel::ALL.into_iter().filter(|level| level.is_available()).count();
    assert_eq!(compared, 17 * levels, "the fixture has seventeen products, for every level");
}

#[test]
fn tq1_0_equals_tq2_0_equals_i2_s() {
    let weights = floats("ternary");
    for activation in [ActivationType::Q8K, ActivationType::I8Token] {
        let activations = part(&format!("activation/{}", activation_name(activation))).unwrap().to_vec();
        for level in SimdLevel::ALL.into_iter().filter(|level| level.is_available()) {
            let results: Vec<Vec<f32>> = [TensorType::TQ1_0, TensorType::TQ2_0, TensorType::I2S]
                .map(|ty| {
                    let mut packed = Vec::new();
                    // The last block of the last row is zero, which only per-block scales can tell.
                    weights[..2 * K].chunks_exact(K).for_each(|row| quantize_row(ty, row, &mut packed));
                    let case = Case {
                        k: K,
                        weights: packed,
                        activations: activations.clone(),
                        tensor_scale: 0.8125,
                    };
                    let find =
                        |k: &&MatmulKernel| (k.weight, k.activation, k.level) == (ty, activation, level);
                    case.run(kernels().find(find).unwrap())
                })
                .to_vec();
            assert_eq!(bits(&results[0]), bits(&results[1]));
            if activation == ActivationType::Q8K {
                assert_eq!(bits(&results[0]), bits(&results[2]));
            } else {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
                assert!(results[0].iter().zip(&results[2]).all(near), "{results:?}");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Roughly normal values.
    Normal,
    /// Values near the largest magnitude only.
    Extreme,
    /// Packed bytes of any value, with sane scales.
    AnyBytes,
}

/// Random rows; `k` is a whole number of blocks of both types.
fn random_case(kernel: &MatmulKernel, k: usize, rows: usize, count: usize, fill: Fill, seed: u64) -> Case {
    let mut state = seed | 1;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut row = |sign_only: bool| -> Vec<f32> {
        let unit = |bits: u32| bits as f32 / (1u32 << 30) as f32 - 1.0;
        (0..k).map(|_| if sign_only { unit(next()).signum() } else { unit(next()) + unit(next()) }).collect()
    };
    let sign_only = matches!(fill, Fill::Extreme);
    let mut weights = Vec::new();
    (0..rows).for_each(|_| quantize_row(kernel.weight, &row(sign_only), &mut weights));
    let bytes = kernel.activation.row_bytes(k);
    let mut activations = vec![0; count * bytes];
    activations
        .chunks_exact_mut(bytes)
        .for_each(|out| quantize_activation(kernel.activation, &row(sign_only), out));
    if matches!(fill, Fill::AnyBytes) {
        scramble(kernel, &mut weights, &mut activations, bytes, &mut || next_byte(&mut row));
    }
    Case { k, weights, activations, tensor_scale: 0.37 }
}

fn next_byte(row: &mut impl FnMut(bool) -> Vec<f32>) -> Vec<u8> {
    row(false).iter().map(|v| v.to_bits() as u8).collect()
}

/// Replaces quants of weights by any bytes (scales stay), and quants of a token by any i8.
fn scramble(
    kernel: &MatmulKernel,
    weights: &mut [u8],
    activations: &mut [u8],
    activation_bytes: usize,
    bytes: &mut dyn FnMut() -> Vec<u8>,
) {
    let quants = match kernel.weight {
        TensorType::Q4_0 | TensorType::Q8_0 | TensorType::Q5_0 | TensorType::Q2_0 => {
            2..kernel.weight.block().1
        }
        TensorType::Q4_1 | TensorType::Q5_1 => 4..kernel.weight.block().1,
        TensorType::Q2K => 0..80,
        TensorType::Q3K => 0..108,
        TensorType::Q4K | TensorType::Q5K => 4..kernel.weight.block().1,
        TensorType::Q6K => 0..208,
        TensorType::TQ1_0 => 0..52,
        TensorType::TQ2_0 => 0..64,
        TensorType::I2S => 0..32,
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => 0..0,
        TensorType::TL1 | TensorType::TL2 => unreachable!("tiled types have no kernels"),
    };
    for block in weights.chunks_exact_mut(kernel.weight.block().1) {
        block[quants.clone()].iter_mut().zip(bytes().into_iter().cycle()).for_each(|(q, byte)| *q = byte);
    }
    if kernel.activation == ActivationType::I8Token {
        for row in activations.chunks_exact_mut(activation_bytes) {
            let (header, quants) = row.split_at_mut(I8_TOKEN_HEADER);
            quants.iter_mut().zip(bytes()).for_each(|(q, byte)| *q = if byte < 64 { 0x80 } else { byte });
            let sum: i32 = quants.iter().map(|q| i32::from(*q as i8)).sum();
            header[4..].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// A row length of about `blocks` blocks of both types; types with blocks of one get any length.
fn length(kernel: &MatmulKernel, blocks: usize, tail: usize) -> usize {
    let block = kernel.weight.block().0.max(kernel.activation.block_len());
    if block == 1 { blocks * 32 + tail } else { blocks * block }
}

fn scalar_of(kernel: &MatmulKernel) -> &'static MatmulKernel {
    all::MATMUL.iter().find(|s| (s.weight, s.activation) == (kernel.weight, kernel.activation)).unwrap()
}

fn check_against_scalar(blocks: usize, tail: usize, rows: usize, count: usize, fill: Fill, seed: u64) {
    for kernel in kernels().filter(|kernel| kernel.level != SimdLevel::Scalar) {
        let case = random_case(kernel, length(kernel, blocks, tail), rows, count, fill, seed);
        let (out, expected) = (case.run(kernel), case.run(scalar_of(kernel)));
        assert_eq!(bits(&out), bits(&expected), "{} k={} {rows}x{count} {fill:?}", kernel.id, case.k);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_level_equals_scalar(
        (blocks, tail, rows, count) in (1usize..6, 0usize..32, 1usize..7, 1usize..10),
        fill in prop_oneof![Just(Fill::Normal), Just(Fill::Extreme), Just(Fill::AnyBytes)],
        seed: u64,
    ) {
        check_against_scalar(blocks, tail, rows, count, fill, seed);
    }

    /// The invariant of `kernels`: a pair's result depends on nothing but the pair.
    #[test]
    fn a_pair_does_not_depend_on_its_tile(
        (blocks, tail, rows, count) in (1usize..4, 0usize..32, 1usize..7, 1usize..10),
        seed: u64,
    ) {
        for kernel in kernels() {
            let case = random_case(kernel, length(kernel, blocks, tail), rows, count, Fill::Normal, seed);
            let whole = case.run(kernel);
            for (r, weights) in case.weights.chunks_exact(case.weights.len() / rows).enumerate() {
                for (a, activations) in case.activations.chunks_exact(case.activations.len() / count).enumerate() {
                    let (weights, activations) = (weights.to_vec(), activations.to_vec());
                    let single = Case { weights, activations, ..case };
                    prop_assert_eq!(bits(&single.run(kernel)), bits(&whole[r * count + a..][..1]), "{}", kernel.id);
                }
            }
        }
    }

    #[test]
    fn packed_activations_equal_scalar(
        (blocks, tail) in (1usize..5, 0usize..32),
        exponent in -60i32..40,
        seed: u64,
    ) {
        for kernel in QUANTIZE_ACTIVATION.iter().copied().flatten().filter(|kernel| kernel.level.is_available()) {
            let block = kernel.activation.block_len();
            let k = if block == 1 { blocks * 32 + tail } else { blocks * block };
            let mut state = seed;
            let x: Vec<f32> = (0..k).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Few distinct values, so that magnitudes and halves tie often.
                ((state >> 40) as i32 % 255 - 127) as f32 * 2f32.powi(exponent - 1)
            }).collect();
            let mut expected = vec![0; kernel.activation.row_bytes(k)];
            let mut out = expected.clone();
            quantize_activation(kernel.activation, &x, &mut expected);
            // SAFETY: the filter above keeps levels that this CPU has.
            unsafe { (kernel.run)(&x, &mut out) };
            prop_assert_eq!(out, expected, "{:?} {:?}", kernel.activation, kernel.level);
        }
    }
}

/// Rows of the models' own lengths, which exercise the 16-bit sums over many blocks.
#[test]
fn long_rows_of_extremes_equal_scalar() {
    for fill in [Fill::Extreme, Fill::AnyBytes] {
        check_against_scalar(27, 5, 2, 3, fill, 7);
    }
}
