//! Where in an object file bytes lie: sections with their data, and the symbol that covers an offset.
//!
//! In: the bytes of an ELF, Mach-O, PE or COFF file. Out: [`Section`]s; [`symbol_at`]. For what compares two builds, which
//! starts from bytes and not from names. Deliberately absent: archives, and every judgement.

use object::{Object, ObjectSection, ObjectSymbol};

/// One section.
pub struct Section<'d> {
    pub name: String,
    pub data: &'d [u8],
}

/// What a program or library runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub machine: String,
    /// The oldest glibc that has every symbol version needed, `GLIBC_2.17`.
    pub min_glibc: Option<String>,
    pub needed: Vec<String>,
}

/// As `analyze-library` says.
pub fn summary(name: &str, data: &[u8]) -> Result<Summary, String> {
    let library = super::open::read(name, data, &super::open::Options::default())?;
    let library = library.into_iter().next().ok_or("it holds nothing")?;
    Ok(Summary { machine: library.machine, min_glibc: library.min_glibc, needed: library.needed })
}

/// The sections of `data` in file order; nothing where it is not an object file.
pub fn sections(data: &[u8]) -> Vec<Section<'_>> {
    let Ok(file) = object::File::parse(data) else { return Vec::new() };
    let section = |section: object::Section<'_, '_>| {
        let (start, len) = section.file_range()?;
        let data = data.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(len).ok()?)?;
        Some(Section { name: section.name().unwrap_or("?").into(), data })
    };
    file.sections().filter_map(section).collect()
}

/// The demangled symbol of `data` that covers `offset` in the section `name`.
pub fn symbol_at(data: &[u8], name: &str, offset: u64) -> Option<String> {
    let file = object::File::parse(data).ok()?;
    let section = file.section_by_name(name)?;
    let address = section.address() + offset;
    let covers = |symbol: &object::Symbol<'_, '_>| {
        symbol.section_index() == Some(section.index())
            && symbol.size() > 0
            && (symbol.address()..symbol.address().saturating_add(symbol.size())).contains(&address)
    };
    let symbol = file.symbols().chain(file.dynamic_symbols()).find(covers)?;
    Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?)))
}
