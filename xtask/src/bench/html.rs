//! The page of a benchmark: speed beside the machine's limits, ratios, every sample in its order, kernels.
//!
//! In: the receipt. Out: one HTML file. What is shown is what [`summarize`] says, so the page and the Markdown agree.

use super::stats::quantile;
use super::summary::{OURS, Summary, rates, summarize};
use bitforge_charts::bars::{Against, Bar, bars, parts};
use bitforge_charts::lines::{Axes, Line, lines};
use bitforge_charts::{Page, Scale, Table, short};
use bitforge_receipt_schema::bench::{Bench, Series};

pub fn render(bench: &Bench, warnings: &[String]) -> String {
    let summary = summarize(bench);
    let synthetic = if bench.synthetic { " with random weights" } else { "" };
    let mut page = Page::new(
        &format!("Speed of {}{synthetic}", bench.model.name),
        &format!(
            "{}, {} threads. Limits sampled in this run: {} GB/s read, {} int8 GOP/s ({}). Binary {}.",
            bench.machine.cpu,
            bench.threads,
            giga(summary.bandwidth),
            giga(summary.int8),
            bench.limits.int8_instruction,
            bench.binary.sha256.get(..12).unwrap_or(&bench.binary.sha256)
        ),
    );
    warnings.iter().for_each(|warning| page.note(&format!("Warning: {warning}.")));
    speed(&mut page, bench);
    shares(&mut page, bench, &summary);
    ratios(&mut page, bench, &summary);
    samples(&mut page, bench);
    limits(&mut page, bench);
    kernels(&mut page, bench);
    page.render()
}

fn giga(value: Option<f64>) -> String {
    value.map_or("unknown".into(), |value| format!("{:.1}", value / 1e9))
}

/// The index of an engine's colour: the order in which engines first appear.
fn colour(bench: &Bench, engine: &str) -> usize {
    let mut engines: Vec<&str> = Vec::new();
    for series in &bench.series {
        if !engines.contains(&series.engine.as_str()) {
            engines.push(&series.engine);
        }
    }
    engines.iter().position(|known| *known == engine).unwrap_or(0)
}

fn speed(page: &mut Page, bench: &Bench) {
    let mut table =
        Table::new(["engine", "test", "median tokens/s", "first quartile", "third quartile", "samples"]);
    let mut rows = Vec::new();
    for series in &bench.series {
        let rates = rates(series);
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&rates, q).unwrap_or(0.0));
        table.row([
            series.engine.clone(),
            series.test.clone(),
            format!("{middle:.3}"),
            format!("{low:.3}"),
            format!("{high:.3}"),
            rates.iter().map(|rate| format!("{rate:.3}")).collect::<Vec<_>>().join(" "),
        ]);
        rows.push(Bar {
            group: series.test.clone(),
            label: series.engine.clone(),
            colour: colour(bench, &series.engine),
            value: middle,
            interval: Some((low, high)),
            samples: rates,
        });
    }
    page.plot(
        "Tokens per second",
        "Bars are medians, whiskers quartiles, dots samples. pp512 is a prompt of 512 tokens, tg128 is 128 tokens one by one, @N after N tokens, xN in N sequences at once.",
        &bars("Tokens per second of every engine and test", "", Against::Each, None, &rows),
        &table,
    );
}

/// What an engine got out of the limit that binds its test: reading for generation, int8 for prompts.
fn shares(page: &mut Page, bench: &Bench, summary: &Summary) {
    let mut table =
        Table::new(["engine", "test", "of read bandwidth", "of int8 peak", "GB of weights per token"]);
    let mut rows = Vec::new();
    let percent =
        |share: Option<f64>| share.map_or("unknown".into(), |share| format!("{:.2}%", share * 100.0));
    for row in &summary.rows {
        table.row([
            row.engine.clone(),
            row.test.clone(),
            percent(row.bandwidth_share),
            percent(row.int8_share),
            row.bytes_per_token.map_or("not counted".into(), |bytes| format!("{:.4}", bytes / 1e9)),
        ]);
        let generates = row.test.starts_with("tg");
        let share = if generates { row.bandwidth_share } else { row.int8_share };
        let limit = if generates { "read bandwidth" } else { "int8 peak" };
        rows.extend(share.map(|share| Bar {
            group: format!("{}, of the {limit}", row.test),
            label: row.engine.clone(),
            colour: colour(bench, &row.engine),
            value: share * 100.0,
            ..Bar::default()
        }));
    }
    page.plot(
        "Against what the machine can do",
        "Generation reads every weight once a token, so it is measured against the read bandwidth; prompts compute, so they are measured against the int8 peak. Both limits are the highest samples of this run.",
        &bars("Percent of the limit", "%", Against::One, Some((100.0, "the limit")), &rows),
        &table,
    );
}

