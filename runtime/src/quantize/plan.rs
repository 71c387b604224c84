//! Which tensor of a GGUF file gets which type, and the metadata of the new file.
//!
//! In: an open file and the types asked for. Out: a [`Plan`] that [`Plan::write`] carries out. Matrices of linear
//! layers get the type that was asked for, the embedding and the head their own, everything else stays. Where no
//! type is given for embedding and head they get what bitnet.cpp gives ternary models (f16) and llama-quantize gives
//! others (the head Q6_K, or Q8_0 where rows are not whole blocks of 256).

use super::source::{Packing, RowOrder, Source};
use super::write::{Item, Plan};
use crate::gguf::{Gguf, GgufWriter, Value};
use crate::quant::{I2sLayout, i2s};
use crate::tensor::TensorType;
use crate::{Error, Result};
use std::path::Path;

pub struct Options {
    /// Type of the linear layers.
    pub linear: TensorType,
    pub embedding: Option<TensorType>,
    /// Type of the head, where it is a tensor of its own.
    pub output: Option<TensorType>,
    /// Block-quantized weights may be decoded and quantized again.
    pub allow_requantize: bool,
    /// How I2_S tensors of the input are packed.
    pub i2s_layout: I2sLayout,
}

/// What a tensor is in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Linear,
    Embedding,
    Output,
    Other,
}

impl Role {
    /// By the names of llama.cpp's graphs.
    pub fn of(name: &str, dims: &[u64]) -> Self {
        const LINEARS: [&str; 7] =
            ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
        let linear = || {
            let (_, part) = name.strip_prefix("blk.")?.split_once('.')?;
            LINEARS.contains(&part.strip_suffix(".weight")?).then_some(Role::Linear)
        };
        match name {
            _ if dims.len() != 2 => Role::Other,
            "token_embd.weight" => Role::Embedding,
            "output.weight" => Role::Output,
            _ => linear().unwrap_or(Role::Other),
        }
    }
}

impl Options {
    /// The type that a tensor of `role` with rows of `columns` weights gets; `from` is its type, `tied` whether the
    /// embedding is the head.
    pub fn target(
        &self,
        role: Role,
        from: Option<TensorType>,
        columns: u64,
        tied: bool,
    ) -> Option<TensorType> {
        let explicit = match role {
            Role::Linear => Some(self.linear),
            Role::Embedding => self.embedding,
            Role::Output => self.output,
            Role::Other => return from,
        };
        let is_head = role == Role::Output || role == Role::Embedding && tied;
        explicit.or_else(|| match self.linear {
            ty if ty.is_ternary() => match from {
                Some(TensorType::F32 | TensorType::F16 | TensorType::BF16) | None => Some(TensorType::F16),
                packed => packed,
            },
            ty if is_head && ty != TensorType::Q8_0 && ty.block().0 > 1 => {
                match columns.is_multiple_of(256) {
                    true => Some(TensorType::Q6K),
                    false => Some(TensorType::Q8_0),
                }
            }
            ty => Some(ty),
        })
    }

    /// # Errors
    /// Types that embedding or head cannot have.
    pub fn check(&self) -> Result<()> {
        for (option, ty) in [("--embedding-type", self.embedding), ("--output-type", self.output)] {
            if let Some(ty) = ty.filter(|ty| ty.is_ternary()) {
                let what = format!("{option} is {ty}, but embeddings and heads are not ternary");
                return Err(Error::usage(what, "give f16, bf16, f32 or a block type such as q6_k"));
            }
        }
        Ok(())
    }
}

