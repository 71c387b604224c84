//! What is in an archive and in a wheel.
//!
//! In: a built binary and the checkout. Out: two [`Contents`]. Deliberately absent: their form and compiling.

use super::archive::{Contents, File, SUMS, sums};
use super::build::Recipe;
use super::plan::{Artifact, Plan};
use super::{crates, provenance, sbom};
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::symbols::place::{self, Summary};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;

pub const BINARY: &str = "bin/bitnet";
pub const SBOM: &str = "sbom.cdx.json";
pub const LICENCES: &str = "licences/THIRD-PARTY.txt";
const MANUAL: &str = "runtime/cli/manual";

pub struct Made {
    pub archive: Contents,
    pub wheel: Contents,
    pub wheel_name: String,
}

pub fn collect(
    ctx: &Ctx,
    plan: &Plan,
    artifact: &Artifact,
    recipe: &Recipe,
    binary: Vec<u8>,
) -> Result<Made> {
    let root = ctx.root()?;
    let summary = look(artifact, &binary)?;
    let oldest = summary.min_glibc.as_deref().unwrap_or("none");
    ctx.out.line(format!("{}: needs {oldest} or later, and {}", artifact.name, summary.needed.join(", ")));
    let crates = crates::crates(ctx, artifact)?;
    let mut contents = Contents::new();
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        let path = root.join(name);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = if name.starts_with("LICENSE") { format!("licences/{name}") } else { name.into() };
        contents.insert(name, File::data(bytes));
    }
    for folder in ["completions", "man1"] {
        let from = root.join(MANUAL).join(folder);
        for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
            let path = entry.with_context(|| format!("reading {}", from.display()))?.path();
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let below = if folder == "man1" { "man/man1" } else { folder };
            contents.insert(format!("{below}/{name}"), File::data(bytes));
        }
    }
    contents.insert(LICENCES.into(), File::data(crates::licences(root, &crates)?));
    contents.insert(SBOM.into(), json(&sbom::sbom(ctx, plan, artifact, &crates, &binary)?)?);
    contents.insert(BINARY.into(), File::program(binary));
    let (wheel, wheel_name) = wheel(plan, artifact, &summary, &contents)?;
    contents.extend(provenance::receipts(ctx)?.into_iter().map(|(name, bytes)| (name, File::data(bytes))));
    let statement = provenance::statement(root, plan, artifact, recipe, &contents)?;
    contents.insert(provenance::FILE.into(), json(&statement)?);
    contents.insert(SUMS.into(), File::data(sums(&contents)));
    Ok(Made { archive: contents, wheel, wheel_name })
}

fn json(value: &Value) -> Result<File> {
    Ok(File::data(serde_json::to_string_pretty(value).context("serializing")? + "\n"))
}

/// What the binary runs on, where that is what was asked for.
fn look(artifact: &Artifact, binary: &[u8]) -> Result<Summary> {
    let summary = place::summary("bitnet", binary)
        .map_err(|error| Failure::new(ExitCode::CheckFailed, format!("the built binary: {error}")))?;
    if let (Some(wanted), Some(found)) = (&artifact.glibc, &summary.min_glibc)
        && version(found) > version(wanted)
    {
        return fail(ExitCode::CheckFailed, format!("the binary needs {found}, and {wanted} was asked for"));
    }
    Ok(summary)
}

/// The numbers in `GLIBC_2.17` or `2.17`.
pub fn version(text: &str) -> Vec<u32> {
    text.trim_start_matches("GLIBC_").split('.').filter_map(|part| part.parse().ok()).collect()
}

/// A wheel with the binary as a script: `pip install` puts it on PATH.
fn wheel(
    plan: &Plan,
    artifact: &Artifact,
    summary: &Summary,
    contents: &Contents,
) -> Result<(Contents, String)> {
    let package = if artifact.cuda { "bitforge_bitnet_cuda" } else { "bitforge_bitnet" };
    let glibc = version(summary.min_glibc.as_deref().unwrap_or("2.17"));
    let [major, minor, ..] = glibc[..] else {
        return fail(ExitCode::CheckFailed, "the binary names no glibc version");
    };
    let tag = format!("py3-none-manylinux_{major}_{minor}_{}", artifact.machine());
    let stem = format!("{package}-{}", plan.python_version);
    let info = format!("{stem}.dist-info");
    let metadata = format!(
        "Metadata-Version: 2.4\nName: {}\nVersion: {}\nSummary: bitnet: a runtime for ternary language models in GGUF files\n\
         License-Expression: MIT OR Apache-2.0\nLicense-File: LICENSE-APACHE\nLicense-File: LICENSE-MIT\nLicense-File: THIRD-PARTY.txt\n\
         Requires-Python: >=3.8\n",
        package.replace('_', "-"),
        plan.python_version
    );
    let about =
        format!("Wheel-Version: 1.0\nGenerator: bitforge xtask\nRoot-Is-Purelib: false\nTag: {tag}\n");
    let mut files = Contents::new();
    files.insert(format!("{stem}.data/scripts/bitnet"), contents[BINARY].clone());
    files.insert(format!("{info}/METADATA"), File::data(metadata));
    files.insert(format!("{info}/WHEEL"), File::data(about));
    for (name, file) in contents.range("licences/".to_string().."licences0".to_string()) {
        files.insert(name.replacen("licences", &format!("{info}/licenses"), 1), file.clone());
    }
    files.insert(format!("{info}/{SBOM_IN_WHEEL}"), contents[SBOM].clone());
    let record = record(&files, &info);
    files.insert(format!("{info}/RECORD"), File::data(record));
    Ok((files, format!("{stem}-{tag}.whl")))
}

pub const SBOM_IN_WHEEL: &str = "sboms/bitnet.cdx.json";

/// pip's list of digests; it has every file, itself without a digest.
pub fn record(files: &Contents, info: &str) -> String {
    let own = format!("{info}/RECORD");
    let rows = files.iter().filter(|(name, _)| **name != own).map(|(name, file)| {
        let digest = base64url(&Sha256::digest(&file.bytes));
        format!("{name},sha256={digest},{}\n", file.bytes.len())
    });
    rows.chain([format!("{own},,\n")]).collect()
}

/// Base64 for URLs without padding, as RECORD wants it.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letters = |chunk: &[u8]| {
        let bits =
            chunk.iter().enumerate().fold(0u32, |bits, (n, byte)| bits | (u32::from(*byte) << (16 - 8 * n)));
        (0..=chunk.len())
            .map(|n| char::from(LETTERS[(bits >> (18 - 6 * n)) as usize & 63]))
            .collect::<String>()
    };
    bytes.chunks(3).map(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("GLIBC_2.9") < version("2.17"));
        assert_eq!(version("GLIBC_2.2.5"), [2, 2, 5]);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let texts =
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("\u{3ff}", "z78")];
        for (text, wanted) in texts {
            assert_eq!(base64url(text.as_bytes()), wanted);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }
}
