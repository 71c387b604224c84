//! `bitnet inspect --html`: the same as a page, with where the bytes are and what the codes look like.
//!
//! In: the file, and what `inspect` found. Out: one HTML file. Codes are counted in [`ROWS`] rows of each matrix, spread
//! evenly, so that a large model takes seconds. Tiled types are not counted: their rows lie across each other.

use super::format::{count, mebibytes};
use super::inspect::shown;
use super::json::InspectOutput;
use bitforge_charts::bars::{Against, Bar, bars, parts};
use bitforge_charts::lines::{Axes, Line, columns, lines};
use bitforge_charts::{Page, Scale, Table};
use bitnet_runtime::gguf::{Gguf, TensorInfo};
use bitnet_runtime::quant::{dequantize_row, unpack_ternary};
use bitnet_runtime::tensor::TensorType;
use bitnet_runtime::{Error, Result};
use std::collections::BTreeMap;

/// Rows of a matrix that are looked at.
const ROWS: usize = 64;
/// Bins of a histogram of values, each a quarter of the standard deviation, from -4 to 4.
const BINS: usize = 32;

pub fn render(gguf: &Gguf, output: &InspectOutput) -> Result<String> {
    let model = &output.model;
    let bits = model.bits_per_weight.map_or(String::new(), |bits| format!(", {bits:.2} bits a weight"));
    let name = model.name.clone().unwrap_or_else(|| "a model without a name".into());
    let mut page = Page::new(
        &name,
        &format!(
            "{}: {} parameters in {}{bits}. GGUF version {}.",
            model.title(),
            count(model.parameters),
            mebibytes(model.file_bytes),
            output.gguf_version
        ),
    );
    output.warnings.iter().for_each(|warning| page.note(&format!("Warning: {warning}.")));
    by_kind(&mut page, gguf);
    by_layer(&mut page, gguf);
    codes(&mut page, gguf)?;
    values(&mut page, gguf)?;
    memory_and_kernels(&mut page, output);
    let mut metadata = Table::new(["key", "value"]);
    output.metadata.iter().for_each(|(key, value)| metadata.row([key.clone(), shown(value)]));
    page.table("Metadata", "Every entry of the file; long ones by their beginning.", &metadata);
    Ok(page.render())
}

/// `blk.3.attn_q.weight` is of kind `attn_q` in layer 3.
fn kind(name: &str) -> (&str, Option<usize>) {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match block.and_then(|(layer, kind)| Some((kind, layer.parse().ok()?))) {
        Some((kind, layer)) => (kind, Some(layer)),
        None => (name, None),
    }
}

fn by_kind(page: &mut Page, gguf: &Gguf) {
    let mut kinds: BTreeMap<(&str, String), (usize, u64, u64)> = BTreeMap::new();
    for info in gguf.tensors() {
        let (tensors, weights, bytes) = kinds.entry((kind(&info.name).0, info.type_name())).or_default();
        *tensors += 1;
        *weights += super::summary::elements(info);
        *bytes += info.len.unwrap_or(0);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (_, _, bytes))| std::cmp::Reverse(*bytes));
    let mut types: Vec<&str> = kinds.iter().map(|((_, ty), _)| ty.as_str()).collect();
    types.sort_unstable();
    types.dedup();
    let mut table = Table::new(["kind", "type", "tensors", "weights", "bytes", "bits a weight"]);
    let mut rows = Vec::new();
    for ((kind, ty), (tensors, weights, bytes)) in &kinds {
        let bits = *bytes as f64 * 8.0 / (*weights).max(1) as f64;
        let cells =
            [kind.to_string(), ty.clone(), tensors.to_string(), weights.to_string(), bytes.to_string()];
        table.row([cells.to_vec(), vec![format!("{bits:.3}")]].concat());
        rows.push(Bar {
            label: format!("{kind} {ty}"),
            colour: types.iter().position(|known| known == ty).unwrap_or(0),
            value: *bytes as f64 / f64::from(1 << 20),
            ..Bar::default()
        });
    }
    page.plot(
        "Where the bytes are",
        "MiB of all tensors of a kind; a colour is a type.",
        &bars("Bytes by kind of tensor", "MiB", Against::One, None, &rows),
        &table,
    );
}

