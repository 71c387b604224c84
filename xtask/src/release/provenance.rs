//! Where the bytes come from: an in-toto statement (v1) with the SLSA provenance predicate (v1).
//!
//! In: the plan, the recipe, the files of the archive, receipts. Out: JSON. Receipts are in the archive and bound by sha256, each
//! with its kind and the digest of the binary that it was measured with, so that a reader sees whether that was this one.
//! Times of the build are left out: two builds must give the same bytes.

use super::archive::{Contents, SUMS, digest};
use super::build::Recipe;
use super::plan::{Artifact, Plan};
use crate::ctx::Ctx;
use crate::receipts::store;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The file in the archive.
pub const FILE: &str = "provenance.json";
/// The folder of receipts in the archive.
pub const RECEIPTS: &str = "receipts/";

/// Receipts by their name in the archive: committed ones, and what the last `up` left.
pub fn receipts(ctx: &Ctx) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for (folder, from) in [(ctx.root()?.join("docs/receipts"), "committed"), (store::folder(ctx)?, "last-up")]
    {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
                found.insert(format!("{RECEIPTS}{from}/{name}"), bytes);
            }
        }
    }
    Ok(found)
}

/// Files with digests, as in-toto has them; neither the statement nor the list of digests.
pub fn subjects(contents: &Contents) -> Vec<Value> {
    let rest =
        contents.iter().filter(|(name, _)| *name != FILE && *name != SUMS && !name.starts_with(RECEIPTS));
    rest.map(|(name, file)| descriptor(name, &file.bytes)).collect()
}

/// The receipts of `contents`, with what they say of themselves.
pub fn byproducts(contents: &Contents) -> Vec<Value> {
    let receipts = contents.iter().filter(|(name, _)| name.starts_with(RECEIPTS));
    receipts
        .map(|(name, file)| {
            let mut value = descriptor(name, &file.bytes);
            let receipt: Value = serde_json::from_slice(&file.bytes).unwrap_or_default();
            let body = receipt.get("body").unwrap_or(&receipt);
            value["annotations"] = json!({
                "kind": body.get("kind").cloned().unwrap_or("record".into()),
                "binary": body.get("binary").and_then(|binary| binary.get("sha256")).cloned().unwrap_or_default(),
            });
            value
        })
        .collect()
}

fn descriptor(name: &str, bytes: &[u8]) -> Value {
    json!({ "name": name, "digest": { "sha256": digest(bytes) } })
}

/// The statement about `contents`.
pub fn statement(
    root: &Path,
    plan: &Plan,
    artifact: &Artifact,
    recipe: &Recipe,
    contents: &Contents,
) -> Result<Value> {
    let inputs = [
        "Cargo.lock",
        "Cargo.toml",
        "tools/requirements-release.txt",
        "tools/requirements-cuda.txt",
        "tools/pins.toml",
    ];
    let mut materials = vec![json!({ "name": "source", "digest": { "gitCommit": plan.commit } })];
    for name in inputs {
        let path = root.join(name);
        materials
            .push(descriptor(name, &fs::read(&path).with_context(|| format!("reading {}", path.display()))?));
    }
    Ok(json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects(contents),
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:bitforge:release:1",
                "externalParameters": {
                    "name": artifact.name, "version": plan.version, "snapshot": plan.snapshot, "platform": artifact.platform,
                    "cuda": artifact.cuda, "glibc": artifact.glibc,
                },
                "internalParameters": {
                    "sourceDateEpoch": plan.epoch, "flags": recipe.flags, "rustc": recipe.rustc.lines().collect::<Vec<_>>(),
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": { "id": "urn:bitforge:xtask", "version": { "xtask": env!("CARGO_PKG_VERSION") } },
                "byproducts": byproducts(contents),
            },
        },
    }))
}
