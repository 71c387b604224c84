//! sha256 digests of what a run depended on.

use bitforge_receipt_schema::FileFacts;
use bitforge_receipt_schema::run::{TokenizerAuthority, TokenizerFacts};
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::tokenizer::Tokenizer;
use bitnet_runtime::{Error, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes hashed between looks at the interrupt flag.
const CHUNK: usize = 64 << 20;

/// The file of these `bytes`, or of these parts one after the other (as of `cat`); `path` gives the name.
///
/// # Errors
/// [`Error::Interrupted`] where the flag is set.
pub fn file<'a>(
    path: &Path,
    parts: impl IntoIterator<Item = &'a [u8]>,
    interrupt: &AtomicBool,
) -> Result<FileFacts> {
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    for chunk in parts.into_iter().flat_map(|part| part.chunks(CHUNK)) {
        if interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        hasher.update(chunk);
        bytes += chunk.len() as u64;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(FileFacts { name, bytes, sha256: hex(hasher) })
}

/// The executable that is running, also where its file was replaced since.
pub fn executable(interrupt: &AtomicBool) -> Result<FileFacts> {
    let path = std::env::current_exe().map_err(|e| Error::io(Path::new("the running executable"), e))?;
    let running = Path::new("/proc/self/exe");
    let from = if running.exists() { running } else { &path };
    let bytes = std::fs::read(from).map_err(|e| Error::io(from, e))?;
    let mut facts = file(&path, [&bytes[..]], interrupt)?;
    // Linux marks the name of a file that was replaced.
    facts.name = facts.name.trim_end_matches(" (deleted)").to_owned();
    Ok(facts)
}

/// Over every `tokenizer.*` entry as it lies in the file: length of the key (u64), key, type id (u32), value, all
/// little-endian.
pub fn tokenizer(gguf: &Gguf, tokenizer: &Tokenizer) -> TokenizerFacts {
    let mut hasher = Sha256::new();
    for (key, value) in gguf.metadata().filter(|(key, _)| key.starts_with("tokenizer.")) {
        let mut bytes = (key.len() as u64).to_le_bytes().to_vec();
        bytes.extend(key.as_bytes());
        bytes.extend(value.type_id().to_le_bytes());
        value.encode(&mut bytes);
        hasher.update(&bytes);
    }
    let authority = if tokenizer.inferred().is_empty() {
        TokenizerAuthority::Embedded
    } else {
        TokenizerAuthority::Discovered
    };
    TokenizerFacts { authority, sha256: hex(hasher) }
}

/// Of the ids as little-endian u32.
pub fn tokens(ids: &[u32]) -> String {
    hex(Sha256::new_with_prefix(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()))
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_digests_are_over_little_endian_ids() {
        // printf '\x01\x00\x00\x00\x00\x01\x00\x00' | sha256sum
        assert_eq!(tokens(&[1, 256]), "242045e2f1bb37769b514f182fd91b3d215324cb57f187cced1e9c62921dbac3");
    }

    #[test]
    fn an_interrupt_stops_hashing() {
        assert!(matches!(file(Path::new("a"), [&[1][..]], &AtomicBool::new(true)), Err(Error::Interrupted)));
    }
}
