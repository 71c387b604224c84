//! The exact two-stage output head: the best candidates without reading every row of the head.
//!
//! In: normed hidden rows and a [`Best`] each. Out: at least every candidate that the rule can keep, with the logits of
//! the full head bit for bit. All rows are scored with the coarse plane of a compact copy, those that can still enter
//! the answer with the fine plane, and what then still can with the head's own row and kernel. A row can enter where
//! its score plus its bound is not below what enough other rows have for certain.
//!
//! The bound is Hoeffding's: codes were rounded at random with the right mean, so the error of a score is a sum of
//! independent terms, and exceeds `LAMBDA` spreads of a step with probability below 2 exp(-2 LAMBDA^2) = 6e-20. With
//! two planes and 128,256 rows that is below 2e-14 per token. Everything else (rounding of activations, of float sums,
//! of the random numbers) has worst-case bounds, which are added. Deliberately absent: anything that needs the whole
//! distribution; the full head answers that.

use super::batch::{Best, Candidate, Rule};
use crate::kernels::head::{BLOCK, Coarse, GROUP, HeadKernel, Pack, QUERIES, Query, Shape};
use crate::kernels::{MatmulKernel, Tile};
use crate::model::Matrix;
use crate::quant::activation::ActivationType;
use crate::quant::panels::AlignedBytes;
use crate::tensor::TensorType;
use crate::threads::ThreadPool;
use half::{bf16, f16};
use std::ops::Range;

/// Bound on the error of a score, in spreads of one step of the grid.
const LAMBDA: f32 = 4.75;
/// Groups that a thread scores at a time.
const CHUNK_GROUPS: usize = 8;
const CHUNK_ROWS: usize = CHUNK_GROUPS * GROUP;
/// Where more than one row in so many is left, the full head is read instead.
const FULL_FROM: usize = 4;

/// How the output head is computed where only the best candidates are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadMode {
    /// Every row of the head.
    Full,
    /// By a compact copy, with the same result; heads that are compact as they are are computed in full.
    #[default]
    TwoStage,
}

impl HeadMode {
    pub const fn name(self) -> &'static str {
        match self {
            HeadMode::Full => "full",
            HeadMode::TwoStage => "two-stage",
        }
    }
}

/// The compact copy of a head, and the memory of a search.
pub(super) struct CompactHead {
    shape: Shape,
    rows: usize,
    coarse: AlignedBytes,
    fine: AlignedBytes,
    scales: Vec<f32>,
    kernel: HeadKernel,
    /// Bounds in spreads, by plane.
    bounds: [f32; 2],
    queries: Vec<Query>,
    activations: Vec<f32>,
    /// [chunks, QUERIES, scores and spreads, CHUNK_ROWS].
    scored: Vec<f32>,
    threads: Vec<Found>,
    cutoffs: [f32; QUERIES],
    survivors: Vec<Survivor>,
    exact: Vec<(usize, Candidate)>,
    candidates: Vec<Candidate>,
    found: [Option<Range<usize>>; QUERIES],
}

/// What one thread found.
#[derive(Default)]
struct Found {
    best: [Largest; QUERIES],
    survivors: Vec<Survivor>,
    scored: u64,
    rescored: u64,
}

/// A row that can enter the answer of a query; its logit is at most `most`.
#[derive(Clone, Copy)]
struct Survivor {
    query: usize,
    row: u32,
    most: f32,
}

/// What was read in a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Rows scored with the coarse plane, and its bytes.
    pub rows: u64,
    pub bytes: u64,
    /// Rows scored with the fine plane.
    pub refined: u64,
    /// Rows computed with the head itself.
    pub exact: u64,
}

impl Read {
    pub(super) fn add(&mut self, more: Read) {
        self.rows += more.rows;
        self.bytes += more.bytes;
        self.refined += more.refined;
        self.exact += more.exact;
    }
}

impl CompactHead {
    /// Whether a compact copy is smaller than `matrix`.
    pub(super) fn fits(matrix: &Matrix) -> bool {
        matches!(matrix.ty, TensorType::F32 | TensorType::F16 | TensorType::BF16)
    }

