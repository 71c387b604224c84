//! `POST /v1/completions`: text that goes on from a prompt, in OpenAI's older form.

use super::answer::{Answer, Extra, Part, Whole, begin, check_model, choices_of_each};
use super::app::{App, now};
use super::errors::{ApiError, json, json_response};
use super::sse::{self, Chunks};
use super::{guard, parse};
use crate::api::completions::{Completion, CompletionChoice, CompletionFields, Prompt};
use crate::api::options::Options;
use crate::api::reply::{TextLogprobs, Usage};
use crate::engine_thread::EngineThread;
use crate::model::Model;
use crate::scheduler::job::{Client, Piece};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bitnet_runtime::tokenizer::{ControlTokens, TextPosition};
use std::sync::Arc;

/// Prompts of one request at most.
const PROMPTS: usize = 16;

pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = guard::body(&app, &headers, body).await?;
    let prepare = move |app: &App, engine: Arc<EngineThread>| prepare(app, engine, client, &bytes);
    let (_, (answer, options, writer)) = app.prepared(prepare).await?;
    let answer = answer.begun().await?;
    if options.stream.unwrap_or(false) {
        return Ok(sse::response(answer, writer));
    }
    whole(answer, writer).await
}

fn prepare(
    app: &App,
    engine: Arc<EngineThread>,
    client: Client,
    bytes: &[u8],
) -> Result<(Answer, Options, Writer), ApiError> {
    let (options, fields): (Options, CompletionFields) = (parse(bytes)?, parse(bytes)?);
    check_model(options.model.as_deref(), &engine)?;
    if fields.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::invalid("suffix is not supported").param("suffix").code("unsupported"));
    }
    if fields.best_of.is_some_and(|best| best != 1) {
        return Err(ApiError::invalid("best_of is not supported").param("best_of").code("unsupported"));
    }
    if fields.logprobs.is_some_and(|top| top > 20) {
        return Err(ApiError::invalid("logprobs is from 0 to 20").param("logprobs"));
    }
    let model = &engine.model;
    let (texts, prompts) = prompts(model, fields.prompt)?;
    if app.settings.log_prompts {
        tracing::info!(?texts, "prompt");
    }
    let n = choices_of_each(app, &options, prompts.len())?;
    let echo = fields.echo.unwrap_or(false);
    let each = texts.into_iter().flat_map(|text| std::iter::repeat_n(text, n));
    let before: Vec<String> = each.map(|text| if echo { text } else { String::new() }).collect();
    let max_tokens = options.max_tokens.map(|most| most as usize);
    let extra = Extra {
        client,
        prompts,
        logprobs: fields.logprobs.map(|top| top as usize),
        grammar: None,
        stop_texts: &[],
        max_tokens,
    };
    let writer = Writer {
        id: app.next_id("cmpl"),
        created: now(),
        engine: Arc::clone(&engine),
        logprobs: fields.logprobs.is_some(),
        offsets: before.iter().map(|text| text.chars().count()).collect(),
        before,
        wants_usage: options.stream_options.as_ref().and_then(|wants| wants.include_usage).unwrap_or(false),
    };
    let answer = begin(app, engine, &options, extra)?;
    Ok((answer, options, writer))
}

/// Texts and token ids of the prompts.
fn prompts(model: &Model, prompt: Prompt) -> Result<(Vec<String>, Vec<Vec<u32>>), ApiError> {
    let invalid = |message: &str| ApiError::invalid(message).param("prompt");
    let texts = match prompt {
        Prompt::Text(text) => vec![text],
        Prompt::Texts(texts) => texts,
        Prompt::Tokens(tokens) if !tokens.is_empty() => return decoded(model, vec![tokens]),
        Prompt::Tokens(_) => Vec::new(),
        Prompt::ManyTokens(many) => return decoded(model, many),
    };
    if texts.is_empty() || texts.len() > PROMPTS {
        return Err(invalid("give 1 to 16 prompts"));
    }
    let tokens = texts.iter().map(|text| model.tokens(text)).collect::<Result<_, _>>();
    Ok((texts, tokens.map_err(|error| ApiError::of_request(&error).param("prompt"))?))
}

fn decoded(model: &Model, many: Vec<Vec<u32>>) -> Result<(Vec<String>, Vec<Vec<u32>>), ApiError> {
    if many.is_empty() || many.len() > PROMPTS {
        return Err(ApiError::invalid("give 1 to 16 prompts").param("prompt"));
    }
    let text = |tokens: &Vec<u32>| model.tokenizer.decode(tokens, TextPosition::Start, ControlTokens::Hide);
    Ok((many.iter().map(text).collect(), many))
}

struct Writer {
    id: String,
    created: u64,
    engine: Arc<EngineThread>,
    logprobs: bool,
    /// Per choice: what comes before its text, and characters written so far.
    before: Vec<String>,
    offsets: Vec<usize>,
    wants_usage: bool,
}

async fn whole(mut answer: Answer, mut writer: Writer) -> Result<Response, ApiError> {
    let wholes = answer.all().await?;
    let choices = wholes.into_iter().enumerate().map(|(index, Whole { piece, finish })| {
        let logprobs = writer.logprobs.then(|| writer.text_logprobs(index, &piece));
        let text = std::mem::take(&mut writer.before[index]) + &piece.text;
        CompletionChoice { index, text, logprobs, finish_reason: Some(finish) }
    });
    let choices = choices.collect();
    let reply = writer.completion(choices, Some(Some(answer.usage)));
    Ok(json_response(StatusCode::OK, &reply))
}

impl Writer {
    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.engine.model.id.clone(),
            choices,
            usage,
            system_fingerprint: self.engine.model.fingerprint.clone(),
        }
    }

    fn chunk(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> String {
        json(&self.completion(choices, self.wants_usage.then_some(usage)))
    }

    fn text_logprobs(&mut self, choice: usize, piece: &Piece) -> TextLogprobs {
        let text =
            |id: u32| String::from_utf8_lossy(self.engine.model.tokenizer.token_bytes(id)).into_owned();
        let mut found = TextLogprobs::default();
        let mut offset = self.offsets[choice];
        for token in &piece.logprobs {
            let name = text(token.id);
            found.text_offset.push(offset);
            offset += name.chars().count();
            found.tokens.push(name);
            found.token_logprobs.push(token.logprob);
            let top = token.top.iter().map(|(id, logprob)| (text(*id), (*logprob).into())).collect();
            found.top_logprobs.push(top);
        }
        self.offsets[choice] = offset;
        found
    }
}

impl Chunks for Writer {
    fn start(&mut self) -> Vec<String> {
        let before: Vec<(usize, String)> =
            self.before.iter().cloned().enumerate().filter(|(_, text)| !text.is_empty()).collect();
        let chunk = |(index, text)| {
            self.chunk(vec![CompletionChoice { index, text, logprobs: None, finish_reason: None }], None)
        };
        before.into_iter().map(chunk).collect()
    }

    fn part(&mut self, part: Part) -> String {
        let choice = match part {
            Part::Piece { choice, piece } => {
                let logprobs = self.logprobs.then(|| self.text_logprobs(choice, &piece));
                CompletionChoice { index: choice, text: piece.text, logprobs, finish_reason: None }
            }
            Part::Finished { choice, finish } => CompletionChoice {
                index: choice,
                text: String::new(),
                logprobs: None,
                finish_reason: Some(finish),
            },
        };
        self.chunk(vec![choice], None)
    }

    fn usage(&mut self, usage: Usage) -> Option<String> {
        self.wants_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
