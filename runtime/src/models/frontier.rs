//! Hashing a file in order while its blocks arrive in any order.
//!
//! In: the numbers of finished blocks, with their bytes where memory allows. Out: the digest of the whole. A block
//! whose bytes were not kept is read back from the file, which the page cache makes cheap.

use super::digest::{Hasher, Sums};
use super::journal::{BLOCK, block_len};
use memmap2::MmapMut;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

/// Blocks kept in memory at most: how far connections run ahead of the first one.
const KEPT: usize = 128;
/// Finished blocks that wait for the hasher at most; connections wait then, too.
pub const QUEUE: usize = 8;

/// A finished block: its number, and its bytes where they were kept.
pub type Finished<'m> = (usize, Option<Block<'m>>);

/// Memory of one block; it begins at a page, as writing past the page cache wants it.
pub struct Block<'m> {
    memory: &'m mut [u8],
    len: usize,
}

impl Deref for Block<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Block<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

/// Memory for all blocks that `connections` and the hasher can hold at a time, in huge pages where the system has
/// them. What is never used costs nothing.
pub fn memory(connections: usize) -> io::Result<MmapMut> {
    let memory = MmapMut::map_anon((connections + KEPT + 1) * BLOCK as usize)?;
    // A wish: four times fewer misses of address translation, and fewer pieces for the disk.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

/// The blocks of a [`memory`], used again and again.
pub struct Buffers<'m> {
    free: Mutex<Vec<Block<'m>>>,
    kept: AtomicUsize,
}

impl<'m> Buffers<'m> {
    pub fn new(memory: &'m mut MmapMut) -> Self {
        let blocks = memory.chunks_exact_mut(BLOCK as usize).map(|memory| Block { memory, len: 0 });
        Buffers { free: Mutex::new(blocks.rev().collect()), kept: AtomicUsize::new(0) }
    }

    /// `None` once the hasher gave up with blocks in its hands: there is one for each connection, each kept block and
    /// the hasher.
    pub fn take(&self, len: usize) -> Option<Block<'m>> {
        let free = self.free.lock().expect("no thread panicked").pop()?;
        Some(Block { len, ..free })
    }

    pub fn give(&self, block: Block<'m>) {
        self.free.lock().expect("no thread panicked").push(block);
    }

    /// A block's bytes for the hasher, unless it has enough of them.
    pub fn hand_over(&self, block: Block<'m>) -> Option<Block<'m>> {
        if self.kept.fetch_add(1, Ordering::Relaxed) < KEPT {
            return Some(block);
        }
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.give(block);
        None
    }

    fn hashed(&self, block: Block<'m>) {
        self.kept.fetch_sub(1, Ordering::Relaxed);
        self.give(block);
    }
}

/// Hashes until all blocks came or the senders are gone; `None` then. `have` are the blocks there at the beginning,
/// of which `hasher` has seen those before the first missing one.
pub fn hash<'m>(
    file: &File,
    bytes: u64,
    mut have: Vec<bool>,
    mut hasher: Hasher,
    buffers: &Buffers<'m>,
    finished: &Receiver<Finished<'m>>,
) -> io::Result<Option<Sums>> {
    let mut next = have.iter().position(|have| !have).unwrap_or(have.len());
    let mut kept: BTreeMap<usize, Block<'m>> = BTreeMap::new();
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
                    let mut block = buffers.take(block_len(bytes, next)).ok_or(io::ErrorKind::OutOfMemory)?;
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
