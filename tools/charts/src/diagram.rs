//! Diagrams: boxes, arrows and words, as an SVG file that stands alone.
//!
//! In: what lies where, in pixels of a drawing [`WIDTH`] wide. Out: SVG with its own styles for light and dark, and
//! [`Diagram::problems`]: words that are too long for their box, boxes and words that lie over each other. Deliberately absent:
//! a layout of its own; who draws says where things are.

use crate::svg::{Drawing, WIDTH};

/// Left, top, width, height.
pub type Area = (f64, f64, f64, f64);
pub type Point = (f64, f64);

/// A character is at most so wide, in the fonts of the sheet at 13 pixels; bold and small ones in proportion.
const CHARACTER: f64 = 7.2;
const LINE: f64 = 16.0;
const STYLE: &str = include_str!("diagram.css");

#[derive(Default)]
pub struct Diagram {
    drawing: Drawing,
    boxes: Vec<(Area, String)>,
    words: Vec<(Area, String)>,
    problems: Vec<String>,
}

impl Diagram {
    pub fn new() -> Self {
        Diagram::default()
    }

    /// A box with a title (none where it is empty) and lines below it, in the middle of it. `class` is `box` or `b0` to `b3`.
    pub fn node(&mut self, area: Area, class: &str, title: &str, lines: &[&str]) {
        let (x, y, width, height) = area;
        self.drawing.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="6" class="{class}"/>"#
        ));
        self.boxes.push((area, title.into()));
        let first = y + height / 2.0 + 4.5 - LINE * lines.len() as f64 / 2.0;
        let before = self.words.len();
        if !title.is_empty() {
            self.words((x + width / 2.0, first), "middle strong", title);
        }
        for (index, line) in lines.iter().enumerate() {
            self.words((x + width / 2.0, first + LINE * (index + 1) as f64), "middle soft", line);
        }
        for (words, text) in &self.words[before..] {
            if words.0 < x + 2.0
                || words.0 + words.2 > x + width - 2.0
                || words.1 < y
                || words.1 + words.3 > y + height
            {
                self.problems.push(format!("'{text}' does not fit its box"));
            }
        }
    }

    /// A dashed frame around what belongs together.
    pub fn frame(&mut self, (x, y, width, height): Area, title: &str) {
        self.drawing.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="8" class="frame"/>"#
        ));
        if !title.is_empty() {
            self.words((x + 10.0, y + 18.0), "soft", title);
        }
    }

    /// A small part of a whole without words.
    pub fn cell(&mut self, (x, y, width, height): Area, class: &str) {
        self.drawing.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" class="{class}"/>"#
        ));
    }

    /// Words that begin, end (`end`) or have their middle (`middle`) at a point of their base line.
    pub fn words(&mut self, (x, y): Point, class: &str, text: &str) {
        self.drawing.text((x, y), class, text);
        let scale = if class.contains("soft") { 0.88 } else { 1.0 }
            * if class.contains("strong") { 1.08 } else { 1.0 };
        let width = CHARACTER * scale * text.chars().count() as f64;
        let left = match class {
            _ if class.contains("middle") => x - width / 2.0,
            _ if class.contains("end") => x - width,
            _ => x,
        };
        self.words.push(((left, y - 11.0, width, 14.0), text.into()));
    }

    /// A line through `points`; `class` is empty or one of `e0` to `e3`.
    pub fn line(&mut self, points: &[Point], class: &str) {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.drawing.push(format_args!(r#"<polyline class="edge {class}" points="{}"/>"#, path.join(" ")));
    }

    /// A line with a head at its end.
    pub fn arrow(&mut self, points: &[Point]) {
        let [.., (x0, y0), (x, y)] = *points else { return };
        let length = (x - x0).hypot(y - y0).max(1e-9);
        let (dx, dy) = ((x - x0) / length, (y - y0) / length);
        let base = (x - 8.0 * dx, y - 8.0 * dy);
        let mut points = points.to_vec();
        if let Some(last) = points.last_mut() {
            *last = base;
        }
        self.line(&points, "");
        self.drawing.push(format_args!(
            r#"<path class="head" d="M{x:.1} {y:.1}L{:.1} {:.1}L{:.1} {:.1}Z"/>"#,
            base.0 - 4.0 * dy,
            base.1 + 4.0 * dx,
            base.0 + 4.0 * dy,
            base.1 - 4.0 * dx
        ));
    }

    /// Words or boxes that lie over others of their kind, or outside a drawing of this height.
    pub fn problems(&self, height: f64) -> Vec<String> {
        let mut problems = self.problems.clone();
        for kind in [&self.boxes, &self.words] {
            for (index, (area, text)) in kind.iter().enumerate() {
                if area.0 < 0.0 || area.1 < 0.0 || area.0 + area.2 > WIDTH || area.1 + area.3 > height {
                    problems.push(format!("'{text}' is outside"));
                }
                let over = kind[..index].iter().filter(|(other, _)| overlap(*area, *other));
                problems.extend(over.map(|(_, other)| format!("'{text}' lies over '{other}'")));
            }
        }
        problems
    }

    /// The file. `label` is what a screen reader says.
    pub fn render(mut self, height: f64, label: &str) -> String {
        self.drawing.height = height;
        let svg = self.drawing.finish(label);
        let head =
            format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" ");
        let svg = svg.replacen("<svg ", &head, 1);
        let paper = "<rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"10\"/>\n";
        svg.replacen(">\n", &format!(">\n<style>\n{STYLE}</style>\n{paper}"), 1)
    }
}

fn overlap(a: Area, b: Area) -> bool {
    a.0 < b.0 + b.2 && b.0 < a.0 + a.2 && a.1 < b.1 + b.3 && b.1 < a.1 + a.3
}
