//! From the bytes of a file to its header: metadata and tensor infos, every length and offset checked.
//!
//! In: all bytes of the file. Out: a [`Header`], or an error with the byte offset of what is wrong. All
//! arithmetic is checked, and a count is believed only where the bytes left could hold that many items.
//! Deliberately absent: the meaning of keys (except `general.alignment`) and of tensor data; which tensors
//! a model needs.
//!
//! Source: ggml's docs/gguf.md.

use super::meaning::{self, Meaning};
use super::value::{self, Array, FromValue, Strings, Value, value_type_name};
use crate::error::{Error, Result};
use crate::tensor::TensorType;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
pub(super) const DEFAULT_ALIGNMENT: u32 = 32;
pub(super) const MAX_DIMS: u32 = 4;

const DAMAGED: &str = "the file is damaged: fetch or convert it again";
const TRUNCATED: &str = "the file is incomplete or damaged: fetch it again";

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) metadata: Vec<Entry>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) metadata_end: u64,
    pub(super) infos_end: u64,
}

pub(super) struct Entry {
    pub(super) key: String,
    /// Where the value starts in the file.
    pub(super) offset: u64,
    pub(super) value: Value,
}

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    /// The type's id in the file.
    pub type_id: u32,
    /// What the id means in this file.
    pub meaning: Meaning,
    /// 1 to 4 dimensions, none of them 0; `dims[0]` is the fastest (the length of a row).
    pub dims: Vec<u64>,
    /// The part of a split model that has the data, from 0.
    pub part: usize,
    /// Where the data starts, in bytes from the start of the file (of the part).
    pub offset: u64,
    /// Bytes of data, `None` where the type is not known.
    pub len: Option<u64>,
    /// Where this info itself is in the file.
    pub(super) info_offset: u64,
}

impl TensorInfo {
    /// The type, where this runtime reads it.
    pub fn ty(&self) -> Option<TensorType> {
        match self.meaning {
            Meaning::Readable(ty) => Some(ty),
            _ => None,
        }
    }

    /// The type's name, also of types that this runtime does not read.
    pub fn type_name(&self) -> String {
        self.meaning.name().map_or_else(|| format!("type {}", self.type_id), Into::into)
    }
}

/// `first` is the header of the first part, where `bytes` are a later part of a split model.
pub(super) fn parse(path: &Path, bytes: &[u8], first: Option<&Header>) -> Result<Header> {
    let mut cursor = Cursor { path, bytes, pos: 0 };
    let version = preamble(&mut cursor)?;
    let tensor_count = cursor.count("the tensor count", 24)?;
    let metadata_count = cursor.count("the metadata count", 13)?;

    let mut metadata: Vec<Entry> = Vec::new();
    let mut seen = HashMap::new();
    for index in 0..metadata_count {
        let at = cursor.pos;
        let key = cursor.text(|| format!("the key of metadata entry {index}"))?;
        if seen.insert(key.clone(), ()).is_some() {
            return Err(cursor.bad(at, format!("metadata key {key:?} appears twice"), DAMAGED));
        }
        let type_id = cursor.u32(|| format!("the type of metadata key {key:?}"))?;
        let offset = cursor.pos as u64;
        let value = cursor.value(&key, type_id)?;
        metadata.push(Entry { key, offset, value });
    }
    let metadata_end = cursor.pos as u64;
    let alignment = alignment(&cursor, &metadata)?;

    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut seen = HashMap::new();
    for index in 0..tensor_count {
        let info = tensor_info(&mut cursor, index)?;
        if seen.insert(info.name.clone(), ()).is_some() {
            let what = format!("tensor {:?} appears twice", info.name);
            return Err(cursor.bad(info.info_offset as usize, what, DAMAGED));
        }
        tensors.push(info);
    }
    let infos_end = cursor.pos as u64;
    let described = first.map_or(&metadata, |first| &first.metadata);
    place_tensors(&cursor, alignment, described, &mut tensors)?;
    Ok(Header { version, alignment, metadata, tensors, metadata_end, infos_end })
}

/// Magic and version.
fn preamble(cursor: &mut Cursor) -> Result<u32> {
    let magic = cursor.take(4, || "the magic number".into())?;
    if magic != MAGIC {
        let shown = magic.escape_ascii();
        let remedy = match magic {
            b"lmgg" | b"tjgg" | b"fmgg" | b"algg" => {
                "files older than GGUF are not supported: convert the model to GGUF"
            }
            b"vers" => "this looks like a Git LFS pointer: fetch the file itself",
            b"FUGG" => "the file is byte-swapped: convert it to little-endian GGUF",
            _ => "give a GGUF file, or fetch it again if it should be one",
        };
        return Err(cursor.bad(0, format!("the file starts with \"{shown}\", not with \"GGUF\""), remedy));
    }
    let version = cursor.u32(|| "the version".into())?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(cursor.bad(4, "GGUF version 1 is not supported", "convert the model to GGUF version 3")),
        v if matches!(v.swap_bytes(), 1..=3) => {
            let what = format!("big-endian GGUF version {} is not supported", v.swap_bytes());
            Err(cursor.bad(4, what, "convert it to little-endian with llama.cpp's gguf_convert_endian.py"))
        }
        v => Err(cursor.bad(
            4,
            format!("GGUF version {v} is not known"),
            "this runtime reads versions 2 and 3: convert the model to one of them, or fetch it again",
        )),
    }
}

