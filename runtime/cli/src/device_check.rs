//! `bitnet kernels --check-device`: every kernel of a GPU backend against its definition, on the device; `--check-team`:
//! several devices that share a model against one.

use super::ctx::Ctx;
use bitnet_runtime::backend::Choice;
#[cfg(feature = "cuda")]
use bitnet_runtime::cuda::{smoke, smoke_team};
#[cfg(feature = "cuda")]
use bitnet_runtime::model::{Model, WeightOptions};
use bitnet_runtime::{Error, Result};

/// # Errors
/// [`Error::Unavailable`] where no GPU was chosen, [`Error::Diverged`] where a kernel is wrong.
#[cfg(feature = "cuda")]
pub fn run(ctx: &mut Ctx, choice: &Choice, rounds: usize) -> Result<()> {
    check_gpu(choice)?;
    let seed = bitnet_runtime::sampling::rng::random_seed();
    show(ctx, &smoke::run(seed, rounds)?, &format!("seed {seed}"))
}

/// # Errors
/// As [`run`].
#[cfg(feature = "cuda")]
pub fn team(ctx: &mut Ctx, choice: &Choice, model: &str, ranks: usize) -> Result<()> {
    check_gpu(choice)?;
    let path = super::catalog::resolve(&ctx.env, model)?;
    let gguf = bitnet_runtime::gguf::Gguf::open(&path, bitnet_runtime::gguf::Mapping::default())?;
    let model = Model::load(std::sync::Arc::new(gguf), &WeightOptions::default(), &mut |_, _| ())?;
    let checks = smoke_team::run(&model, ranks, ctx.env.get("BITNET_NCCL"))?;
    show(ctx, &checks, &path.display().to_string())
}

/// Prints what was checked; an error where something was wrong.
#[cfg(feature = "cuda")]
fn show(ctx: &mut Ctx, checks: &[smoke::Check], of: &str) -> Result<()> {
    use super::args::Format;
    use super::format::{Align, markdown};

    match ctx.format {
        Format::Json => ctx.print_json(&serde_json::json!({ "of": of, "checks": checks }))?,
        Format::Human => {
            let columns = ["kernel", "shape", "error", "allowed"].map(|name| (name, Align::Left));
            let rows = checks.iter().map(|check| {
                let numbers = [check.error, check.allowed].map(|error| format!("{error:.1e}"));
                [check.kernel.clone(), check.shape.clone()].into_iter().chain(numbers).collect()
            });
            ctx.print(&format!("{}\n{of}\n", markdown(&columns, &rows.collect::<Vec<Vec<String>>>())))?;
        }
    }
    match checks.iter().find(|check| !check.holds()) {
        None => Ok(()),
        Some(check) => Err(Error::Diverged {
            what: format!(
                "{} at {} is off by {:.1e}, {:.1e} is allowed",
                check.kernel, check.shape, check.error, check.allowed
            ),
            remedy: format!("report it with {of}"),
        }),
    }
}

#[cfg(not(feature = "cuda"))]
pub fn run(_ctx: &mut Ctx, choice: &Choice, _rounds: usize) -> Result<()> {
    check_gpu(choice)
}

#[cfg(not(feature = "cuda"))]
pub fn team(_ctx: &mut Ctx, choice: &Choice, _model: &str, _ranks: usize) -> Result<()> {
    check_gpu(choice)
}

fn check_gpu(choice: &Choice) -> Result<()> {
    choice.check_real()?;
    if choice.row.backend.is_gpu() {
        return Ok(());
    }
    Err(Error::Unavailable {
        what: "there is no GPU to check".into(),
        remedy: "use a build with --features cuda on a machine with an NVIDIA driver".into(),
    })
}
