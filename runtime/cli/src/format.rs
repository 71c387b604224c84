//! Numbers and tables as people read them.

/// `86.7 MiB`, as llama-bench writes sizes.
pub fn mebibytes(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib >= 1024.0 { format!("{:.2} GiB", mib / 1024.0) } else { format!("{mib:.2} MiB") }
}

/// `134.52 M`, as llama-bench writes parameter counts.
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.2} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A Markdown table; widths are counted in characters.
pub fn markdown(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    table(columns, rows, Style::Markdown)
}

/// Columns two spaces apart, without heads, indented by two.
pub fn plain(aligns: &[Align], rows: &[Vec<String>]) -> String {
    let columns: Vec<(&str, Align)> = aligns.iter().map(|align| ("", *align)).collect();
    table(&columns, rows, Style::Plain)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Markdown,
    Plain,
}

fn table(columns: &[(&str, Align)], rows: &[Vec<String>], style: Style) -> String {
    let width = |i: usize| {
        let cells = rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count());
        cells.chain([columns[i].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(columns).zip(&widths).map(|((cell, (_, align)), width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        let padded: Vec<String> = padded.collect();
        match style {
            Style::Markdown => format!("| {} |\n", padded.join(" | ")),
            Style::Plain => format!("  {}\n", padded.join("  ").trim_end()),
        }
    };
    let mut out = String::new();
    if style == Style::Markdown {
        out += &line(columns.iter().map(|(name, _)| *name).collect());
        let rule = |((_, align), width): (&(&str, Align), &usize)| match align {
            Align::Left => "-".repeat(width + 2),
            Align::Right => "-".repeat(width + 1) + ":",
        };
        out += &format!("|{}|\n", columns.iter().zip(&widths).map(rule).collect::<Vec<_>>().join("|"));
    }
    rows.iter().for_each(|row| out += &line(row.iter().map(String::as_str).collect()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_in_llama_bench() {
        assert_eq!((mebibytes(91_000_000).as_str(), mebibytes(2 << 30).as_str()), ("86.78 MiB", "2.00 GiB"));
        assert_eq!((count(134_515_008).as_str(), count(999).as_str()), ("134.52 M", "999"));
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".to_string(), "1 ± 2".into()], vec!["long".into(), "10".into()]];
        assert_eq!(
            markdown(&[("n", Align::Left), ("t/s", Align::Right)], &rows),
            "| n    |   t/s |\n|------|------:|\n| a    | 1 ± 2 |\n| long |    10 |\n"
        );
        assert_eq!(plain(&[Align::Left, Align::Right], &rows), "  a     1 ± 2\n  long     10\n");
    }
}
