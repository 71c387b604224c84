//! Attention of a batch over the paged cache, on all threads.
//!
//! In: rotated queries [rows, heads, head_dim], rounded to half precision, and where each row's sequence and position
//! are. Out: [rows, heads, head_dim]. Queries of one KV head are taken up to [`QUERIES`] at a time, the heads of a
//! group and, where a group is small, neighbouring rows of a sequence, so that keys and values are read once for all
//! of them. Which queries go together never changes a result (see `kernels/arch/all/attention.rs`). Deliberately
//! absent: the arithmetic.

use super::kv_cache::{KvCache, KvType, Run};
use super::pages::{PAGE, SequenceId};
use crate::kernels::KernelSet;
use crate::kernels::ops::{
    KeysQ8, PARTS, Q8_BLOCK, QUERIES, QueriesQ8, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8,
};
use crate::quant::activation::ActivationType;
use crate::quant::blocks::{BlockQ8_0, blocks};
use crate::threads::ThreadPool;

/// Where a row of a batch is: its sequence and its position there.
pub(super) type Place = (SequenceId, usize);

/// What attention of one layer works on.
pub(super) struct Attention<'a> {
    pub kernels: &'a KernelSet,
    pub cache: &'a KvCache,
    pub layer: usize,
    pub places: &'a [Place],
    /// Heads of queries; those of keys and values are the cache's.
    pub heads: usize,
    /// [rows, heads, head_dim].
    pub queries: &'a [f32],
}

/// Memory of one thread.
pub(super) struct Scratch {
    queries: Vec<f32>, // [QUERIES, head_dim]
    scores: Vec<f32>,  // [QUERIES, positions of whole pages]
    sums: Vec<f32>,    // [QUERIES, PARTS, head_dim]; q8_0: [QUERIES, head_dim]
    quants: Vec<i8>,   // q8_0 queries [QUERIES, head_dim]
    scales: Vec<f32>,  // [QUERIES, head_dim / Q8_BLOCK]
    packed: Vec<u8>,   // one query as q8_0
}

impl Scratch {
    pub(super) fn new(cache: &KvCache) -> Self {
        let shape = cache.shape();
        let (d, context) = (shape.head_dim, shape.context.next_multiple_of(PAGE));
        let q8 = |n: usize| if shape.ty == KvType::Q8_0 { n } else { 0 };
        Scratch {
            queries: vec![0.0; QUERIES * d],
            scores: vec![0.0; QUERIES * context],
            sums: vec![0.0; QUERIES * PARTS * d],
            quants: vec![0; q8(QUERIES * d)],
            scales: vec![0.0; q8(QUERIES * d / Q8_BLOCK)],
            packed: vec![0; q8(ActivationType::Q8_0.row_bytes(d))],
        }
    }
}

/// One query of a tile: row and head.
#[derive(Clone, Copy, Default)]
struct Query {
    row: usize,
    head: usize,
}

