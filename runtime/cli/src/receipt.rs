//! `bitnet run --receipt`: what a run did, in the form of [`bitforge_receipt_schema::run`].
//!
//! In: the engine after the run (its counters were reset before), the tokens, the times. Out: one file, whole or not
//! at all. Everything is taken from what was loaded, mapped and counted; nothing in here says whether the compute
//! was real, which is derived by whoever verifies. Deliberately absent: paths, and parents (a run has none).

use super::args::EngineArgs;
use super::ctx::Ctx;
use super::{digest, output_file};
use bitforge_receipt_schema::run::{HeadFacts, MatrixFacts, MatrixRole, ModelFacts, Run, Work};
use bitforge_receipt_schema::{Body, Receipt, VERSION};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::generate::Generation;
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::machine;
use bitnet_runtime::model::{Matrix, Model};
use bitnet_runtime::sampling::SamplingParams;
use bitnet_runtime::tokenizer::Tokenizer;
use bitnet_runtime::{Error, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const THREADS: &str = "BITNET_THREADS";
const KERNELS: &str = "BITNET_KERNELS";
const STRICT: &str = "BITNET_STRICT_MODE";

/// A run that has ended.
pub struct Ran<'a> {
    pub args: &'a EngineArgs,
    pub engine: &'a Engine,
    pub tokenizer: &'a Tokenizer,
    pub prompt: &'a [u32],
    pub generation: &'a Generation,
    pub sampling: &'a SamplingParams,
}

/// Refuses a place where no file can be written, before anything is computed for it.
pub fn check_place(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(());
    }
    let what = format!("no receipt can be written to {}", path.display());
    Err(Error::usage(what, "give the path of a file in a folder that exists"))
}

/// Writes the receipt of `ran` to `path`.
pub fn write(ctx: &Ctx, path: &Path, ran: &Ran<'_>) -> Result<()> {
    let receipt = of(ctx, ran)?;
    let text = serde_json::to_string_pretty(&receipt).expect("keys are strings and no Serialize fails");
    output_file::write_whole(path, |file| writeln!(file, "{text}").map_err(|e| Error::io(path, e)))
}

/// The receipt of `ran`.
pub fn of(ctx: &Ctx, ran: &Ran<'_>) -> Result<Receipt> {
    let run = run(ctx, ran)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(Receipt {
        version: VERSION,
        created_unix: created.as_secs(),
        parents: BTreeMap::new(),
        body: Body::Run(Box::new(run)),
    })
}

fn run(ctx: &Ctx, ran: &Ran<'_>) -> Result<Run> {
    let Ran { args, engine, tokenizer, .. } = ran;
    let (gguf, model) = (engine.gguf(), engine.model());
    let machine = machine::facts(Vec::new());
    let matrices = matrices(model);
    let working_set: u64 = matrices.iter().map(|facts| facts.bytes).sum();
    let beyond_caches = machine.last_level_cache.is_some_and(|cache| working_set > cache.saturating_mul(2));
    let file = digest::file(gguf.path(), gguf.parts(), &ctx.interrupt)?;
    let largest = gguf.parts().max_by_key(|part| part.len()).unwrap_or_default();
    let (environment_requested, environment_effective) = environment(ctx, args, engine);
    Ok(Run {
        binary: digest::executable(&ctx.interrupt)?,
        binary_version: env!("CARGO_PKG_VERSION").into(),
        model: ModelFacts {
            file,
            architecture: model.config.architecture_name.clone(),
            layers: model.config.layers as u32,
            matrices,
            synthetic: is_synthetic(gguf),
        },
        tokenizer: digest::tokenizer(gguf, tokenizer),
        selection: engine.selection().clone(),
        activation_quant: engine.activation_quant().into(),
        threads: engine.threads() as u32,
        kv: Some(engine.kv_type().name().into()),
        head: Some(HeadFacts {
            mode: engine.head_mode().name().into(),
            compact_bytes: engine.compact_head_bytes() as u64,
        }),
        environment_requested,
        environment_effective,
        strict: ctx.strict,
        work: work(ran),
        kernels: engine.kernel_counts(),
        // After the digest, which has brought every page into memory.
        peak_bandwidth: beyond_caches
            .then(|| machine::read_bandwidth(largest, engine.threads(), machine.last_level_cache))
            .flatten(),
        machine,
    })
}