fn alignment(cursor: &Cursor, metadata: &[Entry]) -> Result<u64> {
    let Some(entry) = metadata.iter().find(|entry| entry.key == ALIGNMENT_KEY) else {
        return Ok(u64::from(DEFAULT_ALIGNMENT));
    };
    match u32::from_value(&entry.value) {
        Some(alignment) if alignment.is_power_of_two() => Ok(u64::from(alignment)),
        _ => {
            let what = format!(
                "{ALIGNMENT_KEY} is {} {}, not a power of two that fits u32",
                entry.value.type_name(),
                entry.value
            );
            Err(cursor.bad(entry.offset as usize, what, DAMAGED))
        }
    }
}

/// One tensor info; `offset` is still relative to the data section, `len` not yet known.
fn tensor_info(cursor: &mut Cursor, index: u64) -> Result<TensorInfo> {
    let info_offset = cursor.pos as u64;
    let name = cursor.text(|| format!("the name of tensor {index}"))?;
    let at = cursor.pos;
    let n_dims = cursor.u32(|| format!("the dimension count of tensor {name:?}"))?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let what = format!("tensor {name:?} has {n_dims} dimensions, not 1 to {MAX_DIMS}");
        return Err(cursor.bad(at, what, DAMAGED));
    }
    let at = cursor.pos;
    let dims = (0..n_dims)
        .map(|_| cursor.u64(|| format!("the dimensions of tensor {name:?}")))
        .collect::<Result<Vec<u64>>>()?;
    if dims.contains(&0) {
        return Err(cursor.bad(at, format!("tensor {name:?} has an empty dimension: {dims:?}"), DAMAGED));
    }
    let type_id = cursor.u32(|| format!("the type of tensor {name:?}"))?;
    let offset = cursor.u64(|| format!("the offset of tensor {name:?}"))?;
    Ok(TensorInfo { name, type_id, meaning: Meaning::Unknown, dims, part: 0, offset, len: None, info_offset })
}

/// Turns offsets into positions in the file, says what the type ids mean, and checks that every tensor lies inside the
/// file, apart from the others.
fn place_tensors(
    cursor: &Cursor,
    alignment: u64,
    metadata: &[Entry],
    tensors: &mut [TensorInfo],
) -> Result<()> {
    let file_len = cursor.bytes.len() as u64;
    let data_start = (cursor.pos as u64).next_multiple_of(alignment);
    let value = |key: &str| metadata.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let context = meaning::Context {
        architecture: value("general.architecture").and_then(FromValue::from_value),
        file_type: value("general.file_type").and_then(u32::from_value),
        alignment,
        data_len: file_len.saturating_sub(data_start),
    };
    meaning::resolve(&context, tensors).map_err(|ambiguous| {
        let meaning::Ambiguous { id, tensor, names } = ambiguous;
        let TensorInfo { name, info_offset, .. } = &tensors[tensor];
        let what =
            format!("the type {id} of tensor {name:?} could be {names}, which have the same size here");
        let remedy = "set general.file_type, or convert the model again";
        cursor.bad(*info_offset as usize, what, remedy)
    })?;
    for tensor in tensors.iter_mut() {
        let at = tensor.info_offset as usize;
        let name = &tensor.name;
        // The element count too must fit: callers multiply dimensions.
        let elements = tensor.dims.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        tensor.len = elements.and(tensor.meaning.bytes(&tensor.dims));
        if let (Some(ty), None) = (tensor.ty(), tensor.len) {
            let what = format!(
                "tensor {name:?} of type {ty} has the impossible shape {:?} (rows are whole blocks of {} weights, sizes fit 64 bits)",
                tensor.dims,
                ty.block().0
            );
            return Err(cursor.bad(at, what, DAMAGED));
        }
        if !tensor.offset.is_multiple_of(alignment) {
            let what = format!(
                "tensor {name:?} has offset {}, not a multiple of the alignment {alignment}",
                tensor.offset
            );
            return Err(cursor.bad(at, what, DAMAGED));
        }
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.len.unwrap_or(1)));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(cursor.bad(
                at,
                format!("tensor {name:?} has the offset {}, which overflows", tensor.offset),
                DAMAGED,
            ));
        };
        if end > file_len {
            let what = format!(
                "tensor {name:?} ends at byte {end}, but the file has {file_len} bytes: {} are missing",
                end - file_len
            );
            return Err(cursor.bad(start as usize, what, TRUNCATED));
        }
        tensor.offset = start;
    }
    check_overlaps(cursor, tensors)
}

