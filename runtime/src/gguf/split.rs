//! Models split over several files, as llama.cpp's gguf-split writes them.
//!
//! In: the header of the first part and its path, NAME-00001-of-0000N.gguf. Out: the other parts, opened and checked:
//! `split.no` (from 0), `split.count` and `split.tensors.count` of every part against its place. Metadata is that of the
//! first part. Deliberately absent: writing parts.

use super::parse::{self, Header};
use super::storage::{Mapping, Storage};
use super::value::FromValue;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A file of a model.
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) storage: Storage,
}

/// Opens the parts after the first and adds their tensors to `first`, `part` numbers included.
///
/// # Errors
/// A part that is not the first, is missing, or does not belong.
pub(super) fn open_rest(path: &Path, first: &mut Header, mapping: Mapping) -> Result<Vec<Part>> {
    let Some(count) = number(path, first, "split.count")?.filter(|count| *count > 1) else {
        return Ok(Vec::new());
    };
    let place = number(path, first, "split.no")?.unwrap_or(0);
    let named = part_path(path, place, count, 0);
    if place != 0 {
        let what = format!("this is part {} of {count}", place + 1);
        let first = named.map_or_else(|| "the first part".into(), |path| path.display().to_string());
        return Err(Error::unsupported(path, what, format!("open {first}, which names the others")));
    }
    if named.is_none() {
        let what = format!("the first of {count} parts is not named NAME-00001-of-{count:05}.gguf");
        return Err(Error::unsupported(path, what, "give all parts the names that they were made with"));
    }
    let mut parts = Vec::new();
    for index in 1..count {
        let part = part_path(path, 0, count, index).expect("the first part has such a name");
        if !part.exists() {
            let what = format!("{}: part {} of {count} is missing", part.display(), index + 1);
            return Err(Error::NotFound { what, remedy: "put all parts into one folder".into() });
        }
        let storage = Storage::open(&part, mapping)?;
        let header = parse::parse(&part, storage.bytes(), Some(first))?;
        for (key, expected) in [("split.no", index), ("split.count", count)] {
            let found = number(&part, &header, key)?;
            if found != Some(expected) {
                let found = found.map_or_else(|| "missing".into(), |found| format!("{found}"));
                let what = format!("{key} is {found}, but this part's name says {expected}");
                return Err(Error::malformed(&part, header.metadata_end, what, MIXED));
            }
        }
        for mut tensor in header.tensors {
            if first.tensors.iter().any(|known| known.name == tensor.name) {
                let what = format!("tensor {:?} is in another part as well", tensor.name);
                return Err(Error::malformed(&part, tensor.info_offset, what, MIXED));
            }
            tensor.part = index as usize;
            first.tensors.push(tensor);
        }
        parts.push(Part { path: part, storage });
    }
    if let Some(total) = number(path, first, "split.tensors.count")?
        && total as usize != first.tensors.len()
    {
        let what =
            format!("split.tensors.count is {total}, but the parts have {} tensors", first.tensors.len());
        return Err(Error::malformed(path, first.metadata_end, what, MIXED));
    }
    Ok(parts)
}

const MIXED: &str = "parts of different models are mixed: fetch all parts of one";

fn number(path: &Path, header: &Header, key: &str) -> Result<Option<u32>> {
    let Some(entry) = header.metadata.iter().find(|entry| entry.key == key) else { return Ok(None) };
    u32::from_value(&entry.value).map(Some).ok_or_else(|| {
        let what = format!("metadata key {key:?} is {} {}", entry.value.type_name(), entry.value);
        Error::malformed(path, entry.offset, what, "a number from 0 is expected: fetch the file again")
    })
}

/// The path of part `wanted` (from 0), where `path` is named as part `place` of `count`.
fn part_path(path: &Path, place: u32, count: u32, wanted: u32) -> Option<PathBuf> {
    let suffix = |place: u32| format!("-{:05}-of-{count:05}.gguf", place + 1);
    let name = path.file_name()?.to_str()?.strip_suffix(&suffix(place))?;
    Some(path.with_file_name(format!("{name}{}", suffix(wanted))))
}