fn by_layer(page: &mut Page, gguf: &Gguf) {
    let mut table = Table::new(["tensor", "type", "dimensions", "bytes", "offset"]);
    let mut layers: BTreeMap<usize, f64> = BTreeMap::new();
    for info in gguf.tensors() {
        let dims: Vec<String> = info.dims.iter().map(u64::to_string).collect();
        let bytes = info.len.map_or("unknown".into(), |bytes| bytes.to_string());
        table.row([info.name.clone(), info.type_name(), dims.join(" × "), bytes, info.offset.to_string()]);
        if let (_, Some(layer)) = kind(&info.name) {
            *layers.entry(layer).or_default() += info.len.unwrap_or(0) as f64 / f64::from(1 << 20);
        }
    }
    if layers.is_empty() {
        page.table("Tensors", "In the order of the file.", &table);
        return;
    }
    let points = layers.into_iter().map(|(layer, size)| (layer as f64, size)).collect();
    page.plot(
        "Layers",
        "MiB of each layer. Behind it: every tensor, in the order of the file.",
        &lines(
            "Bytes by layer",
            Axes { x: "layer", y: "MiB", scale: Scale::Linear },
            None,
            &[Line { name: "layer".into(), points }],
        ),
        &table,
    );
}

/// Rows of a matrix, [`ROWS`] at most, as they lie in the file.
fn sampled<'a>(gguf: &'a Gguf, info: &'a TensorInfo) -> Option<(TensorType, usize, Vec<&'a [u8]>)> {
    let ty = info.ty().filter(|ty| !ty.is_tiled() && info.dims.len() > 1)?;
    let length = usize::try_from(*info.dims.first()?).ok()?;
    let bytes = usize::try_from(ty.row_bytes(length as u64)?).ok().filter(|bytes| *bytes > 0)?;
    let data = gguf.data(info);
    let all = usize::try_from(info.dims[1..].iter().product::<u64>()).ok()?.min(data.len() / bytes);
    let taken = all.min(ROWS);
    let rows = (0..taken).map(|n| n * all / taken).map(|row| &data[row * bytes..(row + 1) * bytes]);
    Some((ty, length, rows.collect()))
}

fn codes(page: &mut Page, gguf: &Gguf) -> Result<()> {
    let mut table = Table::new(["tensor", "type", "rows counted", "-1", "0", "+1"]);
    let mut kinds: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for info in gguf.tensors() {
        let Some((ty, length, rows)) = sampled(gguf, info).filter(|(ty, ..)| ty.is_ternary()) else {
            continue;
        };
        let mut codes = vec![0i8; length];
        let mut counts = [0u64; 3];
        for row in &rows {
            unpack_ternary(ty, row, &mut codes).map_err(|error| damaged(gguf, info, &error))?;
            codes.iter().for_each(|code| counts[(code + 1) as usize] += 1);
        }
        let all = counts.iter().sum::<u64>().max(1) as f64;
        let shares = counts.map(|count| format!("{:.2}%", count as f64 / all * 100.0));
        table.row(
            [vec![info.name.clone(), ty.name().into(), rows.len().to_string()], shares.to_vec()].concat(),
        );
        let kind = kinds.entry(kind(&info.name).0).or_default();
        kind.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    if kinds.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, Vec<f64>)> = kinds
        .into_iter()
        .map(|(kind, counts)| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            (kind.to_string(), counts.iter().map(|count| *count as f64 / all).collect())
        })
        .collect();
    page.plot(
        "Ternary codes",
        &format!(
            "How many weights are -1, 0 and +1, in up to {ROWS} rows of each matrix. Behind it: every matrix."
        ),
        &parts("Shares of the codes by kind of tensor", &["-1", "0", "+1"], &rows),
        &table,
    );
    Ok(())
}

