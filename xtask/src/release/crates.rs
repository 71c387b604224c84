//! The crates in a binary, and their licences' texts.
//!
//! In: `cargo tree` for one platform and its features, `cargo metadata`, the crates' sources. Out: [`Krate`]s and one text with every
//! licence, equal texts once. Build scripts' own dependencies are left out: nothing of them is in the binary.

use super::archive::digest;
use super::plan::Artifact;
use crate::ctx::Ctx;
use crate::exit::Failure;
use crate::linked::{self, Linked};
use crate::proc;
use anyhow::{Context, Result, ensure};
use bitforge_schema::exit::ExitCode;
use cargo_metadata::{DependencyKind, Metadata, PackageId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One crate of the binary.
#[derive(Clone, Debug)]
pub struct Krate {
    pub name: String,
    pub version: String,
    /// An SPDX expression.
    pub licence: String,
    /// Of the registry's archive, by Cargo.lock; `None` for the workspace's own.
    pub checksum: Option<String>,
    pub folder: PathBuf,
    /// `name@version` of what it uses.
    pub uses: BTreeSet<String>,
}

impl Krate {
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// Everything that `bitnet` is compiled from, sorted.
pub fn crates(ctx: &Ctx, artifact: &Artifact) -> Result<Vec<Krate>> {
    let features: Vec<String> =
        artifact.features().iter().map(|feature| format!("bitnet-cli/{feature}")).collect();
    let mut command = ctx
        .cargo(["metadata", "--format-version", "1", "--locked", "--filter-platform"])?
        .args([&artifact.platform]);
    if !features.is_empty() {
        command = command.args(["--features".to_string(), features.join(",")]);
    }
    let metadata: Metadata =
        serde_json::from_str(&proc::read(ctx, &command)?).context("reading cargo metadata")?;
    let lock = ctx.root()?.join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    // After `cargo metadata`, which fetches what is missing.
    let linked = linked::crates(ctx, "bitnet-cli", &artifact.platform, artifact.features())?;
    select(&metadata, &linked.iter().map(Linked::id).collect(), &checksums(&lock)?)
}

/// What of `metadata` is among the `linked` and reached from bitnet-cli.
fn select(
    metadata: &Metadata,
    linked: &BTreeSet<String>,
    checksums: &BTreeMap<String, String>,
) -> Result<Vec<Krate>> {
    let nodes = &metadata.resolve.as_ref().context("cargo metadata resolved nothing")?.nodes;
    let nodes: BTreeMap<&PackageId, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id: &PackageId| format!("{}@{}", metadata[id].name, metadata[id].version);
    let root = metadata.packages.iter().find(|package| package.name.as_str() == "bitnet-cli");
    let mut waiting = vec![&root.context("the workspace has no bitnet-cli")?.id];
    let mut seen: BTreeMap<&PackageId, Vec<&PackageId>> = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        if seen.contains_key(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo metadata has no node {id}"))?;
        let used = |dep: &&cargo_metadata::NodeDep| {
            dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
                && linked.contains(&name(&dep.pkg))
        };
        let uses: Vec<&PackageId> = node.deps.iter().filter(used).map(|dep| &dep.pkg).collect();
        waiting.extend(&uses);
        seen.insert(id, uses);
    }
    let mut crates: Vec<Krate> = seen
        .iter()
        .map(|(package, uses)| {
            let package = &metadata[*package];
            Krate {
                name: package.name.to_string(),
                version: package.version.to_string(),
                licence: package.license.as_deref().map_or_else(|| "not stated".into(), expression),
                checksum: checksums.get(&name(&package.id)).cloned(),
                folder: package
                    .manifest_path
                    .parent()
                    .map(|dir| dir.as_std_path().into())
                    .unwrap_or_default(),
                uses: uses.iter().map(|used| name(used)).collect(),
            }
        })
        .collect();
    crates.sort_by_key(Krate::id);
    let found: BTreeSet<String> = crates.iter().map(Krate::id).collect();
    ensure!(
        found == *linked,
        "cargo tree and cargo metadata disagree about {:?}",
        found.symmetric_difference(linked)
    );
    Ok(crates)
}

/// A manifest's licence as an SPDX expression: older ones have a slash.
pub fn expression(licence: &str) -> String {
    licence.replace('/', " OR ").replace("  ", " ")
}

/// `name@version` to checksum.
fn checksums(lock: &str) -> Result<BTreeMap<String, String>> {
    let lock: toml::Value = toml::from_str(lock)
        .map_err(|error| Failure::new(ExitCode::BadInput, format!("Cargo.lock: {error}")))?;
    let packages =
        lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, name: &str| Some(package.get(name)?.as_str()?.to_string());
    let row = |package: &toml::Value| {
        let id = format!("{}@{}", text(package, "name")?, text(package, "version")?);
        Some((id, text(package, "checksum")?))
    };
    Ok(packages.iter().filter_map(row).collect())
}

/// Every crate with its expression and the numbers of its texts, and then the texts.
pub fn licences(root: &Path, crates: &[Krate]) -> Result<String> {
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut rows = String::new();
    for krate in crates {
        // The workspace's own crates share the texts at its root.
        let folder = if krate.checksum.is_none() { root } else { &krate.folder };
        let mut numbers = BTreeSet::new();
        for (_, text) in texts_in(folder)? {
            let text: String = text.lines().map(|line| format!("{}\n", line.trim_end())).collect();
            let key = digest(text.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes());
            let at = texts.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                texts.push((key, text));
                texts.len() - 1
            });
            numbers.insert(at + 1);
        }
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        let found = if numbers.is_empty() {
            "its sources hold no text".to_string()
        } else {
            format!("texts {}", numbers.join(", "))
        };
        rows += &format!("{}: {} ({found})\n", krate.id(), krate.licence);
    }
    let head = "The crates that bitnet is made of, their licences, and every text that their sources hold, once.\n\n";
    let texts = texts.iter().enumerate();
    let texts: String =
        texts.map(|(n, (_, text))| format!("\n======== {} ========\n{text}", n + 1)).collect();
    Ok(format!("{head}{rows}{texts}"))
}

/// The licence files of a crate by name; those below `LICENSES` too.
fn texts_in(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for dir in [folder.to_path_buf(), folder.join("LICENSES")] {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            let begins = ["license", "licence", "copying", "notice", "unlicense", "copyright"];
            let wanted = dir != folder || begins.iter().any(|begin| name.starts_with(begin));
            if wanted && path.is_file() {
                let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                texts.insert(path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_there_once_and_a_missing_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let krate = |name: &str, text: Option<&str>| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            if let Some(text) = text {
                std::fs::write(folder.join("LICENSE"), text).unwrap();
            }
            Krate {
                name: name.into(),
                version: "1.0.0".into(),
                licence: "MIT".into(),
                checksum: Some("0".into()),
                folder,
                uses: BTreeSet::new(),
            }
        };
        let crates = [krate("a", Some("be nice\n")), krate("b", Some("be  nice")), krate("c", None)];
        let text = licences(dir.path(), &crates).unwrap();
        assert!(text.contains(
            "a@1.0.0: MIT (texts 1)\nb@1.0.0: MIT (texts 1)\nc@1.0.0: MIT (its sources hold no text)\n"
        ));
        assert_eq!(text.matches("be nice").count(), 1, "{text}");
        assert!(!text.contains(&dir.path().display().to_string()));
    }

    #[test]
    fn checksums_come_from_the_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ff\"\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        assert_eq!(checksums(lock).unwrap(), BTreeMap::from([("a@1.0.0".into(), "ff".into())]));
        assert!(checksums("x").is_err());
    }
}
