//! The marks of every plot, written into one string. Colours are classes of the page's sheet, so that both themes hold.

use crate::Scale;
use std::fmt::Write;

pub const WIDTH: f64 = 760.0;
/// Series colours that the page's sheet has: classes `c0` to `c5`.
pub const COLOURS: usize = 6;

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A drawing that grows downwards.
#[derive(Default)]
pub struct Drawing {
    body: String,
    pub height: f64,
}

impl Drawing {
    /// Empty, with so much room above.
    pub fn below(height: f64) -> Self {
        Drawing { height, ..Drawing::default() }
    }

    pub fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    pub fn text(&mut self, (x, y): (f64, f64), class: &str, content: &str) {
        self.push(format_args!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{}</text>"#, escape(content)));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.push(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    /// A rectangle that says `title` to whoever points at it.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, title: &str) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" class="{class}"><title>{}</title></rect>"#,
            escape(title)
        ));
    }

    pub fn dot(&mut self, (x, y): (f64, f64), class: &str, title: &str) {
        self.push(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="{class}"><title>{}</title></circle>"#,
            escape(title)
        ));
    }

    /// The names of series, in a row that breaks.
    pub fn legend(&mut self, names: &[&str]) {
        if names.len() < 2 {
            return;
        }
        let mut x = 2.0;
        self.height += 8.0;
        for (index, name) in names.iter().enumerate() {
            let width = 34.0 + 7.2 * name.chars().count() as f64;
            if x > 2.0 && x + width > WIDTH {
                (x, self.height) = (2.0, self.height + 20.0);
            }
            let y = self.height;
            self.rect((x, y), (12.0, 12.0), &format!("c{}", index % COLOURS), name);
            self.text((x + 18.0, y + 10.5), "", name);
            x += width;
        }
        self.height += 24.0;
    }

    /// The whole element; `label` is what a screen reader says.
    pub fn finish(self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            self.height,
            escape(label),
            self.body
        )
    }
}

/// An axis: values to pixels, with round ticks.
pub struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    scale: Scale,
}

impl Axis {
    /// Holds all of `values` (and zero, where it is linear) between the pixels `from` and `to`.
    pub fn new(values: impl Iterator<Item = f64>, scale: Scale, (from, to): (f64, f64)) -> Self {
        let finite = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (mut low, mut high) = finite.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        match scale {
            Scale::Linear => {
                (low, high) = (low.min(0.0), high.max(0.0));
                if low == high {
                    high = 1.0;
                }
            }
            Scale::Log => {
                (low, high) = (low.log10().floor(), high.log10().ceil());
                if low == high {
                    (low, high) = (low - 1.0, high + 1.0);
                }
            }
        }
        Axis { low, high, from, to, scale }
    }

    pub fn at(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear if !value.is_nan() => value,
            Scale::Log if value > 0.0 => value.log10(),
            _ => self.low,
        };
        let part = ((place - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + part * (self.to - self.from)
    }

    /// About `count` round values.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        let span = self.high - self.low;
        let rough = span / count.max(1) as f64;
        if self.scale == Scale::Log {
            let step = rough.ceil().max(1.0) as i32;
            return (self.low as i32..=self.high as i32)
                .step_by(step as usize)
                .map(|e| 10f64.powi(e))
                .collect();
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|value| *value <= self.high + step * 1e-9).collect()
    }
}
