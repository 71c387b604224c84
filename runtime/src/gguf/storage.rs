//! The bytes of a file, mapped or read.
//!
//! In: a path or bytes. Out: one slice for the life of the value, aligned to at least `ALIGNMENT` when
//! read (a mapping is aligned to a page). Deliberately absent: any look at what the bytes mean.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
#[cfg(unix)]
use std::ops::Range;
use std::path::Path;

/// Alignment in bytes of a file that was read: one cache line, and more than any SIMD load needs.
const ALIGNMENT: usize = 64;

/// How the file's bytes come into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mapping {
    /// Map the file: pages load on first use and are shared between processes.
    ///
    /// The length is checked when the file is opened. If another process truncates the file afterwards,
    /// touching the lost pages raises SIGBUS and ends this process; use [`Mapping::Read`] where a file may
    /// change while it is in use.
    #[default]
    Mmap,
    /// Read the whole file into memory.
    Read,
}

pub(crate) enum Storage {
    Mapped(memmap2::Mmap),
    Read(AlignedBuffer),
}

impl Storage {
    pub(crate) fn open(path: &Path, mapping: Mapping) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::unsupported(path, "not a regular file", "give the path of a regular file"));
        }
        let len = usize::try_from(metadata.len()).map_err(|_| {
            Error::limit(format!("{}: larger than the address space", path.display()), "use a 64-bit build")
        })?;
        match mapping {
            Mapping::Mmap if len > 0 => {
                // SAFETY: the mapping is private and read-only, and this process never writes to the file.
                // What cannot be ruled out is another process changing it; `Mapping::Mmap` documents that.
                let map = unsafe { memmap2::MmapOptions::new().len(len).map_copy_read_only(&file) };
                map.map(Storage::Mapped).map_err(io)
            }
            _ => {
                let mut buffer = AlignedBuffer::with_capacity(len).map_err(|_| {
                    Error::limit(
                        format!("{}: no memory for its {len} bytes", path.display()),
                        "map the file instead of reading it, or use a smaller model",
                    )
                })?;
                let read = file.take(len as u64).read_to_end(&mut buffer.allocation).map_err(io)?;
                if read != len {
                    let what = format!("the file shrank from {len} bytes while it was read");
                    return Err(Error::malformed(
                        path,
                        read as u64,
                        what,
                        "try again when nothing writes to it",
                    ));
                }
                Ok(Storage::Read(buffer))
            }
        }
    }

    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = AlignedBuffer::with_capacity(bytes.len()).expect("as much again as is in memory");
        buffer.allocation.extend_from_slice(bytes);
        Storage::Read(buffer)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Storage::Mapped(map) => map,
            Storage::Read(buffer) => buffer.bytes(),
        }
    }

    /// Takes the pages of a mapping that hold `part` out of this process's memory; they load again when they are
    /// touched. Nothing where the file was read, or where `part` is not a slice of [`Self::bytes`].
    pub(crate) fn forget(&self, part: &[u8]) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = self
            && let Some(pages) = pages_of(part, map)
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies inside a mapping that is never written to, so its pages load again with the
            // same bytes.
            let advised = unsafe { map.unchecked_advise_range(advice, pages.start, pages.len()) };
            // An advice that is not taken costs memory and nothing else.
            drop(advised);
        }
    }
}

/// Where in `map` the pages lie that hold `part`; `None` where it is no slice of it.
#[cfg(unix)]
fn pages_of(part: &[u8], map: &[u8]) -> Option<Range<usize>> {
    let first = part.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
    let start = first / FORGET_ALIGNMENT * FORGET_ALIGNMENT;
    let end = (first + part.len()).next_multiple_of(FORGET_ALIGNMENT).min(map.len());
    (start < end).then_some(start..end)
}

/// The largest page size in use.
#[cfg(unix)]
const FORGET_ALIGNMENT: usize = 1 << 16;

/// A vector whose used part starts at a multiple of `ALIGNMENT`; filled within its capacity, so that the
/// allocation never moves.
pub(crate) struct AlignedBuffer {
    allocation: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn with_capacity(len: usize) -> std::result::Result<Self, std::collections::TryReserveError> {
        let mut allocation: Vec<u8> = Vec::new();
        allocation.try_reserve_exact(len.saturating_add(ALIGNMENT))?;
        let start = allocation.as_ptr().addr().wrapping_neg() % ALIGNMENT;
        allocation.resize(start, 0);
        Ok(AlignedBuffer { allocation, start })
    }

    fn bytes(&self) -> &[u8] {
        &self.allocation[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_bytes_are_aligned_and_equal() {
        for len in [0, 1, 63, 64, 1000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let storage = Storage::copy_of(&bytes);
            assert_eq!(storage.bytes(), bytes);
            assert_eq!(storage.bytes().as_ptr().addr() % ALIGNMENT, 0);
        }
    }

    #[test]
    fn a_file_is_mapped_where_that_was_asked_for_and_it_has_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        assert!(matches!(Storage::open(&path, Mapping::Mmap).unwrap(), Storage::Mapped(_)));
        assert!(matches!(Storage::open(&path, Mapping::Read).unwrap(), Storage::Read(_)));
        std::fs::write(&path, "").unwrap();
        let empty = Storage::open(&path, Mapping::Mmap).unwrap();
        assert!(matches!(empty, Storage::Read(_)) && empty.bytes().is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn whole_pages_of_a_part_are_forgotten_and_none_outside() {
        const PAGE: usize = 1 << 16;
        let file = vec![0u8; 3 * PAGE + 100];
        let pages = |range: Range<usize>| pages_of(&file[range], &file);
        assert_eq!(pages(PAGE + 10..PAGE + 20), Some(PAGE..2 * PAGE));
        assert_eq!(pages(PAGE..2 * PAGE), Some(PAGE..2 * PAGE));
        assert_eq!(pages(PAGE - 1..2 * PAGE + 1), Some(0..3 * PAGE));
        assert_eq!(
            pages(3 * PAGE + 1..3 * PAGE + 2),
            Some(3 * PAGE..3 * PAGE + 100),
            "up to the end of the file"
        );
        assert_eq!(pages_of(&file[PAGE..PAGE + 10], &file[..PAGE]), None);
        assert_eq!(pages_of(&file[..10], &file[PAGE..]), None);
    }
}