    /// Packs `matrix`, on all threads.
    pub(super) fn new(matrix: &Matrix, kernel: HeadKernel, pool: &mut ThreadPool) -> Self {
        let shape = Shape { columns: matrix.columns };
        let groups = matrix.rows.div_ceil(GROUP);
        let mut coarse = AlignedBytes::zeroed(groups * shape.coarse_bytes());
        let mut fine = AlignedBytes::zeroed(groups * GROUP * shape.fine_bytes());
        let mut scales = vec![0.0; groups * GROUP];
        let mut parts: Vec<_> = coarse
            .chunks_mut(shape.coarse_bytes())
            .zip(fine.chunks_mut(GROUP * shape.fine_bytes()))
            .zip(scales.chunks_mut(GROUP))
            .map(|((coarse, fine), scales)| (coarse, fine, scales))
            .collect();
        let mut scratch = vec![vec![0f32; GROUP * matrix.columns]; pool.threads()];
        pool.for_each_chunk_with(&mut parts, CHUNK_GROUPS, &mut scratch, |chunk, parts, rows| {
            for (index, (coarse, fine, scales)) in parts.iter_mut().enumerate() {
                let first = (chunk * CHUNK_GROUPS + index) * GROUP;
                let count = GROUP.min(matrix.rows - first);
                let rows = &mut rows[..count * matrix.columns];
                for (row, out) in rows.chunks_exact_mut(matrix.columns).enumerate() {
                    matrix.dequantize_row(first + row, out);
                }
                let unbounded = std::array::from_fn::<bool, GROUP, _>(|row| {
                    row < count && !boundable(&rows[row * matrix.columns..][..matrix.columns])
                });
                for (row, out) in rows.chunks_exact_mut(matrix.columns).enumerate() {
                    if unbounded[row] {
                        out.fill(0.0);
                    }
                }
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { (kernel.pack)(&mut Pack { rows, shape, first, coarse, fine, scales }) };
                // NaN makes every comparison with a cutoff fail: such a row is always computed.
                matrix.release_rows(first..first + count);
                scales
                    .iter_mut()
                    .zip(unbounded)
                    .filter(|(_, is)| *is)
                    .for_each(|(scale, _)| *scale = f32::NAN);
            }
            let first = chunk * CHUNK_ROWS;
            matrix.release_rows(first..matrix.rows.min(first + CHUNK_ROWS));
        });
        let chunks = groups.div_ceil(CHUNK_GROUPS);
        CompactHead {
            shape,
            rows: matrix.rows,
            coarse,
            fine,
            scales,
            kernel,
            bounds: bounds(shape),
            queries: (0..QUERIES).map(|_| Query::new(shape)).collect(),
            activations: vec![0.0; matrix.columns],
            scored: vec![0.0; chunks * QUERIES * 2 * CHUNK_ROWS],
            threads: (0..pool.threads()).map(|_| Found::default()).collect(),
            cutoffs: [0.0; QUERIES],
            survivors: Vec::new(),
            exact: Vec::new(),
            candidates: Vec::new(),
            found: [const { None }; QUERIES],
        }
    }

    /// Bytes of the copy.
    pub(super) fn bytes(&self) -> usize {
        self.coarse.len() + self.fine.len() + 4 * self.scales.len()
    }

    pub(super) fn kernel(&self) -> &HeadKernel {
        &self.kernel
    }

