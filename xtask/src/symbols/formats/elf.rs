//! ELF, 32 and 64 bit, either byte order: shared libraries, executables and objects.
//!
//! In: the bytes of one file. Out: a filled `Library`. Only the headers, the dynamic section, the symbol
//! table and its strings are touched, whatever the size of the file. Section headers are used where they
//! are, the dynamic segment where a file has been stripped of them. Deliberately absent: code, relocations,
//! debug information. Layout: System V ABI, chapters 4 and 5; the Linux Standard Base for the GNU parts.

use super::{letters, versions};
use crate::symbols::model::{Budget, Format, Library, Symbol, text};
use crate::symbols::open::Options;
use goblin::elf::header::machine_to_str;
use object::Endianness;
use object::elf::{self, DynamicTag};
use object::pod::slice_from_all_bytes;
use object::read::elf::{
    Dyn, FileHeader, GnuHashTable, HashTable, NoteIterator, ProgramHeader, SectionHeader, Sym,
};
use std::borrow::Cow;

/// Reads the ELF file `data`, found at `path`.
pub(crate) fn read<'d, Elf: FileHeader<Endian = Endianness>>(
    path: &str,
    data: &'d [u8],
    options: &Options,
) -> Result<Library<'d>, String> {
    let header = Elf::parse(data).map_err(|error| error.to_string())?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    let kind = match header.e_type(endian) {
        elf::ET_REL => "object",
        elf::ET_EXEC => "executable",
        elf::ET_DYN => "shared",
        elf::ET_CORE => "core",
        _ => "other",
    };
    let mut image = Image::<Elf> {
        data,
        endian,
        segments: header.program_headers(endian, data).map_err(|error| error.to_string())?,
        sections: &[],
        section_names: &[],
        budget: Budget::for_image(data.len()),
        library: Library::new(path, Format::Elf, kind, data.len()),
    };
    image.library.machine = machine(header.e_machine(endian).0, header.is_big_endian(), header.is_class_64());
    image.library.bits = if header.is_class_64() { 64 } else { 32 };
    image.library.big_endian = header.is_big_endian();
    image.library.sizes = "recorded";
    match header.section_headers(endian, data) {
        Ok(sections) => image.sections = sections,
        Err(error) => {
            image.library.warnings.push(format!("section headers unreadable ({error}); using the segments"))
        }
    }
    if let Ok(Some(index)) = header.shstrndx(endian, data).map(|index| image.sections.get(index as usize)) {
        image.section_names = index.data(endian, data).unwrap_or_default();
    }
    image.read_sections()?;
    image.read_build_id()?;
    let tables = image.read_dynamic()?;
    image.read_symbols(tables, options)?;
    image.read_segments();
    Ok(image.library)
}

/// One name per machine; where ELF has one number for both byte orders or widths, the name tells them apart.
fn machine(e_machine: u16, big_endian: bool, wide: bool) -> String {
    match (elf::Machine(e_machine), big_endian, wide) {
        (elf::EM_386, ..) => "i386".to_owned(),
        (elf::EM_PPC64, false, _) => "ppc64le".to_owned(),
        (elf::EM_RISCV, _, true) => "riscv64".to_owned(),
        (elf::EM_RISCV, _, false) => "riscv32".to_owned(),
        (elf::EM_LOONGARCH, ..) => "loongarch".to_owned(),
        _ => machine_to_str(e_machine).to_ascii_lowercase(),
    }
}

/// Where the dynamic linker's tables lie.
#[derive(Default)]
struct Tables<'d> {
    symbols: &'d [u8],
    strings: &'d [u8],
    versym: &'d [u8],
    verdef: &'d [u8],
    verneed: &'d [u8],
}

struct Image<'d, Elf: FileHeader> {
    data: &'d [u8],
    endian: Elf::Endian,
    segments: &'d [Elf::ProgramHeader],
    sections: &'d [Elf::SectionHeader],
    section_names: &'d [u8],
    budget: Budget,
    library: Library<'d>,
}

impl<'d, Elf: FileHeader<Endian = Endianness>> Image<'d, Elf> {
    fn read_sections(&mut self) -> Result<(), String> {
        for section in self.sections {
            if section.sh_type(self.endian) == elf::SHT_NULL {
                continue;
            }
            let offset = section.sh_name(self.endian) as usize;
            let name = self.budget.string(self.section_names, offset, "a section name")?;
            self.library.sections.push((Cow::Borrowed(name), section.sh_size(self.endian).into()));
            if self.library.kind == "object" && name == b".note.GNU-stack" {
                let executable = section.sh_flags(self.endian).contains(elf::SHF_EXECINSTR);
                self.library.hardening.nx = Some(!executable);
            }
        }
        Ok(())
    }

