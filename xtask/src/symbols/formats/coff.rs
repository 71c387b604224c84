//! COFF objects (ordinary and big) and the short import objects of Windows import libraries.
//!
//! In: the bytes of one object or archive member. Out: a filled `Library`. Layout: Microsoft's "PE Format",
//! chapters "COFF Symbol Table" and "Import Library Format".

use super::letters;
use crate::symbols::model::{Budget, Format, Library, Symbol, text};
use crate::symbols::open::Options;
use goblin::pe::header::machine_to_str;
use object::read::coff::{CoffFile, CoffHeader, ImportFile, ImportType, Symbol as _};
use object::{LittleEndian as LE, pe};
use std::borrow::Cow;

/// Reads the COFF object `data`, found at `path`.
pub(crate) fn read<'d, Coff: CoffHeader>(
    path: &str,
    data: &'d [u8],
    options: &Options,
) -> Result<Library<'d>, String> {
    let fail = |error: object::Error| error.to_string();
    let file = CoffFile::<&'d [u8], Coff>::parse(data).map_err(fail)?;
    let mut budget = Budget::for_image(data.len());
    let mut library = Library::new(path, Format::Coff, "object", data.len());
    (library.machine, library.bits) = machine(file.coff_header().machine().0);
    let sections = file.coff_section_table();
    let symbols = file.coff_symbol_table();
    let mut classes = Vec::with_capacity(sections.len());
    for section in sections.iter() {
        let name = section.name(symbols.strings()).map_err(fail)?;
        budget.spend(name.len() + 8)?;
        let flags = section.characteristics.get(LE);
        library.sections.push((Cow::Borrowed(name), section.size_of_raw_data.get(LE).into()));
        classes.push(letters::section(
            name,
            letters::Flags {
                code: flags.contains(pe::IMAGE_SCN_CNT_CODE),
                allocated: !flags.contains(pe::IMAGE_SCN_LNK_INFO),
                writable: flags.contains(pe::IMAGE_SCN_MEM_WRITE),
                contents: !flags.contains(pe::IMAGE_SCN_CNT_UNINITIALIZED_DATA),
            },
        ));
    }
    budget.steps(symbols.len())?;
    for (_, symbol) in symbols.iter() {
        let class = symbol.storage_class();
        let weak = class == pe::IMAGE_SYM_CLASS_WEAK_EXTERNAL;
        let local = class == pe::IMAGE_SYM_CLASS_STATIC;
        if !(class == pe::IMAGE_SYM_CLASS_EXTERNAL || weak || local && options.all_symbols)
            || symbol.has_aux_section()
        {
            continue;
        }
        let name = symbol.name(symbols.strings()).map_err(fail)?;
        budget.spend(name.len() + 8)?;
        let section = symbol.section_number();
        let value = symbol.value();
        let undefined = section == pe::IMAGE_SYM_UNDEFINED && value == 0;
        let letter = match section {
            _ if undefined => letters::undefined(weak, false),
            section if section == pe::IMAGE_SYM_UNDEFINED => b'C',
            section if section == pe::IMAGE_SYM_ABSOLUTE => b'A',
            section => usize::try_from(section.0)
                .ok()
                .and_then(|index| index.checked_sub(1))
                .and_then(|index| classes.get(index).copied())
                .unwrap_or(b'?'),
        };
        let entry = Symbol {
            name: Cow::Borrowed(name),
            address: value.into(),
            size: 0,
            version: 0,
            library: 0,
            letter: if local { letter.to_ascii_lowercase() } else { letter },
            default_version: false,
        };
        if undefined { &mut library.imports } else { &mut library.exports }.push(entry);
    }
    Ok(library)
}

/// Reads a short import object: one symbol of one DLL.
pub(crate) fn read_import<'d>(path: &str, data: &'d [u8]) -> Result<Library<'d>, String> {
    let import = ImportFile::parse(data).map_err(|error| error.to_string())?;
    let mut library = Library::new(path, Format::Coff, "import-library", data.len());
    let number = data.get(6..8).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    (library.machine, library.bits) = machine(number);
    library.needed.push(text(import.dll()).into_owned());
    let mut names = vec![Cow::Owned([b"__imp_", import.symbol()].concat())];
    if import.import_type() == ImportType::Code {
        names.push(Cow::Borrowed(import.symbol()));
    }
    let letter = if import.import_type() == ImportType::Code { b'T' } else { b'D' };
    library.exports = names
        .into_iter()
        .map(|name| Symbol {
            name,
            address: 0,
            size: 0,
            version: 0,
            library: 1,
            letter,
            default_version: false,
        })
        .collect();
    Ok(library)
}

/// Name and width of a PE or COFF machine.
pub(super) fn machine(number: u16) -> (String, u8) {
    match pe::Machine(number) {
        pe::IMAGE_FILE_MACHINE_I386 => ("i386".to_owned(), 32),
        pe::IMAGE_FILE_MACHINE_AMD64 => ("x86_64".to_owned(), 64),
        pe::IMAGE_FILE_MACHINE_ARM64 | pe::IMAGE_FILE_MACHINE_ARM64EC => ("aarch64".to_owned(), 64),
        pe::IMAGE_FILE_MACHINE_ARMNT => ("arm".to_owned(), 32),
        _ => (machine_to_str(number).to_ascii_lowercase(), 0),
    }
}
