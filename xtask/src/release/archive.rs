//! Archives whose bytes are a function of what is in them: files as ustar in zstd, and files as a zip for pip.
//!
//! In: [`Contents`], the folder that they unpack into, a time. Out: bytes, and back. Order is that of the names, owner and
//! group are 0, modes are 644 and 755, every time is the given one. [`raw`] reads the headers of any tar, for what
//! compares two of them. Deliberately absent: links, folders, the file system.

use crate::exit::{Failure, fail};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;

/// The list of digests in an archive; it has every file but itself.
pub const SUMS: &str = "SHA256SUMS";

/// More than any release holds: a small hostile file unpacks to no more.
const MAX_UNPACKED: u64 = 1 << 30;
const BLOCK: usize = 512;

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub executable: bool,
}

impl File {
    pub fn data(bytes: impl Into<Vec<u8>>) -> Self {
        File { bytes: bytes.into(), executable: false }
    }

    pub fn program(bytes: impl Into<Vec<u8>>) -> Self {
        File { bytes: bytes.into(), executable: true }
    }
}

/// Files by their path with `/`, in the order of the archive.
pub type Contents = BTreeMap<String, File>;

/// One header of a tar and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub name: String,
    pub mode: u64,
    pub owner: (u64, u64),
    pub owner_names: (String, String),
    pub mtime: u64,
    pub bytes: Vec<u8>,
}

/// Lower-case hexadecimal sha256.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of `SHA256SUMS`, as `sha256sum -c` reads it.
pub fn sums(contents: &Contents) -> String {
    let files = contents.iter().filter(|(name, _)| *name != SUMS);
    files.map(|(name, file)| format!("{}  {name}\n", digest(&file.bytes))).collect()
}

/// The archive that unpacks into `folder`.
pub fn pack(contents: &Contents, folder: &str, mtime: u64) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    for (name, file) in contents {
        let path = format!("{folder}/{name}");
        tar.extend(header(&path, file, mtime).with_context(|| format!("packing {path}"))?);
        tar.extend(&file.bytes);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    Ok(compress_to_vec(tar.as_slice(), CompressionLevel::Fastest))
}

/// What [`pack`] was given.
///
/// # Errors
/// [`ExitCode::Mismatch`] for every other sequence of bytes: each byte of an archive is looked at.
pub fn unpack(bytes: &[u8]) -> Result<(Contents, String, u64)> {
    let entries = raw(&decompress(bytes)?)?;
    let Some(first) = entries.first() else { return mismatch("the archive is empty") };
    let folder = first.name.split('/').next().unwrap_or_default().to_string();
    let mtime = first.mtime;
    let mut contents = Contents::new();
    for entry in entries {
        let Some(name) = entry.name.strip_prefix(&format!("{folder}/")) else {
            return mismatch(format!("{} lies outside of the folder {folder}", entry.name));
        };
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return mismatch(format!("{} is no path inside of {folder}", entry.name));
        }
        contents.insert(name.into(), File { bytes: entry.bytes, executable: entry.mode & 0o100 != 0 });
    }
    if pack(&contents, &folder, mtime).ok().as_deref() != Some(bytes) {
        return mismatch(
            "its bytes are not those that its files make: it was changed, or another version packed it",
        );
    }
    Ok((contents, folder, mtime))
}

fn mismatch<T>(message: impl Into<String>) -> Result<T> {
    fail(ExitCode::Mismatch, message)
}

/// The bytes in a zstd frame.
pub fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let bad = |error: &dyn std::fmt::Display| {
        Failure::new(ExitCode::Mismatch, format!("no whole zstd frame: {error}"))
    };
    let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|error| bad(&error))?;
    let mut tar = Vec::new();
    decoder.take(MAX_UNPACKED + 1).read_to_end(&mut tar).map_err(|error| bad(&error))?;
    if tar.len() as u64 > MAX_UNPACKED {
        return mismatch(format!("it unpacks to more than {MAX_UNPACKED} bytes"));
    }
    Ok(tar)
}

/// A field of an ustar header: offset and length.
type Field = (usize, usize);
const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const MTIME: Field = (136, 12);
const CHECKSUM: Field = (148, 8);
const USER: Field = (265, 32);
const GROUP: Field = (297, 32);
const PREFIX: Field = (345, 155);

