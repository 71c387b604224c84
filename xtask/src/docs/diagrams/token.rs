//! One token through the layers: what is computed, and in which pieces CPU and GPU compute it.

use super::Drawn;
use bitforge_charts::Diagram;

const ROW: f64 = 36.0;
const TOP: f64 = 52.0;

/// Operation, what it is over, and its colour.
const OPERATIONS: [(&str, &str, &str); 12] = [
    ("embedding", "one row of the table, to f32", "box"),
    ("norm, quantize", "hidden state to int8 and a scale", "b1"),
    ("q, k, v", "ternary x int8, sums in i32", "b0"),
    ("RoPE, write k and v", "at the token's page and place", "b1"),
    ("attention", "over all positions before it", "b3"),
    ("sub-norm, quantize", "", "b1"),
    ("output", "added to the hidden state", "b0"),
    ("norm, quantize", "hidden state to int8 and a scale", "b1"),
    ("gate, up", "then relu2(gate) x up", "b0"),
    ("sub-norm, quantize", "", "b1"),
    ("down", "added to the hidden state", "b0"),
    ("norm, head, sampling", "rows that can win, exactly", "box"),
];

/// First and last operation of a piece of work.
type Piece = (usize, usize, &'static [&'static str]);

/// Where the pool of threads comes in; all else of one row is computed on the calling thread.
const CPU: [Piece; 6] = [
    (2, 2, &["one region: rows of", "all three, in chunks"]),
    (4, 4, &["a region: heads, and", "runs of positions"]),
    (6, 6, &["a region"]),
    (8, 8, &["one region for both"]),
    (10, 10, &["a region"]),
    (11, 11, &["a region"]),
];

/// The launches of a decoding step of several sequences.
const GPU: [Piece; 6] = [
    (1, 2, &["launch: norm and", "quantization inside"]),
    (3, 4, &["launch: attention with", "RoPE and the write"]),
    (5, 6, &["launch"]),
    (7, 8, &["launch"]),
    (9, 10, &["launch"]),
    (11, 11, &["two stages"]),
];

pub(super) fn draw() -> Drawn {
    let mut d = Diagram::new();
    d.words((110.0, 28.0), "middle strong", "CPU: regions of threads");
    d.words((380.0, 28.0), "middle strong", "the token");
    d.words((650.0, 28.0), "middle strong", "GPU: launches");
    let y = |row: usize| TOP + ROW * row as f64;
    for (row, (title, what, class)) in OPERATIONS.into_iter().enumerate() {
        let text = if what.is_empty() { title.to_string() } else { format!("{title}: {what}") };
        d.node((220.0, y(row), 320.0, ROW - 8.0), class, "", &[]);
        d.words((232.0, y(row) + 18.5), "soft", &text);
        if row > 0 {
            d.arrow(&[(380.0, y(row) - 8.0), (380.0, y(row))]);
        }
    }
    for (first, last, words) in CPU {
        piece(&mut d, (206.0, 212.0), (y(first), y(last) + ROW - 8.0), words, "end");
    }
    for (first, last, words) in GPU {
        piece(&mut d, (554.0, 548.0), (y(first), y(last) + ROW - 8.0), words, "");
    }
    d.frame((10.0, y(1) - 5.0, 740.0, ROW * 10.0 + 2.0), "");
    d.words((20.0, y(1) + 12.0), "soft", "each layer");
    let below = y(12) + 14.0;
    for (index, line) in [
        "CPU: norms, packing and activations of one row run on the calling thread; a region would cost more than they take.",
        "GPU, several sequences: five launches a layer in one graph, each resident before the one before has ended; beyond",
        "eight rows, norms and quantization are launches of their own.",
        "GPU, one sequence: whole tokens in one launch. The persistent kernel fetches the next layer's rows into shared",
        "memory while it computes, and its blocks exchange vectors five times a layer.",
        "Both round as the scalar definition does (in contexts beyond 512 the persistent kernel's attention does not).",
    ]
    .into_iter()
    .enumerate()
    {
        d.words((16.0, below + 17.0 * index as f64), "soft", line);
    }
    Drawn {
        diagram: d,
        height: below + 17.0 * 5.0 + 16.0,
        label: "A token goes through the embedding, then in each layer norm and quantization, q, k and v, RoPE and cache, attention, sub-norm, output, norm, gate and up, sub-norm, down, and at the end norm, head and sampling; the CPU has five parallel regions in a layer and the GPU five launches",
    }
}

/// A bracket beside operations with words beyond it: `x` of its spine and of its ends, from the one height to the other.
fn piece(d: &mut Diagram, (spine, ends): (f64, f64), (top, bottom): (f64, f64), words: &[&str], class: &str) {
    let e = if class == "end" { "e2" } else { "e3" };
    d.line(&[(ends, top + 2.0), (spine, top + 2.0), (spine, bottom - 2.0), (ends, bottom - 2.0)], e);
    let x = spine + if class == "end" { -8.0 } else { 8.0 };
    let first = (top + bottom) / 2.0 + 4.0 - 7.5 * (words.len() as f64 - 1.0);
    for (index, line) in words.iter().enumerate() {
        d.words((x, first + 15.0 * index as f64), &format!("{class} soft"), line);
    }
}
