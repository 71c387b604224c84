//! `bitnet models`: list, fetch, verify, locate, remove, compare and bundle.
//!
//! The work is [`bitnet_runtime::models`]'; here are its arguments and what it prints.

use super::args::Format;
use super::ctx::Ctx;
use super::format::{Align, mebibytes, plain};
use super::json::ErrorBody;
use super::models_args::{BundleArgs, FetchArgs, ModelsCommand, SpecArgs, SpecsArgs};
use super::models_progress::EventPrinter;
use super::{inspect, models_diff};
use bitforge_schema::catalog::{Catalog, Model};
use bitnet_runtime::models::{Context, Event, Fetched, Spec, bundle, fetch, manage};
use bitnet_runtime::{Error, Result};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

pub fn run(ctx: &mut Ctx, command: &ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List(_) => list(ctx),
        ModelsCommand::Fetch(args) => fetch(ctx, args),
        ModelsCommand::Verify(args) => verify(ctx, args),
        ModelsCommand::Path(args) => path(ctx, args),
        ModelsCommand::Rm(args) => remove(ctx, args),
        ModelsCommand::Inspect(args) => inspect::run(ctx, args),
        ModelsCommand::Diff(args) => models_diff::run(ctx, args),
        ModelsCommand::Bundle(args) => write_bundle(ctx, args),
    }
}

