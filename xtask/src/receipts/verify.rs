//! `receipt verify FILE [--replay N]`: a stranger's judgement of a receipt.
//!
//! In: a receipt and what lies around it: the binary, the model, other receipts. Out: every gate with pass, fail,
//! could-not-check or not-applicable, and a verdict. Whether the compute was real is derived from the gates here; no
//! receipt says it. Deliberately absent: trust in anything a receipt says about itself.

use super::gates::{self, Evidence, Judged, Judgement, Outcome};
use super::store;
use crate::binary;
use crate::crossval::settings::Settings;
use crate::crossval::{self, ModelFacts};
use crate::ctx::Ctx;
use crate::eval;
use crate::exit::fail;
use crate::proc::{self, Command};
use crate::report::{Reporter, State, table};
use anyhow::{Context, Result};
use bitforge_receipt_schema::eval::Measured;
use bitforge_receipt_schema::run::Run;
use bitforge_receipt_schema::{Body, FileFacts, Receipt};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::slice;

#[derive(clap::Subcommand, Clone, Debug)]
pub enum ReceiptCommand {
    /// Judge a receipt by numbered gates.
    Verify(VerifyArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct VerifyArgs {
    pub file: PathBuf,
    /// Generate the first N tokens, or score the first N chunks, again and compare
    #[arg(long, value_name = "N")]
    pub replay: Option<usize>,
    /// The model file (default: looked for by name and size in the cache and among the fixtures)
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The binary (default: the release build, where there is one)
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Where the receipts that it builds on lie (default: beside it)
    #[arg(long, value_name = "DIR")]
    pub receipts: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub struct Verdict {
    pub file: PathBuf,
    pub kind: String,
    pub ok: bool,
    /// Derived: `replayed`, `consistent`, `not-shown`, `refuted`.
    pub compute: &'static str,
    pub gates: Vec<Outcome>,
}

pub fn run(ctx: &Ctx, command: &ReceiptCommand) -> Result<ExitCode> {
    let ReceiptCommand::Verify(args) = command;
    let verdict = verify(ctx, args)?;
    if ctx.out.is_json() {
        ctx.out.json(&verdict)?;
    }
    ctx.out.line(render(&ctx.out, &verdict));
    Ok(if verdict.ok { ExitCode::Ok } else { ExitCode::CheckFailed })
}

pub fn verify(ctx: &Ctx, args: &VerifyArgs) -> Result<Verdict> {
    let text = store::text(&args.file)?;
    let receipt = match store::parse(&text) {
        Ok(receipt) => receipt,
        Err(problem) => {
            let gates = vec![gates::outcome(1, (Judgement::Fail, problem))];
            return Ok(Verdict {
                file: args.file.clone(),
                kind: String::new(),
                ok: false,
                compute: "refuted",
                gates,
            });
        }
    };
    let evidence = evidence(ctx, args, &receipt)?;
    let mut gates = gates::judge(&receipt, &evidence);
    gates.push(gates::outcome(10, replay(ctx, args, &receipt, &evidence)?));
    let ok = gates.iter().all(|outcome| outcome.judgement != Judgement::Fail);
    let kind = receipt.body.kind().to_string();
    Ok(Verdict { file: args.file.clone(), kind, ok, compute: compute(&receipt, &gates), gates })
}

/// What the gates together say about the compute.
pub(super) fn compute(receipt: &Receipt, gates: &[Outcome]) -> &'static str {
    let is = |number: u8, wanted: Judgement| {
        gates.iter().any(|outcome| outcome.gate == number && outcome.judgement == wanted)
    };
    let shown = [2, 3, 4].into_iter().all(|number| is(number, Judgement::Pass));
    match &receipt.body {
        _ if gates.iter().any(|outcome| outcome.judgement == Judgement::Fail) => "refuted",
        Body::Run(_) if shown && is(10, Judgement::Pass) => "replayed",
        // Without the shape of every model nothing can be counted beforehand; the sums of a text are as hard to make up.
        Body::Eval(_) | Body::ClusterEval(_)
            if [2, 3, 7, 10].into_iter().all(|number| is(number, Judgement::Pass)) =>
        {
            "replayed"
        }
        Body::Run(_) if shown => "consistent",
        _ => "not-shown",
    }
}

pub(super) fn evidence(ctx: &Ctx, args: &VerifyArgs, receipt: &Receipt) -> Result<Evidence> {
    let given = |path: &Option<PathBuf>| -> Result<Option<PathBuf>> {
        match path {
            Some(path) if !path.is_file() => {
                fail(ExitCode::NotFound, format!("{} is not a file", path.display()))
            }
            path => Ok(path.clone()),
        }
    };
    let binary = match given(&args.binary)? {
        Some(path) => Some(path),
        None => {
            let named = ctx.env.get("BITNET_BINARY").map(PathBuf::from);
            let path = named.map_or_else(|| Ok(ctx.target_dir()?.join("release/bitnet")), anyhow::Ok)?;
            Some(path).filter(|path| path.is_file())
        }
    };
    let model = match (given(&args.model)?, &receipt.body) {
        (Some(path), _) => Some(path),
        (None, Body::Run(run)) => find_model(ctx, &run.model.file)?,
        (None, Body::Bench(bench)) => find_model(ctx, &bench.model)?,
        (None, Body::ClusterEval(eval)) => find_model(ctx, &eval.measured.model)?,
        _ => None,
    };
    let facts: Option<ModelFacts> = match (&model, &binary) {
        (Some(model), Some(binary)) => crossval::facts_from(ctx, binary, model).ok(),
        _ => None,
    };
    let folder = match &args.receipts {
        Some(folder) => folder.clone(),
        None => args.file.parent().unwrap_or(Path::new(".")).to_path_buf(),
    };
    let known = |binary: &PathBuf| proc::read(ctx, &Command::new(binary).args(["kernels", "--json"]));
    Ok(Evidence {
        kernels: binary.as_ref().map(|binary| kernels(&known(binary)?)).transpose()?,
        binary,
        model,
        facts,
        thresholds: Settings::load(ctx)?.thresholds,
        eval: eval::settings::Settings::load(ctx)?,
        receipts: folder,
    })
}

/// A file of this name and size in the cache, among the fixtures or the models made on the fly.
fn find_model(ctx: &Ctx, facts: &FileFacts) -> Result<Option<PathBuf>> {
    let target = ctx.target_dir()?;
    let fixtures = ctx.root()?.join("fixtures");
    let mut folders = vec![fixtures.join("gguf/ok"), fixtures.join("trained")];
    folders.extend([target.join("layer-2b"), target.join("converted")]);
    let models = ctx.cache_dir()?.join("models");
    folders.extend(std::fs::read_dir(&models).into_iter().flatten().flatten().map(|entry| entry.path()));
    folders.push(models);
    let candidates = folders.into_iter().map(|folder| folder.join(&facts.name));
    let fits = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.len() == facts.bytes);
    Ok(candidates.into_iter().find(fits))
}

/// Ids and levels of every kernel, from what `bitnet kernels --json` prints.
pub(super) fn kernels(text: &str) -> Result<Vec<(String, String)>> {
    #[derive(Deserialize)]
    struct Kernels {
        kernel_ids: Vec<String>,
    }
    let kernels: Kernels = serde_json::from_str(text).context("the JSON of `bitnet kernels`")?;
    // An id ends with its level.
    let level = |id: &str| id.rsplit('.').next().unwrap_or_default().to_owned();
    Ok(kernels.kernel_ids.into_iter().map(|id| (level(&id), id)).map(|(level, id)| (id, level)).collect())
}

pub(super) fn replay(ctx: &Ctx, args: &VerifyArgs, receipt: &Receipt, evidence: &Evidence) -> Result<Judged> {
    let Some(wanted) = args.replay else {
        return Ok((Judgement::NotApplicable, "not asked for (--replay N)".into()));
    };
    let run = match &receipt.body {
        Body::Run(run) => run,
        Body::Eval(eval) => return replay_eval(ctx, &eval.measured, evidence, wanted),
        Body::ClusterEval(eval) => {
            return replay_eval(ctx, slice::from_ref(&eval.measured), evidence, wanted);
        }
        _ => return Ok((Judgement::NotApplicable, "only runs and evaluations can be replayed".into())),
    };
    let (Some(model), Some(_)) = (&evidence.model, &evidence.binary) else {
        return Ok((Judgement::CouldNotCheck, "the model or the binary is not here".into()));
    };
    let recorded = &run.work.output_tokens;
    let count = wanted.min(recorded.len());
    if count == 0 || run.work.prompt_tokens.is_empty() {
        return Ok((Judgement::CouldNotCheck, "nothing was generated that could be generated again".into()));
    }
    let binary = evidence.binary.clone().map_or_else(|| binary::release(ctx), Ok)?;
    let tokens = generate(ctx, &binary, model, run, count)?;
    Ok(same_tokens(&tokens, recorded, count))
}

/// Whether the first `count` tokens came out again.
pub(super) fn same_tokens(tokens: &[u32], recorded: &[u32], count: usize) -> Judged {
    let same = tokens.iter().zip(recorded).take(count).take_while(|(a, b)| a == b).count();
    match same == count {
        true => gates::pass(format!("{count} of {} tokens are the same", recorded.len())),
        false => gates::fails(format!(
            "token {same} is {} and the receipt says {}",
            tokens.get(same).map_or("missing".to_string(), u32::to_string),
            recorded[same]
        )),
    }
}

/// Scores the first chunks of the first model once more.
fn replay_eval(ctx: &Ctx, recorded: &[Measured], evidence: &Evidence, chunks: usize) -> Result<Judged> {
    let settings = &evidence.eval;
    let known = |measured: &&Measured| settings.model(&measured.model.name).is_some();
    let Some((binary, measured)) = evidence.binary.as_ref().zip(recorded.iter().find(known)) else {
        return Ok((Judgement::CouldNotCheck, "no model of it or not the binary is here".into()));
    };
    let count = chunks.min(measured.nll.len());
    let model = settings.model(&measured.model.name).context("it was found before")?;
    let (file, text) = (settings.root.join(&model.file), settings.root.join(&model.text));
    let again = eval::measure(ctx, binary, &file, &text, measured.context, Some(count as u32))?;
    Ok(same_sums(&again.nll, measured, count))
}

/// Whether the sums of the first `count` chunks, at least one, came out again.
pub(super) fn same_sums(again: &[f64], measured: &Measured, count: usize) -> Judged {
    // JSON may lose the last place of a number.
    let same = |(a, b): &(&f64, &f64)| (*a - *b).abs() <= 1e-9 * a.abs();
    let same = again.iter().zip(&measured.nll).take(count).take_while(same).count();
    match same == count && count > 0 {
        true => gates::pass(format!("{count} of {} chunks give the same sums", measured.nll.len())),
        false => gates::fails(format!("chunk {same} of {} gives another sum", measured.model.name)),
    }
}

fn generate(ctx: &Ctx, binary: &Path, model: &Path, run: &Run, count: usize) -> Result<Vec<u32>> {
    #[derive(Deserialize)]
    struct Output {
        output_tokens: Vec<u32>,
    }
    let ids: Vec<String> = run.work.prompt_tokens.iter().map(u32::to_string).collect();
    let mut command = Command::new(binary)
        .args(["run", "--json", "--activation-quant", run.activation_quant.name()])
        .args(["--prompt-tokens".to_string(), ids.join(",")])
        .args(["--max-tokens".to_string(), count.to_string(), "--seed".into(), run.work.seed.to_string()])
        .args(["--model"])
        .args([model]);
    for (name, value) in &run.work.sampling {
        command = command.args([format!("--{}", name.replace('_', "-")), value.to_string()]);
    }
    let text = proc::read(ctx, &command)?;
    let output: Output = serde_json::from_str(&text).context("the JSON of `bitnet run`")?;
    Ok(output.output_tokens)
}

pub(super) fn render(out: &Reporter, verdict: &Verdict) -> String {
    let rows = verdict.gates.iter().map(|outcome| {
        let (state, word) = match outcome.judgement {
            Judgement::Pass => (State::Ok, "pass"),
            Judgement::Fail => (State::Fail, "FAIL"),
            Judgement::CouldNotCheck => (State::CouldNotCheck, "could not check"),
            Judgement::NotApplicable => (State::Warn, "not applicable"),
        };
        let mark = if state == State::Warn { " ".to_string() } else { out.mark(state) };
        [mark, outcome.gate.to_string(), outcome.name.into(), word.into(), outcome.detail.clone()]
    });
    let compute = match verdict.compute {
        "replayed" => "the compute was real: it was done again with the same result",
        "consistent" => "the counters are those of a real run on this model; --replay N would do it again",
        "refuted" => "it does not hold",
        _ => "that the compute was real is not shown by this receipt alone",
    };
    let missing = verdict.gates.iter().filter(|gate| gate.judgement == Judgement::CouldNotCheck).count();
    let state = match (verdict.ok, missing) {
        (false, _) => State::Fail,
        (true, 0) => State::Ok,
        (true, _) => State::Warn,
    };
    let rest = if missing > 0 { format!("; {missing} gates could not be checked") } else { String::new() };
    format!(
        "{}\n{} {} receipt: {compute}{rest}",
        table(["", "gate", "", "", "why"], rows),
        out.mark(state),
        if verdict.kind.is_empty() { "unreadable" } else { &verdict.kind }
    )
}
