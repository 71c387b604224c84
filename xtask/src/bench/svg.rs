//! The plot of a benchmark: one horizontal bar per engine and test, its length the median speed as a part of the
//! test's fastest, with the quartiles as a whisker.

use super::stats::quantile;
use super::summary::rates;
use bitforge_receipt_schema::bench::{Bench, Series};
use std::fmt::Write;

const LABELS: f64 = 250.0;
const BARS: f64 = 440.0;
const WIDTH: f64 = 820.0;
const ROW: f64 = 26.0;
const COLOURS: [&str; 4] = ["#2563a8", "#c2611f", "#3f8f4f", "#7d5ba6"];

pub fn render(bench: &Bench) -> String {
    let mut tests: Vec<&str> = Vec::new();
    let mut engines: Vec<&str> = Vec::new();
    for series in &bench.series {
        if !tests.contains(&series.test.as_str()) {
            tests.push(&series.test);
        }
        if !engines.contains(&series.engine.as_str()) {
            engines.push(&series.engine);
        }
    }
    let mut body = String::new();
    let mut y = 34.0;
    for test in tests {
        y += 12.0;
        text(&mut body, 12.0, y + 14.0, "start", "bold", &format!("{test}, tokens/s"));
        y += 22.0;
        let rows: Vec<&Series> = bench.series.iter().filter(|series| series.test == test).collect();
        let longest = rows.iter().flat_map(|series| rates(series)).fold(f64::MIN_POSITIVE, f64::max);
        for series in rows {
            let rates = rates(series);
            let at = |q: f64| quantile(&rates, q).unwrap_or(0.0) / longest * BARS;
            let colour = engines.iter().position(|engine| *engine == series.engine).unwrap_or(0);
            let middle = y + ROW / 2.0 - 2.0;
            text(&mut body, LABELS - 8.0, middle + 4.0, "end", "normal", &series.engine);
            // Writing to a String cannot fail.
            let _ = writeln!(
                body,
                r#"<rect x="{LABELS}" y="{y:.0}" width="{:.1}" height="{:.0}" fill="{}"/>"#,
                at(0.5),
                ROW - 4.0,
                COLOURS[colour % COLOURS.len()]
            );
            let _ = writeln!(
                body,
                r##"<path d="M{:.1} {middle}H{:.1}" stroke="#111" stroke-width="2"/>"##,
                LABELS + at(0.25),
                LABELS + at(0.75)
            );
            let value = quantile(&rates, 0.5).map_or("no samples".into(), |rate| format!("{rate:.2}"));
            text(&mut body, LABELS + at(1.0) + 8.0, middle + 4.0, "start", "normal", &value);
            y += ROW;
        }
    }
    let title = format!("{}, {} threads", bench.model.name, bench.threads);
    let synthetic = if bench.synthetic { ", synthetic weights" } else { "" };
    let mut head = String::new();
    text(&mut head, 12.0, 24.0, "start", "bold", &format!("{title}{synthetic}"));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{head}{body}</svg>\n",
        y + 14.0
    )
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, weight: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{content}</text>"#
    );
}
