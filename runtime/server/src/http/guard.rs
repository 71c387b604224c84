//! What stands before every route: who may ask, from where, and how much.
//!
//! In: a request. Out: the request with its [`Client`], or a refusal. Responses get the headers that keep browsers from
//! guessing and, for allowed origins, those of CORS. Deliberately absent: what is asked for.

use super::app::App;
use super::errors::ApiError;
use super::page;
use crate::scheduler::job::Client;
use crate::settings::ApiKey;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Routes that anybody may ask for, beside the page's: what a load balancer needs.
const OPEN: &[&str] = &["/health", "/ready"];

/// The page's files, for metrics and logs.
const PAGE: &str = "page";

pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = route_of(&request);
    let (method, origin) = (request.method().clone(), request.headers().get(header::ORIGIN).cloned());
    let allowed = origin.as_ref().filter(|origin| is_allowed(&app, origin)).cloned();
    let mut response = match check(&app, &request, route, allowed.is_some()) {
        Ok(_) if method == Method::OPTIONS && allowed.is_some() => preflight(),
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    let status = response.status().as_u16();
    app.metrics.response(route, status);
    tracing::info!(%method, route, status, milliseconds = started.elapsed().as_millis() as u64, "answered");
    response
}

/// The route, never the address as it was written, which anybody can make up.
fn route_of(request: &Request) -> &'static str {
    let path = request.uri().path();
    if page::has(path) {
        return PAGE;
    }
    super::ROUTES.iter().find(|route| **route == path).unwrap_or(&"other")
}

fn check(app: &App, request: &Request, route: &str, allowed_origin: bool) -> Result<Client, ApiError> {
    let headers = request.headers();
    let forbidden = |message: String| Err(ApiError::new(StatusCode::FORBIDDEN, message).code("forbidden"));
    if let Some(origin) = headers.get(header::ORIGIN)
        && !allowed_origin
        && !is_own(origin, headers)
    {
        return forbidden(
            "pages of other origins may not use this server; start it with --cors-origin".into(),
        );
    }
    if app.settings.keys.is_empty() && !app.settings.open_to_all && !names_this_machine(headers) {
        // A name that was made to point here (DNS rebinding) would pass as the server's own origin.
        return forbidden("without an API key only requests to localhost are answered".into());
    }
    let peer = request.extensions().get::<SocketAddr>();
    let of_peer = Client(peer.map_or(0, |peer| match peer.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }));
    if app.settings.keys.is_empty()
        || OPEN.contains(&route)
        || route == PAGE
        || request.method() == Method::OPTIONS
    {
        return Ok(of_peer);
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ").or(value.strip_prefix("bearer ")));
    match given.and_then(|given| ApiKey::find(&app.settings.keys, given.trim())) {
        // Beyond all addresses.
        Some(index) => Ok(Client(u64::MAX - index as u64)),
        None => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "the API key is missing or wrong; send `Authorization: Bearer KEY`",
        )
        .code("invalid_api_key")),
    }
}

fn is_allowed(app: &App, origin: &HeaderValue) -> bool {
    let origins = &app.settings.cors_origins;
    origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
}

/// Whether the page comes from this server itself.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.is_some_and(|(_, origin)| Some(origin) == host)
}

fn names_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// The whole body, within the limits of size and time.
///
/// # Errors
/// 408, 413, or 415 where it does not say that it is JSON.
pub async fn body(app: &App, headers: &HeaderMap, body: Body) -> Result<axum::body::Bytes, ApiError> {
    let limits = &app.settings.limits;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the content type is '{kind}'; send application/json"),
        ));
    }
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {} bytes", limits.body_bytes),
        )
    };
    let told =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let collected = Limited::new(body, limits.body_bytes).collect();
    match tokio::time::timeout(limits.body_timeout, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::invalid("the body ended before its length")),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body took longer than {} s", limits.body_timeout.as_secs()),
        )),
    }
}
