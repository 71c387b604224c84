//! Connections: accepting them, bounding them in number and time, and ending them in an orderly way.
//!
//! In: a listening socket and the routes. Out: HTTP/1.1 over TCP or TLS. A peer that sends no head, reads nothing of its
//! answer or vanished without a word is given up after its time. Deliberately absent: HTTP/2, which clients of one
//! answer at a time gain nothing by.

use super::app::App;
use super::linger::{Lingering, Noted, Unread};
use crate::settings::HttpLimits;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

/// Accepts until it is dropped.
pub async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    tls: Option<TlsAcceptor>,
    graceful: Arc<GracefulShutdown>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: those in use come back.
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let limits = app.settings.limits;
        if app.metrics.connections.get() >= limits.connections as u64 {
            app.metrics.refused_connections.add(1);
            continue;
        }
        let open = Open::new(&app);
        let (router, tls, watcher) = (router.clone(), tls.clone(), graceful.watcher());
        // A second one, since the first ends with the connection and not with what counts it.
        let until_counted = graceful.watcher();
        tokio::spawn(async move {
            // Dropped last: who waits for the end of all connections then finds none counted.
            let _until_counted = until_counted;
            let _open = open;
            // Small events must not wait for each other.
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve(stream, peer, router, limits, watcher).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(limits.header_timeout, tls.accept(stream)).await {
                        serve(stream, peer, router, limits, watcher).await;
                    }
                }
            }
        });
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<App>);

impl Open {
    fn new(app: &Arc<App>) -> Self {
        app.metrics.connections.add(1);
        Open(Arc::clone(app))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.sub(1);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    limits: HttpLimits,
    watcher: Watcher,
) {
    let unread = Unread::default();
    let stream =
        Lingering::new(Stalling::new(stream, limits.write_timeout), unread.clone(), limits.body_timeout);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request.map(|body| Noted::new(body, unread.clone())))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8192))
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A stream whose writes fail when the peer takes nothing for too long.
struct Stalling<S> {
    stream: S,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    fn new(stream: S, limit: Duration) -> Self {
        Stalling { stream, limit, stalled: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let until = Instant::now() + self.limit;
        let timer = self.stalled.get_or_insert_with(|| {
            let mut timer = Box::pin(sleep(Duration::ZERO));
            timer.as_mut().reset(until);
            timer
        });
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(context, poll)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(context);
        this.watch(context, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_shutdown(context);
        this.watch(context, poll)
    }
}

/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 4096;

/// Listens on `address`.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::router;
    use crate::settings::Settings;

    #[test]
    fn whoever_waited_for_the_end_of_connections_finds_none_counted() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("threads");
        for _ in 0..100 {
            let app = Arc::new(App::new(Settings::default(), Vec::new()));
            let counted = runtime.block_on(async {
                let listener = bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
                let address = listener.local_addr().expect("an address");
                let graceful = Arc::new(GracefulShutdown::new());
                let routes = router(Arc::clone(&app));
                let accepting =
                    tokio::spawn(accept(listener, Arc::clone(&app), routes, None, Arc::clone(&graceful)));
                let mut clients = Vec::new();
                for _ in 0..8 {
                    clients.push(tokio::net::TcpStream::connect(address).await.expect("it is accepted"));
                }
                while app.metrics.connections.get() < 8 {
                    tokio::task::yield_now().await;
                }
                accepting.abort();
                let _ = accepting.await;
                Arc::into_inner(graceful).expect("nobody accepts").shutdown().await;
                app.metrics.connections.get()
            });
            assert_eq!(counted, 0);
        }
    }
}
