//! The page of a cross-validation: how far apart two engines are at every position, layer and operation.
//!
//! In: the reports of a run. Out: one HTML file. A comparison that could not be made is in the table with its reason
//! and has no picture.

use super::blame::{Operation, title};
use super::lane::Report;
use super::settings::Thresholds;
use bitforge_charts::heat::heat;
use bitforge_charts::lines::{Axes, Line, lines};
use bitforge_charts::{Page, Scale, Table};
use bitforge_receipt_schema::crossval::{Metrics, Verdict};
use bitforge_schema::protocol::TapPoint;

/// Bounds between the colours of relative distances: rounding of f32, of f16, and what no rounding explains.
const STEPS: [f64; 6] = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2];

pub fn render(reports: &[Report], thresholds: &Thresholds, subject: &str) -> String {
    let subject: String = subject.chars().take(16).collect();
    let count = |verdict| reports.iter().filter(|report| report.verdict == verdict).count();
    let mut page = Page::new(
        "Our logits against other engines",
        &format!(
            "{} comparisons: {} agree, {} diverge, {} could not be checked. Our engine: {subject}.",
            reports.len(),
            count(Verdict::Agrees),
            count(Verdict::Diverges),
            count(Verdict::CouldNotCheck)
        ),
    );
    overview(&mut page, reports);
    for report in reports.iter().filter(|report| report.metrics.is_some()) {
        let name = format!("{} against {}", report.model, report.engine);
        positions(&mut page, &name, report, thresholds);
        operations(&mut page, &name, report);
        kernels(&mut page, &name, report);
    }
    page.render()
}

const fn verdict(report: &Report) -> &'static str {
    match report.verdict {
        Verdict::Agrees => "agrees",
        Verdict::Diverges => "diverges",
        Verdict::CouldNotCheck => "could not check",
    }
}

fn overview(page: &mut Page, reports: &[Report]) {
    let mut table = Table::new([
        "model",
        "engine",
        "verdict",
        "positions",
        "bit-equal",
        "lowest cosine",
        "top-1",
        "max KL, nats",
        "perplexity, ours",
        "other's",
        "why, or how it was judged",
    ]);
    for report in reports {
        let of = |value: &dyn Fn(&Metrics) -> String| report.metrics.as_ref().map_or(String::new(), value);
        let blame = report.blame.as_ref().map(|blame| format!("; {}", blame.render())).unwrap_or_default();
        let why = if report.detail.is_empty() { &report.validation } else { &report.detail };
        table.row([
            report.model.clone(),
            report.engine.clone(),
            verdict(report).into(),
            of(&|m| m.positions.to_string()),
            of(&|m| m.bit_equal_positions.to_string()),
            of(&|m| format!("{:.9}", m.min_cosine)),
            of(&|m| format!("{:.2}%", m.top1_agreement * 100.0)),
            of(&|m| format!("{:.2e}", m.max_kl)),
            of(&|m| format!("{:.4}", m.perplexity_ours)),
            of(&|m| format!("{:.4}", m.perplexity_other)),
            format!("{why}{blame}"),
        ]);
    }
    page.table("All comparisons", "What the receipt keeps of each.", &table);
}

fn positions(page: &mut Page, name: &str, report: &Report, thresholds: &Thresholds) {
    let mut table = Table::new([
        "position",
        "cosine",
        "1 - cosine",
        "relative L2",
        "max abs",
        "KL, nats",
        "top-1",
        "bit-equal",
    ]);
    let yes = |holds: bool| if holds { "yes" } else { "no" };
    for (index, position) in report.positions.iter().enumerate() {
        table.row([
            index.to_string(),
            format!("{:.12}", position.cosine),
            format!("{:.3e}", 1.0 - position.cosine),
            format!("{:.3e}", position.relative_l2),
            format!("{:.3e}", position.max_abs),
            format!("{:.3e}", position.kl),
            yes(position.top1).into(),
            yes(position.bit_equal).into(),
        ]);
    }
    let line = |name: &str, of: &dyn Fn(&super::metrics::Position) -> f64| Line {
        name: name.into(),
        points: report.positions.iter().enumerate().map(|(index, p)| (index as f64, of(p))).collect(),
    };
    let series = [
        line("1 - cosine", &|p| if p.bit_equal { 0.0 } else { 1.0 - p.cosine }),
        line("relative L2 distance", &|p| p.relative_l2),
    ];
    page.plot(
        &format!("{name}: every position"),
        "Distance of the logits, on a log scale; what is equal to the last bit lies on the floor. The dashed line is the threshold of 1 - cosine.",
        &lines(
            "Distance by position",
            Axes { x: "position", y: "distance", scale: Scale::Log },
            Some((1.0 - thresholds.min_cosine, "threshold")),
            &series,
        ),
        &table,
    );
}