impl Attention<'_> {
    /// Computes all rows. `out` is [kv_heads, rows, heads of a group, head_dim]: for one row the same as
    /// [heads, head_dim].
    pub(super) fn run(&self, pool: &mut ThreadPool, scratch: &mut [Scratch], out: &mut [f32]) {
        let (rows, d) = (self.places.len(), self.cache.shape().head_dim);
        let group = self.heads / self.cache.shape().kv_heads;
        // Units are the heads of a group in one row; a task has enough of them to fill a tile.
        let (unit, units) = (group * d, (QUERIES / group).clamp(1, rows));
        pool.for_each_chunk_with(out, units * unit, scratch, |index, out, scratch| {
            let first = index * units;
            let mut tile = [Query::default(); QUERIES];
            let mut len = 0;
            let mut done = 0;
            for query in 0..out.len() / d {
                let (kv_head, row) = ((first + query / group) / rows, (first + query / group) % rows);
                let next = Query { row, head: kv_head * group + query % group };
                let fits = len == 0 || (len < QUERIES && self.share_keys(tile[0], next));
                if !fits {
                    self.tile(&tile[..len], scratch, &mut out[done * d..query * d]);
                    (done, len) = (query, 0);
                }
                tile[len] = next;
                len += 1;
            }
            self.tile(&tile[..len], scratch, &mut out[done * d..]);
        });
    }

    fn share_keys(&self, a: Query, b: Query) -> bool {
        self.places[a.row].0 == self.places[b.row].0 && self.kv_head(a) == self.kv_head(b)
    }

    fn kv_head(&self, query: Query) -> usize {
        query.head / (self.heads / self.cache.shape().kv_heads)
    }

    /// Queries of one sequence and KV head, from scores to `out` [queries, head_dim].
    fn tile(&self, tile: &[Query], scratch: &mut Scratch, out: &mut [f32]) {
        let d = self.cache.shape().head_dim;
        for (query, to) in tile.iter().zip(scratch.queries.chunks_exact_mut(d)) {
            to.copy_from_slice(&self.queries[(query.row * self.heads + query.head) * d..][..d]);
        }
        let mut counts = [0; QUERIES];
        for (count, query) in counts.iter_mut().zip(tile) {
            *count = self.places[query.row].1 + 1;
        }
        let counts = &counts[..tile.len()];
        let longest = *counts.iter().max().expect("a tile is not empty");
        let pages = &self.cache.table().pages(self.places[tile[0].row].0)[..longest.div_ceil(PAGE)];
        let (kv_head, stride) = (self.kv_head(tile[0]), pages.len() * PAGE);

        self.pack_queries(tile.len(), scratch);
        for (index, page) in pages.iter().enumerate() {
            let run = self.cache.run(self.layer, *page, kv_head);
            self.scores(run, index * PAGE, stride, (longest - index * PAGE).min(PAGE), tile.len(), scratch);
        }
        for (scores, count) in scratch.scores.chunks_exact_mut(stride).zip(counts) {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.ops.softmax)(scores, *count) }
        }
        scratch.sums.fill(0.0);
        for (index, page) in pages.iter().enumerate() {
            let mut inside = [0; QUERIES];
            for (inside, count) in inside.iter_mut().zip(counts) {
                *inside = count.saturating_sub(index * PAGE).min(PAGE);
            }
            let run = self.cache.run(self.layer, *page, kv_head);
            self.values(run, index * PAGE, stride, &inside[..tile.len()], scratch);
        }
        match self.cache.shape().ty {
            KvType::F16 => {
                for (sums, out) in scratch.sums.chunks_exact(PARTS * d).zip(out.chunks_exact_mut(d)) {
                    // SAFETY: the kernel set was selected for this CPU.
                    unsafe { (self.kernels.ops.add_up_parts)(sums, out) }
                }
            }
            KvType::Q8_0 => out.copy_from_slice(&scratch.sums[..out.len()]),
        }
    }

    /// Queries in the form that the cache's type wants.
    fn pack_queries(&self, n: usize, scratch: &mut Scratch) {
        let d = self.cache.shape().head_dim;
        if self.cache.shape().ty != KvType::Q8_0 {
            return;
        }
        let pack = self.kernels.quantize(ActivationType::Q8_0).run;
        for (q, query) in scratch.queries.chunks_exact(d).take(n).enumerate() {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { pack(query, &mut scratch.packed) };
            for (block, packed) in blocks::<BlockQ8_0>(&scratch.packed).iter().enumerate() {
                scratch.quants[q * d + block * Q8_BLOCK..][..Q8_BLOCK].copy_from_slice(&packed.qs);
                scratch.scales[q * d / Q8_BLOCK + block] = packed.d.get();
            }
        }
    }

    fn scores(&self, run: Run<'_>, at: usize, stride: usize, count: usize, n: usize, scratch: &mut Scratch) {
        let head_dim = self.cache.shape().head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let out = &mut scratch.scores[at..];
        match run {
            Run::F16 { keys, .. } => {
                let (queries, keys) = (&scratch.queries[..n * head_dim], &keys[..count * head_dim]);
                let mut args = ScoresF16 { queries, head_dim, keys, scale, out, stride };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { (self.kernels.ops.scores_f16)(&mut args) }
            }
            Run::Q8 { keys, .. } => {
                let quants = &scratch.quants[..n * head_dim];
                let scales = &scratch.scales[..n * head_dim / Q8_BLOCK];
                let (queries, keys) = (QueriesQ8 { quants, scales }, KeysQ8::first(keys, count, head_dim));
                let mut args = ScoresQ8 { queries, head_dim, keys, scale, out, stride };
                // SAFETY: as above.
                unsafe { (self.kernels.ops.scores_q8_0)(&mut args) }
            }
        }
    }

    fn values(&self, run: Run<'_>, at: usize, stride: usize, counts: &[usize], scratch: &mut Scratch) {
        let head_dim = self.cache.shape().head_dim;
        let weights = &scratch.scores[at..];
        match run {
            Run::F16 { values, .. } => {
                let sums = &mut scratch.sums[..counts.len() * PARTS * head_dim];
                let mut args = ValuesF16 { weights, stride, counts, values, head_dim, sums };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { (self.kernels.ops.values_f16)(&mut args) }
            }
            Run::Q8 { values: quants, value_scales: scales, .. } => {
                let sums = &mut scratch.sums[..counts.len() * head_dim];
                let mut args = ValuesQ8 { weights, stride, counts, quants, scales, head_dim, sums };
                // SAFETY: as above.
                unsafe { (self.kernels.ops.values_q8_0)(&mut args) }
            }
        }
    }
}
