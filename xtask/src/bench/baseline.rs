//! `--baseline`: whether this run is slower than an earlier one, beyond what the samples can tell.
//!
//! In: two receipts. Out: one [`Change`] per test. What is compared survives a change of the machine's mood:
//! the ratio to a reference measured in the same rounds, and where there is none, the share of the bandwidth
//! (generation) or of the int8 peak (prompts) that was sampled in the same run.

use super::stats::Estimate;
use super::summary::{OURS, Summary, rates, summarize};
use bitforge_receipt_schema::bench::Bench;

#[derive(Debug)]
pub struct Change {
    pub test: String,
    /// What ours is measured in: a reference's speed, or a limit.
    pub unit: String,
    /// Now over then.
    pub factor: f64,
    /// The smallest change that both runs together can tell; `None` for too few samples in one of them.
    pub bound: Option<f64>,
}

impl Change {
    /// Slower, and by more than the bound. Never where the bound is not known.
    pub fn is_regression(&self) -> bool {
        self.bound.is_some_and(|bound| 1.0 / self.factor - 1.0 > bound)
    }
}

/// One entry per test that both runs have and that can be compared.
pub fn compare(now: &Bench, then: &Bench) -> Vec<Change> {
    let (now_summary, then_summary) = (summarize(now), summarize(then));
    let mut changes = Vec::new();
    let ours = now.series.iter().filter(|series| series.engine == OURS);
    for series in ours {
        let test = &series.test;
        let mut pairs: Vec<(String, Estimate, Estimate)> = Vec::new();
        for comparison in now_summary.comparisons.iter().filter(|c| c.test == *test) {
            let earlier =
                then_summary.comparisons.iter().find(|c| c.test == *test && c.engine == comparison.engine);
            pairs.extend(earlier.map(|then| (comparison.engine.clone(), comparison.ratio, then.ratio)));
        }
        if pairs.is_empty() {
            let share = |bench, summary| share(bench, summary, test);
            if let (Some((unit, now)), Some((_, then))) =
                (share(now, &now_summary), share(then, &then_summary))
            {
                pairs.push((unit, now, then));
            }
        }
        changes.extend(pairs.into_iter().map(|(unit, now, then)| Change {
            test: test.clone(),
            unit,
            factor: now.median / then.median,
            bound: now.resolution().zip(then.resolution()).map(|(a, b)| (1.0 + a) * (1.0 + b) - 1.0),
        }));
    }
    changes
}

/// Our speed at `test` as a part of the limit that bounds it.
fn share(bench: &Bench, summary: &Summary, test: &str) -> Option<(String, Estimate)> {
    let series = bench.series.iter().find(|series| series.engine == OURS && series.test == test)?;
    let (unit, limit, work) = if test.starts_with("tg") {
        ("read bandwidth", summary.bandwidth?, series.weight_bytes)
    } else {
        ("int8 peak", summary.int8?, series.operations)
    };
    let per_token = work as f64 / f64::from(series.tokens);
    let shares: Vec<f64> = rates(series).into_iter().map(|rate| rate * per_token / limit).collect();
    Some((unit.into(), Estimate::of(&shares)?))
}
