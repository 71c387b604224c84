//! `--format cfg`: lines for a build script, so that code is compiled for what a reference library has.
//!
//! In: the libraries read. Out: one `cargo::rustc-check-cfg` line per known cfg, whether set or not, so that
//! a misspelt one is an error, and one `cargo::rustc-cfg` line per cfg that holds.

use super::capabilities::{self, CAPABILITIES};
use super::model::Library;
use std::io::{self, Write};

/// Writes the lines for what `libraries` have between them.
pub(crate) fn write(libraries: &[Library<'_>], out: &mut dyn Write) -> io::Result<()> {
    let mut found = Vec::new();
    for library in libraries {
        found.extend(capabilities::find(library).into_iter().map(|found| found.name));
    }
    let bitnet = ["i2s", "tl1", "tl2"].iter().any(|name| found.contains(name));
    let llama_api = ["old", "new"].map(|generation| format!("llama-api-{generation}"));
    let mut names: Vec<(String, bool)> = CAPABILITIES
        .iter()
        .filter(|capability| !llama_api.iter().any(|name| name == capability.name))
        .map(|capability| (capability.name.replace('-', "_"), found.contains(&capability.name)))
        .collect();
    names.push(("bitnet".to_owned(), bitnet));
    names.sort();
    for (name, _) in &names {
        writeln!(out, "cargo::rustc-check-cfg=cfg(reference_{name})")?;
    }
    writeln!(out, "cargo::rustc-check-cfg=cfg(reference_llama_api, values(\"new\", \"old\"))")?;
    for (name, _) in names.iter().filter(|(_, holds)| *holds) {
        writeln!(out, "cargo::rustc-cfg=reference_{name}")?;
    }
    for generation in ["new", "old"] {
        if found.iter().any(|name| name.strip_prefix("llama-api-") == Some(generation)) {
            writeln!(out, "cargo::rustc-cfg=reference_llama_api=\"{generation}\"")?;
        }
    }
    Ok(())
}
