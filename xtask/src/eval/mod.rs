//! `eval`: how well models predict held-out text, and whether that is what it must be.
//!
//! In: the models of tools/eval.toml, or one that is named with a text. Out: perplexities with their standard errors
//! beside the committed ones and PyTorch's, a receipt. [`settings`] has models, goldens and tolerances, `judge` the
//! verdict. The measuring is done by `bitnet perplexity`. Deliberately absent: any arithmetic of a model.

pub mod judge;
pub mod settings;

use crate::binary;
use crate::cli::ModelArg;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::models;
use crate::proc::{self, Command, Stdout};
use crate::receipts::{machine, store};
use crate::report::{Reporter, State, table};
use anyhow::{Context, Result};
use bitforge_receipt_schema::Body;
use bitforge_receipt_schema::eval::{Eval, Measured};
use bitforge_schema::exit::ExitCode;
use bitforge_schema::protocol::{ActivationMode, KernelCount};
use judge::{Judged, judge};
use serde::{Deserialize, Serialize};
use settings::{Golden, OURS, Settings, perplexity};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, Default)]
pub struct EvalArgs {
    /// A name of the catalog or a GGUF file (default: the models of tools/eval.toml)
    #[arg(long, requires = "text")]
    pub model: Option<String>,
    /// The text for --model
    #[arg(long, value_name = "FILE", requires = "model")]
    pub text: Option<PathBuf>,
    /// Chunks of each text to score (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Tokens of a chunk; the committed goldens are of 512
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub ctx_size: u32,
    /// Write what is measured as the committed golden
    #[arg(long, conflicts_with_all = ["model", "chunks"])]
    pub update: bool,
}

/// What `bitnet perplexity --json` prints, as far as it is kept.
#[derive(Debug, Deserialize)]
pub struct Output {
    pub engine: Engine,
    pub ctx_size: u32,
    pub first_chunk: u32,
    pub text_chunks: u32,
    pub scored: u64,
    pub standard_error: f64,
    pub nll: Vec<f64>,
    pub squares: Vec<f64>,
    pub kernels: Vec<KernelCount>,
}

#[derive(Debug, Deserialize)]
pub struct Engine {
    pub activation_quant: ActivationMode,
}

#[derive(Debug, Serialize)]
struct Row {
    model: String,
    chunks: usize,
    standard_error: f64,
    #[serde(flatten)]
    judged: Judged,
}

pub fn run(ctx: &Ctx, args: &EvalArgs) -> Result<ExitCode> {
    let mut settings = Settings::load(ctx)?;
    let cases = cases(ctx, args, &settings)?;
    let binary = binary::release(ctx)?;
    let mut measured = Vec::new();
    for (model, text) in &cases {
        measured.push(measure(ctx, &binary, model, text, args.ctx_size, args.chunks)?);
    }
    if args.update {
        update(&mut settings, &measured)?;
        ctx.out.line(format!("wrote {OURS}"));
    }
    let row = |measured: &Measured| Row {
        model: measured.model.name.clone(),
        chunks: measured.nll.len(),
        standard_error: measured.standard_error,
        judged: judge(measured, &settings),
    };
    let rows: Vec<Row> = measured.iter().map(row).collect();
    let body = Eval { binary: store::file_facts(&binary)?, machine: machine::facts()?, measured };
    let parents = store::parents_of(ctx, &["build"], &body.binary, &body.binary)?;
    let receipt = store::write(ctx, Body::Eval(Box::new(body)), &parents)?;
    let ok = rows.iter().all(|row| row.judged.problems.is_empty());
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "ok": ok, "tolerance": settings.tolerance, "evaluated": rows }))?;
    }
    ctx.out.line(format!("{}\nreceipt: {}", render(&ctx.out, &rows), receipt.display()));
    Ok(if ok { ExitCode::Ok } else { ExitCode::Diverged })
}

/// Models and texts.
fn cases(ctx: &Ctx, args: &EvalArgs, settings: &Settings) -> Result<Vec<(PathBuf, PathBuf)>> {
    let (Some(model), Some(text)) = (&args.model, &args.text) else {
        let root = |path: &PathBuf| settings.root.join(path);
        return Ok(settings.models.iter().map(|model| (root(&model.file), root(&model.text))).collect());
    };
    Ok(vec![(file_of(ctx, model)?, present(text.clone())?)])
}

