//! An OpenAI-compatible HTTP server over [`bitnet_runtime`], with continuous batching.
//!
//! In: a loader of a model and [`Settings`]. Out: answers over HTTP that are, token by token, those that a single request
//! would get. Two halves that meet in `scheduler::inbox`: `http` on an asynchronous pool, which never computes, and one
//! engine thread per model, which never waits for a socket. Deliberately absent: the command line (`bitnet serve`).

mod api;
mod engine_thread;
pub mod grammar;
mod http;
mod metrics;
mod model;
mod scheduler;
mod server;
mod settings;
mod sync;

pub use engine_thread::Loader;
pub use http::openapi::document as openapi;
pub use model::{About, Loaded};
pub use scheduler::SchedulerLimits;
pub use scheduler::queue::QueueLimits;
pub use server::{End, Server};
pub use settings::{ApiKey, HttpLimits, Settings, TlsFiles};
