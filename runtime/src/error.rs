//! The runtime's error type: what failed, where (path, offset, value), what to do.
//!
//! Every variant maps to one exit code of [`bitforge_schema::exit`]. Messages are lower case, without a
//! full stop, and end with the remedy.

use bitforge_schema::exit::ExitCode;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that is not what it must be. `offset` is in bytes from the start of the file.
    #[error("{}: {what} (at byte offset {offset}); {remedy}", path.display())]
    Malformed { path: PathBuf, offset: u64, what: String, remedy: String },
    /// A well-formed file that asks for something this runtime does not do.
    #[error("{}: {what}; {remedy}", path.display())]
    Unsupported { path: PathBuf, what: String, remedy: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{what}; {remedy}")]
    NotFound { what: String, remedy: String },
    /// A forced kernel set or device that this machine or build cannot run.
    #[error("{what}; {remedy}")]
    Unavailable { what: String, remedy: String },
    #[error("{what}; {remedy}")]
    Usage { what: String, remedy: String },
    /// Context window, memory or another bound.
    #[error("{what}; {remedy}")]
    Limit { what: String, remedy: String },
    /// A forward pass gave something that is not a number to choose a token by.
    #[error("{what}; {remedy}")]
    Numeric { what: String, remedy: String },
    /// A substitution that strict mode does not allow.
    #[error("{what}; unset BITNET_STRICT_MODE to accept that")]
    Refused { what: String },
    /// Kernels that must agree bit for bit do not.
    #[error("{what}; {remedy}")]
    Diverged { what: String, remedy: String },
    /// A device that ran out of memory, was lost, or did not do what was asked.
    #[error("{what}; {remedy}")]
    Accelerator { what: String, remedy: String },
    /// A program that is needed is missing or does not work.
    #[error("{what}; {remedy}")]
    Toolchain { what: String, remedy: String },
    /// A download failed, or a package index could not be reached.
    #[error("{what}; {remedy}")]
    Network { what: String, remedy: String },
    /// A licence to accept, or a token to give, before a model may be fetched.
    #[error("{what}; {remedy}")]
    Gated { what: String, remedy: String },
    /// A file that is not the one it must be.
    #[error("{what}; {remedy}")]
    Mismatch { what: String, remedy: String },
    /// Not in the cache, and the network is switched off.
    #[error("{what}; {remedy}")]
    Offline { what: String, remedy: String },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Malformed { .. } | Error::Unsupported { .. } | Error::Numeric { .. } => ExitCode::BadInput,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => ExitCode::NotFound,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ExitCode::Limit,
            Error::Io { .. } => ExitCode::BadInput,
            Error::NotFound { .. } => ExitCode::NotFound,
            Error::Unavailable { .. } => ExitCode::Unavailable,
            Error::Usage { .. } => ExitCode::Usage,
            Error::Limit { .. } => ExitCode::Limit,
            Error::Refused { .. } => ExitCode::CheckFailed,
            Error::Diverged { .. } => ExitCode::Diverged,
            Error::Accelerator { .. } => ExitCode::Accelerator,
            Error::Toolchain { .. } => ExitCode::Toolchain,
            Error::Network { .. } => ExitCode::Network,
            Error::Gated { .. } => ExitCode::Gated,
            Error::Mismatch { .. } => ExitCode::Mismatch,
            Error::Offline { .. } => ExitCode::Offline,
            Error::Interrupted => ExitCode::Interrupted,
        }
    }

    pub fn malformed(path: &Path, offset: u64, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Malformed { path: path.into(), offset, what: clipped(what.into()), remedy: remedy.into() }
    }

    pub fn unsupported(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Unsupported { path: path.into(), what: clipped(what.into()), remedy: remedy.into() }
    }

    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }

    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Usage { what: what.into(), remedy: remedy.into() }
    }

    pub fn limit(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Limit { what: what.into(), remedy: remedy.into() }
    }

    pub fn network(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Network { what: what.into(), remedy: remedy.into() }
    }

    pub fn not_found(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::NotFound { what: what.into(), remedy: remedy.into() }
    }

    pub fn gated(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Gated { what: what.into(), remedy: remedy.into() }
    }

    pub fn mismatch(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Error::Mismatch { what: what.into(), remedy: remedy.into() }
    }
}

/// A message that quotes a stranger's file: the middle is left out where it is long, so that no name fills a terminal.
fn clipped(what: String) -> String {
    const ENDS: usize = 800;
    if what.len() <= 2 * ENDS + 100 {
        return what;
    }
    let (head, tail) = (what.floor_char_boundary(ENDS), what.ceil_char_boundary(what.len() - ENDS));
    format!("{} ({} bytes left out) {}", &what[..head], tail - head, &what[tail..])
}
