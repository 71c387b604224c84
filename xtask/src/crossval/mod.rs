//! `crossval`: our logits against every engine that can judge them.
//!
//! In: models and the names of engines, or the standard set of tools/crossval.toml. Out: a verdict per comparison,
//! what went wrong first where they diverge, a receipt. [`engines`] starts processes, [`lane`] compares two of
//! them, [`metrics`] measures, [`blame`] finds the culprit, [`settings`] has the thresholds with their reasons.
//! Something that could not be compared is never agreement. Deliberately absent: any arithmetic of a model.

pub mod blame;
pub mod engines;
mod fixture;
mod html;
pub mod lane;
pub mod metrics;
pub mod settings;

use crate::binary;
use crate::cli::ModelArg;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::models;
use crate::proc::{self, Command};
use crate::receipts::{machine, store};
use crate::report::{Reporter, State, table};
use anyhow::{Context, Result};
use bitforge_receipt_schema::crossval::{self as receipt, Verdict};
use bitforge_receipt_schema::{Body, FileFacts, MachineFacts};
use bitforge_schema::exit::ExitCode;
use lane::{Comparison, Report};
use serde::{Deserialize, Serialize};
use settings::{Settings, Standard, Thresholds};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Clone, Debug, Default)]
pub struct CrossvalArgs {
    /// A name of the catalog or a GGUF file (default: the standard set of tools/crossval.toml)
    #[arg(long)]
    pub model: Option<String>,
    /// llama, bitnet, oracle, transformers, command:CMD (judged first) or trusted-command:CMD (default: what can
    /// judge the model)
    #[arg(long, value_delimiter = ',', requires = "model")]
    pub against: Vec<Against>,
    /// Positions to compare
    #[arg(long, default_value_t = 256)]
    pub tokens: usize,
    /// Where our engine computes; with `cuda` it is compared with our own CPU path too
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// A text to take the tokens from
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Compare this engine instead of ours (for debugging): command:CMD
    #[arg(long, value_name = "COMMAND")]
    pub subject: Option<Against>,
    /// Where a wrong matrix product is found, write its row here
    #[arg(long, value_name = "DIR")]
    pub write_fixture: Option<PathBuf>,
    /// Write crossval.html beside the receipts: one page with every position, layer and operation
    #[arg(long)]
    pub html: bool,
}

/// The engine that ours is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Against {
    Llama,
    Bitnet,
    /// tools/oracle, in float64.
    Oracle,
    /// Stored logits of transformers' class.
    Transformers,
    /// Our binary on the CPU, for comparing a GPU with it.
    Cpu,
    /// A command line that speaks the engine protocol.
    Command(String),
    /// The same, believed without being judged: for debugging one build of ours against another.
    TrustedCommand(String),
}

impl Against {
    pub fn name(&self) -> &str {
        match self {
            Against::Llama => "llama",
            Against::Bitnet => "bitnet",
            Against::Oracle => "oracle",
            Against::Transformers => "transformers",
            Against::Cpu => "cpu",
            Against::Command(_) => "command",
            Against::TrustedCommand(_) => "trusted-command",
        }
    }
}

impl std::str::FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "llama" => Against::Llama,
            "bitnet" => Against::Bitnet,
            "oracle" => Against::Oracle,
            "transformers" => Against::Transformers,
            "cpu" => Against::Cpu,
            _ => match text.split_once(':') {
                Some(("command", line)) => Against::Command(line.into()),
                Some(("trusted-command", line)) => Against::TrustedCommand(line.into()),
                _ => return Err("give llama, bitnet, oracle, transformers, cpu or command:CMD".into()),
            },
        })
    }
}

impl TryFrom<String> for Against {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Against> for String {
    fn from(against: Against) -> Self {
        match against {
            Against::Command(line) => format!("command:{line}"),
            Against::TrustedCommand(line) => format!("trusted-command:{line}"),
            named => named.name().into(),
        }
    }
}

/// One comparison to make.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// `None` where the model is not here.
    pub model: Option<PathBuf>,
    /// Why it is not, and what would bring it.
    pub missing: String,
    pub against: Against,
}

