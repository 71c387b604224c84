//! From a path to libraries: mapping the file, telling formats apart, splitting fat files.
//!
//! In: a path. Out: one `Library`, or one per architecture of a fat Mach-O file. A file is mapped, so only
//! the pages that are looked at are read. A file that another process cuts short while it is mapped ends
//! this process with SIGBUS; `--no-mmap` reads it into memory instead.

use super::formats::{archive, coff, elf, macho, read_pe};
use super::model::Library;
use object::Endianness;
use object::elf::{FileHeader32, FileHeader64};
use object::macho::{MachHeader32, MachHeader64};
use object::pe::{AnonObjectHeaderBigobj, ImageFileHeader, ImageNtHeaders32, ImageNtHeaders64};
use object::read::FileKind;
use object::read::macho::{FatArch, MachOFatFile32, MachOFatFile64};
use std::fs::File;
use std::path::Path;

/// A fat file with more architectures is taken for damage; slices may overlap, so each costs a whole read.
const MAX_SLICES: usize = 32;

/// How to read symbols.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Read the full symbol table with its local symbols, where there is one.
    pub(crate) all_symbols: bool,
}

/// The bytes of a file.
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// How to get at a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Map,
    Read,
}

/// The bytes of the file at `path`. Errors are for people and name no path.
pub(crate) fn bytes(path: &Path, access: Access) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::Error::other("is a directory; give the library files in it"));
    }
    if access == Access::Read || !metadata.is_file() || metadata.len() == 0 {
        return std::fs::read(path).map(Bytes::Read);
    }
    // SAFETY: the mapping is private and read-only, and lives as long as what is parsed from it. If another
    // process shortens the file meanwhile, touching the lost pages raises SIGBUS, which ends the process: a
    // documented limit, not undefined behaviour in it, and `--no-mmap` avoids it.
    unsafe { memmap2::Mmap::map(&file) }.map(Bytes::Mapped)
}

/// Everything in the file `data`, found at `path`, sorted and ready to report.
pub(crate) fn read<'d>(path: &str, data: &'d [u8], options: &Options) -> Result<Vec<Library<'d>>, String> {
    let mut libraries = match FileKind::parse(data) {
        Ok(FileKind::MachOFat32) => {
            let file = MachOFatFile32::parse(data).map_err(|error| error.to_string())?;
            read_slices(path, data, file.arches(), options)?
        }
        Ok(FileKind::MachOFat64) => {
            let file = MachOFatFile64::parse(data).map_err(|error| error.to_string())?;
            read_slices(path, data, file.arches(), options)?
        }
        _ => vec![read_slice(path, data, options)?],
    };
    for library in &mut libraries {
        library.sort();
        super::hardening::from_symbols(library);
    }
    Ok(libraries)
}

fn read_slices<'d, Fat: FatArch>(
    path: &str,
    data: &'d [u8],
    slices: &'d [Fat],
    options: &Options,
) -> Result<Vec<Library<'d>>, String> {
    if slices.is_empty() || slices.len() > MAX_SLICES {
        return Err(format!("a fat file of {} architectures", slices.len()));
    }
    let mut total = 0u64;
    slices
        .iter()
        .enumerate()
        .map(|(index, slice)| {
            let (offset, size) = slice.file_range();
            total = total.saturating_add(size);
            if total > data.len() as u64 {
                return Err("the architectures of the fat file overlap".to_owned());
            }
            let bytes = slice.data(data).map_err(|error| format!("architecture {index}: {error}"))?;
            read_slice(path, bytes, options)
                .map_err(|error| format!("architecture {index} at offset {offset:#x}: {error}"))
        })
        .collect()
}

fn read_slice<'d>(path: &str, data: &'d [u8], options: &Options) -> Result<Library<'d>, String> {
    if data.starts_with(b"!<") || data.starts_with(b"<bigaf>") {
        return archive::read(path, data, options);
    }
    read_image(path, data, options).unwrap_or_else(|| {
        let start: Vec<String> = data.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Err(match start.len() {
            4 => {
                format!("not an ELF, Mach-O, PE or COFF file or archive (it starts with {})", start.join(" "))
            }
            _ => format!("not a library: the file has {} bytes", data.len()),
        })
    })
}

/// One image: no archive, no fat file. `None` where `data` is of none of the formats.
pub(super) fn read_image<'d>(
    path: &str,
    data: &'d [u8],
    options: &Options,
) -> Option<Result<Library<'d>, String>> {
    Some(match FileKind::parse(data).ok()? {
        FileKind::Elf32 => elf::read::<FileHeader32<Endianness>>(path, data, options),
        FileKind::Elf64 => elf::read::<FileHeader64<Endianness>>(path, data, options),
        FileKind::MachO32 => macho::read::<MachHeader32<Endianness>>(path, data, options),
        FileKind::MachO64 => macho::read::<MachHeader64<Endianness>>(path, data, options),
        FileKind::Pe32 => read_pe::<ImageNtHeaders32>(path, data),
        FileKind::Pe64 => read_pe::<ImageNtHeaders64>(path, data),
        FileKind::Coff => coff::read::<ImageFileHeader>(path, data, options),
        FileKind::CoffBig => coff::read::<AnonObjectHeaderBigobj>(path, data, options),
        FileKind::CoffImport => coff::read_import(path, data),
        _ => return None,
    })
}