/// Histograms of the values of types that are not ternary.
fn values(page: &mut Page, gguf: &Gguf) -> Result<()> {
    let mut types: BTreeMap<&str, (usize, [u64; BINS])> = BTreeMap::new();
    for info in gguf.tensors() {
        let Some((ty, length, rows)) = sampled(gguf, info).filter(|(ty, ..)| !ty.is_ternary()) else {
            continue;
        };
        let mut values = vec![0f32; length * rows.len()];
        for (row, out) in rows.iter().zip(values.chunks_exact_mut(length.max(1))) {
            dequantize_row(ty, row, 1.0, out).map_err(|error| damaged(gguf, info, &error))?;
        }
        let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let deviation = (square / values.len().max(1) as f64).sqrt();
        if !deviation.is_finite() || deviation == 0.0 {
            continue;
        }
        let (tensors, bins) = types.entry(ty.name()).or_insert((0, [0; BINS]));
        *tensors += 1;
        for value in values {
            let place = (f64::from(value) / deviation * 4.0 + BINS as f64 / 2.0).floor();
            bins[place.clamp(0.0, (BINS - 1) as f64) as usize] += 1;
        }
    }
    for (ty, (tensors, bins)) in types {
        let all = bins.iter().sum::<u64>().max(1) as f64;
        let mut table = Table::new(["from, in root mean squares", "weights", "share"]);
        let low = |bin: usize| (bin as f64 - BINS as f64 / 2.0) / 4.0;
        let mut shown = Vec::new();
        for (bin, weights) in bins.iter().enumerate() {
            let share = *weights as f64 / all * 100.0;
            table.row([format!("{:.2}", low(bin)), weights.to_string(), format!("{share:.3}%")]);
            shown.push((format!("{}", low(bin)), share));
        }
        page.plot(
            &format!("Values of {ty} matrices"),
            &format!(
                "Weights of {tensors} {} (up to {ROWS} rows each), every matrix measured by its own root mean square; the outermost bins hold all that is farther out.",
                if tensors == 1 { "matrix" } else { "matrices" }
            ),
            &columns(
                &format!("Histogram of {ty} values"),
                Axes { x: "value / root mean square", y: "%", scale: Scale::Linear },
                &shown,
            ),
            &table,
        );
    }
    Ok(())
}

fn damaged(gguf: &Gguf, info: &TensorInfo, error: &dyn std::fmt::Display) -> Error {
    gguf.bad_tensor(&info.name, error)
}

fn memory_and_kernels(page: &mut Page, output: &InspectOutput) {
    if let Some(memory) = &output.memory {
        let mut table = Table::new(["part", "bytes"]);
        table.row(["weights".to_string(), memory.weights_bytes.to_string()]);
        table.row(["KV cache".to_string(), memory.kv_cache_bytes.to_string()]);
        let share = |bytes: u64| bytes as f64 / memory.total_bytes.max(1) as f64;
        let shares = vec![share(memory.weights_bytes), share(memory.kv_cache_bytes)];
        page.plot(
            "Memory of a run",
            &format!("{} at {} positions.", mebibytes(memory.total_bytes), memory.context),
            &parts("Memory", &["weights", "KV cache"], &[("memory".into(), shares)]),
            &table,
        );
    }
    let mut table = Table::new(["weights", "matrices", "bytes", "activations", "kernel"]);
    for kernel in &output.kernels {
        table.row([
            kernel.weight.to_string(),
            kernel.matrices.to_string(),
            kernel.bytes.to_string(),
            kernel.activation.clone(),
            kernel.kernel.unwrap_or("none").to_string(),
        ]);
    }
    page.table("Kernels", "What would multiply by these matrices on this machine.", &table);
}
