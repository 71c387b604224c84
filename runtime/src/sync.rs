//! The primitives of [`crate::threads`], by one name: here the standard library's.
//!
//! `tools/interleavings` compiles the same `threads.rs` over loom's, which tries every order in which threads can run.
//! Deliberately absent: anything that only one of the two has.

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use std::sync::{Arc, Mutex, PoisonError};
pub use std::thread::{Builder, JoinHandle, Thread, park, yield_now};

/// Polls before a waiting thread gives its core away: some tens of microseconds, longer than the serial
/// stretches inside a token, and short enough not to hold up others where cores are scarce.
pub const SPINS_BEFORE_PARK: u32 = 2_000;

/// [`std::cell::UnsafeCell`] with loom's interface: a pointer for the time of a call.
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
