//! Failures as OpenAI's clients expect them: a status, and `{"error": {"message", "type", "param", "code"}}`.

use crate::api::reply::{ErrorBody, ErrorReply};
use crate::scheduler::job::Failure;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_runtime::Error;

#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    pub param: Option<String>,
    pub code: Option<&'static str>,
    pub retry_after: Option<u64>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub fn param(self, param: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..self }
    }

    pub fn code(self, code: &'static str) -> Self {
        ApiError { code: Some(code), ..self }
    }

    pub fn retry_after(self, seconds: u64) -> Self {
        ApiError { retry_after: Some(seconds), ..self }
    }

    /// What the request asked for and the runtime refused.
    pub fn of_request(error: &Error) -> Self {
        let (Error::Usage { what, .. } | Error::Limit { what, .. }) = error else {
            return Self::invalid(error.to_string());
        };
        Self::invalid(what.clone())
    }

    pub fn body(&self) -> ErrorReply {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error =
            ErrorBody { message: self.message.clone(), kind, param: self.param.clone(), code: self.code };
        ErrorReply { error }
    }

    /// The body as text, for an event of a stream.
    pub fn json(&self) -> String {
        json(&self.body())
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::Deadline => Self::new(StatusCode::GATEWAY_TIMEOUT, message).code("timeout"),
            Failure::Engine(_) => Self::internal(message).code("engine_failed"),
            Failure::Grammar(_) => Self::internal(message).code("grammar_failed"),
            Failure::ShuttingDown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("shutting_down").retry_after(5)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// `value` as one line of JSON.
pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings and no Serialize of ours fails")
}

pub fn json_response(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, json(value)).into_response()
}
