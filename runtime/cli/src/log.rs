//! Log lines on stderr, never in the way of what is logged.
//!
//! In: what `tracing` is told, at the level of BITNET_LOG. Out: lines on stderr, written by a thread of its own: who logs
//! never waits for a terminal, a pipe or a disk. Lines are lost where the thread cannot keep up or stderr takes nothing.

use bitforge_schema::env::Env;
use bitnet_runtime::{Error, Result};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

pub const VARIABLE: &str = "BITNET_LOG";

/// Lines that wait at most.
const LINES: usize = 4096;
/// How long the end of the process waits for lines.
const FLUSH: Duration = Duration::from_secs(1);

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Flushes when it is dropped.
pub struct Log(SyncSender<Line>);

/// One line on its way.
struct Writer(SyncSender<Line>);

/// The level that BITNET_LOG names, else `default`.
///
/// # Errors
/// A level that does not exist.
pub fn level(env: &Env, default: LevelFilter) -> Result<LevelFilter> {
    let Some(text) = env.get(VARIABLE) else { return Ok(default) };
    text.parse().map_err(|_| {
        Error::usage(
            format!("{VARIABLE} is '{text}'"),
            "choose off, error, warn, info, debug or trace, or unset it",
        )
    })
}

/// Logs from here on.
pub fn start(level: LevelFilter) -> Log {
    let (send, lines) = sync_channel(LINES);
    let started = std::thread::Builder::new().name("bitnet-log".into()).spawn(move || write(&lines));
    let own = send.clone();
    if started.is_ok() {
        let make = move || Writer(own.clone());
        // A second subscriber in one process is a test's business.
        let _ = tracing::subscriber::set_global_default(subscriber(level, make));
    }
    Log(send)
}

/// What writes lines to `make`'s writers.
fn subscriber<W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static>(
    level: LevelFilter,
    make: W,
) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        // It would be told on stderr, whose failure it is.
        .log_internal_errors(false)
        .with_writer(make)
        .finish()
}

fn write(lines: &Receiver<Line>) {
    while let Ok(line) = lines.recv() {
        match line {
            // A full disk or a closed pipe loses lines and nothing else.
            Line::Text(text) => drop(std::io::stderr().write_all(&text)),
            Line::Flush(done) => drop(done.send(())),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.try_send(Line::Text(bytes.to_vec()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, flushed) = sync_channel(1);
        if self.0.try_send(Line::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH);
        }
    }
}
