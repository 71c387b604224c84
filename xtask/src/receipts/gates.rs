//! The numbered gates that a receipt has to pass, and what each of them proves.
//!
//! In: a receipt and the [`Evidence`] that is at hand. Out: an [`Outcome`] per gate. A gate that lacks what it needs
//! says so; that is never a pass. Deliberately absent: reading files of models (the binary is asked), and replay
//! (see [`super::verify`]), which runs the binary.

use super::counters::{counters, two_stage};
use super::store;
use crate::cluster::merge;
use crate::crossval::ModelFacts;
use crate::crossval::lane::problems;
use crate::crossval::settings::Thresholds;
use crate::eval::judge::judge_all;
use crate::eval::settings::Settings as EvalSettings;
use bitforge_receipt_schema::bench::{Bench, Series};
use bitforge_receipt_schema::crossval::{Crossval, Verdict};
use bitforge_receipt_schema::eval::Measured;
use bitforge_receipt_schema::run::{MatrixFacts, MatrixRole, Run, TokenizerAuthority};
use bitforge_receipt_schema::{Body, FileFacts, Receipt};
use bitforge_schema::protocol::KernelCount;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::slice;

/// Number, name, and what a pass shows. `docs/reference/receipts.md` is generated from this table.
pub const GATES: [(u8, &str, &str); 10] = [
    (
        1,
        "schema",
        "the file is a receipt of this version, with no field that is not known, and its token digests are those of its tokens, what its shards add up to is what it says",
    ),
    (2, "digests", "the binary and the model are the files that are here"),
    (3, "kernels", "every kernel that was counted exists in the binary, at a level that was selected"),
    (4, "counters", "the kernels did the work that the model's shape and the tokens ask for, within 1%"),
    (
        5,
        "roofline",
        "no more bytes were read per second than the machine can, and kernels ran no longer than the run",
    ),
    (6, "tokenizer", "the tokenizer came whole from the model file, or what was inferred is said"),
    (
        7,
        "parity",
        "the same binary agrees with the engines that can judge the model; perplexities are the committed ones and PyTorch's",
    ),
    (8, "strict", "what was requested was in force"),
    (
        9,
        "chain",
        "the receipts it builds on are here, unchanged, of the right kinds, and about the same files",
    ),
    (10, "replay", "the same tokens come out again"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    Pass,
    Fail,
    /// What it takes to judge is not here. Never a pass.
    CouldNotCheck,
    /// The gate is not about this kind of receipt.
    NotApplicable,
}

#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub gate: u8,
    pub name: &'static str,
    pub judgement: Judgement,
    pub detail: String,
}

/// What is at hand to judge a receipt with.
pub struct Evidence {
    pub binary: Option<PathBuf>,
    pub model: Option<PathBuf>,
    /// Of the model file, where it is here.
    pub facts: Option<ModelFacts>,
    /// Kernel ids of the binary with their levels, the lowest level first, and whether they are there.
    pub kernels: Option<Vec<(String, String)>>,
    pub thresholds: Thresholds,
    /// Goldens of perplexities, and their tolerances.
    pub eval: EvalSettings,
    /// The folder with the receipts it may build on.
    pub receipts: PathBuf,
}

pub(super) type Judged = (Judgement, String);

pub(super) fn pass(detail: impl Into<String>) -> Judged {
    (Judgement::Pass, detail.into())
}

pub(super) fn fails(detail: impl Into<String>) -> Judged {
    (Judgement::Fail, detail.into())
}

fn could_not(detail: impl Into<String>) -> Judged {
    (Judgement::CouldNotCheck, detail.into())
}

fn not_applicable(detail: impl Into<String>) -> Judged {
    (Judgement::NotApplicable, detail.into())
}

