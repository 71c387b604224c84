//! Names of C++ (Itanium ABI) and Rust (legacy and v0) as they are written in source.
//!
//! In: a symbol's name. Out: its source form, or `None` where it is not mangled or not worth the risk. Mangled
//! names come from files that nobody vouches for: a short name may nest deeply, expand exponentially through
//! substitutions, or make a parser backtrack. Hence limits on input, nesting and output; what exceeds them
//! stays mangled.

use super::model::text;
use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};
use std::fmt::{self, Write};

/// Longest name that is tried.
const MAX_INPUT: usize = 8 << 10;
/// Longest source form that is kept.
const MAX_OUTPUT: usize = 16 << 10;
/// Deepest nesting of types and expressions.
const MAX_DEPTH: u32 = 96;
/// Most encodings inside one name (`L_Z`...`E`, `Z`...`E`): the parser tries each of them twice.
const MAX_INNER: usize = 6;

/// Demangles the names of one report. Every name brings credit for output in proportion to its length, far
/// more than honest names use, so that a file full of exploding names stays cheap as well.
pub(crate) struct Demangler {
    credit: usize,
}

impl Default for Demangler {
    fn default() -> Self {
        Demangler { credit: 1 << 20 }
    }
}

impl Demangler {
    /// The source form of `name`.
    pub(crate) fn demangle(&mut self, name: &[u8]) -> Option<String> {
        let name = text(name);
        // Mach-O puts an underscore before every name.
        let name = if name.starts_with("__Z") || name.starts_with("__R") { &name[1..] } else { &*name };
        if name.len() > MAX_INPUT {
            return None;
        }
        self.credit = self.credit.saturating_add(16 * name.len());
        let mut out = Bounded { text: String::new(), limit: MAX_OUTPUT.min(self.credit) };
        let done = write_source(name, &mut out);
        // Work that came to nothing counts as well.
        self.credit = self.credit.saturating_sub(out.text.len().max(name.len()));
        done.map(|()| out.text)
    }
}

fn write_source(name: &str, out: &mut Bounded) -> Option<()> {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return write!(out, "{rust:#}").ok();
    }
    if !name.starts_with("_Z") || inner_encodings(name) > MAX_INNER {
        return None;
    }
    let parse = ParseOptions::default().recursion_limit(MAX_DEPTH);
    let show = DemangleOptions::new().recursion_limit(MAX_DEPTH);
    Symbol::new_with_options(name, &parse).ok()?.structured_demangle(out, &show).ok()
}

fn inner_encodings(name: &str) -> usize {
    name.matches("L_Z").count().max(name[2..].matches('Z').count())
}

struct Bounded {
    text: String,
    limit: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.limit {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