#[derive(Debug, Serialize)]
struct Output<'a> {
    ok: bool,
    subject: &'a str,
    thresholds: &'a Thresholds,
    comparisons: &'a [Report],
}

pub fn run(ctx: &Ctx, args: &CrossvalArgs) -> Result<ExitCode> {
    let settings = Settings::load(ctx)?;
    let cases = cases(ctx, args, &settings)?;
    let (reports, identity) = compare(ctx, args, &settings, &cases)?;
    if args.subject.is_none() {
        write_receipt(ctx, &reports, &cases, &settings, args, Vec::new())?;
    }
    if args.html {
        let dir = store::folder(ctx)?;
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join("crossval.html");
        let page = html::render(&reports, &settings.thresholds, &identity);
        std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
        ctx.out.line(format!("page: {}", path.display()));
    }
    let code = code(&reports, args.model.is_some());
    if ctx.out.is_json() {
        let output = Output {
            ok: code == ExitCode::Ok,
            subject: &identity,
            thresholds: &settings.thresholds,
            comparisons: &reports,
        };
        ctx.out.json(&output)?;
    }
    ctx.out.line(render(&ctx.out, &reports));
    Ok(code)
}

/// Makes the comparisons; returns what identifies our engine beside the reports.
pub fn compare(
    ctx: &Ctx,
    args: &CrossvalArgs,
    settings: &Settings,
    cases: &[Case],
) -> Result<(Vec<Report>, String)> {
    let command = match &args.subject {
        Some(Against::Command(command)) => Some(command.as_str()),
        Some(_) => return fail(ExitCode::Usage, "--subject is command:CMD"),
        None => None,
    };
    let mut subject = engines::subject(ctx, command)?;
    if command.is_none() {
        subject = subject.with(&["--device", args.device.as_deref().unwrap_or("cpu")]);
    }
    let default = ctx.root()?.join("fixtures/goldens/crossval-text.txt");
    let path = args.text.as_ref().unwrap_or(&default);
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let scratch = tempfile::tempdir().context("creating a folder for logits")?;
    let comparison = Comparison {
        ctx,
        thresholds: &settings.thresholds,
        subject: &subject,
        scratch: scratch.path(),
        tokens: args.tokens,
        text: &text,
        write_fixture: args.write_fixture.as_deref(),
    };
    let mut reports = Vec::new();
    for case in cases {
        proc::check_interrupted()?;
        ctx.out.line(format!("comparing {} with {} ...", case.name, case.against.name()));
        reports.push(comparison.run(case)?);
    }
    Ok((reports, subject.identity))
}

/// Divergence anywhere decides; where a model was named, so does a comparison that could not be made.
fn code(reports: &[Report], named: bool) -> ExitCode {
    if reports.iter().any(|report| report.verdict == Verdict::Diverges) {
        return ExitCode::Diverged;
    }
    let missing = reports.iter().find(|report| report.verdict == Verdict::CouldNotCheck);
    let nothing = reports.iter().all(|report| report.verdict == Verdict::CouldNotCheck);
    match missing {
        Some(report) if named || nothing => report.code,
        _ => ExitCode::Ok,
    }
}

fn cases(ctx: &Ctx, args: &CrossvalArgs, settings: &Settings) -> Result<Vec<Case>> {
    let Some(model) = &args.model else {
        return settings.standard.iter().map(|standard| standard_case(ctx, standard)).collect();
    };
    let path = match ModelArg::parse(model) {
        ModelArg::File(path) if path.is_file() => path,
        ModelArg::File(path) => {
            return fail(
                ExitCode::NotFound,
                format!("{} is not a file; give a name or a path", path.display()),
            );
        }
        ModelArg::Name(name) => models::known(&name)?.path_in(&ctx.cache_dir()?),
    };
    let against = if args.against.is_empty() && args.device.as_deref().is_some_and(|device| device != "cpu") {
        vec![Against::Cpu]
    } else if args.against.is_empty() {
        judges(ctx, &model_facts(ctx, &path)?)
    } else {
        args.against.clone()
    };
    let case = |against| Case {
        name: model.clone(),
        model: path.is_file().then(|| path.clone()),
        missing: format!("{model} is not in the cache; run `cargo xtask models fetch {model}`"),
        against,
    };
    Ok(against.into_iter().map(case).collect())
}

