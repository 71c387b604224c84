//! The running server: from a start to an orderly end.
//!
//! In: [`Settings`] and a loader. Out: a [`Server`] that answers `/health` while the model is still being loaded, and ends
//! when it is told to, or on SIGTERM or SIGINT: nothing new is taken, what is under way is finished within its time.
//! SIGHUP loads the model again and swaps it in. Deliberately absent: exit codes, text for people.

use crate::engine_thread::Loader;
use crate::http::app::App;
use crate::http::{listener, router, tls};
use crate::scheduler::inbox::Stop;
use crate::settings::Settings;
use bitnet_runtime::{Error, Result};
use hyper_util::server::graceful::GracefulShutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
    graceful: Arc<GracefulShutdown>,
    /// Caught before anybody is told that the server is there: from then on SIGHUP does not end the process.
    hangup: Option<Signal>,
    /// Last: the tasks above end with it.
    runtime: Runtime,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that was taken was answered.
    Drained,
    /// Some answers were cut off when their time was over.
    CutOff,
}

impl Server {
    /// Listens, then loads the model; returns when requests are taken.
    ///
    /// # Errors
    /// Settings that are refused, an address that cannot be had, or what the loader says.
    pub fn start(settings: Settings, loader: Loader) -> Result<Self> {
        Self::start_replicas(settings, vec![loader])
    }

    /// As [`Self::start`], with as many engines as loaders behind one queue.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_replicas(settings: Settings, loaders: Vec<Loader>) -> Result<Self> {
        settings.validate()?;
        raise_descriptors();
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let io = |what: &str, error: std::io::Error| Error::Unavailable {
            what: format!("{what}: {error}"),
            remedy: "choose another --host or --port".into(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("bitnet-http")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| io("no threads for connections", error))?;
        let _entered = runtime.enter();
        let listening = listener::bind(settings.address);
        let socket =
            listening.map_err(|error| io(&format!("cannot listen on {}", settings.address), error))?;
        let address = socket.local_addr().map_err(|error| io("no address", error))?;
        let app = Arc::new(App::new(settings, loaders));
        let graceful = Arc::new(GracefulShutdown::new());
        let router = router(Arc::clone(&app));
        let accept = listener::accept(socket, Arc::clone(&app), router, tls, Arc::clone(&graceful));
        let accepting = runtime.spawn(accept);
        let hangup = Some(catch(SignalKind::hangup())?);
        tracing::info!(%address, "listening");
        drop(_entered);
        let server = Server { app, address, accepting, graceful, hangup, runtime };
        server.load()?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Loads the model again and sends new requests there; those under way finish with the old one.
    ///
    /// # Errors
    /// What the loader says; the old model serves on then.
    pub fn load(&self) -> Result<()> {
        self.app.load()?;
        if let Ok(engine) = self.app.engine() {
            let facts = &engine.model.facts;
            let (backend, kernels) = (&facts.backend.selected, &facts.selection.selected);
            tracing::info!(
                model = facts.model.id,
                context = facts.engine.context_size,
                backend,
                kernels,
                "ready"
            );
        }
        Ok(())
    }

    /// Serves until a signal says to end.
    ///
    /// # Errors
    /// Signals that cannot be caught.
    pub fn run(mut self) -> Result<End> {
        let (terminate, interrupt) = {
            let _entered = self.runtime.enter();
            (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?)
        };
        let app = Arc::clone(&self.app);
        let mut hangup = self.hangup.take();
        self.runtime.spawn(async move {
            while let Some(signal) = &mut hangup
                && signal.recv().await.is_some()
            {
                let app = Arc::clone(&app);
                let loaded = tokio::task::spawn_blocking(move || app.load()).await;
                match loaded {
                    Ok(Ok(())) => tracing::info!("the model was loaded again and swapped in"),
                    Ok(Err(error)) => tracing::error!(%error, "the old model serves on"),
                    Err(error) => tracing::error!(%error, "the old model serves on"),
                }
            }
        });
        let mut signals = Signals { terminate, interrupt };
        self.runtime.block_on(signals.next());
        tracing::info!("ending: nothing new is taken, what is under way is finished");
        let app = Arc::clone(&self.app);
        self.runtime.spawn(async move {
            signals.next().await;
            app.stop(Stop::Now);
        });
        Ok(self.shut_down())
    }

    /// Takes nothing new and finishes what is under way, within the time of the settings.
    pub fn shut_down(self) -> End {
        let until = Instant::now() + self.app.settings.drain;
        self.app.stop(Stop::Drain);
        let mut end = End::Drained;
        while !self.app.has_stopped() {
            if Instant::now() >= until && end == End::Drained {
                self.app.stop(Stop::Now);
                end = End::CutOff;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Until here `/ready` says what happens; from here on nobody gets in.
        self.accepting.abort();
        let Server { runtime, graceful, app, accepting, .. } = self;
        let rest = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        runtime.block_on(async {
            let _ = accepting.await;
            // The last bytes of answers; connections that are idle end at once.
            if let Ok(graceful) = Arc::try_unwrap(graceful) {
                let _ = tokio::time::timeout(rest, graceful.shutdown()).await;
            }
        });
        tracing::info!(connections = app.metrics.connections.get(), "ended");
        runtime.shutdown_timeout(Duration::from_secs(1));
        end
    }
}

/// Within the runtime that will wait for it.
fn catch(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::Unavailable {
        what: format!("signals cannot be caught: {error}"),
        remedy: "start the server where that is allowed".into(),
    })
}

/// SIGTERM and SIGINT as one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        std::future::poll_fn(|context| {
            let terminate = self.terminate.poll_recv(context).is_ready();
            let interrupt = self.interrupt.poll_recv(context).is_ready();
            if terminate || interrupt { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// Lets the process have as many descriptors as the system allows: each connection is one.
fn raise_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to fill.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    if known && limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is a valid value; where the system refuses it, the old one stays.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}
