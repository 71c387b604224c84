//! What `crate::sync` of the runtime and of the server have, from loom.

pub use loom::cell::UnsafeCell;
pub use loom::hint::spin_loop;
pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub use loom::thread::{Builder, JoinHandle, Thread, park, yield_now};
pub use std::sync::PoisonError;

/// The fewest with which a waiting thread both polls and parks: more are more orders and no other outcome.
pub const SPINS_BEFORE_PARK: u32 = 2;
