//! Routes, and what all of them share.

pub mod answer;
pub mod app;
mod chat;
mod completions;
mod embeddings;
pub mod errors;
mod guard;
mod linger;
pub mod listener;
pub mod openapi;
mod page;
mod sse;
mod status;
pub mod tls;

use app::App;
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use errors::ApiError;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Routes by name, for metrics and logs.
const ROUTES: &[&str] = &[
    "/health",
    "/ready",
    "/metrics",
    "/props",
    "/openapi.json",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
];

pub fn router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
        .route("/metrics", get(status::metrics))
        .route("/props", get(status::props))
        .route("/openapi.json", get(openapi::serve))
        .route("/v1/models", get(status::models))
        .route("/v1/models/{id}", get(status::model))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings));
    page::routes(routes)
        .fallback(async || not_found("there is nothing at this address; see /openapi.json"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this address takes another method")
        })
        .layer(from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

fn not_found(message: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, message).code("not_found")
}

/// # Errors
/// 400 with the place and the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let field = (path != ".").then_some(path);
        let message = match &field {
            Some(field) => format!("{field}: {}", error.inner()),
            None => format!("the body is not the JSON of a request: {}", error.inner()),
        };
        ApiError { param: field, ..ApiError::invalid(message) }
    })?;
    deserializer.end().map_err(|error| ApiError::invalid(format!("after the JSON: {error}")))?;
    Ok(value)
}
