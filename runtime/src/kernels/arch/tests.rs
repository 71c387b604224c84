//! One runner for the kernels of every level: against the scalar definition and against the references.

use super::{QUANTIZE_ACTIVATION, all};
use crate::kernels::case::{self, Case, scalar_of};
use crate::kernels::registry::{MATMUL, Run};
use crate::kernels::{MatmulKernel, SimdLevel};
use crate::quant::activation::{ActivationType, I8_TOKEN_HEADER, quantize_activation};
use crate::quant::goldens::{K, activation_name, activations, floats, part};
use crate::quant::{i2s, quantize_row};
use crate::tensor::TensorType;
use proptest::prelude::*;

/// Every kernel this CPU can run.
fn kernels() -> impl Iterator<Item = &'static MatmulKernel> {
    MATMUL.iter().copied().flatten().filter(|kernel| kernel.level.is_available())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn kernels_have_a_definition_and_an_id_of_their_own() {
    let mut ids = std::collections::BTreeSet::new();
    for kernel in MATMUL.iter().copied().flatten() {
        assert!(
            all::MATMUL
                .iter()
                .any(|scalar| (scalar.weight, scalar.activation) == (kernel.weight, kernel.activation))
        );
        assert!(kernel.id.ends_with(kernel.level.name()) && ids.insert(kernel.id), "{}", kernel.id);
        assert_eq!(kernel.id.split('.').next(), Some(&*kernel.weight.name().to_lowercase()));
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
        let activations = activations(kernel.activation);
        let case = Case { k: K, weights, activations, tensor_scale };
        let Some(out) = case.try_run(kernel) else { continue };
        let golden: Vec<f32> = golden.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert_eq!(bits(&out), bits(&golden), "{}: {out:?} {golden:?}", kernel.id);
        compared += 1;
    }
    let of = |level: SimdLevel, products: usize| if level.is_available() { products } else { 0 };
    let least = of(SimdLevel::Scalar, 17) + of(SimdLevel::Avx2, 17) + of(SimdLevel::Neon, 11);
    assert!(
        compared >= least,
        "the fixture has seventeen products: scalar and AVX2 have them all, NEON eleven"
    );
}

