//! What every layer of a forward pass is made of: norms and matrix products over rows, on all threads.
//!
//! In: rows of f32. Out: rows of f32. Packed activations and side-by-side results live in [`Scratch`].

use super::counters::{Counters, ThreadState, number};
use super::repack::rows_per_chunk;
use crate::kernels::{Columns, KernelSet, MatmulKernel, PanelTile, Shape, Tile};
use crate::model::{Linear, Matrix};
use crate::quant::activation::{ActivationQuant, ActivationType, I8_TOKEN_HEADER};
use crate::quant::panels::{AlignedBytes, ROWS};
use crate::tensor::TensorType;
use crate::threads::ThreadPool;
use std::time::Instant;

/// How to compute: kernels, the activation mode and threads.
pub(super) struct Compute<'a> {
    pub kernels: &'a KernelSet,
    pub mode: ActivationQuant,
    pub pool: &'a mut ThreadPool,
    pub counters: &'a mut Counters,
}

/// Memory of matrix products.
pub(super) struct Scratch {
    packed: AlignedBytes,
}

impl Scratch {
    /// For inputs of up to `rows` rows of up to `columns`.
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        // F32 rows are the longest: four bytes each; an int8 row has a header.
        Scratch { packed: AlignedBytes::zeroed(rows * (4 * columns + I8_TOKEN_HEADER)) }
    }
}

/// One product of a parallel region: `out` [m, rows of the matrix], written in parts of `rows` columns.
struct Product<'a> {
    matrix: &'a Matrix,
    kernel: &'static MatmulKernel,
    number: usize,
    rows: usize,
    out: *mut f32,
}

// SAFETY: `out` comes from an exclusive borrow that lasts as long as the region, and every part of it is written by the
// one thread that was handed that part.
unsafe impl Sync for Product<'_> {}

impl Compute<'_> {
    /// RMS norm of every row of `x` [rows, weight.len()].
    pub(super) fn norm(&mut self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let (n, rms_norm) = (weight.len(), self.kernels.ops.rms_norm);
        self.pool.for_each_chunk(out, n, |row, out| {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { rms_norm(&x[row * n..][..n], weight, eps, out) }
        });
    }

    /// `out[i] = x * linear[i]^T * scale[i]`; x is [m, columns], out[i] [m, rows of linear i].
    pub(super) fn project<const N: usize>(
        &mut self,
        scratch: &mut Scratch,
        x: &[f32],
        m: usize,
        jobs: [(&Linear, &mut [f32]); N],
    ) {
        let scales = jobs.each_ref().map(|(linear, _)| linear.scale);
        let mut jobs = jobs.map(|(linear, out)| (&linear.matrix, out));
        self.project_matrices(scratch, x, m, jobs.each_mut().map(|(matrix, out)| (*matrix, &mut **out)));
        for ((_, out), scale) in jobs.iter_mut().zip(scales) {
            if let Some(scale) = scale {
                out.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// As [`Self::project`] without scales, in one parallel region where the matrices share the activation type.
    pub(super) fn project_matrices<const N: usize>(
        &mut self,
        scratch: &mut Scratch,
        x: &[f32],
        m: usize,
        jobs: [(&Matrix, &mut [f32]); N],
    ) {
        let mode = self.mode;
        let activation = |ty: TensorType| ActivationType::for_weight(ty, mode);
        let first = activation(jobs[0].0.ty);
        if jobs.iter().all(|(matrix, _)| activation(matrix.ty) == first) {
            self.multiply(scratch, x, m, first, jobs);
        } else {
            for (matrix, out) in jobs {
                self.multiply(scratch, x, m, activation(matrix.ty), [(matrix, out)]);
            }
        }
    }

    /// `x` [m, columns of `matrix`] packed as `matrix` wants it, and the kernel that takes it with rows of the file.
    pub(super) fn pack<'s>(
        &mut self,
        scratch: &'s mut Scratch,
        x: &[f32],
        matrix: &Matrix,
    ) -> (&'static MatmulKernel, &'s [u8]) {
        let activation = ActivationType::for_weight(matrix.ty, self.mode);
        let bytes = activation.row_bytes(matrix.columns);
        let packed = &mut scratch.packed[..x.len() / matrix.columns * bytes];
        let pack = self.kernels.quantize(activation).run;
        self.pool.for_each_chunk(packed, bytes, |row, packed| {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { pack(&x[row * matrix.columns..][..matrix.columns], packed) }
        });
        let plan =
            self.kernels.plan_for_rows(matrix.ty, activation).expect("the scalar level has every pair");
        (plan.kernel(Shape::Decode), packed)
    }

    fn multiply<const N: usize>(
        &mut self,
        scratch: &mut Scratch,
        x: &[f32],
        m: usize,
        activation: ActivationType,
        jobs: [(&Matrix, &mut [f32]); N],
    ) {
        let k = jobs[0].0.columns;
        let activation_bytes = activation.row_bytes(k);
        let packed = &mut scratch.packed[..m * activation_bytes];
        let pack = self.kernels.quantize(activation).run;
        self.pool.for_each_chunk(packed, activation_bytes, |row, packed| {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { pack(&x[row * k..][..k], packed) }
        });
        let packed = &*packed;
        let (threads, shape) = (self.pool.threads(), Shape::of(m));
        let products = jobs.map(|(matrix, out)| {
            assert_eq!(out.len(), m * matrix.rows);
            let kernel = kernel(self.kernels, matrix, activation, shape);
            let rows = rows_per_chunk(matrix.rows, threads, shape, kernel);
            Product { matrix, kernel, number: number(kernel), rows, out: out.as_mut_ptr() }
        });
        let started = Instant::now();
        let mut parts =
            products.each_ref().map(|product| vec![(); product.matrix.rows.div_ceil(product.rows)]);
        self.pool.for_each_chunk_of_with(
            parts.each_mut().map(|parts| (&mut parts[..], 1)),
            &mut self.counters.threads,
            |job, index, _, state| products[job].part(index, k, packed, activation_bytes, state),
        );
        let work = products.map(|product| (product.number, product.matrix.bytes_in_use()));
        self.counters.add_time(started.elapsed().as_nanos() as u64, &work);
    }
}

/// The kernel that multiplies `matrix` with activation rows of type `activation`.
pub(super) fn kernel(
    kernels: &KernelSet,
    matrix: &Matrix,
    activation: ActivationType,
    shape: Shape,
) -> &'static MatmulKernel {
    let plan = match matrix.panels() {
        Some(_) => kernels.plan(matrix.ty, activation),
        None => kernels.plan_for_rows(matrix.ty, activation),
    };
    plan.expect("the scalar level has every pair").kernel(shape)
}