fn header(path: &str, file: &File, mtime: u64) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |field: Field, text: &str| block[field.0..][..text.len()].copy_from_slice(text.as_bytes());
    let (prefix, name) = if path.len() <= NAME.1 {
        ("", path)
    } else {
        let mut slashes = path.match_indices('/').map(|(at, _)| at);
        let fits = |at: &usize| *at <= PREFIX.1 && path.len() - at - 1 <= NAME.1;
        let at = slashes.rfind(fits).context("the path is too long for a tar header")?;
        (&path[..at], &path[at + 1..])
    };
    put(NAME, name);
    put(PREFIX, prefix);
    put(MODE, if file.executable { "0000755" } else { "0000644" });
    put(UID, "0000000");
    put(GID, "0000000");
    put(SIZE, &format!("{:011o}", file.bytes.len()));
    put(MTIME, &format!("{mtime:011o}"));
    put(CHECKSUM, "        ");
    put((156, 1), "0");
    put((257, 8), "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[CHECKSUM.0..][..8].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// The regular files of a tar, with what its headers say.
pub fn raw(tar: &[u8]) -> Result<Vec<Raw>> {
    let mut entries = Vec::new();
    let mut rest = tar;
    while let Some((block, tail)) = rest.split_at_checked(BLOCK) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        let text = |field: Field| {
            let bytes = &block[field.0..][..field.1];
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let number = |field: Field| {
            u64::from_str_radix(text(field).trim(), 8).map_err(|_| {
                Failure::new(ExitCode::Mismatch, format!("a tar header has a damaged number at {}", field.0))
            })
        };
        let prefix = text(PREFIX);
        let name = if prefix.is_empty() { text(NAME) } else { format!("{prefix}/{}", text(NAME)) };
        let size = usize::try_from(number(SIZE)?).unwrap_or(usize::MAX);
        let Some((bytes, _)) = tail.split_at_checked(size) else {
            return mismatch(format!("{name} is cut short"));
        };
        if matches!(block[156], b'0' | 0) {
            entries.push(Raw {
                name,
                mode: number(MODE)?,
                owner: (number(UID)?, number(GID)?),
                owner_names: (text(USER), text(GROUP)),
                mtime: number(MTIME)?,
                bytes: bytes.to_vec(),
            });
        }
        rest = tail.get(size.next_multiple_of(BLOCK)..).unwrap_or_default();
    }
    Ok(entries)
}

/// The same files as a zip. Times are 1980: a zip has no time zone.
pub fn pack_zip(contents: &Contents) -> Result<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, file) in contents {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::default())
            .unix_permissions(if file.executable { 0o755 } else { 0o644 });
        zip.start_file(name, options).with_context(|| format!("packing {name}"))?;
        zip.write_all(&file.bytes).with_context(|| format!("packing {name}"))?;
    }
    Ok(zip.finish().context("packing")?.into_inner())
}

/// What [`pack_zip`] was given.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_zip(bytes: &[u8]) -> Result<Contents> {
    let bad =
        |error: &dyn std::fmt::Display| Failure::new(ExitCode::Mismatch, format!("no whole zip: {error}"));
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| bad(&error))?;
    let mut contents = Contents::new();
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(|error| bad(&error))?;
        let name = entry.name().to_string();
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
        let mut data = Vec::new();
        entry.take(MAX_UNPACKED).read_to_end(&mut data).map_err(|error| bad(&error))?;
        contents.insert(name, File { bytes: data, executable });
    }
    if pack_zip(&contents).ok().as_deref() != Some(bytes) {
        return mismatch(
            "its bytes are not those that its files make: it was changed, or another version packed it",
        );
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(60));
        let files = [
            ("bin/a".into(), File::program(*b"\x7fELF")),
            ("empty".into(), File::data(*b"")),
            (long, File::data(vec![7; 5000])),
        ];
        files.into()
    }

    #[test]
    fn what_is_packed_is_unpacked_and_other_bytes_are_not() {
        let bytes = pack(&contents(), "x-1", 1_700_000_000).unwrap();
        assert_eq!(unpack(&bytes).unwrap(), (contents(), "x-1".into(), 1_700_000_000));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            // One that still unpacks says something else about its files; the digests in it are then wrong.
            if let Ok((found, folder, mtime)) = unpack(&changed) {
                assert_ne!((found, folder, mtime), (contents(), "x-1".into(), 1_700_000_000), "byte {at}");
            }
        }
        assert!(unpack(&[&bytes[..], b"x"].concat()).is_err(), "a byte more");
        assert!(unpack(&bytes[..bytes.len() - 1]).is_err(), "a byte less");
    }

    #[test]
    fn a_zip_is_the_same() {
        let bytes = pack_zip(&contents()).unwrap();
        assert_eq!(unpack_zip(&bytes).unwrap(), contents());
        assert!(unpack_zip(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn other_programs_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let tar = decompress(&pack(&contents(), "x", 5).unwrap()).unwrap();
        std::fs::write(dir.path().join("x.tar"), tar).unwrap();
        let ctx = crate::ctx::Ctx::new(None, Default::default(), crate::report::Reporter::for_tests());
        let list = crate::proc::Command::new("tar").args(["--utc", "-tvf", "x.tar"]).dir(dir.path());
        let text = crate::proc::read(&ctx, &list).unwrap();
        let first = text.lines().next().unwrap();
        assert!(
            first.starts_with("-rwxr-xr-x 0/0 ") && first.ends_with(" 1970-01-01 00:00 x/bin/a"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3);
    }
}
