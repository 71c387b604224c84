//! The web page: files that are part of the binary, under a policy that lets them load nothing from elsewhere.
//!
//! `index.html` is at `/`, every other file of `page` under its name.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

type File = (&'static str, &'static [u8]);

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Adds a route per file.
pub fn routes<S: Clone + Send + Sync + 'static>(mut router: Router<S>) -> Router<S> {
    for file in FILES {
        router = router.route(&format!("/{}", name(file)), get(move || async move { response(file) }));
    }
    router
}

/// Whether `path` is one of the page's.
pub fn has(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| FILES.iter().any(|file| name(file) == path))
}

fn name(file: &File) -> &'static str {
    if file.0 == "index.html" { "" } else { file.0 }
}

fn response((name, bytes): &'static File) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::OK, headers, *bytes).into_response()
}
