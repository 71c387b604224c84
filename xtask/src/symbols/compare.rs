//! Two libraries side by side: `--diff` (what changed) and `--needs` (what one provides to the other).
//!
//! In: libraries with sorted symbols. Out: a table or one JSON object (`diff` and `needs` in the schema).
//! Parts of a fat file are compared with the part for the same machine. An import that asks for a version is
//! met by an export of that version, or by one without any, as the dynamic linker does.

use super::model::{Library, Symbol, text};
use super::{AnalyzeArgs, OutputFormat, capabilities};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// What came, went and changed under one heading; entries are names with versions.
#[derive(Debug, Default, Serialize)]
struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<Change>,
}

#[derive(Debug, Serialize)]
struct Change {
    name: String,
    from: String,
    to: String,
}

#[derive(Debug, Serialize)]
struct Diff<'a> {
    from: &'a str,
    to: &'a str,
    machine: &'a str,
    facts: Vec<Change>,
    needed: Changes,
    capabilities: Changes,
    exports: Changes,
    imports: Changes,
}

/// Writes what is different in `others` against `libraries`, machine by machine. `Ok(false)` where no machine
/// is common to both.
pub(crate) fn diff(
    args: &AnalyzeArgs,
    libraries: &[Library<'_>],
    others: &[Library<'_>],
    out: &mut dyn Write,
) -> anyhow::Result<bool> {
    let pair = |from| Some(compare(from, others.iter().find(|to| to.machine == from.machine)?));
    let reports: Vec<Diff<'_>> = libraries.iter().filter_map(pair).collect();
    if args.output() == OutputFormat::Json {
        serde_json::to_writer(&mut *out, &reports)?;
        out.write_all(b"\n")?;
        return Ok(!reports.is_empty());
    }
    for report in &reports {
        writeln!(out, "{} -> {} ({})", report.from, report.to, report.machine)?;
        for Change { name, from, to } in &report.facts {
            writeln!(out, "~ {name}: {from} -> {to}")?;
        }
        for (heading, changes) in [
            ("needed", &report.needed),
            ("capabilities", &report.capabilities),
            ("exports", &report.exports),
            ("imports", &report.imports),
        ] {
            let Changes { added, removed, changed } = changes;
            writeln!(
                out,
                "{heading}: {} added, {} removed, {} changed",
                added.len(),
                removed.len(),
                changed.len()
            )?;
            added.iter().try_for_each(|name| writeln!(out, "+ {name}"))?;
            removed.iter().try_for_each(|name| writeln!(out, "- {name}"))?;
            changed
                .iter()
                .try_for_each(|Change { name, from, to }| writeln!(out, "~ {name}: {from} -> {to}"))?;
        }
    }
    Ok(!reports.is_empty())
}

fn compare<'a>(from: &'a Library<'_>, to: &'a Library<'_>) -> Diff<'a> {
    let abilities =
        |library| capabilities::find(library).into_iter().map(|found| found.name.to_owned()).collect();
    Diff {
        from: &from.path,
        to: &to.path,
        machine: &from.machine,
        facts: facts(from)
            .into_iter()
            .zip(facts(to))
            .filter(|(from, to)| from.1 != to.1)
            .map(|(from, to)| Change { name: from.0.to_owned(), from: from.1, to: to.1 })
            .collect(),
        needed: sets(from.needed.iter().cloned().collect(), to.needed.iter().cloned().collect()),
        capabilities: sets(abilities(from), abilities(to)),
        exports: symbols(from, &from.exports, to, &to.exports),
        imports: symbols(from, &from.imports, to, &to.imports),
    }
}

fn facts(library: &Library<'_>) -> Vec<(&'static str, String)> {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    let flag = |value: Option<bool>| value.map_or("not applicable".to_owned(), |value| value.to_string());
    let hardening = &library.hardening;
    vec![
        ("format", library.format.name().to_owned()),
        ("kind", library.kind.to_owned()),
        ("name", or_none(&library.name)),
        ("build id", or_none(&library.build_id)),
        ("min glibc", or_none(&library.min_glibc)),
        ("rpath", library.rpath.join(":")),
        ("runpath", library.runpath.join(":")),
        ("versions defined", library.versions_defined.join(", ")),
        ("nx", flag(hardening.nx)),
        ("relro", hardening.relro.unwrap_or("not applicable").to_owned()),
        ("pie", flag(hardening.pie)),
        ("stack protector", flag(hardening.stack_protector)),
        ("fortified functions", hardening.fortified.len().to_string()),
        ("file size", library.file_size.to_string()),
    ]
}

fn sets(from: BTreeSet<String>, to: BTreeSet<String>) -> Changes {
    Changes {
        added: to.difference(&from).cloned().collect(),
        removed: from.difference(&to).cloned().collect(),
        changed: Vec::new(),
    }
}

/// By name: a symbol that keeps its name but not its versions, its class or its size as data has changed.
fn symbols(from: &Library<'_>, old: &[Symbol<'_>], to: &Library<'_>, new: &[Symbol<'_>]) -> Changes {
    let (old, new) = (by_name(from, old), by_name(to, new));
    let mut changes = Changes::default();
    for (name, now) in &new {
        match old.get(name) {
            None => changes.added.push(text(name).into_owned()),
            Some(before) if before != now => changes.changed.push(Change {
                name: text(name).into_owned(),
                from: before.join(" "),
                to: now.join(" "),
            }),
            Some(_) => {}
        }
    }
    changes.removed =
        old.keys().filter(|name| !new.contains_key(*name)).map(|name| text(name).into_owned()).collect();
    changes
}