/// Plans the file `out` from `gguf`.
///
/// # Errors
/// Types that do not fit a tensor's rows, block-quantized weights that would be quantized again without leave,
/// tensors of types that this runtime does not read.
pub fn plan<'a>(gguf: &'a Gguf, options: &Options, out: &Path) -> Result<Plan<'a>> {
    options.check()?;
    gguf.require_readable_types()?;
    let tied = !gguf.has_tensor("output.weight");
    let mut items = Vec::new();
    for info in gguf.tensors() {
        let source = source(gguf, &info.name, options.i2s_layout)?;
        let role = Role::of(&info.name, &info.dims);
        let from = TensorType::from_id(info.type_id);
        let ty = options.target(role, from, info.dims[0], tied).expect("the type is one that is read");
        let floats = !source.is_float() && !source.is_packed_ternary() && ty.block().0 > 1;
        if floats && from != Some(ty) && !options.allow_requantize {
            let what = format!("is {}, and quantizing it to {ty} loses twice", source.type_name());
            return Err(
                source.refuse(what, "start from a file in f32, f16 or bf16, or give --allow-requantize")
            );
        }
        items.push(Item { name: info.name.clone(), ty, dims: info.dims.clone(), source });
    }
    check_rows(gguf.path(), &items)?;
    let mut writer = GgufWriter::new();
    let mut fresh = file_keys(options.linear, &items);
    for (key, value) in gguf.metadata().filter(|(key, _)| !key.starts_with("split.")) {
        let at = fresh.iter().position(|(name, _)| *name == key);
        let value = at.map_or_else(|| value.clone(), |at| fresh.remove(at).1);
        writer.meta(key, value);
    }
    for (key, value) in fresh {
        writer.meta(key, value);
    }
    Plan::new(writer, items, out)
}

/// The keys that tell how a file is quantized.
pub fn file_keys(linear: TensorType, items: &[Item<'_>]) -> Vec<(&'static str, Value)> {
    let mut keys = vec![("general.file_type", Value::from(linear.file_type()))];
    if items.iter().any(|item| item.ty.block().0 > 1) {
        keys.push(("general.quantization_version", 2u32.into()));
    }
    keys
}

/// # Errors
/// The first matrix whose rows are not whole blocks of its type, with the types that would fit all of them.
pub fn check_rows(path: &Path, items: &[Item<'_>]) -> Result<()> {
    let misfit = |item: &&Item<'_>| item.ty.row_bytes(item.dims[0]).is_none();
    let Some(first) = items.iter().find(misfit) else { return Ok(()) };
    let same: Vec<u64> = items.iter().filter(|item| item.ty == first.ty).map(|item| item.dims[0]).collect();
    let fits = TensorType::ALL.into_iter().filter(|ty| same.iter().all(|row| ty.row_bytes(*row).is_some()));
    let fits: Vec<String> = fits.map(|ty| ty.name().to_lowercase()).collect();
    let (ty, row) = (first.ty, first.dims[0]);
    let what = format!("tensor {:?} has rows of {row} weights, which are not whole {ty} blocks", first.name);
    Err(Error::unsupported(path, what, format!("use one of {}", fits.join(", "))))
}

fn source<'a>(gguf: &'a Gguf, name: &'a str, layout: I2sLayout) -> Result<Source<'a>> {
    let view = gguf.tensor(name)?;
    let columns = view.dims[0] as usize;
    let rows = view.dims[1..].iter().product::<u64>() as usize;
    let bytes = &view.bytes[..view.bytes.len() - view.ty.trailer_bytes()];
    let scale = if view.ty == TensorType::I2S { i2s::scale(view.bytes) } else { 1.0 };
    let packing = match (view.ty, layout) {
        (TensorType::I2S, I2sLayout::Arm | I2sLayout::Row4) => Packing::I2s { layout, scale },
        (ty, _) => Packing::Rows { ty, scale },
    };
    if matches!(packing, Packing::I2s { layout: I2sLayout::Row4, .. }) && !rows.is_multiple_of(4) {
        return Err(gguf.bad_tensor(name, format!("has {rows} rows, which the row4 layout cannot hold")));
    }
    Ok(Source {
        file: gguf,
        name: view.name,
        offset: view.offset,
        bytes,
        packing,
        order: RowOrder::AsIs,
        rows,
        columns,
    })
}