    /// Searches for up to [`QUERIES`] rows of `activations`, packed as `kernel` takes them; see [`Self::found`].
    pub(super) fn search(
        &mut self,
        pool: &mut ThreadPool,
        matrix: &Matrix,
        kernel: &MatmulKernel,
        activations: &[u8],
        wants: &[Best],
    ) -> Read {
        let activation_bytes = kernel.activation.row_bytes(matrix.columns);
        let mut usable = [false; QUERIES];
        for (q, row) in activations.chunks_exact(activation_bytes).enumerate() {
            let x = &mut self.activations;
            unpack(kernel.activation, row, x);
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            // Bounds need moderate numbers; and a rule that keeps most rows wants the full head.
            usable[q] = (1e-10..1e10).contains(&largest)
                && x.iter().all(|x| x.is_finite())
                && kept(wants[q].rule) * FULL_FROM <= self.rows;
            self.queries[q].set(x);
        }
        self.score(pool, wants);
        self.cut(wants, &usable);
        self.refine(pool, wants, &usable);
        let refined = self.survivors.len();
        self.narrow(wants, &mut usable);
        self.compute_exactly(pool, matrix, kernel, activations);
        let sum = |of: fn(&Found) -> u64| self.threads.iter().map(of).sum::<u64>();
        let padding = ((self.scales.len() - self.rows) * wants.len()) as u64;
        Read {
            rows: sum(|found| found.scored) - padding,
            bytes: (self.coarse.len() + refined * self.shape.fine_bytes()) as u64,
            refined: refined as u64,
            exact: sum(|found| found.rescored),
        }
    }

    /// The candidates of a query of the last search, by ascending id; `None` where the full head has to answer.
    pub(super) fn found(&self, query: usize) -> Option<&[Candidate]> {
        self.found[query].clone().map(|range| &self.candidates[range])
    }

    /// Scores all rows with the coarse plane and finds, by thread, the largest logits that are certain.
    fn score(&mut self, pool: &mut ThreadPool, wants: &[Best]) {
        for found in &mut self.threads {
            (found.scored, found.rescored) = (0, 0);
            for (best, want) in found.best.iter_mut().zip(wants) {
                best.start(kept(want.rule));
            }
        }
        let (shape, kernel, bound) = (self.shape, self.kernel, self.bounds[0]);
        let (coarse, scales, queries, total) =
            (&self.coarse, &self.scales, &self.queries[..wants.len()], self.rows);
        let chunk_bytes = CHUNK_GROUPS * shape.coarse_bytes();
        pool.for_each_chunk_with(
            &mut self.scored,
            QUERIES * 2 * CHUNK_ROWS,
            &mut self.threads,
            |chunk, out, found| {
                let groups = &coarse[chunk * chunk_bytes..coarse.len().min((chunk + 1) * chunk_bytes)];
                let first = chunk * CHUNK_ROWS;
                let (scores, spreads) = out.split_at_mut(QUERIES * CHUNK_ROWS);
                let mut args = Coarse {
                    shape,
                    groups,
                    scales: &scales[first..],
                    queries,
                    scores,
                    spreads,
                    stride: CHUNK_ROWS,
                    done: 0,
                };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { (kernel.coarse)(&mut args) };
                found.scored += args.done;
                for (q, want) in wants.iter().enumerate() {
                    let rows = CHUNK_ROWS.min((want.below as usize).min(total).saturating_sub(first));
                    let (scores, spreads) =
                        (&scores[q * CHUNK_ROWS..][..rows], &spreads[q * CHUNK_ROWS..][..rows]);
                    for (score, spread) in scores.iter().zip(spreads) {
                        found.best[q].push(score - bound * spread);
                    }
                }
            },
        );
    }

    /// Sets the cutoff of every query from what the threads found: no row below it can enter the answer.
    fn cut(&mut self, wants: &[Best], usable: &[bool]) {
        for (q, want) in wants.iter().enumerate() {
            let (first, others) = self.threads.split_first_mut().expect("there is a thread");
            let best = &mut first.best[q];
            others.iter().for_each(|other| best.merge(&other.best[q]));
            let least = best.least();
            self.cutoffs[q] = match want.rule {
                _ if !usable[q] => f32::INFINITY,
                Rule::Top(_) => least,
                Rule::MinP(p) => least + p.max(1e-30).ln() - 1e-5 * (1.0 + least.abs()),
            };
        }
    }

