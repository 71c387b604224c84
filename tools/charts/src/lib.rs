//! Plots for people who would rather look: pages that hold everything they show.
//!
//! In: numbers with names. Out: one HTML file with SVG plots, readable in light and dark, on paper and by a screen
//! reader; behind each plot is the table it was drawn from. [`Page`] collects sections, [`bars`], [`lines`] and [`heat`]
//! draw. [`Diagram`] draws boxes and arrows into a file of its own. Used by xtask and by the runtime. Deliberately absent: scripts, fonts, anything from another host, rounding
//! that the table would not show.

pub mod bars;
mod diagram;
pub mod heat;
pub mod lines;
mod page;
mod svg;
#[cfg(test)]
mod tests;

pub use diagram::{Area, Diagram, Point};
pub use page::{Page, Plot, Table};
pub use svg::WIDTH;

/// How a value is placed between the ends of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Base 10. What is not above zero lies at the low end.
    Log,
}

/// `1234567` as `1.23 M`: three digits and a prefix, for labels; tables keep more.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, prefix) = match size {
        _ if size >= 1e12 => (value / 1e12, " T"),
        _ if size >= 1e9 => (value / 1e9, " G"),
        _ if size >= 1e6 => (value / 1e6, " M"),
        _ if size >= 1e5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    match scaled.abs() {
        0.0 => "0".into(),
        size if size < 0.01 => format!("{scaled:.1e}").replace(".0e", "e"),
        size if size < 10.0 => trimmed(&format!("{scaled:.2}")) + prefix,
        size if size < 100.0 => trimmed(&format!("{scaled:.1}")) + prefix,
        _ => format!("{scaled:.0}{prefix}"),
    }
}

fn trimmed(number: &str) -> String {
    number.trim_end_matches('0').trim_end_matches('.').to_string()
}
