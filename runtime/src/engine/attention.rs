//! Attention of a batch over the paged cache, on all threads.
//!
//! In: rotated queries [rows, heads, head_dim], rounded to half precision, and where each row's sequence and position
//! are. Out: [kv_heads, rows, heads of a group, head_dim]. Queries of one KV head are taken up to [`QUERIES`] at a time
//! (the heads of a group and, where a group is small, neighbouring rows of a sequence), so that keys and values are
//! read once for all of them. Where there are few such tiles and many positions, a tile is split: scores by positions,
//! weighted sums by partial sums. How it is cut never changes a result (see `kernels/arch/all/attention.rs`).
//! Deliberately absent: the arithmetic.

use super::kv_cache::{KvCache, KvType, Run};
use super::pages::{PAGE, SequenceId};
use crate::kernels::KernelSet;
use crate::kernels::ops::{
    KeysQ8, PARTS, Q8_BLOCK, QUERIES, QueriesQ8, RunQ8, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8,
};
use crate::quant::activation::ActivationType;
use crate::quant::blocks::{BlockQ8_0, blocks};
use crate::threads::ThreadPool;

/// Pages whose values are added up in one call.
const PAGES_PER_CALL: usize = 8;

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

/// Queries of one sequence and KV head.
struct Tile<'a> {
    queries: &'a [Query],
    /// Positions that each query sees.
    counts: [usize; QUERIES],
    pages: &'a [u32],
    kv_head: usize,
    /// Scores of a query, whole pages.
    stride: usize,
}

impl<'a> Attention<'a> {
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
            let (mut len, mut done) = (0, 0);
            for query in 0..out.len() / d {
                let (kv_head, row) = ((first + query / group) / rows, (first + query / group) % rows);
                let next = Query { row, head: kv_head * group + query % group };
                if len > 0 && (len == QUERIES || !self.share_keys(tile[0], next)) {
                    self.attend(&self.tile(&tile[..len]), scratch, &mut out[done * d..query * d]);
                    (done, len) = (query, 0);
                }
                tile[len] = next;
                len += 1;
            }
            self.attend(&self.tile(&tile[..len]), scratch, &mut out[done * d..]);
        });
    }

    fn share_keys(&self, a: Query, b: Query) -> bool {
        self.places[a.row].0 == self.places[b.row].0 && self.kv_head(a) == self.kv_head(b)
    }

    fn kv_head(&self, query: Query) -> usize {
        query.head / (self.heads / self.cache.shape().kv_heads)
    }

    fn tile<'t>(&'t self, queries: &'t [Query]) -> Tile<'t> {
        let mut counts = [0; QUERIES];
        for (count, query) in counts.iter_mut().zip(queries) {
            *count = self.places[query.row].1 + 1;
        }
        let longest = counts.iter().max().map_or(0, |count| count.div_ceil(PAGE));
        let pages = &self.cache.table().pages(self.places[queries[0].row].0)[..longest];
        Tile { queries, counts, pages, kv_head: self.kv_head(queries[0]), stride: longest * PAGE }
    }

    /// A tile from scores to `out` [queries, head_dim].
    fn attend(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let d = self.cache.shape().head_dim;
        self.take_queries(tile, scratch);
        for index in 0..tile.pages.len() {
            self.scores(tile, index, scratch);
        }
        for (scores, count) in scratch.scores.chunks_exact_mut(tile.stride).zip(tile.counts()) {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.ops.softmax)(scores, *count) }
        }
        scratch.sums.fill(0.0);
        for first in (0..tile.pages.len()).step_by(PAGES_PER_CALL) {
            self.values(tile, first, scratch);
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
    fn take_queries(&self, tile: &Tile<'_>, scratch: &mut Scratch) {
        let d = self.cache.shape().head_dim;
        for (q, query) in tile.queries.iter().enumerate() {
            let query = &self.queries[(query.row * self.heads + query.head) * d..][..d];
            if self.cache.shape().ty == KvType::F16 {
                scratch.queries[q * d..][..d].copy_from_slice(query);
                continue;
            }
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.quantize(ActivationType::Q8_0).run)(query, &mut scratch.packed) };
            for (block, packed) in blocks::<BlockQ8_0>(&scratch.packed).iter().enumerate() {
                scratch.quants[q * d + block * Q8_BLOCK..][..Q8_BLOCK].copy_from_slice(&packed.qs);
                scratch.scales[q * d / Q8_BLOCK + block] = packed.d.get();
            }
        }
    }

    /// Scores of page `index` of the tile.
    fn scores(&self, tile: &Tile<'_>, index: usize, scratch: &mut Scratch) {
        let (head_dim, n, stride) = (self.cache.shape().head_dim, tile.queries.len(), tile.stride);
        let longest = tile.counts().iter().max().map_or(0, |count| count - index * PAGE);
        let (count, scale) = (longest.min(PAGE), 1.0 / (head_dim as f32).sqrt());
        let out = &mut scratch.scores[index * PAGE..];
        match self.cache.run(self.layer, tile.pages[index], tile.kv_head) {
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

    /// Adds up the values of [`PAGES_PER_CALL`] pages from page `first` of the tile on.
    fn values(&self, tile: &Tile<'_>, first: usize, scratch: &mut Scratch) {
        let (head_dim, n, stride) = (self.cache.shape().head_dim, tile.queries.len(), tile.stride);
        let weights = &scratch.scores[first * PAGE..];
        let mut counts = [0; QUERIES];
        for (inside, count) in counts.iter_mut().zip(tile.counts()) {
            *inside = count.saturating_sub(first * PAGE).min(PAGES_PER_CALL * PAGE);
        }
        let counts = &counts[..n];
        let (rest, none) = (&tile.pages[first..], &[][..]);
        let (pages, rest) = rest.split_at(rest.len().min(PAGES_PER_CALL));
        let next = &rest[..rest.len().min(PAGES_PER_CALL)];
        let run = |page: &u32| self.cache.run(self.layer, *page, tile.kv_head);
        match self.cache.shape().ty {
            KvType::F16 => {
                let half = |page| if let Run::F16 { values, .. } = run(page) { values } else { none };
                let (mut runs, mut later) = ([none; PAGES_PER_CALL], [none; PAGES_PER_CALL]);
                runs.iter_mut().zip(pages).for_each(|(run, page)| *run = half(page));
                later.iter_mut().zip(next).for_each(|(run, page)| *run = half(page));
                let (runs, next) = (&runs[..pages.len()], &later[..next.len()]);
                let sums = &mut scratch.sums[..n * PARTS * head_dim];
                let mut args = ValuesF16 { weights, stride, counts, runs, next, head_dim, sums };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { (self.kernels.ops.values_f16)(&mut args) }
            }
            KvType::Q8_0 => {
                let mut runs = [RunQ8 { quants: &[], scales: none }; PAGES_PER_CALL];
                for (to, page) in runs.iter_mut().zip(pages) {
                    if let Run::Q8 { values, .. } = run(page) {
                        *to = values;
                    }
                }
                let (runs, sums) = (&runs[..pages.len()], &mut scratch.sums[..n * head_dim]);
                let mut args = ValuesQ8 { weights, stride, counts, runs, head_dim, sums };
                // SAFETY: as above.
                unsafe { (self.kernels.ops.values_q8_0)(&mut args) }
            }
        }
    }
}

impl Tile<'_> {
    fn counts(&self) -> &[usize] {
        &self.counts[..self.queries.len()]
    }
}
