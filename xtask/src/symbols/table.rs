//! The form for people: facts first, then every export and import in the lines that `nm` prints.
//!
//! In: one library. Out: text. Written straight from the mapped names, so that printing a hundred thousand
//! symbols costs little more than copying them. Characters that would steer a terminal are shown as `\xNN`.

use super::AnalyzeArgs;
use super::capabilities;
use super::demangle::{self, Sources};
use super::model::{Library, Symbol, text};
use std::borrow::Cow;
use std::io::{self, Write};

/// Writes everything known about `library`.
pub(crate) fn write(args: &AnalyzeArgs, library: &Library<'_>, out: &mut dyn Write) -> io::Result<()> {
    facts(library, out)?;
    hardening(library, out)?;
    abilities(library, out)?;
    sizes(args, library, out)?;
    let sources = if args.demangle { demangle::library(library) } else { Sources::default() };
    for warning in library.warnings.iter().chain(&sources.warning()) {
        row(out, "warning", warning)?;
    }
    writeln!(out, "exports ({})", library.exports.len())?;
    for (index, symbol) in library.exports.iter().enumerate() {
        if library.bits == 32 {
            write!(out, "{:08x}", symbol.address)?;
        } else {
            out.write_all(&hex16(symbol.address))?;
        }
        out.write_all(&[b' ', symbol.letter, b' '])?;
        name(library, symbol, sources.exports.get(index), out)?;
        out.write_all(b"\n")?;
    }
    writeln!(out, "imports ({})", library.imports.len())?;
    let indent = if library.bits == 32 { 8 } else { 16 };
    for (index, symbol) in library.imports.iter().enumerate() {
        write!(out, "{:indent$} {} ", "", char::from(symbol.letter))?;
        name(library, symbol, sources.imports.get(index), out)?;
        if let Some(from) = library.library(symbol) {
            write!(out, " ({})", printable(from.as_bytes()))?;
        }
        out.write_all(b"\n")?;
    }
    writeln!(out)
}

/// Sixteen hexadecimal digits, as fast as they can be made.
fn hex16(value: u64) -> [u8; 16] {
    std::array::from_fn(|at| b"0123456789abcdef"[(value >> (60 - 4 * at) & 15) as usize])
}

fn name(
    library: &Library<'_>,
    symbol: &Symbol<'_>,
    source: Option<&Option<String>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    match source.and_then(Option::as_deref) {
        Some(source) => out.write_all(printable(source.as_bytes()).as_bytes())?,
        None => out.write_all(printable(&symbol.name).as_bytes())?,
    }
    // A symbol that stands for a version is that version.
    if let Some(version) = library.version(symbol).filter(|version| *version != &*symbol.name) {
        out.write_all(if symbol.default_version { b"@@" } else { b"@" })?;
        out.write_all(printable(version).as_bytes())?;
    }
    Ok(())
}

fn facts(library: &Library<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", printable(library.path.as_bytes()))?;
    let endian = if library.big_endian { "big" } else { "little" };
    row(
        out,
        "format",
        &format!(
            "{}{}, {}, {}-bit {endian}-endian, {} bytes",
            library.format.name(),
            if library.kind == library.format.name() { String::new() } else { format!(" {}", library.kind) },
            library.machine,
            library.bits,
            library.file_size
        ),
    )?;
    for (label, value) in
        [("name", &library.name), ("build id", &library.build_id), ("min glibc", &library.min_glibc)]
    {
        if let Some(value) = value {
            row(out, label, value)?;
        }
    }
    for (label, values) in [
        ("needed", &library.needed),
        ("rpath", &library.rpath),
        ("runpath", &library.runpath),
        ("defines", &library.versions_defined),
    ] {
        if !values.is_empty() {
            row(out, label, &values.join(", "))?;
        }
    }
    for (file, versions) in &library.versions_needed {
        row(out, "requires", &format!("{file}: {}", versions.join(", ")))?;
    }
    match library.members.as_slice() {
        [] => Ok(()),
        members => row(out, "members", &format!("{}: {}", members.len(), members.join(", "))),
    }
}

fn hardening(library: &Library<'_>, out: &mut dyn Write) -> io::Result<()> {
    let hardening = &library.hardening;
    let yes = |flag: Option<bool>| match flag {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not applicable",
    };
    let fortify = match (hardening.fortified.len(), hardening.unfortified.len()) {
        (0, 0) => "no candidates".to_owned(),
        (fortified, rest) => format!("{fortified} of {}", fortified + rest),
    };
    row(
        out,
        "hardening",
        &format!(
            "nx {}, relro {}, pie {}, stack protector {}, fortify {fortify}",
            yes(hardening.nx),
            hardening.relro.unwrap_or("not applicable"),
            yes(hardening.pie),
            yes(hardening.stack_protector),
        ),
    )
}

fn abilities(library: &Library<'_>, out: &mut dyn Write) -> io::Result<()> {
    let found = capabilities::find(library);
    for capability in &found {
        row(out, "can", &format!("{} by {}", capability.name, capability.evidence.join(", ")))?;
    }
    if let Some(generation) = capabilities::llama_generation(&found) {
        row(out, "llama api", generation)?;
    }
    if let Some(variant) = capabilities::cpu_variant(library, &found) {
        row(out, "variant", &variant)?;
    }
    Ok(())
}

fn sizes(args: &AnalyzeArgs, library: &Library<'_>, out: &mut dyn Write) -> io::Result<()> {
    for (section, size) in library.sections.iter().take(args.top) {
        row(out, "section", &format!("{size:>12} {}", text(section)))?;
    }
    for symbol in library.largest_symbols(args.top) {
        row(out, "symbol", &format!("{:>12} {}", symbol.size, text(&symbol.name)))?;
    }
    Ok(())
}

fn row(out: &mut dyn Write, label: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {label:<10} {}", printable(value.as_bytes()))
}

fn printable(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(name) if !name.bytes().any(|byte| byte < b' ' || byte == 0x7f) => Cow::Borrowed(name),
        _ => text(name)
            .chars()
            .map(|c| if c.is_control() { format!("\\x{:02x}", u32::from(c)) } else { c.to_string() })
            .collect::<String>()
            .into(),
    }
}
