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
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Names must be shorter than this for llama.cpp to open the file (`GGML_MAX_NAME`).
const MAX_NAME: usize = 64;

type Source<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'a>;

/// Collects a file's content; [`Self::write_to`] checks and writes it.
#[derive(Default)]
pub struct GgufWriter<'a> {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
}

/// The places of a file's parts, in bytes from its start. What lies between them is zero.
pub struct Layout {
    /// Everything before the first tensor, padding included.
    pub header: Vec<u8>,
    /// In the order in which the tensors were added.
    pub tensors: Vec<Range<u64>>,
    pub file_len: u64,
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
        bytes: impl AsRef<[u8]> + Send + 'a,
    ) -> &mut Self {
        self.tensor_from(name, ty, dims, move |out| out.write_all(bytes.as_ref()))
    }

    /// Adds a tensor whose packed bytes `source` writes when the file is written.
    pub fn tensor_from(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        dims: &[u64],
        source: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'a,
    ) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), ty, dims: dims.into(), source: Box::new(source) });
        self
    }

    /// Where everything will be, for a caller that writes the tensors itself, in any order.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for what no reader would take: duplicate or too long names, impossible
    /// shapes, a bad alignment.
    pub fn layout(&self) -> io::Result<Layout> {
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
        let mut tensors: Vec<Range<u64>> = Vec::with_capacity(self.tensors.len());
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
            let end = offset.checked_add(len).ok_or_else(|| invalid(shape()))?;
            tensors.push(offset..end);
            offset = end.checked_next_multiple_of(alignment).ok_or_else(|| invalid(shape()))?;
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        let data = header.len() as u64;
        let file_len =
            data.checked_add(offset).ok_or_else(|| invalid("the file would be too large".into()))?;
        tensors.iter_mut().for_each(|range| *range = data + range.start..data + range.end);
        Ok(Layout { header, tensors, file_len })
    }

    /// Writes the file and returns its length in bytes.
    ///
    /// # Errors
    /// Those of [`Self::layout`], before anything is written; during writing where a source gives more or fewer
    /// bytes than its tensor has; and any error of `out`.
    pub fn write_to(self, out: &mut dyn Write) -> io::Result<u64> {
        let Layout { header, tensors, file_len } = self.layout()?;
        let mut out = Counted { out, written: 0 };
        out.write_all(&header)?;
        for (tensor, range) in self.tensors.into_iter().zip(tensors) {
            out.pad_to(range.start)?;
            (tensor.source)(&mut out)?;
            let (len, written) = (range.end - range.start, out.written - range.start);
            check(written == len, || {
                format!("tensor {:?} has {len} bytes but {written} were given", tensor.name)
            })?;
        }
        out.pad_to(file_len)?;
        out.flush()?;
        Ok(out.written)
    }

    /// As [`Self::write_to`], into an empty file, tensors side by side on so many threads: the same bytes.
    ///
    /// # Errors
    /// As [`Self::write_to`].
    pub fn write_to_file(self, file: &File, threads: usize) -> io::Result<u64> {
        let Layout { header, tensors, file_len } = self.layout()?;
        file.set_len(file_len)?;
        file.write_all_at(&header, 0)?;
        let work = Mutex::new(self.tensors.into_iter().zip(tensors));
        let write_some = || -> io::Result<()> {
            loop {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((tensor, range)) = next else { return Ok(()) };
                let mut out = BufWriter::with_capacity(1 << 20, At { file, at: range.start });
                (tensor.source)(&mut out)?;
                out.flush()?;
                let (len, written) = (range.end - range.start, out.get_ref().at - range.start);
                check(written == len, || {
                    format!("tensor {:?} has {len} bytes but {written} were given", tensor.name)
                })?;
            }
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(write_some)).collect();
            running.into_iter().try_for_each(|thread| thread.join().expect("sources do not panic"))
        })?;
        Ok(file_len)
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

/// Writes to a file from a place on.
struct At<'f> {
    file: &'f File,
    at: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts what passes through.
struct Counted<'w> {
    out: &'w mut dyn Write,
    written: u64,
}

impl Counted<'_> {
    fn pad_to(&mut self, position: u64) -> io::Result<()> {
        let padding = position.saturating_sub(self.written);
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
