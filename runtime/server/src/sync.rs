//! The primitives of [`crate::scheduler::inbox`], by one name: here the standard library's.
//!
//! `tools/interleavings` compiles the same `inbox.rs` over loom's, which tries every order in which threads can run.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
