//! `bitnet kernels --lab TYPE`: every kernel for one type of weights, numbered, checked against the scalar definition and
//! timed in turns, next to what this machine can do.

use super::args::{Format, KernelsArgs};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::settings;
use bitnet_runtime::kernels::lab::{Product, Seen, best, candidates, measure, median};
use bitnet_runtime::kernels::{KernelSet, Shape};
use bitnet_runtime::limits::{Buffer, Int8, int8_operations, read_bandwidth};
use bitnet_runtime::machine::{CACHES, last_level_cache};
use bitnet_runtime::quant::activation::{ActivationQuant, ActivationType};
use bitnet_runtime::tensor::TensorType;
use bitnet_runtime::threads::ThreadPool;
use bitnet_runtime::{Error, Result};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct LabOutput {
    weight: &'static str,
    columns: usize,
    threads: usize,
    /// Bytes per second and int8 operations per second of this machine, the best sample of this run.
    read_bandwidth: f64,
    int8_operations_per_second: f64,
    int8_instruction: &'static str,
    versions: Vec<Version>,
}

/// One kernel for one number of activation rows.
#[derive(Serialize)]
pub struct Version {
    /// In the registry's order, 1 being the scalar definition.
    number: usize,
    kernel: &'static str,
    shape: &'static str,
    activation_rows: usize,
    weight_rows: usize,
    /// Whether its results have the bits of the scalar definition.
    exact: bool,
    median_ns: u64,
    samples_ns: Vec<u64>,
    bytes_per_second: f64,
    int8_operations_per_second: f64,
    /// `best`, `noise` (as good as the best, as far as can be told) or `slower`.
    verdict: &'static str,
}

pub fn run(ctx: &mut Ctx, args: &KernelsArgs, weight: &str) -> Result<()> {
    let known = TensorType::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(weight));
    let weight = known.ok_or_else(|| {
        let names = TensorType::ALL.map(TensorType::name).join(", ");
        Error::usage(format!("'{weight}' is no type of weights"), format!("choose one of {names}"))
    })?;
    let mut pool = pool(ctx, args)?;
    let time = Duration::from_millis(200);
    let cache = last_level_cache(Path::new(CACHES));
    let buffer = Buffer::new(Buffer::size_for(cache, None));
    let most = |samples: Vec<f64>| samples.into_iter().fold(0.0, f64::max);
    let int8 = Int8::detect();
    let mut output = LabOutput {
        weight: weight.name(),
        columns: args.columns,
        threads: pool.threads(),
        read_bandwidth: most(read_bandwidth(&buffer, pool.threads(), time)),
        int8_operations_per_second: most(int8_operations(int8, pool.threads(), time)),
        int8_instruction: int8.name(),
        versions: Vec::new(),
    };
    drop(buffer);
    for mode in [ActivationQuant::Token, ActivationQuant::Block256] {
        let activation = ActivationType::for_weight(weight, mode);
        if mode == ActivationQuant::Block256
            && activation == ActivationType::for_weight(weight, ActivationQuant::Token)
        {
            break;
        }
        for &count in &args.count {
            let product = product(weight, activation, args.columns, (count, args.rows), cache)?;
            let seen = measure(&product, &candidates(&product), &mut pool, args.rounds);
            output.versions.extend(versions(&product, &seen));
        }
    }
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

pub fn pool(ctx: &Ctx, args: &KernelsArgs) -> Result<ThreadPool> {
    if args.rounds == 0 || args.count.contains(&0) || args.columns == 0 {
        let remedy = "give --rounds, --count and --columns at least 1";
        return Err(Error::usage("nothing can be measured with 0", remedy));
    }
    let threads =
        settings::threads(&ctx.env, args.threads)?.unwrap_or_else(bitnet_runtime::engine::available_threads);
    ThreadPool::new(threads)
        .map_err(|e| Error::limit(format!("cannot start {threads} threads: {e}"), "choose fewer --threads"))
}

