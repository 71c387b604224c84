//! Generation: a prompt in, sampled tokens and their text out, until a stop rule says so.
//!
//! [`generate`] is the loop over a loaded engine; [`StopMachine`] decides when it ends and which text may be
//! shown; [`load_tokenizer`] builds the tokenizer of a file. Deliberately absent: chat templates, loading,
//! printing, several sequences.

mod lookup;
mod stop;
mod vocabulary;

pub use stop::{FinishReason, MAX_STOP_BYTES, StopMachine, StopRules, TokenClass};
pub use vocabulary::load_tokenizer;

use crate::engine::{Answer, Batch, Engine, Sequences};
use crate::sampling::Sampler;
use crate::tokenizer::{ControlTokens, TextPosition, Tokenizer};
use crate::{Error, Result};
use lookup::Lookup;
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Token ids, evaluated after the positions that the engine has in use.
    pub prompt: &'a [u32],
    pub rules: StopRules,
    pub at_end_of_sequence: AtEndOfSequence,
    pub overflow: Overflow,
    /// Guess up to so many tokens from what followed the same words before, and check them in one pass; 0 guesses none.
    /// The output is the same.
    pub prompt_lookup: usize,
}

impl<'a> Request<'a> {
    /// At most `max_tokens` after `prompt`, until the model's own end or the end of the context.
    pub fn new(prompt: &'a [u32], max_tokens: usize) -> Self {
        Request {
            prompt,
            rules: StopRules { max_tokens, ..StopRules::default() },
            at_end_of_sequence: AtEndOfSequence::Stop,
            overflow: Overflow::Stop,
            prompt_lookup: 0,
        }
    }
}

/// What the model's own end of a sequence (or of a turn) means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEndOfSequence {
    Stop,
    /// A token like any other, without text.
    Continue,
}

/// What happens when the context window is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Generation ends with [`FinishReason::ContextFull`].
    Stop,
    /// The older half of what follows the first `keep` positions is dropped (see [`Engine::shift_context`]).
    Shift { keep: usize },
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Every sampled id, the one that ended generation included.
    pub tokens: Vec<u32>,
    /// What was shown, in one piece.
    pub text: String,
    pub finish: FinishReason,
    pub timings: Timings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Evaluating the prompt.
    pub prompt: Duration,
    /// Evaluating sampled tokens and sampling, without the time that showing text took.
    pub decode: Duration,
    /// Sampled tokens that were evaluated: one less than were sampled, since the last one is not.
    pub decoded: usize,
}

/// Evaluates the prompt and samples until a stop rule, the context window or an interrupt ends it. Text that
/// is final goes to `show` piece by piece, never cut inside a character.
///
/// # Errors
/// A prompt that is empty or does not fit into the context, logits that are not numbers, or what `show`
/// returns. An interrupt is no error but a [`FinishReason`].
pub fn generate(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    request: Request<'_>,
    show: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Generation> {
    check_fit(engine, &request)?;
    let mut machine = StopMachine::new(request.rules)?;
    let mut stream = tokenizer.stream(TextPosition::Continuation, ControlTokens::Hide);
    let (mut tokens, mut text, mut timings) = (Vec::new(), String::new(), Timings::default());
    request.prompt.iter().for_each(|token| sampler.accept(*token));

    let (want, lookup) = (sampler.want(), Lookup { most: request.prompt_lookup });
    let mut context: Vec<u32> = if lookup.most > 0 { request.prompt.to_vec() } else { Vec::new() };
    let mut finish = machine.before_first();
    // Tokens that were chosen and not yet looked at; more than one only where guesses were right.
    let (mut chosen, mut batch) = (Vec::new(), Batch::new());
    let started = Instant::now();
    match engine.prefill_for(request.prompt, want) {
        Err(Error::Interrupted) => finish = Some(FinishReason::Interrupted),
        answer => {
            let answer = answer?;
            timings.prompt = started.elapsed();
            if finish.is_none() {
                chosen.push(choose(sampler, answer)?);
            }
        }
    }
    let finish = 'ended: loop {
        for token in chosen.drain(..) {
            let started = Instant::now();
            tokens.push(token);
            let class = match request.at_end_of_sequence {
                AtEndOfSequence::Stop if tokenizer.is_end_of_generation(token) => TokenClass::EndOfSequence,
                _ => TokenClass::Text,
            };
            let piece =
                if machine.ends_at(token, class).is_some() { String::new() } else { stream.push(token) };
            timings.decode += started.elapsed();
            let from = text.len();
            finish = machine.push(token, class, &piece, &mut text);
            if from < text.len() {
                show(&text[from..])?;
            }
            if finish.is_some() {
                break;
            }
        }
        if let Some(reason) = finish {
            break reason;
        }
        let started = Instant::now();
        if engine.position() == engine.context() {
            let Overflow::Shift { keep } = request.overflow else {
                break FinishReason::ContextFull;
            };
            engine.shift_context(keep, (engine.context() - keep).div_ceil(2))?;
        }
        let (own, position, last) = (engine.sequence(), engine.position(), tokens[tokens.len() - 1]);
        let room = (engine.context() - position).min(engine.batch_rows()) - 1;
        if lookup.most > 0 {
            context.extend_from_slice(&tokens[context.len() - request.prompt.len()..]);
        }
        let guesses = lookup.guess(&context, room);
        batch.clear();
        std::iter::once(&last).chain(guesses).for_each(|token| batch.push(own, *token, want));
        let mut outcome = Ok(());
        let evaluated = engine.evaluate(&batch, &mut |row, answer| {
            // A row is of use where everything before it was guessed right.
            if outcome.is_ok() && row == chosen.len() && (row == 0 || guesses[row - 1] == chosen[row - 1]) {
                outcome = choose(sampler, answer).map(|token| chosen.push(token));
            }
        });
        match evaluated {
            Err(Error::Interrupted) => break 'ended FinishReason::Interrupted,
            evaluated => evaluated.and(outcome)?,
        }
        engine.truncate(position + chosen.len());
        timings.decode += started.elapsed();
        timings.decoded += chosen.len();
    };
    let from = text.len();
    machine.finish(&stream.finish(), &mut text);
    if from < text.len() {
        show(&text[from..])?;
    }
    Ok(Generation { tokens, text, finish, timings })
}

/// The next token, which the sampler then knows of.
fn choose(sampler: &mut Sampler, answer: Answer<'_>) -> Result<u32> {
    let token = sampler.choose(answer)?;
    sampler.accept(token);
    Ok(token)
}

fn check_fit(engine: &Engine, request: &Request<'_>) -> Result<()> {
    let (context, used, prompt) = (engine.context(), engine.position(), request.prompt.len());
    if used + prompt > context {
        return Err(Error::limit(
            format!(
                "the prompt of {prompt} tokens does not fit into the context of {context} ({used} in use)"
            ),
            format!("give --ctx-size {} or more, or a shorter prompt", used + prompt),
        ));
    }
    match request.overflow {
        Overflow::Shift { keep } if keep >= context => Err(Error::usage(
            format!("--context-shift {keep} keeps all of a context of {context} positions"),
            format!("keep at most {}", context - 1),
        )),
        _ => Ok(()),
    }
}
