//! What every layer of a forward pass is made of: norms and matrix products over rows, on all threads.
//!
//! In: rows of f32. Out: rows of f32. Packed activations and side-by-side results live in [`Scratch`].

use super::counters::{Counters, ThreadCounts, number};
use crate::kernels::{KernelSet, MatmulKernel, Tile};
use crate::model::{Linear, Matrix};
use crate::quant::activation::{ActivationQuant, ActivationType};
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
    packed: Vec<u8>,
    transposed: Vec<f32>,
}

impl Scratch {
    /// For inputs of up to `rows` rows of up to `columns`, and up to `outputs` results in one region.
    pub(super) fn new(rows: usize, columns: usize, outputs: usize) -> Self {
        // F32 rows are the longest: four bytes each; an int8 row has a header of eight.
        Scratch { packed: vec![0; rows * (4 * columns + 8)], transposed: vec![0.0; outputs] }
    }
}

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

    /// `x` [m, columns of `matrix`] packed as `matrix` wants it, and the kernel that takes it so.
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
        (self.kernels.matmul(matrix.ty, activation).expect("the scalar level has every pair"), packed)
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
        let threads = self.pool.threads();
        let plans = jobs.each_ref().map(|(matrix, _)| {
            let kernel = self.kernels.matmul(matrix.ty, activation).expect("the scalar level has every pair");
            (*matrix, matrix.bytes(), kernel, number(kernel), rows_per_chunk(matrix.rows, threads))
        });
        let work = plans.map(|(_, bytes, _, number, _)| (number, bytes.len()));
        let compute = |job: usize, index: usize, out: &mut [f32], counts: &mut ThreadCounts| {
            let (matrix, bytes, kernel, number, rows) = plans[job];
            let weights = &bytes[index * rows * matrix.row_bytes..][..out.len() / m * matrix.row_bytes];
            let mut tile = Tile {
                k,
                weights,
                row_bytes: matrix.row_bytes,
                activations: packed,
                activation_bytes,
                tensor_scale: matrix.tensor_scale,
                out,
                done: 0,
            };
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { kernel.call(&mut tile) };
            counts.add(number, tile.done, weights.len());
        };
        let started = Instant::now();
        let counters = &mut *self.counters;
        if m == 1 {
            let mut number = 0;
            let outs = jobs.map(|(_, out)| {
                number += 1;
                (out, plans[number - 1].4)
            });
            self.pool.for_each_chunk_of_with(outs, &mut counters.threads, compute);
            counters.add_time(started.elapsed().as_nanos() as u64, &work);
            return;
        }
        // A tile is [rows, m]: computed side by side in `transposed`, then turned to [m, rows].
        let mut rest = &mut *scratch.transposed;
        let mut number = 0;
        let tiles = jobs.each_ref().map(|(matrix, _)| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(matrix.rows * m);
            rest = tail;
            number += 1;
            (head, plans[number - 1].4 * m)
        });
        self.pool.for_each_chunk_of_with(tiles, &mut counters.threads, compute);
        counters.add_time(started.elapsed().as_nanos() as u64, &work);
        let mut rest = &*scratch.transposed;
        for (matrix, out) in jobs {
            let (tile, tail) = rest.split_at(matrix.rows * m);
            rest = tail;
            self.pool.for_each_chunk(out, matrix.rows, |t, out| {
                for (out, values) in out.iter_mut().zip(tile.chunks_exact(m)) {
                    *out = values[t];
                }
            });
        }
    }
}

/// Rows of a matrix that one thread takes at a time: enough chunks to balance, few enough to be cheap.
fn rows_per_chunk(rows: usize, threads: usize) -> usize {
    rows.div_ceil(threads * 8).clamp(8, 256)
}
