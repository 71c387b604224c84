//! The end of a connection whose client may still be sending.
//!
//! A request that is refused by its head leaves a body that nobody reads. A system that closes a socket with bytes unread
//! resets the connection, and the client loses the answer that says why it was refused. So after the answer and the end of this
//! side, what still comes is read and thrown away, until the client ends as well, for a bounded time and number of bytes.
//! Deliberately absent: telling whether the client has read the answer, which TCP does not.

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What is thrown away at most: sixteen times what a body may have by default.
const MOST_BYTES: usize = 64 << 20;
/// How long, where a body may not take less.
const MOST_TIME: Duration = Duration::from_secs(5);

/// Whether a request has begun that was not read to its end.
#[derive(Clone, Default)]
pub struct Unread(Arc<AtomicBool>);

impl Unread {
    fn set(&self, unread: bool) {
        self.0.store(unread, Ordering::Relaxed);
    }
}

/// A body that notes when it was read to its end.
pub struct Noted {
    body: Incoming,
    unread: Unread,
}

impl Noted {
    pub fn new(body: Incoming, unread: Unread) -> Self {
        unread.set(!body.is_end_stream());
        Noted { body, unread }
    }
}

impl Body for Noted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.set(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that ends its side first, and closes when the other has ended too.
pub struct Lingering<S> {
    stream: S,
    unread: Unread,
    limit: Duration,
    /// From the end of this side on.
    closing: Option<Pin<Box<Sleep>>>,
    thrown: usize,
}

impl<S> Lingering<S> {
    pub fn new(stream: S, unread: Unread, limit: Duration) -> Self {
        Lingering { stream, unread, limit: limit.min(MOST_TIME), closing: None, thrown: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        let poll = Pin::new(&mut this.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.unread.set(true);
        }
        poll
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            this.closing = Some(Box::pin(sleep(this.limit)));
        }
        let mut scratch = [0; 8 << 10];
        while this.thrown < MOST_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    this.unread.set(true);
                    this.thrown += buffer.filled().len();
                }
                // Ended, or broken: there is nobody to answer.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if !this.unread.0.load(Ordering::Relaxed) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let timer = this.closing.as_mut().map(|timer| timer.as_mut().poll(context));
                    return if timer == Some(Poll::Pending) { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
