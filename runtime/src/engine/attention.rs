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
    KeysQ8, PARTS, Q8_BLOCK, QUERIES, QueriesQ8, RunQ8, ScoresF16, ScoresQ8, ValuesF16, ValuesQ8, WeighF16,
};
use crate::quant::activation::ActivationType;
use crate::quant::blocks::{BlockQ8_0, blocks};
use crate::threads::ThreadPool;

/// Pages whose values are added up in one call: partial sums leave their registers only between calls.
const VALUE_PAGES: usize = 8;
/// Pages whose scores are one piece of a tile that is split.
const PAGES_PER_CALL: usize = 8;
/// Scores of a tile for the pages of one piece.
const CALL_SCORES: usize = QUERIES * PAGES_PER_CALL * PAGE;
/// Positions from which on few tiles are split; below, more regions cost more than they share out.
const SPLIT_FROM: usize = 512;
/// Tiles that are split at most: with more, whole tiles keep all threads busy.
const TILES_PER_THREAD: usize = 4;

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
    queries: Vec<f32>,  // [QUERIES, head_dim]
    scores: Vec<f32>,   // [QUERIES, positions of whole pages]
    sums: Vec<f32>,     // [QUERIES, PARTS, head_dim]; q8_0: [QUERIES, head_dim]
    starts: Vec<usize>, // of the values of every page
    quants: Vec<i8>,    // q8_0 queries [QUERIES, head_dim]
    scales: Vec<f32>,   // [QUERIES, head_dim / Q8_BLOCK]
    packed: Vec<u8>,    // one query as q8_0
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
            starts: Vec::with_capacity(context / PAGE),
            quants: vec![0; q8(QUERIES * d)],
            scales: vec![0.0; q8(QUERIES * d / Q8_BLOCK)],
            packed: vec![0; q8(ActivationType::Q8_0.row_bytes(d))],
        }
    }
}

/// Memory of tiles that are split, and which query is in which tile.
pub(super) struct Split {
    tiles: Vec<TileQueries>,
    /// Tile and number within it of every query, in the order of the output.
    owners: Vec<(usize, usize)>,
    scores: Vec<f32>,  // [tiles, calls, QUERIES, positions of a call]
    weights: Vec<f32>, // [tiles, QUERIES, positions]
    sums: Vec<f32>,    // [tiles, pieces, QUERIES, ..]
}

impl Split {
    pub(super) fn new(cache: &KvCache, threads: usize) -> Self {
        let shape = cache.shape();
        let (tiles, calls) = (TILES_PER_THREAD * threads, shape.context.div_ceil(PAGES_PER_CALL * PAGE));
        let scores = tiles * calls * CALL_SCORES;
        Split {
            tiles: Vec::with_capacity(tiles),
            owners: Vec::with_capacity(tiles * QUERIES),
            scores: vec![0.0; scores],
            weights: vec![0.0; scores],
            sums: vec![0.0; tiles * QUERIES * PARTS * shape.head_dim],
        }
    }
}

/// Queries of a tile and their number.
type TileQueries = ([Query; QUERIES], usize);

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
}

/// Weights of a tile's queries: those of a query start at a multiple of `stride`.
#[derive(Clone, Copy)]
struct Weights<'a> {
    values: &'a [f32],
    stride: usize,
}

