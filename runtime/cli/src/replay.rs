//! `bitnet kernels --replay`: one weight row times one activation row, by every kernel that this CPU runs.
//!
//! In: a reproducing fixture, as `cargo xtask crossval` writes it. Out: the results, scalar first; they must be equal
//! bit for bit. Activations are packed by each level's own function, as in a forward pass. Deliberately absent: any
//! judgement of `expected` and `got`, which other engines computed with other arithmetic.

use super::args::Format;
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::json::{ReplayOutput, ReplayRow};
use bitforge_schema::protocol::ActivationMode;
use bitnet_runtime::kernels::select::KernelRequest;
use bitnet_runtime::kernels::{KernelSet, Shape, SimdLevel, Tile};
use bitnet_runtime::quant::activation::ActivationType;
use bitnet_runtime::tensor::TensorType;
use bitnet_runtime::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// The file.
#[derive(Deserialize)]
struct Fixture {
    /// Only `matmul` is known.
    operation: String,
    tensor: String,
    /// GGUF type name.
    weight_type: String,
    activation_quant: ActivationMode,
    /// Weights in the row.
    k: usize,
    tensor_scale: f32,
    /// The packed row.
    weights_hex: String,
    /// [k], before it is quantized.
    activation: Vec<f32>,
    /// What the other engine and ours had computed.
    expected: Option<f64>,
    got: Option<f64>,
}

/// A fixture whose lengths were checked.
struct Row {
    fixture: Fixture,
    weight: TensorType,
    activation: ActivationType,
    weights: Vec<u8>,
}

pub fn run(ctx: &mut Ctx, path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let fixture: Fixture = serde_json::from_slice(&bytes)
        .map_err(|e| Error::unsupported(path, format!("not a kernel fixture: {e}"), REMEDY))?;
    let row = check(fixture).map_err(|what| Error::unsupported(path, what, REMEDY))?;
    let levels = SimdLevel::ALL.into_iter().filter(|level| level.is_compiled() && level.is_available());
    let results: Vec<ReplayRow> = levels.map(|level| compute(&row, level)).collect::<Result<_>>()?;
    let wrong = results.iter().find(|result| !result.computed || result.bits != results[0].bits);
    let error = wrong.map(|wrong| Error::Diverged {
        what: match wrong.computed {
            true => format!(
                "{} gives {:e}, {} {:e}",
                wrong.kernel, wrong.result, results[0].kernel, results[0].result
            ),
            false => format!("{} wrote no result", wrong.kernel),
        },
        remedy: "report a bug with this file, and run with --kernels scalar until it is fixed".into(),
    });
    let output = ReplayOutput {
        tensor: row.fixture.tensor,
        weight: row.weight.name(),
        activation: format!("{:?}", row.activation),
        k: row.fixture.k,
        expected: row.fixture.expected,
        got: row.fixture.got,
        agree: error.is_none(),
        results,
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output)?,
        Format::Human => ctx.print(&human(&output))?,
    }
    error.map_or(Ok(()), Err)
}

const REMEDY: &str = "give a file that `cargo xtask crossval` wrote";

fn check(fixture: Fixture) -> Result<Row, String> {
    if fixture.operation != "matmul" {
        return Err(format!("operation is {:?}, not \"matmul\"", fixture.operation));
    }
    let weight = TensorType::with_rows().find(|ty| ty.name() == fixture.weight_type);
    let weight =
        weight.ok_or_else(|| format!("weight_type is {:?}, which has no kernel", fixture.weight_type))?;
    let activation = ActivationType::for_weight(weight, fixture.activation_quant.into());
    let k = fixture.k;
    let row_bytes = weight.row_bytes(k as u64).filter(|bytes| *bytes > 0);
    let Some(row_bytes) = row_bytes.filter(|_| k.is_multiple_of(activation.block_len())) else {
        return Err(format!("k is {k}, not a whole number of blocks of {weight} and {activation:?}"));
    };
    let weights = unhex(&fixture.weights_hex).ok_or("weights_hex is not hexadecimal")?;
    if weights.len() as u64 != row_bytes {
        return Err(format!(
            "weights_hex has {} bytes, a {weight} row of {k} has {row_bytes}",
            weights.len()
        ));
    }
    if fixture.activation.len() != k || !fixture.activation.iter().all(|value| value.is_finite()) {
        return Err(format!("activation has {} values, not {k} finite ones", fixture.activation.len()));
    }
    Ok(Row { fixture, weight, activation, weights })
}

fn compute(row: &Row, level: SimdLevel) -> Result<ReplayRow> {
    let set = KernelSet::select(KernelRequest::Level(level))?;
    let plan = set.plan_for_rows(row.weight, row.activation).expect("the scalar level has every pair");
    let kernel = plan.kernel(Shape::Decode);
    let mut packed = vec![0; row.activation.row_bytes(row.fixture.k)];
    // SAFETY: the kernel set was selected for this CPU.
    unsafe { (set.quantize(row.activation).run)(&row.fixture.activation, &mut packed) };
    let mut out = [f32::NAN];
    let mut tile = Tile {
        k: row.fixture.k,
        weights: &row.weights,
        row_bytes: row.weights.len(),
        activations: &packed,
        activation_bytes: packed.len(),
        tensor_scale: row.fixture.tensor_scale,
        out: &mut out,
        done: 0,
    };
    // SAFETY: as above.
    unsafe { kernel.call(&mut tile) };
    let computed = tile.done == 1;
    Ok(ReplayRow { kernel: kernel.id, result: out[0], bits: format!("{:#010x}", out[0].to_bits()), computed })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn human(output: &ReplayOutput) -> String {
    let shown = |value: Option<f64>| value.map_or_else(|| "unknown".into(), |value| format!("{value:e}"));
    let columns = [("kernel", Align::Left), ("result", Align::Right), ("bits", Align::Right)];
    let row = |row: &ReplayRow| {
        let result = if row.computed { format!("{:e}", row.result) } else { "none".into() };
        vec![row.kernel.to_owned(), result, row.bits.clone()]
    };
    let rows: Vec<Vec<String>> = output.results.iter().map(row).collect();
    format!(
        "{}, a {} row of {} times {}; expected {}, got {}\n\n{}",
        output.tensor,
        output.weight,
        output.k,
        output.activation,
        shown(output.expected),
        shown(output.got),
        markdown(&columns, &rows)
    )
}
