//! Names of C++ (Itanium ABI) and Rust (legacy and v0) as they are written in source.
//!
//! In: a library. Out: for each symbol its source form, or `None` where it is not mangled or resists. Mangled
//! names come from files that nobody vouches for. Limits on input, nesting and output stop deep and exploding
//! names, but the grammar is ambiguous and the parser tries alternatives, so that a name of a hundred bytes
//! can keep it busy for hours. Hence threads of their own and a deadline: what is not done by then stays
//! mangled and is counted, and the threads end with the process.

use super::model::{Library, Symbol, text};
use cpp_demangle::{DemangleOptions, ParseOptions};
use std::fmt::{self, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest name that is tried.
const MAX_INPUT: usize = 8 << 10;
/// Longest source form that is kept.
const MAX_OUTPUT: usize = 16 << 10;
/// Most bytes of source forms that are kept for one library.
const MAX_TOTAL: usize = 40 << 20;
/// Deepest nesting of types and expressions.
const MAX_DEPTH: u32 = 96;
/// What all names of one library may take together.
const PATIENCE: Duration = Duration::from_millis(300);
/// Enough for `MAX_DEPTH` in a build without optimisation.
const STACK: usize = 16 << 20;

/// Source forms of a library's symbols, in their order; empty lists where they were not asked for.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) exports: Vec<Option<String>>,
    pub(crate) imports: Vec<Option<String>>,
    /// How many names were not done in time.
    unfinished: usize,
}

impl Sources {
    /// For people who wonder about names that are still mangled.
    pub(crate) fn warning(&self) -> Option<String> {
        let Sources { unfinished, .. } = self;
        (*unfinished > 0).then(|| {
            format!(
                "{unfinished} names were not demangled within {} ms and {} MiB",
                PATIENCE.as_millis(),
                MAX_TOTAL >> 20
            )
        })
    }
}

/// Source forms of all symbols of `library`.
pub(crate) fn library(library: &Library<'_>) -> Sources {
    let symbols: Vec<&Symbol<'_>> = library.exports.iter().chain(&library.imports).collect();
    let mangled: Vec<(usize, String)> = symbols
        .iter()
        .enumerate()
        .filter_map(|(index, symbol)| Some((index, candidate(&symbol.name)?)))
        .collect();
    let mut exports = vec![None; symbols.len()];
    let mut unfinished = mangled.len();
    let mut room = MAX_TOTAL;
    let deadline = Instant::now() + PATIENCE;
    let results = start(mangled);
    while let Ok((index, source)) = results.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        room = room.saturating_sub(source.as_ref().map_or(0, String::len));
        if room == 0 {
            break;
        }
        exports[index] = source;
        unfinished -= 1;
    }
    let imports = exports.split_off(library.exports.len());
    Sources { exports, imports, unfinished }
}

/// Demangles on as many threads as there are processors; results arrive in any order. A system that has no
/// thread to spare leaves names as they are.
fn start(mangled: Vec<(usize, String)>) -> mpsc::Receiver<(usize, Option<String>)> {
    let (done, results) = mpsc::channel();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = mangled.len().div_ceil(threads).max(1);
    let mut mangled = mangled.into_iter().peekable();
    while mangled.peek().is_some() {
        let (names, done): (Vec<_>, _) = (mangled.by_ref().take(share).collect(), done.clone());
        let work = move || {
            for (index, name) in names {
                if done.send((index, demangle(&name))).is_err() {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().stack_size(STACK).spawn(work);
        if started.is_err() {
            break;
        }
    }
    results
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
