//! The Markdown report of a benchmark.

use super::noise::is_busy;
use super::stats::{Estimate, Verdict};
use super::summary::{Scaling, summarize};
use bitforge_receipt_schema::bench::Bench;
use std::fmt::Write;

/// Tables of speeds and of ratios, how they were made, and every warning.
pub fn render(bench: &Bench, warnings: &[String]) -> String {
    let summary = summarize(bench);
    let mut out = String::new();
    let synthetic = if bench.synthetic { " (synthetic: random weights at a real shape)" } else { "" };
    let gb = |value: Option<f64>| value.map_or("unknown".into(), |value| format!("{:.1}", value / 1e9));
    line(&mut out, &format!("# {}{synthetic}", bench.model.name));
    line(&mut out, "");
    line(
        &mut out,
        &format!(
            "{}, {} threads. Limits sampled in this run: {} GB/s read (buffer {} MiB), {} int8 GOP/s ({}).",
            bench.machine.cpu,
            bench.threads,
            gb(summary.bandwidth),
            bench.limits.buffer_bytes >> 20,
            gb(summary.int8),
            bench.limits.int8_instruction
        ),
    );
    line(&mut out, "");
    line(&mut out, "| engine | test | tokens/s, median | IQR | of read bandwidth | of int8 peak |");
    line(&mut out, "|---|---|---:|---:|---:|---:|");
    let percent =
        |share: Option<f64>| share.map_or("unknown".into(), |share| format!("{:.1}%", share * 100.0));
    for row in &summary.rows {
        line(
            &mut out,
            &format!(
                "| {} | {} | {:.2} | {:.2} | {} | {} |",
                row.engine,
                row.test,
                row.median,
                row.iqr,
                percent(row.bandwidth_share),
                percent(row.int8_share)
            ),
        );
    }
    for row in &summary.rows {
        if let Some(bytes) = row.bytes_per_token {
            line(&mut out, "");
            line(
                &mut out,
                &format!("{} reads {:.3} GB of weights per token at {}.", row.engine, bytes / 1e9, row.test),
            );
        }
    }
    for scaling in &summary.scalings {
        line(&mut out, "");
        line(&mut out, &scaled(scaling));
    }
    if !summary.comparisons.is_empty() {
        line(&mut out, "");
        line(&mut out, "| ours against | test | speed ratio | verdict | cannot tell below |");
        line(&mut out, "|---|---|---:|---|---:|");
        for comparison in &summary.comparisons {
            let verdict = verdict(bench, &comparison.ratio);
            line(
                &mut out,
                &format!(
                    "| {} | {} | {:.3} | {verdict} | {} |",
                    comparison.engine,
                    comparison.test,
                    comparison.ratio.median,
                    percent(comparison.ratio.resolution())
                ),
            );
        }
    }
    line(&mut out, "");
    line(
        &mut out,
        "Engines took turns in every round, and rounds began with another engine each. A ratio is the median of the ratios within rounds; it is told from 1 where it is farther from it than the ends of the sign test's interval are from the median (confidence 93.75% or more, from five rounds on). Shares take the highest limit sampled.",
    );
    for warning in warnings {
        line(&mut out, "");
        line(&mut out, &format!("Warning: {warning}."));
    }
    out
}

/// What a ratio tells, in words.
pub fn verdict(bench: &Bench, ratio: &Estimate) -> &'static str {
    match (ratio.verdict(), ratio.interval) {
        _ if is_busy(bench) => "not judged: the machine was busy",
        (_, None) => "too few samples",
        (Verdict::Faster, _) => "faster",
        (Verdict::Slower, _) => "slower",
        (Verdict::CannotTell, _) => "cannot tell",
    }
}

fn scaled(scaling: &Scaling) -> String {
    match scaling {
        Scaling::Sequences { test, factor } => {
            format!("{test}: {factor:.2} times the tokens/s of one sequence.")
        }
        Scaling::Depth { test, extra_seconds, bound_seconds } => {
            let bound =
                bound_seconds.map_or("an unknown time".into(), |bound| format!("{:.2} ms", bound * 1e3));
            format!(
                "{test}: {:.2} ms more per token than in an empty context; its keys and values take {bound} at 75% of the bandwidth.",
                extra_seconds * 1e3
            )
        }
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}