    /// Scores with the fine plane what can enter by the coarse one. `survivors` are those rows.
    fn refine(&mut self, pool: &mut ThreadPool, wants: &[Best], usable: &[bool]) {
        for found in &mut self.threads {
            found.survivors.clear();
            found.best.iter_mut().for_each(Largest::restart);
        }
        let (shape, kernel, [coarse_bound, fine_bound]) = (self.shape, self.kernel, self.bounds);
        let (fine, scales, queries, cutoffs) = (&self.fine, &self.scales, &self.queries, &self.cutoffs);
        let total = self.rows;
        pool.for_each_chunk_with(
            &mut self.scored,
            QUERIES * 2 * CHUNK_ROWS,
            &mut self.threads,
            |chunk, out, found| {
                let first = chunk * CHUNK_ROWS;
                let (scores, spreads) = out.split_at(QUERIES * CHUNK_ROWS);
                for q in (0..wants.len()).filter(|q| usable[*q]) {
                    let rows = CHUNK_ROWS.min((wants[q].below as usize).min(total).saturating_sub(first));
                    let (scores, spreads) =
                        (&scores[q * CHUNK_ROWS..][..rows], &spreads[q * CHUNK_ROWS..][..rows]);
                    for (index, (score, spread)) in scores.iter().zip(spreads).enumerate() {
                        // Not `>=`: NaN must stay.
                        if score + coarse_bound * spread < cutoffs[q] {
                            continue;
                        }
                        let row = first + index;
                        let bytes = &fine[row * shape.fine_bytes()..][..shape.fine_bytes()];
                        // SAFETY: the kernel set was selected for this CPU.
                        let rest = unsafe { (kernel.fine)(shape, bytes, &queries[q]) };
                        let score = score + scales[row] * (2.0 / 15.0) * rest;
                        found.best[q].push(score - fine_bound * spread);
                        found.survivors.push(Survivor {
                            query: q,
                            row: row as u32,
                            most: score + fine_bound * spread,
                        });
                    }
                }
            },
        );
        self.survivors.clear();
        self.threads.iter().for_each(|found| self.survivors.extend(&found.survivors));
    }

    /// Keeps in `exact` the survivors that can enter by the fine plane, by query and row. A query with too many of them
    /// is not usable.
    fn narrow(&mut self, wants: &[Best], usable: &mut [bool]) {
        let coarse = self.cutoffs;
        self.cut(wants, usable);
        // The coarse cutoff holds as well.
        self.cutoffs.iter_mut().zip(coarse).for_each(|(cutoff, coarse)| *cutoff = cutoff.max(coarse));
        let cutoffs = &self.cutoffs;
        self.survivors.retain(|s| usable[s.query] && (s.most >= cutoffs[s.query] || s.most.is_nan()));
        for (q, usable) in usable.iter_mut().enumerate() {
            *usable &= self.survivors.iter().filter(|s| s.query == q).count() * FULL_FROM <= self.rows;
        }
        self.exact.clear();
        let left = self.survivors.iter().filter(|s| usable[s.query]);
        self.exact.extend(left.map(|s| (s.query, Candidate { id: s.row, logit: 0.0 })));
        self.exact.sort_unstable_by_key(|(query, candidate)| (*query, candidate.id));
        for (q, (found, usable)) in self.found.iter_mut().zip(&*usable).enumerate() {
            let end = |q| self.exact.partition_point(|(query, _)| *query < q);
            *found = usable.then(|| end(q)..end(q + 1));
        }
    }

    /// Computes the logits in `exact` with the head's own rows and kernel.
    fn compute_exactly(
        &mut self,
        pool: &mut ThreadPool,
        matrix: &Matrix,
        kernel: &MatmulKernel,
        activations: &[u8],
    ) {
        let (weights, row_bytes) = (matrix.bytes(), matrix.row_bytes);
        let activation_bytes = kernel.activation.row_bytes(matrix.columns);
        pool.for_each_chunk_with(&mut self.exact, 4, &mut self.threads, |_, rows, found| {
            for (query, candidate) in rows {
                let mut tile = Tile {
                    k: matrix.columns,
                    weights: &weights[candidate.id as usize * row_bytes..][..row_bytes],
                    row_bytes,
                    activations: &activations[*query * activation_bytes..][..activation_bytes],
                    activation_bytes,
                    tensor_scale: matrix.tensor_scale,
                    out: std::slice::from_mut(&mut candidate.logit),
                    done: 0,
                };
                // SAFETY: the kernel set was selected for this CPU.
                unsafe { kernel.call(&mut tile) };
                found.rescored += tile.done;
            }
        });
        self.candidates.clear();
        self.candidates.extend(self.exact.iter().map(|(_, candidate)| *candidate));
    }
}

