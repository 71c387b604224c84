//! All threads over the rows of one tensor, each with buffers of its own.
//!
//! In: rows, and a function of a range of rows. Out: the function's results in the order of the rows, however many
//! threads there were. Deliberately absent: anything that holds more than a chunk in memory.

use crate::threads::ThreadPool;
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Weights that a thread takes at once: enough to keep the cost of handing out low, few enough that a tensor of
/// 2560 x 640 feeds several threads.
const CHUNK_WEIGHTS: usize = 1 << 18;

pub struct Workers {
    pool: ThreadPool,
    scratch: Vec<Scratch>,
    interrupt: Arc<AtomicBool>,
}

/// Buffers of one thread; `row` and `codes` have the length of a row.
#[derive(Default)]
pub struct Scratch {
    pub row: Vec<f32>,
    pub codes: Vec<i8>,
    pub packed: Vec<u8>,
}

impl Workers {
    /// # Errors
    /// Threads that cannot be started.
    pub fn new(threads: usize, interrupt: Arc<AtomicBool>) -> Result<Self> {
        let pool = ThreadPool::new(threads).map_err(|error| {
            Error::limit(format!("{threads} threads cannot be started: {error}"), "give fewer --threads")
        })?;
        let scratch = (0..pool.threads()).map(|_| Scratch::default()).collect();
        Ok(Workers { pool, scratch, interrupt })
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `f` with ranges that cover `rows` rows of `columns` weights.
    ///
    /// # Errors
    /// The first error in the order of the rows, or an interrupt.
    pub fn each<R: Send>(
        &mut self,
        rows: usize,
        columns: usize,
        f: impl Fn(Range<usize>, &mut Scratch) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let chunk = (CHUNK_WEIGHTS / columns.max(1)).max(1);
        let mut results: Vec<Option<Result<R>>> = (0..rows.div_ceil(chunk)).map(|_| None).collect();
        let interrupt = &self.interrupt;
        self.pool.for_each_chunk_with(&mut results, 1, &mut self.scratch, |index, result, scratch| {
            if interrupt.load(Ordering::Relaxed) {
                result[0] = Some(Err(Error::Interrupted));
                return;
            }
            scratch.row.resize(columns, 0.0);
            scratch.codes.resize(columns, 0);
            result[0] = Some(f(index * chunk..rows.min((index + 1) * chunk), scratch));
        });
        results.into_iter().map(|result| result.expect("every chunk is visited once")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_rows_in_order_whatever_the_threads() {
        for threads in [1, 3] {
            let mut workers = Workers::new(threads, Arc::default()).unwrap();
            let ranges = workers.each(1000, 1 << 14, |rows, scratch| {
                assert_eq!((scratch.row.len(), scratch.codes.len()), (1 << 14, 1 << 14));
                Ok(rows)
            });
            let ranges = ranges.unwrap();
            assert_eq!((ranges[0].clone(), ranges.last().unwrap().end), (0..16, 1000));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let first: Result<Vec<()>> = workers.each(1000, 1 << 14, |rows, _| match rows.start {
                start if start >= 500 => Err(Error::usage(start.to_string(), "")),
                _ => Ok(()),
            });
            assert_eq!(first.unwrap_err().to_string(), "512; ");
        }
    }

    #[test]
    fn an_interrupt_ends_the_work() {
        let mut workers = Workers::new(2, Arc::new(AtomicBool::new(true))).unwrap();
        assert!(matches!(workers.each(10, 10, |_, _| Ok(())), Err(Error::Interrupted)));
    }
}
