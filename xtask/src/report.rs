//! What people and programs read: lines, tables and progress on stderr, JSON on stdout.
//!
//! In: values of the commands. Out: text. Colour and bars appear only on a terminal; off it, progress is a
//! line every few seconds. Deliberately absent: what the commands mean.

use anyhow::{Context, Result};
use bitforge_schema::env::Env;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How a check came out. Nothing that was not looked at is ever [`State::Ok`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Ok,
    Warn,
    Fail,
    CouldNotCheck,
}

impl State {
    pub const fn symbol(self) -> &'static str {
        match self {
            State::Ok => "✔",
            State::Warn => "!",
            State::Fail => "✘",
            State::CouldNotCheck => "?",
        }
    }

    const fn ansi(self) -> &'static str {
        match self {
            State::Ok => "32",
            State::Warn => "33",
            State::Fail => "31",
            State::CouldNotCheck => "36",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    pub format: Format,
    /// Whether stderr is a terminal: bars and colour.
    terminal: bool,
    color: bool,
}

impl Reporter {
    pub fn from_process(format: Format, env: &Env) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Reporter { format, terminal, color: terminal && env.get("NO_COLOR").is_none() }
    }

    #[cfg(test)]
    pub fn for_tests() -> Self {
        Reporter { format: Format::Human, terminal: false, color: false }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Text for people. A closed stderr is not an error.
    pub fn line(&self, text: impl AsRef<str>) {
        if cfg!(test) {
            // The test harness shows this only where a test fails.
            eprintln!("{}", text.as_ref());
        } else {
            let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// The one JSON value of a command, or the one line a shell reads (a path, a text).
    pub fn stdout(&self, text: &str) -> Result<()> {
        match writeln!(std::io::stdout().lock(), "{text}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.context("writing to stdout"),
        }
    }

    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        self.stdout(&serde_json::to_string_pretty(value).context("serializing the report")?)
    }

    /// The state's symbol, coloured on a terminal.
    pub fn mark(&self, state: State) -> String {
        if self.color {
            format!("\x1b[{}m{}\x1b[0m", state.ansi(), state.symbol())
        } else {
            state.symbol().to_string()
        }
    }

    pub fn progress(&self, title: impl Into<String>) -> Progress {
        let title = title.into();
        let bar = self.terminal.then(|| {
            let bar = ProgressBar::new_spinner().with_prefix(title.clone());
            bar.set_style(style("{spinner} {prefix}: {wide_msg}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            self.line(format!("{title} ..."));
        }
        Progress { title, bar, out: *self, last: Instant::now(), total: None }
    }
}

/// Rows as an aligned table without borders; the first row is the head.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head).add_rows(rows);
    let text = table.to_string();
    text.lines().map(|line| line.trim_end()).collect::<Vec<_>>().join("\n")
}

/// Bytes in the unit people use, binary multiples.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// One running activity: a bar on a terminal, otherwise a line every few seconds.
pub struct Progress {
    title: String,
    bar: Option<ProgressBar>,
    out: Reporter,
    last: Instant,
    total: Option<u64>,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(5);

    /// What is happening now.
    pub fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.trim().to_string()),
            None => self.throttled_line(text.trim()),
        }
    }

    /// `done` of `total` bytes.
    pub fn bytes(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                if self.total != Some(total) {
                    self.total = Some(total);
                    bar.set_length(total);
                    bar.set_style(style(
                        "{spinner} {prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
                    ));
                }
                bar.set_position(done);
            }
            None => self.throttled_line(&format!(
                "{} of {} ({}%)",
                bytes(done),
                bytes(total),
                done * 100 / total.max(1)
            )),
        }
    }

    fn throttled_line(&mut self, text: &str) {
        if self.last.elapsed() >= Self::EVERY {
            self.last = Instant::now();
            self.out.line(format!("{}: {text}", self.title));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_largest_unit_below() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(98_362_432), "93.8 MiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
    }

    #[test]
    fn tables_are_aligned_without_trailing_spaces() {
        let text = table(["name", "size"], [["a".into(), "1 B".into()], ["longer".into(), "2".into()]]);
        insta::assert_snapshot!(text, @r"
         name    size
         a       1 B
         longer  2
        ");
    }

    #[test]
    fn colour_only_when_asked() {
        let plain = Reporter::for_tests();
        assert_eq!(plain.mark(State::Fail), "✘");
        let coloured = Reporter { color: true, ..plain };
        assert_eq!(coloured.mark(State::Fail), "\x1b[31m✘\x1b[0m");
    }
}
