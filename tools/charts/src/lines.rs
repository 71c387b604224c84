//! Lines and columns over a numbered axis: positions, rounds, threads, bins.

use crate::page::Plot;
use crate::svg::{Axis, COLOURS, Drawing, WIDTH};
use crate::{Scale, short};
use std::fmt::Write;

const LEFT: f64 = 66.0;
const HEIGHT: f64 = 230.0;

/// Named points (x, y).
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The names of both axes, and how y is scaled.
#[derive(Clone, Copy, Debug)]
pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    pub scale: Scale,
}

/// One line per series; `mark` is a height with a name. With a log scale, points at or below zero lie on the floor.
pub fn lines(label: &str, axes: Axes<'_>, mark: Option<(f64, &str)>, series: &[Line]) -> Plot {
    let mut drawing = Drawing::below(4.0);
    let names: Vec<&str> = series.iter().map(|line| line.name.as_str()).collect();
    drawing.legend(&names);
    let top = drawing.height + 20.0;
    let bottom = top + HEIGHT;
    let points = || series.iter().flat_map(|line| line.points.iter());
    let heights = points().map(|(_, y)| *y).chain(mark.map(|(value, _)| value));
    let y = Axis::new(heights, axes.scale, (bottom, top));
    let (first, last) =
        points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(*x), high.max(*x)));
    let (first, last) = if first > last { (0.0, 1.0) } else { (first, last.max(first + 1e-6)) };
    let x = Between { first, last };
    frame(&mut drawing, axes, &y, (top, bottom));
    for value in x.ticks() {
        drawing.text((x.at(value), bottom + 17.0), "middle soft", &short(value));
    }
    if let Some((value, name)) = mark {
        drawing.line((LEFT, y.at(value)), (WIDTH - 6.0, y.at(value)), "mark");
        drawing.text((WIDTH - 8.0, y.at(value) - 5.0), "end soft", name);
    }
    for (index, line) in series.iter().enumerate() {
        let mut path = String::new();
        for (at, value) in &line.points {
            // Writing to a String cannot fail.
            let _ = write!(path, "{:.1},{:.1} ", x.at(*at), y.at(*value));
        }
        let colour = index % COLOURS;
        drawing.push(format_args!(r#"<polyline class="s{colour}" points="{}"/>"#, path.trim_end()));
        if line.points.len() <= 40 {
            for (at, value) in &line.points {
                let title = format!("{}, {} {}: {}", line.name, axes.x, short(*at), short(*value));
                drawing.dot((x.at(*at), y.at(*value)), &format!("c{colour}"), &title);
            }
        }
    }
    drawing.height = bottom + 42.0;
    Plot(drawing.finish(label))
}

/// A histogram: one column per named bin.
pub fn columns(label: &str, axes: Axes<'_>, bins: &[(String, f64)]) -> Plot {
    let (top, bottom) = (24.0, 24.0 + HEIGHT);
    let mut drawing = Drawing::below(0.0);
    let y = Axis::new(bins.iter().map(|(_, value)| *value), axes.scale, (bottom, top));
    frame(&mut drawing, axes, &y, (top, bottom));
    let step = (WIDTH - LEFT - 8.0) / bins.len().max(1) as f64;
    let every = bins.len().div_ceil(16).max(1);
    for (index, (name, value)) in bins.iter().enumerate() {
        let x = LEFT + 2.0 + step * index as f64;
        let height = bottom - y.at(*value);
        drawing.rect(
            (x + 0.5, bottom - height),
            (step - 1.0, height),
            "c0",
            &format!("{name}: {}", short(*value)),
        );
        if index % every == 0 {
            drawing.text((x + step / 2.0, bottom + 17.0), "middle soft", name);
        }
    }
    drawing.height = bottom + 42.0;
    Plot(drawing.finish(label))
}

fn frame(drawing: &mut Drawing, axes: Axes<'_>, y: &Axis, (top, bottom): (f64, f64)) {
    drawing.text((2.0, top - 9.0), "soft", axes.y);
    drawing.text((WIDTH - 8.0, bottom + 34.0), "end soft", axes.x);
    for tick in y.ticks(5) {
        drawing.line((LEFT, y.at(tick)), (WIDTH - 6.0, y.at(tick)), "grid");
        drawing.text((LEFT - 8.0, y.at(tick) + 4.5), "end soft", &short(tick));
    }
}

/// The horizontal axis: from the first to the last number, not from zero.
struct Between {
    first: f64,
    last: f64,
}

impl Between {
    fn at(&self, value: f64) -> f64 {
        LEFT + 8.0 + (value - self.first) / (self.last - self.first) * (WIDTH - LEFT - 22.0)
    }

    /// Whole numbers, at most nine.
    fn ticks(&self) -> Vec<f64> {
        let span = (self.last - self.first).round().max(1.0);
        let step = (span / 8.0).ceil().max(1.0);
        let mut ticks = Vec::new();
        let mut value = self.first.ceil();
        while value <= self.last + 1e-6 {
            ticks.push(value);
            value += step;
        }
        ticks
    }
}
