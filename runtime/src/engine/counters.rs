//! Counting what the matrix kernels did.
//!
//! In: per call, the dot products that the kernel says it wrote ([`crate::kernels::Tile::done`]), and per parallel
//! region its wall time. Out: a [`KernelCount`] per kernel that was called. Threads count apart, so that counting
//! costs two additions a call. Deliberately absent: any opinion on what the counts should be.

use super::head::Read;
use crate::kernels::MatmulKernel;
use crate::kernels::head::HeadKernel;
use crate::kernels::registry::{HEAD, MATMUL};
use crate::quant::panels::AlignedBytes;
use bitforge_schema::protocol::KernelCount;

/// What one kernel did in one thread.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    calls: u64,
    rows: u64,
    bytes: u64,
}

/// What one thread writes: its counts by number of the kernel, and memory for its kernels. Padded, so that threads do
/// not share a cache line.
#[repr(align(128))]
pub(super) struct ThreadState {
    counts: Vec<Count>,
    /// For kernels of repacked rows.
    pub(super) scratch: AlignedBytes,
    /// A tile of results [rows, activations].
    pub(super) tile: Vec<f32>,
}

impl ThreadState {
    /// One call of `kernel` that wrote `rows` dot products over `bytes` of packed weights.
    pub(super) fn add(&mut self, kernel: usize, rows: u64, bytes: usize) {
        let count = &mut self.counts[kernel];
        count.calls += 1;
        count.rows += rows;
        count.bytes += bytes as u64;
    }
}

/// The counts of an engine since the last [`Counters::reset`].
pub(super) struct Counters {
    pub(super) threads: Vec<ThreadState>,
    /// By number of the kernel: wall time of the regions it ran in, times threads.
    nanoseconds: Vec<u64>,
    /// Per function set of the compact head.
    searches: Vec<Search>,
    /// By number of the kernel: rows of the head computed with it after a search, and their bytes.
    rescored: Vec<(u64, u64)>,
}

/// What the functions of the compact head did.
#[derive(Clone, Copy, Default)]
struct Search {
    calls: u64,
    read: Read,
    nanoseconds: u64,
}

fn kernels() -> impl Iterator<Item = &'static MatmulKernel> {
    MATMUL.iter().copied().flatten()
}

/// The place of `kernel` in the registry.
pub(super) fn number(kernel: &MatmulKernel) -> usize {
    // Four small values name a kernel; this is asked for every product of every token.
    let key = |kernel: &MatmulKernel| (kernel.weight, kernel.activation, kernel.level, kernel.layout());
    kernels().position(|known| key(known) == key(kernel)).expect("a kernel comes from the registry")
}

impl Counters {
    /// For `threads` threads, each with `scratch_bytes` for kernels and room for `tile` results.
    pub(super) fn new(threads: usize, scratch_bytes: usize, tile: usize) -> Self {
        let kernels = kernels().count();
        let state = |_| ThreadState {
            counts: vec![Count::default(); kernels],
            scratch: AlignedBytes::zeroed(scratch_bytes),
            tile: vec![0.0; tile],
        };
        Counters {
            threads: (0..threads).map(state).collect(),
            nanoseconds: vec![0; kernels],
            searches: vec![Search::default(); HEAD.len()],
            rescored: vec![(0, 0); kernels],
        }
    }

    pub(super) fn reset(&mut self) {
        self.threads.iter_mut().for_each(|state| state.counts.fill(Count::default()));
        self.nanoseconds.fill(0);
        self.searches.fill(Search::default());
        self.rescored.fill((0, 0));
    }

    /// A search of `wall_ns` with `head`, whose last candidates were computed with `exact` on rows of `row_bytes`.
    pub(super) fn add_search(
        &mut self,
        wall_ns: u64,
        head: &HeadKernel,
        read: Read,
        (exact, row_bytes): (&MatmulKernel, usize),
    ) {
        let number_of =
            HEAD.iter().position(|known| known.id == head.id).expect("it comes from the registry");
        let search = &mut self.searches[number_of];
        search.calls += 1;
        search.read.add(read);
        search.nanoseconds += wall_ns * self.threads.len() as u64;
        let (rows, bytes) = &mut self.rescored[number(exact)];
        (*rows, *bytes) = (*rows + read.exact, *bytes + read.exact * row_bytes as u64);
    }

    /// A region of `wall_ns` in which the kernels numbered `kernels` went through so many bytes each.
    pub(super) fn add_time(&mut self, wall_ns: u64, kernels: &[(usize, usize)]) {
        let total: usize = kernels.iter().map(|(_, bytes)| bytes).sum();
        let spent = wall_ns as u128 * self.threads.len() as u128;
        for (kernel, bytes) in kernels {
            self.nanoseconds[*kernel] += (spent * *bytes as u128 / total.max(1) as u128) as u64;
        }
    }

    /// One entry per kernel that was called, in the registry's order.
    pub(super) fn read(&self) -> Vec<KernelCount> {
        let sum = |number: usize, of: fn(&Count) -> u64| {
            self.threads.iter().map(|state| of(&state.counts[number])).sum::<u64>()
        };
        let matmul = kernels().enumerate().map(|(number, kernel)| KernelCount {
            id: kernel.id.to_owned(),
            calls: sum(number, |count| count.calls),
            rows: sum(number, |count| count.rows),
            rescored_rows: self.rescored[number].0,
            bytes: sum(number, |count| count.bytes) + self.rescored[number].1,
            nanoseconds: self.nanoseconds[number],
        });
        let head = HEAD.iter().zip(&self.searches).map(|(kernel, search)| KernelCount {
            id: kernel.id.to_owned(),
            calls: search.calls,
            rows: search.read.rows,
            rescored_rows: search.read.refined,
            bytes: search.read.bytes,
            nanoseconds: search.nanoseconds,
        });
        matmul.chain(head).filter(|count| count.calls + count.rescored_rows > 0).collect()
    }
}