fn by_name<'s>(library: &Library<'_>, symbols: &'s [Symbol<'_>]) -> BTreeMap<&'s [u8], Vec<String>> {
    let mut names = BTreeMap::<_, Vec<String>>::new();
    for symbol in symbols {
        let mut form = char::from(symbol.letter).to_string();
        if matches!(symbol.letter, b'D' | b'B' | b'R' | b'V' | b'G' | b'S') && library.sizes == "recorded" {
            form += &format!("[{}]", symbol.size);
        }
        if let Some(version) = library.version(symbol) {
            form += if symbol.default_version { "@@" } else { "@" };
            form += &text(version);
        }
        names.entry(&*symbol.name).or_default().push(form);
    }
    names.values_mut().for_each(|forms| forms.sort());
    names
}

#[derive(Debug, Serialize)]
struct Needs<'a> {
    library: &'a str,
    others: Vec<&'a str>,
    machine: &'a str,
    provided: Vec<Provided<'a>>,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
struct Provided<'a> {
    name: String,
    version: Option<String>,
    by: &'a str,
}

#[derive(Debug, Serialize)]
struct Missing {
    name: String,
    version: Option<String>,
    weak: bool,
}

/// Writes which undefined symbols of each of `libraries` the `others` provide, and which stay undefined.
pub(crate) fn needs(
    args: &AnalyzeArgs,
    libraries: &[Library<'_>],
    others: &[Library<'_>],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let reports: Vec<Needs<'_>> = libraries.iter().map(|library| resolve(library, others)).collect();
    if args.output() == OutputFormat::Json {
        serde_json::to_writer(&mut *out, &reports)?;
        return Ok(out.write_all(b"\n")?);
    }
    let versioned = |name: &str, version: &Option<String>| match version {
        Some(version) => format!("{name}@{version}"),
        None => name.to_owned(),
    };
    for report in &reports {
        writeln!(out, "{} ({})", report.library, report.machine)?;
        writeln!(out, "provided by {} ({})", report.others.join(", "), report.provided.len())?;
        for Provided { name, version, by } in &report.provided {
            writeln!(out, "  {} ({by})", versioned(name, version))?;
        }
        writeln!(out, "still undefined ({})", report.missing.len())?;
        for Missing { name, version, weak } in &report.missing {
            writeln!(out, "  {}{}", versioned(name, version), if *weak { " (weak)" } else { "" })?;
        }
    }
    Ok(())
}

fn resolve<'a>(library: &'a Library<'_>, others: &'a [Library<'_>]) -> Needs<'a> {
    let others: Vec<&Library<'_>> = others.iter().filter(|other| other.machine == library.machine).collect();
    let mut needs = Needs {
        library: &library.path,
        others: others.iter().map(|other| other.path.as_str()).collect(),
        machine: &library.machine,
        provided: Vec::new(),
        missing: Vec::new(),
    };
    for import in &library.imports {
        let name = text(&import.name).into_owned();
        let version = library.version(import).map(|version| text(version).into_owned());
        match others.iter().find(|other| provides(other, library, import)) {
            Some(other) => needs.provided.push(Provided { name, version, by: &other.path }),
            None => needs.missing.push(Missing { name, version, weak: import.letter != b'U' }),
        }
    }
    needs
}

fn provides(other: &Library<'_>, library: &Library<'_>, import: &Symbol<'_>) -> bool {
    let first = other.exports.partition_point(|export| export.name < import.name);
    let wanted = library.version(import);
    other.exports[first..].iter().take_while(|export| export.name == import.name).any(|export| {
        let has = other.version(export);
        wanted.is_none() || has.is_none() || has == wanted
    })
}
