//! The smallest thing that shows a wrong matrix product: one row of weights, one row of activations, two results.
//!
//! In: a blame, the model file and both engines' intermediate results. Out: a JSON file with everything that the
//! product needs. Deliberately absent: operations without a matrix; their inputs are in the taps.

use super::blame::{Blame, Taps, inputs};
use super::metrics::Table;
use crate::ctx::Ctx;
use crate::exit::fail;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
struct Fixture<'a> {
    operation: &'static str,
    tensor: &'a str,
    row: usize,
    position: usize,
    weight_type: &'a str,
    /// Weights of the row.
    k: usize,
    /// Of the whole tensor (I2_S), else 1.
    tensor_scale: f32,
    weights_hex: String,
    activation: &'a [f32],
    /// The other engine's result.
    expected: f32,
    /// Ours.
    got: f32,
}

pub fn write(
    ctx: &Ctx,
    dir: &Path,
    model: &Path,
    blame: &Blame,
    ours: &Taps,
    other: &Taps,
) -> Result<PathBuf> {
    let read = |taps: &Taps, point| -> Result<Option<Table>> { taps.read(point, blame.layer) };
    let input = inputs(blame.point).iter().find_map(|point| read(ours, *point).transpose()).transpose()?;
    let (Some(name), Some(input)) = (&blame.tensor, input) else {
        return fail(
            ExitCode::Usage,
            format!("{} is no matrix product, so there is no row to write", blame.operation),
        );
    };
    let (Some(got), Some(expected)) = (read(ours, blame.point)?, read(other, blame.point)?) else {
        anyhow::bail!("the taps of {} are gone", blame.point);
    };
    let at = |table: &Table, column: usize| table.values[blame.position * table.width + column];
    let row = (0..got.width)
        .max_by(|a, b| {
            let far = |column: usize| (at(&got, column) - at(&expected, column)).abs();
            far(*a).total_cmp(&far(*b))
        })
        .unwrap_or(0);
    let facts = super::model_facts(ctx, model)?;
    let tensor = facts.tensor(name).with_context(|| format!("{} has no tensor {name}", model.display()))?;
    let trailer = if tensor.ty == "I2_S" { 32 } else { 0 };
    let row_bytes = (tensor.bytes - trailer) / got.width as u64;
    let file = std::fs::File::open(model).with_context(|| format!("opening {}", model.display()))?;
    let bytes = |offset: u64, count: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; count as usize];
        file.read_exact_at(&mut bytes, offset)
            .with_context(|| format!("reading {count} bytes at {offset} of {}", model.display()))?;
        Ok(bytes)
    };
    let scale = match trailer {
        0 => 1.0,
        _ => {
            let scale = bytes(tensor.offset + tensor.bytes - trailer, 4)?;
            scale.first_chunk().map_or(1.0, |four| f32::from_le_bytes(*four))
        }
    };
    let weights = bytes(tensor.offset + row as u64 * row_bytes, row_bytes)?;
    let activation = &input.values[blame.position * input.width..][..input.width];
    let fixture = Fixture {
        operation: "matmul",
        tensor: name,
        row,
        position: blame.position,
        weight_type: &tensor.ty,
        k: input.width,
        tensor_scale: scale,
        weights_hex: weights.iter().map(|byte| format!("{byte:02x}")).collect(),
        activation,
        expected: at(&expected, row),
        got: at(&got, row),
    };
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join(format!("{name}.row{row}.json"));
    let text = serde_json::to_string_pretty(&fixture).context("serializing a fixture")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
