//! `release sbom ARCHIVE`: the SBOM in an archive beside what cargo-cyclonedx says of the same commit.
//!
//! In: an archive, a pinned cargo-cyclonedx. Out: what one has and the other has not, each with its reason; a crate without one,
//! another digest and another licence are failures. cargo-cyclonedx writes beside each manifest, so it runs in a clone.
//! Deliberately absent: what is no crate (kernels, fixtures, models, references), which cargo knows nothing of.

use super::archive::{self, Contents};
use super::build::clone;
use super::content::SBOM;
use super::crates::expression;
use super::provenance;
use crate::cargo_tool;
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::linked::{self, Linked};
use crate::proc::{self, Command};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A crate's digest and its licence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    digest: Option<String>,
    licence: Option<String>,
}

type Crates = BTreeMap<String, Entry>;

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Crates that both have, with equal digests and licences.
    pub same: usize,
    /// Those that cargo-cyclonedx alone has and that are not in the binary.
    pub not_in_the_binary: Vec<String>,
    /// What has no reason.
    pub wrong: Vec<String>,
}

pub fn run(ctx: &Ctx, path: &Path) -> Result<Comparison> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::new(ExitCode::NotFound, format!("{}: {error}", path.display())))?;
    let (contents, ..) = archive::unpack(&bytes)?;
    let definition = &json(&contents, provenance::FILE)?["predicate"]["buildDefinition"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let commit = text(&definition["resolvedDependencies"][0]["digest"]["gitCommit"]);
    let platform = text(&definition["externalParameters"]["platform"]);
    let cuda = definition["externalParameters"]["cuda"] == true;
    let tool = cargo_tool::installed(ctx, cargo_tool::CYCLONEDX)?;
    let dir = tempfile::tempdir().context("creating a folder")?;
    let checkout = clone(ctx, &commit, &dir.path().join("checkout"))?;
    let root = checkout.root()?;
    let features: &[&str] = if cuda { &["cuda"] } else { &[] };
    let command = Command::new(tool)
        .args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--no-build-deps"])
        .args(["--target", &platform, "--features", &features.join(",")])
        .args(["--manifest-path", "runtime/cli/Cargo.toml"])
        .dir(root);
    proc::read(&checkout, &command)?;
    let written = root.join("runtime/cli/bitnet-cli.cdx.json");
    let theirs = std::fs::read(&written).with_context(|| format!("reading {}", written.display()))?;
    let theirs: Value =
        serde_json::from_slice(&theirs).with_context(|| format!("reading {}", written.display()))?;
    let linked = linked::crates(&checkout, "bitnet-cli", &platform, features)?;
    let linked = linked.iter().map(Linked::id).collect();
    Ok(compare(&crates(&json(&contents, SBOM)?), &crates(&theirs), &linked))
}

fn json(contents: &Contents, name: &str) -> Result<Value> {
    let Some(file) = contents.get(name) else {
        return fail(ExitCode::Mismatch, format!("it has no {name}"));
    };
    serde_json::from_slice(&file.bytes)
        .map_err(|error| Failure::new(ExitCode::Mismatch, format!("{name}: {error}")).into())
}

/// The crates of a CycloneDX document by `name@version`; the program itself is one of them or stands apart.
fn crates(document: &Value) -> Crates {
    let components = document["components"].as_array().into_iter().flatten();
    let libraries =
        components.filter(|component| component["type"] == "library" && component["scope"] != "excluded");
    let text = |value: &Value| value.as_str().map(str::to_string);
    let entry = |component: &Value| {
        let id = format!("{}@{}", text(&component["name"])?, text(&component["version"])?);
        let digest = text(&component["hashes"][0]["content"]);
        let licence = text(&component["licenses"][0]["expression"]).map(|licence| expression(&licence));
        Some((id, Entry { digest, licence }))
    };
    libraries.filter_map(entry).collect()
}

fn compare(ours: &Crates, theirs: &Crates, linked: &BTreeSet<String>) -> Comparison {
    let mut found = Comparison::default();
    for (id, our) in ours {
        match theirs.get(id) {
            // cargo-cyclonedx describes the program outside its components.
            None if id.starts_with("bitnet-cli@") => {}
            None => found.wrong.push(format!("{id} is in the archive's alone")),
            Some(their) if our.digest != their.digest => found.wrong.push(format!(
                "{id} has the digest {:?} in the archive's, {:?} in cargo-cyclonedx's",
                our.digest, their.digest
            )),
            Some(their) if our.licence != their.licence => found.wrong.push(format!(
                "{id} has the licence {:?} in the archive's, {:?} in cargo-cyclonedx's",
                our.licence, their.licence
            )),
            Some(_) => found.same += 1,
        }
    }
    for id in theirs.keys().filter(|id| !ours.contains_key(*id)) {
        if linked.contains(id) {
            found.wrong.push(format!("{id} is in the binary, by `cargo tree`, and not in the archive's"));
        } else {
            found.not_in_the_binary.push(id.clone());
        }
    }
    found
}

impl Comparison {
    /// For people, line by line.
    pub fn describe(&self) -> String {
        let mut text = format!("{} crates are in both, with equal digests and licences", self.same);
        if !self.not_in_the_binary.is_empty() {
            text += &format!(
                "\ncargo-cyclonedx alone has {}: it reads `cargo metadata`, which unites the features of the whole workspace and its \
                 tests; by `cargo tree` none is in the binary",
                self.not_in_the_binary.join(", ")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_explained_or_wrong() {
        let library = |name: &str, digest: &str, licence: &str| {
            json!({ "type": "library", "name": name, "version": "1.0.0", "hashes": [{ "content": digest }],
                "licenses": [{ "expression": licence }] })
        };
        let excluded = json!({ "type": "library", "name": "reference", "version": "1", "scope": "excluded" });
        let file = json!({ "type": "file", "name": "kernel", "version": "1" });
        let document = |components: Vec<Value>| crates(&json!({ "components": components }));
        let ours = document(vec![
            library("bitnet-cli", "", "MIT"),
            library("same", "1", "MIT OR Zlib"),
            library("digest", "1", "MIT"),
            library("licence", "1", "MIT"),
            library("ours", "1", "MIT"),
            excluded,
            file,
        ]);
        assert_eq!(ours.len(), 5);
        let theirs = document(vec![
            library("same", "1", "MIT/Zlib"),
            library("digest", "2", "MIT"),
            library("licence", "1", "ISC"),
            library("linked", "1", "MIT"),
            library("tests", "1", "MIT"),
        ]);
        let found = compare(&ours, &theirs, &BTreeSet::from(["linked@1.0.0".into()]));
        assert_eq!((found.same, &found.not_in_the_binary[..]), (1, &["tests@1.0.0".to_string()][..]));
        let begins = [
            "digest@1.0.0 has the digest",
            "licence@1.0.0 has the licence",
            "ours@1.0.0 is in the archive's alone",
            "linked@1.0.0 is in the binary",
        ];
        assert_eq!(found.wrong.len(), begins.len());
        for (said, begin) in found.wrong.iter().zip(begins) {
            assert!(said.starts_with(begin), "{said}");
        }
    }
}
