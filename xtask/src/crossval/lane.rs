//! One comparison: our engine and another on the same tokens of the same model.
//!
//! In: a model and the other engine's name. Out: a [`Report`] with a verdict. In order: the other engine's own
//! activation mode is taken over; a C++ reference is judged by the oracle before it is believed; tokens are
//! compared, then logits of every position, then, where they diverge, intermediate results. The oracle is asked
//! twice: for its own run, and for every operation from our inputs, which is the judgement.

use super::blame::{self, Blame, Operation, Taps};
use super::engines::{self, EngineCommand, LIMIT};
use super::metrics::{self, Position, Table};
use super::settings::Thresholds;
use super::{Against, Case};
use crate::ctx::Ctx;
use crate::engine::{Engine, Evaluated};
use crate::exit::{code_of, fail, message_of};
use anyhow::{Context, Result};
use bitforge_receipt_schema::crossval::{Metrics, Verdict};
use bitforge_schema::exit::ExitCode;
use bitforge_schema::protocol::{ActivationMode, Given, KernelCount};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Graphs that are wrong in a known way, as tools/oracle/forward.py has them.
const VARIANTS: [&str; 7] = [
    "silu",
    "relu2",
    "no-attn-sub-norm",
    "no-ffn-sub-norm",
    "rope-neox",
    "rope-adjacent",
    "position-plus-one",
];
/// Tokens that a reference is judged on.
const JUDGED_TOKENS: usize = 64;

#[derive(Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub engine: String,
    pub identity: String,
    pub system: String,
    pub activation_quant: Option<ActivationMode>,
    /// How the other engine was itself judged.
    pub validation: String,
    pub verdict: Verdict,
    /// Whether both engines cut the text into the same tokens; `None` where one has no tokenizer.
    pub same_tokens: Option<bool>,
    pub metrics: Option<Metrics>,
    /// Operations that both engines report, and how many of them are equal to the last bit.
    pub operations: usize,
    pub bit_equal_operations: usize,
    pub worst_operation: Option<Operation>,
    pub blame: Option<Blame>,
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<Position>,
    /// What `operations` counts, and what our kernels counted: for the page.
    #[serde(skip)]
    pub all_operations: Vec<Operation>,
    #[serde(skip)]
    pub kernels: Vec<KernelCount>,
    #[serde(skip)]
    pub code: ExitCode,
}

/// What one evaluation left.
struct Run {
    logits: Table,
    taps: Taps,
    kernels: Vec<KernelCount>,
}

pub struct Comparison<'a> {
    pub ctx: &'a Ctx,
    pub thresholds: &'a Thresholds,
    pub subject: &'a EngineCommand,
    pub scratch: &'a Path,
    /// Positions to compare.
    pub tokens: usize,
    pub text: &'a str,
    pub write_fixture: Option<&'a Path>,
}

