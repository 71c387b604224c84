//! One safetensors file: a length, a JSON header, tensor data; every number checked against the file.
//!
//! In: a path. Out: named views of the data with their type and shape, dimension 0 the slowest. A bad file is an
//! error with the byte offset: never a panic, never an allocation that the file's size does not justify. As the
//! specification asks, tensors may neither overlap nor leave holes. The `safetensors` crate does the same checks
//! but says no offset and takes duplicate names; what it would save here is one page.
//! Deliberately absent: writing, and the meaning of names (see `super::names`).
//!
//! Source: the format section of the safetensors README.

use crate::gguf::Mapping;
use crate::gguf::storage::Storage;
use crate::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest header that is read, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
const REMEDY: &str = "the file is incomplete or damaged: fetch it again";

/// An open file whose header has been checked against its length.
pub struct Safetensors {
    path: PathBuf,
    storage: Storage,
    tensors: Vec<Info>,
}

struct Info {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    /// In bytes from the start of the file.
    data: Range<usize>,
}

/// One tensor of a file.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    /// The last dimension is the fastest.
    pub shape: &'a [u64],
    pub bytes: &'a [u8],
    /// Where `bytes` starts in the file.
    pub offset: u64,
    pub file: &'a Safetensors,
}

macro_rules! dtypes {
    ($($name:ident = $bytes:literal),* $(,)?) => {
        /// Element types of the format whose size is whole bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(non_camel_case_types, reason = "the names of the format")]
        pub enum Dtype { $($name),* }

        impl Dtype {
            pub const fn name(self) -> &'static str {
                match self { $(Dtype::$name => stringify!($name)),* }
            }

            const fn bytes(self) -> u64 {
                match self { $(Dtype::$name => $bytes),* }
            }

            fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Dtype::$name),)* _ => None }
            }
        }
    };
}
dtypes! {
    BOOL = 1, U8 = 1, I8 = 1, F8_E4M3 = 1, F8_E5M2 = 1, I16 = 2, U16 = 2, F16 = 2, BF16 = 2, I32 = 4, U32 = 4,
    F32 = 4, I64 = 8, U64 = 8, F64 = 8,
}