impl Product<'_> {
    /// Computes part `index`; `activations` are `m` rows of `activation_bytes` each, of length `k`.
    fn part(
        &self,
        index: usize,
        k: usize,
        activations: &[u8],
        activation_bytes: usize,
        state: &mut ThreadState,
    ) {
        let m = activations.len() / activation_bytes;
        let first = index * self.rows;
        let rows = self.rows.min(self.matrix.rows - first);
        // SAFETY: columns `first..first + rows` of the m rows of `out`, which only this part writes (see `Product`).
        let mut columns = unsafe { Columns::new(self.out.add(first), self.matrix.rows, rows, m) };
        let (done, bytes) = match self.matrix.panels() {
            Some(panels) => {
                let (first, groups) = (first / ROWS, rows.div_ceil(ROWS));
                let weights = &panels.bytes[first * panels.group_bytes..][..groups * panels.group_bytes];
                let mut tile = PanelTile {
                    k,
                    weights,
                    group_bytes: panels.group_bytes,
                    activations,
                    activation_bytes,
                    scales: panels.scales(first, groups),
                    out: columns,
                    scratch: &mut state.scratch,
                    done: 0,
                };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { self.kernel.call_panels(&mut tile) };
                (tile.done, weights.len())
            }
            None => {
                let row_bytes = self.matrix.row_bytes;
                let weights = &self.matrix.bytes()[first * row_bytes..][..rows * row_bytes];
                let tile_out = &mut state.tile[..rows * m];
                let mut tile = Tile {
                    k,
                    weights,
                    row_bytes,
                    activations,
                    activation_bytes,
                    tensor_scale: self.matrix.tensor_scale,
                    out: tile_out,
                    done: 0,
                };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { self.kernel.call(&mut tile) };
                let done = tile.done;
                // A tile is [rows, m], the output [m, rows].
                for t in 0..m {
                    for first in (0..rows).step_by(ROWS) {
                        let values = tile_out[first * m + t..].iter().step_by(m);
                        columns.at(t, first).iter_mut().zip(values).for_each(|(out, value)| *out = *value);
                    }
                }
                (done, weights.len())
            }
        };
        state.add(self.number, done, bytes);
    }
}
