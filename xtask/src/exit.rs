//! Expected failures: the user's or the machine's, each with its exit code from the one table.
//!
//! In: any `anyhow::Error`. Out: the [`ExitCode`] of the process. A [`Failure`] anywhere in the chain decides;
//! an error without one is a bug in xtask and exits with [`ExitCode::Internal`].

use bitforge_schema::exit::ExitCode;
use std::fmt;
use std::io::ErrorKind;

/// An expected error. The message names what failed, the value and the remedy.
#[derive(Debug)]
pub struct Failure {
    pub code: ExitCode,
    pub message: String,
}

impl Failure {
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An `Err` with an expected failure, for `return` and match arms.
pub fn fail<T>(code: ExitCode, message: impl Into<String>) -> anyhow::Result<T> {
    Err(Failure::new(code, message).into())
}

/// The exit code that `error` stands for.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    error
        .chain()
        .find_map(|cause| {
            let full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let io = cause.downcast_ref::<std::io::Error>().filter(|error| full(error.kind()));
            cause.downcast_ref::<Failure>().map(|failure| failure.code).or(io.map(|_| ExitCode::Limit))
        })
        .unwrap_or(ExitCode::Internal)
}

/// The error and its causes on one line, outermost first.
pub fn message_of(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_keeps_its_code_under_context() {
        let error =
            fail::<()>(ExitCode::Network, "no route").context("fetching a").context("up").unwrap_err();
        assert_eq!(code_of(&error), ExitCode::Network);
        assert_eq!(message_of(&error), "up: fetching a: no route");
    }

    #[test]
    fn a_full_disk_is_a_limit() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        assert_eq!(code_of(&anyhow::Error::from(full).context("writing a")), ExitCode::Limit);
    }

    #[test]
    fn anything_else_is_a_bug() {
        assert_eq!(code_of(&anyhow::anyhow!("surprise")), ExitCode::Internal);
    }
}
