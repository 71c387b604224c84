//! What is known about one library, and the limits that reading it keeps.
//!
//! In: nothing; the readers in `formats` fill these types. Out: `Library`, the one value that every report
//! (`table`, `json`, `cfg`, `diff`, `needs`) is made from. Symbol names borrow from the mapped file, so a
//! library of a hundred thousand exports costs one vector and no allocation per symbol. Deliberately absent:
//! any knowledge of a file format.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Container format of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Elf,
    MachO,
    Pe,
    Coff,
    Archive,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Elf => "elf",
            Format::MachO => "mach-o",
            Format::Pe => "pe",
            Format::Coff => "coff",
            Format::Archive => "archive",
        }
    }
}

/// One exported or undefined symbol.
#[derive(Clone, Debug)]
pub(crate) struct Symbol<'d> {
    /// As in the file, except that Mach-O's (and 32-bit COFF's) leading underscore is kept.
    pub(crate) name: Cow<'d, [u8]>,
    /// Address, section offset (objects) or image offset (PE); 0 for imports.
    pub(crate) address: u64,
    /// Bytes; 0 where the format does not say.
    pub(crate) size: u64,
    /// Index into [`Library::versions`]; 0 for none.
    pub(crate) version: u16,
    /// 1 + index into [`Library::needed`]; 0 for none.
    pub(crate) library: u16,
    /// The letter `nm` prints: T text, D data, B zero data, R read-only, W/V weak, U undefined, ...
    pub(crate) letter: u8,
    /// The version is the one a new link gets (`name@@VERSION`).
    pub(crate) default_version: bool,
}

/// Whether the library may be loaded more safely. `None`: the format or file kind has no such notion, or
/// does not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hardening {
    /// Stack and data pages are not executable.
    pub(crate) nx: Option<bool>,
    /// ELF relocation read-only: "none", "partial" or "full".
    pub(crate) relro: Option<&'static str>,
    /// Loadable at any address.
    pub(crate) pie: Option<bool>,
    /// At least one function checks a stack canary.
    pub(crate) stack_protector: Option<bool>,
    /// Checked libc functions in use (`__memcpy_chk`).
    pub(crate) fortified: Vec<String>,
    /// libc functions in use that have a checked twin.
    pub(crate) unfortified: Vec<String>,
}

/// Everything read from one library, or from one architecture of a fat one.
#[derive(Clone, Debug)]
pub(crate) struct Library<'d> {
    pub(crate) path: String,
    pub(crate) format: Format,
    /// What an archive's members are.
    pub(crate) member_format: Option<Format>,
    /// "shared", "executable", "object", "archive", "import-library", "core" or "other".
    pub(crate) kind: &'static str,
    pub(crate) machine: String,
    pub(crate) bits: u8,
    pub(crate) big_endian: bool,
    /// Bytes of the file, or of this architecture's part of it.
    pub(crate) file_size: u64,
    /// Soname (ELF), install name (Mach-O), export directory name (PE).
    pub(crate) name: Option<String>,
    /// GNU build id, Mach-O UUID, or PDB GUID and age, in hexadecimal.
    pub(crate) build_id: Option<String>,
    pub(crate) needed: Vec<String>,
    pub(crate) rpath: Vec<String>,
    pub(crate) runpath: Vec<String>,
    /// Version names by index; 0 and 1 are empty.
    pub(crate) versions: Vec<&'d [u8]>,
    pub(crate) versions_defined: Vec<String>,
    /// Versions required, by the library that has to provide them.
    pub(crate) versions_needed: BTreeMap<String, Vec<String>>,
    pub(crate) min_glibc: Option<String>,
    pub(crate) hardening: Hardening,
    pub(crate) exports: Vec<Symbol<'d>>,
    pub(crate) imports: Vec<Symbol<'d>>,
    /// Where symbol sizes come from: "recorded", "gaps" (distance to the next symbol) or "none".
    pub(crate) sizes: &'static str,
    pub(crate) sections: Vec<(Cow<'d, [u8]>, u64)>,
    /// Names of an archive's members, in file order.
    pub(crate) members: Vec<String>,
    /// What could not be read and why; never fatal.
    pub(crate) warnings: Vec<String>,
}

