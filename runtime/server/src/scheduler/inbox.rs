//! Where jobs are left for the engine's thread.
//!
//! In: jobs from any thread, which never wait for the engine. Out: the next job that fits, to an engine's thread, which
//! sleeps here while there is nothing to do. Deliberately absent: what becomes of a job.

use super::job::{Failure, Job};
use super::queue::{FairQueue, Full, QueueLimits};
use crate::metrics::Metrics;
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
    metrics: Arc<Metrics>,
}

struct State {
    queue: FairQueue,
    stop: Stop,
}

/// Whether the engine's thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    No,
    /// Nothing new is taken, what was is finished.
    Drain,
    /// Everything ends with a failure.
    Now,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Full(Full),
    Stopping,
}

impl Inbox {
    pub fn new(limits: QueueLimits, metrics: Arc<Metrics>) -> Self {
        let state = State { queue: FairQueue::new(limits), stop: Stop::No };
        Inbox { state: Mutex::new(state), wake: Condvar::new(), metrics }
    }

    /// # Errors
    /// A full queue, or an engine that takes nothing new.
    pub fn submit(&self, job: Job) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.stop != Stop::No {
            return Err(Refused::Stopping);
        }
        state.queue.push(job).map_err(Refused::Full)?;
        self.metrics.queued.add(1);
        self.wake.notify_one();
        Ok(())
    }

    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Never goes back to a milder form.
    pub fn stop(&self, stop: Stop) {
        let mut state = self.lock();
        state.stop = state.stop.max(stop);
        self.wake.notify_all();
    }

    pub fn stopping(&self) -> Stop {
        self.lock().stop
    }

    /// Sleeps until there is a job or a reason to stop.
    pub fn wait(&self) -> Stop {
        let mut state = self.lock();
        while state.queue.is_empty() && state.stop == Stop::No {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stop
    }

    /// The next job, where it fits.
    pub fn take(&self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let job = self.lock().queue.pop(fits)?;
        self.metrics.queued.sub(1);
        Some(job)
    }

    /// Drops jobs that nobody waits for or whose time is over.
    pub fn sweep(&self, now: Instant) {
        let gone = self.lock().queue.remove(|job| job.events.is_closed() || now >= job.deadline);
        for job in gone {
            self.metrics.queued.sub(1);
            self.metrics.cancelled.add(u64::from(job.events.is_closed()));
            let _ = job.events.send(super::job::Event::Failed(Failure::Deadline));
        }
    }

    /// Ends everything that waits.
    pub fn fail_all(&self, failure: &Failure) {
        for job in self.lock().queue.remove(|_| true) {
            self.metrics.queued.sub(1);
            let _ = job.events.send(super::job::Event::Failed(failure.clone()));
        }
    }

    /// A panic while the lock was held leaves the queue whole: nothing in here can fail halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
