//! GNU symbol versions: what a library defines and what it needs of others.
//!
//! In: the bytes of `.gnu.version_d` and `.gnu.version_r`. Out: version names by index, and the file each
//! needed version belongs to. Source of the layout: the Linux Standard Base, "Symbol Versioning"; it is the
//! same for 32 and 64 bit. The chains of entries are followed by relative offsets, which a hostile file may
//! overlap, so every step is paid for from the budget.

use crate::symbols::model::{Budget, Library, text};
use object::elf::{VER_FLG_BASE, Verdaux, Verdef, Vernaux, Verneed};
use object::endian::Endian;
use object::pod::{Pod, from_bytes};

/// Reads both tables into `library`.
pub(super) fn read<'d, E: Endian>(
    endian: E,
    verdef: &'d [u8],
    verneed: &'d [u8],
    strings: &'d [u8],
    budget: &mut Budget,
    library: &mut Library<'d>,
) -> Result<(), String> {
    let mut at = 0;
    while let Some(def) = entry::<Verdef<E>>(verdef, at, budget, "version definition")? {
        if let Some(aux) = entry::<Verdaux<E>>(
            verdef,
            at.saturating_add(def.vd_aux.get(endian) as usize),
            budget,
            "version definition name",
        )? {
            let name = budget.string(strings, aux.vda_name.get(endian) as usize, "a version name")?;
            if !def.vd_flags.get(endian).contains(VER_FLG_BASE) {
                put(library, def.vd_ndx.get(endian).0, name);
                library.versions_defined.push(text(name).into_owned());
            }
        }
        match def.vd_next.get(endian) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    let mut at = 0;
    while let Some(need) = entry::<Verneed<E>>(verneed, at, budget, "version requirement")? {
        let file = budget.string(strings, need.vn_file.get(endian) as usize, "a version's file")?;
        let mut names = Vec::new();
        let mut aux_at = at.saturating_add(need.vn_aux.get(endian) as usize);
        for _ in 0..need.vn_cnt.get(endian) {
            let Some(aux) = entry::<Vernaux<E>>(verneed, aux_at, budget, "required version")? else { break };
            let name = budget.string(strings, aux.vna_name.get(endian) as usize, "a version name")?;
            put(library, aux.vna_other(endian).index().0, name);
            names.push(text(name).into_owned());
            match aux.vna_next.get(endian) {
                0 => break,
                next => aux_at = aux_at.saturating_add(next as usize),
            }
        }
        library.versions_needed.entry(text(file).into_owned()).or_default().append(&mut names);
        match need.vn_next.get(endian) {
            0 => break,
            next => at = at.saturating_add(next as usize),
        }
    }
    library.min_glibc = minimum_glibc(library.versions_needed.values().flatten());
    Ok(())
}

/// The entry at `at`, `None` for an empty table.
fn entry<'d, T: Pod>(
    table: &'d [u8],
    at: usize,
    budget: &mut Budget,
    what: &str,
) -> Result<Option<&'d T>, String> {
    if table.is_empty() {
        return Ok(None);
    }
    budget.steps(4)?;
    let rest = table.get(at..).unwrap_or_default();
    let (entry, _) = from_bytes::<T>(rest).map_err(|()| {
        format!("{what} at offset {at:#x} lies outside its section of {:#x} bytes", table.len())
    })?;
    Ok(Some(entry))
}

fn put<'d>(library: &mut Library<'d>, index: u16, name: &'d [u8]) {
    let index = usize::from(index);
    if index > 1 {
        if library.versions.len() <= index {
            library.versions.resize(index + 1, b"");
        }
        library.versions[index] = name;
    }
}

/// The newest `GLIBC_x.y` among `versions`: the oldest glibc that this file can run with. `GLIBC_PRIVATE`
/// has no order; `GLIBC_ABI_DT_RELR` came with 2.36.
fn minimum_glibc<'a>(versions: impl Iterator<Item = &'a String>) -> Option<String> {
    versions
        .filter_map(|version| {
            let number = version.strip_prefix("GLIBC_")?;
            let number = if number == "ABI_DT_RELR" { "2.36" } else { number };
            let parts: Option<Vec<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
            Some((parts?, number.to_owned()))
        })
        .max()
        .map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::minimum_glibc;

    #[test]
    fn glibc_versions_are_ordered_by_number() {
        let of = |versions: &[&str]| {
            minimum_glibc(versions.iter().map(|version| version.to_string()).collect::<Vec<_>>().iter())
        };
        assert_eq!(of(&["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.2.5"]).as_deref(), Some("2.34"));
        assert_eq!(of(&["GLIBC_2.17", "GLIBC_ABI_DT_RELR"]).as_deref(), Some("2.36"));
        assert_eq!(of(&["GLIBC_PRIVATE", "CXXABI_1.3"]), None);
    }
}
