//! The server's inbox and queue, over a job that has only what they look at.

#[path = "../../../../runtime/server/src/scheduler/inbox.rs"]
pub mod inbox;
pub mod job;
#[path = "../../../../runtime/server/src/scheduler/queue.rs"]
pub mod queue;
