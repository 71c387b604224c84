//! Unix and Windows archives (`.a`, `.lib`): one `Library` for all members together.
//!
//! In: the archive's bytes. Out: the union of what its members define, and what none of them defines.
//! Members that are no objects (an index, a text file) are named and passed over. Deliberately absent: thin
//! archives, whose members are other files, and archives in archives.

use crate::symbols::model::{Budget, Format, Library, text};
use crate::symbols::open::{self, Options};
use object::read::archive::{ArchiveFile, ArchiveKind};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

/// Reads the archive `data`, found at `path`.
pub(crate) fn read<'d>(path: &str, data: &'d [u8], options: &Options) -> Result<Library<'d>, String> {
    let archive = ArchiveFile::parse(data).map_err(|error| error.to_string())?;
    if archive.is_thin() {
        return Err("a thin archive only names its members; give the member files instead".to_owned());
    }
    if matches!(archive.kind(), ArchiveKind::AixBig | ArchiveKind::Zos) {
        return Err("AIX and z/OS archives are not supported".to_owned());
    }
    let mut budget = Budget::for_image(data.len());
    let mut library = Library::new(path, Format::Archive, "archive", data.len());
    let mut sections = BTreeMap::<Vec<u8>, u64>::new();
    let mut skipped = 0;
    for member in archive.members() {
        let member = member.map_err(|error| error.to_string())?;
        let name = text(member.name()).into_owned();
        budget.spend(name.len() + 60)?;
        let bytes = member.data(data).map_err(|error| format!("member {name}: {error}"))?;
        let Some(object) = open::read_image(path, bytes, options)
            .transpose()
            .map_err(|error| format!("member {name}: {error}"))?
        else {
            skipped += 1;
            continue;
        };
        merge(&mut library, object, &mut sections);
        library.members.push(name);
    }
    if skipped > 0 {
        library.warnings.push(format!("{skipped} members are no object files and were passed over"));
    }
    library.sections = sections.into_iter().map(|(name, size)| (Cow::Owned(name), size)).collect();
    resolve(&mut library);
    Ok(library)
}

fn merge<'d>(library: &mut Library<'d>, object: Library<'d>, sections: &mut BTreeMap<Vec<u8>, u64>) {
    if library.members.is_empty() {
        library.machine = object.machine;
        library.member_format = Some(object.format);
        library.bits = object.bits;
        library.big_endian = object.big_endian;
        library.sizes = object.sizes;
        library.hardening.nx = object.hardening.nx;
    } else {
        if library.machine != object.machine && library.warnings.is_empty() {
            let (first, other) = (&library.machine, &object.machine);
            library.warnings.push(format!("members are for different machines: {first} and {other}"));
        }
        // One object that wants an executable stack makes the whole link have one.
        library.hardening.nx = library.hardening.nx.zip(object.hardening.nx).map(|(a, b)| a && b);
    }
    if object.kind == "import-library" {
        library.kind = object.kind;
    }
    for name in object.needed {
        if !library.needed.contains(&name) && library.needed.len() < 4096 {
            library.needed.push(name);
        }
    }
    for (name, size) in object.sections {
        let sum = sections.entry(name.into_owned()).or_default();
        *sum = sum.saturating_add(size);
    }
    // Versions are a matter of linked files, so the members' indices mean nothing here.
    for mut symbol in object.exports.into_iter().chain(object.imports) {
        symbol.version = 0;
        symbol.library = 0;
        let undefined = matches!(symbol.letter, b'U' | b'w' | b'v');
        if undefined { &mut library.imports } else { &mut library.exports }.push(symbol);
    }
}

/// Keeps one definition per name, the strongest, and the imports that no member defines.
fn resolve(library: &mut Library<'_>) {
    let weak = |letter: u8| matches!(letter, b'W' | b'V' | b'C' | b'u');
    library.exports.sort_by(|a, b| a.name.cmp(&b.name).then(weak(a.letter).cmp(&weak(b.letter))));
    library.exports.dedup_by(|a, b| a.name == b.name);
    library.imports.sort_by(|a, b| a.name.cmp(&b.name).then(a.letter.cmp(&b.letter)));
    library.imports.dedup_by(|a, b| a.name == b.name);
    let defined: HashSet<Vec<u8>> = library
        .imports
        .iter()
        .filter(|import| library.exports.binary_search_by(|export| export.name.cmp(&import.name)).is_ok())
        .map(|import| import.name.to_vec())
        .collect();
    library.imports.retain(|import| !defined.contains(&*import.name));
}