fn operations(page: &mut Page, name: &str, report: &Report) {
    if report.all_operations.is_empty() {
        return;
    }
    let mut points: Vec<TapPoint> = report.all_operations.iter().map(|operation| operation.point).collect();
    points.sort();
    points.dedup();
    let layers =
        report.all_operations.iter().filter_map(|operation| operation.layer).max().map_or(0, |last| last + 1);
    let find = |point: TapPoint, layer: Option<u32>| {
        report.all_operations.iter().find(|o| (o.point, o.layer) == (point, layer))
    };
    let value = |operation: &Operation| if operation.bit_equal { 0.0 } else { operation.max_relative_l2 };
    // What is outside the layers stands in a column of its own, the last.
    let columns: Vec<Option<u32>> = (0..layers).map(Some).chain([None]).collect();
    let names: Vec<String> =
        columns.iter().map(|layer| layer.map_or("–".into(), |layer| layer.to_string())).collect();
    let rows: Vec<String> = points.iter().map(|point| title(*point).into()).collect();
    let cells: Vec<Vec<Option<f64>>> = points
        .iter()
        .map(|point| columns.iter().map(|layer| find(*point, *layer).map(value)).collect())
        .collect();
    let mut table = Table::new([
        "layer",
        "operation",
        "lowest cosine",
        "highest relative L2",
        "at position",
        "bit-equal",
    ]);
    for operation in &report.all_operations {
        table.row([
            operation.layer.map_or("none".into(), |layer| layer.to_string()),
            title(operation.point).into(),
            format!("{:.12}", operation.min_cosine),
            format!("{:.3e}", operation.max_relative_l2),
            operation.position.to_string(),
            if operation.bit_equal { "yes" } else { "no" }.into(),
        ]);
    }
    page.plot(
        &format!("{name}: every layer and operation"),
        "The highest relative L2 distance of any position. The column at the end is outside the layers.",
        &heat("Distance by layer and operation", ("layer", &names), &rows, &cells, STEPS),
        &table,
    );
}

fn kernels(page: &mut Page, name: &str, report: &Report) {
    if report.kernels.is_empty() {
        return;
    }
    let mut table = Table::new(["kernel", "calls", "rows", "computed again", "bytes read"]);
    for count in &report.kernels {
        let numbers =
            [count.calls, count.rows, count.rescored_rows, count.bytes].map(|number| number.to_string());
        table.row([vec![count.id.clone()], numbers.to_vec()].concat());
    }
    page.table(
        &format!("{name}: kernels chosen"),
        "The matrix kernels of ours that computed these logits, as they counted themselves.",
        &table,
    );
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Position;
    use super::super::settings::tests::committed;
    use super::*;
    use bitforge_schema::exit::ExitCode;
    use bitforge_schema::protocol::KernelCount;

    fn operation(point: TapPoint, layer: Option<u32>, max_relative_l2: f64) -> Operation {
        Operation {
            point,
            layer,
            min_cosine: 1.0 - max_relative_l2,
            max_relative_l2,
            position: 3,
            ratio: None,
            bit_equal: max_relative_l2 == 0.0,
        }
    }

    fn report() -> Report {
        let position = |cosine: f64| Position {
            cosine,
            max_abs: 0.5,
            relative_l2: 1.0 - cosine,
            kl: 1e-4,
            top1: true,
            top5: 1.0,
            gap: 0.2,
            bit_equal: cosine == 1.0,
        };
        Report {
            model: "m<1>".into(),
            engine: "llama".into(),
            identity: String::new(),
            system: String::new(),
            activation_quant: None,
            validation: "every operation is the definition's".into(),
            verdict: Verdict::Diverges,
            same_tokens: Some(true),
            metrics: Some(Metrics {
                positions: 2,
                min_cosine: 0.75,
                min_cosine_position: 1,
                max_abs: 0.5,
                max_relative_l2: 0.25,
                max_kl: 1e-4,
                top1_agreement: 1.0,
                top5_agreement: 1.0,
                decided_disagreements: 0,
                perplexity_ours: 10.5,
                perplexity_other: 10.25,
                bit_equal_positions: 1,
            }),
            operations: 2,
            bit_equal_operations: 1,
            worst_operation: None,
            blame: None,
            detail: "cosine 0.75 at position 1".into(),
            positions: vec![position(1.0), position(0.75)],
            all_operations: vec![
                operation(TapPoint::Embedding, None, 0.0),
                operation(TapPoint::Query, Some(0), 0.25),
            ],
            kernels: vec![KernelCount {
                id: "i2_s.avx2".into(),
                calls: 5,
                rows: 6,
                rescored_rows: 0,
                bytes: 7,
                nanoseconds: 8,
            }],
            code: ExitCode::Diverged,
        }
    }

    #[test]
    fn every_position_and_operation_is_drawn_and_told() {
        let page = render(&[report()], &committed().thresholds, "a binary");
        let holds = |text: &str| assert!(page.contains(text), "the page lacks {text}");
        holds("0 agree, 1 diverge, 0 could not be checked. Our engine: a binary.");
        holds("m&lt;1&gt; against llama: every position");
        holds("<th scope=\"row\">1</th><td class=\"n\">0.750000000000</td><td class=\"n\">2.500e-1</td>");
        holds("query projection, layer 0: 2.50e-1");
        holds("query projection, layer –: nothing to compare");
        holds("<td>token embedding</td><td class=\"n\">1.000000000000</td>");
        holds("<th scope=\"row\">i2_s.avx2</th><td class=\"n\">5</td>");
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn what_was_not_compared_has_a_reason_and_no_picture() {
        let missing = Report {
            metrics: None,
            verdict: Verdict::CouldNotCheck,
            detail: "the model is not here".into(),
            ..report()
        };
        let page = render(&[missing], &committed().thresholds, "a binary");
        assert!(page.contains("the model is not here") && !page.contains("<svg"));
    }
}
