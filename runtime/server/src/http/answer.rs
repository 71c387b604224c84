//! From a request to jobs, and from their events to the parts of an answer, for chats and completions alike.
//!
//! In: [`Options`] and prompts as token ids. Out: an [`Answer`], whose events are read one by one or all together.
//! Dropping it cancels the jobs. Deliberately absent: the form in which answers are written.

use super::app::App;
use super::errors::ApiError;
use crate::api::options::Options;
use crate::api::reply::{PromptTokensDetails, Usage};
use crate::engine_thread::EngineThread;
use crate::grammar::Grammar;
use crate::model::Model;
use crate::scheduler::job::{Client, Event, Job, Piece, Task};
use crate::settings::Settings;
use axum::http::StatusCode;
use bitnet_runtime::generate::{AtEndOfSequence, FinishReason, MAX_STOP_BYTES, StopRules};
use bitnet_runtime::sampling::{SamplingParams, rng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Stop strings of a request at most.
const STOPS: usize = 16;
/// How long the head of a stream waits for the first token, so that a failure before it has its status.
const FIRST: Duration = Duration::from_secs(10);

/// What a request wants beside its options.
pub struct Extra {
    pub client: Client,
    pub prompts: Vec<Vec<u32>>,
    pub logprobs: Option<usize>,
    pub grammar: Option<Grammar>,
    /// Of the chat template.
    pub stop_texts: &'static [&'static str],
    pub max_tokens: Option<usize>,
}

/// Jobs under way.
pub struct Answer {
    pub engine: Arc<EngineThread>,
    pub choices: usize,
    pub usage: Usage,
    events: UnboundedReceiver<Event>,
    /// Read ahead, for the status.
    first: Option<Event>,
    finished: usize,
}

/// One choice as a whole.
#[derive(Default)]
pub struct Whole {
    pub piece: Piece,
    pub finish: &'static str,
}

/// The next part of an answer.
pub enum Part {
    Piece { choice: usize, piece: Piece },
    Finished { choice: usize, finish: &'static str },
}

/// Hands the jobs of a request to the engine.
///
/// # Errors
/// Options out of range, prompts that do not fit, a full queue.
pub fn begin(
    app: &App,
    engine: Arc<EngineThread>,
    options: &Options,
    extra: Extra,
) -> Result<Answer, ApiError> {
    let model = &engine.model;
    let n = choices_of_each(app, options, extra.prompts.len())?;
    let choices = n * extra.prompts.len();
    let sampling = sampling(&app.settings, options)?;
    let bias = bias(options, model.tokenizer.real_vocab_size())?;
    let mut strings = options.stop.as_ref().map(|stop| stop.strings()).unwrap_or_default();
    if strings.len() > STOPS || strings.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
        let message = format!(
            "stop has {} texts; give up to {STOPS}, none of them empty or over {MAX_STOP_BYTES} bytes",
            strings.len()
        );
        return Err(ApiError::invalid(message).param("stop"));
    }
    strings.extend(extra.stop_texts.iter().map(|text| (*text).to_owned()));
    let (submitted, (send, events)) = (Instant::now(), unbounded_channel());
    let mut usage = Usage::default();
    for (number, prompt) in extra.prompts.into_iter().enumerate() {
        check_prompt(&prompt, model, "prompt")?;
        usage.prompt_tokens += prompt.len();
        let room = model.context + 1 - prompt.len();
        let asked = extra.max_tokens.or(app.settings.max_tokens);
        let rules =
            StopRules { token_ids: Vec::new(), max_tokens: asked.unwrap_or(room), strings: strings.clone() };
        let ignore = options.ignore_eos.unwrap_or(false);
        let job = Job {
            client: extra.client,
            task: Task::Answer,
            prompt,
            choices: n,
            first_choice: number * n,
            sampling: sampling.clone(),
            rules,
            at_end_of_sequence: if ignore { AtEndOfSequence::Continue } else { AtEndOfSequence::Stop },
            logprobs: extra.logprobs,
            bias: bias.clone(),
            grammar: extra.grammar.clone(),
            submitted,
            deadline: submitted + app.settings.limits.request_timeout,
            events: send.clone(),
        };
        app.submit(&engine, job)?;
    }
    Ok(Answer { engine, choices, usage, events, first: None, finished: 0 })
}

/// `n`, checked: nothing may be sized by it before.
///
/// # Errors
/// None or too many, all prompts together.
pub fn choices_of_each(app: &App, options: &Options, prompts: usize) -> Result<usize, ApiError> {
    let n = options.n.unwrap_or(1) as usize;
    let most = app.settings.limits.choices.min(app.settings.scheduler.slots);
    match n.checked_mul(prompts) {
        Some(1..) if n * prompts <= most => Ok(n),
        _ => {
            let message = format!("{n} choices of {prompts} prompts were asked for, 1 to {most} are given");
            Err(ApiError::invalid(message).param("n"))
        }
    }
}