impl Safetensors {
    /// # Errors
    /// [`Error::Io`], or [`Error::Malformed`] with the offset of what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_storage(path, Storage::open(path, Mapping::Mmap)?)
    }

    /// Checks a file that is already in memory; the bytes are copied. `path` is for messages only.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        Self::from_storage(path.as_ref(), Storage::copy_of(bytes))
    }

    fn from_storage(path: &Path, storage: Storage) -> Result<Self> {
        let tensors =
            parse(storage.bytes()).map_err(|bad| Error::malformed(path, bad.offset, bad.what, REMEDY))?;
        Ok(Safetensors { path: path.into(), storage, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In the order of their data.
    pub fn tensors(&self) -> impl Iterator<Item = View<'_>> {
        self.tensors.iter().map(|info| View {
            name: &info.name,
            dtype: info.dtype,
            shape: &info.shape,
            bytes: &self.storage.bytes()[info.data.clone()],
            offset: info.data.start as u64,
            file: self,
        })
    }

    /// As [`crate::gguf::Gguf::forget`].
    pub fn forget(&self, part: &[u8]) {
        self.storage.forget(part);
    }
}

/// What is wrong, and where.
struct Bad {
    offset: u64,
    what: String,
}

fn parse(bytes: &[u8]) -> Result<Vec<Info>, Bad> {
    let bad = |offset: u64, what: String| Bad { offset, what };
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(bad(0, format!("{} bytes are too few for the header's length", bytes.len())));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER || len > rest.len() as u64 {
        let what = format!("the header's length is {len}, of a file of {} bytes", bytes.len());
        return Err(bad(0, what));
    }
    let (json, data) = rest.split_at(len as usize);
    let entries: Entries = serde_json::from_slice(json).map_err(|error| {
        let line = json.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
        let before = line.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
        bad(8 + before as u64, format!("the header is not what it must be: {error}"))
    })?;
    let data_start = 8 + json.len() as u64;
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, entry) in &entries.0 {
        let wrong = |what: String| {
            // Where the header names it; an escaped name is not found, which leaves the start of the header.
            let quoted = format!("{name:?}");
            let at = json.windows(quoted.len()).position(|window| window == quoted.as_bytes()).unwrap_or(0);
            bad(8 + at as u64, format!("tensor {name:?} {what}"))
        };
        if !names.insert(name) {
            return Err(wrong("is listed twice".into()));
        }
        let dtype = Dtype::from_name(&entry.dtype)
            .ok_or_else(|| wrong(format!("has the type {:?}, which is not known", entry.dtype)))?;
        let size = entry.shape.iter().try_fold(dtype.bytes(), |size, dim| size.checked_mul(*dim));
        let [start, end] = entry.data_offsets;
        if start > end || end > data.len() as u64 {
            return Err(wrong(format!("has the data offsets {start} to {end}, of {} bytes", data.len())));
        }
        if size != Some(end - start) {
            let (shape, given) = (&entry.shape, end - start);
            return Err(wrong(format!(
                "of type {} and shape {shape:?} has {given} bytes of data",
                dtype.name()
            )));
        }
        let data = (data_start + start) as usize..(data_start + end) as usize;
        tensors.push(Info { name: name.clone(), dtype, shape: entry.shape.clone(), data });
    }
    tensors.sort_by_key(|info| (info.data.start, info.data.end));
    let mut end = data_start as usize;
    for info in &tensors {
        if info.data.start != end {
            let how = if info.data.start < end { "overlaps" } else { "leaves a hole after" };
            return Err(bad(
                info.data.start as u64,
                format!("tensor {:?} {how} the data before it", info.name),
            ));
        }
        end = info.data.end;
    }
    if end != bytes.len() {
        return Err(bad(end as u64, format!("{} bytes at the end belong to no tensor", bytes.len() - end)));
    }
    Ok(tensors)
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in file order, duplicates included, without `__metadata__`.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let entry = map.next_value::<Entry>();
                        entries.push((
                            name.clone(),
                            entry.map_err(|e| A::Error::custom(format!("{name}: {e}")))?,
                        ));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of `header` and `data`.
    pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn error(header: &str, data: &[u8]) -> String {
        let opened = Safetensors::from_bytes("x.safetensors", &file(header, data));
        opened.err().expect("refused").to_string()
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;

    #[test]
    fn views_are_in_the_order_of_their_data() {
        let opened = Safetensors::from_bytes("x", &file(GOOD, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])).unwrap();
        let seen: Vec<_> =
            opened.tensors().map(|t| (t.name, t.dtype.name(), t.shape.to_vec(), t.bytes[0])).collect();
        assert_eq!(seen, [("a", "BF16", vec![2, 2], 0), ("b", "U8", vec![3], 8)]);
        assert_eq!(opened.tensors().next().unwrap().offset, 8 + GOOD.len() as u64);
    }

    #[test]
    fn every_damage_is_told_with_its_offset() {
        let entry = |name: &str, rest: &str| format!(r#"{{"{name}":{{"dtype":"F32","shape":{rest}}}}}"#);
        for (header, bytes, says) in [
            (entry("a", r#"[2],"data_offsets":[0,9]"#), 8, r#"tensor "a" has the data offsets 0 to 9, of 8 bytes (at byte offset 9)"#),
            (entry("a", r#"[3],"data_offsets":[0,8]"#), 8, "of type F32 and shape [3] has 8 bytes of data"),
            (entry("a", r#"[4611686018427387904,4],"data_offsets":[0,0]"#), 0, "has 0 bytes of data"),
            (entry("a", r#"[2],"data_offsets":[8,0]"#), 8, "has the data offsets 8 to 0"),
            (entry("a", r#"[1],"data_offsets":[0,4]"#), 8, "4 bytes at the end belong to no tensor"),
            (entry("a", r#"[1],"data_offsets":[4,8]"#), 8, "leaves a hole"),
            (entry("a", r#"[-1],"data_offsets":[0,8]"#), 8, "not what it must be"),
            (entry("a", r#"[1]"#), 8, "missing field `data_offsets`"),
            (r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}"#.into(), 1, "\"Q9\", which is not known"),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#.into(),
                3,
                "\"b\" overlaps",
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#.into(),
                4,
                "\"a\" is listed twice",
            ),
            ("[]".into(), 0, "an object of tensors"),
            ("{".into(), 0, "(at byte offset 8)"),
        ] {
            let message = error(&header, &vec![0; bytes]);
            assert!(message.contains(says) && message.contains("byte offset"), "{header}: {message}");
        }
        for bytes in [&[0u8; 7][..], &[255; 8], &[3, 0, 0, 0, 0, 0, 0, 0, b'{']] {
            let message = Safetensors::from_bytes("x", bytes).err().expect("refused").to_string();
            assert!(message.contains("(at byte offset 0)"), "{message}");
        }
    }

    proptest! {
        /// Bytes of a good file changed, cut or made up: views or an error, and views lie inside the file.
        #[test]
        fn hostile_files_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
            tail in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            let mut bytes = file(GOOD, &[0; 11]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if tail.len() > 12 {
                bytes.truncate(cut.index(bytes.len()));
                bytes.extend(tail);
            }
            if let Ok(opened) = Safetensors::from_bytes("x", &bytes) {
                let total: usize = opened.tensors().map(|tensor| tensor.bytes.len()).sum();
                prop_assert!(total < bytes.len());
            }
        }
    }
}
