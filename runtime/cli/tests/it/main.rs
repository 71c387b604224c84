//! End-to-end tests of the `bitnet` binary on the fixtures: every run is a real forward pass.
//!
//! No network, no model download, nothing timed. Snapshots are in `snapshots/`; refresh them with
//! `INSTA_UPDATE=always cargo test -p bitnet-runtime --test it` and read the difference.

mod chat;
mod errors;
mod fetch_cache;
mod fetch_cli;
mod fetch_faults;
mod fetch_support;
mod formats;
mod golden;
mod interrupt;
mod kernels;
mod logits;
mod pages;
mod perplexity;
mod pty;
mod receipt;
mod reference;
mod replay;
mod rewrite;
#[cfg(feature = "server")]
mod serve;
mod snapshots;
mod support;
