//! GGUF files: checked views of metadata and tensors, and a writer.
//!
//! In: a path ([`Gguf::open`]) or bytes ([`Gguf::from_bytes`]), GGUF version 2 or 3, little-endian. Out:
//! typed metadata, and [`TensorView`]s that borrow the file's bytes. A bad file is an error with the path and
//! the byte offset: never a panic, never an invented default. Deliberately absent: what a model needs (see
//! [`crate::model`]) and decoding of weights (see [`crate::quant`]).
//!
//! A split model is opened by its first part, and is then one file whose tensors lie in several (see `split`).
//!
//! Tensors of a type this runtime does not read are listed by [`Gguf::tensors`], so that such a file can be
//! inspected; [`Gguf::tensor`] and [`Gguf::require_readable_types`] refuse them.

#[cfg(test)]
mod edges;
mod meaning;
mod parse;
mod split;
pub(crate) mod storage;
#[cfg(test)]
mod tests;
mod value;
mod writer;

pub use meaning::Meaning;
pub use parse::TensorInfo;
pub use storage::Mapping;
pub use value::{Array, FromValue, Strings, Value, value_type_name};
pub use writer::{GgufWriter, Layout};

use crate::error::{Error, Result};
use crate::tensor::TensorType;
use bitforge_schema::env::nearest;
use parse::{Entry, Header};
use split::Part;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use storage::Storage;

/// An open GGUF file whose header has been checked against its length.
///
/// ```
/// use bitnet_runtime::gguf::{Gguf, Mapping};
///
/// let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/ok/bitnet-b158-i2_s.gguf");
/// let gguf = Gguf::open(path, Mapping::default())?;
/// assert_eq!(gguf.str("general.architecture")?, "bitnet-b1.58");
/// let tensor = gguf.tensor("blk.0.attn_q.weight")?;
/// assert_eq!(tensor.bytes.len() as u64, tensor.ty.tensor_bytes(tensor.dims).unwrap());
///
/// // What is wrong with a file is an error with the place in it.
/// let error = Gguf::from_bytes("short.gguf", &std::fs::read(path)?[..100]).err().unwrap();
/// assert!(error.to_string().starts_with("short.gguf"), "{error}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Gguf {
    path: PathBuf,
    /// The file, or all parts of a split model.
    parts: Vec<Part>,
    header: Header,
    entry_of_key: HashMap<String, usize>,
    tensor_of_name: HashMap<String, usize>,
}

/// The packed weights of one tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub name: &'a str,
    pub ty: TensorType,
    /// `dims[0]` is the fastest: the length of a row.
    pub dims: &'a [u64],
    /// Exactly [`TensorType::tensor_bytes`] bytes. Aligned as the file is (32 bytes unless it says otherwise;
    /// nothing may be assumed).
    pub bytes: &'a [u8],
    /// The file, or the part of a split model, that has the data.
    pub path: &'a Path,
    /// Where `bytes` starts, in bytes from the start of that file.
    pub offset: u64,
}

impl Gguf {
    /// Opens and checks the file at `path`, and the other parts where it is the first part of a split model.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] with the offset of what is wrong, [`Error::Unsupported`] for what is
    /// not a regular file, [`Error::Limit`] where memory does not suffice.
    pub fn open(path: impl AsRef<Path>, mapping: Mapping) -> Result<Self> {
        let path = path.as_ref();
        let storage = Storage::open(path, mapping)?;
        let mut header = parse::parse(path, storage.bytes(), None)?;
        let rest = split::open_rest(path, &mut header, mapping)?;
        Ok(Self::new(path, storage, rest, header))
    }

