//! `release verify FILE`: whether an archive or a wheel is whole and says the truth about itself.
//!
//! In: the file, and nothing else; a signature beside it where a key is given. Out: what was checked. No network, no checkout.
//! The bytes of an archive are a function of its files, so each byte is checked by packing once more. Deliberately absent:
//! trust. Without a key, this shows that nothing was changed by accident or by half; who made it, a signature shows.

use super::archive::{self, Contents, SUMS, digest, sums};
use super::content::{BINARY, LICENCES, SBOM, SBOM_IN_WHEEL, record, version};
use super::provenance::{self, byproducts, subjects};
use crate::exit::{Failure, fail};
use crate::symbols::place;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde_json::Value;
use std::path::Path;

/// Checks the file at `path`; returns a line for each thing that holds.
///
/// # Errors
/// [`ExitCode::NotFound`] without the file, [`ExitCode::Mismatch`] for the first thing that does not hold.
pub fn file(path: &Path) -> Result<Vec<String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(ExitCode::NotFound, format!("{}: {error}", path.display())))?;
    let checked = match name.strip_suffix(".tar.zst") {
        Some(stem) => tar(&bytes, stem),
        None if name.ends_with(".whl") => wheel(&bytes, &name),
        None => {
            fail(ExitCode::Usage, "neither a .tar.zst nor a .whl: give an archive or a wheel of a release")
        }
    };
    checked.with_context(|| path.display().to_string())
}

/// `Ok` where `holds`; otherwise a mismatch.
fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { fail(ExitCode::Mismatch, otherwise()) }
}

fn json(contents: &Contents, name: &str) -> Result<Value> {
    serde_json::from_slice(get(contents, name)?)
        .map_err(|error| Failure::new(ExitCode::Mismatch, format!("{name}: {error}")).into())
}

fn get<'a>(contents: &'a Contents, name: &str) -> Result<&'a [u8]> {
    let file = contents.get(name);
    Ok(&file.ok_or_else(|| Failure::new(ExitCode::Mismatch, format!("it has no {name}")))?.bytes)
}

fn tar(bytes: &[u8], stem: &str) -> Result<Vec<String>> {
    let (contents, folder, mtime) = archive::unpack(bytes)?;
    check(folder == stem, || format!("it unpacks into {folder}, and its name says {stem}"))?;
    let listed = get(&contents, SUMS)?;
    check(listed == sums(&contents).as_bytes(), || wrong_sums(&String::from_utf8_lossy(listed), &contents))?;
    let odd = contents.iter().find(|(name, file)| file.executable != (*name == BINARY));
    check(odd.is_none(), || {
        format!("{} may be run, or may not, against the rule", odd.map_or("", |(name, _)| name))
    })?;
    let statement = json(&contents, provenance::FILE)?;
    let predicate = &statement["predicate"];
    let definition = &predicate["buildDefinition"];
    check(statement["subject"].as_array() == Some(&subjects(&contents)), || {
        "the provenance is of other files".into()
    })?;
    check(predicate["runDetails"]["byproducts"].as_array() == Some(&byproducts(&contents)), || {
        "the provenance is of other receipts".into()
    })?;
    check(definition["internalParameters"]["sourceDateEpoch"] == mtime, || {
        "the provenance is of another time".into()
    })?;
    let external = &definition["externalParameters"];
    check(external["name"] == folder.as_str(), || format!("the provenance is of {}", external["name"]))?;
    let binary = get(&contents, BINARY)?;
    let baseline = platform(binary, external)?;
    let crates = bill(&contents, binary)?;
    let commit = definition["resolvedDependencies"][0]["digest"]["gitCommit"].as_str().unwrap_or_default();
    let kind = if external["snapshot"] == true { "snapshot" } else { "release" };
    Ok(vec![
        format!("every byte is that of its {} files, and their digests are those of {SUMS}", contents.len()),
        format!(
            "{kind} {} of commit {commit}, by its provenance",
            external["version"].as_str().unwrap_or_default()
        ),
        format!("the binary is for {baseline}"),
        format!("{} receipts, bound by sha256{}", byproducts(&contents).len(), measured(&contents, binary)),
        format!("{crates} crates in the SBOM, each with its licence"),
    ])
}