    /// The GNU build id from the first note that carries one.
    fn read_build_id(&mut self) -> Result<(), String> {
        let from_segments = self
            .segments
            .iter()
            .filter(|segment| segment.p_type(self.endian) == elf::PT_NOTE)
            .map(|segment| (segment.p_align(self.endian), segment.data(self.endian, self.data)));
        let from_sections =
            self.sections.iter().filter(|section| section.sh_type(self.endian) == elf::SHT_NOTE).map(
                |section| {
                    (section.sh_addralign(self.endian), section.data(self.endian, self.data).map_err(drop))
                },
            );
        for (align, notes) in from_segments.chain(from_sections) {
            let Ok(mut notes) =
                notes.and_then(|notes| NoteIterator::<Elf>::new(self.endian, align, notes).map_err(drop))
            else {
                continue;
            };
            while let Ok(Some(note)) = notes.next() {
                self.budget.steps(4)?;
                if note.name() == elf::ELF_NOTE_GNU && note.n_type(self.endian) == elf::NT_GNU_BUILD_ID {
                    self.budget.spend(note.desc().len())?;
                    self.library.build_id = Some(super::hex(note.desc()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Needed libraries, paths and flags; returns the tables for the symbols.
    fn read_dynamic(&mut self) -> Result<Tables<'d>, String> {
        let mut tables = self.tables_by_section();
        let dynamic = self.dynamic_bytes();
        let entries = slice_from_all_bytes::<Elf::Dyn>(dynamic)
            .map_err(|()| "the dynamic section is not a whole number of entries".to_owned())?;
        let entries: Vec<(DynamicTag, u64)> = entries
            .iter()
            .map(|entry| (entry.tag(self.endian), entry.val(self.endian)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
            .collect();
        self.budget.steps(entries.len())?;
        let value = |tag| entries.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value);
        if let (true, Some(address)) = (tables.strings.is_empty(), value(elf::DT_STRTAB)) {
            let size = value(elf::DT_STRSZ).unwrap_or(0);
            tables = self.tables_by_address(self.at_address(address, size)?, &value)?;
        }
        for &(tag, offset) in &entries {
            let list = match tag {
                elf::DT_NEEDED => &mut self.library.needed,
                elf::DT_RPATH => &mut self.library.rpath,
                elf::DT_RUNPATH => &mut self.library.runpath,
                elf::DT_SONAME => &mut Vec::new(),
                _ => continue,
            };
            let name =
                self.budget.string(tables.strings, offset as usize, "a name in the dynamic section")?;
            match tag {
                elf::DT_NEEDED => list.push(text(name).into_owned()),
                elf::DT_SONAME => self.library.name = Some(text(name).into_owned()),
                _ => list.extend(text(name).split(':').map(str::to_owned)),
            }
        }
        let flags = elf::DynamicFlags(value(elf::DT_FLAGS).unwrap_or(0));
        let flags_1 = elf::DynamicFlags1(value(elf::DT_FLAGS_1).unwrap_or(0));
        let bind_now = flags.contains(elf::DF_BIND_NOW)
            || flags_1.contains(elf::DF_1_NOW)
            || value(elf::DT_BIND_NOW).is_some();
        self.library.hardening.relro = bind_now.then_some("full");
        if self.library.kind == "shared" && (flags_1.contains(elf::DF_1_PIE) || self.has_interpreter()) {
            self.library.kind = "executable";
            self.library.hardening.pie = Some(true);
        } else {
            self.library.hardening.pie = match self.library.kind {
                "shared" => Some(true),
                "executable" => Some(false),
                _ => None,
            };
        }
        versions::read(
            self.endian,
            tables.verdef,
            tables.verneed,
            tables.strings,
            &mut self.budget,
            &mut self.library,
        )?;
        Ok(tables)
    }

    /// An interpreter and no soname make a position-independent executable of older linkers.
    fn has_interpreter(&self) -> bool {
        self.segments.iter().any(|segment| segment.p_type(self.endian) == elf::PT_INTERP)
            && self.library.name.is_none()
    }

    fn dynamic_bytes(&self) -> &'d [u8] {
        let section = self.sections.iter().find(|section| section.sh_type(self.endian) == elf::SHT_DYNAMIC);
        let from_section = section.and_then(|section| section.data(self.endian, self.data).ok());
        let segment = self.segments.iter().find(|segment| segment.p_type(self.endian) == elf::PT_DYNAMIC);
        let from_segment = segment.and_then(|segment| segment.data(self.endian, self.data).ok());
        from_segment.or(from_section).unwrap_or_default()
    }

    fn section_data(&self, kind: elf::SectionType) -> Option<(&'d Elf::SectionHeader, &'d [u8])> {
        let section = self.sections.iter().find(|section| section.sh_type(self.endian) == kind)?;
        Some((section, section.data(self.endian, self.data).ok()?))
    }

    fn tables_by_section(&self) -> Tables<'d> {
        let data = |kind| self.section_data(kind).map(|(_, data)| data).unwrap_or_default();
        let Some((dynsym, symbols)) = self.section_data(elf::SHT_DYNSYM) else { return Tables::default() };
        let strings = self.sections.get(dynsym.sh_link(self.endian) as usize);
        Tables {
            symbols,
            strings: strings
                .and_then(|strings| strings.data(self.endian, self.data).ok())
                .unwrap_or_default(),
            versym: data(elf::SHT_GNU_VERSYM),
            verdef: data(elf::SHT_GNU_VERDEF),
            verneed: data(elf::SHT_GNU_VERNEED),
        }
    }

    /// The tables of a file without section headers. The symbol table's length is not recorded there; it
    /// follows from the hash tables.
    fn tables_by_address(
        &self,
        strings: &'d [u8],
        value: &impl Fn(DynamicTag) -> Option<u64>,
    ) -> Result<Tables<'d>, String> {
        let from = |tag| value(tag).and_then(|address| self.rest_of_segment(address)).unwrap_or_default();
        let count = HashTable::<Elf>::parse(self.endian, from(elf::DT_HASH))
            .map(|table| table.symbol_table_length())
            .ok()
            .or_else(|| {
                GnuHashTable::<Elf>::parse(self.endian, from(elf::DT_GNU_HASH))
                    .ok()?
                    .symbol_table_length(self.endian)
            })
            .unwrap_or(0) as usize;
        let whole = from(elf::DT_SYMTAB);
        let size = count.saturating_mul(size_of::<Elf::Sym>());
        let symbols = whole.get(..size).ok_or_else(|| {
            format!("the hash table counts {count} dynamic symbols, more than the file holds")
        })?;
        let versym = from(elf::DT_VERSYM);
        Ok(Tables {
            symbols,
            strings,
            versym: versym.get(..2 * count).unwrap_or(versym),
            verdef: from(elf::DT_VERDEF),
            verneed: from(elf::DT_VERNEED),
        })
    }

    /// From `address` to the end of the loadable segment that holds it.
    fn rest_of_segment(&self, address: u64) -> Option<&'d [u8]> {
        self.segments.iter().filter(|segment| segment.p_type(self.endian) == elf::PT_LOAD).find_map(
            |segment| {
                let start = address.checked_sub(segment.p_vaddr(self.endian).into())?;
                segment.data(self.endian, self.data).ok()?.get(usize::try_from(start).ok()?..)
            },
        )
    }

    fn at_address(&self, address: u64, size: u64) -> Result<&'d [u8], String> {
        self.rest_of_segment(address)
            .and_then(|bytes| bytes.get(..usize::try_from(size).ok()?))
            .ok_or_else(|| format!("address {address:#x} + {size:#x} lies in no segment of the file"))
    }

    /// Exports and imports: of the dynamic table, or of the full one for objects, static executables and
    /// where asked for.
    fn read_symbols(&mut self, tables: Tables<'d>, options: &Options) -> Result<(), String> {
        let (mut symbols, mut strings, mut versym) = (tables.symbols, tables.strings, tables.versym);
        if let (true, Some((section, full))) =
            (symbols.is_empty() || options.all_symbols, self.section_data(elf::SHT_SYMTAB))
        {
            let names = self.sections.get(section.sh_link(self.endian) as usize);
            (symbols, versym) = (full, &[]);
            strings = names.and_then(|names| names.data(self.endian, self.data).ok()).unwrap_or_default();
        }
        let symbols = slice_from_all_bytes::<Elf::Sym>(symbols)
            .map_err(|()| "the symbol table is not a whole number of entries".to_owned())?;
        let versym = slice_from_all_bytes::<elf::Versym<Endianness>>(versym)
            .map_err(|()| "the version table is not a whole number of entries".to_owned())?;
        self.budget.steps(symbols.len())?;
        self.library.exports.reserve_exact(symbols.len());
        let mut sections = letters::Cache::new(self.sections.len());
        for (index, symbol) in symbols.iter().enumerate().skip(1) {
            if symbol.is_local() && !options.all_symbols
                || matches!(symbol.st_type(), elf::STT_SECTION | elf::STT_FILE)
                || symbol.st_name(self.endian) == 0
            {
                continue;
            }
            let name = self.budget.string(strings, symbol.st_name(self.endian) as usize, "a symbol name")?;
            let version = versym.get(index).map(|version| version.0.get(self.endian));
            let undefined = symbol.is_undefined(self.endian);
            let entry = Symbol {
                name: Cow::Borrowed(name),
                address: symbol.st_value(self.endian).into(),
                size: symbol.st_size(self.endian).into(),
                version: version.map_or(0, |version| version.index().0),
                library: 0,
                letter: self.letter(symbol, &mut sections),
                default_version: !undefined && version.is_some_and(|version| !version.is_hidden()),
            };
            if undefined { &mut self.library.imports } else { &mut self.library.exports }.push(entry);
        }
        self.library.exports.shrink_to_fit();
        Ok(())
    }

    fn letter(&self, symbol: &Elf::Sym, sections: &mut letters::Cache) -> u8 {
        let (kind, weak) = (symbol.st_type(), symbol.is_weak());
        let data = kind == elf::STT_OBJECT;
        if symbol.is_undefined(self.endian) {
            return letters::undefined(weak, data);
        }
        let letter = match (symbol.st_bind(), symbol.st_shndx(self.endian)) {
            (_, elf::SHN_COMMON) => b'C',
            _ if kind == elf::STT_GNU_IFUNC => return b'i',
            _ if weak => return if data { b'V' } else { b'W' },
            (elf::STB_GNU_UNIQUE, _) => return b'u',
            (_, elf::SHN_ABS) => b'A',
            (_, section) => {
                let index = section.index().map_or(usize::MAX, usize::from);
                sections
                    .get(index, || self.section_letter(index))
                    .unwrap_or_else(|| self.segment_letter(kind, symbol.st_value(self.endian).into()))
            }
        };
        if symbol.is_local() { letter.to_ascii_lowercase() } else { letter }
    }

    /// Without section headers: code, read-only, writable or zero data by the segment at `address`.
    fn segment_letter(&self, kind: elf::SymbolType, address: u64) -> u8 {
        let Some((segment, offset)) = self.segments.iter().find_map(|segment| {
            let offset = address.checked_sub(segment.p_vaddr(self.endian).into())?;
            let inside =
                segment.p_type(self.endian) == elf::PT_LOAD && offset < segment.p_memsz(self.endian).into();
            inside.then_some((segment, offset))
        }) else {
            return b'?';
        };
        let flags = segment.p_flags(self.endian);
        match kind {
            elf::STT_FUNC => b'T',
            _ if offset >= segment.p_filesz(self.endian).into() => b'B',
            _ if flags.contains(elf::PF_W) => b'D',
            elf::STT_OBJECT => b'R',
            _ if flags.contains(elf::PF_X) => b'T',
            _ => b'R',
        }
    }

    fn section_letter(&self, index: usize) -> Option<u8> {
        let section = self.sections.get(index)?;
        let flags = section.sh_flags(self.endian);
        let name_at = section.sh_name(self.endian) as usize;
        let name = self.section_names.get(name_at..).unwrap_or_default();
        Some(letters::section(
            name,
            letters::Flags {
                code: flags.contains(elf::SHF_EXECINSTR),
                allocated: flags.contains(elf::SHF_ALLOC),
                writable: flags.contains(elf::SHF_WRITE),
                contents: section.sh_type(self.endian) != elf::SHT_NOBITS,
            },
        ))
    }

    /// Non-executable stack and relocation protection, which the program headers announce.
    fn read_segments(&mut self) {
        if self.library.kind == "object" {
            return;
        }
        let find = |kind| self.segments.iter().find(|segment| segment.p_type(self.endian) == kind);
        // Without the header the kernel falls back to the architecture's default, which is executable.
        self.library.hardening.nx = Some(
            find(elf::PT_GNU_STACK).is_some_and(|stack| !stack.p_flags(self.endian).contains(elf::PF_X)),
        );
        self.library.hardening.relro = Some(match (find(elf::PT_GNU_RELRO), self.library.hardening.relro) {
            (None, _) => "none",
            (Some(_), None) => "partial",
            (Some(_), Some(full)) => full,
        });
    }
}
