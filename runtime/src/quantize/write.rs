//! One tensor after the other from its source to its place in the new file, all threads on each.
//!
//! In: [`Item`]s and an open file. Out: the bytes of every tensor at its place, and a [`TensorReport`] each. Threads
//! write where their rows belong, so nothing waits for the disk in turn, and a chunk of rows per thread is all that
//! is in memory (for TL1 and TL2, whose tiles span a tensor, its codes). Deliberately absent: which tensor gets which
//! type (see [`super::plan`]), creating and renaming files.

use super::source::{Packing, RowOrder, Source};
use super::ternary::{Rounding, Weights, analyse};
use super::workers::{Scratch, Workers};
use crate::gguf::{GgufWriter, Layout};
use crate::quant::tl::{self, TlError, TlTile};
use crate::quant::{i2s, pack_ternary, quantize_row};
use crate::tensor::TensorType;
use crate::{Error, Result};
use half::{bf16, f16};
use serde::Serialize;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A tensor to write.
pub struct Item<'a> {
    pub name: String,
    pub ty: TensorType,
    /// `dims[0]` is the fastest.
    pub dims: Vec<u64>,
    pub source: Source<'a>,
}

/// What was done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// The same bytes.
    Copied,
    /// The same ternary codes.
    CodesKept,
    /// Master weights rounded to ternary codes by the mean of their magnitudes.
    Absmean,
    /// Decoded and encoded.
    Encoded,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorReport {
    pub name: String,
    pub from: &'static str,
    pub to: &'static str,
    pub treatment: Treatment,
    /// The scale of a ternary tensor that has one.
    pub scale: Option<f32>,
    /// What the file holds instead, where its type cannot hold that scale.
    pub written_scale: Option<f32>,
    pub bytes: u64,
}

impl TensorReport {
    /// How far the written scale is from the right one, as a share of it.
    pub fn scale_error(&self) -> Option<f32> {
        Some((self.written_scale? / self.scale? - 1.0).abs())
    }
}

/// Metadata and tensors of a file to write, with the place of each.
pub struct Plan<'a> {
    pub items: Vec<Item<'a>>,
    tiles: Vec<Option<TlTile>>,
    pub layout: Layout,
}

impl<'a> Plan<'a> {
    /// # Errors
    /// What [`GgufWriter::layout`] refuses; `path` is the file to write. `tiles` has one entry per item.
    pub fn new(
        mut writer: GgufWriter<'_>,
        items: Vec<Item<'a>>,
        tiles: Vec<Option<TlTile>>,
        path: &Path,
    ) -> Result<Self> {
        for item in &items {
            writer.tensor_from(&item.name, item.ty, &item.dims, |_| Ok(()));
        }
        let layout = writer.layout().map_err(|error| Error::io(path, error))?;
        Ok(Plan { items, tiles, layout })
    }

    /// Writes everything to `file`, which is empty and called `path`. `progress(done, tensors)` is called after each.
    ///
    /// # Errors
    /// Weights that cannot become what was asked for, invalid codes, a full disk, an interrupt.
    pub fn write(
        &self,
        file: &File,
        path: &Path,
        workers: &mut Workers,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<TensorReport>> {
        let target = Target { file, path };
        file.set_len(self.layout.file_len).map_err(|error| Error::io(path, error))?;
        target.write(0, &self.layout.header)?;
        let mut reports = Vec::with_capacity(self.items.len());
        for ((item, tile), place) in self.items.iter().zip(&self.tiles).zip(&self.layout.tensors) {
            reports.push(write(item, *tile, &target, place.start, workers)?);
            progress(reports.len(), self.items.len());
        }
        Ok(reports)
    }
}

struct Target<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Target<'_> {
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|error| Error::io(self.path, error))
    }
}