/// One model in three types gives one answer, also where a block of zeros has the scale 0.
#[test]
fn tq1_0_equals_tq2_0_equals_i2_s() {
    let weights = floats("ternary");
    for activation in [ActivationType::Q8K, ActivationType::I8Token] {
        let activations = activations(activation);
        let mut results = Vec::new();
        for kernel in kernels().filter(|kernel| kernel.weight.is_ternary() && kernel.activation == activation)
        {
            let mut packed = Vec::new();
            // The last block of the last row is zero: its scale of 0, which I2_S cannot have, ends a sum of blocks of 256
            // in another float, and counts for nothing otherwise.
            let rows = if activation == ActivationType::Q8K { 2 } else { 3 };
            weights[..rows * K].chunks_exact(K).for_each(|row| quantize_row(kernel.weight, row, &mut packed));
            let tensor_scale = if kernel.weight == TensorType::I2S { 0.8125 } else { 1.0 };
            let case = Case { k: K, weights: packed, activations: activations.clone(), tensor_scale };
            results.push((kernel.id, bits(&case.run(kernel))));
        }
        assert!(results.len() >= 3 && results.iter().all(|(_, bits)| *bits == results[0].1), "{results:?}");
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
    /// Weights -1, 0 and 1 of one scale with activations of any value, -128 as well.
    Ternary,
}

/// (rows, activations) for a kernel: those of repacked rows come to their limits at other numbers.
fn sizes(kernel: &MatmulKernel, rows: usize, count: usize) -> (usize, usize) {
    match kernel.run {
        Run::Rows(_) => (rows, count),
        Run::Panels(..) => {
            ([1, 15, 16, 17, 64, 83][(rows - 1) % 6], [1, 2, 3, 5, 7, 8, 9, 13, 16, 35, 61][(count - 1) % 11])
        }
    }
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
    for _ in 0..rows {
        let mut row = row(sign_only);
        if matches!(fill, Fill::Ternary) {
            row.iter_mut().for_each(|v| *v = v.round().clamp(-1.0, 1.0));
        }
        quantize_row(kernel.weight, &row, &mut weights);
    }
    let bytes = kernel.activation.row_bytes(k);
    let mut activations = vec![0; count * bytes];
    activations
        .chunks_exact_mut(bytes)
        .for_each(|out| quantize_activation(kernel.activation, &row(sign_only), out));
    if matches!(fill, Fill::AnyBytes) {
        scramble_weights(kernel, &mut weights, &mut || next_byte(&mut row));
    }
    if matches!(fill, Fill::AnyBytes | Fill::Ternary) {
        scramble_activations(kernel, &mut activations, bytes, &mut || next_byte(&mut row));
    }
    Case { k, weights, activations, tensor_scale: 0.37 }
}

fn next_byte(row: &mut impl FnMut(bool) -> Vec<f32>) -> Vec<u8> {
    row(false).iter().map(|v| v.to_bits() as u8).collect()
}

/// Replaces quants of weights by any bytes (scales stay).
fn scramble_weights(kernel: &MatmulKernel, weights: &mut [u8], bytes: &mut dyn FnMut() -> Vec<u8>) {
    let quants = case::quants(kernel.weight);
    for block in weights.chunks_exact_mut(kernel.weight.block().1) {
        block[quants.clone()].iter_mut().zip(bytes().into_iter().cycle()).for_each(|(q, byte)| *q = byte);
    }
}

/// Replaces quants of a token by any i8, of which many are -128.
fn scramble_activations(
    kernel: &MatmulKernel,
    activations: &mut [u8],
    activation_bytes: usize,
    bytes: &mut dyn FnMut() -> Vec<u8>,
) {
    if kernel.activation == ActivationType::I8Token {
        for row in activations.chunks_exact_mut(activation_bytes) {
            let (header, quants) = row.split_at_mut(I8_TOKEN_HEADER);
            quants.iter_mut().zip(bytes()).for_each(|(q, byte)| *q = if byte < 64 { 0x80 } else { byte });
            let sum: i32 = quants.iter().map(|q| i32::from(*q as i8)).sum();
            header[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// A row length of about `blocks` blocks of both types; types with blocks of one get any length.
fn length(kernel: &MatmulKernel, blocks: usize, tail: usize) -> usize {
    let block = kernel.weight.block().0.max(kernel.activation.block_len());
    if block == 1 { blocks * 32 + tail } else { blocks * block }
}

fn check_against_scalar(blocks: usize, tail: usize, rows: usize, count: usize, fill: Fill, seed: u64) {
    for kernel in kernels().filter(|kernel| kernel.level != SimdLevel::Scalar) {
        let (rows, count) = sizes(kernel, rows, count);
        let case = random_case(kernel, length(kernel, blocks, tail), rows, count, fill, seed);
        // Any bytes are rarely ternary codes of one scale; a model with such rows keeps them as they are in the file.
        let Some(out) = case.try_run(kernel) else { continue };
        let expected = case.run(scalar_of(kernel));
        assert_eq!(bits(&out), bits(&expected), "{} k={} {rows}x{count} {fill:?}", kernel.id, case.k);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_level_equals_scalar(
        (blocks, tail, rows, count) in (1usize..6, 0usize..32, 1usize..7, 1usize..12),
        fill in prop_oneof![Just(Fill::Normal), Just(Fill::Extreme), Just(Fill::AnyBytes), Just(Fill::Ternary)],
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
            let fill = if kernel.weight.is_ternary() { Fill::Ternary } else { Fill::Normal };
            let (rows, count) = sizes(kernel, rows, count);
            let case = random_case(kernel, length(kernel, blocks, tail), rows, count, fill, seed);
            // A block of zeros alone in its row may have another scale than its neighbours have.
            let Some(whole) = case.try_run(kernel) else { continue };
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
        odd in prop::collection::vec((any::<prop::sample::Index>(), 0usize..4), 0..4),
        seed: u64,
    ) {
        for kernel in QUANTIZE_ACTIVATION.iter().copied().flatten().filter(|kernel| kernel.level.is_available()) {
            let block = kernel.activation.block_len();
            let k = if block == 1 { blocks * 32 + tail } else { blocks * block };
            let mut state = seed;
            let mut x: Vec<f32> = (0..k).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Few distinct values, so that magnitudes and halves tie often.
                ((state >> 40) as i32 % 255 - 127) as f32 * 2f32.powi(exponent - 1)
            }).collect();
            for (place, value) in &odd {
                x[place.index(k)] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY][*value];
            }
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
    for fill in [Fill::Extreme, Fill::AnyBytes, Fill::Ternary] {
        check_against_scalar(27, 5, 2, 3, fill, 7);
        check_against_scalar(27, 5, 5, 10, fill, 8);
    }
}
