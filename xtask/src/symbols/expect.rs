//! `--expect`: the capabilities that a set of libraries must have between them.
//!
//! In: names of capabilities and the libraries read. Out: whether all are met; for each that is not, every
//! missing symbol with the library and build flag that bring it.

use super::capabilities::{self, Capability};
use super::model::Library;
use std::io::{self, Write};

/// True if some library has each of `names`; explains the others on `errors`. Names are valid, as the
/// command line takes no others.
pub(crate) fn check(names: &[String], libraries: &[Library<'_>], errors: &mut dyn Write) -> io::Result<bool> {
    let mut met = true;
    for capability in names.iter().filter_map(|name| capabilities::by_name(name)) {
        if !libraries.iter().any(|library| capabilities::prove(capability, library).is_some()) {
            met = false;
            explain(capability, libraries, errors)?;
        }
    }
    Ok(met)
}

fn explain(capability: &Capability, libraries: &[Library<'_>], errors: &mut dyn Write) -> io::Result<()> {
    let Capability { name, brings, .. } = capability;
    writeln!(errors, "error: expected {name}, which no given library has")?;
    let has = |symbol: &str| libraries.iter().any(|library| library.find_export(symbol).is_some());
    let missing: Vec<_> = capability.all.iter().filter(|symbol| !has(symbol)).collect();
    for symbol in &missing {
        writeln!(errors, "  missing {symbol}: brought by {brings}")?;
    }
    if !missing.is_empty() {
        return Ok(());
    }
    let wants = capability.imports_one_of.join(" or ");
    let refused: Vec<&str> = capability
        .imports_none_of
        .iter()
        .copied()
        .filter(|symbol| libraries.iter().any(|library| library.find_import(symbol).is_some()))
        .collect();
    let machines: Vec<&str> = libraries.iter().map(|library| library.machine.as_str()).collect();
    match () {
        () if !capability.machines.is_empty()
            && !machines.iter().any(|machine| capability.machines.contains(machine)) =>
        {
            let (given, needed) = (machines.join(", "), capability.machines.join(" or "));
            writeln!(
                errors,
                "  the symbols are there, but for {given}, where they mean other kernels; {name} exists for {needed}: {brings}"
            )
        }
        () if !wants.is_empty() => writeln!(errors, "  missing a use of {wants}: brought by {brings}"),
        () if !refused.is_empty() => {
            writeln!(
                errors,
                "  the library uses {}: it was built for other devices; needed is {brings}",
                refused.join(", ")
            )
        }
        () => writeln!(
            errors,
            "  its symbols are spread over several libraries: needed is one that has all, {brings}"
        ),
    }
}
