//! The one exit-code table of every bitforge binary.
//!
//! `docs/reference/exit-codes.md` is generated from [`ExitCode::ALL`].

/// Process exit codes. The numbers are stable: scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    Ok = 0,
    Internal = 1,
    Usage = 2,
    BadInput = 3,
    NotFound = 4,
    Unavailable = 5,
    Network = 6,
    CheckFailed = 7,
    Limit = 8,
    Diverged = 9,
    Toolchain = 10,
    Machine = 11,
    Accelerator = 12,
    Gated = 13,
    Mismatch = 14,
    Offline = 15,
    Timeout = 124,
    Interrupted = 130,
}

impl ExitCode {
    pub const ALL: [ExitCode; 18] = [
        ExitCode::Ok,
        ExitCode::Internal,
        ExitCode::Usage,
        ExitCode::BadInput,
        ExitCode::NotFound,
        ExitCode::Unavailable,
        ExitCode::Network,
        ExitCode::CheckFailed,
        ExitCode::Limit,
        ExitCode::Diverged,
        ExitCode::Toolchain,
        ExitCode::Machine,
        ExitCode::Accelerator,
        ExitCode::Gated,
        ExitCode::Mismatch,
        ExitCode::Offline,
        ExitCode::Timeout,
        ExitCode::Interrupted,
    ];

    /// The name in the documentation and in JSON errors.
    pub const fn name(self) -> &'static str {
        match self {
            ExitCode::Ok => "ok",
            ExitCode::Internal => "internal",
            ExitCode::Usage => "usage",
            ExitCode::BadInput => "bad-input",
            ExitCode::NotFound => "not-found",
            ExitCode::Unavailable => "unavailable",
            ExitCode::Network => "network",
            ExitCode::CheckFailed => "check-failed",
            ExitCode::Limit => "limit",
            ExitCode::Diverged => "diverged",
            ExitCode::Toolchain => "toolchain",
            ExitCode::Machine => "machine",
            ExitCode::Accelerator => "accelerator",
            ExitCode::Gated => "gated",
            ExitCode::Mismatch => "mismatch",
            ExitCode::Offline => "offline",
            ExitCode::Timeout => "timeout",
            ExitCode::Interrupted => "interrupted",
        }
    }

    /// What happened and what a script or a person may do about it.
    pub const fn meaning(self) -> &'static str {
        match self {
            ExitCode::Ok => "everything asked for was done",
            ExitCode::Internal => "a bug in bitforge: please report it with the message",
            ExitCode::Usage => "the command line is wrong; the message says which argument",
            ExitCode::BadInput => {
                "a file is malformed or of a kind that is not supported; the message names file, offset and remedy"
            }
            ExitCode::NotFound => "a file, a model or a catalog entry does not exist",
            ExitCode::Unavailable => {
                "this machine or this build cannot do what was forced (kernel, device, backend)"
            }
            ExitCode::Network => "a download failed or a package index could not be reached",
            ExitCode::CheckFailed => {
                "a check said no: tests, lints, tidy, generated files out of date, or a substitution in strict mode"
            }
            ExitCode::Limit => "memory, disk or the context window is too small for the request",
            ExitCode::Diverged => "two engines that must agree do not",
            ExitCode::Toolchain => "preflight: a compiler or build tool is missing or too old",
            ExitCode::Machine => "preflight: the CPU, memory or disk does not suffice",
            ExitCode::Accelerator => {
                "a GPU failed: out of memory, lost, or not of a kind that the kernels are built for; in preflight: a required GPU, driver or compiler for it is missing"
            }
            ExitCode::Gated => {
                "a model needs a licence accepted, or a token whose account may have it; the message says which"
            }
            ExitCode::Mismatch => {
                "a file has another digest or size than it must have, or a tokenizer does not fit its model"
            }
            ExitCode::Offline => "something is not in the cache and the network is switched off",
            ExitCode::Timeout => "a step ran past its time limit",
            ExitCode::Interrupted => {
                "stopped by Ctrl-C or a termination signal; nothing half-written is left"
            }
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_distinct() {
        for (i, a) in ExitCode::ALL.iter().enumerate() {
            for b in &ExitCode::ALL[i + 1..] {
                assert_ne!(*a as u8, *b as u8);
                assert_ne!(a.name(), b.name());
            }
        }
    }
}
