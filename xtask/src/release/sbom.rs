//! What is inside, as CycloneDX 1.5 JSON.
//!
//! In: crates, the binary, the tables of references and models, CUDA kernels, trained fixtures. Out: JSON whose bytes
//! depend on these alone. What is not in the archive but was used to judge it (references, models) has the scope `excluded`.

use super::archive::digest;
use super::crates::Krate;
use super::plan::{Artifact, Plan};
use crate::cli::ReferenceName;
use crate::ctx::Ctx;
use crate::reference::pins::Pins;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub fn sbom(ctx: &Ctx, plan: &Plan, artifact: &Artifact, crates: &[Krate], binary: &[u8]) -> Result<Value> {
    let root = ctx.root()?;
    let mut components: Vec<Value> = crates.iter().map(krate).collect();
    let pins = Pins::load(ctx)?;
    for name in [ReferenceName::Llama, ReferenceName::Bitnet] {
        let pin = pins.get(name);
        components.push(json!({
            "type": "library", "bom-ref": format!("reference:{}", pin.krate), "name": pin.krate, "version": pin.version,
            "scope": "excluded", "purl": purl(&pin.krate, &pin.version),
            "description": "the C++ sources of a reference that results were compared with",
        }));
    }
    if artifact.cuda {
        let kernels = files(&root.join("target/cuda-kernels"), "fatbin")?;
        for path in files(&root.join("runtime/src/cuda/kernels"), "cu")?.into_iter().chain(kernels) {
            components.push(file(
                root,
                &path,
                "a CUDA kernel: its source, or the compiled form in the binary",
                "required",
            )?);
        }
    }
    for path in files(&root.join("fixtures/trained"), "gguf")? {
        components.push(file(root, &path, "a trained fixture that tests and receipts use", "excluded")?);
    }
    components.extend(models(root)?);
    components.sort_by_key(|component| component["bom-ref"].as_str().unwrap_or_default().to_string());
    let uses = |krate: &Krate| json!({ "ref": krate.id(), "dependsOn": krate.uses });
    let seed = digest(format!("{} {} {}", plan.commit, artifact.name, digest(binary)).as_bytes());
    let serial = [
        &seed[..8],
        &seed[8..12],
        &format!("8{}", &seed[13..16]),
        &format!("8{}", &seed[17..20]),
        &seed[20..32],
    ];
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": format!("urn:uuid:{}", serial.join("-")),
        "version": 1,
        "metadata": {
            "timestamp": plan.created,
            "component": {
                "type": "application", "bom-ref": "bitnet", "name": "bitnet", "version": plan.version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": digest(binary) }],
            },
        },
        "components": components,
        "dependencies": crates.iter().map(uses).collect::<Vec<_>>(),
    }))
}

fn purl(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn krate(krate: &Krate) -> Value {
    let mut component = json!({
        "type": "library", "bom-ref": krate.id(), "name": krate.name, "version": krate.version, "scope": "required",
        "licenses": [{ "expression": krate.licence }],
    });
    if let Some(checksum) = &krate.checksum {
        component["purl"] = purl(&krate.name, &krate.version).into();
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// A file of the checkout.
fn file(root: &Path, path: &Path, description: &str, scope: &str) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    Ok(json!({
        "type": "file", "bom-ref": format!("file:{name}"), "name": name, "scope": scope, "description": description,
        "hashes": [{ "alg": "SHA-256", "content": digest(&bytes) }],
    }))
}

/// Files below `folder` that end so, sorted.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The catalog; a model that is embedded in the binary is in scope.
fn models(root: &Path) -> Result<Vec<Value>> {
    let path = root.join("tools/models.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let table: toml::Value = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let text = |model: &toml::Value, key: &str| {
        model.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_string()
    };
    let rows =
        table.get("model").and_then(toml::Value::as_array).context("tools/models.toml has no model")?;
    let component = |model: &toml::Value| {
        let name = text(model, "name");
        let embedded = model.get("source").is_some_and(|source| text(source, "kind") == "embedded");
        let mut value = json!({
            "type": "machine-learning-model", "bom-ref": format!("model:{name}"), "name": name,
            "description": text(model, "title"), "scope": if embedded { "required" } else { "excluded" },
            "licenses": [{ "license": { "name": text(model, "licence") } }],
        });
        let sha256 = text(model, "sha256");
        if !sha256.is_empty() {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
        }
        value
    };
    Ok(rows.iter().map(component).collect())
}
