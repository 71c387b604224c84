//! One product, run by any kernel: how a kernel is compared with its scalar definition, in tests and in fuzzing.
//!
//! In: packed rows. Out: the products, whatever way the kernel wants its weights to lie. Deliberately absent: threads,
//! speed (see [`super::lab`]).

use super::registry::{MATMUL, Run};
use super::{Columns, MatmulKernel, PanelTile, SimdLevel, Tile};
use crate::quant::panels::{AlignedBytes, ROWS, Scales};
use crate::tensor::TensorType;
use std::ops::Range;

/// Weight rows and activation rows of a product. `k` is a whole number of blocks of both types.
#[derive(Debug)]
pub struct Case {
    pub k: usize,
    pub weights: Vec<u8>,
    pub activations: Vec<u8>,
    pub tensor_scale: f32,
}

impl Case {
    /// [rows, activations], row-major; for a kernel of repacked rows, rows are repacked first. `None` where its layout
    /// cannot hold them.
    pub fn try_run(&self, kernel: &MatmulKernel) -> Option<Vec<f32>> {
        assert!(kernel.level.is_available());
        let row_bytes = kernel.weight.row_bytes(self.k as u64).unwrap() as usize;
        let activation_bytes = kernel.activation.row_bytes(self.k);
        let (rows, count) = (self.weights.len() / row_bytes, self.activations.len() / activation_bytes);
        let mut out = vec![f32::NAN; rows * count];
        let done = match kernel.run {
            Run::Rows(run) => {
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
                // SAFETY: the CPU has the level, as was checked.
                unsafe { run(&mut tile) };
                tile.done
            }
            Run::Panels(layout, run) => {
                let group_bytes = layout.group_bytes(self.k);
                let mut scales = Vec::new();
                for row in self.weights.chunks_exact(row_bytes) {
                    scales.push(layout.row_scale(kernel.weight, row, self.tensor_scale).ok()?);
                }
                scales.resize(rows.next_multiple_of(ROWS), f32::NAN);
                let mut weights = vec![0; rows.div_ceil(ROWS) * group_bytes];
                let mut codes = vec![0; layout.codes_bytes(self.k)];
                let groups = self.weights.chunks(ROWS * row_bytes).zip(weights.chunks_exact_mut(group_bytes));
                for (rows, group) in groups {
                    layout.pack(kernel.weight, rows, row_bytes, &mut codes, group).ok()?;
                }
                let mut by_activation = vec![f32::NAN; rows * count];
                let mut tile = PanelTile {
                    k: self.k,
                    weights: &weights,
                    group_bytes,
                    activations: &self.activations,
                    activation_bytes,
                    scales: Scales::Rows(&scales),
                    out: Columns::whole(&mut by_activation, rows),
                    scratch: &mut AlignedBytes::zeroed(layout.scratch_bytes(self.k)),
                    done: 0,
                };
                // SAFETY: the CPU has the level, as was checked.
                unsafe { run(&mut tile) };
                let done = tile.done;
                for (i, value) in out.iter_mut().enumerate() {
                    *value = by_activation[i % count * rows + i / count];
                }
                done
            }
        };
        assert_eq!(done, out.len() as u64, "{}", kernel.id);
        Some(out)
    }

    /// As [`Self::try_run`], of rows that the layout holds.
    pub fn run(&self, kernel: &MatmulKernel) -> Vec<f32> {
        self.try_run(kernel).expect("rows that the layout holds")
    }
}

/// The definition of what `kernel` computes.
pub fn scalar_of(kernel: &MatmulKernel) -> &'static MatmulKernel {
    let same = |other: &&MatmulKernel| {
        other.level == SimdLevel::Scalar
            && (other.weight, other.activation) == (kernel.weight, kernel.activation)
    };
    MATMUL.iter().copied().flatten().find(same).expect("the scalar level has every pair")
}

/// Which bytes of a block of `ty` may have any value without making a scale that is not a sane number; the others are
/// scales. None of the float types.
pub fn quants(ty: TensorType) -> Range<usize> {
    let bytes = ty.block().1;
    match ty {
        TensorType::Q4_0 | TensorType::Q8_0 | TensorType::Q5_0 | TensorType::Q2_0 => 2..bytes,
        TensorType::Q4_1 | TensorType::Q5_1 => 4..bytes,
        TensorType::Q2K => 0..80,
        TensorType::Q3K => 0..108,
        TensorType::Q4K | TensorType::Q5K => 4..bytes,
        TensorType::Q6K => 0..208,
        TensorType::TQ1_0 => 0..52,
        TensorType::TQ2_0 => 0..64,
        TensorType::I2S => 0..32,
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => 0..0,
        TensorType::TL1 | TensorType::TL2 => unreachable!("tiled types have no kernels"),
    }
}
