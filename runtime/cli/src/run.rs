//! `bitnet run`: a prompt in, generated text on stdout as it is made, or one JSON object.

use super::args::{Format, RunArgs, SamplingArgs};
use super::ctx::Ctx;
use super::json::{RunOutput, RunTimings};
use super::receipt::{self, Ran};
use super::{prompt, settings, summary};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::generate::{
    self, AtEndOfSequence, FinishReason, Generation, Overflow, Request, StopRules, load_tokenizer,
};
use bitnet_runtime::sampling::{Sampler, SamplingParams, rng};
use bitnet_runtime::{Error, Result};
use std::time::{Duration, Instant};

pub fn run(ctx: &mut Ctx, args: &RunArgs) -> Result<()> {
    let params = sampling_params(&args.sampling);
    params.validate()?;
    args.receipt.as_deref().map_or(Ok(()), receipt::check_place)?;
    let source = prompt::source(&args.prompt)?;
    let started = Instant::now();
    let ((tokenizer, mut warnings), mut engine) = settings::load(ctx, &args.engine, args.ctx_size, |gguf| {
        let (tokenizer, warnings) = load_tokenizer(gguf)?;
        ctx.fall_back(&warnings)?;
        Ok((tokenizer, warnings))
    })?;
    let load = started.elapsed();
    let trained = engine.model().config.context_length;
    if engine.context() > trained {
        let context = engine.context();
        warnings.push(format!("--ctx-size {context} is more than the {trained} the model was trained for"));
        ctx.warn(&warnings[warnings.len() - 1..]);
    }
    ctx.note(engine.selection());
    if params.temperature > 0.0 && args.sampling.seed.is_none() {
        ctx.note(format_args!("seed {} (give --seed {0} to get the same text again)", params.seed));
    }

    let prompt = prompt::encode(source, &args.chat, &tokenizer, engine.gguf().path())?;
    let mut sampler = Sampler::new(params, tokenizer.real_vocab_size())?;
    let request = Request {
        prompt: &prompt.tokens,
        rules: StopRules {
            token_ids: args.stop_token.clone(),
            max_tokens: args.max_tokens,
            strings: stop_strings(&args.stop, prompt.stop_texts),
        },
        at_end_of_sequence: if args.ignore_eos { AtEndOfSequence::Continue } else { AtEndOfSequence::Stop },
        prompt_lookup: args.prompt_lookup,
        overflow: args.context_shift.map_or(Overflow::Stop, |keep| Overflow::Shift { keep }),
    };
    let format = ctx.format;
    engine.reset_kernel_counts();
    let generation =
        generate::generate(&mut engine, &tokenizer, &mut sampler, request, &mut |piece| match format {
            Format::Human => ctx.print(piece),
            Format::Json => Ok(()),
        })?;

    let timings = timings(load, prompt.tokens.len(), &generation);
    if ctx.format == Format::Human {
        ctx.print("\n")?;
        ctx.note(stats(prompt.tokens.len(), &generation, &timings));
    }
    match (&args.receipt, &generation.finish) {
        (Some(path), FinishReason::Interrupted) => {
            ctx.note(format_args!("{}: no receipt of an interrupted run", path.display()));
        }
        (Some(path), _) => {
            let (args, prompt, sampling) = (&args.engine, &prompt.tokens[..], sampler.params());
            let (engine, tokenizer, generation) = (&engine, &tokenizer, &generation);
            receipt::write(ctx, path, &Ran { args, engine, tokenizer, prompt, generation, sampling })?;
            ctx.note(format_args!("receipt {}", path.display()));
        }
        (None, _) => {}
    }
    if ctx.format == Format::Json {
        ctx.print_json(&RunOutput {
            model: summary::model(engine.gguf()),
            engine: summary::engine(&engine),
            sampling: sampler.params().clone(),
            chat: prompt.template,
            prompt_tokens: prompt.tokens,
            output_tokens: generation.tokens,
            text: generation.text,
            finish_reason: generation.finish.clone(),
            timings,
            selection: engine.selection().to_string(),
            warnings,
        })?;
    }
    ending(&engine, &generation.finish)
}

/// The two ends that the exit code tells, after everything was printed.
fn ending(engine: &Engine, finish: &FinishReason) -> Result<()> {
    match finish {
        FinishReason::Interrupted => Err(Error::Interrupted),
        FinishReason::ContextFull => Err(Error::limit(
            format!("the context of {} positions is full", engine.context()),
            "give a larger --ctx-size, or --context-shift to drop the oldest half and go on",
        )),
        _ => Ok(()),
    }
}

fn stop_strings(arguments: &[String], of_template: &[&str]) -> Vec<String> {
    let arguments = arguments.iter().map(|text| prompt::unescape(text));
    arguments.chain(of_template.iter().map(|text| text.to_string())).collect()
}

pub fn sampling_params(args: &SamplingArgs) -> SamplingParams {
    SamplingParams {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        presence_penalty: args.presence_penalty,
        frequency_penalty: args.frequency_penalty,
        penalty_window: args.penalty_window,
        seed: args.seed.unwrap_or_else(rng::random_seed),
    }
}

fn timings(load: Duration, prompt_tokens: usize, generation: &Generation) -> RunTimings {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let rate = |n: usize, time: Duration| (n > 0 && !time.is_zero()).then(|| n as f64 / time.as_secs_f64());
    let spent = generation.timings;
    RunTimings {
        load_ms: milliseconds(load),
        prompt_ms: milliseconds(spent.prompt),
        decode_ms: milliseconds(spent.decode),
        decoded_tokens: spent.decoded,
        prompt_tokens_per_second: rate(prompt_tokens, spent.prompt),
        decode_tokens_per_second: rate(spent.decoded, spent.decode),
    }
}

fn stats(prompt_tokens: usize, generation: &Generation, timings: &RunTimings) -> String {
    let rate = |rate: Option<f64>| rate.map_or_else(String::new, |rate| format!(" at {rate:.1} tokens/s"));
    let finish = match &generation.finish {
        FinishReason::StopToken { id } => format!("stop token {id}"),
        FinishReason::EndOfSequence { id } => format!("end of sequence, token {id}"),
        FinishReason::MaxTokens => "--max-tokens reached".into(),
        FinishReason::StopString { string } => format!("stop string {string:?}"),
        FinishReason::ContextFull => "context full".into(),
        FinishReason::Interrupted => "interrupted".into(),
    };
    format!(
        "prompt {prompt_tokens} tokens{}; generated {} tokens{} ({finish})",
        rate(timings.prompt_tokens_per_second),
        generation.tokens.len(),
        rate(timings.decode_tokens_per_second)
    )
}