fn check_overlaps(cursor: &Cursor, tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let overlap = (a.offset + a.len.unwrap_or(1)).saturating_sub(b.offset);
        if overlap > 0 {
            let what = format!("tensors {:?} and {:?} overlap by {overlap} bytes", a.name, b.name);
            let trailer = TensorType::I2S.trailer_bytes() as u64;
            let remedy = if a.ty() == Some(TensorType::I2S) && overlap == trailer {
                "this looks like a flavour of I2_S without the tensor's scale, which is not supported: convert it with bitnet.cpp"
            } else {
                DAMAGED
            };
            return Err(cursor.bad(b.offset as usize, what, remedy));
        }
    }
    Ok(())
}

/// A position in the file; every read checks that the bytes are there. `what` names the item for messages.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn bad(&self, offset: usize, what: impl Into<String>, remedy: &str) -> Error {
        Error::malformed(self.path, offset as u64, what, remedy)
    }

    fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    fn take(&mut self, len: u64, what: impl Fn() -> String) -> Result<&'a [u8]> {
        if len > self.left() {
            let missing = len - self.left();
            let what = format!("the file ends inside {}: {missing} of its {len} bytes are missing", what());
            return Err(self.bad(self.pos, what, TRUNCATED));
        }
        let range: Range<usize> = self.pos..self.pos + len as usize;
        self.pos = range.end;
        Ok(&self.bytes[range])
    }

    fn array<const N: usize>(&mut self, what: impl Fn() -> String) -> Result<[u8; N]> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    fn u32(&mut self, what: impl Fn() -> String) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: impl Fn() -> String) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of items that take at least `min_bytes` each.
    fn count(&mut self, what: &str, min_bytes: u64) -> Result<u64> {
        let at = self.pos;
        let count = self.u64(|| what.to_owned())?;
        if count > self.left() / min_bytes {
            let what = format!("{what} is {count}, more than the {} bytes after it can hold", self.left());
            return Err(self.bad(at, what, TRUNCATED));
        }
        Ok(count)
    }

    /// A string: u64 length, bytes.
    fn string(&mut self, what: impl Fn() -> String) -> Result<&'a [u8]> {
        let len = self.u64(|| format!("the length of {}", what()))?;
        self.take(len, what)
    }

    fn text(&mut self, what: impl Fn() -> String) -> Result<String> {
        let at = self.pos;
        let bytes = self.string(&what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.bad(at, format!("{} is not UTF-8", what()), DAMAGED)),
        }
    }

    fn value(&mut self, key: &str, type_id: u32) -> Result<Value> {
        let what = || format!("the value of metadata key {key:?}");
        match type_id {
            value::BOOL => Ok(Value::Bool(self.bools(1, what)?[0])),
            value::STRING => Ok(Value::Str(self.string(what)?.to_vec())),
            value::ARRAY => self.array_value(key).map(Value::Array),
            _ => match value::number_width(type_id) {
                Some(width) => {
                    let bytes = self.take(width as u64, what)?;
                    Ok(value::number(type_id, bytes).expect("a number type and as many bytes as it has"))
                }
                None => {
                    let what = format!("metadata key {key:?} has the unknown value type {type_id}");
                    Err(self.bad(self.pos - 4, what, DAMAGED))
                }
            },
        }
    }

    /// An array: u32 element type, u64 length, elements.
    fn array_value(&mut self, key: &str) -> Result<Array> {
        let what = || format!("the array of metadata key {key:?}");
        let at = self.pos;
        let type_id = self.u32(what)?;
        let width = match (type_id, value::number_width(type_id)) {
            (_, Some(width)) => width as u64,
            (value::BOOL, _) => 1,
            (value::STRING, _) => 8,
            (value::ARRAY, _) => {
                let what = format!("metadata key {key:?} holds nested arrays, which are not supported");
                return Err(self.bad(at, what, "convert the model without this key"));
            }
            _ => {
                let what = format!("metadata key {key:?} is an array of the unknown value type {type_id}");
                return Err(self.bad(at, what, DAMAGED));
            }
        };
        let len = self.count(
            &format!("the length of the {} array of metadata key {key:?}", value_type_name(type_id)),
            width,
        )?;
        match type_id {
            value::BOOL => self.bools(len, what).map(Array::Bool),
            value::STRING => {
                let mut strings = Strings::default();
                for index in 0..len {
                    strings.push(self.string(|| format!("string {index} of metadata key {key:?}"))?);
                }
                Ok(Array::Str(strings))
            }
            _ => {
                // `count` has bounded `len` by the bytes left: no overflow.
                let bytes = self.take(len * width, what)?;
                Ok(value::numbers(type_id, bytes).expect("a number type, checked above"))
            }
        }
    }

    fn bools(&mut self, len: u64, what: impl Fn() -> String) -> Result<Vec<bool>> {
        let at = self.pos;
        let bytes = self.take(len, &what)?;
        match bytes.iter().position(|byte| *byte > 1) {
            Some(index) => {
                let what = format!("{} has a bool that is {}, not 0 or 1", what(), bytes[index]);
                Err(self.bad(at + index, what, DAMAGED))
            }
            None => Ok(bytes.iter().map(|byte| *byte == 1).collect()),
        }
    }
}
