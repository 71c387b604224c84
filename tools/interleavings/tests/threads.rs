//! The thread pool: every chunk once, what it wrote is visible to the caller, no wake-up is lost, no thread is left.

use bitforge_interleavings::sync::UnsafeCell;
use bitforge_interleavings::threads::ThreadPool;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Tries every order of the steps of `body`'s threads, with so many forced switches at most.
fn every_order(switches: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(body);
}

/// Cells whose accesses loom follows: two threads in one at a time, or a read that does not come after the write, fail.
fn cells(count: usize) -> Vec<UnsafeCell<usize>> {
    (0..count).map(|_| UnsafeCell::new(0)).collect()
}

fn add(cell: &UnsafeCell<usize>, value: usize) {
    // SAFETY: the pool gives each chunk to one thread; that it does is what loom checks.
    cell.with_mut(|cell| unsafe { *cell += value });
}

fn read(cell: &UnsafeCell<usize>) -> usize {
    // SAFETY: the region is over, and loom checks that every write came before.
    cell.with(|cell| unsafe { *cell })
}

#[test]
fn two_threads_do_every_chunk_once_region_after_region() {
    every_order(3, || {
        let mut pool = ThreadPool::new(2).unwrap();
        let mut out = cells(3);
        for _ in 0..2 {
            pool.for_each_chunk(&mut out, 1, |index, chunk| add(&chunk[0], index + 1));
        }
        let values: Vec<usize> = out.iter().map(read).collect();
        assert_eq!(values, [2, 4, 6]);
    });
}

#[test]
fn three_threads_share_one_region_each_with_its_own_scratch() {
    every_order(2, || {
        let mut pool = ThreadPool::new(3).unwrap();
        let (mut out, mut scratch) = (cells(3), cells(3));
        pool.for_each_chunk_with(&mut out, 1, &mut scratch, |_, chunk, scratch| {
            add(&chunk[0], 1);
            add(scratch, 1);
        });
        assert!(out.iter().all(|cell| read(cell) == 1));
        assert_eq!(scratch.iter().map(read).sum::<usize>(), 3);
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_next_region_runs() {
    every_order(2, || {
        let mut pool = ThreadPool::new(2).unwrap();
        let mut out = cells(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each_chunk(&mut out, 1, |index, _| {
                if index == 1 {
                    std::panic::resume_unwind(Box::new("planted"))
                }
            });
        }));
        assert!(result.is_err());
        pool.for_each_chunk(&mut out, 1, |_, chunk| add(&chunk[0], 1));
        assert!(out.iter().all(|cell| read(cell) == 1));
    });
}

#[test]
fn a_pool_that_did_nothing_ends_its_threads() {
    every_order(3, || drop(ThreadPool::new(3).unwrap()));
}
