//! Events of a fetch for people and programs: lines of JSON on stdout, or a line on stderr that is rewritten on a
//! terminal and repeated every few seconds off it.

use super::args::Format;
use super::format::mebibytes;
use bitnet_runtime::models::Event;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub struct EventPrinter {
    format: Format,
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Shown>,
    drawn: bool,
}

struct Shown {
    at: Instant,
    done: u64,
    begun: Instant,
    from: u64,
}

impl EventPrinter {
    pub fn new(format: Format) -> Self {
        EventPrinter { format, terminal: std::io::stderr().is_terminal(), state: Mutex::default() }
    }

    pub fn show(&self, event: &Event) {
        let mut state = self.state.lock().expect("no thread panicked");
        match (self.format, event) {
            (Format::Json, Event::Progress { file, done, total }) => {
                if state.due(file, *done, *total, Duration::from_millis(200)) {
                    json_line(event);
                }
            }
            (Format::Json, Event::Note { .. }) => json_line(event),
            (Format::Human, Event::Note { text }) => {
                self.clear(&mut state);
                note(format_args!("{text}\n"));
            }
            (Format::Human, Event::Progress { file, done, total }) => {
                let every = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
                if state.due(file, *done, *total, every) {
                    let shown = &state.files[file];
                    let seconds = shown.begun.elapsed().as_secs_f64();
                    let rate = (done - shown.from.min(*done)) as f64 / (1 << 20) as f64 / seconds.max(1e-3);
                    let line =
                        format!("{file}: {} of {}, {rate:.0} MiB/s", mebibytes(*done), mebibytes(*total));
                    if self.terminal {
                        note(format_args!("\r\x1b[2K{line}"));
                        state.drawn = true;
                    } else if seconds > 1.0 {
                        note(format_args!("{line}\n"));
                    }
                }
            }
        }
    }

    fn clear(&self, state: &mut State) {
        if std::mem::take(&mut state.drawn) {
            note(format_args!("\r\x1b[2K"));
        }
    }
}

impl Drop for EventPrinter {
    fn drop(&mut self) {
        let mut state = std::mem::take(self.state.get_mut().expect("no thread panicked"));
        self.clear(&mut state);
    }
}

impl State {
    /// Whether a file's progress is to be shown: at its beginning, at its end, and now and then between.
    fn due(&mut self, file: &str, done: u64, total: u64, every: Duration) -> bool {
        let now = Instant::now();
        match self.files.get_mut(file) {
            None => {
                self.files.insert(file.into(), Shown { at: now, done, begun: now, from: done });
                true
            }
            Some(shown) if done > shown.done && (now - shown.at >= every || done == total) => {
                (shown.at, shown.done) = (now, done);
                true
            }
            Some(_) => false,
        }
    }
}

fn json_line(event: &Event) {
    let line = serde_json::to_string(event).expect("keys are strings") + "\n";
    let mut out = std::io::stdout().lock();
    // Progress for a reader that is gone; the result will notice.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

fn note(text: std::fmt::Arguments<'_>) {
    // A closed stderr is nobody's business.
    let _ = std::io::stderr().write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_shown_at_both_ends_and_never_goes_backwards() {
        let mut state = State::default();
        let mut due = |done| state.due("a", done, 100, Duration::from_secs(3600));
        assert_eq!([0, 50, 100, 100, 60].map(&mut due), [true, false, true, false, false]);
    }
}
