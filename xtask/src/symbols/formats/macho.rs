//! Mach-O, 32 and 64 bit, either byte order: dylibs, bundles, executables and objects.
//!
//! In: the bytes of one architecture. Out: a filled `Library`. Exports come from the symbol table, or from
//! the exports trie where that table was stripped. Deliberately absent: fat files (`open`), code signatures,
//! fixups. Layout: Apple's `mach-o/loader.h` and `mach-o/nlist.h`.

use super::{letters, trie};
use crate::symbols::model::{Budget, Format, Library, Symbol, text};
use crate::symbols::open::Options;
use goblin::mach::constants::cputype::get_arch_name_from_types;
use object::Endianness;
use object::macho;
use object::pod::slice_from_all_bytes;
use object::read::macho::{LoadCommandVariant, MachHeader, Nlist, Section, Segment};
use std::borrow::Cow;

/// Load commands beyond this number are taken for damage: real files have a few dozen.
const MAX_COMMANDS: u32 = 1 << 16;

/// Reads the Mach-O file `data`, found at `path`.
pub(crate) fn read<'d, Mach: MachHeader<Endian = Endianness>>(
    path: &str,
    data: &'d [u8],
    options: &Options,
) -> Result<Library<'d>, String> {
    let fail = |error: object::Error| error.to_string();
    let header = Mach::parse(data, 0).map_err(fail)?;
    let endian = header.endian().map_err(fail)?;
    let kind = match header.filetype(endian) {
        macho::MH_DYLIB | macho::MH_DYLIB_STUB | macho::MH_BUNDLE => "shared",
        macho::MH_EXECUTE => "executable",
        macho::MH_OBJECT => "object",
        macho::MH_CORE => "core",
        _ => "other",
    };
    if header.ncmds(endian) > MAX_COMMANDS {
        return Err(format!("the header counts {} load commands", header.ncmds(endian)));
    }
    let mut budget = Budget::for_image(data.len());
    let mut library = Library::new(path, Format::MachO, kind, data.len());
    library.machine = machine(header.cputype(endian).0, header.cpusubtype(endian).0);
    library.bits = if header.is_type_64() { 64 } else { 32 };
    library.big_endian = header.is_big_endian();
    library.sizes = "gaps";
    let flags = header.flags(endian);
    if matches!(kind, "shared" | "executable") {
        library.hardening.nx = Some(!flags.contains(macho::MH_ALLOW_STACK_EXECUTION));
        library.hardening.pie = Some(kind == "shared" || flags.contains(macho::MH_PIE));
    }

    let (mut sections, mut symtab, mut exports, mut image_base) = (Vec::new(), None, None, 0);
    let mut commands = header.load_commands(endian, data, 0).map_err(fail)?;
    while let Some(command) = commands.next().map_err(fail)? {
        budget.steps(1)?;
        let mut string = |at| -> Result<String, String> {
            let name = command.string(endian, at).map_err(fail)?;
            budget.spend(name.len())?;
            Ok(text(name).into_owned())
        };
        match command.variant().map_err(fail)? {
            LoadCommandVariant::IdDylib(dylib) => library.name = Some(string(dylib.dylib.name)?),
            LoadCommandVariant::Dylib(dylib) => library.needed.push(string(dylib.dylib.name)?),
            LoadCommandVariant::Rpath(rpath) => library.rpath.push(string(rpath.path)?),
            LoadCommandVariant::Uuid(uuid) => library.build_id = Some(super::hex(&uuid.uuid)),
            LoadCommandVariant::Symtab(table) => symtab = Some(table),
            LoadCommandVariant::DyldInfo(info) => {
                exports = Some((info.export_off.get(endian), info.export_size.get(endian)));
            }
            LoadCommandVariant::LinkeditData(link) if command.cmd() == macho::LC_DYLD_EXPORTS_TRIE => {
                exports = Some((link.dataoff.get(endian), link.datasize.get(endian)));
            }
            LoadCommandVariant::Segment32(segment, bytes) => {
                if segment.name() == b"__TEXT" {
                    image_base = segment.vmaddr.get(endian).into();
                }
                add_sections(segment, endian, bytes, &mut sections, &mut budget)?;
            }
            LoadCommandVariant::Segment64(segment, bytes) => {
                if segment.name() == b"__TEXT" {
                    image_base = segment.vmaddr.get(endian);
                }
                add_sections(segment, endian, bytes, &mut sections, &mut budget)?;
            }
            _ => {}
        }
    }
    library.sections =
        sections.iter().map(|section| (Cow::Owned(section.name.clone()), section.size)).collect();

    if let Some(table) = symtab {
        let bytes = |offset: u32, size: usize, what| part(data, offset, size, what);
        let count = table.nsyms.get(endian) as usize;
        let size = count.saturating_mul(size_of::<Mach::Nlist>());
        let symbols =
            slice_from_all_bytes::<Mach::Nlist>(bytes(table.symoff.get(endian), size, "symbol table")?)
                .map_err(|()| "the symbol table is not a whole number of entries".to_owned())?;
        let strings = bytes(table.stroff.get(endian), table.strsize.get(endian) as usize, "string table")?;
        budget.steps(symbols.len())?;
        for symbol in symbols {
            read_symbol(symbol, endian, strings, &sections, options, &mut budget, &mut library)?;
        }
    }
    if let (true, Some((offset, size))) = (library.exports.is_empty(), exports) {
        let bytes = part(data, offset, size as usize, "exports trie")?;
        library.exports = trie::read(bytes, &mut budget)?;
        place_in_sections(&mut library, &sections, image_base);
    }
    sizes_from_gaps(&mut library, &sections);
    Ok(library)
}

