//! Names of C++ (Itanium ABI) and Rust (legacy and v0) as they are written in source.
//!
//! In: the symbols of a library. Out: for each its source form, or `None` where it is not mangled or resists.
//! Mangled names come from files that nobody vouches for. Limits on input, nesting and output stop deep and
//! exploding names, but the grammar is ambiguous and the parser tries alternatives, so that a name of a
//! hundred bytes can keep it busy for hours. Hence a thread of its own and a deadline: what is not done by
//! then stays mangled, and the thread ends with the process.

use super::model::{Symbol, text};
use cpp_demangle::{DemangleOptions, ParseOptions};
use std::fmt::{self, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest name that is tried.
const MAX_INPUT: usize = 8 << 10;
/// Longest source form that is kept.
const MAX_OUTPUT: usize = 16 << 10;
/// Deepest nesting of types and expressions.
const MAX_DEPTH: u32 = 96;
/// What starting up and the first names may take, and each name more.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(400), Duration::from_micros(20));
/// Enough for `MAX_DEPTH` in a build without optimisation.
const STACK: usize = 16 << 20;

/// Source forms of `symbols`, in their order.
pub(crate) fn all(symbols: &[Symbol<'_>]) -> Vec<Option<String>> {
    let mut sources = vec![None; symbols.len()];
    let mangled: Vec<(usize, String)> = symbols
        .iter()
        .enumerate()
        .filter_map(|(index, symbol)| Some((index, candidate(&symbol.name)?)))
        .collect();
    let deadline = Instant::now() + PATIENCE.0 + PATIENCE.1 * mangled.len() as u32;
    let (done, results) = mpsc::channel();
    let work = move || {
        for (index, name) in mangled {
            let source = demangle(&name);
            if done.send((index, source)).is_err() {
                return;
            }
        }
    };
    // A system that has no thread to spare shows names as they are.
    if std::thread::Builder::new().stack_size(STACK).spawn(work).is_ok() {
        while let Ok((index, source)) =
            results.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            sources[index] = source;
        }
    }
    sources
}

/// `name` without the underscore that Mach-O puts before every name, if it may be mangled.
fn candidate(name: &[u8]) -> Option<String> {
    let name = match name {
        [b'_', rest @ ..] if rest.starts_with(b"_Z") || rest.starts_with(b"_R") => rest,
        name if name.starts_with(b"_Z") || name.starts_with(b"_R") => name,
        _ => return None,
    };
    (name.len() <= MAX_INPUT).then(|| text(name).into_owned())
}

fn demangle(name: &str) -> Option<String> {
    let mut out = Bounded(String::new());
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        write!(out, "{rust:#}").ok()?;
    } else {
        let parse = ParseOptions::default().recursion_limit(MAX_DEPTH);
        let show = DemangleOptions::new().recursion_limit(MAX_DEPTH);
        let symbol = cpp_demangle::Symbol::new_with_options(name, &parse).ok()?;
        symbol.structured_demangle(&mut out, &show).ok()?;
    }
    Some(out.0)
}

struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_OUTPUT {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}