fn write(
    item: &Item<'_>,
    tile: Option<TlTile>,
    target: &Target<'_>,
    at: u64,
    workers: &mut Workers,
) -> Result<TensorReport> {
    let unpacked;
    let source = match item.source.packing {
        Packing::Tiles { scale, .. } => {
            unpacked = untile(&item.source)?;
            item.source.file.forget(item.source.bytes);
            &Source { bytes: &unpacked, packing: Packing::Codes { scale }, ..item.source }
        }
        _ => &item.source,
    };
    let mut report = TensorReport {
        name: item.name.clone(),
        from: item.source.type_name(),
        to: item.ty.name(),
        treatment: Treatment::Encoded,
        scale: None,
        written_scale: None,
        bytes: item.ty.tensor_bytes(&item.dims).unwrap_or(0),
    };
    let same = matches!(source.packing, Packing::Rows { ty, .. } if ty == item.ty);
    if same {
        report.treatment = Treatment::Copied;
        report.scale = source.tensor_scale();
        copy(source, target, at, workers)?;
    } else if item.ty.is_ternary() {
        let weights = analyse(source, workers)?;
        report.treatment = match weights {
            Weights::Master { .. } => Treatment::Absmean,
            Weights::Ternary { .. } | Weights::Blocks { .. } => Treatment::CodesKept,
        };
        match weights {
            Weights::Blocks { smallest, largest } => {
                blocks(source, item.ty, (smallest, largest), target, at, workers)?;
            }
            Weights::Ternary { scale } => {
                one_scale(source, item.ty, tile, Rounding::exact(scale), target, at, workers)?;
            }
            Weights::Master { absmean } => {
                one_scale(source, item.ty, tile, Rounding::absmean(absmean), target, at, workers)?;
            }
        }
        report.scale = match weights {
            Weights::Ternary { scale } => Some(scale),
            Weights::Master { absmean } => Some(Rounding::absmean(absmean).scale),
            Weights::Blocks { .. } => None,
        };
    } else {
        report.scale = source.tensor_scale();
        encode(source, item.ty, target, at, workers)?;
    }
    report.written_scale =
        report.scale.map(|scale| held(item.ty, scale)).filter(|held| Some(*held) != report.scale);
    if item.ty == TensorType::I2S {
        let scale = report.scale.unwrap_or(0.0);
        target.write(at + report.bytes - i2s::TRAILER as u64, &i2s::trailer(scale))?;
    }
    Ok(report)
}

/// The codes of a TL1 or TL2 tensor, a byte each.
fn untile(source: &Source<'_>) -> Result<Vec<u8>> {
    let Packing::Tiles { ty, tile, .. } = source.packing else { panic!("only tiles are unpacked") };
    let codes = tl::unpack(ty, source.bytes, &tile).map_err(|error| {
        let byte = if let TlError::InvalidNibble { byte } = error { byte } else { 0 };
        let what = format!("tensor {:?}: {error}", source.name);
        let remedy = "check --tl-config, or fetch the file again";
        Error::malformed(source.file.path(), source.offset + byte as u64, what, remedy)
    })?;
    Ok(codes.into_iter().map(|code| code as u8).collect())
}

/// What `ty` makes of the scale of ternary weights.
fn held(ty: TensorType, scale: f32) -> f32 {
    match ty {
        TensorType::F16 | TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::Q2_0 => {
            f16::from_f32(scale).to_f32()
        }
        TensorType::BF16 => bf16::from_f32(scale).to_f32(),
        _ => scale,
    }
}

/// The same bytes, in the order of the rows.
fn copy(source: &Source<'_>, target: &Target<'_>, at: u64, workers: &mut Workers) -> Result<()> {
    workers.each(source.rows, source.columns, |rows, scratch| {
        let row_bytes = source.row_bytes(0).len();
        let offset = at + (rows.start * row_bytes) as u64;
        if source.is_packed_ternary() {
            rows.clone().try_for_each(|row| source.codes(row, &mut scratch.codes))?;
        }
        scratch.packed.clear();
        let bytes = match source.order {
            RowOrder::AsIs => &source.bytes[rows.start * row_bytes..rows.end * row_bytes],
            RowOrder::AdjacentPairs { .. } => {
                rows.clone().for_each(|row| scratch.packed.extend_from_slice(source.row_bytes(row)));
                &scratch.packed
            }
        };
        target.write(offset, bytes)?;
        source.forget(rows);
        Ok(())
    })?;
    Ok(())
}

/// Decodes and encodes, row by row.
fn encode(
    source: &Source<'_>,
    ty: TensorType,
    target: &Target<'_>,
    at: u64,
    workers: &mut Workers,
) -> Result<()> {
    // The largest value that rounds to a finite f16 is just below.
    let limit = if ty == TensorType::F16 { 65_519.996 } else { f32::MAX };
    rows(source, workers, target, at, |row, scratch| {
        source.decode(row, &mut scratch.codes, &mut scratch.row)?;
        let outside = |w: &f32| w.is_nan() || w.abs() > limit;
        // Without an early exit, which would keep the compiler from testing many at once.
        if scratch.row.iter().fold(false, |found, w| found | outside(w)) {
            let worst = scratch.row.iter().copied().find(outside).expect("one was found");
            let what = format!("has the weight {worst} in row {row}, which {} cannot hold", ty);
            return Err(
                source.refuse(what, "give a type with a wider range (bf16 or f32), or fetch the model again")
            );
        }
        quantize_row(ty, &scratch.row, &mut scratch.packed);
        Ok(())
    })
}

