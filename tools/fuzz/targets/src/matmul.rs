//! Matrix products: every kernel that this CPU runs, next to the scalar definition.

use crate::input::Input;
use bitnet_runtime::kernels::case::{Case, quants, scalar_of};
use bitnet_runtime::kernels::registry::{MATMUL, Run};
use bitnet_runtime::kernels::{MatmulKernel, SimdLevel};
use bitnet_runtime::quant::activation::{ActivationType, I8_TOKEN_HEADER, quantize_activation};
use bitnet_runtime::quant::quantize_row;

/// A kernel, sizes, then values; quants may be of any value, scales are sane.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let kernels: Vec<&MatmulKernel> = MATMUL
        .iter()
        .copied()
        .flatten()
        .filter(|kernel| kernel.level != SimdLevel::Scalar && kernel.level.is_available())
        .collect();
    if kernels.is_empty() {
        return;
    }
    let kernel = kernels[usize::from(input.byte()) % kernels.len()];
    let flags = input.byte();
    let block = kernel.weight.block().0.max(kernel.activation.block_len());
    let k = if block == 1 { 1 + input.below(200) } else { block * (1 + input.below(6)) };
    let (rows, count) = match kernel.run {
        Run::Rows(_) => (1 + input.below(7), 1 + input.below(12)),
        Run::Panels(..) => (1 + input.below(70), 1 + input.below(36)),
    };
    let mut weights = Vec::new();
    // Repeats what the input has, so that short inputs make full rows.
    let values: Vec<u8> = input.rest().to_vec();
    let mut endless = values.iter().copied().chain(std::iter::once(1)).cycle();
    let mut next = || endless.next().expect("it goes round");
    for _ in 0..rows {
        let ternary = flags & 1 != 0;
        let value = |byte: u8| if ternary { f32::from(byte % 3) - 1.0 } else { f32::from(byte as i8) / 64.0 };
        let row: Vec<f32> = (0..k).map(|_| value(next())).collect();
        quantize_row(kernel.weight, &row, &mut weights);
    }
    if flags & 2 != 0 {
        for block in weights.chunks_exact_mut(kernel.weight.block().1) {
            block[quants(kernel.weight)].iter_mut().for_each(|byte| *byte = next());
        }
    }
    let bytes = kernel.activation.row_bytes(k);
    let mut activations = vec![0; count * bytes];
    for out in activations.chunks_exact_mut(bytes) {
        let row: Vec<f32> = (0..k).map(|_| f32::from(next() as i8) / 32.0).collect();
        quantize_activation(kernel.activation, &row, out);
        if flags & 4 != 0 && kernel.activation == ActivationType::I8Token {
            let (header, quants) = out.split_at_mut(I8_TOKEN_HEADER);
            quants.iter_mut().for_each(|quant| *quant = next());
            let sum: i32 = quants.iter().map(|quant| i32::from(*quant as i8)).sum();
            header[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let case = Case { k, weights, activations, tensor_scale: 0.37 };
    let Some(out) = case.try_run(kernel) else { return };
    let expected = case.run(scalar_of(kernel));
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    assert!(out.iter().zip(&expected).all(same), "{} k={k} {rows}x{count}: {out:?} {expected:?}", kernel.id);
}
