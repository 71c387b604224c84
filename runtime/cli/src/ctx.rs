//! What every command shares: the environment, the output format, the interrupt flag, and the two streams.
//!
//! Results go to stdout, everything for people to stderr. Deliberately absent: colour, and any write that
//! panics when a pipe is closed.

use super::args::Format;
use bitforge_schema::env::Env;
use bitnet_runtime::{Error, Result};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub struct Ctx {
    pub env: Env,
    pub format: Format,
    /// `BITNET_STRICT_MODE`: what [`Ctx::fall_back`] reports is an error.
    pub strict: bool,
    /// Set by Ctrl-C or a termination signal once [`Ctx::catch_interrupts`] was called.
    pub interrupt: Arc<AtomicBool>,
    printed_json: bool,
}

impl Ctx {
    pub fn new(env: Env, format: Format) -> Self {
        Ctx { env, format, strict: false, interrupt: Arc::default(), printed_json: false }
    }

    /// From here on the first Ctrl-C only sets the flag; a second one ends the process at once.
    pub fn catch_interrupts(&self) {
        let flag = Arc::clone(&self.interrupt);
        if let Err(error) = ctrlc::set_handler(move || super::interrupt::handle(&flag)) {
            self.note(format_args!("warning: Ctrl-C will not end this command cleanly: {error}"));
        }
    }

    /// Writes `text` to stdout and flushes.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io(Path::new(STDOUT), e))
    }

    /// Writes `value` to stdout as one indented JSON object. Called once per command at most.
    pub fn print_json(&mut self, value: &impl Serialize) -> Result<()> {
        let text =
            serde_json::to_string_pretty(value).expect("keys are strings and no Serialize of ours fails");
        self.printed_json = true;
        self.print(&(text + "\n"))
    }

    /// Writes `value` to stdout as one line, the last of a command whose output is JSON lines.
    pub fn print_json_line(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value).expect("keys are strings and no Serialize of ours fails");
        self.printed_json = true;
        self.print(&(text + "\n"))
    }

    /// Whether a failure may still be told as JSON, stdout being empty.
    pub fn wants_json_error(&self) -> bool {
        self.format == Format::Json && !self.printed_json
    }

    /// Writes one line to stderr; a closed stderr is nobody's business.
    pub fn note(&self, line: impl Display) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Warns of what was substituted for something missing or unusable.
    ///
    /// # Errors
    /// The first of them, in strict mode.
    pub fn fall_back(&self, warnings: &[String]) -> Result<()> {
        match warnings.first() {
            Some(warning) if self.strict => Err(Error::Refused { what: warning.clone() }),
            _ => {
                self.warn(warnings);
                Ok(())
            }
        }
    }

    pub fn warn(&self, warnings: &[String]) {
        warnings.iter().for_each(|warning| self.note(format_args!("warning: {warning}")));
    }
}

/// How errors of stdout name it.
pub const STDOUT: &str = "<stdout>";
