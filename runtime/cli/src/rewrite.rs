//! What `bitnet convert` and `bitnet quantize` share: checks before anything is written, the writing, the report.
//!
//! The new file has another name until it is complete. Deliberately absent: which tensor gets which type (see
//! [`bitnet_runtime::quantize`] and [`bitnet_runtime::convert`]).

use super::args::{Format, RewriteArgs};
use super::ctx::Ctx;
use super::format::{Align, mebibytes, plain};
use super::json::RewriteOutput;
use super::output_file::Partial;
use super::progress::Progress;
use super::settings;
use bitnet_runtime::engine::available_threads;
use bitnet_runtime::quantize::{Plan, TensorReport, Treatment, Workers};
use bitnet_runtime::{Error, Result, machine};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Refuses what would overwrite a file without leave, before any work is done.
pub fn check_out(out: &Path, input: &Path, force: bool) -> Result<()> {
    let same = out.canonicalize().is_ok_and(|out| input.canonicalize().is_ok_and(|input| out == input));
    if same {
        return Err(Error::usage(format!("{} is the input", out.display()), "give another file to write"));
    }
    if out.is_dir() {
        return Err(Error::usage(format!("{} is a directory", out.display()), "give the file to write"));
    }
    if out.exists() && !force {
        return Err(Error::usage(format!("{} exists", out.display()), "give --force to replace it"));
    }
    Ok(())
}

/// Writes what was planned to `out` and prints what was done. `model` is what the file is made from.
pub fn write(
    ctx: &mut Ctx,
    args: &RewriteArgs,
    plan: &Plan<'_>,
    model: &Path,
    out: &Path,
    mut warnings: Vec<String>,
) -> Result<()> {
    ctx.warn(&warnings);
    let threads = settings::threads(&ctx.env, args.threads)?.unwrap_or_else(available_threads);
    let bytes = plan.layout.file_len;
    check_space(out, bytes)?;
    ctx.catch_interrupts();
    let start = Instant::now();
    let mut workers = Workers::new(threads, Arc::clone(&ctx.interrupt))?;
    let partial = Partial::create(out)?;
    let mut progress = Progress::start(format!("writing {}", out.display()));
    let tensors =
        plan.write(&partial.file, partial.path(), &mut workers, &mut |done, all| progress.update(done, all))?;
    drop(progress);
    partial.rename(out)?;
    let elapsed_ms = start.elapsed().as_secs_f64() * 1e3;
    let inexact = inexact_scales(&tensors);
    ctx.warn(&inexact);
    warnings.extend(inexact);
    let (input, output) = (model.display().to_string(), out.display().to_string());
    let output =
        RewriteOutput { input, output, bytes, threads: workers.threads(), elapsed_ms, tensors, warnings };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

/// # Errors
/// `Limit` where the file would not fit; where the free space cannot be told, writing will.
fn check_space(out: &Path, bytes: u64) -> Result<()> {
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match machine::free_bytes(dir) {
        Some(free) if free < bytes => {
            let what = format!("{} would take {bytes} bytes, and {free} are free there", out.display());
            Err(Error::limit(what, "free some space, or write to another disk"))
        }
        _ => Ok(()),
    }
}

/// One warning for each type that cannot hold the scales it was given.
fn inexact_scales(tensors: &[TensorReport]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut types: Vec<&str> = tensors.iter().filter(|t| t.written_scale.is_some()).map(|t| t.to).collect();
    types.dedup();
    for ty in types {
        let of_type = || tensors.iter().filter(|t| t.to == ty && t.written_scale.is_some());
        let worst = of_type()
            .max_by(|a, b| a.scale_error().unwrap_or(0.0).total_cmp(&b.scale_error().unwrap_or(0.0)));
        let Some(worst) = worst else { continue };
        let warning = format!(
            "the scales of {} tensors have more bits than {ty} holds; the farthest is that of {}, {:e} for {:e}. The codes are exact",
            of_type().count(),
            worst.name,
            worst.written_scale.unwrap_or(0.0),
            worst.scale.unwrap_or(0.0),
        );
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

fn human(output: &RewriteOutput) -> String {
    let mut groups: Vec<((&str, &str, Treatment), usize)> = Vec::new();
    for tensor in &output.tensors {
        let key = (tensor.from, tensor.to, tensor.treatment);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => groups.push((key, 1)),
        }
    }
    let rows: Vec<Vec<String>> = groups
        .into_iter()
        .map(|((from, to, treatment), count)| {
            let what = match treatment {
                Treatment::Copied => "copied",
                Treatment::CodesKept => "codes kept",
                Treatment::Absmean => "rounded by the mean of magnitudes",
                Treatment::Encoded => "encoded",
            };
            vec![count.to_string(), from.into(), "to".into(), to.into(), what.into()]
        })
        .collect();
    let aligns = [Align::Right, Align::Left, Align::Left, Align::Left, Align::Left];
    let RewriteOutput { output, bytes, threads, elapsed_ms, .. } = output;
    let size = mebibytes(*bytes);
    format!("{output}: {size}, in {:.1} s on {threads} threads\n{}", elapsed_ms / 1e3, plain(&aligns, &rows))
}
