//! End-to-end tests of the `bitnet` binary on the fixtures: every run is a real forward pass.
//!
//! No network, no model download, nothing timed. Snapshots are in `snapshots/`; refresh them with
//! `INSTA_UPDATE=always cargo test -p bitnet-runtime --test it` and read the difference.

mod errors;
mod formats;
mod golden;
mod interrupt;
mod logits;
mod receipt;
mod reference;
mod replay;
mod rewrite;
mod snapshots;
mod support;
