//! Two builds byte by byte: which file, section and symbol differ, why, and the flag that cures it.
//!
//! In: two files, archives or folders. Out: [`Difference`]s, none where every byte is the same. Flow: archives and folders are
//! opened into named files with their headers; object files are opened by section; the first differing bytes and
//! what is around them go to [`super::cause`]. Deliberately absent: how the causes are told apart.

use super::archive::{self, Raw};
use super::cause::{self, Cause};
use crate::exit::Failure;
use crate::symbols::place;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The bytes before and after a difference that are looked at.
const AROUND: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub file: String,
    /// Of an object file.
    pub section: Option<String>,
    /// The symbol that covers the first differing byte, where there are symbols.
    pub symbol: Option<String>,
    /// Where the symbol's name or the text tells.
    pub krate: Option<String>,
    /// In the section, otherwise in the file.
    pub offset: usize,
    #[serde(flatten)]
    pub cause: Cause,
}

/// Everything that differs between what lies at `a` and at `b`.
pub fn paths(a: &Path, b: &Path) -> Result<Vec<Difference>> {
    if a.is_dir() && b.is_dir() {
        return Ok(files(folder(a, a)?, folder(b, b)?));
    }
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| Failure::new(ExitCode::NotFound, format!("{}: {error}", path.display())))
    };
    let (left, right) = (read(a)?, read(b)?);
    if left == right {
        return Ok(Vec::new());
    }
    let name = a.file_name().unwrap_or_default().to_string_lossy();
    let open = |bytes: &[u8]| -> Result<Option<Vec<Raw>>> {
        Ok(if name.ends_with(".tar.zst") {
            Some(archive::raw(&archive::decompress(bytes)?)?)
        } else if name.ends_with(".tar") {
            Some(archive::raw(bytes)?)
        } else if name.ends_with(".whl") {
            let files = archive::unpack_zip(bytes)?;
            Some(files.into_iter().map(|(name, file)| plain(name, file.bytes, file.executable)).collect())
        } else {
            None
        })
    };
    let found = match (open(&left)?, open(&right)?) {
        (Some(left), Some(right)) => entries(left, right),
        _ => bytes(&name, &left, &right),
    };
    // Files that are the same in archives that are not: the packing itself differs.
    Ok(if found.is_empty() { vec![unexplained(&name, first(&left, &right))] } else { found })
}

fn plain(name: String, bytes: Vec<u8>, executable: bool) -> Raw {
    let mode = if executable { 0o755 } else { 0o644 };
    Raw { name, mode, owner: (0, 0), owner_names: Default::default(), mtime: 0, bytes }
}

/// Files of an archive in its order: their order, headers and bytes.
fn entries(left: Vec<Raw>, right: Vec<Raw>) -> Vec<Difference> {
    let names = |entries: &[Raw]| entries.iter().map(|entry| format!("{}\n", entry.name)).collect::<String>();
    let (a, b) = (names(&left), names(&right));
    let mut found = Vec::new();
    if a != b && cause::reordered(a.as_bytes(), b.as_bytes()) {
        let cause = cause::order(a.as_bytes(), b.as_bytes(), "the order of files");
        found.push(Difference {
            cause,
            ..unexplained("(the list of files)", first(a.as_bytes(), b.as_bytes()))
        });
    }
    let by_name = |entries: Vec<Raw>| {
        entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect::<BTreeMap<_, _>>()
    };
    let (left, right) = (by_name(left), by_name(right));
    for (name, a) in &left {
        if let Some(b) = right.get(name) {
            found.extend(
                cause::headers(a, b).into_iter().map(|cause| Difference { cause, ..unexplained(name, 0) }),
            );
        }
    }
    let contents = |entries: BTreeMap<String, Raw>| {
        entries.into_iter().map(|(name, entry)| (name, entry.bytes)).collect()
    };
    found.extend(files(contents(left), contents(right)));
    found
}