/// Calls `work` with a context that shows events as `ctx` asks; `--json` shows none unless `lines` is set.
fn with_models<T>(
    ctx: &Ctx,
    offline: bool,
    lines: bool,
    work: impl FnOnce(&mut Context<'_>) -> Result<T>,
) -> Result<T> {
    ctx.catch_interrupts();
    let printer = EventPrinter::new(ctx.format);
    let watch = |event: Event| {
        if ctx.format == Format::Human || lines {
            printer.show(&event);
        }
    };
    work(&mut Context::new(&ctx.env, Arc::clone(&ctx.interrupt), offline, &watch)?)
}

fn parse(models: &[String]) -> Result<Vec<Spec>> {
    models.iter().map(|model| Spec::parse(model)).collect()
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    model: Model,
    cached: bool,
    path: PathBuf,
}

fn list(ctx: &mut Ctx) -> Result<()> {
    let (listed, others) = with_models(ctx, true, false, |models| {
        let entry = |model: Model| {
            let found = fetch::locate(models, &Spec::Catalog(Box::new(model.clone())));
            let cached = found.is_ok();
            Listed { path: found.unwrap_or_else(|_| model.path_in(&models.cache)), model, cached }
        };
        let listed: Vec<Listed> = Catalog::committed().models.into_iter().map(entry).collect();
        let others = manage::all_here(models).into_iter().filter(|spec| !matches!(spec, Spec::Catalog(_)));
        Ok((listed, others.map(|spec| spec.to_string()).collect::<Vec<_>>()))
    })?;
    if ctx.format == Format::Json {
        return ctx.print_json(&json!({ "models": listed, "others": others }));
    }
    let rows = listed.iter().map(|Listed { model, cached, .. }| {
        let gate = match (&model.terms, model.gated) {
            (_, true) => ", gated",
            (Some(_), false) => ", to be accepted",
            (None, false) => "",
        };
        vec![
            model.name.clone(),
            model.bytes.map_or_else(|| "?".into(), mebibytes),
            if *cached { "here" } else { "-" }.into(),
            format!("{}{gate}", model.licence),
            model.title.clone(),
        ]
    });
    let others = others.into_iter().map(|name| vec![name, String::new(), "here".into()]);
    let rows: Vec<Vec<String>> = rows.chain(others).collect();
    let aligns = [Align::Left, Align::Right, Align::Left, Align::Left, Align::Left];
    ctx.print(&plain(&aligns, &rows))
}

fn fetch(ctx: &mut Ctx, args: &FetchArgs) -> Result<()> {
    let outcome = parse(&args.models).and_then(|specs| {
        if args.sha256.is_some() && specs.len() != 1 {
            return Err(Error::usage("--sha256 goes with one model", "fetch them one by one"));
        }
        let options = fetch::Options {
            sha256: args.sha256.clone(),
            accepted: args.accept_licence.clone(),
            verify: args.verify,
        };
        with_models(ctx, args.offline, true, |models| {
            models.tuning.connections = args.connections.into();
            let mut fetched = Vec::new();
            for spec in &specs {
                fetched.extend(fetch::fetch(models, spec, &options)?);
            }
            Ok(fetched)
        })
    });
    match (outcome, ctx.format) {
        (Ok(fetched), Format::Json) => ctx.print_json_line(&json!({ "event": "fetched", "models": fetched })),
        (Ok(fetched), Format::Human) => {
            for one in &fetched {
                let how = if one.cached { "was here" } else { "fetched" };
                ctx.note(format_args!("{} {how}, {}", one.name, mebibytes(one.bytes)));
            }
            print_paths(ctx, &fetched)
        }
        (Err(error), Format::Json) => {
            let code = error.exit_code();
            let body = ErrorBody { code: code as u8, kind: code.name(), message: error.to_string() };
            ctx.print_json_line(&json!({ "event": "failed", "error": body }))?;
            Err(error)
        }
        (Err(error), Format::Human) => Err(error),
    }
}

fn print_paths(ctx: &Ctx, fetched: &[Fetched]) -> Result<()> {
    ctx.print(&fetched.iter().map(|one| format!("{}\n", one.path.display())).collect::<String>())
}

#[derive(Serialize)]
struct Verified {
    model: String,
    ok: bool,
    /// What is wrong.
    error: Option<String>,
    sha256: Option<String>,
}

fn verify(ctx: &mut Ctx, args: &SpecsArgs) -> Result<()> {
    let specs = parse(&args.models)?;
    let mut failed = None;
    let verified = with_models(ctx, true, false, |models| {
        let specs = if specs.is_empty() { manage::all_here(models) } else { specs };
        let mut verified = Vec::new();
        for spec in specs {
            let (sha256, error) = match manage::verify(models, &spec) {
                Ok(fetched) => (fetched.first().and_then(|one| one.sha256.clone()), None),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    let told = error.to_string();
                    failed.get_or_insert(error);
                    (None, Some(told))
                }
            };
            verified.push(Verified { model: spec.to_string(), ok: error.is_none(), error, sha256 });
        }
        Ok(verified)
    })?;
    match ctx.format {
        Format::Json => ctx.print_json(&json!({ "verified": verified }))?,
        Format::Human => {
            for Verified { model, error, sha256, .. } in &verified {
                let sha256 = sha256.as_deref().unwrap_or("every file as its name says");
                match error {
                    None => ctx.print(&format!("{model}: right ({sha256})\n"))?,
                    Some(error) => ctx.note(format_args!("{model}: {error}")),
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn path(ctx: &mut Ctx, args: &SpecArgs) -> Result<()> {
    let spec = Spec::parse(&args.model)?;
    let path = with_models(ctx, true, false, |models| fetch::locate(models, &spec))?;
    match ctx.format {
        Format::Json => ctx.print_json(&json!({ "model": spec.to_string(), "path": path })),
        Format::Human => ctx.print(&format!("{}\n", path.display())),
    }
}

fn remove(ctx: &mut Ctx, args: &SpecsArgs) -> Result<()> {
    if args.models.is_empty() {
        return Err(Error::usage("no model is named", "`bitnet models list` shows what is here"));
    }
    let specs = parse(&args.models)?;
    let freed = with_models(ctx, true, false, |models| {
        specs.iter().map(|spec| manage::remove(models, spec)).sum::<Result<u64>>()
    })?;
    match ctx.format {
        Format::Json => ctx.print_json(&json!({ "removed": args.models, "freed_bytes": freed })),
        Format::Human => ctx.print(&format!("freed {}\n", mebibytes(freed))),
    }
}

fn write_bundle(ctx: &mut Ctx, args: &BundleArgs) -> Result<()> {
    let specs = parse(&args.models)?;
    let manifest = with_models(ctx, true, false, |models| bundle::write(models, &specs, &args.out))?;
    let bytes: u64 = manifest.models.iter().flat_map(|model| &model.files).map(|file| file.bytes).sum();
    match ctx.format {
        Format::Json => ctx.print_json(&json!({ "path": args.out, "manifest": manifest })),
        Format::Human => ctx.print(&format!("{} ({})\n", args.out.display(), mebibytes(bytes))),
    }
}
