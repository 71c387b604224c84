//! `POST /v1/chat/completions`.

use super::answer::{Answer, Extra, Part, Whole, begin, check_model};
use super::app::{App, now};
use super::errors::{ApiError, json, json_response};
use super::sse::{self, Chunks};
use super::{guard, parse};
use crate::api::chat::{
    AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChatFields, ChatMessage, ChatRole, ChunkChoice,
    Delta, ResponseFormat,
};
use crate::api::options::Options;
use crate::api::reply::{ChatLogprob, ChatLogprobs, ScoredToken, Usage};
use crate::engine_thread::EngineThread;
use crate::grammar::Grammar;
use crate::model::Model;
use crate::scheduler::job::{Client, TokenLogprob};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bitnet_runtime::chat::{Message, Role};
use std::sync::Arc;

pub async fn chat(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = guard::body(&app, &headers, body).await?;
    let prepare = move |app: &App, engine: Arc<EngineThread>| prepare(app, engine, client, &bytes);
    let (engine, (answer, options, logprobs)) = app.prepared(prepare).await?;
    let answer = answer.begun().await?;
    let head = Head { id: app.next_id("chatcmpl"), created: now(), model: engine.model.id.clone(), logprobs };
    if options.stream.unwrap_or(false) {
        let wants_usage = options.stream_options.unwrap_or_default().include_usage.unwrap_or(false);
        let choices = answer.choices;
        return Ok(sse::response(answer, ChatChunks { head, engine, choices, wants_usage }));
    }
    whole(answer, head).await
}

fn prepare(
    app: &App,
    engine: Arc<EngineThread>,
    client: Client,
    bytes: &[u8],
) -> Result<(Answer, Options, bool), ApiError> {
    let (options, fields): (Options, ChatFields) = (parse(bytes)?, parse(bytes)?);
    check_model(options.model.as_deref(), &engine)?;
    refuse_unsupported(&fields)?;
    let model = &engine.model;
    if fields.messages.is_empty() {
        return Err(ApiError::invalid("there are no messages").param("messages"));
    }
    let messages: Vec<Message> = fields.messages.iter().map(message).collect();
    if app.settings.log_prompts {
        tracing::info!(?messages, "prompt");
    }
    let prompt =
        model.chat_tokens(&messages).map_err(|error| ApiError::of_request(&error).param("messages"))?;
    let wants_logprobs = fields.logprobs.unwrap_or(false);
    let top = fields.top_logprobs.unwrap_or(0) as usize;
    if top > 20 || top > 0 && !wants_logprobs {
        let message = "top_logprobs is from 0 to 20, and needs logprobs to be true";
        return Err(ApiError::invalid(message).param("top_logprobs"));
    }
    let grammar = grammar(model, fields.response_format)?;
    let max_tokens = fields.max_completion_tokens.or(options.max_tokens).map(|most| most as usize);
    let extra = Extra {
        client,
        prompts: vec![prompt],
        logprobs: wants_logprobs.then_some(top),
        grammar,
        stop_texts: model.template.stop_texts(),
        max_tokens,
    };
    let answer = begin(app, engine, &options, extra)?;
    Ok((answer, options, wants_logprobs))
}

/// Fields that would change the answer must not be passed over.
fn refuse_unsupported(fields: &ChatFields) -> Result<(), ApiError> {
    let given = [("tools", &fields.tools), ("functions", &fields.functions)];
    match given.into_iter().find(|(_, given)| given.as_ref().is_some_and(|given| !given.is_empty())) {
        Some((name, _)) => {
            let message = format!("{name} are not supported: no model that runs here calls tools");
            Err(ApiError::invalid(message).param(name).code("unsupported"))
        }
        None => Ok(()),
    }
}

fn message(message: &ChatMessage) -> Message {
    let role = match message.role {
        ChatRole::System | ChatRole::Developer => Role::System,
        ChatRole::User => Role::User,
        ChatRole::Assistant => Role::Assistant,
    };
    Message::new(role, message.text())
}

