//! What all requests share, and handing jobs to the engine thread.

use super::errors::ApiError;
use crate::engine_thread::{EngineThread, Loader};
use crate::metrics::Metrics;
use crate::scheduler::inbox::{Refused, Stop};
use crate::scheduler::job::Job;
use crate::settings::Settings;
use axum::http::StatusCode;
use bitnet_runtime::Result;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Between looking up the engine and submitting it was replaced.
const REPLACED: &str = "replaced";

pub struct App {
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
    /// One per replica.
    loaders: Vec<Loader>,
    /// Where new requests go; `None` while the first model is loaded.
    current: RwLock<Option<Arc<EngineThread>>>,
    /// Engines that finish what they have.
    draining: Mutex<Vec<Arc<EngineThread>>>,
    stopping: AtomicBool,
    requests: AtomicU64,
}

impl App {
    pub fn new(settings: Settings, loaders: Vec<Loader>) -> Self {
        App {
            settings,
            metrics: Arc::default(),
            loaders,
            current: RwLock::new(None),
            draining: Mutex::default(),
            stopping: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }
    }

    /// Loads the model, beside the one that serves where there is one, and sends new requests there. Takes as long as
    /// loading does.
    ///
    /// # Errors
    /// What loading says; whatever served before goes on then.
    pub fn load(&self) -> Result<()> {
        let Settings { scheduler, queue, .. } = self.settings;
        let engine = EngineThread::start(&self.loaders, scheduler, queue, &self.metrics)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = current.replace(Arc::new(engine)) {
            before.inbox.stop(Stop::Drain);
            self.metrics.model_swaps.add(1);
            let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
            draining.retain(|engine| !engine.is_finished());
            draining.push(before);
        }
        Ok(())
    }

    /// # Errors
    /// 503 while there is none.
    pub fn engine(&self) -> Result<Arc<EngineThread>, ApiError> {
        if self.is_stopping() {
            return Err(ApiError::from(crate::scheduler::job::Failure::ShuttingDown));
        }
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().ok_or_else(|| {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the model is being loaded")
                .code("loading")
                .retry_after(1)
        })
    }

    pub fn is_loaded(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// From here on nothing new is taken.
    pub fn stop(&self, stop: Stop) {
        self.stopping.store(true, Ordering::Relaxed);
        self.engines().iter().for_each(|engine| engine.inbox.stop(stop));
    }

    /// Whether every engine has ended.
    pub fn has_stopped(&self) -> bool {
        self.engines().iter().all(|engine| engine.is_finished())
    }

    fn engines(&self) -> Vec<Arc<EngineThread>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        draining.iter().cloned().chain(current).collect()
    }

    /// # Errors
    /// 429 where the queue is full; 503 where the engine takes nothing new.
    pub fn submit(&self, engine: &EngineThread, job: Job) -> Result<(), ApiError> {
        engine.inbox.submit(job).map_err(|refused| match refused {
            Refused::Full(_) => {
                let waiting = engine.inbox.waiting();
                ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    format!("{waiting} requests are waiting already, try again later"),
                )
                .code("rate_limit_exceeded")
                .retry_after(self.seconds_of(waiting))
            }
            Refused::Stopping => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the model was replaced just now")
                    .code(REPLACED)
                    .retry_after(1)
            }
        })
    }

    /// What `prepare` makes of a request, with the engine that it was made for. It tokenizes and may compile schemas, so
    /// it does not run on the pool that answers sockets. Where the model is replaced meanwhile it is run again.
    ///
    /// # Errors
    /// Those of `prepare`.
    pub async fn prepared<T: Send + 'static>(
        self: &Arc<Self>,
        prepare: impl Fn(&App, Arc<EngineThread>) -> Result<T, ApiError> + Clone + Send + 'static,
    ) -> Result<(Arc<EngineThread>, T), ApiError> {
        loop {
            let engine = self.engine()?;
            let (app, own, prepare) = (Arc::clone(self), Arc::clone(&engine), prepare.clone());
            match tokio::task::spawn_blocking(move || prepare(&app, own)).await {
                Ok(Err(error)) if error.code == Some(REPLACED) => {}
                Ok(prepared) => return Ok((engine, prepared?)),
                Err(error) => {
                    return Err(ApiError::internal(format!("the request could not be prepared: {error}")));
                }
            }
        }
    }

    /// How long the queue may take to have room: the mean time of an answer, times those ahead, over the slots.
    fn seconds_of(&self, waiting: usize) -> u64 {
        let answers = &self.metrics.request_seconds;
        let mean = answers.sum() / answers.count().max(1) as f64;
        let slots = self.settings.scheduler.slots * self.loaders.len();
        let rounds = waiting as f64 / slots.max(1) as f64;
        (mean * rounds.max(1.0)).ceil().clamp(1.0, 120.0) as u64
    }

    /// An id for an answer: the time and a number.
    pub fn next_id(&self, prefix: &str) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:x}{number:06x}", now())
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
