//! The JSON form: an array of libraries, as fixtures/schemas/analyze-library.schema.json says.
//!
//! In: libraries. Out: one line of JSON, written as it is made: names go from the mapped file to the output
//! without a tree in between.

use super::AnalyzeArgs;
use super::capabilities::{self, LLAMA_PAIRS};
use super::demangle::{self, Sources};
use super::model::{Library, Symbol, text};
use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};
use std::collections::BTreeMap;
use std::io::Write;

/// Writes `libraries` as one array.
pub(crate) fn write(
    args: &AnalyzeArgs,
    libraries: &[Library<'_>],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let report: Vec<Report<'_>> = libraries.iter().map(|library| Report::new(args, library)).collect();
    serde_json::to_writer(&mut *out, &report)?;
    Ok(out.write_all(b"\n")?)
}

#[derive(Serialize)]
struct Report<'a> {
    path: &'a str,
    format: &'static str,
    kind: &'static str,
    machine: &'a str,
    bits: u8,
    endian: &'static str,
    file_size: u64,
    name: Option<&'a str>,
    build_id: Option<&'a str>,
    needed: &'a [String],
    rpath: &'a [String],
    runpath: &'a [String],
    versions: Versions<'a>,
    min_glibc: Option<&'a str>,
    hardening: Hardening<'a>,
    capabilities: Vec<Capability>,
    llama_api: LlamaApi,
    cpu_variant: Option<String>,
    sizes: Sizes,
    exports: Symbols<'a>,
    imports: Symbols<'a>,
    members: &'a [String],
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Versions<'a> {
    defined: &'a [String],
    needed: &'a BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
struct Hardening<'a> {
    nx: Option<bool>,
    relro: Option<&'static str>,
    pie: Option<bool>,
    stack_protector: Option<bool>,
    fortified: &'a [String],
    unfortified: &'a [String],
}

#[derive(Serialize)]
struct Capability {
    name: &'static str,
    evidence: Vec<String>,
}

#[derive(Serialize)]
struct LlamaApi {
    generation: Option<&'static str>,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
struct Pair {
    old: &'static str,
    new: &'static str,
    has: &'static str,
}

#[derive(Serialize)]
struct Sizes {
    source: &'static str,
    symbols: Vec<NamedSize>,
    sections: Vec<NamedSize>,
}

#[derive(Serialize)]
struct NamedSize {
    name: String,
    size: u64,
}

impl<'a> Report<'a> {
    fn new(args: &AnalyzeArgs, library: &'a Library<'a>) -> Self {
        let found = capabilities::find(library);
        let hardening = &library.hardening;
        let sources = if args.demangle { demangle::library(library) } else { Sources::default() };
        Report {
            path: &library.path,
            format: library.format.name(),
            kind: library.kind,
            machine: &library.machine,
            bits: library.bits,
            endian: if library.big_endian { "big" } else { "little" },
            file_size: library.file_size,
            name: library.name.as_deref(),
            build_id: library.build_id.as_deref(),
            needed: &library.needed,
            rpath: &library.rpath,
            runpath: &library.runpath,
            versions: Versions { defined: &library.versions_defined, needed: &library.versions_needed },
            min_glibc: library.min_glibc.as_deref(),
            hardening: Hardening {
                nx: hardening.nx,
                relro: hardening.relro,
                pie: hardening.pie,
                stack_protector: hardening.stack_protector,
                fortified: &hardening.fortified,
                unfortified: &hardening.unfortified,
            },
            llama_api: LlamaApi {
                generation: capabilities::llama_generation(&found),
                pairs: LLAMA_PAIRS
                    .iter()
                    .map(|&(old, new)| Pair { old, new, has: capabilities::pair(library, (old, new)) })
                    .collect(),
            },
            cpu_variant: capabilities::cpu_variant(library, &found),
            capabilities: found
                .into_iter()
                .map(|found| Capability { name: found.name, evidence: found.evidence })
                .collect(),
            sizes: Sizes {
                source: library.sizes,
                symbols: library
                    .largest_symbols(args.top)
                    .map(|symbol| NamedSize { name: text(&symbol.name).into_owned(), size: symbol.size })
                    .collect(),
                sections: library
                    .sections
                    .iter()
                    .take(args.top)
                    .map(|(name, size)| NamedSize { name: text(name).into_owned(), size: *size })
                    .collect(),
            },
            warnings: library.warnings.iter().cloned().chain(sources.warning()).collect(),
            exports: Symbols { library, list: &library.exports, sources: sources.exports, imports: false },
            imports: Symbols { library, list: &library.imports, sources: sources.imports, imports: true },
            members: &library.members,
        }
    }
}

/// Exports or imports, with their source forms where these are asked for.
struct Symbols<'a> {
    library: &'a Library<'a>,
    list: &'a [Symbol<'a>],
    sources: Vec<Option<String>>,
    imports: bool,
}

impl Serialize for Symbols<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.list.len()))?;
        for (index, symbol) in self.list.iter().enumerate() {
            let source = self.sources.get(index).and_then(Option::as_deref);
            list.serialize_element(&Entry { library: self.library, symbol, source, import: self.imports })?;
        }
        list.end()
    }
}

struct Entry<'a> {
    library: &'a Library<'a>,
    symbol: &'a Symbol<'a>,
    source: Option<&'a str>,
    import: bool,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Entry { library, symbol, source, import } = *self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &*text(&symbol.name))?;
        map.serialize_entry("version", &library.version(symbol).map(text))?;
        if import {
            map.serialize_entry("library", &library.library(symbol))?;
            map.serialize_entry("weak", &(symbol.letter != b'U'))?;
        } else {
            map.serialize_entry("default", &(symbol.default_version && library.version(symbol).is_some()))?;
            map.serialize_entry("class", &char::from(symbol.letter))?;
            map.serialize_entry("address", &symbol.address)?;
            map.serialize_entry("size", &symbol.size)?;
        }
        if let Some(source) = source {
            map.serialize_entry("demangled", source)?;
        }
        map.end()
    }
}
