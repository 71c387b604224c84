//! The steps of `up` and which receipts name which.

use super::Drawn;
use crate::cli::UpStep;
use bitforge_charts::{Diagram, Point};

const WIDTH: f64 = 158.0;
const HEIGHT: f64 = 46.0;
/// Left edges of four columns, top edges of six rows.
const COLUMNS: [f64; 4] = [16.0, 206.0, 396.0, 586.0];
const ROWS: [f64; 6] = [20.0, 84.0, 148.0, 212.0, 276.0, 340.0];

/// Column, row, and what the step does.
const fn place(step: UpStep) -> (usize, usize, &'static str) {
    match step {
        UpStep::Preflight => (0, 0, "what the machine has"),
        UpStep::Build => (0, 1, "the release binary"),
        UpStep::Reference => (0, 3, "the C++ engines"),
        UpStep::Symbols => (1, 3, "what they can do"),
        UpStep::Kernels => (1, 1, "what this CPU gets"),
        UpStep::Model => (0, 5, "fetch and verify"),
        UpStep::Crossval => (1, 4, "logits agree"),
        UpStep::Eval => (1, 2, "perplexity holds"),
        UpStep::Bench => (2, 4, "speed, in turns"),
        UpStep::Text => (2, 5, "words: run.json"),
        UpStep::Receipts => (3, 4, "gates judge them"),
    }
}

const fn left(column: usize, row: usize) -> Point {
    (COLUMNS[column], ROWS[row] + HEIGHT / 2.0)
}

const fn right(column: usize, row: usize) -> Point {
    (COLUMNS[column] + WIDTH, ROWS[row] + HEIGHT / 2.0)
}

pub(super) fn draw() -> Drawn {
    let mut d = Diagram::new();
    let gap = |column: usize, before: f64| COLUMNS[column] - before;
    for (from, to) in
        [((0, 1), (1, 1)), ((0, 3), (1, 3)), ((1, 4), (2, 4)), ((0, 5), (2, 5)), ((2, 4), (3, 4))]
    {
        d.arrow(&[right(from.0, from.1), left(to.0, to.1)]);
    }
    // Build to eval, reference and model to crossval, model to bench, crossval to text, both ends to receipts.
    let elbow =
        |d: &mut Diagram, from: Point, x: f64, to: Point| d.arrow(&[from, (x, from.1), (x, to.1), to]);
    elbow(&mut d, right(0, 1), gap(1, 22.0), left(1, 2));
    let into = left(1, 4);
    elbow(&mut d, right(0, 3), gap(1, 22.0), (into.0, into.1 - 10.0));
    elbow(&mut d, right(0, 5), gap(1, 22.0), (into.0, into.1 + 10.0));
    let into = left(2, 4);
    elbow(&mut d, right(0, 5), gap(2, 22.0), (into.0, into.1 + 12.0));
    let (from, into) = (right(1, 4), left(2, 5));
    elbow(&mut d, (from.0, from.1 + 10.0), gap(2, 12.0), (into.0, into.1 - 10.0));
    let into = left(3, 4);
    elbow(&mut d, right(2, 5), gap(3, 16.0), (into.0, into.1 + 12.0));
    let from = right(1, 4);
    let above = ROWS[4] - 9.0;
    d.arrow(&[
        (from.0, from.1 - 10.0),
        (gap(2, 16.0), from.1 - 10.0),
        (gap(2, 16.0), above),
        (gap(3, 16.0), above),
        (gap(3, 16.0), into.1 - 12.0),
        (into.0, into.1 - 12.0),
    ]);
    for (index, step) in UpStep::ALL.into_iter().enumerate() {
        let (column, row, what) = place(step);
        let class = match step {
            UpStep::Preflight | UpStep::Build | UpStep::Reference | UpStep::Model => "b1",
            UpStep::Crossval | UpStep::Bench | UpStep::Text => "b2",
            UpStep::Receipts => "b0",
            UpStep::Symbols | UpStep::Kernels | UpStep::Eval => "box",
        };
        let title = format!("{} {}", index + 1, step.name());
        d.node((COLUMNS[column], ROWS[row], WIDTH, HEIGHT), class, &title, &[what]);
    }
    let (x, y) = (COLUMNS[2], ROWS[0] + 16.0);
    for (index, line) in [
        "Numbers are the order of a run. Every step but",
        "the last leaves target/receipts/STEP.json.",
        "An arrow: the receipt at its head holds the",
        "sha256 of the one at its tail, so `up --only`",
        "goes on from files and a changed file shows.",
    ]
    .into_iter()
    .enumerate()
    {
        d.words((x, y + 18.0 * index as f64), "soft", line);
    }
    Drawn {
        diagram: d,
        height: ROWS[5] + HEIGHT + 20.0,
        label: "The eleven steps of up: build leads to kernels and eval; reference to symbols and crossval; model and crossval to bench and text; crossval, bench and text to receipts",
    }
}
