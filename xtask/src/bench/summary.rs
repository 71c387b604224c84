//! From a receipt's raw samples to what is shown: medians, shares of the limits, ratios and verdicts.
//!
//! In: a [`Bench`]. Out: a [`Summary`], the same for the same receipt, so that Markdown, SVG and the comparison
//! with a baseline can never disagree with the JSON.

use super::stats::{Estimate, iqr, median, paired_ratios};
use bitforge_receipt_schema::bench::{Bench, Series};

/// The engine that the others are compared with.
pub const OURS: &str = "bitforge";

#[derive(Debug)]
pub struct Summary {
    pub rows: Vec<Row>,
    pub comparisons: Vec<Comparison>,
    pub scalings: Vec<Scaling>,
    /// Bytes per second and operations per second: the highest samples.
    pub bandwidth: Option<f64>,
    pub int8: Option<f64>,
}

#[derive(Debug)]
pub struct Row {
    pub engine: String,
    pub test: String,
    /// Tokens per second.
    pub median: f64,
    pub iqr: f64,
    /// Of the highest bandwidth sampled, from 0; above 1 means that the limit was not reached when sampled.
    pub bandwidth_share: Option<f64>,
    pub int8_share: Option<f64>,
    /// Bytes of weights that one generated token reads, as the kernels counted them.
    pub bytes_per_token: Option<f64>,
}

/// How generation of ours changes with several sequences or with depth, against one sequence in an empty context.
#[derive(Debug, PartialEq)]
pub enum Scaling {
    /// Tokens per second of all sequences together, as a multiple.
    Sequences { test: String, factor: f64 },
    /// What a token takes longer, and what reading its keys and values takes at three quarters of the bandwidth.
    Depth { test: String, extra_seconds: f64, bound_seconds: Option<f64> },
}

/// Speed of ours as a multiple of another engine's, from samples of the same rounds.
#[derive(Debug)]
pub struct Comparison {
    pub engine: String,
    pub test: String,
    pub ratio: Estimate,
}

pub fn summarize(bench: &Bench) -> Summary {
    let highest = |samples: &[Vec<f64>]| samples.iter().flatten().copied().max_by(f64::total_cmp);
    let bandwidth = highest(&bench.limits.read_bandwidth);
    let int8 = highest(&bench.limits.int8_operations);
    let rows = bench.series.iter().filter_map(|series| {
        let rates = rates(series);
        let median = median(&rates)?;
        let seconds = f64::from(series.tokens) / median;
        Some(Row {
            engine: series.engine.clone(),
            test: series.test.clone(),
            median,
            iqr: iqr(&rates)?,
            bandwidth_share: bandwidth.map(|limit| bytes_read(series) / seconds / limit),
            bytes_per_token: counted(series).map(|bytes| bytes / f64::from(series.tokens)),
            int8_share: int8.map(|limit| series.operations as f64 / seconds / limit),
        })
    });
    let comparisons = bench.series.iter().filter(|series| series.engine != OURS).filter_map(|theirs| {
        let ours = bench.series.iter().find(|series| series.engine == OURS && series.test == theirs.test)?;
        Some(Comparison {
            engine: theirs.engine.clone(),
            test: theirs.test.clone(),
            ratio: Estimate::of(&paired_ratios(&times(ours), &times(theirs)))?,
        })
    });
    let scalings = bench.series.iter().filter_map(|series| scaling(bench, series, bandwidth));
    let (rows, comparisons) = (rows.collect(), comparisons.collect());
    Summary { rows, comparisons, scalings: scalings.collect(), bandwidth, int8 }
}

/// Bytes of weights in one sample of generation, where the engine counts them.
fn counted(series: &Series) -> Option<f64> {
    let bytes: u64 = series.kernels.iter().map(|count| count.bytes).sum();
    (bytes > 0 && series.test.starts_with("tg")).then(|| bytes as f64 / series.samples_ns.len().max(1) as f64)
}

/// Bytes that one sample read: weights as counted, or all of them, and keys and values.
fn bytes_read(series: &Series) -> f64 {
    counted(series).unwrap_or(series.weight_bytes as f64) + series.kv_bytes as f64
}

fn scaling(bench: &Bench, series: &Series, bandwidth: Option<f64>) -> Option<Scaling> {
    let (plain, test) = (series.test.split(['x', '@']).next()?, series.test.clone());
    let one = bench.series.iter().find(|one| one.engine == series.engine && one.test == plain)?;
    let (rate, single) = (median(&rates(series))?, median(&rates(one))?);
    if series.engine != OURS || series.test == one.test {
        None
    } else if test.contains('x') {
        Some(Scaling::Sequences { test, factor: rate / single })
    } else {
        let kv = (series.kv_bytes.saturating_sub(one.kv_bytes)) as f64 / f64::from(series.tokens);
        let bound_seconds = bandwidth.map(|limit| kv / (0.75 * limit));
        Some(Scaling::Depth { test, extra_seconds: 1.0 / rate - 1.0 / single, bound_seconds })
    }
}

/// Tokens per second of each sample.
pub fn rates(series: &Series) -> Vec<f64> {
    times(series).into_iter().map(|ns| f64::from(series.tokens) * 1e9 / ns).collect()
}

fn times(series: &Series) -> Vec<f64> {
    series.samples_ns.iter().map(|ns| (*ns).max(1) as f64).collect()
}