fn standard_case(ctx: &Ctx, standard: &Standard) -> Result<Case> {
    let name = &standard.model;
    let model = if name.starts_with("layer-2b") {
        Some(engines::layer_2b(ctx, name)?)
    } else if name.starts_with("converted-") {
        Some(engines::converted(ctx, name)?)
    } else if name.ends_with(".gguf") {
        Some(ctx.root()?.join(name))
    } else {
        models::cached(ctx, name)?
    };
    let short = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".gguf");
    Ok(Case {
        name: short.to_string(),
        model,
        missing: format!("{name} is not in the cache; run `cargo xtask models fetch {name}`"),
        against: standard.against.clone(),
    })
}

/// The engines that can evaluate such a model, C++ references first.
fn judges(ctx: &Ctx, facts: &ModelFacts) -> Vec<Against> {
    let ty = facts.linear_type();
    let mut judges = match (facts.architecture.as_str(), ty) {
        ("llama" | "bitnet", "I2_S") => vec![Against::Bitnet],
        ("llama" | "bitnet", _) => vec![Against::Llama],
        // A bitnet.cpp of 2025 runs it; that of the crate answers that it does not.
        _ => {
            let has_own = bitforge_discovery::NAMED_PLACES.iter().any(|name| ctx.env.get(name).is_some());
            if has_own { vec![Against::Bitnet] } else { Vec::new() }
        }
    };
    judges.push(Against::Oracle);
    judges
}

/// What is known of a model file without evaluating it.
#[derive(Debug, Deserialize)]
pub struct ModelFacts {
    #[serde(skip)]
    pub architecture: String,
    pub tensors: Vec<TensorFacts>,
    model: ModelSummary,
}