/// Ternary codes, all of them times one scale.
fn one_scale(
    source: &Source<'_>,
    ty: TensorType,
    tile: Option<TlTile>,
    rounding: Rounding,
    target: &Target<'_>,
    at: u64,
    workers: &mut Workers,
) -> Result<()> {
    let scale = rounding.scale;
    if scale != 0.0 && !(held(ty, scale).abs() > 0.0 && held(ty, scale).is_finite()) {
        let what = format!("has the scale {scale:e}, which the f16 of {} cannot hold", ty);
        return Err(source.refuse(what, "quantize to i2_s, whose scale is an f32"));
    }
    if let Some(tile) = tile {
        let chunks = workers.each(source.rows, source.columns, |rows, scratch| {
            let mut all = Vec::with_capacity(rows.len() * source.columns);
            for row in rows {
                codes(source, rounding, row, scratch)?;
                all.extend_from_slice(&scratch.codes);
            }
            Ok(all)
        })?;
        let packed = tl::pack(ty, &chunks.concat(), &tile, scale);
        let packed = packed.map_err(|error| source.refuse(error, "give other --tl-config"))?;
        return target.write(at, &packed);
    }
    rows(source, workers, target, at, |row, scratch| {
        codes(source, rounding, row, scratch)?;
        pack_ternary(ty, &scratch.codes, scale, &mut scratch.packed);
        Ok(())
    })
}

fn codes(source: &Source<'_>, rounding: Rounding, row: usize, scratch: &mut Scratch) -> Result<()> {
    if source.is_packed_ternary() {
        return source.codes(row, &mut scratch.codes);
    }
    source.decode(row, &mut scratch.codes, &mut scratch.row)?;
    rounding.codes(&scratch.row, &mut scratch.codes);
    Ok(())
}

/// Ternary codes with the scales of their blocks, into blocks that are no larger or hold equal ones.
fn blocks(
    source: &Source<'_>,
    ty: TensorType,
    (smallest, largest): (f32, f32),
    target: &Target<'_>,
    at: u64,
    workers: &mut Workers,
) -> Result<()> {
    let width = ty.block().0;
    let refuse = |what: String| {
        source.refuse(
            what,
            "quantize to a type whose blocks are no larger than the source's (tq1_0, tq2_0 or q2_0)",
        )
    };
    if ty.trailer_bytes() > 0 {
        let what =
            format!("has scales from {smallest:e} to {largest:e} in its blocks, and {} has one for all", ty);
        return Err(refuse(what));
    }
    rows(source, workers, target, at, |row, scratch| {
        source.codes(row, &mut scratch.codes)?;
        let scales: Vec<(usize, f32)> = source.block_scales(row).collect();
        let scale_at = |weight: usize| scales[weight / scales[0].0].1;
        for (index, codes) in scratch.codes.chunks_exact(width).enumerate() {
            let mut used = codes.iter().enumerate().filter(|(_, code)| **code != 0);
            let first = used.next().map_or(0.0, |(at, _)| scale_at(index * width + at));
            if let Some((at, _)) = used.find(|(at, _)| scale_at(index * width + at) != first) {
                let other = scale_at(index * width + at);
                let what =
                    format!("has the scales {first:e} and {other:e} in one block of {} in row {row}", ty);
                return Err(refuse(what));
            }
            pack_ternary(ty, codes, first, &mut scratch.packed);
        }
        Ok(())
    })
}

/// Fills `scratch.packed` with row after row by `pack`, writes chunks where they belong, and lets go of the source.
fn rows(
    source: &Source<'_>,
    workers: &mut Workers,
    target: &Target<'_>,
    at: u64,
    pack: impl Fn(usize, &mut Scratch) -> Result<()> + Sync,
) -> Result<()> {
    workers.each(source.rows, source.columns, |rows, scratch| {
        scratch.packed.clear();
        rows.clone().try_for_each(|row| pack(row, scratch))?;
        let row_bytes = scratch.packed.len() / rows.len();
        target.write(at + (rows.start * row_bytes) as u64, &scratch.packed)?;
        source.forget(rows);
        Ok(())
    })?;
    Ok(())
}