/// Rows that are certain to be kept.
fn kept(rule: Rule) -> usize {
    match rule {
        Rule::Top(k) => k.max(1),
        Rule::MinP(_) => 1,
    }
}

/// Whether the error of a packed row can be bounded in f32.
fn boundable(row: &[f32]) -> bool {
    let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
    row.iter().all(|w| w.is_finite()) && (largest == 0.0 || (1e-20..1e20).contains(&largest))
}

/// What the error of a score can be with the coarse plane, and with both, in spreads: the random part, and the worst
/// case of everything else. S is the spread, u the unit of a block; |w| is at most 15 u, and the sum over columns of
/// u |x| at most sqrt(columns) S.
fn bounds(shape: Shape) -> [f32; 2] {
    let (columns, blocks) = ((shape.blocks() * BLOCK) as f32, shape.blocks() as f32);
    let ulp = 2f32.powi(-24);
    // The head's own float sum (32 lanes, then a tree, then a tail) and that of the score.
    let sums = 15.0 * columns.sqrt() * (columns / 32.0 + 40.0 + blocks + 8.0) * ulp;
    // An activation is off by half of a 32512th of the block's largest.
    let activations = 15.0 * 0.5 / 32_512.0 * BLOCK as f32 * blocks.sqrt();
    // Random numbers have sixteen bits, and the unit, the rest and its code are rounded to f32.
    let rounding = columns.sqrt() * 2f32.powi(-14);
    let worst = 1.01 * (sums + activations + rounding);
    // A step is 2 u in the coarse plane and 4/15 u in the fine one; 1.0001 covers the spread's own rounding.
    [1.0001 * (2.0 * LAMBDA + worst), 1.0001 * (4.0 / 15.0 * LAMBDA + worst)]
}

/// The activations as the head's own kernel sees them.
fn unpack(ty: ActivationType, row: &[u8], out: &mut [f32]) {
    let pairs = row.as_chunks::<2>().0;
    match ty {
        ActivationType::F16 => {
            out.iter_mut().zip(pairs).for_each(|(x, b)| *x = f16::from_le_bytes(*b).to_f32())
        }
        ActivationType::BF16 => {
            out.iter_mut().zip(pairs).for_each(|(x, b)| *x = bf16::from_le_bytes(*b).to_f32())
        }
        _ => out.iter_mut().zip(row.as_chunks::<4>().0).for_each(|(x, b)| *x = f32::from_le_bytes(*b)),
    }
}

/// The `k` largest of a stream of values.
#[derive(Default)]
struct Largest {
    k: usize,
    /// Up to twice `k` values, among them the `k` largest.
    values: Vec<f32>,
    /// At least `k` values are not below it.
    floor: f32,
}

impl Largest {
    fn start(&mut self, k: usize) {
        self.k = k;
        self.restart();
    }

    fn restart(&mut self) {
        self.values.clear();
        self.floor = f32::NEG_INFINITY;
    }

    fn push(&mut self, value: f32) {
        // False for NaN.
        if value > self.floor {
            self.values.push(value);
            if self.values.len() == 2 * self.k {
                self.prune();
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        other.values.iter().for_each(|value| self.push(*value));
    }

    /// The smallest of the `k` largest; -inf where there are fewer.
    fn least(&mut self) -> f32 {
        if self.values.len() < self.k {
            return f32::NEG_INFINITY;
        }
        self.prune();
        self.floor
    }

    fn prune(&mut self) {
        let (_, least, _) = self.values.select_nth_unstable_by(self.k - 1, |a, b| b.total_cmp(a));
        self.floor = *least;
        self.values.truncate(self.k);
    }
}