impl Comparison<'_> {
    /// Compares; an engine that is not here, or cannot be believed, gives a report without a judgement.
    pub fn run(&self, case: &Case) -> Result<Report> {
        let mut report = Report {
            model: case.name.clone(),
            engine: case.against.name().to_string(),
            identity: String::new(),
            system: String::new(),
            activation_quant: None,
            validation: "not judged".into(),
            verdict: Verdict::CouldNotCheck,
            same_tokens: None,
            metrics: None,
            operations: 0,
            bit_equal_operations: 0,
            worst_operation: None,
            blame: None,
            detail: String::new(),
            positions: Vec::new(),
            all_operations: Vec::new(),
            kernels: Vec::new(),
            code: ExitCode::Ok,
        };
        match self.compare(case, &mut report) {
            Ok(()) => {}
            Err(error) if may_be_missing(code_of(&error)) => {
                report.code = code_of(&error);
                report.detail = message_of(&error);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} against {}", case.name, case.against.name()));
            }
        }
        Ok(report)
    }

    fn compare(&self, case: &Case, report: &mut Report) -> Result<()> {
        let other_command = engines::other(self.ctx, &case.against)?;
        report.identity = other_command.identity.clone();
        let Some(model) = &case.model else {
            return fail(ExitCode::NotFound, case.missing.clone());
        };
        let oracle = matches!(case.against, Against::Oracle);
        let mut other = self.start(&other_command, model, "other")?;
        report.system = other.hello.system.clone();
        report.activation_quant = other.hello.activation_quant;
        report.validation = match &case.against {
            Against::Oracle => "it is the float64 definition".into(),
            Against::Transformers => {
                "stored logits of its own class; judged by its agreement with the oracle's".into()
            }
            Against::Cpu => "the same binary on the CPU, which its own comparisons judge".into(),
            Against::TrustedCommand(_) => "believed because the command line says so".into(),
            _ => match self.judge(&other_command, model)? {
                Judged::Believed(how) => how,
                Judged::NotBelieved(why) => {
                    report.validation = why.clone();
                    return fail(ExitCode::Unavailable, why);
                }
            },
        };
        let mode = report.activation_quant.unwrap_or(ActivationMode::Token);
        let subject = self.subject.clone().with(&["--activation-quant", mode.name()]);
        let mut ours = self.start(&subject, model, "ours")?;
        let tokens = self.tokens(case, &mut ours, &mut other, report)?;
        let our_run = self.evaluate(&mut ours, &tokens, "ours", None)?;
        let with_taps = !matches!(case.against, Against::Transformers);
        let other_run = if with_taps {
            self.evaluate(&mut other, &tokens, "other", None)?
        } else {
            self.logits_only(&mut other, &tokens)?
        };
        // What the judgement is about: the oracle's answer from our inputs, or the other engine's own run.
        let judged = match oracle {
            true => Some(self.evaluate(&mut other, &tokens, "judged", Some(&our_run.taps))?),
            false => None,
        };
        let judge = judged.as_ref().unwrap_or(&other_run);
        report.positions = metrics::positions(&our_run.logits, &judge.logits)?;
        let metrics = metrics::summary(
            &report.positions,
            &our_run.logits,
            &judge.logits,
            &tokens,
            self.thresholds.top1_gap,
        );
        let operations = blame::compare(&our_run.taps, &judge.taps)?;
        report.operations = operations.len();
        report.bit_equal_operations = operations.iter().filter(|operation| operation.bit_equal).count();
        report.worst_operation =
            operations.iter().max_by(|a, b| a.max_relative_l2.total_cmp(&b.max_relative_l2)).cloned();
        let mut problems = problems(&metrics, self.thresholds, report.same_tokens);
        let beyond = blame::first_beyond(&operations, self.thresholds.operation_l2);
        if oracle {
            problems.extend(beyond.map(|operation| {
                format!("an operation is {:.2e} from its definition", operation.max_relative_l2)
            }));
            let free = metrics::positions(&our_run.logits, &other_run.logits)?;
            let lowest = free.iter().map(|position| position.cosine).fold(1.0, f64::min);
            report.detail = format!("free run: lowest cosine {lowest:.6}");
            if lowest < self.thresholds.free_run_min_cosine {
                problems.push(format!("the free run's lowest cosine is {lowest:.6}"));
            }
        }
        report.all_operations = operations.clone();
        report.kernels = our_run.kernels.clone();
        report.metrics = Some(metrics);
        report.verdict = if problems.is_empty() { Verdict::Agrees } else { Verdict::Diverges };
        if !problems.is_empty() {
            report.detail = problems.join("; ");
            report.code = ExitCode::Diverged;
            if let Some(operation) = beyond {
                let blame = self.blame(model, &subject, &tokens, operation, &judge.taps, &our_run)?;
                if let Some(dir) = self.write_fixture {
                    let path = super::fixture::write(
                        self.ctx,
                        dir,
                        model,
                        &blame,
                        mode,
                        &our_run.taps,
                        &judge.taps,
                    )?;
                    report.detail.push_str(&format!("; reproduced in {}", path.display()));
                }
                report.blame = Some(blame);
            }
        }
        Ok(())
    }

    fn start(&self, command: &EngineCommand, model: &Path, name: &str) -> Result<Engine> {
        Engine::start(self.ctx, &command.for_model(model), &format!("crossval-{name}"), LIMIT)
    }

    /// The ids to evaluate: the stored ones, or the text cut by our tokenizer, which the other's must equal.
    fn tokens(
        &self,
        case: &Case,
        ours: &mut Engine,
        other: &mut Engine,
        report: &mut Report,
    ) -> Result<Vec<u32>> {
        let mut tokens = match case.against {
            Against::Transformers => engines::golden(self.ctx)?.tokens,
            _ => {
                let tokens = ours.tokenize(self.text)?;
                // An engine without a tokenizer answers with an error, which is no divergence.
                report.same_tokens = other.tokenize(self.text).ok().map(|theirs| theirs == tokens);
                tokens
            }
        };
        if tokens.len() < self.tokens {
            return fail(
                ExitCode::Usage,
                format!(
                    "the text has {} tokens and {} were asked for; give a longer --text",
                    tokens.len(),
                    self.tokens
                ),
            );
        }
        if !matches!(case.against, Against::Transformers) {
            tokens.truncate(self.tokens);
        }
        Ok(tokens)
    }

    fn evaluate(&self, engine: &mut Engine, tokens: &[u32], name: &str, given: Option<&Taps>) -> Result<Run> {
        let logits = self.scratch.join(format!("{name}.logits"));
        let path = self.scratch.join(format!("{name}.taps"));
        let given = given.map(|taps| Given { path: taps.path.clone(), taps: taps.table.clone() });
        let evaluated = engine.evaluate(tokens, &logits, Some(&path), given)?;
        let Evaluated { positions, vocabulary, taps, kernels } = evaluated;
        Ok(Run {
            logits: Table::read(&logits, 0, positions, vocabulary)?,
            taps: Taps { path, table: taps, positions },
            kernels,
        })
    }

    fn logits_only(&self, engine: &mut Engine, tokens: &[u32]) -> Result<Run> {
        let logits = self.scratch.join("other.logits");
        let Evaluated { positions, vocabulary, .. } = engine.evaluate(tokens, &logits, None, None)?;
        let taps = Taps { path: PathBuf::new(), table: Vec::new(), positions };
        Ok(Run { logits: Table::read(&logits, 0, positions, vocabulary)?, taps, kernels: Vec::new() })
    }

    /// Judges a reference by the oracle on the tiny fixture of the same architecture and weight type.
    fn judge(&self, command: &EngineCommand, model: &Path) -> Result<Judged> {
        let facts = super::model_facts(self.ctx, model)?;
        let fixture = super::fixture_like(self.ctx, &facts)?;
        let name = fixture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut engine = self.start(command, &fixture, "judged-reference")?;
        let mode = engine.hello.activation_quant.unwrap_or(ActivationMode::Token);
        let tokens = &engines::golden(self.ctx)?.tokens[..JUDGED_TOKENS];
        let run = self.evaluate(&mut engine, tokens, "reference", None)?;
        let oracle = engines::oracle(self.ctx)?.with(&["--activation-quant", mode.name()]);
        let first = |variant: Option<&str>| -> Result<Option<Operation>> {
            let command = match variant {
                Some(variant) => oracle.clone().with(&["--variant", variant]),
                None => oracle.clone(),
            };
            let mut oracle = self.start(&command, &fixture, "oracle")?;
            let judged = self.evaluate(&mut oracle, tokens, "oracle", Some(&run.taps))?;
            let operations = blame::compare(&run.taps, &judged.taps)?;
            anyhow::ensure!(!operations.is_empty(), "the reference reports no intermediate results");
            Ok(blame::first_beyond(&operations, self.thresholds.operation_l2).cloned())
        };
        let Some(operation) = first(None)? else {
            return Ok(Judged::Believed(format!("every operation on {name} is the float64 definition's")));
        };
        let mut why = format!("not believed: on {name} its {}", Blame::of(&operation).render_place());
        for variant in VARIANTS {
            if first(Some(variant))?.is_none() {
                why.push_str(&format!(
                    "; it computes the known wrong graph '{variant}' (tools/oracle/forward.py)"
                ));
                break;
            }
        }
        Ok(Judged::NotBelieved(why))
    }

    /// The culprit; whether a SIMD kernel is one shows in a run with scalar kernels.
    fn blame(
        &self,
        model: &Path,
        subject: &EngineCommand,
        tokens: &[u32],
        operation: &Operation,
        judge: &Taps,
        ours: &Run,
    ) -> Result<Blame> {
        let missing = blame::missing_before(&ours.taps, judge, operation);
        let mut blame = Blame::with_missing(operation, missing);
        let scalar = subject.clone().with(&["--kernels", "scalar"]);
        let mut engine = self.start(&scalar, model, "scalar")?;
        let run = self.evaluate(&mut engine, tokens, "scalar", None)?;
        let same = |found: &&Operation| (found.point, found.layer) == (operation.point, operation.layer);
        let operations = blame::compare(&run.taps, judge)?;
        let gone = operations
            .iter()
            .find(same)
            .is_some_and(|found| found.max_relative_l2 <= self.thresholds.operation_l2);
        if gone {
            let facts = super::model_facts(self.ctx, model)?;
            let ty = blame
                .tensor
                .as_deref()
                .and_then(|name| facts.tensor(name))
                .map(|tensor| tensor.ty.to_lowercase());
            let of_type =
                |count: &&KernelCount| Some(count.id.split('.').next().unwrap_or_default()) == ty.as_deref();
            blame.kernels = ours.kernels.iter().filter(of_type).map(|count| count.id.clone()).collect();
            if blame.kernels.is_empty() {
                blame.kernels.push(format!("of the {}", operation.point));
            }
        }
        Ok(blame)
    }
}

enum Judged {
    Believed(String),
    NotBelieved(String),
}

/// What is missing here, and not wrong.
fn may_be_missing(code: ExitCode) -> bool {
    matches!(code, ExitCode::Unavailable | ExitCode::Network | ExitCode::NotFound | ExitCode::BadInput)
}

/// Why two engines do not agree; empty where they do.
pub fn problems(metrics: &Metrics, thresholds: &Thresholds, same_tokens: Option<bool>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    check(same_tokens != Some(false), "the engines cut the text into different tokens".into());
    check(
        metrics.positions >= thresholds.min_positions,
        format!("{} positions, and {} are needed", metrics.positions, thresholds.min_positions),
    );
    check(
        metrics.min_cosine >= thresholds.min_cosine,
        format!("cosine {:.6} at position {}", metrics.min_cosine, metrics.min_cosine_position),
    );
    check(
        metrics.decided_disagreements == 0,
        format!("{} other best tokens that were no close call", metrics.decided_disagreements),
    );
    let (ours, other) = (metrics.perplexity_ours, metrics.perplexity_other);
    check(
        ((ours - other) / other).abs() <= thresholds.perplexity,
        format!("perplexity {ours:.4} and {other:.4}"),
    );
    problems
}