/// Gates 1 to 9.
pub fn judge(receipt: &Receipt, evidence: &Evidence) -> Vec<Outcome> {
    let body = &receipt.body;
    let run = match body {
        Body::Run(run) => Some(&**run),
        _ => None,
    };
    let only_runs = || not_applicable("only runs have it");
    let judged: [Judged; 9] = [
        schema(body),
        digests(body, evidence),
        kernels(body, evidence),
        run.map_or_else(only_runs, |run| counters(run, evidence)),
        roofline(body),
        run.map_or_else(only_runs, tokenizer),
        parity(receipt, evidence),
        run.map_or_else(only_runs, strict),
        chain(receipt, evidence),
    ];
    judged.into_iter().zip(GATES).map(|(judged, (gate, ..))| outcome(gate, judged)).collect()
}

/// The outcome of the gate of this number.
pub fn outcome(gate: u8, (judgement, detail): Judged) -> Outcome {
    let name = GATES.iter().find(|(number, ..)| *number == gate).map_or("", |(_, name, _)| *name);
    Outcome { gate, name, judgement, detail }
}

/// The files that a body names: (what, facts).
fn files(body: &Body) -> Vec<(&'static str, &FileFacts)> {
    match body {
        Body::Run(run) => vec![("binary", &run.binary), ("model", &run.model.file)],
        Body::Crossval(crossval) => vec![("binary", &crossval.binary)],
        Body::Eval(eval) => vec![("binary", &eval.binary)],
        Body::ClusterEval(eval) => vec![("binary", &eval.binary), ("model", &eval.measured.model)],
        Body::Bench(bench) => vec![("binary", &bench.binary), ("model", &bench.model)],
        Body::Step(step) => step.files.iter().map(|file| ("file", file)).collect(),
    }
}

