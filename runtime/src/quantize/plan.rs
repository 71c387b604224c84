//! Which tensor of a GGUF file gets which type, and the metadata of the new file.
//!
//! In: an open file and the types asked for. Out: a [`Plan`] that [`Plan::write`] carries out. Matrices of linear
//! layers get the type that was asked for, the embedding and the head their own, everything else stays. Where no
//! type is given for embedding and head they get what bitnet.cpp gives ternary models (f16) and llama-quantize gives
//! others (the head Q6_K, or Q8_0 where rows are not whole blocks of 256).

use super::source::{Packing, RowOrder, Source};
use super::write::{Item, Plan};
use crate::gguf::{Gguf, GgufWriter, Value};
use crate::model::WeightOptions;
use crate::quant::tl::{self, TlConfig, TlTile};
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
    /// How packed tensors of the input lie, and the tiles of TL1 and TL2 in the output.
    pub weights: WeightOptions,
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
    // What was given is for the output, and for an input that does not say.
    let (given, own) = (&options.weights.tl_config, WeightOptions::default().tiles_of(gguf)?);
    let source_tiles = own.clone().or(given.clone());
    let mut items = Vec::new();
    for info in gguf.tensors() {
        let source = source(gguf, &info.name, options.weights.i2s_layout, &source_tiles)?;
        let role = Role::of(&info.name, &info.dims);
        let from = gguf.tensor(&info.name)?.ty;
        let ty = options.target(role, Some(from), info.dims[0], tied).unwrap_or(from);
        let floats = !source.is_float() && !source.is_packed_ternary() && ty.block().0 > 1;
        if floats && from != ty && !options.allow_requantize {
            let what = format!("is {}, and quantizing it to {ty} loses twice", source.type_name());
            return Err(
                source.refuse(what, "start from a file in f32, f16 or bf16, or give --allow-requantize")
            );
        }
        items.push(Item { name: info.name.clone(), ty, dims: info.dims.clone(), source });
    }
    check_rows(gguf.path(), &items)?;
    let keeps_type = gguf.tensors().iter().any(|info| info.ty() == Some(options.linear));
    let tiles = given.clone().or(if keeps_type { own } else { TlConfig::default() });
    let tile_of_item = tiles_of_items(gguf.path(), &items, &tiles)?;
    let mut writer = GgufWriter::new();
    let mut fresh = file_keys(options.linear, &items, &tile_of_item);
    let stale = |key: &str| key.starts_with("split.") || key == tl::CONFIG_KEY;
    for (key, value) in gguf.metadata().filter(|(key, _)| !stale(key)) {
        let at = fresh.iter().position(|(name, _)| *name == key);
        let value = at.map_or_else(|| value.clone(), |at| fresh.remove(at).1);
        writer.meta(key, value);
    }
    for (key, value) in fresh {
        writer.meta(key, value);
    }
    Plan::new(writer, items, tile_of_item, out)
}

/// The keys that tell how a file is quantized.
pub fn file_keys(
    linear: TensorType,
    items: &[Item<'_>],
    tiles: &[Option<TlTile>],
) -> Vec<(&'static str, Value)> {
    let mut keys = vec![("general.file_type", Value::from(linear.file_type()))];
    if items.iter().any(|item| item.ty.block().0 > 1) {
        keys.push(("general.quantization_version", 2u32.into()));
    }
    let mut shapes: Vec<TlTile> = Vec::new();
    for tile in tiles.iter().flatten() {
        if !shapes.contains(tile) {
            shapes.push(*tile);
        }
    }
    if !shapes.is_empty() {
        let config: TlConfig = shapes.into_iter().collect();
        keys.push((tl::CONFIG_KEY, config.to_string().as_str().into()));
    }
    keys
}

/// The tiles of every item, `None` where its type has none.
///
/// # Errors
/// A shape whose tile sizes are not known, or do not fit.
pub fn tiles_of_items(path: &Path, items: &[Item<'_>], tiles: &TlConfig) -> Result<Vec<Option<TlTile>>> {
    let tile = |item: &Item<'_>| {
        if !item.ty.is_tiled() {
            return Ok(None);
        }
        let (rows, columns) = (item.source.rows, item.source.columns);
        let tile = tiles.find(item.ty, rows, columns).ok_or_else(|| {
            let (name, ty) = (&item.name, item.ty);
            let what = format!(
                "tensor {name:?} has {rows} rows of {columns}, for which no {ty} tile sizes are known"
            );
            let remedy = format!(
                "give the sizes that the kernels are built for: --tl-config {rows}x{columns}:BM,BK,BMM"
            );
            Error::unsupported(path, what, remedy)
        })?;
        let misfit = |error| {
            Error::unsupported(path, format!("tensor {:?}: {error}", item.name), "give other --tl-config")
        };
        tile.check(item.ty).map_err(misfit)?;
        Ok(Some(tile))
    };
    items.iter().map(tile).collect()
}

/// # Errors
/// The first matrix whose rows are not whole blocks of its type, with the types that would fit all of them.
pub fn check_rows(path: &Path, items: &[Item<'_>]) -> Result<()> {
    let misfit = |item: &&Item<'_>| !item.ty.is_tiled() && item.ty.row_bytes(item.dims[0]).is_none();
    let Some(first) = items.iter().find(misfit) else { return Ok(()) };
    let same: Vec<u64> = items.iter().filter(|item| item.ty == first.ty).map(|item| item.dims[0]).collect();
    let fits = TensorType::ALL.into_iter().filter(|ty| same.iter().all(|row| ty.row_bytes(*row).is_some()));
    let fits: Vec<String> = fits.map(|ty| ty.name().to_lowercase()).collect();
    let (ty, row) = (first.ty, first.dims[0]);
    let what = format!("tensor {:?} has rows of {row} weights, which are not whole {ty} blocks", first.name);
    Err(Error::unsupported(path, what, format!("use one of {}", fits.join(", "))))
}

fn source<'a>(gguf: &'a Gguf, name: &'a str, layout: I2sLayout, tiles: &TlConfig) -> Result<Source<'a>> {
    let view = gguf.tensor(name)?;
    let columns = view.dims[0] as usize;
    let rows = view.dims[1..].iter().product::<u64>() as usize;
    let scale = if view.ty.trailer_bytes() > 0 { i2s::scale(view.bytes) } else { 1.0 };
    let mut bytes = &view.bytes[..view.bytes.len() - view.ty.trailer_bytes()];
    let packing = match (view.ty, layout) {
        (TensorType::I2S, I2sLayout::Arm | I2sLayout::Row4) => Packing::I2s { layout, scale },
        (ty, _) if ty.is_tiled() => {
            bytes = view.bytes;
            let tile = tiles.find(ty, rows, columns).ok_or_else(|| {
                let why = format!("has {rows} rows of {columns}, whose tile sizes are not known");
                Error::unsupported(
                    gguf.path(),
                    format!("tensor {name:?} {why}"),
                    format!("give those that the file was made with: --tl-config {rows}x{columns}:BM,BK,BMM"),
                )
            })?;
            Packing::Tiles { ty, tile, scale }
        }
        (ty, _) => Packing::Rows { ty, scale },
    };
    if matches!(packing, Packing::I2s { layout: I2sLayout::Row4, .. }) && !rows.is_multiple_of(4) {
        return Err(gguf.bad_tensor(name, format!("has {rows} rows, which the row4 layout cannot hold")));
    }
    let order = RowOrder::AsIs;
    Ok(Source { file: gguf, name: view.name, offset: view.offset, bytes, packing, order, rows, columns })
}
