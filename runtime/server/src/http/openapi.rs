//! The description of the interface, generated from the types that are read and written.
//!
//! Out: an OpenAPI 3.1 document, served at `/openapi.json` and committed as `docs/reference/openapi.json`.

use super::errors::json_response;
use crate::api::chat::{ChatCompletion, ChatRequest};
use crate::api::completions::{Completion, CompletionRequest};
use crate::api::embeddings::{EmbeddingRequest, Embeddings};
use crate::api::props::Props;
use crate::api::reply::{ErrorReply, Health, ModelEntry, Models};
use axum::http::StatusCode;
use axum::response::Response;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

pub async fn serve() -> Response {
    json_response(StatusCode::OK, &document())
}

/// The whole document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let schemas = &mut settings.into_generator();
    let paths = json!({
        "/v1/chat/completions": {
            "post": answering::<ChatRequest, ChatCompletion>(schemas, "chat", "Answers a conversation"),
        },
        "/v1/completions": {
            "post": answering::<CompletionRequest, Completion>(schemas, "complete", "Goes on from a text"),
        },
        "/v1/embeddings": { "post": embeddings(schemas) },
        "/v1/models": { "get": reading::<Models>(schemas, "models", "The served model, as a list") },
        "/v1/models/{id}": { "get": model(schemas) },
        "/props": { "get": reading::<Props>(schemas, "props", "What is served, how and why") },
        "/metrics": { "get": metrics(schemas) },
        "/health": { "get": open(schemas, "health", "Whether the process lives") },
        "/ready": { "get": open(schemas, "ready", "Whether requests would be taken") },
    });
    let components: Map<String, Value> = schemas.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bitnet serve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's interface over a BitNet runtime. Fields that are not listed are ignored.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "key": [] }],
    })
}

fn content<T: JsonSchema>(schemas: &mut SchemaGenerator, description: &str) -> Value {
    let schema = schemas.subschema_for::<T>();
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// The answers of every route that needs a key, with those of `statuses`.
fn failures(schemas: &mut SchemaGenerator, statuses: &[(&str, &str)]) -> Map<String, Value> {
    let everywhere =
        [("401", "A key is needed"), ("403", "Not from this origin or host"), ("503", "Not now")];
    let all = everywhere.iter().chain(statuses);
    all.map(|(status, what)| ((*status).to_owned(), content::<ErrorReply>(schemas, what))).collect()
}

fn operation(id: &str, summary: &str, responses: Map<String, Value>) -> Value {
    json!({ "operationId": id, "summary": summary, "responses": responses })
}

fn reading<T: JsonSchema>(schemas: &mut SchemaGenerator, id: &str, summary: &str) -> Value {
    let mut responses = failures(schemas, &[]);
    responses.insert("200".into(), content::<T>(schemas, "Here it is"));
    operation(id, summary, responses)
}

fn open(schemas: &mut SchemaGenerator, id: &str, summary: &str) -> Value {
    let mut responses = Map::new();
    responses.insert("200".into(), content::<Health>(schemas, "Yes"));
    responses.insert("503".into(), content::<Health>(schemas, "Not now"));
    responses.insert("403".into(), content::<ErrorReply>(schemas, "Not from this origin or host"));
    let mut operation = operation(id, summary, responses);
    operation["security"] = json!([{}]);
    operation
}

fn model(schemas: &mut SchemaGenerator) -> Value {
    let mut responses = failures(schemas, &[("404", "Another model is served")]);
    responses.insert("200".into(), content::<ModelEntry>(schemas, "Here it is"));
    let mut operation = operation("model", "One model", responses);
    let schema = json!({ "type": "string", "minLength": 1 });
    operation["parameters"] = json!([{ "name": "id", "in": "path", "required": true, "schema": schema }]);
    operation
}

fn metrics(schemas: &mut SchemaGenerator) -> Value {
    let mut responses = failures(schemas, &[("404", "Switched off")]);
    let text = json!({ "text/plain": { "schema": { "type": "string" } } });
    responses.insert("200".into(), json!({ "description": "Prometheus' text form", "content": text }));
    operation("metrics", "Counters", responses)
}

const OF_BODIES: &[(&str, &str)] = &[
    ("400", "The request is wrong; `param` names the field"),
    ("404", "Another model is served"),
    ("408", "The body took too long"),
    ("413", "The body is too large"),
    ("415", "The body is not said to be JSON"),
    ("429", "Too many requests wait; see Retry-After"),
    ("500", "The engine failed on this request"),
    ("504", "The answer took too long"),
];

fn answering<Q: JsonSchema, A: JsonSchema>(schemas: &mut SchemaGenerator, id: &str, summary: &str) -> Value {
    let mut answer = content::<A>(schemas, "The answer, or with `stream` its chunks as server-sent events");
    answer["content"]["text/event-stream"] = json!({ "schema": { "type": "string" } });
    asking::<Q>(schemas, id, summary, answer)
}

/// An operation that takes a body.
fn asking<Q: JsonSchema>(schemas: &mut SchemaGenerator, id: &str, summary: &str, answer: Value) -> Value {
    let mut responses = failures(schemas, OF_BODIES);
    responses.insert("200".into(), answer);
    let mut operation = operation(id, summary, responses);
    let schema = schemas.subschema_for::<Q>();
    let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    operation["requestBody"] = body;
    operation
}

fn embeddings(schemas: &mut SchemaGenerator) -> Value {
    let answer = content::<Embeddings>(schemas, "One vector of length 1 per input");
    asking::<EmbeddingRequest>(
        schemas,
        "embed",
        "Texts as vectors, where the served model was trained for it",
        answer,
    )
}

#[cfg(test)]
mod tests {
    /// What clients are generated from.
    #[test]
    fn the_committed_document_is_this_one() {
        let committed = include_str!("../../../../docs/reference/openapi.json");
        let generated = serde_json::to_string_pretty(&super::document()).unwrap() + "\n";
        assert!(
            committed == generated,
            "run `cargo run -p bitnet-server --example openapi > docs/reference/openapi.json`"
        );
    }

    #[test]
    fn every_reference_has_a_definition() {
        let document = super::document();
        let text = document.to_string();
        let references =
            text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in references {
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
