//! Repacking of a model's matrices into the layouts that the selected kernels want, when a model is loaded.
//!
//! In: the rows of the file. Out: each matrix with its panels, where its kernels have a layout that can hold it. All
//! threads work on one matrix at a time, and the pages of the file that held it are given back before the next, so that
//! no two copies of a model are in memory. Deliberately absent: any change of values.

use crate::kernels::{KernelSet, MatmulKernel, Shape, SimdLevel};
use crate::model::{Layer, Matrix, Model, Panels};
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::quant::panels::{AlignedBytes, CannotHold, Layout, ROWS};
use crate::threads::ThreadPool;
use std::sync::atomic::{AtomicBool, Ordering};

/// Repacks what the kernels want repacked.
pub(super) fn repack(model: &mut Model, kernels: &KernelSet, mode: ActivationQuant, pool: &mut ThreadPool) {
    for matrix in model.matrices_mut() {
        let activation = ActivationType::for_weight(matrix.ty, mode);
        let plan = kernels.plan(matrix.ty, activation).expect("the scalar level has every pair");
        let Some(layout) = plan.layout() else { continue };
        if let Ok(panels) = panels(matrix, layout, pool) {
            matrix.set_panels(panels);
        }
    }
    // Rows of the head may be those of the embedding, which tokens are looked up in.
    model.layers.iter_mut().flat_map(Layer::linears_mut).for_each(|linear| linear.matrix.drop_converted());
}

/// The most memory that a kernel of the model's matrices needs per thread.
pub(super) fn scratch_bytes(model: &Model) -> usize {
    let bytes =
        |matrix: &Matrix| matrix.panels().map_or(0, |panels| panels.layout.scratch_bytes(matrix.columns));
    model.matrices().map(bytes).max().unwrap_or(0)
}

/// The rows of `matrix` in groups of sixteen.
///
/// # Errors
/// The layout cannot hold them.
fn panels(matrix: &Matrix, layout: Layout, pool: &mut ThreadPool) -> Result<Panels, CannotHold> {
    let groups = matrix.rows.div_ceil(ROWS);
    let group_bytes = layout.group_bytes(matrix.columns);
    let rows = matrix.bytes();
    let refused = AtomicBool::new(false);
    let (row_scales, tensor_scale) = scales(matrix, layout, pool)?;
    let mut bytes = AlignedBytes::zeroed(groups * group_bytes);
    let mut codes: Vec<Vec<u8>> = vec![vec![0; layout.codes_bytes(matrix.columns)]; pool.threads()];
    pool.for_each_chunk_with(&mut bytes, group_bytes, &mut codes, |group, out, codes| {
        let start = group * ROWS * matrix.row_bytes;
        let rows = &rows[start..rows.len().min(start + ROWS * matrix.row_bytes)];
        if layout.pack(matrix.ty, rows, matrix.row_bytes, codes, out).is_err() {
            refused.store(true, Ordering::Relaxed);
        }
    });
    if refused.into_inner() {
        return Err(CannotHold);
    }
    Ok(Panels { layout, group_bytes, bytes, row_scales, tensor_scale })
}

/// One scale per row, or none and the scale of all rows.
fn scales(matrix: &Matrix, layout: Layout, pool: &mut ThreadPool) -> Result<(Vec<f32>, f32), CannotHold> {
    let rows = matrix.bytes();
    let refused = AtomicBool::new(false);
    let mut scales = vec![0.0; matrix.rows.next_multiple_of(ROWS)];
    pool.for_each_chunk(&mut scales[..matrix.rows], 64, |chunk, scales| {
        for (i, scale) in scales.iter_mut().enumerate() {
            let row = &rows[(chunk * 64 + i) * matrix.row_bytes..][..matrix.row_bytes];
            match layout.row_scale(matrix.ty, row, matrix.tensor_scale) {
                Ok(value) => *scale = value,
                Err(CannotHold) => refused.store(true, Ordering::Relaxed),
            }
        }
    });
    if refused.into_inner() {
        return Err(CannotHold);
    }
    let first = scales[0];
    let same = scales[..matrix.rows].iter().all(|scale| scale.to_bits() == first.to_bits());
    Ok(if same { (Vec::new(), first) } else { (scales, 1.0) })
}

/// What [`rows_per_chunk`] gives at most.
pub(super) const MOST_ROWS_PER_CHUNK: usize = 256;

/// Weight rows that one thread takes at a time: enough parts to balance, few enough to be cheap, and whole panels
/// where many activation rows share what is unpacked.
pub(super) fn rows_per_chunk(rows: usize, threads: usize, shape: Shape, kernel: &MatmulKernel) -> usize {
    let wanted = rows.div_ceil(threads * 8).clamp(8, MOST_ROWS_PER_CHUNK);
    match (kernel.layout(), shape, kernel.level) {
        (None, ..) => wanted,
        (Some(_), Shape::Decode, _) => wanted.next_multiple_of(ROWS),
        // With many rows it takes groups in twos; all others, in fours.
        (Some(_), Shape::Prefill, SimdLevel::AmxInt8) => wanted.next_multiple_of(2 * ROWS),
        (Some(_), ..) => wanted.next_multiple_of(4 * ROWS),
    }
}