impl<'d> Library<'d> {
    pub(crate) fn new(path: &str, format: Format, kind: &'static str, file_size: usize) -> Self {
        Library {
            path: path.to_owned(),
            format,
            member_format: None,
            kind,
            machine: "unknown".to_owned(),
            bits: 0,
            big_endian: false,
            file_size: file_size as u64,
            name: None,
            build_id: None,
            needed: Vec::new(),
            rpath: Vec::new(),
            runpath: Vec::new(),
            versions: vec![b"", b""],
            versions_defined: Vec::new(),
            versions_needed: BTreeMap::new(),
            min_glibc: None,
            hardening: Hardening::default(),
            exports: Vec::new(),
            imports: Vec::new(),
            sizes: "none",
            sections: Vec::new(),
            members: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The version of `symbol` as text, `None` where it has none.
    pub(crate) fn version(&self, symbol: &Symbol<'d>) -> Option<&'d [u8]> {
        self.versions.get(usize::from(symbol.version)).copied().filter(|name| !name.is_empty())
    }

    /// The library that `symbol` is to be found in, where the format records it.
    pub(crate) fn library(&self, symbol: &Symbol<'d>) -> Option<&str> {
        let index = usize::from(symbol.library).checked_sub(1)?;
        self.needed.get(index).map(String::as_str)
    }

    /// `name` without the underscore that this file's C compiler puts before every name.
    pub(crate) fn c_name<'s>(&self, name: &'s [u8]) -> &'s [u8] {
        if self.underscored() { name.strip_prefix(b"_").unwrap_or(name) } else { name }
    }

    /// Mach-O puts an underscore before every C name, COFF does so on 32-bit x86.
    fn underscored(&self) -> bool {
        match self.member_format.unwrap_or(self.format) {
            Format::MachO => true,
            Format::Coff => self.machine == "i386",
            Format::Elf | Format::Pe | Format::Archive => false,
        }
    }

    /// Exports and imports in byte order of their names, so that output is the same on every machine.
    pub(crate) fn sort(&mut self) {
        for symbols in [&mut self.exports, &mut self.imports] {
            symbols.sort_unstable_by(|a, b| {
                (&*a.name, a.version, a.address).cmp(&(&*b.name, b.version, b.address))
            });
        }
        self.sections.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    }

    /// The export called `name` in C; needs [`Library::sort`] first.
    pub(crate) fn find_export(&self, name: &str) -> Option<&Symbol<'d>> {
        self.find(&self.exports, name)
    }

    /// The undefined symbol called `name` in C; needs [`Library::sort`] first.
    pub(crate) fn find_import(&self, name: &str) -> Option<&Symbol<'d>> {
        self.find(&self.imports, name)
    }

    fn find<'s>(&self, symbols: &'s [Symbol<'d>], name: &str) -> Option<&'s Symbol<'d>> {
        let find = |name: &[u8]| {
            let at = symbols.partition_point(|symbol| *symbol.name < *name);
            symbols.get(at).filter(|symbol| *symbol.name == *name)
        };
        if self.underscored() { find(&[b"_", name.as_bytes()].concat()) } else { find(name.as_bytes()) }
    }

    /// The `count` largest exports, largest first.
    pub(crate) fn largest_symbols(&self, count: usize) -> impl Iterator<Item = &Symbol<'d>> {
        let key = |symbol: &&Symbol<'d>| std::cmp::Reverse(symbol.size);
        let mut symbols: Vec<_> = self.exports.iter().filter(|symbol| symbol.size > 0).collect();
        if count < symbols.len() {
            // Among equals the first by name wins, so that the choice is the same on every run.
            symbols.select_nth_unstable_by_key(count, |symbol| (key(symbol), &*symbol.name));
            symbols.truncate(count);
        }
        symbols.sort_by_key(|symbol| (key(symbol), &*symbol.name));
        symbols.into_iter()
    }
}

/// Text of a name for people and JSON; bytes that are not UTF-8 become U+FFFD.
pub(crate) fn text(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(name)
}

/// Bounds the work one image may cause: names may overlap and tables may point at each other, so that a
/// small hostile file describes more than any honest one of its size could.
pub(crate) struct Budget {
    left: u64,
}

impl Budget {
    /// Eight times the image, at least 64 KiB, at most 256 MiB of names and table entries.
    pub(crate) fn for_image(len: usize) -> Self {
        Budget { left: (8 * len as u64 + (64 << 10)).min(256 << 20) }
    }

    /// Accounts for reading `bytes` of names.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes as u64).ok_or(
            "its tables overlap or repeat beyond what the file size allows: the file is damaged or made to \
             exhaust its reader",
        )?;
        Ok(())
    }

    /// Accounts for `count` entries of a table.
    pub(crate) fn steps(&mut self, count: usize) -> Result<(), String> {
        self.spend(count.saturating_mul(8))
    }

    /// The NUL-terminated string at `offset` of `table`.
    pub(crate) fn string<'d>(
        &mut self,
        table: &'d [u8],
        offset: usize,
        what: &str,
    ) -> Result<&'d [u8], String> {
        let rest = table.get(offset..).ok_or_else(|| {
            format!("{what} lies at offset {offset:#x} of a string table of {:#x} bytes", table.len())
        })?;
        let name = std::ffi::CStr::from_bytes_until_nul(rest)
            .map_err(|_| format!("{what} at string table offset {offset:#x} has no end"))?
            .to_bytes();
        self.spend(name.len() + 8)?;
        Ok(name)
    }
}
