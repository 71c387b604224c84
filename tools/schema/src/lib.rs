//! What the bitforge binaries (`bitnet`, `xtask`, the reference drivers) agree on.
//!
//! Types and tables only: exit codes, the registry of environment variables, cache paths, the catalog of models, the
//! selection line and the engine protocol.
//! Deliberately absent: any behaviour, any dependency on the runtime or on xtask.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod env;
pub mod exit;
pub mod markdown;
pub mod paths;
pub mod protocol;
pub mod selection;
