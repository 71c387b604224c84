//! `reference build|status|clean|path`: the C++ references, built from pinned sources and kept in the cache.
//!
//! In: `tools/pins.toml` and a source. Out: finished builds in `CACHE/references`. [`source`] finds the tree,
//! [`stage`] supplies and patches, [`tools`] finds cmake, ninja and the compiler, [`build`] does it, and
//! [`failure`] says why it went wrong. Deliberately absent: what a library can do (the discovery crate).

pub mod build;
pub mod failure;
pub mod pins;
pub mod source;
pub mod stage;
pub mod tools;

use crate::cli::{self, ReferenceName};
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::lock::lock;
use crate::report::{bytes, table};
use anyhow::{Context, Result};
use bitforge_discovery::Lane;
use bitforge_schema::exit::ExitCode;
use build::{Built, Manifest, Recipe, read_manifest};
use pins::Pins;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

pub fn run(ctx: &Ctx, command: &cli::Reference) -> Result<ExitCode> {
    let cache = cache_dir(ctx)?;
    match command {
        cli::Reference::Build(args) => {
            let built = build_all(ctx, args)?;
            if ctx.out.is_json() {
                ctx.out.json(&built)?;
            } else {
                built.iter().try_for_each(|built| ctx.out.stdout(&built.dir.display().to_string()))?;
            }
        }
        cli::Reference::Status => status(ctx, &cache)?,
        cli::Reference::Clean { name } => {
            let mut freed = 0;
            for build in list(&cache)? {
                if name.names().iter().any(|name| name.name() == build.name) {
                    freed += remove(ctx, &cache, &build)?;
                }
            }
            if freed > 0 {
                build::touch_stamp(ctx)?;
            }
            ctx.out.line(format!("freed {}", bytes(freed)));
        }
        cli::Reference::Path { name } => path(ctx, *name)?,
    }
    Ok(ExitCode::Ok)
}

/// `CACHE/references`, absolute: the build tools run in folders of their own.
fn cache_dir(ctx: &Ctx) -> Result<PathBuf> {
    std::path::absolute(ctx.cache_dir()?.join("references")).context("the cache folder's absolute path")
}

/// Builds every reference that `args` names; one that is built already costs a digest of its source.
pub fn build_all(ctx: &Ctx, args: &cli::ReferenceBuild) -> Result<Vec<Built>> {
    let names = args.name.names();
    if names.len() > 1 && args.source != source::Source::Crate {
        return fail(ExitCode::Usage, "--source is one tree: name llama or bitnet, not all");
    }
    if args.kernels == cli::Kernels::Tl2 && names == [ReferenceName::Llama] {
        return fail(
            ExitCode::Usage,
            "--kernels tl2 is a variant of bitnet.cpp; llama.cpp has no such kernels",
        );
    }
    let cache = cache_dir(ctx)?;
    let pins = Pins::load(ctx)?;
    let mut all = Vec::new();
    for name in names {
        let recipe = Recipe::new(ctx, &pins, args, *name, &cache)?;
        let built = build::build(ctx, &pins, &recipe, &cache, args)?;
        let how = if built.cached { "was built before" } else { "built" };
        ctx.out.line(format!("{} {how}: {}", built.name, built.dir.display()));
        all.push(built);
    }
    Ok(all)
}

/// A folder of the cache that holds a build, finished or not.
#[derive(Debug, Serialize)]
pub struct Entry {
    pub name: String,
    pub dir: PathBuf,
    pub bytes: u64,
    /// `None` where the build was not finished.
    pub manifest: Option<Manifest>,
}

/// Every build below `CACHE/references`, by folder name.
pub fn list(cache: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(cache).into_iter().flatten() {
        let dir = entry.with_context(|| format!("reading {}", cache.display()))?.path();
        let file = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = ReferenceName::ALL.iter().find(|name| file.starts_with(&format!("{}-", name.name())));
        if let Some(name) = name.filter(|_| dir.is_dir()) {
            let manifest = read_manifest(&dir);
            entries.push(Entry { name: name.name().into(), bytes: size_below(&dir), dir, manifest });
        }
    }
    entries.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(entries)
}

/// The bytes of every file below `dir`; links count as nothing.
pub fn size_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_below(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        })
        .sum()
}

/// Removes one build while nobody builds it; the manifest goes first, so that no half of it looks whole.
fn remove(ctx: &Ctx, cache: &Path, entry: &Entry) -> Result<u64> {
    let file = entry.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lock_file = cache.join(format!("{file}.lock"));
    let _lock = lock(ctx, &lock_file)?;
    let manifest = entry.dir.join("manifest.json");
    if manifest.exists() {
        fs::remove_file(&manifest).with_context(|| format!("removing {}", manifest.display()))?;
    }
    fs::remove_dir_all(&entry.dir).with_context(|| format!("removing {}", entry.dir.display()))?;
    Ok(entry.bytes)
}

fn status(ctx: &Ctx, cache: &Path) -> Result<()> {
    let entries = list(cache)?;
    if ctx.out.is_json() {
        return ctx.out.json(&entries);
    }
    let rows = entries.iter().map(|entry| {
        let file = entry.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (state, source, compiler) = match &entry.manifest {
            Some(manifest) => ("ready", manifest.source.clone(), manifest.compiler.clone()),
            None => ("unfinished", "`reference build` goes on".to_string(), String::new()),
        };
        [file, state.to_string(), bytes(entry.bytes), source, compiler]
    });
    ctx.out.line(table(["build", "state", "size", "source", "compiler"], rows));
    for lane in Lane::ALL {
        ctx.out.line(bitforge_discovery::discover(&ctx.env, lane).render());
    }
    Ok(())
}

/// Prints the folder with the library that each lane would use.
fn path(ctx: &Ctx, name: cli::ReferenceChoice) -> Result<()> {
    let mut found = Vec::new();
    for name in name.names() {
        let discovery = bitforge_discovery::discover(&ctx.env, name.lane());
        let Some(reference) = discovery.reference else {
            let message = format!(
                "no {0} found; run `cargo xtask reference build {0}`\n{1}",
                name.name(),
                discovery.render()
            );
            return fail(ExitCode::NotFound, message);
        };
        found.push(reference);
    }
    if ctx.out.is_json() {
        return ctx.out.json(&found);
    }
    found.iter().try_for_each(|reference| ctx.out.stdout(&reference.llama_dir().display().to_string()))
}
