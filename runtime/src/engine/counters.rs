//! Counting what the matrix kernels did.
//!
//! In: per call, the dot products that the kernel says it wrote ([`crate::kernels::Tile::done`]), and per parallel
//! region its wall time. Out: a [`KernelCount`] per kernel that was called. Threads count apart, so that counting
//! costs two additions a call. Deliberately absent: any opinion on what the counts should be.

use crate::kernels::MatmulKernel;
use crate::kernels::registry::MATMUL;
use bitforge_schema::protocol::KernelCount;

/// What one kernel did in one thread.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    calls: u64,
    rows: u64,
    bytes: u64,
}

/// The counts of one thread, by number of the kernel. Padded, so that threads do not share a cache line.
#[derive(Clone)]
#[repr(align(128))]
pub(super) struct ThreadCounts(Vec<Count>);

impl ThreadCounts {
    /// One call of `kernel` that wrote `rows` dot products over `bytes` of packed weights.
    pub(super) fn add(&mut self, kernel: usize, rows: u64, bytes: usize) {
        let count = &mut self.0[kernel];
        count.calls += 1;
        count.rows += rows;
        count.bytes += bytes as u64;
    }
}

/// The counts of an engine since the last [`Counters::reset`].
pub(super) struct Counters {
    pub(super) threads: Vec<ThreadCounts>,
    /// By number of the kernel: wall time of the regions it ran in, times threads.
    nanoseconds: Vec<u64>,
}

fn kernels() -> impl Iterator<Item = &'static MatmulKernel> {
    MATMUL.iter().copied().flatten()
}

/// The place of `kernel` in the registry.
pub(super) fn number(kernel: &MatmulKernel) -> usize {
    // Three small values name a kernel; this is asked for every product of every token.
    let key = |kernel: &MatmulKernel| (kernel.weight, kernel.activation, kernel.level);
    kernels().position(|known| key(known) == key(kernel)).expect("a kernel comes from the registry")
}

impl Counters {
    pub(super) fn new(threads: usize) -> Self {
        let kernels = kernels().count();
        Counters {
            threads: vec![ThreadCounts(vec![Count::default(); kernels]); threads],
            nanoseconds: vec![0; kernels],
        }
    }

    pub(super) fn reset(&mut self) {
        self.threads.iter_mut().for_each(|counts| counts.0.fill(Count::default()));
        self.nanoseconds.fill(0);
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
            self.threads.iter().map(|counts| of(&counts.0[number])).sum::<u64>()
        };
        kernels()
            .enumerate()
            .filter(|(number, _)| sum(*number, |count| count.calls) > 0)
            .map(|(number, kernel)| KernelCount {
                id: kernel.id.to_owned(),
                calls: sum(number, |count| count.calls),
                rows: sum(number, |count| count.rows),
                rescored_rows: 0,
                bytes: sum(number, |count| count.bytes),
                nanoseconds: self.nanoseconds[number],
            })
            .collect()
    }
}
