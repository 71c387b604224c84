//! Server-sent events: an answer as a body that is written while it is made.
//!
//! In: an [`Answer`] and a way to write its parts. Out: a body. A comment goes out where nothing else does, so that a client
//! that is gone is noticed by the write. Deliberately absent: the form of chunks.

use super::answer::{Answer, Part};
use super::errors::ApiError;
use crate::api::reply::Usage;
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

const QUIET: Duration = Duration::from_secs(10);

/// Writes parts of an answer as chunks, each one JSON text.
pub trait Chunks: Send + 'static {
    /// What comes before every text.
    fn start(&mut self) -> Vec<String>;
    fn part(&mut self, part: Part) -> String;
    /// What comes after the last part, where usage is wanted.
    fn usage(&mut self, usage: Usage) -> Option<String>;
}

type Next = Pin<Box<dyn Future<Output = (Answer, Option<Result<Part, ApiError>>)> + Send>>;

struct Events<C> {
    chunks: C,
    next: Option<Next>,
    started: bool,
    quiet: Pin<Box<Sleep>>,
}

/// The response.
pub fn response(answer: Answer, chunks: impl Chunks + Unpin) -> Response {
    let events = Events { chunks, next: Some(next(answer)), started: false, quiet: Box::pin(sleep(QUIET)) };
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

fn next(mut answer: Answer) -> Next {
    Box::pin(async move {
        let part = answer.next().await;
        (answer, part)
    })
}

impl<C: Chunks + Unpin> Stream for Events<C> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.started {
            this.started = true;
            let start: String = this.chunks.start().iter().map(|chunk| event(chunk)).collect();
            if !start.is_empty() {
                return Poll::Ready(Some(Ok(start.into())));
            }
        }
        let Some(future) = &mut this.next else { return Poll::Ready(None) };
        let Poll::Ready((answer, part)) = future.as_mut().poll(context) else {
            if this.quiet.as_mut().poll(context).is_ready() {
                this.quiet.as_mut().reset(Instant::now() + QUIET);
                // Asks to be woken for the new time.
                let _ = this.quiet.as_mut().poll(context);
                return Poll::Ready(Some(Ok(Bytes::from_static(b": still here\n\n"))));
            }
            return Poll::Pending;
        };
        this.quiet.as_mut().reset(Instant::now() + QUIET);
        let text = match part {
            Some(Ok(part)) => {
                this.next = Some(next(answer));
                event(&this.chunks.part(part))
            }
            Some(Err(error)) => {
                this.next = None;
                event(&error.json())
            }
            None => {
                this.next = None;
                let usage = this.chunks.usage(answer.usage).map(|usage| event(&usage));
                usage.unwrap_or_default() + &event("[DONE]")
            }
        };
        Poll::Ready(Some(Ok(text.into())))
    }
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}
