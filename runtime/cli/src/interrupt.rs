//! What Ctrl-C and termination signals do: the first one sets a flag, a second one ends the process.
//!
//! While a line is waited for ([`Waiting`]) the first one ends it already, as nothing is computed that could be stopped; but
//! not where the editor has given the terminal back: then it was meant for what the line began.

use super::chat::terminal;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a line is waited for.
static WAITING: AtomicBool = AtomicBool::new(false);
/// Whether a signal came after a line was taken and before waiting ended.
static LATE: AtomicBool = AtomicBool::new(false);

/// What a signal does to `flag`, or to the process.
pub fn handle(flag: &AtomicBool) {
    if !flag.swap(true, Ordering::SeqCst) {
        return;
    }
    if WAITING.load(Ordering::SeqCst) && terminal::is_cooked() {
        LATE.store(true, Ordering::SeqCst);
        if !WAITING.load(Ordering::SeqCst) {
            flag.store(true, Ordering::SeqCst);
        }
        return;
    }
    std::process::exit(bitforge_schema::exit::ExitCode::Interrupted as i32);
}

/// While it lives, the interrupt flag is set, so that the handler takes a signal for the second one and leaves.
pub struct Waiting<'a>(&'a AtomicBool);

impl<'a> Waiting<'a> {
    pub fn start(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        LATE.store(false, Ordering::SeqCst);
        WAITING.store(true, Ordering::SeqCst);
        Waiting(flag)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        WAITING.store(false, Ordering::SeqCst);
        self.0.store(LATE.swap(false, Ordering::SeqCst), Ordering::SeqCst);
    }
}