    /// Checks a file that is already in memory; the bytes are copied. `path` is for messages only.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<Self> {
        let (path, storage) = (path.as_ref(), Storage::copy_of(bytes.as_ref()));
        let header = parse::parse(path, storage.bytes(), None)?;
        Ok(Self::new(path, storage, Vec::new(), header))
    }

    fn new(path: &Path, storage: Storage, rest: Vec<Part>, header: Header) -> Self {
        let index = |names: &mut dyn Iterator<Item = &String>| names.cloned().zip(0..).collect();
        let first = Part { path: path.into(), storage };
        Gguf {
            path: path.into(),
            parts: std::iter::once(first).chain(rest).collect(),
            entry_of_key: index(&mut header.metadata.iter().map(|entry| &entry.key)),
            tensor_of_name: index(&mut header.tensors.iter().map(|tensor| &tensor.name)),
            header,
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// Every tensor's data starts at a multiple of this many bytes from the start of the data section.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// Length of the file, or of all parts, in bytes.
    pub fn file_len(&self) -> u64 {
        self.parts().map(|part| part.len() as u64).sum()
    }

    /// Keys and values in file order.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.header.metadata.iter().map(|entry| (entry.key.as_str(), &entry.value))
    }

    /// The raw value of a key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The value of `key` as `T`, `None` where the key is absent.
    ///
    /// # Errors
    /// [`Error::Malformed`] at the value's offset where it is of another type or does not fit.
    pub fn opt<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        match T::from_value(&entry.value) {
            Some(value) => Ok(Some(value)),
            None => {
                let (name, value) = (entry.value.type_name(), &entry.value);
                Err(self.bad_key(key, format!("is {name} {value}, expected {}", T::EXPECTED)))
            }
        }
    }

    /// The value of `key` as `T`.
    ///
    /// # Errors
    /// As [`Self::opt`], and where the key is absent.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T> {
        self.opt(key)?.ok_or_else(|| {
            let near = nearest(key, self.metadata().map(|(key, _)| key));
            let near = near.map(|near| format!(" (nearest: {near:?})")).unwrap_or_default();
            let what = format!("metadata key {key:?} is missing{near}");
            Error::malformed(&self.path, self.header.metadata_end, what, "convert the model again")
        })
    }

    /// An error at the value of `key`: `reason` continues "metadata key x ".
    pub fn bad_key(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        let offset = self.entry(key).map_or(self.header.metadata_end, |entry| entry.offset);
        Error::malformed(
            &self.path,
            offset,
            format!("metadata key {key:?} {reason}"),
            "convert the model again",
        )
    }

    /// The bytes of the file, or of every part of a split model.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(|part| part.storage.bytes())
    }

    /// Takes `part`, a slice of one of [`Self::parts`], out of this process's memory where the file is mapped; it loads
    /// again when it is touched.
    pub fn forget(&self, part: &[u8]) {
        let holds = |file: &&Part| file.storage.bytes().as_ptr_range().contains(&part.as_ptr());
        if let Some(file) = self.parts.iter().find(holds) {
            file.storage.forget(part);
        }
    }

    /// All tensor infos in file order, of every type.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    pub fn has_tensor(&self, name: &str) -> bool {
        self.tensor_of_name.contains_key(name)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the nearest names where there is none, [`Error::Unsupported`] where its type
    /// is not one this runtime reads.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let Some(&index) = self.tensor_of_name.get(name) else {
            let what = format!(
                "tensor {name:?} is missing; nearest of {}: {}",
                self.tensors().len(),
                self.near(name)
            );
            return Err(Error::malformed(&self.path, self.header.infos_end, what, "convert the model again"));
        };
        let info = &self.header.tensors[index];
        let Some(ty) = info.ty() else { return Err(self.unreadable(&[info])) };
        let path = &self.parts[info.part].path;
        Ok(TensorView {
            name: &info.name,
            ty,
            dims: &info.dims,
            bytes: self.data(info),
            path,
            offset: info.offset,
        })
    }

    /// What the file says about the tensor called `name`, of any type.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor_of_name.get(name).map(|&index| &self.header.tensors[index])
    }

    /// The packed weights of one of this file's tensors; empty where its size is not known.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        // The header's check has put every tensor inside its file.
        let start = info.offset as usize;
        &self.parts[info.part].storage.bytes()[start..start + info.len.unwrap_or(0) as usize]
    }

    /// An error at the data of tensor `name`: `reason` continues "tensor x ".
    pub fn bad_tensor(&self, name: &str, reason: impl std::fmt::Display) -> Error {
        let (path, offset) = self
            .info(name)
            .map_or((&self.path, self.header.infos_end), |info| (&self.parts[info.part].path, info.offset));
        Error::malformed(path, offset, format!("tensor {name:?} {reason}"), "convert the model again")
    }

    /// Checks that every tensor is of a type this runtime reads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that lists the tensors which are not.
    pub fn require_readable_types(&self) -> Result<()> {
        self.require_types(|meaning| matches!(meaning, Meaning::Readable(_)))
    }

    /// As [`Self::require_readable_types`], where a code map makes the older forms of I2_S readable too.
    ///
    /// # Errors
    /// As there.
    pub fn require_mappable_types(&self) -> Result<()> {
        self.require_types(|meaning| matches!(meaning, Meaning::Readable(_) | Meaning::OldI2s(_)))
    }

    fn require_types(&self, readable: impl Fn(Meaning) -> bool) -> Result<()> {
        let unreadable: Vec<&TensorInfo> =
            self.tensors().iter().filter(|info| !readable(info.meaning)).collect();
        if unreadable.is_empty() { Ok(()) } else { Err(self.unreadable(&unreadable)) }
    }

    fn unreadable(&self, infos: &[&TensorInfo]) -> Error {
        let shown: Vec<String> = infos
            .iter()
            .take(3)
            .map(|info| {
                let name = info.meaning.name().unwrap_or("unknown");
                format!(
                    "tensor {:?} has the unreadable type {} ({name}) (at byte offset {})",
                    info.name, info.type_id, info.info_offset
                )
            })
            .collect();
        let more = infos.len() - shown.len();
        let more = if more > 0 { format!(", and {more} more tensors") } else { String::new() };
        let readable = TensorType::ALL.map(TensorType::name).join(", ");
        let old = infos.iter().any(|info| matches!(info.meaning, Meaning::OldI2s(_)));
        let remedy = if old {
            "say what its codes stand for (--code-map=-1,0,1,x where 3 must not occur), or convert the model again".into()
        } else {
            format!("convert the model to one of {readable}")
        };
        Error::unsupported(&self.path, format!("{}{more}", shown.join(", ")), remedy)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entry_of_key.get(key).map(|&index| &self.header.metadata[index])
    }

    /// Up to three tensor names that look most like `name`.
    fn near(&self, name: &str) -> String {
        let mut names: Vec<&str> = self.tensors().iter().map(|info| info.name.as_str()).collect();
        let mut near = Vec::new();
        while let (Some(found), 0..3) = (nearest(name, names.iter().copied()), near.len()) {
            names.retain(|name| *name != found);
            near.push(format!("{found:?}"));
        }
        if near.is_empty() { "none".into() } else { near.join(", ") }
    }
}

/// The getters by the name of the type, for keys that must be there and (`opt_*`) may be.
impl Gguf {
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.get(key)
    }

    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.opt(key)
    }

    pub fn f32(&self, key: &str) -> Result<f32> {
        self.get(key)
    }

    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>> {
        self.opt(key)
    }

    pub fn bool(&self, key: &str) -> Result<bool> {
        self.get(key)
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.opt(key)
    }

    pub fn str(&self, key: &str) -> Result<&str> {
        self.get(key)
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.opt(key)
    }

    pub fn strings(&self, key: &str) -> Result<&Strings> {
        self.get(key)
    }

    pub fn opt_strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.opt(key)
    }

    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.get(key)
    }

    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.opt(key)
    }

    pub fn f32s(&self, key: &str) -> Result<Vec<f32>> {
        self.get(key)
    }

    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.opt(key)
    }
}
