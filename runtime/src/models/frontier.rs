//! Hashing a file in order while its blocks arrive in any order.
//!
//! In: the numbers of finished blocks, with their bytes where memory allows. Out: the digest of the whole. A block
//! whose bytes were not kept is read back from the file, which the page cache makes cheap.

use super::digest::{Hasher, Sums};
use super::journal::{BLOCK, block_len};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

/// Blocks kept in memory at most: how far connections run ahead of the first one.
const KEPT: usize = 128;

/// Buffers of one block each, used again and again.
#[derive(Default)]
pub struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    kept: AtomicUsize,
}

impl Buffers {
    pub fn take(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.free.lock().expect("no thread panicked").pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    pub fn give(&self, buffer: Vec<u8>) {
        self.free.lock().expect("no thread panicked").push(buffer);
    }

    /// A block's bytes for the hasher, unless it has enough of them.
    pub fn hand_over(&self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.kept.fetch_add(1, Ordering::Relaxed) < KEPT {
            return Some(buffer);
        }
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.give(buffer);
        None
    }

    fn hashed(&self, buffer: Vec<u8>) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.give(buffer);
    }
}

/// Hashes until all blocks came or the senders are gone; `None` then. `have` are the blocks there at the beginning,
/// of which `hasher` has seen those before the first missing one.
pub fn hash(
    file: &File,
    bytes: u64,
    mut have: Vec<bool>,
    mut hasher: Hasher,
    buffers: &Buffers,
    finished: &Receiver<(usize, Option<Vec<u8>>)>,
) -> io::Result<Option<Sums>> {
    let mut next = have.iter().position(|have| !have).unwrap_or(have.len());
    let mut kept: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    while next < have.len() {
        let Ok((index, block)) = finished.recv() else { return Ok(None) };
        have[index] = true;
        kept.extend(block.map(|block| (index, block)));
        while next < have.len() && have[next] {
            match kept.remove(&next) {
                Some(block) => {
                    hasher.update(&block);
                    buffers.hashed(block);
                }
                None => {
                    let mut block = buffers.take(block_len(bytes, next));
                    file.read_exact_at(&mut block, next as u64 * BLOCK)?;
                    hasher.update(&block);
                    buffers.give(block);
                }
            }
            next += 1;
        }
    }
    Ok(Some(hasher.finish()))
}