/// A product of `count` activation rows with `rows` weight rows, rounded up to 64; by default so many that weights exceed
/// the caches where it is bound by reading them.
///
/// # Errors
/// `columns` are no whole blocks, or there is no such kernel.
pub fn product(
    weight: TensorType,
    activation: ActivationType,
    columns: usize,
    (count, rows): (usize, Option<usize>),
    cache: Option<u64>,
) -> Result<Product> {
    let block = weight.block().0.max(activation.block_len());
    let row_bytes = weight.row_bytes(columns as u64).filter(|_| columns.is_multiple_of(block));
    let row_bytes = row_bytes.ok_or_else(|| {
        Error::usage(
            format!("{columns} columns are no whole blocks of {weight}"),
            format!("give a multiple of {block}"),
        )
    })?;
    if KernelSet::select(Default::default())?.plan(weight, activation).is_none() {
        let what = format!("{weight} is converted when a model is loaded, and has no kernels of its own");
        return Err(Error::usage(what, "choose I2_S"));
    }
    let wanted =
        if Shape::of(count) == Shape::Prefill { 0 } else { 2 * cache.unwrap_or(32 << 20) / row_bytes };
    let rows = rows.unwrap_or((wanted as usize).max(2560)).max(1).next_multiple_of(64);
    Ok(Product { weight, activation, rows, columns, count })
}

pub fn versions(product: &Product, seen: &[Seen]) -> Vec<Version> {
    let verdict = |seen_one: &Seen| match best(seen, seen_one.kernel.id) {
        Some((best, _)) if best.kernel.id == seen_one.kernel.id => "best",
        Some((_, false)) => "noise",
        _ => "slower",
    };
    seen.iter()
        .enumerate()
        .map(|(index, one)| {
            let seconds = median(&one.samples).as_secs_f64();
            let rate = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
            Version {
                number: index + 1,
                kernel: one.kernel.id,
                shape: Shape::of(product.count).name(),
                activation_rows: product.count,
                weight_rows: product.rows,
                exact: one.exact,
                median_ns: median(&one.samples).as_nanos() as u64,
                samples_ns: one.samples.iter().map(|sample| sample.as_nanos() as u64).collect(),
                bytes_per_second: rate(one.bytes as f64),
                int8_operations_per_second: rate(
                    2.0 * (product.rows * product.columns * product.count) as f64,
                ),
                verdict: verdict(one),
            }
        })
        .collect()
}

fn human(output: &LabOutput) -> String {
    let columns = [
        ("rows", Align::Right),
        ("version", Align::Left),
        ("exact", Align::Left),
        ("µs", Align::Right),
        ("GB/s", Align::Right),
        ("of read", Align::Right),
        ("GOP/s", Align::Right),
        ("of int8", Align::Right),
        ("verdict", Align::Left),
    ];
    let share = |part: f64, whole: f64| format!("{:.0}%", 100.0 * part / whole);
    let rows = output.versions.iter().map(|version| {
        vec![
            version.activation_rows.to_string(),
            format!("{} {}", version.number, version.kernel),
            if version.exact { "yes" } else { "NO" }.into(),
            format!("{:.0}", version.median_ns as f64 / 1e3),
            format!("{:.1}", version.bytes_per_second / 1e9),
            share(version.bytes_per_second, output.read_bandwidth),
            format!("{:.0}", version.int8_operations_per_second / 1e9),
            share(version.int8_operations_per_second, output.int8_operations_per_second),
            version.verdict.into(),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    format!(
        "{} x {} columns, {} threads; limits of this run: {:.1} GB/s read, {:.0} int8 GOP/s ({})\n\n{}",
        output.weight,
        output.columns,
        output.threads,
        output.read_bandwidth / 1e9,
        output.int8_operations_per_second / 1e9,
        output.int8_instruction,
        markdown(&columns, &rows)
    )
}