#[derive(Debug, Deserialize)]
struct ModelSummary {
    architecture: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct TensorFacts {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    /// The length of a row first.
    pub dims: Vec<u64>,
    pub offset: u64,
    pub bytes: u64,
}

impl ModelFacts {
    pub fn tensor(&self, name: &str) -> Option<&TensorFacts> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The type of the linear layers.
    pub fn linear_type(&self) -> &str {
        self.tensor("blk.0.ffn_down.weight").map_or("", |tensor| tensor.ty.as_str())
    }
}

/// Asks the binary (`bitnet inspect`), so that xtask reads no model format.
pub fn model_facts(ctx: &Ctx, model: &Path) -> Result<ModelFacts> {
    facts_from(ctx, &binary::release(ctx)?, model)
}

/// As [`model_facts`], by a binary that is there.
pub fn facts_from(ctx: &Ctx, binary: &Path, model: &Path) -> Result<ModelFacts> {
    let text = proc::read(ctx, &Command::new(binary).args(["inspect", "--json", "--model"]).args([model]))?;
    let mut facts: ModelFacts = serde_json::from_str(&text)
        .with_context(|| format!("what `bitnet inspect` says of {}", model.display()))?;
    facts.architecture = facts.model.architecture.clone().unwrap_or_default();
    Ok(facts)
}

/// The committed fixture that is most like a model: its architecture, and its weight type where there is one.
fn fixture_like(ctx: &Ctx, facts: &ModelFacts) -> Result<PathBuf> {
    let family = match facts.architecture.as_str() {
        "bitnet-b1.58" | "bitnet-25" => "bitnet-b158",
        other => other,
    };
    let dir = ctx.root()?.join("fixtures/gguf/ok");
    let exact = dir.join(format!("{family}-{}.gguf", facts.linear_type().to_lowercase()));
    let path = if exact.is_file() { exact } else { dir.join("llama-f32.gguf") };
    if path.is_file() && (family == "llama" || path.to_string_lossy().contains(family)) {
        return Ok(path);
    }
    fail(
        ExitCode::Unavailable,
        format!("no fixture of architecture {} to judge a reference on", facts.architecture),
    )
}

/// Writes the receipt of comparisons; `gpus` are those that our engine ran on.
pub fn write_receipt(
    ctx: &Ctx,
    reports: &[Report],
    cases: &[Case],
    settings: &Settings,
    args: &CrossvalArgs,
    gpus: Vec<String>,
) -> Result<()> {
    let binary = store::file_facts(&binary::release(ctx)?)?;
    let thresholds = &settings.thresholds;
    let lane = |(report, case): (&Report, &Case)| -> Result<receipt::Lane> {
        Ok(receipt::Lane {
            model: match &case.model {
                Some(path) => store::file_facts(path)?,
                None => FileFacts { name: case.name.clone(), bytes: 0, sha256: String::new() },
            },
            engine: report.engine.clone(),
            identity: report.identity.clone(),
            activation_quant: report.activation_quant,
            validation: report.validation.clone(),
            verdict: report.verdict,
            metrics: report.metrics.clone(),
            detail: report.detail.clone(),
        })
    };
    let body = receipt::Crossval {
        binary,
        machine: MachineFacts { gpus, ..machine::facts()? },
        positions: args.tokens as u32,
        thresholds: receipt::Thresholds {
            min_cosine: thresholds.min_cosine,
            top1_gap: thresholds.top1_gap,
            perplexity: thresholds.perplexity,
            min_positions: thresholds.min_positions,
        },
        lanes: reports.iter().zip(cases).map(lane).collect::<Result<_>>()?,
    };
    let parents = ["reference", "model"].map(|kind| store::path(ctx, kind));
    let parents: Vec<PathBuf> =
        parents.into_iter().collect::<Result<Vec<_>>>()?.into_iter().filter(|path| path.is_file()).collect();
    let path = store::write(ctx, Body::Crossval(Box::new(body)), &parents)?;
    ctx.out.line(format!("receipt: {}", path.display()));
    Ok(())
}

pub fn render(out: &Reporter, reports: &[Report]) -> String {
    let rows = reports.iter().map(|report| {
        let (state, verdict) = match report.verdict {
            Verdict::Agrees => (State::Ok, "agrees"),
            Verdict::Diverges => (State::Fail, "diverges"),
            Verdict::CouldNotCheck => (State::CouldNotCheck, "could not check"),
        };
        let metric =
            |of: &dyn Fn(&receipt::Metrics) -> String| report.metrics.as_ref().map_or(String::new(), of);
        [
            out.mark(state),
            report.model.clone(),
            report.engine.clone(),
            verdict.to_string(),
            metric(&|m| m.positions.to_string()),
            metric(&|m| format!("{:.7}", m.min_cosine)),
            metric(&|m| format!("{:.1e}", m.max_abs)),
            metric(&|m| format!("{:.1}%", m.top1_agreement * 100.0)),
            metric(&|m| m.bit_equal_positions.to_string()),
            format!("{} of {}", report.bit_equal_operations, report.operations),
        ]
    });
    let head = [
        "",
        "model",
        "engine",
        "",
        "positions",
        "min cosine",
        "max abs",
        "top-1",
        "bit-equal",
        "operations bit-equal",
    ];
    let mut text = format!("\n{}", table(head, rows));
    for report in reports {
        let about = format!("{} against {}", report.model, report.engine);
        if report.verdict != Verdict::Agrees && !report.detail.is_empty() {
            text.push_str(&format!("\n{about}: {}", report.detail));
        }
        if let Some(blame) = &report.blame {
            text.push_str(&format!("\n  blame: {}", blame.render()));
        }
    }
    let count = |verdict| reports.iter().filter(|report| report.verdict == verdict).count();
    text.push_str(&format!(
        "\n{} agree, {} diverge, {} could not be checked",
        count(Verdict::Agrees),
        count(Verdict::Diverges),
        count(Verdict::CouldNotCheck)
    ));
    text
}
