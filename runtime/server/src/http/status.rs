//! What is asked about the server itself. Nothing here waits for the engine.

use super::app::App;
use super::errors::{ApiError, json_response};
use crate::api::props::{LimitProps, Props, SamplingProps, SelectionProps};
use crate::api::reply::{Health, ModelEntry, Models};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The process lives.
pub async fn health() -> Response {
    json_response(StatusCode::OK, &Health { status: "ok" })
}

/// Requests would be taken.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let (status, text) = match (app.is_stopping(), app.is_loaded()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        (false, true) => (StatusCode::OK, "ok"),
    };
    json_response(status, &Health { status: text })
}

pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if !app.settings.metrics {
        return Err(super::not_found("/metrics is switched off"));
    }
    let engine = app.engine().ok();
    let labels = engine.as_ref().map(|engine| {
        let facts = &engine.model.facts;
        vec![
            ("model", facts.model.id.as_str()),
            ("kernels", facts.selection.selected.as_str()),
            ("backend", facts.backend.selected.as_str()),
        ]
    });
    let text = app.metrics.text(&labels.unwrap_or_default());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

pub async fn props(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let engine = app.engine()?;
    let (facts, settings) = (&engine.model.facts, &app.settings);
    let sampling = &settings.sampling;
    let props = Props {
        version: env!("CARGO_PKG_VERSION"),
        model: facts.model.clone(),
        engine: facts.engine.clone(),
        selection: SelectionProps::from(&facts.selection),
        selection_line: facts.selection.to_string(),
        backend: SelectionProps::from(&facts.backend),
        backend_line: facts.backend.to_string(),
        kernels: facts.kernels.clone(),
        receipt: facts.receipt.clone(),
        default_sampling: SamplingProps {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            max_tokens: settings.max_tokens,
        },
        limits: LimitProps {
            answers_side_by_side: settings.scheduler.slots,
            waiting_requests: settings.queue.all,
            choices: settings.limits.choices,
            body_bytes: settings.limits.body_bytes,
            request_seconds: settings.limits.request_timeout.as_secs(),
        },
        strict: settings.strict,
    };
    Ok(json_response(StatusCode::OK, &props))
}

pub async fn models(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let data = vec![entry(&app)?];
    Ok(json_response(StatusCode::OK, &Models { object: "list", data }))
}

pub async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let entry = entry(&app)?;
    if entry.id != id {
        let message = format!("the model '{id}' is not served here; '{}' is", entry.id);
        return Err(ApiError::new(StatusCode::NOT_FOUND, message).param("model").code("model_not_found"));
    }
    Ok(json_response(StatusCode::OK, &entry))
}

fn entry(app: &App) -> Result<ModelEntry, ApiError> {
    let model = &app.engine()?.model;
    Ok(ModelEntry { id: model.id.clone(), object: "model", created: model.created, owned_by: "bitforge" })
}
