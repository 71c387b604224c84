//! The unfinished file of a download and its journal: which blocks have arrived, and what each should read.
//!
//! Beside `TARGET` lie `TARGET.partial`, of the full length with holes, and `TARGET.journal`: a line of JSON that says
//! what is being fetched, then eight bytes for each block, its number and its CRC-32, little-endian. A block is
//! written before its record, and a record is written by one call, so that kill -9 loses at most the block that each
//! connection is at. A block that came fast goes to the disk past the page cache, where the file system can do that. After a power failure a block may lack what its record promises: [`Partial::open`] reads every
//! block again and forgets those. (The file as a whole is judged by its sha256.)

use super::digest::{Expected, Hasher};
use super::{Context, place, with_suffix};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes of a block, the unit of what is fetched again.
pub const BLOCK: u64 = 1 << 20;

/// What the blocks are of: another source, length or digest makes them worthless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub source: String,
    pub bytes: u64,
    pub block: u64,
    /// The digest, or the entity tag where there is none.
    pub content: Option<String>,
}

pub struct Partial {
    pub path: PathBuf,
    journal_path: PathBuf,
    pub file: File,
    /// The same file past the page cache.
    direct: Option<File>,
    journal: File,
    pub have: Vec<bool>,
    /// Has seen the blocks before the first missing one.
    pub hasher: Hasher,
}

/// Whether a block stays in the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// So that what runs next reads from memory.
    Through,
    /// So that the processor does not spend a copy and a page on each 4 KiB.
    Past,
}

/// Number of blocks of a file.
pub fn blocks(bytes: u64) -> usize {
    bytes.div_ceil(BLOCK) as usize
}

/// Length of block `index`.
pub fn block_len(bytes: u64, index: usize) -> usize {
    (bytes - index as u64 * BLOCK).min(BLOCK) as usize
}

impl Partial {
    /// Goes on with what lies there where it is of the same `identity`, otherwise begins anew.
    pub fn open(
        ctx: &Context<'_>,
        target: &Path,
        identity: &Identity,
        expected: Option<&Expected>,
    ) -> Result<Self> {
        let path = with_suffix(target, ".partial");
        let journal_path = with_suffix(target, ".journal");
        // What is allocated already need not be free; a length out of this world ends here.
        let allocated = fs::metadata(&path).map_or(0, |meta| meta.blocks().saturating_mul(512));
        place::require_space(
            path.parent().unwrap_or(Path::new(".")),
            identity.bytes.saturating_sub(allocated),
        )?;
        let records = read(&journal_path, identity);
        let fits = fs::metadata(&path).is_ok_and(|meta| meta.len() == identity.bytes);
        let (mut have, mut crcs) = (vec![false; blocks(identity.bytes)], vec![0u32; blocks(identity.bytes)]);
        match records.filter(|_| fits) {
            Some(records) => {
                for (index, crc) in records {
                    (have[index], crcs[index]) = (true, crc);
                }
            }
            None => discard(target)?,
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|error| Error::io(&path, error))?;
        file.set_len(identity.bytes).map_err(|error| Error::io(&path, error))?;
        reserve(&file, identity.bytes).map_err(|error| Error::io(&path, error))?;
        let hasher = check(ctx, &path, &file, identity.bytes, &mut have, &crcs, expected)?;
        let journal = begin(&journal_path, identity, &have, &crcs)?;
        let direct = open_direct(&path);
        Ok(Partial { path, journal_path, file, direct, journal, have, hasher })
    }

    /// Writes block `index` and says so in the journal.
    pub fn write(&self, index: usize, block: &[u8], crc: u32, how: Caching) -> Result<()> {
        let offset = index as u64 * BLOCK;
        let direct = self.direct.as_ref().filter(|_| how == Caching::Past && block.len() as u64 == BLOCK);
        // A refusal (of the alignment, say) costs a call and nothing else.
        if direct.is_none_or(|file| file.write_all_at(block, offset).is_err()) {
            self.file.write_all_at(block, offset).map_err(|error| Error::io(&self.path, error))?;
            start_writeback(&self.file, offset, block.len());
        }
        let mut record = [0; 8];
        record[..4].copy_from_slice(&(index as u32).to_le_bytes());
        record[4..].copy_from_slice(&crc.to_le_bytes());
        (&self.journal).write_all(&record).map_err(|error| Error::io(&self.journal_path, error))
    }

    /// Makes the whole file visible and ends the journal.
    pub fn publish(self, target: &Path) -> Result<()> {
        place::publish(&self.path, target)?;
        place::remove(&self.journal_path)
    }
}

/// Removes what a download left.
pub fn discard(target: &Path) -> Result<()> {
    place::remove(&with_suffix(target, ".journal"))?;
    place::remove(&with_suffix(target, ".partial"))
}

/// The records of a journal of this identity, without one that was cut short.
fn read(path: &Path, identity: &Identity) -> Option<Vec<(usize, u32)>> {
    let bytes = fs::read(path).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let found: Identity = serde_json::from_slice(&bytes[..end]).ok()?;
    if found != *identity {
        return None;
    }
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let records = bytes[end + 1..].chunks_exact(8);
    let records: Vec<(usize, u32)> =
        records.map(|record| (number(&record[..4]) as usize, number(&record[4..]))).collect();
    records.iter().all(|(index, _)| *index < blocks(identity.bytes)).then_some(records)
}