/// What was asked for and what was in force, by the variable's name; an argument stands for its variable.
fn environment(
    ctx: &Ctx,
    args: &EngineArgs,
    engine: &Engine,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let variable = |name: &str| ctx.env.get(name).map(String::from);
    let threads = args.threads.map(|threads| threads.to_string());
    let requested = [
        (THREADS, threads.or_else(|| variable(THREADS))),
        (KERNELS, args.kernels.clone().or_else(|| variable(KERNELS))),
        (STRICT, variable(STRICT)),
    ];
    let effective = [
        (THREADS, engine.threads().to_string()),
        (KERNELS, engine.selection().selected.clone()),
        (STRICT, u8::from(ctx.strict).to_string()),
    ];
    (
        requested.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        effective.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    )
}

/// The matrices by role and type, those of the layers first.
fn matrices(model: &Model) -> Vec<MatrixFacts> {
    let mut all: Vec<MatrixFacts> = Vec::new();
    let mut add = |role: MatrixRole, matrix: &Matrix| {
        let (rows, bytes) = (matrix.rows as u64, matrix.bytes_in_use() as u64);
        match all.iter_mut().find(|facts| facts.role == role && facts.weight_type == matrix.ty.name()) {
            Some(facts) => (facts.rows, facts.bytes) = (facts.rows + rows, facts.bytes + bytes),
            None => all.push(MatrixFacts { role, weight_type: matrix.ty.name().into(), rows, bytes }),
        }
    };
    for linear in model.layers.iter().flat_map(|layer| layer.linears()) {
        add(MatrixRole::Layer, &linear.matrix);
    }
    add(MatrixRole::Head, model.head());
    all
}

fn is_synthetic(gguf: &Gguf) -> bool {
    gguf.opt_bool("bitforge.synthetic").ok().flatten().unwrap_or(false)
        || gguf.opt_str("general.name").ok().flatten().is_some_and(|name| name.starts_with("synthetic"))
}

fn work(ran: &Ran<'_>) -> Work {
    let Ran { prompt, generation, sampling, .. } = ran;
    let timings = &generation.timings;
    let decoded = timings.decoded as u64;
    // The f64 that prints with as few digits as the f32.
    let shortest = |value: f32| value.to_string().parse().unwrap_or(f64::from(value));
    let settings = [
        ("temperature", shortest(sampling.temperature)),
        ("top_k", sampling.top_k as f64),
        ("top_p", shortest(sampling.top_p)),
        ("min_p", shortest(sampling.min_p)),
        ("repetition_penalty", shortest(sampling.repetition_penalty)),
        ("presence_penalty", shortest(sampling.presence_penalty)),
        ("frequency_penalty", shortest(sampling.frequency_penalty)),
        ("penalty_window", sampling.penalty_window as f64),
    ];
    Work {
        prompt_tokens: prompt.to_vec(),
        output_tokens: generation.tokens.clone(),
        prompt_sha256: digest::tokens(prompt),
        output_sha256: digest::tokens(&generation.tokens),
        evaluated_tokens: prompt.len() as u64 + decoded,
        // The last position of the prompt and every token after it.
        logits_positions: 1 + decoded,
        sampling: settings.map(|(name, value)| (name.to_owned(), value)).into(),
        seed: sampling.seed,
        prompt_ns: timings.prompt.as_nanos() as u64,
        decode_ns: timings.decode.as_nanos() as u64,
        decoded_tokens: decoded,
    }
}
