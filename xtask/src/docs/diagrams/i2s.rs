//! Which weights lie in a byte of I2_S, in the three layouts that the name has.
//!
//! The places are those of `I2sLayout::place` in runtime/src/quant/i2s.rs, which xtask does not link.

use super::Drawn;
use bitforge_charts::{Area, Diagram};

const LEFT: f64 = 20.0;
const CELL: f64 = 5.6;

pub(super) fn draw() -> Drawn {
    let mut d = Diagram::new();
    d.words((LEFT, 26.0), "strong", "x86: 128 weights of a row in 32 bytes");
    strips(&mut d, 38.0, &[(0, 128)], |n| 1 + 32 * n);
    byte(&mut d, 100.0, "byte 1", |n| format!("weight {}", 1 + 32 * n));

    d.words((LEFT, 186.0), "strong", "arm: 64 weights of a row in 16 bytes");
    strips(&mut d, 198.0, &[(0, 64)], |n| 1 + 16 * n);
    byte(&mut d, 260.0, "byte 1", |n| format!("weight {}", 1 + 16 * n));

    d.words((LEFT, 346.0), "strong", "row4: a column of four rows in one byte");
    strips(&mut d, 358.0, &[(0, 64), (1, 64), (2, 64), (3, 64)], |_| 1);
    byte(&mut d, 446.0, "byte 1", |n| format!("row {n}, weight 1"));

    d.words((LEFT, 532.0), "strong", "The tensor, in every layout");
    let (top, height) = (544.0, 34.0);
    for (x, width, class, text) in [
        (LEFT, 430.0, "box", "two bits a weight: elements / 4 bytes"),
        (LEFT + 430.0, 110.0, "b0", "scale, f32"),
        (LEFT + 540.0, 180.0, "box", "28 bytes of anything"),
    ] {
        d.node((x, top, width, height), class, text, &[]);
    }
    d.words(
        (LEFT, 602.0),
        "soft",
        "Two bits: 0 is -1, 1 is 0, 2 is +1. 3 is never written, and refused with the place of its byte.",
    );
    Drawn {
        diagram: d,
        height: 620.0,
        label: "I2_S: in the x86 layout byte p holds weights p, p+32, p+64 and p+96 from its high bits down; in the arm layout p, p+16, p+32 and p+48; in row4 the same column of four rows; then an f32 scale and 28 bytes",
    }
}

/// Rows of cells, one a weight; of the four that meet in byte 1 `column` says where in its row each is.
fn strips(d: &mut Diagram, top: f64, rows: &[(usize, usize)], column: impl Fn(usize) -> usize) {
    for (row, weights) in rows {
        for weight in 0..*weights {
            let class = match rows.len() {
                1 => (0..4).find(|n| column(*n) == weight),
                _ => (column(*row) == weight).then_some(*row),
            };
            let area = cell(top, *row, weight);
            d.cell(area, &class.map_or("cell".to_string(), |n| format!("b{n}")));
        }
    }
    let bottom = top + 15.0 * rows.len() as f64;
    for weight in [0, 16, 32, 48, 64, 96, 127].into_iter().filter(|weight| *weight < rows[0].1) {
        d.words((cell(top, 0, weight).0, bottom + 13.0), "soft", &weight.to_string());
    }
}

fn cell(top: f64, row: usize, weight: usize) -> Area {
    (LEFT + CELL * weight as f64, top + 15.0 * row as f64, CELL - 1.0, 13.0)
}

/// The four fields of a byte, from its highest bits.
fn byte(d: &mut Diagram, top: f64, name: &str, what: impl Fn(usize) -> String) {
    d.words((LEFT, top + 26.0), "", name);
    for n in 0..4 {
        let bits = format!("bits {}, {}", 7 - 2 * n, 6 - 2 * n);
        d.node((LEFT + 80.0 + 160.0 * n as f64, top, 150.0, 44.0), &format!("b{n}"), &what(n), &[&bits]);
    }
}