/// Forgets blocks that do not read as recorded; hashes those before the first missing one.
fn check(
    ctx: &Context<'_>,
    path: &Path,
    file: &File,
    bytes: u64,
    have: &mut [bool],
    crcs: &[u32],
    expected: Option<&Expected>,
) -> Result<Hasher> {
    let mut hasher = Hasher::new(bytes, expected);
    let mut buffer = vec![0; BLOCK as usize];
    let mut whole_so_far = true;
    for index in 0..have.len() {
        if have[index] {
            ctx.check_interrupt()?;
            let block = &mut buffer[..block_len(bytes, index)];
            file.read_exact_at(block, index as u64 * BLOCK).map_err(|error| Error::io(path, error))?;
            have[index] = crc32fast::hash(block) == crcs[index];
            if have[index] && whole_so_far {
                hasher.update(block);
            }
        }
        whole_so_far &= have[index];
    }
    Ok(hasher)
}

/// A journal that says what is known to be there, replacing the old one at once.
fn begin(path: &Path, identity: &Identity, have: &[bool], crcs: &[u32]) -> Result<File> {
    let mut content = serde_json::to_vec(identity).expect("keys are strings");
    content.push(b'\n');
    for (index, crc) in crcs.iter().enumerate().filter(|(index, _)| have[*index]) {
        content.extend((index as u32).to_le_bytes());
        content.extend(crc.to_le_bytes());
    }
    let new = with_suffix(path, ".new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, path)).map_err(|error| Error::io(path, error))?;
    File::options().append(true).open(path).map_err(|error| Error::io(path, error))
}

/// Claims the space of the whole file, where the file system can do that.
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    if bytes > 0 {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open and the call takes plain integers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as i64) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Err(error);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, bytes);
    Ok(())
}

fn open_direct(path: &Path) -> Option<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        None
    }
}

/// Lets the disk begin, so that the sync at the end finds little to do.
fn start_writeback(file: &File, offset: u64, len: usize) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open and the call takes plain integers. Its outcome does not matter: the file is
        // synced before it is published.
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), offset as i64, len as i64, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::with_context;
    use super::*;

    fn identity(bytes: u64) -> Identity {
        Identity { source: "s".into(), bytes, block: BLOCK, content: None }
    }

    fn block(bytes: u64, index: usize) -> Vec<u8> {
        vec![index as u8 + 1; block_len(bytes, index)]
    }

    #[test]
    fn what_was_recorded_is_there_again_and_what_was_damaged_is_not() {
        let bytes = 3 * BLOCK + 5;
        with_context(&[], |ctx, dir| {
            let target = dir.join("file");
            let open = |identity: &Identity| Partial::open(ctx, &target, identity, None).unwrap();
            let partial = open(&identity(bytes));
            assert_eq!(partial.have, [false; 4]);
            for index in [3, 0, 1] {
                let block = block(bytes, index);
                let how = if index == 0 { Caching::Past } else { Caching::Through };
                partial.write(index, &block, crc32fast::hash(&block), how).unwrap();
            }
            drop(partial);
            let partial = open(&identity(bytes));
            assert_eq!(partial.have, [true, true, false, true]);
            let seen = [block(bytes, 0), block(bytes, 1)].concat();
            assert_eq!(partial.hasher.finish().sha256, super::super::digest::sha256(&seen));

            // A record cut short, as a full disk leaves it, and a block that the disk never got.
            let journal = with_suffix(&target, ".journal");
            let mut content = fs::read(&journal).unwrap();
            content.extend([2, 0, 0]);
            fs::write(&journal, content).unwrap();
            let file = File::options().write(true).open(with_suffix(&target, ".partial")).unwrap();
            file.write_all_at(&[0; 512], 100).unwrap();
            assert_eq!(open(&identity(bytes)).have, [false, true, false, true]);

            // Of something else: begun anew.
            let other = Identity { content: Some("tag".into()), ..identity(bytes) };
            assert_eq!(open(&other).have, [false; 4]);
        });
    }

    #[test]
    fn a_journal_of_nonsense_is_not_believed() {
        with_context(&[], |ctx, dir| {
            let target = dir.join("file");
            drop(Partial::open(ctx, &target, &identity(BLOCK), None).unwrap());
            let journal = with_suffix(&target, ".journal");
            let mut content = fs::read(&journal).unwrap();
            content.extend([255; 8]);
            fs::write(&journal, content).unwrap();
            assert_eq!(Partial::open(ctx, &target, &identity(BLOCK), None).unwrap().have, [false]);
        });
    }

    #[test]
    fn no_space_is_said_before_anything_is_fetched() {
        with_context(&[], |ctx, dir| {
            let error = Partial::open(ctx, &dir.join("file"), &identity(1 << 60), None).err().unwrap();
            assert_eq!(error.exit_code(), bitforge_schema::exit::ExitCode::Limit);
            assert!(error.to_string().contains("free some, or set"), "{error}");
            assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
        });
    }
}
