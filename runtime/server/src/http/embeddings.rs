//! `POST /v1/embeddings`: texts as vectors of length 1.
//!
//! In: texts or token ids. Out: per input the final hidden state of its last token, divided by its length, as models with
//! `pooling_type` 3 (last) were trained; a text ends with the tokens that its file asks for. Inputs are jobs like any
//! other, a few of a request at a time, so that they take turns with what others ask. Deliberately absent: other ways of
//! pooling, which are refused.

use super::answer::{check_model, check_prompt, lost};
use super::app::App;
use super::errors::{ApiError, json_response};
use super::{guard, parse};
use crate::api::completions::Prompt;
use crate::api::embeddings::{
    Embedding, EmbeddingRequest, EmbeddingUsage, Embeddings, EncodingFormat, Values,
};
use crate::engine_thread::EngineThread;
use crate::model::Model;
use crate::scheduler::job::{Client, Event, Job, Task};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitnet_runtime::generate::{AtEndOfSequence, StopRules};
use bitnet_runtime::sampling::SamplingParams;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Inputs of one request at most, as OpenAI has it.
const INPUTS: usize = 2048;

pub async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = guard::body(&app, &headers, body).await?;
    let prepare = move |app: &App, engine: Arc<EngineThread>| Inputs::begin(app, &engine, client, &bytes);
    let (engine, inputs) = app.prepared(prepare).await?;
    let (form, usage) = (inputs.form, inputs.usage);
    let data = inputs.states(&app, &engine).await?;
    let data = data.into_iter().enumerate().map(|(index, state)| form.embedding(index, state)).collect();
    let model = engine.model.id.clone();
    Ok(json_response(StatusCode::OK, &Embeddings { object: "list", data, model, usage }))
}

/// The inputs of a request, some of them under way.
struct Inputs {
    client: Client,
    form: Form,
    usage: EmbeddingUsage,
    submitted: Instant,
    /// Not yet handed to the engine.
    rest: VecDeque<Vec<u32>>,
    /// Handed over, in order.
    under_way: VecDeque<UnboundedReceiver<Event>>,
}

impl Inputs {
    /// Reads the request and hands its first inputs to the engine.
    fn begin(app: &App, engine: &EngineThread, client: Client, bytes: &[u8]) -> Result<Self, ApiError> {
        let request: EmbeddingRequest = parse(bytes)?;
        check_model(request.model.as_deref(), engine)?;
        let model = &engine.model;
        if let Some(why) = &model.no_embeddings {
            return Err(ApiError::invalid(why.clone()).param("model").code("unsupported_model"));
        }
        let width = model.facts.model.hidden;
        let dimensions = request.dimensions.map_or(width, |dimensions| dimensions as usize);
        if !(1..=width).contains(&dimensions) {
            let message = format!("dimensions is {dimensions}; the model has 1 to {width}");
            return Err(ApiError::invalid(message).param("dimensions"));
        }
        if app.settings.log_prompts {
            tracing::info!(input = ?request.input, "embedding");
        }
        let rest = tokens(model, request.input)?;
        let prompt_tokens = rest.iter().map(Vec::len).sum();
        let mut inputs = Inputs {
            client,
            form: Form { dimensions, encoding: request.encoding_format.unwrap_or_default() },
            usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
            submitted: Instant::now(),
            rest,
            under_way: VecDeque::new(),
        };
        inputs.submit(app, engine)?;
        Ok(inputs)
    }

    /// Hands over as many inputs as may be under way. A full queue is an error only where nothing of the request is in it.
    fn submit(&mut self, app: &App, engine: &EngineThread) -> Result<(), ApiError> {
        while self.under_way.len() < app.settings.scheduler.slots {
            let Some(prompt) = self.rest.front() else { break };
            let (events, receiver) = unbounded_channel();
            let job = Job {
                client: self.client,
                task: Task::Embed,
                prompt: prompt.clone(),
                choices: 1,
                first_choice: 0,
                sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
                rules: StopRules { max_tokens: 1, ..StopRules::default() },
                at_end_of_sequence: AtEndOfSequence::Stop,
                logprobs: None,
                bias: Vec::new(),
                grammar: None,
                submitted: self.submitted,
                deadline: self.submitted + app.settings.limits.request_timeout,
                events,
            };
            match app.submit(engine, job) {
                Ok(()) => drop(self.rest.pop_front()),
                Err(error) if error.status == StatusCode::TOO_MANY_REQUESTS && !self.under_way.is_empty() => {
                    break;
                }
                Err(error) => return Err(error),
            }
            self.under_way.push_back(receiver);
        }
        Ok(())
    }

    /// Every input's hidden state, in the order of inputs.
    async fn states(mut self, app: &App, engine: &EngineThread) -> Result<Vec<Vec<f32>>, ApiError> {
        let mut states = Vec::new();
        while let Some(mut events) = self.under_way.pop_front() {
            states.push(state(&mut events).await?);
            self.submit(app, engine)?;
        }
        Ok(states)
    }
}

async fn state(events: &mut UnboundedReceiver<Event>) -> Result<Vec<f32>, ApiError> {
    loop {
        match events.recv().await {
            Some(Event::Embedding { values, .. }) => return Ok(values),
            Some(Event::Started { .. } | Event::Piece { .. }) => {}
            Some(Event::Failed(failure)) => return Err(failure.into()),
            Some(Event::Finished { .. }) | None => return Err(lost()),
        }
    }
}

/// Token ids of every input.
fn tokens(model: &Model, input: Prompt) -> Result<VecDeque<Vec<u32>>, ApiError> {
    let texts = match input {
        Prompt::Text(text) => vec![text],
        Prompt::Texts(texts) => texts,
        Prompt::Tokens(tokens) if !tokens.is_empty() => return checked(model, vec![tokens]),
        Prompt::Tokens(_) => Vec::new(),
        Prompt::ManyTokens(many) => return checked(model, many),
    };
    let tokens = texts.iter().take(INPUTS + 1).map(|text| model.tokens(text)).collect::<Result<_, _>>();
    checked(model, tokens.map_err(|error| ApiError::of_request(&error).param("input"))?)
}

fn checked(model: &Model, inputs: Vec<Vec<u32>>) -> Result<VecDeque<Vec<u32>>, ApiError> {
    if inputs.is_empty() || inputs.len() > INPUTS {
        return Err(ApiError::invalid(format!("give 1 to {INPUTS} inputs")).param("input"));
    }
    inputs.iter().try_for_each(|tokens| check_prompt(tokens, model, "input"))?;
    Ok(inputs.into())
}

/// How vectors are given.
#[derive(Clone, Copy)]
struct Form {
    dimensions: usize,
    encoding: EncodingFormat,
}

impl Form {
    fn embedding(self, index: usize, mut state: Vec<f32>) -> Embedding {
        state.truncate(self.dimensions);
        normalize(&mut state);
        let embedding = match self.encoding {
            EncodingFormat::Float => Values::Floats(state),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = state.iter().flat_map(|value| value.to_le_bytes()).collect();
                Values::Base64(BASE64_STANDARD.encode(bytes))
            }
        };
        Embedding { object: "embedding", index, embedding }
    }
}

/// Divides by the Euclidean length, in the arithmetic of llama.cpp's `common_embd_normalize`; zeros stay.
fn normalize(values: &mut [f32]) {
    let length = values.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt();
    let factor = if length > 0.0 { (1.0 / length) as f32 } else { 0.0 };
    values.iter_mut().for_each(|value| *value *= factor);
}
