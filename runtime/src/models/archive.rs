//! One member out of a zip archive that somebody else made.
//!
//! In: an archive, a member's name, the size it may have. Out: its bytes, hashed while they are written. Refused: too
//! many entries, members that are links, folders or encrypted, that are larger than they say or than allowed, and
//! compressed data that grows beyond what deflate can do honestly. Members are only ever read by a name that the
//! caller checked, and written under a name that the caller chose.

use super::Context;
use super::digest::{self, Expected, Sums};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

const MAX_ENTRIES: usize = 100_000;
/// Deflate cannot shrink anything to less than a part in 1032.
const MAX_RATIO: u64 = 1032;

pub struct Archive {
    path: PathBuf,
    zip: ZipArchive<BufReader<File>>,
}

impl Archive {
    /// # Errors
    /// Something that is no archive or has absurdly many entries.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| bad(path, &error.to_string()))?;
        if zip.len() > MAX_ENTRIES {
            return Err(bad(path, &format!("it has {} entries", zip.len())));
        }
        Ok(Archive { path: path.into(), zip })
    }

    /// Bytes that member `name` says it has.
    pub fn size(&mut self, name: &str) -> Result<u64> {
        let path = self.path.clone();
        let entry = self.zip.by_name(name).map_err(|error| bad(&path, &format!("member {name}: {error}")))?;
        if entry.is_symlink() || entry.is_dir() || entry.encrypted() {
            return Err(bad(&path, &format!("member {name} is a link, a folder or encrypted")));
        }
        if entry.size() / MAX_RATIO > entry.compressed_size() {
            let (is, of) = (entry.size(), entry.compressed_size());
            return Err(bad(&path, &format!("member {name} claims {is} bytes out of {of}")));
        }
        Ok(entry.size())
    }

    /// Copies member `name`, which must have `bytes` bytes, to `to`.
    pub fn extract(
        &mut self,
        ctx: &Context<'_>,
        name: &str,
        bytes: u64,
        expected: Option<&Expected>,
        to: &mut impl Write,
    ) -> Result<Sums> {
        let size = self.size(name)?;
        if size != bytes {
            return Err(Error::mismatch(
                format!("{}: member {name} has {size} bytes instead of {bytes}", self.path.display()),
                "do not use this archive",
            ));
        }
        let path = &self.path;
        let mut entry =
            self.zip.by_name(name).map_err(|error| bad(path, &format!("member {name}: {error}")))?;
        let label = format!("extracting {}", name.rsplit('/').next().unwrap_or(name));
        let sums = digest::copy(ctx, &label, &mut entry, to, bytes, expected).map_err(digest::io_at(path))?;
        if sums.bytes != bytes {
            return Err(bad(path, &format!("member {name} does not have the {bytes} bytes it claims")));
        }
        Ok(sums)
    }
}

fn bad(path: &Path, what: &str) -> Error {
    Error::unsupported(
        path,
        format!("not a usable archive: {what}"),
        "get another copy; do not unpack this one",
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::with_context;
    use super::*;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn archive(dir: &Path, fill: impl FnOnce(&mut ZipWriter<File>)) -> PathBuf {
        let path = dir.join("a.zip");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        fill(&mut zip);
        zip.finish().unwrap();
        path
    }

    #[test]
    fn an_honest_member_comes_out_and_others_do_not() {
        with_context(&[], |ctx, dir| {
            let path = archive(dir, |zip| {
                zip.start_file("good", SimpleFileOptions::default()).unwrap();
                zip.write_all(b"content").unwrap();
                zip.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
                zip.add_directory("folder", SimpleFileOptions::default()).unwrap();
            });
            let mut archive = Archive::open(&path).unwrap();
            let mut out = Vec::new();
            let sums = archive.extract(ctx, "good", 7, None, &mut out).unwrap();
            assert_eq!((out.as_slice(), sums.sha256), (&b"content"[..], digest::sha256(b"content")));
            assert!(archive.extract(ctx, "good", 8, None, &mut Vec::new()).is_err());
            for name in ["link", "folder/", "absent", "../good"] {
                assert!(archive.size(name).is_err(), "{name}");
            }
        });
    }

    /// A member that claims less, or more, than its data gives: the sizes in both headers are rewritten.
    #[test]
    fn a_member_that_lies_about_its_size_is_refused() {
        with_context(&[], |ctx, dir| {
            let len = 1 << 20;
            let path = archive(dir, |zip| {
                zip.start_file("bomb", SimpleFileOptions::default()).unwrap();
                zip.write_all(&vec![0; len]).unwrap();
            });
            let honest = std::fs::read(&path).unwrap();
            let real = (len as u32).to_le_bytes();
            for claimed in [1u32, 1 << 19, 1 << 21, u32::MAX - 1] {
                let mut bytes = honest.clone();
                let at: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == real).collect();
                assert!(!at.is_empty());
                at.iter().for_each(|at| bytes[*at..*at + 4].copy_from_slice(&claimed.to_le_bytes()));
                std::fs::write(&path, bytes).unwrap();
                let mut out = Vec::new();
                let outcome = Archive::open(&path)
                    .and_then(|mut archive| archive.extract(ctx, "bomb", claimed.into(), None, &mut out));
                assert!(outcome.is_err(), "{claimed}");
                assert!(out.len() <= len + 1, "{claimed}: {} bytes were written", out.len());
            }
        });
    }

    #[test]
    fn absurd_counts_are_refused() {
        with_context(&[], |_, dir| {
            let path = archive(dir, |zip| {
                zip.start_file("a", SimpleFileOptions::default()).unwrap();
            });
            let mut bytes = std::fs::read(&path).unwrap();
            let end = bytes.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
            bytes[end + 8..end + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
            std::fs::write(&path, bytes).unwrap();
            assert!(Archive::open(&path).is_err());
            std::fs::write(&path, b"PK\x05\x06").unwrap();
            assert!(Archive::open(&path).is_err());
        });
    }
}
