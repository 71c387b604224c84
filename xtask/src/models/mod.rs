//! `models list|fetch|path|synth`: the catalog of models and the cache that holds them.
//!
//! In: `tools/models.toml`. Out: verified files at `CACHE/models/NAME/FILE`. [`catalog`] reads the table,
//! [`fetch`] downloads and verifies. Deliberately absent: what is inside a model file.

pub mod catalog;
pub mod fetch;
pub mod synth;

use crate::cli;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::report::{bytes, table};
use anyhow::Result;
use bitforge_schema::exit::ExitCode;
use catalog::{Catalog, Model};
use serde::Serialize;
use std::path::{Path, PathBuf};

pub fn run(ctx: &Ctx, command: &cli::Models) -> Result<ExitCode> {
    let catalog = Catalog::load(ctx)?;
    let cache = ctx.cache_dir()?;
    match command {
        cli::Models::List => list(ctx, &catalog, &cache)?,
        cli::Models::Fetch(args) => {
            let check = if args.verify { fetch::Cached::Digest } else { fetch::Cached::Size };
            let fetched = fetch::fetch(ctx, catalog.get(&args.name)?, &cache, check)?;
            print_path(ctx, &fetched)?;
        }
        cli::Models::Synth(args) => synth::run(ctx, args)?,
        cli::Models::Path { name } => {
            let model = catalog.get(name)?;
            let path = path_in(&cache, model);
            if !is_cached(&path, model) {
                return fail(
                    ExitCode::NotFound,
                    format!("{name} is not in the cache; run `cargo xtask models fetch {name}`"),
                );
            }
            print_path(ctx, &fetch::Fetched { name: name.clone(), path, cached: true })?;
        }
    }
    Ok(ExitCode::Ok)
}

/// Where `model` lies in the cache, fetched or not.
pub fn path_in(cache: &Path, model: &Model) -> PathBuf {
    cache.join("models").join(&model.name).join(model.file())
}

/// Whether a file of the right size is there; its digest was checked when it was written.
pub fn is_cached(path: &Path, model: &Model) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == model.bytes)
}

fn print_path(ctx: &Ctx, fetched: &fetch::Fetched) -> Result<()> {
    if ctx.out.is_json() {
        ctx.out.json(fetched)
    } else {
        ctx.out.stdout(&fetched.path.display().to_string())
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    model: &'a Model,
    cached: bool,
    path: PathBuf,
}

fn list(ctx: &Ctx, catalog: &Catalog, cache: &Path) -> Result<()> {
    let listed: Vec<Listed<'_>> = catalog
        .models
        .iter()
        .map(|model| {
            let path = path_in(cache, model);
            Listed { model, cached: is_cached(&path, model), path }
        })
        .collect();
    if ctx.out.is_json() { ctx.out.json(&listed) } else { ctx.out.stdout(&render(&listed)) }
}

fn render(listed: &[Listed<'_>]) -> String {
    table(
        ["name", "size", "licence", "cached", "what"],
        listed.iter().map(|Listed { model, cached, .. }| {
            [
                model.name.clone(),
                bytes(model.bytes),
                model.licence.clone(),
                if *cached { "yes" } else { "no" }.to_string(),
                model.title.clone(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_for_people_and_programs() {
        let catalog =
            Catalog::parse(include_str!("../../../tools/models.toml"), Path::new("models.toml")).unwrap();
        let listed: Vec<Listed<'_>> = catalog
            .models
            .iter()
            .map(|model| Listed { model, cached: false, path: path_in(Path::new("CACHE"), model) })
            .collect();
        insta::assert_snapshot!(render(&listed));
        insta::assert_json_snapshot!("json", listed);
    }
}
