//! A persistent pool of compute threads: spin while a token is being computed, park when idle.
//!
//! In: a mutable slice cut into chunks and a function of (chunk index, chunk). Out: every chunk was passed
//! to the function exactly once, on some thread. Chunks are handed out in order from one counter, so a slow
//! thread never holds up the rest. Deliberately absent: nested regions, futures, anything that would make a
//! result depend on the number of threads.

use crate::sync::{
    Arc, AtomicBool, AtomicUsize, Builder, JoinHandle, Mutex, Ordering, PoisonError, SPINS_BEFORE_PARK,
    Thread, UnsafeCell, park, spin_loop, yield_now,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A function of the thread's number, 0 being the caller.
type Region<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// A pool of `threads` compute threads, the caller of [`ThreadPool::for_each_chunk`] being one of them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Incremented for every region; a worker runs a region when it sees a new value.
    epoch: AtomicUsize,
    /// Workers that have not finished the current region.
    running: AtomicUsize,
    stop: AtomicBool,
    region: UnsafeCell<Option<Region<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is written by the pool's owner only while `running` is 0 and before `epoch` is released,
// and read by workers only after they acquired the new epoch and before they decrement `running`.
unsafe impl Sync for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, at least one (the caller).
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            region: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let mut pool = ThreadPool { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = Builder::new().name(format!("bitnet-{index}"));
            pool.workers.push(worker.spawn(move || work(&shared, index))?);
        }
        Ok(pool)
    }

    /// The number of threads that take part, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Cuts `out` into chunks of `chunk` elements (the last may be shorter) and calls `f(index, chunk)` once
    /// for each, in parallel.
    pub fn for_each_chunk<T: Send>(
        &mut self,
        out: &mut [T],
        chunk: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.for_each_chunk_of([(out, chunk)], |_, index, chunk| f(index, chunk));
    }

    /// As [`Self::for_each_chunk`] over several slices in one region: `f(slice number, chunk index, chunk)`.
    pub fn for_each_chunk_of<T: Send, const N: usize>(
        &mut self,
        outs: [(&mut [T], usize); N],
        f: impl Fn(usize, usize, &mut [T]) + Sync,
    ) {
        let mut nothing = vec![(); self.threads()];
        self.chunks_with(outs, &mut nothing, |number, index, chunk, ()| f(number, index, chunk));
    }

    /// As [`Self::for_each_chunk`], each thread with a scratch value of its own: `f(index, chunk, scratch)`.
    /// `scratch` has at least one value per thread.
    pub fn for_each_chunk_with<T: Send, S: Send>(
        &mut self,
        out: &mut [T],
        chunk: usize,
        scratch: &mut [S],
        f: impl Fn(usize, &mut [T], &mut S) + Sync,
    ) {
        self.chunks_with([(out, chunk)], scratch, |_, index, chunk, scratch| f(index, chunk, scratch));
    }

    /// As [`Self::for_each_chunk_of`], each thread with a scratch value of its own.
    pub fn for_each_chunk_of_with<T: Send, S: Send, const N: usize>(
        &mut self,
        outs: [(&mut [T], usize); N],
        scratch: &mut [S],
        f: impl Fn(usize, usize, &mut [T], &mut S) + Sync,
    ) {
        self.chunks_with(outs, scratch, f);
    }

    fn chunks_with<T: Send, S: Send, const N: usize>(
        &mut self,
        outs: [(&mut [T], usize); N],
        scratch: &mut [S],
        f: impl Fn(usize, usize, &mut [T], &mut S) + Sync,
    ) {
        assert!(scratch.len() >= self.threads(), "one scratch value per thread");
        let scratch = Slice { start: scratch.as_mut_ptr(), len: scratch.len(), chunk: 1 };
        let slices = outs.map(|(out, chunk)| {
            assert!(chunk > 0, "a chunk holds at least one element");
            Slice { start: out.as_mut_ptr(), len: out.len(), chunk }
        });
        let total: usize = slices.iter().map(Slice::chunks).sum();
        let next = AtomicUsize::new(0);
        let region = |thread: usize| {
            // SAFETY: thread numbers differ within one region, so no two threads share a scratch value.
            let scratch = unsafe { &mut scratch.chunk(thread)[0] };
            loop {
                let mut index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return;
                }
                let mut number = 0;
                while index >= slices[number].chunks() {
                    index -= slices[number].chunks();
                    number += 1;
                }
                // SAFETY: `fetch_add` gives every (slice, index) to one caller only, and chunks of one
                // slice do not overlap; the borrows in `outs` live until `run` has returned.
                f(number, index, unsafe { slices[number].chunk(index) }, scratch);
            }
        };
        if self.workers.is_empty() || total <= 1 { region(0) } else { self.run(&region) }
    }

    /// Runs `region` once on every thread and returns when all have finished.
    fn run(&mut self, region: Region<'_>) {
        // SAFETY: only the lifetime changes. No worker touches the reference after it decremented
        // `running`, and this function does not return (or unwind) before `running` is 0.
        let erased = unsafe { std::mem::transmute::<Region<'_>, Region<'static>>(region) };
        self.shared.running.store(self.workers.len(), Ordering::Relaxed);
        // SAFETY: `running` was 0, so no worker reads `region` until the new epoch is released below;
        // `&mut self` keeps other callers out.
        self.shared.region.with_mut(|region| unsafe { *region = Some(erased) });
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.workers.iter().map(JoinHandle::thread).for_each(Thread::unpark);
        let own = catch_unwind(AssertUnwindSafe(|| region(0)));
        let mut spins = 0u32;
        while self.shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            // On a machine with fewer free cores than threads the worker needs ours to finish.
            if spins < SPINS_BEFORE_PARK { spin_loop() } else { yield_now() }
        }
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its regions, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0u32;
        loop {
            let epoch = shared.epoch.load(Ordering::Acquire);
            if epoch != seen {
                seen = epoch;
                break;
            }
            spins += 1;
            if spins < SPINS_BEFORE_PARK {
                spin_loop();
            } else {
                park();
            }
        }
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the epoch was acquired, so the write of `region` is visible, and the owner does not
        // write it again before `running` is 0.
        let region =
            shared.region.with(|region| unsafe { *region }).expect("a region is set before its epoch");
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| region(index))) {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

struct Slice<T> {
    start: *mut T,
    len: usize,
    chunk: usize,
}

// SAFETY: the pointer comes from a `&mut [T]` with `T: Send`, and `chunk` gives out disjoint parts.
unsafe impl<T: Send> Sync for Slice<T> {}

impl<T> Slice<T> {
    fn chunks(&self) -> usize {
        self.len.div_ceil(self.chunk)
    }

    /// # Safety
    /// `index < self.chunks()`, no two live chunks of one index, and the slice outlives the result.
    #[expect(clippy::mut_from_ref, reason = "disjoint chunks of one exclusive borrow; see Safety")]
    unsafe fn chunk(&self, index: usize) -> &mut [T] {
        let start = index * self.chunk;
        let len = self.chunk.min(self.len - start);
        // SAFETY: `start + len <= self.len`, inside the borrowed slice.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_visited_once() {
        for threads in [1, 2, 5] {
            let mut pool = ThreadPool::new(threads).unwrap();
            for round in 0..200 {
                let mut a = vec![0usize; 1 + round % 37];
                let mut b = vec![0usize; round % 11];
                pool.for_each_chunk_of([(&mut a, 3), (&mut b, 2)], |number, index, chunk| {
                    let width = [3, 2][number];
                    for (i, value) in chunk.iter_mut().enumerate() {
                        *value += 1 + index * width + i;
                    }
                });
                assert!(a.iter().enumerate().all(|(i, v)| *v == i + 1), "threads {threads} round {round}");
                assert!(b.iter().enumerate().all(|(i, v)| *v == i + 1), "threads {threads} round {round}");
            }
        }
    }

    #[test]
    fn a_panic_in_a_chunk_reaches_the_caller_and_the_pool_survives() {
        let mut pool = ThreadPool::new(3).unwrap();
        let mut out = vec![0u8; 64];
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each_chunk(&mut out, 1, |index, _| assert_ne!(index, 40, "planted"));
        }));
        assert!(result.is_err());
        pool.for_each_chunk(&mut out, 1, |_, chunk| chunk[0] = 7);
        assert!(out.iter().all(|v| *v == 7));
    }

    #[test]
    fn wakes_after_parking() {
        let mut pool = ThreadPool::new(2).unwrap();
        let mut out = vec![0u8; 8];
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            pool.for_each_chunk(&mut out, 1, |_, chunk| chunk[0] += 1);
        }
        assert!(out.iter().all(|v| *v == 3));
    }
}
