//! Horizontal bars: one value a row with its samples and an interval, or the parts of a whole.

use crate::page::Plot;
use crate::svg::{Axis, COLOURS, Drawing, WIDTH};
use crate::{Scale, short};

const LABELS: f64 = 200.0;
const VALUES: f64 = 90.0;
const ROW: f64 = 24.0;

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// Bars of one group stand together under its name; `""` for none.
    pub group: String,
    pub label: String,
    /// Index of the colour.
    pub colour: usize,
    pub value: f64,
    /// Drawn as a whisker.
    pub interval: Option<(f64, f64)>,
    /// Drawn as dots.
    pub samples: Vec<f64>,
}

/// What all bars of a group are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// One axis for all.
    One,
    /// Groups have values of different sizes: an axis each.
    Each,
}

/// Bars from zero. `mark` is a value with a line through the bars, and its name.
pub fn bars(label: &str, unit: &str, against: Against, mark: Option<(f64, &str)>, bars: &[Bar]) -> Plot {
    let mut drawing = Drawing::below(6.0);
    let mut groups: Vec<&str> = Vec::new();
    for bar in bars {
        if !groups.contains(&bar.group.as_str()) {
            groups.push(&bar.group);
        }
    }
    let span = (LABELS, WIDTH - VALUES);
    let reach = |bar: &Bar| {
        let interval = bar.interval.map_or([bar.value; 2], |(low, high)| [low, high]);
        bar.samples.iter().copied().chain(interval).chain([bar.value]).collect::<Vec<f64>>()
    };
    let all: Vec<f64> = bars.iter().flat_map(reach).chain(mark.map(|(value, _)| value)).collect();
    for group in groups {
        let rows: Vec<&Bar> = bars.iter().filter(|bar| bar.group == group).collect();
        let values = match against {
            Against::One => all.clone(),
            Against::Each => {
                rows.iter().flat_map(|bar| reach(bar)).chain(mark.map(|(value, _)| value)).collect()
            }
        };
        let axis = Axis::new(values.into_iter(), Scale::Linear, span);
        if !group.is_empty() {
            drawing.text((2.0, drawing.height + 16.0), "strong", group);
            drawing.height += 24.0;
        }
        let top = drawing.height;
        let bottom = top + ROW * rows.len() as f64;
        for tick in axis.ticks(5) {
            drawing.line((axis.at(tick), top), (axis.at(tick), bottom), "grid");
            if against == Against::Each || group == bars.last().map_or("", |bar| &bar.group) {
                drawing.text((axis.at(tick), bottom + 15.0), "middle soft", &short(tick));
            }
        }
        for bar in rows {
            row(&mut drawing, &axis, bar, unit);
        }
        if let Some((value, name)) = mark {
            drawing.line((axis.at(value), top - 4.0), (axis.at(value), bottom + 2.0), "mark");
            if bars.first().is_some_and(|first| first.group == group) {
                drawing.text((axis.at(value) + 4.0, top - 6.0), "soft", name);
            }
        }
        drawing.height = bottom + if against == Against::Each { 26.0 } else { 8.0 };
    }
    drawing.height += 14.0;
    Plot(drawing.finish(label))
}

fn row(drawing: &mut Drawing, axis: &Axis, bar: &Bar, unit: &str) {
    let y = drawing.height;
    let middle = y + ROW / 2.0 - 1.0;
    let value = format!("{} {unit}", short(bar.value));
    drawing.text((LABELS - 8.0, middle + 4.5), "end", &cut(&bar.label));
    let class = format!("c{}", bar.colour % COLOURS);
    let title = format!("{}: {value}", bar.label);
    drawing.rect((axis.at(0.0), y + 2.0), (axis.at(bar.value) - axis.at(0.0), ROW - 6.0), &class, &title);
    for sample in &bar.samples {
        drawing.dot((axis.at(*sample), middle), "soft", &format!("{} {unit}", short(*sample)));
    }
    if let Some((low, high)) = bar.interval {
        drawing.line((axis.at(low), middle), (axis.at(high), middle), "edge");
        for end in [low, high] {
            drawing.line((axis.at(end), middle - 4.0), (axis.at(end), middle + 4.0), "edge");
        }
    }
    let most =
        bar.samples.iter().copied().chain(bar.interval.map(|(_, high)| high)).fold(bar.value, f64::max);
    drawing.text((axis.at(most) + 7.0, middle + 4.5), "", value.trim());
    drawing.height += ROW;
}

/// A whole cut into parts, one row each: parts are shares from 0 to 1 in the order of `names`.
pub fn parts(label: &str, names: &[&str], rows: &[(String, Vec<f64>)]) -> Plot {
    let mut drawing = Drawing::below(4.0);
    drawing.legend(names);
    let height = if rows.len() > 60 { 14.0 } else { ROW };
    for (name, shares) in rows {
        let y = drawing.height;
        drawing.text((LABELS - 8.0, y + height / 2.0 + 4.0), "end", &cut(name));
        let whole = WIDTH - LABELS - 4.0;
        let mut x = LABELS;
        for (index, share) in shares.iter().enumerate() {
            let width = share.clamp(0.0, 1.0) * whole;
            let title =
                format!("{name}: {} {:.1}%", names.get(index).copied().unwrap_or_default(), share * 100.0);
            drawing.rect((x, y + 1.0), (width - 1.0, height - 3.0), &format!("c{}", index % COLOURS), &title);
            if width > 44.0 && height >= ROW {
                drawing.text(
                    (x + width / 2.0, y + height / 2.0 + 4.0),
                    "middle on",
                    &format!("{:.1}%", share * 100.0),
                );
            }
            x += width;
        }
        drawing.height += height;
    }
    drawing.height += 6.0;
    Plot(drawing.finish(label))
}

/// The end of a long name is what tells it from others.
fn cut(label: &str) -> String {
    let count = label.chars().count();
    match count > 27 {
        true => format!("…{}", label.chars().skip(count - 26).collect::<String>()),
        false => label.into(),
    }
}