fn ratios(page: &mut Page, bench: &Bench, summary: &Summary) {
    if summary.comparisons.is_empty() {
        return;
    }
    let mut table = Table::new(["ours against", "test", "speed ratio", "from", "to", "verdict"]);
    let mut rows = Vec::new();
    for comparison in &summary.comparisons {
        let (ratio, interval) = (comparison.ratio.median, comparison.ratio.interval);
        let [low, high] = interval.map_or([None; 2], |(low, high)| [Some(low), Some(high)]);
        let cell = |value: Option<f64>| value.map_or("too few samples".into(), |value| format!("{value:.4}"));
        table.row([
            comparison.engine.clone(),
            comparison.test.clone(),
            format!("{ratio:.4}"),
            cell(low),
            cell(high),
            super::markdown::verdict(bench, &comparison.ratio).to_string(),
        ]);
        rows.push(Bar {
            group: comparison.test.clone(),
            label: format!("against {}", comparison.engine),
            colour: colour(bench, &comparison.engine),
            value: ratio,
            interval,
            samples: Vec::new(),
        });
    }
    page.plot(
        "Ours as a multiple of the others",
        "Medians of the ratios within rounds; whiskers are the sign test's interval (93.75% or more, from five rounds on). An interval that leaves the line at 1 out can be told.",
        &bars("Speed ratios", "", Against::One, Some((1.0, "as fast")), &rows),
        &table,
    );
}

fn samples(page: &mut Page, bench: &Bench) {
    let mut table = Table::new(["engine", "test", "round", "milliseconds", "of its median"]);
    let mut series = Vec::new();
    for one in &bench.series {
        let rates = rates(one);
        let middle = quantile(&rates, 0.5).unwrap_or(1.0);
        for (round, (rate, ns)) in rates.iter().zip(&one.samples_ns).enumerate() {
            table.row([
                one.engine.clone(),
                one.test.clone(),
                (round + 1).to_string(),
                format!("{:.3}", *ns as f64 / 1e6),
                format!("{:.4}", rate / middle),
            ]);
        }
        let points =
            rates.iter().enumerate().map(|(round, rate)| ((round + 1) as f64, rate / middle * 100.0));
        series.push(Line { name: format!("{} {}", one.engine, one.test), points: points.collect() });
    }
    page.plot(
        "Every sample, in the order taken",
        "Speed as percent of the median of its own series. Lines that fall or rise together show something else on the machine.",
        &lines(
            "Speed by round",
            Axes { x: "round", y: "% of the median", scale: Scale::Linear },
            None,
            &series,
        ),
        &table,
    );
}

fn limits(page: &mut Page, bench: &Bench) {
    let mut table = Table::new(["threads", "limit", "highest", "samples"]);
    let mut of = |name: &str, all: &[Vec<f64>]| {
        let mut points = Vec::new();
        for (index, samples) in all.iter().enumerate().filter(|(_, samples)| !samples.is_empty()) {
            let highest = samples.iter().copied().fold(0.0, f64::max);
            let shown: Vec<String> = samples.iter().map(|sample| short(*sample)).collect();
            table.row([(index + 1).to_string(), name.into(), short(highest), shown.join(", ")]);
            points.push(((index + 1) as f64, highest / 1e9));
        }
        Line { name: name.into(), points }
    };
    let series =
        [of("read, GB/s", &bench.limits.read_bandwidth), of("int8, GOP/s", &bench.limits.int8_operations)];
    page.plot(
        "The machine’s limits",
        &format!(
            "The highest samples by number of threads, reading a buffer of {} MiB and multiplying with {}.",
            bench.limits.buffer_bytes >> 20,
            bench.limits.int8_instruction
        ),
        &lines(
            "Limits by threads",
            Axes { x: "threads", y: "billions a second", scale: Scale::Log },
            None,
            &series,
        ),
        &table,
    );
}

/// Which kernels computed, and where their time went.
fn kernels(page: &mut Page, bench: &Bench) {
    let ours = |series: &&Series| series.engine.starts_with(OURS) && !series.kernels.is_empty();
    let mut ids: Vec<&str> = Vec::new();
    let mut table =
        Table::new(["test", "kernel", "calls", "rows", "computed again", "GB read", "ms in all threads"]);
    for series in bench.series.iter().filter(ours) {
        for count in &series.kernels {
            if !ids.contains(&count.id.as_str()) {
                ids.push(&count.id);
            }
            table.row([
                format!("{} {}", series.engine, series.test),
                count.id.clone(),
                count.calls.to_string(),
                count.rows.to_string(),
                count.rescored_rows.to_string(),
                format!("{:.4}", count.bytes as f64 / 1e9),
                format!("{:.3}", count.nanoseconds as f64 / 1e6),
            ]);
        }
    }
    if ids.is_empty() {
        return;
    }
    let rows = bench.series.iter().filter(ours).map(|series| {
        let whole: u64 = series.kernels.iter().map(|count| count.nanoseconds).sum();
        let share = |id: &&str| {
            let time =
                series.kernels.iter().find(|count| count.id == **id).map_or(0, |count| count.nanoseconds);
            time as f64 / whole.max(1) as f64
        };
        let name = if series.engine == OURS {
            series.test.clone()
        } else {
            format!("{} {}", series.engine, series.test)
        };
        (name, ids.iter().map(share).collect())
    });
    let rows: Vec<(String, Vec<f64>)> = rows.collect();
    page.plot(
        "Kernels chosen",
        "The parts of the time in matrix kernels, as they counted it themselves.",
        &parts("Time by kernel", &ids, &rows),
        &table,
    );
}