impl Answer {
    /// Waits for the first token, or for a failure before it.
    ///
    /// # Errors
    /// The failure.
    pub async fn begun(mut self) -> Result<Self, ApiError> {
        let first = async {
            loop {
                match self.events.recv().await {
                    Some(Event::Started { cached }) => self.add_cached(cached),
                    other => return other,
                }
            }
        };
        let first = Box::pin(first);
        match tokio::time::timeout(FIRST, first).await {
            Ok(Some(Event::Failed(failure))) => Err(failure.into()),
            Ok(None) => Err(lost()),
            Ok(first) => {
                self.first = first;
                Ok(self)
            }
            Err(_) => Ok(self),
        }
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// The failure that ended the answer.
    pub async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        while self.finished < self.choices {
            let event = match self.first.take() {
                Some(first) => Some(first),
                None => self.events.recv().await,
            };
            match event {
                Some(Event::Started { cached }) => self.add_cached(cached),
                Some(Event::Piece { choice, piece }) => return Some(Ok(Part::Piece { choice, piece })),
                Some(Event::Finished { choice, reason, tokens }) => {
                    self.finished += 1;
                    self.usage.completion_tokens += tokens;
                    self.usage.total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
                    return Some(Ok(Part::Finished { choice, finish: name(&reason) }));
                }
                // Of another task.
                Some(Event::Embedding { .. }) => {}
                Some(Event::Failed(failure)) => {
                    self.finished = self.choices;
                    return Some(Err(failure.into()));
                }
                None => {
                    self.finished = self.choices;
                    return Some(Err(lost()));
                }
            }
        }
        None
    }

    /// All choices as wholes.
    ///
    /// # Errors
    /// The failure that ended the answer.
    pub async fn all(&mut self) -> Result<Vec<Whole>, ApiError> {
        let mut wholes: Vec<Whole> = (0..self.choices).map(|_| Whole::default()).collect();
        while let Some(part) = self.next().await {
            match part? {
                Part::Piece { choice, piece } => {
                    wholes[choice].piece.text.push_str(&piece.text);
                    wholes[choice].piece.logprobs.extend(piece.logprobs);
                }
                Part::Finished { choice, finish } => wholes[choice].finish = finish,
            }
        }
        Ok(wholes)
    }

    fn add_cached(&mut self, cached: usize) {
        let PromptTokensDetails { cached_tokens } = &mut self.usage.prompt_tokens_details;
        *cached_tokens += cached;
    }
}

/// The engine thread went on without the request.
pub fn lost() -> ApiError {
    ApiError::internal("the engine thread failed on this request").code("engine_failed")
}

fn name(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::MaxTokens | FinishReason::ContextFull => "length",
        FinishReason::StopToken { .. }
        | FinishReason::EndOfSequence { .. }
        | FinishReason::StopString { .. }
        | FinishReason::Interrupted => "stop",
    }
}

/// # Errors
/// None or too many tokens, or one that is none; `param` is the field that has them.
pub fn check_prompt(prompt: &[u32], model: &Model, param: &'static str) -> Result<(), ApiError> {
    let (context, vocabulary) = (model.context, model.tokenizer.vocab_size());
    let error = |message: String| ApiError::invalid(message).param(param);
    if prompt.is_empty() {
        return Err(error("the prompt has no tokens".into()));
    }
    if prompt.len() > context {
        let message = format!("the prompt has {} tokens, the context {context} positions", prompt.len());
        return Err(error(message).code("context_length_exceeded"));
    }
    match prompt.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => Err(error(format!("token {id} is outside the vocabulary of {vocabulary}"))),
        None => Ok(()),
    }
}

fn sampling(settings: &Settings, options: &Options) -> Result<SamplingParams, ApiError> {
    let defaults = &settings.sampling;
    let seed = options.seed.map(|seed| seed as u64).or(settings.seed);
    let params = SamplingParams {
        temperature: options.temperature.unwrap_or(defaults.temperature),
        top_k: options.top_k.map_or(defaults.top_k, |k| k as usize),
        top_p: options.top_p.unwrap_or(defaults.top_p),
        min_p: options.min_p.unwrap_or(defaults.min_p),
        repetition_penalty: options.repetition_penalty.unwrap_or(defaults.repetition_penalty),
        presence_penalty: options.presence_penalty.unwrap_or(defaults.presence_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(defaults.frequency_penalty),
        penalty_window: defaults.penalty_window,
        seed: seed.unwrap_or_else(rng::random_seed),
    };
    let ranges = [
        ("temperature", params.temperature, 0.0, 100.0),
        ("top_p", params.top_p, 0.0, 1.0),
        ("min_p", params.min_p, 0.0, 1.0),
        ("repetition_penalty", params.repetition_penalty, 0.01, 100.0),
        ("presence_penalty", params.presence_penalty, -100.0, 100.0),
        ("frequency_penalty", params.frequency_penalty, -100.0, 100.0),
    ];
    for (name, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            let message = format!("{name} is {value}; give a value from {low} to {high}");
            return Err(ApiError::invalid(message).param(name));
        }
    }
    params.validate().map_err(|error| ApiError::of_request(&error))?;
    Ok(params)
}

fn bias(options: &Options, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let given: &BTreeMap<String, f32> = match &options.logit_bias {
        Some(given) => given,
        None => return Ok(Vec::new()),
    };
    let parse = |(id, bias): (&String, &f32)| {
        let known = id.parse::<u32>().ok().filter(|id| (*id as usize) < vocabulary);
        known.filter(|_| bias.is_finite()).map(|id| (id, *bias)).ok_or_else(|| {
            let message = format!("logit_bias names token '{id}'; the vocabulary has {vocabulary}");
            ApiError::invalid(message).param("logit_bias")
        })
    };
    given.iter().map(parse).collect()
}

/// # Errors
/// 404 for a model that is not served.
pub fn check_model(asked: Option<&str>, engine: &EngineThread) -> Result<(), ApiError> {
    match asked {
        Some(name) if name != engine.model.id => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("the model '{name}' is not served here; '{}' is", engine.model.id),
        )
        .param("model")
        .code("model_not_found")),
        _ => Ok(()),
    }
}