fn grammar(model: &Model, format: Option<ResponseFormat>) -> Result<Option<Grammar>, ApiError> {
    let invalid = |message: String| ApiError::invalid(message).param("response_format");
    let schema = match format {
        None | Some(ResponseFormat::Text) => return Ok(None),
        Some(ResponseFormat::JsonObject) => None,
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            let schema = json_schema.schema.filter(|schema| schema.is_object());
            Some(schema.ok_or_else(|| invalid("json_schema.schema is missing or no object".into()))?)
        }
    };
    let grammars = model.grammars().map_err(ApiError::internal)?;
    let compiled = match schema {
        Some(schema) => grammars.json_schema(schema),
        None => grammars.json_object(),
    };
    compiled.map(Some).map_err(|why| invalid(format!("the schema cannot be used: {why}")))
}

/// What every chunk repeats.
struct Head {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
}

async fn whole(mut answer: Answer, head: Head) -> Result<Response, ApiError> {
    let wholes = answer.all().await?;
    let model = &answer.engine.model;
    let choice = |(index, Whole { piece, finish }): (usize, Whole)| ChatChoice {
        index,
        message: AnswerMessage { role: "assistant", content: piece.text, refusal: None },
        logprobs: head.logprobs.then(|| logprobs(model, &piece.logprobs)),
        finish_reason: finish,
    };
    let reply = ChatCompletion {
        choices: wholes.into_iter().enumerate().map(choice).collect(),
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        usage: answer.usage,
        system_fingerprint: model.fingerprint.clone(),
    };
    Ok(json_response(StatusCode::OK, &reply))
}

fn logprobs(model: &Model, tokens: &[TokenLogprob]) -> ChatLogprobs {
    let scored = |id: u32, logprob: f32| {
        let bytes = model.tokenizer.token_bytes(id);
        ScoredToken { token: String::from_utf8_lossy(bytes).into_owned(), logprob, bytes: bytes.to_vec() }
    };
    let content = tokens.iter().map(|token| ChatLogprob {
        token: scored(token.id, token.logprob),
        top_logprobs: token.top.iter().map(|(id, logprob)| scored(*id, *logprob)).collect(),
    });
    ChatLogprobs { content: content.collect() }
}

struct ChatChunks {
    head: Head,
    engine: Arc<EngineThread>,
    choices: usize,
    wants_usage: bool,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        let Head { id, created, model, .. } = &self.head;
        json(&ChatChunk {
            id,
            object: "chat.completion.chunk",
            created: *created,
            model,
            system_fingerprint: &self.engine.model.fingerprint,
            choices,
            usage: self.wants_usage.then_some(usage),
        })
    }

    fn delta(&self, index: usize, delta: Delta, logprobs: Option<ChatLogprobs>) -> String {
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }], None)
    }
}

impl Chunks for ChatChunks {
    fn start(&mut self) -> Vec<String> {
        let delta = || Delta { role: Some("assistant"), content: Some(String::new()) };
        (0..self.choices).map(|index| self.delta(index, delta(), None)).collect()
    }

    fn part(&mut self, part: Part) -> String {
        match part {
            Part::Piece { choice, piece } => {
                let logprobs = self.head.logprobs.then(|| logprobs(&self.engine.model, &piece.logprobs));
                self.delta(choice, Delta { role: None, content: Some(piece.text) }, logprobs)
            }
            Part::Finished { choice, finish } => {
                let (delta, finish_reason) = (Delta::default(), Some(finish));
                self.chunk(vec![ChunkChoice { index: choice, delta, logprobs: None, finish_reason }], None)
            }
        }
    }

    fn usage(&mut self, usage: Usage) -> Option<String> {
        self.wants_usage.then(|| self.chunk(Vec::new(), Some(usage)))
    }
}
