//! A grid of distances: rows by columns, each cell one of seven steps.

use crate::page::Plot;
use crate::short;
use crate::svg::{Drawing, WIDTH};

const LABELS: f64 = 210.0;
const ROW: f64 = 19.0;

/// Cells `values[row][column]`; `None` where there is nothing to show. `steps` are the six bounds between the seven colours,
/// rising; a value of 0 is the first.
pub fn heat(
    label: &str,
    columns: (&str, &[String]),
    rows: &[String],
    values: &[Vec<Option<f64>>],
    steps: [f64; 6],
) -> Plot {
    let mut drawing = Drawing::below(8.0);
    let (axis, names) = columns;
    let width = ((WIDTH - LABELS - 6.0) / names.len().max(1) as f64).min(46.0);
    let every = (26.0 / width).ceil().max(1.0) as usize;
    drawing.text((LABELS - 8.0, 18.0), "end soft", axis);
    for (index, name) in names.iter().enumerate().filter(|(index, _)| index % every == 0) {
        drawing.text((LABELS + width * (index as f64 + 0.5), 18.0), "middle soft", name);
    }
    drawing.height += 18.0;
    for (name, cells) in rows.iter().zip(values) {
        let y = drawing.height;
        drawing.text((LABELS - 8.0, y + ROW / 2.0 + 4.0), "end", name);
        for (index, cell) in cells.iter().enumerate() {
            let column = names.get(index).map_or("", String::as_str);
            let (class, title) = match cell {
                Some(value) => {
                    (format!("h{}", step(*value, steps)), format!("{name}, {axis} {column}: {value:.2e}"))
                }
                None => ("none".into(), format!("{name}, {axis} {column}: nothing to compare")),
            };
            drawing.rect((LABELS + width * index as f64, y + 1.0), (width - 1.5, ROW - 2.0), &class, &title);
        }
        drawing.height += ROW;
    }
    drawing.height += 12.0;
    legend(&mut drawing, steps);
    Plot(drawing.finish(label))
}

fn step(value: f64, steps: [f64; 6]) -> usize {
    if value.is_nan() { steps.len() } else { steps.iter().take_while(|bound| value >= **bound).count() }
}

fn legend(drawing: &mut Drawing, steps: [f64; 6]) {
    let width = (WIDTH - LABELS - 6.0) / 7.0;
    for index in 0..7 {
        let x = LABELS + width * index as f64;
        let name = match index {
            0 => format!("below {}", short(steps[0])),
            _ => format!("from {}", short(steps[index - 1])),
        };
        drawing.rect((x, drawing.height), (width - 1.5, 8.0), &format!("h{index}"), &name);
        drawing.text((x, drawing.height + 22.0), "soft", &name);
    }
    drawing.height += 32.0;
}
