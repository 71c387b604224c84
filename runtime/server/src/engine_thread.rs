//! The thread that owns an engine: it takes jobs from its inbox and computes.
//!
//! In: a [`Loader`]. Out: an [`EngineThread`], once the model is loaded. One thread per model, so that replacing a model is
//! starting a second thread and letting the first one finish what it has. A panic that the scheduler did not expect
//! costs the requests under way, never the thread. Deliberately absent: which rows are evaluated (see
//! [`crate::scheduler`]).

use crate::metrics::Metrics;
use crate::model::{Loaded, Model};
use crate::scheduler::inbox::{Inbox, Stop};
use crate::scheduler::job::Failure;
use crate::scheduler::queue::QueueLimits;
use crate::scheduler::{MakeEngine, Scheduler, SchedulerLimits, panic_text};
use bitnet_runtime::{Error, Result};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// Loads the model; called again after a failure of the engine, and to replace the model.
pub type Loader = Arc<dyn Fn() -> Result<Loaded> + Send + Sync>;

pub struct EngineThread {
    pub model: Arc<Model>,
    pub inbox: Arc<Inbox>,
    thread: JoinHandle<()>,
}

impl EngineThread {
    /// Loads the model on a new thread and waits for it.
    ///
    /// # Errors
    /// What the loader says, or that no thread can be started.
    pub fn start(
        loader: Loader,
        scheduler: SchedulerLimits,
        queue: QueueLimits,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let inbox = Arc::new(Inbox::new(queue, Arc::clone(&metrics)));
        let (send, loaded) = mpsc::channel();
        let own = Arc::clone(&inbox);
        let body = move || {
            let first = match catch_unwind(AssertUnwindSafe(|| loader())) {
                Ok(Ok(Loaded { sequences, model })) => {
                    let model = Arc::new(model);
                    let _ = send.send(Ok(Arc::clone(&model)));
                    (sequences, model)
                }
                Ok(Err(error)) => return drop(send.send(Err(error))),
                Err(panic) => return drop(send.send(Err(broken(&panic_text(&*panic))))),
            };
            let (sequences, model) = first;
            let first = RefCell::new(Some(sequences));
            let make = || match first.take() {
                Some(sequences) => Ok(sequences),
                None => loader().map(|loaded| loaded.sequences),
            };
            let run = || run(&own, &make, &model, scheduler, &metrics);
            while let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                // What was under way is dropped, which its requests notice.
                metrics.engine_failures.add(1);
                tracing::error!(reason = panic_text(&*panic), "the engine thread failed and starts again");
            }
        };
        let thread = std::thread::Builder::new()
            .name("bitnet-engine".into())
            .spawn(body)
            .map_err(|error| Error::limit(format!("no engine thread: {error}"), "end other processes"))?;
        let model = loaded.recv().unwrap_or_else(|_| Err(broken("it ended early")))?;
        Ok(EngineThread { model, inbox, thread })
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

fn broken(why: &str) -> Error {
    Error::Accelerator {
        what: format!("the engine thread failed while it loaded the model: {why}"),
        remedy: "report this with the model's name".into(),
    }
}

fn run(inbox: &Inbox, make: MakeEngine<'_>, model: &Model, limits: SchedulerLimits, metrics: &Metrics) {
    let mut scheduler = match Scheduler::new(make, &model.tokenizer, limits, metrics) {
        Ok(scheduler) => scheduler,
        Err(error) => {
            tracing::error!(%error, "the engine cannot be made again");
            inbox.wait();
            return inbox.fail_all(&Failure::Engine(error.to_string()));
        }
    };
    loop {
        let stop = if scheduler.is_idle() { inbox.wait() } else { inbox.stopping() };
        if stop == Stop::Now {
            scheduler.fail_all(&Failure::ShuttingDown);
            return inbox.fail_all(&Failure::ShuttingDown);
        }
        inbox.sweep(Instant::now());
        while let Some(job) = inbox.take(|job| scheduler.fits(job)) {
            scheduler.admit(job);
        }
        if !scheduler.is_idle() {
            scheduler.step();
        } else if stop == Stop::Drain && inbox.waiting() == 0 {
            return;
        }
    }
}
