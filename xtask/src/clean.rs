//! `clean`: what the cache folder holds, and freeing it.
//!
//! In: the cache folder. Out: its parts with their sizes; the named parts are removed. Deliberately absent:
//! cargo's target folder, which `cargo clean` frees.

use crate::cli::{self, CacheKind};
use crate::ctx::Ctx;
use crate::reference::size_below;
use crate::report::{bytes, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize)]
struct Part {
    kind: CacheKind,
    path: PathBuf,
    bytes: u64,
    freed: bool,
}

pub fn run(ctx: &Ctx, args: &cli::Clean) -> Result<ExitCode> {
    let cache = ctx.cache_dir()?;
    let mut parts = parts(&cache)?;
    for part in parts.iter_mut().filter(|part| args.what.contains(&part.kind)) {
        if part.kind == CacheKind::References {
            // A killed removal must not leave something that looks whole.
            let manifest = part.path.join("manifest.json");
            if manifest.exists() {
                fs::remove_file(&manifest).with_context(|| format!("removing {}", manifest.display()))?;
            }
        }
        fs::remove_dir_all(&part.path).with_context(|| format!("removing {}", part.path.display()))?;
        part.freed = true;
    }
    if parts.iter().any(|part| part.freed && part.kind == CacheKind::References) {
        crate::reference::build::touch_stamp(ctx)?;
    }
    if ctx.out.is_json() {
        ctx.out.json(&parts)?;
    }
    let rows = parts.iter().map(|part| {
        let kind = serde_json::to_value(part.kind).ok().and_then(|kind| kind.as_str().map(str::to_string));
        let state = if part.freed { "freed" } else { "" };
        [kind.unwrap_or_default(), bytes(part.bytes), part.path.display().to_string(), state.to_string()]
    });
    ctx.out.line(table(["part", "size", "folder", ""], rows));
    let total =
        |freed: bool| bytes(parts.iter().filter(|part| part.freed == freed).map(|part| part.bytes).sum());
    ctx.out.line(format!("{} kept, {} freed", total(false), total(true)));
    if args.what.is_empty() && !parts.is_empty() {
        ctx.out.line("to free a part: cargo xtask clean models|references|sources|tools");
    }
    Ok(ExitCode::Ok)
}

/// The folders of the cache by kind, sorted by path.
fn parts(cache: &Path) -> Result<Vec<Part>> {
    let below = |dir: &Path| -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.with_context(|| format!("reading {}", dir.display()))?.path();
            found.extend(path.is_dir().then_some(path));
        }
        found.sort();
        Ok(found)
    };
    let references = cache.join("references");
    let mut parts = Vec::new();
    let mut add =
        |kind, path: PathBuf| parts.push(Part { kind, bytes: size_below(&path), path, freed: false });
    below(&cache.join("models"))?.into_iter().for_each(|dir| add(CacheKind::Models, dir));
    for dir in below(&references)? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = match name.as_str() {
            "sources" => CacheKind::Sources,
            _ if name.starts_with("build-tools") || name == "pip-venv" => CacheKind::Tools,
            _ => CacheKind::References,
        };
        add(kind, dir);
    }
    for tools in ["pip-venv", "cargo-tools"].map(|name| cache.join(name)) {
        if tools.is_dir() {
            add(CacheKind::Tools, tools);
        }
    }
    Ok(parts)
}
