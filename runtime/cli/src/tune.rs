//! `bitnet kernels --tune MODEL`: times the kernels for the products of a model on this machine, and keeps what is better
//! than the default beyond noise in a profile, which later runs of this binary on this CPU load.

use super::args::{Format, KernelsArgs};
use super::ctx::Ctx;
use super::lab::{self, Version};
use super::{catalog, digest, output_file};
use bitforge_schema::paths::cache_dir;
use bitnet_runtime::gguf::{Gguf, Mapping};
use bitnet_runtime::kernels::lab::{Seen, best, candidates, measure, median};
use bitnet_runtime::kernels::profile::{Choice, Profile};
use bitnet_runtime::kernels::{KernelSet, Shape};
use bitnet_runtime::machine::{self, CACHES, last_level_cache};
use bitnet_runtime::quant::activation::{ActivationQuant, ActivationType};
use bitnet_runtime::quant::panels::Layout;
use bitnet_runtime::tensor::TensorType;
use bitnet_runtime::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Activation rows that stand for each shape.
const COUNTS: [usize; 3] = [1, 8, 128];

#[derive(Serialize)]
struct TuneOutput {
    profile: PathBuf,
    cpu: String,
    /// What is not the default; empty where nothing is better beyond noise.
    changed: Vec<Choice>,
    kept: Vec<String>,
    versions: Vec<Version>,
}

pub fn run(ctx: &mut Ctx, args: &KernelsArgs, model: &str) -> Result<()> {
    let path = path(ctx).ok_or_else(|| Error::NotFound {
        what: "there is no cache directory to keep a profile in".into(),
        remedy: "set BITNET_CACHE_DIR".into(),
    })?;
    let gguf = Gguf::open(catalog::resolve(&ctx.env, model)?, Mapping::default())?;
    gguf.require_readable_types()?;
    let mut pool = lab::pool(ctx, args)?;
    let set = KernelSet::select(Default::default())?;
    let cache = last_level_cache(Path::new(CACHES));
    let mut output = TuneOutput {
        profile: path.clone(),
        cpu: machine::facts(Vec::new()).cpu,
        changed: Vec::new(),
        kept: Vec::new(),
        versions: Vec::new(),
    };
    for ((weight, activation), columns) in pairs(&gguf) {
        let Some(plan) = set.plan(weight, activation) else { continue };
        let mut by_shape = Vec::new();
        for count in COUNTS {
            let product = lab::product(weight, activation, columns, (count, args.rows), cache)?;
            let fast: Vec<_> = candidates(&product).into_iter().skip(1).collect();
            let seen = measure(&product, &fast, &mut pool, args.rounds);
            output.versions.extend(lab::versions(&product, &seen));
            by_shape.push(seen);
        }
        let default = Shape::ALL.map(|shape| plan.kernel(shape).id);
        match better(&by_shape, default) {
            Some(ids) if ids != default => {
                output.changed.push(Choice { weight: weight.name().into(), kernels: ids.map(String::from) })
            }
            _ => output.kept.push(format!("{weight}: {}", default.join(", "))),
        }
    }
    let profile = Profile {
        cpu: output.cpu.clone(),
        binary_sha256: digest::executable(&ctx.interrupt)?.sha256,
        choices: output.changed.clone(),
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    let text = serde_json::to_string_pretty(&profile).expect("keys are strings and no Serialize fails");
    output_file::write_whole(&path, |file| writeln!(file, "{text}").map_err(|e| Error::io(&path, e)))?;
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

/// The profile of this CPU, where there is one that this binary wrote.
///
/// # Errors
/// There is a profile that cannot be read.
pub fn profile(ctx: &Ctx) -> Result<Option<Profile>> {
    let Some(path) = path(ctx).filter(|path| path.is_file()) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let profile: Profile = serde_json::from_str(&text).map_err(|e| {
        Error::unsupported(
            &path,
            format!("not a kernel profile: {e}"),
            "delete it, or run `bitnet kernels --tune` again",
        )
    })?;
    let mine = profile.binary_sha256 == digest::executable(&ctx.interrupt)?.sha256;
    Ok(Some(profile).filter(|_| mine))
}

/// `<cache>/kernels/<name of the CPU>.json`.
fn path(ctx: &Ctx) -> Option<PathBuf> {
    let cpu = machine::facts(Vec::new()).cpu;
    let name: String =
        cpu.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    Some(cache_dir(&ctx.env)?.join("kernels").join(name + ".json"))
}

/// The pairs of types of the model's matrices, each with its most frequent number of columns.
fn pairs(gguf: &Gguf) -> Vec<((TensorType, ActivationType), usize)> {
    let mut weights: BTreeMap<(TensorType, usize), u64> = BTreeMap::new();
    for info in gguf.tensors() {
        if let (Some(ty), [columns, rows]) = (TensorType::from_id(info.type_id), &info.dims[..]) {
            *weights.entry((ty, *columns as usize)).or_default() += rows * columns;
        }
    }
    let mut found: Vec<((TensorType, ActivationType), usize)> = Vec::new();
    let mut by_size: Vec<_> = weights.into_iter().collect();
    by_size.sort_by_key(|(_, elements)| std::cmp::Reverse(*elements));
    for ((ty, columns), _) in by_size {
        let pair = (ty, ActivationType::for_weight(ty, ActivationQuant::Token));
        if !found.iter().any(|(known, _)| *known == pair) {
            found.push((pair, columns));
        }
    }
    found
}

/// The kernels of another layout, or of the same, that are better than the default beyond noise for some shape and not
/// worse for any.
fn better(by_shape: &[Vec<Seen>], default: [&'static str; 3]) -> Option<[&'static str; 3]> {
    let layouts: Vec<Option<Layout>> = by_shape[0].iter().map(|seen| seen.kernel.layout()).collect();
    let plan = |layout: Option<Layout>| -> Option<([&'static str; 3], f64)> {
        let (mut ids, mut gain, mut clear) = (default, 1.0, false);
        for (shape, seen) in by_shape.iter().enumerate() {
            let of_layout =
                seen.iter().filter(|seen| seen.kernel.layout() == layout && !seen.samples.is_empty());
            let chosen = of_layout.min_by_key(|seen| median(&seen.samples))?;
            let usual = seen.iter().find(|seen| seen.kernel.id == default[shape])?;
            let pair = |a: &Seen, b: &Seen| {
                let seen = [a, b].map(|seen| Seen { samples: seen.samples.clone(), ..*seen });
                best(&seen, b.kernel.id)
                    .is_some_and(|(best, clearly)| best.kernel.id == a.kernel.id && clearly)
            };
            if pair(usual, chosen) {
                return None;
            }
            clear |= pair(chosen, usual);
            gain *= median(&usual.samples).as_secs_f64() / median(&chosen.samples).as_secs_f64().max(1e-12);
            ids[shape] = chosen.kernel.id;
        }
        clear.then_some((ids, gain))
    };
    let plans = layouts.into_iter().filter_map(plan);
    plans.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(ids, _)| ids)
}

fn human(output: &TuneOutput) -> String {
    let changed = output
        .changed
        .iter()
        .map(|choice| format!("{}: {} (changed)\n", choice.weight, choice.kernels.join(", ")));
    let kept = output.kept.iter().map(|kept| format!("{kept} (default)\n"));
    let lines: String = changed.chain(kept).collect();
    format!("kernels for decode, batch, prefill:\n{lines}profile {}\n", output.profile.display())
}