fn schema(body: &Body) -> Judged {
    let hex = |text: &str| {
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if let Some((what, file)) = files(body).into_iter().find(|(_, file)| !hex(&file.sha256)) {
        return fails(format!("the {what}'s digest '{}' is no sha256", file.sha256));
    }
    if let Body::Run(run) = body {
        let work = &run.work;
        for (what, tokens, digest) in [
            ("prompt", &work.prompt_tokens, &work.prompt_sha256),
            ("output", &work.output_tokens, &work.output_sha256),
        ] {
            if store::tokens_sha256(tokens) != *digest {
                return fails(format!("the {what} tokens do not have the digest that is listed"));
            }
        }
    }
    if let Body::ClusterEval(eval) = body
        && let Err(problem) = merge::holds(eval)
    {
        return fails(problem);
    }
    pass("read strictly")
}

fn digests(body: &Body, evidence: &Evidence) -> Judged {
    let mut absent = Vec::new();
    let mut same = Vec::new();
    for (what, facts) in files(body) {
        let path = match what {
            "binary" => &evidence.binary,
            "model" => &evidence.model,
            _ => &None,
        };
        let Some(path) = path else {
            absent.push(format!("{what} {}", facts.name));
            continue;
        };
        match store::sha256(path) {
            Ok(digest) if digest == facts.sha256 => same.push(what),
            Ok(_) => return fails(format!("{} is another {what} than {}", path.display(), facts.name)),
            Err(error) => return could_not(format!("{error:#}")),
        }
    }
    match absent.is_empty() {
        true if same.is_empty() => not_applicable("it names no file"),
        true => pass(format!("{} as listed", same.join(" and "))),
        false => could_not(format!("not here: {}; give --model or --binary", absent.join(", "))),
    }
}

fn kernels(body: &Body, evidence: &Evidence) -> Judged {
    let (counts, selection) = match body {
        Body::Run(run) => (run.kernels.iter().collect::<Vec<_>>(), Some(&run.selection)),
        Body::Bench(bench) => (bench.series.iter().flat_map(|series| &series.kernels).collect(), None),
        Body::Eval(eval) => (eval.measured.iter().flat_map(|measured| &measured.kernels).collect(), None),
        Body::ClusterEval(eval) => (eval.measured.kernels.iter().collect(), None),
        _ => return not_applicable("it counts no kernels"),
    };
    if counts.is_empty() {
        return fails("no kernel was counted");
    }
    let Some(known) = &evidence.kernels else {
        return could_not("the binary is not here to be asked for its kernels; give --binary");
    };
    for count in &counts {
        let Some((_, level)) = known.iter().find(|(id, _)| *id == count.id) else {
            return fails(format!("{} is no kernel of the binary", count.id));
        };
        if let Some(selection) = selection {
            let rank = |name: &str| selection.compiled.iter().position(|level| level == name);
            let detected = selection.detected.contains(level);
            if !detected || rank(level) > rank(&selection.selected) {
                return fails(format!("{} is above the selected level {}", count.id, selection.selected));
            }
        }
    }
    pass(format!("{} in the registry", counts.len()))
}

fn roofline(body: &Body) -> Judged {
    match body {
        Body::Run(run) => run_roofline(run),
        Body::Bench(bench) => bench_roofline(bench),
        _ => not_applicable("it measures nothing"),
    }
}

fn run_roofline(run: &Run) -> Judged {
    let work = &run.work;
    let wall = (work.prompt_ns + work.decode_ns) as f64 * f64::from(run.threads);
    let spent: u64 = run.kernels.iter().map(|count| count.nanoseconds).sum();
    if spent as f64 > wall * 1.01 {
        return fails(format!("kernels ran for {spent} ns in {wall:.0} ns of all threads"));
    }
    if let Some(count) = run.kernels.iter().find(|count| count.nanoseconds == 0 && count.rows > 1000) {
        return fails(format!("{} took no time for {} dot products", count.id, count.rows));
    }
    let bytes: u64 = run.model.matrices.iter().map(|matrix| matrix.bytes).sum();
    let Some(cache) = run.machine.last_level_cache else {
        return could_not("the size of the last-level cache is not known");
    };
    if bytes <= 2 * cache {
        return not_applicable(format!(
            "{bytes} bytes of weights are not above twice the last-level cache of {cache}; the times add up"
        ));
    }
    let (Some(peak), true) = (run.peak_bandwidth, work.decode_ns > 0) else {
        return could_not("no bandwidth was sampled, or nothing was decoded");
    };
    // A searched head reads less than all of itself.
    let head = |count: &&KernelCount| count.id.starts_with("head.");
    let searched: u64 = run.kernels.iter().filter(head).map(|count| count.bytes).sum();
    let bytes = match two_stage(run) {
        None => bytes as f64,
        Some(_) => {
            let is_layer = |matrix: &&MatrixFacts| matrix.role == MatrixRole::Layer;
            let layers: u64 = run.model.matrices.iter().filter(is_layer).map(|matrix| matrix.bytes).sum();
            layers as f64 + searched as f64 / work.logits_positions.max(1) as f64
        }
    };
    let speed = bytes * work.decoded_tokens as f64 / (work.decode_ns as f64 * 1e-9);
    below(speed, peak)
}

fn bench_roofline(bench: &Bench) -> Judged {
    if !bench.machine.gpus.is_empty() {
        return could_not("the bandwidth of a GPU is not sampled");
    }
    let Some(cache) = bench.machine.last_level_cache else {
        return could_not("the size of the last-level cache is not known");
    };
    let peak = bench.limits.read_bandwidth.iter().flatten().fold(0.0, |max: f64, sample| max.max(*sample));
    let decode = bench.series.iter().filter(|series| series.test.starts_with("tg"));
    let large = |series: &&Series| series.weight_bytes / u64::from(series.tokens.max(1)) > 2 * cache;
    let speeds = decode.filter(large).flat_map(|series| {
        let bytes = series.weight_bytes as f64;
        series.samples_ns.iter().map(move |ns| bytes / (*ns as f64 * 1e-9))
    });
    match speeds.reduce(f64::max) {
        Some(speed) => below(speed, peak),
        None => not_applicable("no series reads more than twice the last-level cache per token"),
    }
}

/// A twentieth above the highest sample is taken for the noise of sampling.
pub(super) fn below(speed: f64, peak: f64) -> Judged {
    let text =
        format!("{:.1} GB/s of weights, and {:.1} GB/s is the most that was seen", speed / 1e9, peak / 1e9);
    if speed > 1.05 * peak { fails(text) } else { pass(text) }
}

fn tokenizer(run: &Run) -> Judged {
    match run.tokenizer.authority {
        TokenizerAuthority::Embedded => pass("whole in the model file"),
        TokenizerAuthority::Discovered if run.strict => {
            fails("a part was inferred although the run was strict")
        }
        TokenizerAuthority::Discovered => pass("a part was inferred, and the receipt says so"),
        TokenizerAuthority::External => could_not("a file of the user's; it is not here to be compared"),
    }
}

fn parity(receipt: &Receipt, evidence: &Evidence) -> Judged {
    let (binary, model) = match &receipt.body {
        Body::Crossval(crossval) => return crossval_holds(crossval, &evidence.thresholds),
        Body::Eval(eval) => return perplexities_hold(&eval.measured, evidence),
        Body::ClusterEval(eval) => return perplexities_hold(slice::from_ref(&eval.measured), evidence),
        Body::Run(run) => (&run.binary, &run.model.file),
        Body::Bench(bench) => (&bench.binary, &bench.model),
        Body::Step(_) => return not_applicable("it computes nothing"),
    };
    let Ok(parent) = store::read(&evidence.receipts.join("crossval.json")) else {
        return could_not(format!("no crossval.json in {}", evidence.receipts.display()));
    };
    let Body::Crossval(crossval) = &parent.body else { return fails("crossval.json is of another kind") };
    if crossval.binary.sha256 != binary.sha256 {
        return could_not("the crossval receipt is of another binary; run `cargo xtask crossval` again");
    }
    if let (Judgement::Fail, why) = crossval_holds(crossval, &evidence.thresholds) {
        return fails(why);
    }
    let of_model = crossval.lanes.iter().filter(|lane| lane.model.sha256 == model.sha256);
    match of_model
        .filter(|lane| lane.verdict == Verdict::Agrees)
        .map(|lane| lane.engine.as_str())
        .collect::<Vec<_>>()
    {
        engines if engines.is_empty() => {
            could_not("the crossval receipt does not judge this model; run `cargo xtask crossval --model`")
        }
        engines => pass(format!("the same binary and model agree with {}", engines.join(" and "))),
    }
}

fn perplexities_hold(measured: &[Measured], evidence: &Evidence) -> Judged {
    match judge_all(measured, &evidence.eval) {
        Some(Ok(detail)) => pass(detail),
        Some(Err(problem)) => fails(problem),
        None => could_not("no model of it has a golden"),
    }
}

/// Recomputes every verdict; the thresholds must be at least as strict as tools/crossval.toml.
fn crossval_holds(crossval: &Crossval, strictest: &Thresholds) -> Judged {
    let t = &crossval.thresholds;
    if t.min_cosine < strictest.min_cosine
        || t.top1_gap > strictest.top1_gap
        || t.perplexity > strictest.perplexity
        || t.min_positions < strictest.min_positions
    {
        return fails("its thresholds are looser than those of tools/crossval.toml");
    }
    let mut agreeing = 0_usize;
    for lane in &crossval.lanes {
        let about = format!("{} against {}", lane.model.name, lane.engine);
        match (lane.verdict, &lane.metrics) {
            (Verdict::Agrees, Some(metrics)) => match problems(metrics, strictest, None).first() {
                Some(problem) => return fails(format!("{about} is said to agree: {problem}")),
                None => agreeing += 1,
            },
            (Verdict::Agrees, None) => {
                return fails(format!("{about} is said to agree without a measurement"));
            }
            (Verdict::Diverges, _) => return fails(format!("{about} diverges: {}", lane.detail)),
            (Verdict::CouldNotCheck, _) => {}
        }
    }
    match agreeing {
        0 => could_not("nothing could be compared"),
        n => pass(format!("{n} of {} comparisons agree", crossval.lanes.len())),
    }
}

fn strict(run: &Run) -> Judged {
    let in_force = |(name, asked): &(&String, &String)| {
        let effective = run.environment_effective.get(*name);
        effective == Some(*asked) || *asked == "auto" && effective.is_some()
    };
    match run.environment_requested.iter().find(|pair| !in_force(pair)) {
        Some((name, asked)) => fails(format!(
            "{name}={asked} was requested and {} was in force",
            run.environment_effective.get(name).map_or("nothing", String::as_str)
        )),
        None if run.strict => pass("strict, and everything that was requested was in force"),
        None => pass("not strict; everything that was requested was in force"),
    }
}

/// Kinds that may be the parents of a kind.
fn allowed_parents(kind: &str) -> &'static [&'static str] {
    match kind {
        "symbols" => &["reference"],
        "kernels" | "eval" | "cluster-eval" => &["build"],
        "crossval" => &["reference", "model", "build"],
        "bench" | "run" => &["crossval", "reference", "model", "build"],
        _ => &[],
    }
}

