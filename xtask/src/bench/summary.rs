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
            bandwidth_share: bandwidth.map(|limit| series.weight_bytes as f64 / seconds / limit),
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
    Summary { rows: rows.collect(), comparisons: comparisons.collect(), bandwidth, int8 }
}

/// Tokens per second of each sample.
pub fn rates(series: &Series) -> Vec<f64> {
    times(series).into_iter().map(|ns| f64::from(series.tokens) * 1e9 / ns).collect()
}

fn times(series: &Series) -> Vec<f64> {
    series.samples_ns.iter().map(|ns| (*ns).max(1) as f64).collect()
}
