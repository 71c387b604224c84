//! The diagrams of the documentation, under docs/diagrams, drawn by code so that they change with what they show.
//!
//! Out: one SVG file each, readable on light and on dark pages. Deliberately absent: how boxes and arrows are drawn
//! (`bitforge-charts`).

mod batches;
mod i2s;
mod token;
mod up;

use bitforge_charts::Diagram;

/// What there is to draw, its height in pixels, and what a screen reader says.
struct Drawn {
    diagram: Diagram,
    height: f64,
    label: &'static str,
}

type Draw = fn() -> Drawn;

const DIAGRAMS: [(&str, Draw); 4] = [
    ("docs/diagrams/up.svg", up::draw),
    ("docs/diagrams/i2s.svg", i2s::draw),
    ("docs/diagrams/batches.svg", batches::draw),
    ("docs/diagrams/token.svg", token::draw),
];

/// Path below the root and content of every diagram.
pub(super) fn files() -> [(&'static str, String); 4] {
    DIAGRAMS.map(|(path, draw)| {
        let Drawn { diagram, height, label } = draw();
        (path, diagram.render(height, label))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lies_over_anything_or_outside() {
        for (path, draw) in DIAGRAMS {
            let Drawn { diagram, height, .. } = draw();
            assert_eq!(diagram.problems(height), [] as [&str; 0], "{path}");
        }
    }

    #[test]
    fn every_step_of_up_is_drawn_with_its_number() {
        let [(_, svg), ..] = files();
        for (index, step) in crate::cli::UpStep::ALL.iter().enumerate() {
            let title = format!(">{} {}<", index + 1, step.name());
            assert!(svg.contains(&title), "{title}");
        }
    }
}