fn chain(receipt: &Receipt, evidence: &Evidence) -> Judged {
    if receipt.parents.is_empty() {
        return match &receipt.body {
            Body::Step(_) => not_applicable("it builds on nothing"),
            _ => could_not("it names no receipt that it builds on"),
        };
    }
    let mut absent = Vec::new();
    if let Err(problem) = follow(receipt, &evidence.receipts, &mut absent) {
        return fails(problem);
    }
    match absent.is_empty() {
        true => pass(receipt.parents.keys().cloned().collect::<Vec<_>>().join(" and ")),
        false => could_not(format!("not in {}: {}", evidence.receipts.display(), absent.join(", "))),
    }
}

/// A chain ends: what a kind may build on builds on less.
fn follow(receipt: &Receipt, folder: &Path, absent: &mut Vec<String>) -> Result<(), String> {
    let kind = receipt.body.kind();
    for (parent, digest) in &receipt.parents {
        if !allowed_parents(kind).contains(&parent.as_str()) {
            return Err(format!("a receipt of {kind} does not build on one of {parent}"));
        }
        let path = folder.join(format!("{parent}.json"));
        if !path.is_file() {
            absent.push(format!("{parent}.json"));
            continue;
        }
        if store::sha256(&path).ok().as_ref() != Some(digest) {
            return Err(format!("{} is not the file it was", path.display()));
        }
        let parent = store::read(&path).map_err(|error| format!("{error:#}"))?;
        if parent.body.kind() != path.file_stem().unwrap_or_default().to_string_lossy() {
            return Err(format!("{} is a receipt of {}", path.display(), parent.body.kind()));
        }
        same_files(&receipt.body, &parent.body)?;
        follow(&parent, folder, absent)?;
    }
    Ok(())
}

/// Along a chain, the binary and the model stay the same files.
fn same_files(child: &Body, parent: &Body) -> Result<(), String> {
    let of = |body: &Body, what: &str| -> Vec<String> {
        files(body)
            .into_iter()
            .filter(|(found, _)| *found == what)
            .map(|(_, file)| file.sha256.clone())
            .collect()
    };
    if matches!(parent, Body::Crossval(_)) && of(child, "binary") != of(parent, "binary") {
        return Err("the crossval receipt is of another binary".into());
    }
    if let Body::Step(step) = parent
        && step.step == "model"
        && let [model] = of(child, "model").as_slice()
        && step.files.iter().all(|file| file.sha256 != *model)
    {
        return Err("the model receipt is of another model".into());
    }
    Ok(())
}