fn part<'d>(data: &'d [u8], offset: u32, size: usize, what: &str) -> Result<&'d [u8], String> {
    let start = offset as usize;
    data.get(start..start.saturating_add(size)).ok_or_else(|| {
        format!("the {what} at {offset:#x} + {size:#x} reaches past the end of the file at {:#x}", data.len())
    })
}

/// Apple's name, except that 64-bit ARM is called what every other format calls it.
fn machine(cputype: u32, cpusubtype: u32) -> String {
    // The top byte of the subtype holds capability flags.
    match get_arch_name_from_types(cputype, cpusubtype & 0x00ff_ffff)
        .or_else(|| get_arch_name_from_types(cputype, 0))
    {
        Some("arm64") => "aarch64".to_owned(),
        Some(name) => name.to_owned(),
        None => format!("cpu-{cputype:#x}"),
    }
}

struct Place {
    name: Vec<u8>,
    address: u64,
    size: u64,
    letter: u8,
}

fn add_sections<S: Segment<Endian = Endianness>>(
    segment: &S,
    endian: Endianness,
    bytes: &[u8],
    places: &mut Vec<Place>,
    budget: &mut Budget,
) -> Result<(), String> {
    let sections = segment.sections(endian, bytes).map_err(|error| error.to_string())?;
    budget.steps(8 * sections.len())?;
    for section in sections {
        let flags = section.flags(endian);
        let zero = matches!(
            section.section_type(endian),
            macho::S_ZEROFILL | macho::S_GB_ZEROFILL | macho::S_THREAD_LOCAL_ZEROFILL
        );
        let name = [section.segment_name(), b",", section.name()].concat();
        let letter = letters::section(
            b"",
            letters::Flags {
                code: flags.contains(macho::S_ATTR_PURE_INSTRUCTIONS),
                allocated: true,
                writable: section.segment_name() != b"__TEXT",
                contents: !zero,
            },
        );
        let (address, size) = (section.addr(endian).into(), section.size(endian).into());
        places.push(Place { name, address, size, letter });
    }
    Ok(())
}

fn read_symbol<'d, N: Nlist<Endian = Endianness>>(
    symbol: &N,
    endian: Endianness,
    strings: &'d [u8],
    sections: &[Place],
    options: &Options,
    budget: &mut Budget,
    library: &mut Library<'d>,
) -> Result<(), String> {
    let kind = symbol.n_type();
    let local = !kind.contains(macho::N_EXT);
    // A private external symbol is visible to the static linker only.
    let hidden = local || kind.contains(macho::N_PEXT) && library.kind != "object";
    if symbol.is_stab() || hidden && !options.all_symbols {
        return Ok(());
    }
    let name = budget.string(strings, symbol.n_strx(endian) as usize, "a symbol name")?;
    if name.is_empty() {
        return Ok(());
    }
    let description = symbol.n_desc(endian);
    let mut entry = Symbol {
        name: Cow::Borrowed(name),
        address: symbol.n_value(endian).into(),
        size: 0,
        version: 0,
        library: 0,
        letter: b'U',
        default_version: false,
    };
    if symbol.is_undefined() {
        let ordinal = symbol.library_ordinal(endian).index().filter(|_| library.kind != "object");
        entry.library = ordinal.map_or(0, u16::from);
        entry.letter = letters::undefined(description.contains(macho::N_WEAK_REF), false);
        library.imports.push(entry);
        return Ok(());
    }
    entry.letter = match (symbol.is_common(), kind.typ()) {
        (true, _) => b'C',
        (_, macho::N_ABS) => b'A',
        (_, macho::N_INDR) => b'I',
        _ if description.contains(macho::N_WEAK_DEF) => b'W',
        _ => usize::from(symbol.n_sect())
            .checked_sub(1)
            .and_then(|index| sections.get(index))
            .map_or(b'?', |section| section.letter),
    };
    if entry.letter == b'C' {
        (entry.size, entry.address) = (entry.address, 0);
    }
    if local {
        entry.letter = entry.letter.to_ascii_lowercase();
    }
    library.exports.push(entry);
    Ok(())
}

/// The trie counts addresses from the start of `__TEXT` and does not say what kind of thing lies there.
fn place_in_sections(library: &mut Library<'_>, sections: &[Place], image_base: u64) {
    for symbol in library.exports.iter_mut().filter(|symbol| symbol.letter != b'I') {
        symbol.address = symbol.address.saturating_add(image_base);
        let inside = |place: &&Place| symbol.address.wrapping_sub(place.address) < place.size;
        if let (b'?', Some(place)) = (symbol.letter, sections.iter().find(inside)) {
            symbol.letter = place.letter;
        }
    }
}

/// Mach-O records no sizes: a symbol reaches to the next one or to the end of its section.
fn sizes_from_gaps(library: &mut Library<'_>, sections: &[Place]) {
    let mut starts: Vec<u64> = library.exports.iter().map(|symbol| symbol.address).collect();
    starts.sort_unstable();
    let mut ends: Vec<(u64, u64)> =
        sections.iter().map(|place| (place.address, place.address.saturating_add(place.size))).collect();
    ends.sort_unstable();
    for symbol in
        library.exports.iter_mut().filter(|symbol| symbol.size == 0 && !matches!(symbol.letter, b'A' | b'I'))
    {
        let next = starts.get(starts.partition_point(|start| *start <= symbol.address)).copied();
        let home = ends.partition_point(|(start, _)| *start <= symbol.address).checked_sub(1);
        if let Some(end) = home.map(|at| ends[at].1).filter(|end| *end > symbol.address) {
            symbol.size = next.unwrap_or(end).min(end) - symbol.address;
        }
    }
}
