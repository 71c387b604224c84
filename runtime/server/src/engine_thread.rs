//! The thread that owns an engine, or several that each own a replica: they take jobs from one inbox and compute.
//!
//! In: a [`Loader`] per replica. Out: an [`EngineThread`], once the model is loaded. Replacing a model is starting a second
//! one and letting the first finish what it has. A job goes to the replica with the fewest answers under way. A panic that the scheduler did not expect
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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

/// Loads the model; called again after a failure of the engine, and to replace the model.
pub type Loader = Arc<dyn Fn() -> Result<Loaded> + Send + Sync>;

pub struct EngineThread {
    pub model: Arc<Model>,
    pub inbox: Arc<Inbox>,
    threads: Vec<JoinHandle<()>>,
}

/// Answers under way in each replica.
struct Loads(Vec<AtomicUsize>);

impl Loads {
    /// Of a replica that has no engine any more.
    const GONE: usize = usize::MAX;

    fn set(&self, replica: usize, answers: usize) {
        self.0[replica].store(answers, Ordering::Relaxed);
    }

    /// Whether no other replica has fewer.
    fn lets(&self, replica: usize) -> bool {
        let of = |load: &AtomicUsize| load.load(Ordering::Relaxed);
        self.0.iter().all(|load| of(load) >= of(&self.0[replica]))
    }

    fn all_gone(&self) -> bool {
        self.0.iter().all(|load| load.load(Ordering::Relaxed) == Self::GONE)
    }
}

impl EngineThread {
    /// Loads the model on new threads, one per loader, and waits for them.
    ///
    /// # Errors
    /// What a loader says, or that no thread can be started.
    pub fn start(
        loaders: &[Loader],
        scheduler: SchedulerLimits,
        queue: QueueLimits,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let inbox = Arc::new(Inbox::new(queue, Arc::clone(metrics)));
        let loads = Arc::new(Loads(loaders.iter().map(|_| AtomicUsize::new(0)).collect()));
        let (send, loaded) = mpsc::channel();
        let start = |(replica, loader): (usize, &Loader)| {
            let replica = Replica {
                index: replica,
                loader: Arc::clone(loader),
                loads: Arc::clone(&loads),
                inbox: Arc::clone(&inbox),
                scheduler,
                metrics: Arc::clone(metrics),
            };
            let send = send.clone();
            std::thread::Builder::new()
                .name("bitnet-engine".into())
                .spawn(move || replica.live(&send))
                .map_err(|error| Error::limit(format!("no engine thread: {error}"), "end other processes"))
        };
        let started: Result<Vec<JoinHandle<()>>> = loaders.iter().enumerate().map(start).collect();
        drop(send);
        let models = started.and_then(|threads| {
            let models: Result<Vec<Arc<Model>>> = threads
                .iter()
                .map(|_| loaded.recv().unwrap_or_else(|_| Err(broken("it ended early"))))
                .collect();
            Ok((threads, models?))
        });
        // Where one replica cannot be had the others are not kept.
        let (threads, mut models) = models.inspect_err(|_| inbox.stop(Stop::Now))?;
        Ok(EngineThread { model: models.swap_remove(0), inbox, threads })
    }

    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

/// What one thread works with.
struct Replica {
    index: usize,
    loader: Loader,
    loads: Arc<Loads>,
    inbox: Arc<Inbox>,
    scheduler: SchedulerLimits,
    metrics: Arc<Metrics>,
}

impl Replica {
    /// Loads, says so, and computes until it is told to stop.
    fn live(&self, send: &mpsc::Sender<Result<Arc<Model>>>) {
        let (sequences, model) = match catch_unwind(AssertUnwindSafe(|| (self.loader)())) {
            Ok(Ok(Loaded { sequences, model })) => (sequences, Arc::new(model)),
            Ok(Err(error)) => return drop(send.send(Err(error))),
            Err(panic) => return drop(send.send(Err(broken(&panic_text(&*panic))))),
        };
        let _ = send.send(Ok(Arc::clone(&model)));
        let first = RefCell::new(Some(sequences));
        let make = || match first.take() {
            Some(sequences) => Ok(sequences),
            None => (self.loader)().map(|loaded| loaded.sequences),
        };
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run(&make, &model))) {
            // What was under way is dropped, which its requests notice.
            self.metrics.engine_failures.add(1);
            tracing::error!(reason = panic_text(&*panic), "the engine thread failed and starts again");
        }
    }

    fn run(&self, make: MakeEngine<'_>, model: &Model) {
        let Replica { inbox, loads, .. } = self;
        let mut scheduler = match Scheduler::new(make, &model.tokenizer, self.scheduler, &self.metrics) {
            Ok(scheduler) => scheduler,
            Err(error) => {
                tracing::error!(%error, "the engine cannot be made again");
                loads.set(self.index, Loads::GONE);
                if loads.all_gone() {
                    inbox.wait();
                    inbox.fail_all(&Failure::Engine(error.to_string()));
                }
                return;
            }
        };
        loop {
            loads.set(self.index, scheduler.active());
            let stop = if scheduler.is_idle() { inbox.wait() } else { inbox.stopping() };
            if stop == Stop::Now {
                scheduler.fail_all(&Failure::ShuttingDown);
                return inbox.fail_all(&Failure::ShuttingDown);
            }
            inbox.sweep(Instant::now());
            while let Some(job) = inbox.take(|job| loads.lets(self.index) && scheduler.fits(job)) {
                scheduler.admit(job);
                loads.set(self.index, scheduler.active());
            }
            if !scheduler.is_idle() {
                scheduler.step();
            } else if stop == Stop::Drain && inbox.waiting() == 0 {
                return;
            }
        }
    }
}

fn broken(why: &str) -> Error {
    Error::Accelerator {
        what: format!("the engine thread failed while it loaded the model: {why}"),
        remedy: "report this with the model's name".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_go_to_the_replica_with_the_fewest_answers() {
        let loads = Loads([2, 1, 3].map(AtomicUsize::new).into());
        assert_eq!([0, 1, 2].map(|replica| loads.lets(replica)), [false, true, false]);
        loads.set(1, Loads::GONE);
        assert_eq!([0, 1, 2].map(|replica| loads.lets(replica)), [true, false, false]);
        loads.set(2, 2);
        assert!(loads.lets(0) && loads.lets(2) && !loads.all_gone(), "of equals each may");
        [0, 2].into_iter().for_each(|replica| loads.set(replica, Loads::GONE));
        assert!(loads.all_gone());
    }
}
