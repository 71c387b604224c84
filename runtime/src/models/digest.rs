//! Digests of files: sha256, and git's blob id, by which the hub names small files.
//!
//! In: bytes in order. Out: lower-case hexadecimal.

use super::Context;
use crate::{Error, Result};
use bitforge_schema::catalog::is_hex;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// The digest that a file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Sha256(String),
    /// sha1 over `blob LENGTH\0` and the content.
    GitBlob(String),
}

impl Expected {
    /// What a hub's entity tag says about the content: 64 digits are a sha256, 40 git's id of the blob.
    pub fn of_etag(etag: &str) -> Option<Self> {
        match etag.len() {
            64 if is_hex(etag, 64) => Some(Expected::Sha256(etag.into())),
            40 if is_hex(etag, 40) => Some(Expected::GitBlob(etag.into())),
            _ => None,
        }
    }
}

/// Hashes what it is given, in order.
pub struct Hasher {
    sha256: Sha256,
    git: Option<Sha1>,
    bytes: u64,
}

/// What was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    pub sha256: String,
    pub git: Option<String>,
    pub bytes: u64,
}

impl Hasher {
    /// For content of `bytes` bytes that should have the digest `expected`.
    pub fn new(bytes: u64, expected: Option<&Expected>) -> Self {
        let git = matches!(expected, Some(Expected::GitBlob(_)))
            .then(|| Sha1::new_with_prefix(format!("blob {bytes}\0")));
        Hasher { sha256: Sha256::new(), git, bytes: 0 }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    pub fn finish(self) -> Sums {
        let git = self.git.map(|git| hex(&git.finalize()));
        Sums { sha256: hex(&self.sha256.finalize()), git, bytes: self.bytes }
    }
}

impl Sums {
    /// # Errors
    /// [`Error::Mismatch`] that names both digests.
    pub fn check(&self, expected: &Expected, what: &str, remedy: &str) -> Result<()> {
        let (name, is, must) = match expected {
            Expected::Sha256(must) => ("sha256", Some(&self.sha256), must),
            Expected::GitBlob(must) => ("git blob id", self.git.as_ref(), must),
        };
        if is == Some(must) {
            return Ok(());
        }
        let is = is.map_or("unknown", String::as_str);
        Err(Error::mismatch(format!("{what} has the {name} {is} instead of {must}"), remedy))
    }
}

/// Reads and hashes a file, with progress.
pub fn file(ctx: &Context<'_>, path: &Path, expected: Option<&Expected>) -> Result<Sums> {
    let io = |error| Error::io(path, error);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let label = format!("verifying {}", path.file_name().unwrap_or_default().to_string_lossy());
    copy(ctx, &label, &mut file, &mut std::io::sink(), bytes, expected).map_err(io_at(path))
}

/// Copies at most one byte more than `bytes` and hashes on the way.
pub(super) fn copy(
    ctx: &Context<'_>,
    label: &str,
    from: &mut impl Read,
    to: &mut impl std::io::Write,
    bytes: u64,
    expected: Option<&Expected>,
) -> Result<Sums> {
    let io = |error| Error::io(Path::new(label), error);
    let mut from = from.take(bytes.saturating_add(1));
    let mut hasher = Hasher::new(bytes, expected);
    let mut buffer = vec![0; 1 << 20];
    loop {
        ctx.check_interrupt()?;
        let count = from.read(&mut buffer).map_err(io)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(io)?;
        let event =
            super::Event::Progress { file: label.into(), done: hasher.bytes.min(bytes), total: bytes };
        (ctx.watch)(event);
    }
}

/// Puts the true path into an I/O error that was told a label.
pub(super) fn io_at(path: &Path) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Io { source, .. } => Error::io(path, source),
        other => other,
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_names_a_blob_like_this() {
        // printf 'hello\n' | git hash-object --stdin
        let expected = Expected::of_etag("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();
        let mut hasher = Hasher::new(6, Some(&expected));
        hasher.update(b"hello\n");
        let sums = hasher.finish();
        sums.check(&expected, "it", "none").unwrap();
        let other = Expected::Sha256("0".repeat(64));
        let error = sums.check(&other, "it", "do this").unwrap_err().to_string();
        assert!(
            error.contains("it has the sha256 5891b5b522d5df08") && error.ends_with("; do this"),
            "{error}"
        );
        assert_eq!(Expected::of_etag("W-abc"), None);
    }
}
