//! Progress on stderr: one line that is rewritten on a terminal, a line every few seconds off it.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Off a terminal a line is written at most this often, and none for what takes less.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// On a terminal the line is rewritten at most this often.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

pub struct Progress {
    what: String,
    terminal: bool,
    last: Instant,
    drawn: bool,
}

impl Progress {
    pub fn start(what: impl Into<String>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let mut progress = Progress { what: what.into(), terminal, last: Instant::now(), drawn: false };
        if terminal {
            progress.draw("");
        }
        progress
    }

    pub fn update(&mut self, done: usize, total: impl Display) {
        let every = if self.terminal { REDRAW_EVERY } else { LINE_EVERY };
        if self.last.elapsed() >= every {
            self.last = Instant::now();
            self.draw(&format!(" {done}/{total}"));
        }
    }

    fn draw(&mut self, state: &str) {
        let mut err = std::io::stderr().lock();
        // A closed stderr loses progress lines and nothing else.
        let _ = match self.terminal {
            true => write!(err, "\r\x1b[2K{}{state}", self.what).and_then(|()| err.flush()),
            false => writeln!(err, "{}{state}", self.what),
        };
        self.drawn = true;
    }
}

impl Drop for Progress {
    /// Clears the line on a terminal, however the work ended.
    fn drop(&mut self) {
        if self.terminal && self.drawn {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K").and_then(|()| err.flush());
        }
    }
}