fn folder(root: &Path, dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
        if path.is_dir() {
            files.extend(folder(root, &path)?);
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
        }
    }
    Ok(files)
}

fn files(left: BTreeMap<String, Vec<u8>>, right: BTreeMap<String, Vec<u8>>) -> Vec<Difference> {
    let mut found = Vec::new();
    for (name, a) in &left {
        match right.get(name) {
            Some(b) => found.extend(bytes(name, a, b)),
            None => found.push(Difference { cause: Cause::only("first"), ..unexplained(name, 0) }),
        }
    }
    let more = right.keys().filter(|name| !left.contains_key(*name));
    found.extend(more.map(|name| Difference { cause: Cause::only("second"), ..unexplained(name, 0) }));
    found
}

fn unexplained(file: &str, offset: usize) -> Difference {
    Difference {
        file: file.into(),
        section: None,
        symbol: None,
        krate: None,
        offset,
        cause: Cause::unknown(),
    }
}

/// The offset of the first difference.
fn first(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()))
}

/// The differences of one file, by section where it is an object file.
fn bytes(name: &str, a: &[u8], b: &[u8]) -> Vec<Difference> {
    if a == b {
        return Vec::new();
    }
    let (left, right) = (place::sections(a), place::sections(b));
    let mut found = Vec::new();
    for section in &left {
        // A section that moved and is otherwise the same is a consequence, so sections are matched by name.
        let Some(other) = right.iter().find(|other| other.name == section.name) else { continue };
        if section.data == other.data || section.name == ".note.gnu.build-id" {
            continue;
        }
        let at = first(section.data, other.data);
        let cause = judge(section.data, other.data, at);
        let symbol = place::symbol_at(a, &section.name, at as u64);
        let krate = symbol.as_deref().and_then(krate_of_symbol).or_else(|| krate_of_text(&cause.first));
        found.push(Difference {
            section: Some(section.name.clone()),
            symbol,
            krate,
            cause,
            ..unexplained(name, at)
        });
    }
    // Addresses differ wherever a text before them has another length: what is explained goes first.
    found.sort_by_key(|difference| difference.cause.kind == cause::Kind::Unknown);
    if found.is_empty() {
        let at = first(a, b);
        let cause = judge(a, b, at);
        found.push(Difference { krate: krate_of_text(&cause.first), cause, ..unexplained(name, at) });
    }
    found
}

fn judge(a: &[u8], b: &[u8], at: usize) -> Cause {
    if cause::reordered(a, b) {
        return cause::order(a, b, "text");
    }
    let around = |bytes: &[u8]| (at.saturating_sub(AROUND)..(at + AROUND).min(bytes.len()), at.min(AROUND));
    let ((left, here), (right, there)) = (around(a), around(b));
    cause::judge(&a[left], here, &b[right], there)
}

/// `tokio` in `<tokio::runtime::Handle as ...>::enter`.
fn krate_of_symbol(symbol: &str) -> Option<String> {
    let (name, _) = symbol.trim_start_matches(['<', '&']).split_once("::")?;
    name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| name.into())
}

/// `tokio-1.2.3` in a path of the registry.
fn krate_of_text(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("/registry/src/")?;
    rest.split('/').nth(1).map(str::to_string)
}

/// For people, a paragraph each.
pub fn describe(found: &[Difference]) -> String {
    let place = |difference: &Difference| {
        let parts =
            [("section", &difference.section), ("symbol", &difference.symbol), ("crate", &difference.krate)];
        let parts = parts.iter().filter_map(|(what, value)| Some(format!(", {what} {}", value.as_ref()?)));
        format!("{}{} at {:#x}", difference.file, parts.collect::<String>(), difference.offset)
    };
    let line = |difference: &Difference| {
        let Cause { kind, first, second, cure } = &difference.cause;
        format!("{}: {}: {first:?} and {second:?}; {cure}", place(difference), kind.name())
    };
    found.iter().map(line).collect::<Vec<_>>().join("\n")
}