/// Which file differs from the list, or is missing in it or too many.
fn wrong_sums(listed: &str, contents: &Contents) -> String {
    let right = sums(contents);
    let wrong = listed.lines().find(|line| !right.lines().any(|other| other == *line));
    let missing = right.lines().find(|line| !listed.lines().any(|other| other == *line));
    match wrong.or(missing) {
        Some(line) => format!("{SUMS} and the files differ at: {line}"),
        None => format!("{SUMS} is not in order"),
    }
}

/// The platform of the binary, where it is the stated one.
fn platform(binary: &[u8], external: &Value) -> Result<String> {
    let summary = place::summary(BINARY, binary)
        .map_err(|error| Failure::new(ExitCode::Mismatch, format!("{BINARY}: {error}")))?;
    let stated = external["platform"].as_str().unwrap_or_default();
    let machine = stated.split('-').next().unwrap_or_default();
    check(summary.machine.replace('-', "_") == machine, || {
        format!("{BINARY} is for {}, not {machine}", summary.machine)
    })?;
    let needed = summary.min_glibc.clone().unwrap_or_default();
    if let Some(glibc) = external["glibc"].as_str() {
        check(version(&needed) <= version(glibc), || {
            format!("{BINARY} needs {needed}, and glibc {glibc} was promised")
        })?;
    }
    Ok(format!("{stated} with {needed} or later"))
}

/// The number of crates in the SBOM, where it is of this binary and every crate has a line about its licence.
fn bill(contents: &Contents, binary: &[u8]) -> Result<usize> {
    let sbom = json(contents, SBOM)?;
    let of = &sbom["metadata"]["component"]["hashes"][0]["content"];
    check(*of == digest(binary).as_str(), || "the SBOM is of another binary".into())?;
    let licences = String::from_utf8_lossy(get(contents, LICENCES)?);
    let components = sbom["components"].as_array().map(Vec::as_slice).unwrap_or_default();
    let id = |component: &&Value| component["scope"] == "required" && component["type"] == "library";
    let crates: Vec<&str> =
        components.iter().filter(id).filter_map(|krate| krate["bom-ref"].as_str()).collect();
    check(!crates.is_empty(), || "the SBOM has no crate".into())?;
    let lines: std::collections::BTreeSet<&str> =
        licences.lines().filter_map(|line| line.split(':').next()).collect();
    let without = crates.iter().find(|id| !lines.contains(**id));
    check(without.is_none(), || format!("no licence of {}", without.unwrap_or(&"")))?;
    Ok(crates.len())
}

/// How many receipts are of this very binary.
fn measured(contents: &Contents, binary: &[u8]) -> String {
    let own = digest(binary);
    let receipts = byproducts(contents);
    let same = receipts.iter().filter(|receipt| receipt["annotations"]["binary"] == own.as_str()).count();
    format!(", {same} of them measured with this very binary")
}

fn wheel(bytes: &[u8], name: &str) -> Result<Vec<String>> {
    let contents = archive::unpack_zip(bytes)?;
    let stem: String = name.split('-').take(2).collect::<Vec<_>>().join("-");
    let info = format!("{stem}.dist-info");
    let listed = get(&contents, &format!("{info}/RECORD"))?;
    check(listed == record(&contents, &info).as_bytes(), || "RECORD and the files differ".into())?;
    let binary = get(&contents, &format!("{stem}.data/scripts/bitnet"))?;
    let odd = contents.iter().find(|(name, file)| file.executable != name.ends_with(".data/scripts/bitnet"));
    check(odd.is_none(), || {
        format!("{} may be run, or may not, against the rule", odd.map_or("", |(name, _)| name))
    })?;
    let sbom = json(&contents, &format!("{info}/{SBOM_IN_WHEEL}"))?;
    let of = &sbom["metadata"]["component"]["hashes"][0]["content"];
    check(*of == digest(binary).as_str(), || "the SBOM is of another binary".into())?;
    Ok(vec![format!("every byte is that of its {} files, and RECORD has their digests", contents.len())])
}