/// The file of a model that is named or given.
pub fn file_of(ctx: &Ctx, model: &str) -> Result<PathBuf> {
    present(match ModelArg::parse(model) {
        ModelArg::File(path) => path,
        ModelArg::Name(name) => models::known(&name)?.path_in(&ctx.cache_dir()?),
    })
}

/// The path, of a file that is there.
pub fn present(path: PathBuf) -> Result<PathBuf> {
    if path.is_file() {
        Ok(path)
    } else {
        fail(ExitCode::NotFound, format!("{} is not a file", path.display()))
    }
}

/// The perplexity of `model` on the first `chunks` of `text`.
pub fn measure(
    ctx: &Ctx,
    binary: &Path,
    model: &Path,
    text: &Path,
    context: u32,
    chunks: Option<u32>,
) -> Result<Measured> {
    let chunks = chunks.map(|count| count.to_string());
    let output = ask(ctx, binary, model, text, context, chunks.as_deref())?;
    Ok(Measured {
        model: store::file_facts(model)?,
        text: store::file_facts(text)?,
        context: output.ctx_size,
        scored: output.scored,
        activation_quant: output.engine.activation_quant,
        nll: output.nll,
        standard_error: output.standard_error,
        kernels: output.kernels,
    })
}

/// Asks the binary; `chunks` as its `--chunks` takes them.
pub fn ask(
    ctx: &Ctx,
    binary: &Path,
    model: &Path,
    text: &Path,
    context: u32,
    chunks: Option<&str>,
) -> Result<Output> {
    let mut command = Command::new(binary)
        .args(["perplexity", "--json", "--ctx-size"])
        .args([context.to_string()])
        .args(["--model"])
        .args([model])
        .args(["--file"])
        .args([text]);
    if let Some(chunks) = chunks {
        command = command.args(["--chunks", chunks]);
    }
    let mut progress = ctx.out.progress(format!("scoring with {}", model.display()));
    let finished = proc::run(ctx, &command, Stdout::Capture, &ctx.log_file("eval")?, |line| {
        progress.message(line);
    })?;
    drop(progress);
    if !finished.success() {
        // The binary's exit code is of the same table.
        let code = ExitCode::ALL.into_iter().find(|code| Some(*code as i32) == finished.code);
        return fail(code.unwrap_or(ExitCode::Internal), finished.explain());
    }
    serde_json::from_str(&finished.stdout)
        .with_context(|| format!("`{}` printed JSON that xtask does not know", finished.line))
}

/// Replaces the committed golden of every model by what was measured.
fn update(settings: &mut Settings, measured: &[Measured]) -> Result<()> {
    let golden = |measured: &Measured| Golden {
        context: measured.context,
        scored: measured.scored,
        perplexity: perplexity(&measured.nll, measured.scored),
        nll: measured.nll.clone(),
    };
    settings.ours = measured.iter().map(|measured| (measured.model.name.clone(), golden(measured))).collect();
    let path = settings.root.join(OURS);
    let text = serde_json::to_string(&settings.ours).context("serializing the goldens")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

fn render(out: &Reporter, rows: &[Row]) -> String {
    let number = |value: Option<f64>| value.map_or("none".to_string(), |value| format!("{value:.4}"));
    let lines = rows.iter().map(|row| {
        let judged = &row.judged;
        let state = match (judged.problems.is_empty(), judged.holds()) {
            (false, _) => State::Fail,
            (true, true) => State::Ok,
            (true, false) => State::CouldNotCheck,
        };
        let why = judged.problems.first().or(judged.unknown.as_ref()).cloned().unwrap_or_default();
        let perplexity = format!("{:.4} +/- {:.4}", judged.perplexity, row.standard_error);
        let (chunks, golden, torch) = (row.chunks.to_string(), number(judged.golden), number(judged.torch));
        [out.mark(state), row.model.clone(), chunks, perplexity, golden, torch, why]
    });
    table(["", "model", "chunks", "perplexity", "committed", "PyTorch", ""], lines)
}
