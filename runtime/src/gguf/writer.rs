//! Writing GGUF version 3 files that llama.cpp opens: tensors contiguous and in order, a power-of-two
//! alignment, padding after every tensor.
//!
//! In: metadata values, tensor shapes, and for each tensor its bytes or a closure that streams them. Out:
//! bytes to any [`Write`], the same for the same input. Deliberately absent: quantization
//! (see [`crate::quant`]), files and their atomic replacement.

use super::parse::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS};
use super::value::{Value, encode_string};
use crate::tensor::TensorType;
use std::collections::HashSet;
use std::io::{self, Write};

/// Names must be shorter than this for llama.cpp to open the file (`GGML_MAX_NAME`).
const MAX_NAME: usize = 64;

type Source<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + 'a>;

/// Collects a file's content; [`Self::write_to`] checks and writes it.
#[derive(Default)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
}

struct Tensor<'a> {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    source: Source<'a>,
}

impl<'a> GgufWriter<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key. `general.alignment` (a u32) also sets the alignment of the tensors.
    pub fn meta(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Adds a tensor with its packed bytes; `dims[0]` is the fastest.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        dims: &[u64],
        bytes: impl AsRef<[u8]> + 'a,
    ) -> &mut Self {
        self.tensor_from(name, ty, dims, move |out| out.write_all(bytes.as_ref()))
    }

    /// Adds a tensor whose packed bytes `source` writes when the file is written.
    pub fn tensor_from(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        dims: &[u64],
        source: impl FnOnce(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), ty, dims: dims.into(), source: Box::new(source) });
        self
    }

    /// Writes the file and returns its length in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`], before anything is written, for what no reader would take (duplicate or
    /// too long names, impossible shapes, a bad alignment); during writing where a source gives more or fewer
    /// bytes than its tensor has; and any error of `out`.
    pub fn write_to(self, out: &mut dyn Write) -> io::Result<u64> {
        let alignment = self.alignment()?;
        let mut header = MAGIC.to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());

        let mut keys = HashSet::new();
        for (key, value) in &self.metadata {
            check(keys.insert(key), || format!("metadata key {key:?} is given twice"))?;
            encode_string(key.as_bytes(), &mut header);
            header.extend(value.type_id().to_le_bytes());
            value.encode(&mut header);
        }

        let mut names = HashSet::new();
        let mut lens = Vec::with_capacity(self.tensors.len());
        let mut offset = 0u64;
        for Tensor { name, ty, dims, .. } in &self.tensors {
            check(names.insert(name), || format!("tensor {name:?} is given twice"))?;
            check(name.len() < MAX_NAME, || format!("tensor name {name:?} has {MAX_NAME} bytes or more"))?;
            let shape = || format!("tensor {name:?} of type {ty} cannot have the shape {dims:?}");
            check(dims.len() <= MAX_DIMS as usize && !dims.contains(&0), shape)?;
            let len = ty.tensor_bytes(dims).ok_or_else(|| invalid(shape()))?;
            encode_string(name.as_bytes(), &mut header);
            header.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| header.extend(dim.to_le_bytes()));
            header.extend((*ty as u32).to_le_bytes());
            header.extend(offset.to_le_bytes());
            lens.push(len);
            offset = offset
                .checked_add(len)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| invalid(shape()))?;
        }

        let mut out = Counted { out, written: 0 };
        out.write_all(&header)?;
        out.pad(alignment)?;
        for (tensor, len) in self.tensors.into_iter().zip(lens) {
            let start = out.written;
            (tensor.source)(&mut out)?;
            let written = out.written - start;
            check(written == len, || {
                format!("tensor {:?} has {len} bytes but {written} were given", tensor.name)
            })?;
            out.pad(alignment)?;
        }
        out.flush()?;
        Ok(out.written)
    }

    fn alignment(&self) -> io::Result<u64> {
        match self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
            None => Ok(u64::from(DEFAULT_ALIGNMENT)),
            Some((_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok(u64::from(*alignment)),
            Some((_, value)) => Err(invalid(format!(
                "{ALIGNMENT_KEY} is {} {value}, not a u32 power of two",
                value.type_name()
            ))),
        }
    }
}

/// Counts what passes through.
struct Counted<'w> {
    out: &'w mut dyn Write,
    written: u64,
}

impl Counted<'_> {
    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let padding = self.written.next_multiple_of(alignment) - self.written;
        io::copy(&mut io::Read::take(io::repeat(0), padding), self).map(|_| ())
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn check(holds: bool, message: impl FnOnce() -> String) -> io::Result<()> {
    if holds { Ok(()) } else { Err(invalid(message())) }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