impl Attention<'_> {
    /// Computes all rows. `out` is [kv_heads, rows, heads of a group, head_dim]: for one row the same as
    /// [heads, head_dim].
    pub(super) fn run(
        &self,
        pool: &mut ThreadPool,
        scratch: &mut [Scratch],
        split: &mut Split,
        out: &mut [f32],
    ) {
        let (rows, d) = (self.places.len(), self.cache.shape().head_dim);
        let longest = self.places.iter().map(|place| place.1 + 1).max().unwrap_or(0);
        let queries = out.len() / d;
        if pool.threads() > 1
            && longest >= SPLIT_FROM
            && queries.div_ceil(QUERIES) < TILES_PER_THREAD * pool.threads()
        {
            split.tiles.clear();
            split.owners.clear();
            self.each_tile(0..queries, &mut |tile, len, _| {
                split.owners.extend((0..len).map(|q| (split.tiles.len(), q)));
                split.tiles.push((*tile, len));
            });
            if split.tiles.len() <= TILES_PER_THREAD * pool.threads() {
                return self.run_split(pool, scratch, split, longest, out);
            }
        }
        // A task has the heads of a group in as many rows as fill a tile.
        let group = self.heads / self.cache.shape().kv_heads;
        let per_task = group * (QUERIES / group).clamp(1, rows);
        pool.for_each_chunk_with(out, per_task * d, scratch, |index, out, scratch| {
            let first = index * per_task;
            self.each_tile(first..first + out.len() / d, &mut |tile, len, at| {
                self.attend(&self.tile(&tile[..len]), scratch, &mut out[(at - first) * d..][..len * d]);
            });
        });
    }

    /// Calls `tile(queries, number, first)` for tiles of the queries `range`, which are numbered in the order of the
    /// output.
    fn each_tile(
        &self,
        range: std::ops::Range<usize>,
        tile: &mut dyn FnMut(&[Query; QUERIES], usize, usize),
    ) {
        let (rows, group) = (self.places.len(), self.heads / self.cache.shape().kv_heads);
        let (mut queries, mut len, mut first) = ([Query::default(); QUERIES], 0, range.start);
        for number in range.clone() {
            let (kv_head, row) = (number / group / rows, number / group % rows);
            let next = Query { row, head: kv_head * group + number % group };
            if len == QUERIES || (len > 0 && !self.share_keys(queries[0], next)) {
                tile(&queries, len, first);
                (len, first) = (0, number);
            }
            queries[len] = next;
            len += 1;
        }
        if len > 0 {
            tile(&queries, len, first);
        }
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
        Tile { queries, counts, pages, kv_head: self.kv_head(queries[0]) }
    }

    /// A tile from scores to `out` [queries, head_dim], on one thread.
    fn attend(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let (d, stride) = (self.cache.shape().head_dim, tile.pages.len() * PAGE);
        self.take_queries(tile, scratch);
        let mut scores = std::mem::take(&mut scratch.scores);
        for index in 0..tile.pages.len() {
            self.scores(tile, index, scratch, (&mut scores[index * PAGE..], stride));
        }
        for (scores, count) in scores.chunks_exact_mut(stride).zip(tile.counts()) {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.ops.softmax)(scores, *count) }
        }
        let weights = Weights { values: &scores, stride };
        match (self.cache.shape().ty, self.kernels.ops.weigh_f16) {
            // One query of each head reads its values once: then the order in which they lie is best.
            (KvType::F16, Some(weigh)) if tile.queries.len() > 4 && d.is_multiple_of(64) => {
                scratch.starts.clear();
                let start = |page: &u32| self.cache.run_start(self.layer, *page, tile.kv_head);
                scratch.starts.extend(tile.pages.iter().map(start));
                let mut args = WeighF16 {
                    weights: &scores,
                    stride,
                    counts: tile.counts(),
                    values: self.cache.all_values(),
                    starts: &scratch.starts,
                    per_run: PAGE,
                    head_dim: d,
                    out,
                };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { weigh(&mut args) }
            }
            (KvType::F16, _) => {
                let sums = &mut scratch.sums[..tile.queries.len() * PARTS * d];
                self.values(tile, weights, 0..PARTS, sums);
                for (sums, out) in sums.chunks_exact(PARTS * d).zip(out.chunks_exact_mut(d)) {
                    // SAFETY: the kernel set was selected for this CPU.
                    unsafe { (self.kernels.ops.add_up_parts)(sums, out) }
                }
            }
            (KvType::Q8_0, _) => self.values(tile, weights, 0..d, out),
        }
        scratch.scores = scores;
    }

    /// All tiles of `split`, in pieces that all threads share: scores of some pages, the softmax of a query, and
    /// some partial sums (f16) or elements (q8_0) over all positions.
    fn run_split(
        &self,
        pool: &mut ThreadPool,
        scratch: &mut [Scratch],
        split: &mut Split,
        longest: usize,
        out: &mut [f32],
    ) {
        let Split { tiles, owners, scores, weights, sums } = split;
        let (tiles, owners, d) = (&*tiles, &*owners, self.cache.shape().head_dim);
        let tile = |number: usize| self.tile(&tiles[number].0[..tiles[number].1]);
        let calls = longest.div_ceil(PAGES_PER_CALL * PAGE);
        let stride = calls * PAGES_PER_CALL * PAGE;

        let scores = &mut scores[..tiles.len() * calls * CALL_SCORES];
        pool.for_each_chunk_with(scores, CALL_SCORES, scratch, |index, out, scratch| {
            let (tile, first) = (tile(index / calls), index % calls * PAGES_PER_CALL);
            let pages = first..tile.pages.len().min(first + PAGES_PER_CALL);
            if !pages.is_empty() {
                self.take_queries(&tile, scratch);
            }
            for page in pages {
                self.scores(&tile, page, scratch, (&mut out[(page - first) * PAGE..], PAGES_PER_CALL * PAGE));
            }
        });
        let scores = &*scores;
        let weights = &mut weights[..tiles.len() * QUERIES * stride];
        pool.for_each_chunk(weights, stride, |index, out| {
            let (number, q) = (index / QUERIES, index % QUERIES);
            if q >= tiles[number].1 {
                return;
            }
            let of_tile = scores[number * calls * CALL_SCORES..].chunks_exact(CALL_SCORES);
            for (out, scores) in out.chunks_exact_mut(PAGES_PER_CALL * PAGE).zip(of_tile) {
                out.copy_from_slice(&scores[q * PAGES_PER_CALL * PAGE..][..PAGES_PER_CALL * PAGE]);
            }
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.ops.softmax)(out, tile(number).counts[q]) }
        });
        let weights = &*weights;
        let (whole, piece) = match self.cache.shape().ty {
            KvType::F16 => (PARTS, PARTS / 4),
            KvType::Q8_0 if d.is_multiple_of(64) => (d, 64),
            KvType::Q8_0 => (d, d),
        };
        let width = if whole == PARTS && self.cache.shape().ty == KvType::F16 { d } else { 1 };
        let (pieces, chunk) = (whole / piece, QUERIES * piece * width);
        let sums = &mut sums[..tiles.len() * pieces * chunk];
        pool.for_each_chunk(sums, chunk, |index, out| {
            let (number, first) = (index / pieces, index % pieces * piece);
            let (tile, values) = (tile(number), &weights[number * QUERIES * stride..]);
            let out = &mut out[..tile.queries.len() * piece * width];
            self.values(&tile, Weights { values, stride }, first..first + piece, out);
        });
        let sums = &*sums;
        pool.for_each_chunk_with(out, d, scratch, |query, out, scratch| {
            let (number, q) = owners[query];
            let of_tile = sums[number * pieces * chunk..].chunks_exact(chunk).take(pieces);
            let of_query = of_tile.map(|sums| &sums[q * piece * width..][..piece * width]);
            if self.cache.shape().ty == KvType::Q8_0 {
                return of_query
                    .zip(out.chunks_exact_mut(piece))
                    .for_each(|(sums, out)| out.copy_from_slice(sums));
            }
            let all = &mut scratch.sums[..PARTS * d];
            of_query.zip(all.chunks_exact_mut(piece * d)).for_each(|(sums, all)| all.copy_from_slice(sums));
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.ops.add_up_parts)(all, out) }
        });
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

    /// Scores of page `index` of the tile; those of a query start at a multiple of the stride of `out`.
    fn scores(&self, tile: &Tile<'_>, index: usize, scratch: &Scratch, (out, stride): (&mut [f32], usize)) {
        let (head_dim, n) = (self.cache.shape().head_dim, tile.queries.len());
        let longest = tile.counts().iter().max().map_or(0, |count| count - index * PAGE);
        let (count, scale) = (longest.min(PAGE), 1.0 / (head_dim as f32).sqrt());
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

    /// Weighted sums of all values of the tile: the partial sums `part` into `sums` [queries, part, head_dim], or for
    /// q8_0 the elements `part` into [queries, part].
    fn values(&self, tile: &Tile<'_>, weights: Weights<'_>, part: std::ops::Range<usize>, sums: &mut [f32]) {
        let (head_dim, stride) = (self.cache.shape().head_dim, weights.stride);
        sums.fill(0.0);
        for first in (0..tile.pages.len()).step_by(VALUE_PAGES) {
            let weights = &weights.values[first * PAGE..];
            let mut counts = [0; QUERIES];
            for (inside, count) in counts.iter_mut().zip(tile.counts()) {
                *inside = count.saturating_sub(first * PAGE).min(VALUE_PAGES * PAGE);
            }
            let (counts, none) = (&counts[..tile.queries.len()], &[][..]);
            let rest = &tile.pages[first..];
            let (pages, rest) = rest.split_at(rest.len().min(VALUE_PAGES));
            let next = &rest[..rest.len().min(VALUE_PAGES)];
            let run = |page: &u32| self.cache.run(self.layer, *page, tile.kv_head);
            match self.cache.shape().ty {
                KvType::F16 => {
                    let half = |page| if let Run::F16 { values, .. } = run(page) { values } else { none };
                    let (mut runs, mut later) = ([none; VALUE_PAGES], [none; VALUE_PAGES]);
                    runs.iter_mut().zip(pages).for_each(|(run, page)| *run = half(page));
                    later.iter_mut().zip(next).for_each(|(run, page)| *run = half(page));
                    let (runs, next, parts) = (&runs[..pages.len()], &later[..next.len()], part.clone());
                    let mut args = ValuesF16 { weights, stride, counts, runs, next, head_dim, parts, sums };
                    // SAFETY: the kernel set was selected for this CPU.
                    unsafe { (self.kernels.ops.values_f16)(&mut args) }
                }
                KvType::Q8_0 => {
                    let mut runs = [RunQ8 { quants: &[], scales: none }; VALUE_PAGES];
                    for (to, page) in runs.iter_mut().zip(pages) {
                        if let Run::Q8 { values, .. } = run(page) {
                            *to = values;
                        }
                    }
                    let (runs, columns) = (&runs[..pages.len()], part.clone());
                    let mut args = ValuesQ8 { weights, stride, counts, runs, head_dim, columns, sums };
                    // SAFETY: as above.
                    unsafe { (self.kernels.ops.values_q8_0)(&mut args) }
                }
            }
        }
    }
}

impl Tile<'_> {
    fn counts(&self) -> &[usize] {
        &self.counts[..self.queries.len()]
    }
}
