//! The product's files that threads meet in, compiled over loom instead of the standard library.
//!
//! In: `runtime/src/threads.rs`, `runtime/server/src/scheduler/{inbox,queue}.rs` and `metrics.rs`, the files themselves and
//! no copies. Out: the same types, for `tests/`. Deliberately absent: what a job asks for; here it only has what the inbox
//! looks at.

#[path = "../../../runtime/server/src/metrics.rs"]
pub mod metrics;
pub mod scheduler;
pub mod sync;
#[path = "../../../runtime/src/threads.rs"]
pub mod threads;
