//! Several devices that share one model: an executor per device, all of which do the same.
//!
//! In: the calls of an [`Accelerator`]. Out: its answers, from the first rank. Rank 0 computes on the caller's thread, every other
//! one on a thread of its own, which gets the same calls in the same order; the collectives in the middle of them are where
//! ranks wait for each other. Tables of pages are kept by every rank and are equal, since all see the same calls. A
//! rank that fails ends the team's collectives, so that nobody waits for it. Deliberately absent: arithmetic, and the
//! split (see [`crate::gpu::shard`]).

use super::executor::Executor;
use super::nccl::Communicator;
use crate::engine::pages::{PageUse, SequenceId};
use crate::engine::{Answer, Batch, Sequences};
use crate::gpu::shard::Shard;
use crate::gpu::{Accelerator, Communication, Facts, OpenOptions};
use crate::model::Model;
use crate::{Error, Result};
use bitforge_schema::protocol::KernelCount;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce(&mut Executor) -> Result<()> + Send>;

/// The executor of another rank, on its thread.
struct Worker {
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without jobs the thread ends.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub struct Team {
    first: Executor,
    others: Vec<Worker>,
    facts: Facts,
    interrupt: Arc<AtomicBool>,
}

impl Team {
    /// The parts of `model` on as many devices, loaded at the same time.
    ///
    /// # Errors
    /// Too few devices, no NCCL, and those of every device.
    pub fn open(model: &Model, options: &OpenOptions) -> Result<Self> {
        let ranks = options.tensor_parallel;
        // Ranks that looked at one flag at different times would part.
        let never = Arc::new(AtomicBool::new(false));
        let made: Vec<Result<Executor>> = std::thread::scope(|scope| {
            let make = |rank| {
                let never = &never;
                scope.spawn(move || {
                    let shard = Shard::new(&model.config, model.vocab_size(), rank, ranks);
                    Executor::new(model, options, shard, never)
                })
            };
            let running: Vec<_> = (0..ranks).map(make).collect();
            running.into_iter().map(|thread| thread.join().expect("loading does not panic")).collect()
        });
        let executors = made.into_iter().collect::<Result<Vec<Executor>>>()?;
        let facts = facts(executors.iter().map(Accelerator::facts));
        let mut ends =
            Communicator::team(options.first_device..options.first_device + ranks, options.nccl.as_deref())?
                .into_iter();
        let mut executors = executors.into_iter();
        let first = executors.next().expect("a team has ranks");
        let own = ends.next().expect("as many as ranks");
        let others = executors.enumerate().map(|(index, executor)| worker(index + 1, executor)).collect();
        let mut team = Team { first, others, facts, interrupt: Arc::clone(&options.interrupt) };
        let mut ends: Vec<Option<Communicator>> = ends.map(Some).collect();
        team.all(
            |rank| {
                let end = ends[rank - 1].take().expect("each rank joins once");
                Box::new(move |executor| executor.join(end))
            },
            |first| first.join(own),
        )?;
        Ok(team)
    }

    /// Does `job(rank)` on every other rank and `first` on the first, and waits for all.
    ///
    /// # Errors
    /// The first rank's, else any other's.
    fn all<T>(
        &mut self,
        mut job: impl FnMut(usize) -> Job,
        first: impl FnOnce(&mut Executor) -> Result<T>,
    ) -> Result<T> {
        for (index, worker) in self.others.iter().enumerate() {
            let jobs = worker.jobs.as_ref().expect("there until the worker is dropped");
            jobs.send(job(index + 1)).map_err(|_| gone(index + 1))?;
        }
        let outcome = first(&mut self.first);
        if matches!(outcome, Err(Error::Accelerator { .. })) {
            self.first.abort();
        }
        let mut others = Ok(());
        for (index, worker) in self.others.iter().enumerate() {
            let done = worker.outcomes.recv().unwrap_or_else(|_| Err(gone(index + 1)));
            others = others.and(done);
        }
        // What the others say of a team that one of them ended says less than that one's own error.
        match (outcome, others) {
            (Ok(found), others) => others.map(|()| found),
            (Err(_), Err(error)) if self.first.ended() => Err(error),
            (Err(error), _) => Err(error),
        }
    }

    /// The same job on every rank, for what cannot differ.
    fn same<T>(&mut self, job: impl Fn(&mut Executor) -> Result<T> + Clone + Send + 'static) -> Result<T> {
        let other = job.clone();
        self.all(
            move |_| {
                let job = other.clone();
                Box::new(move |executor| job(executor).map(drop))
            },
            job,
        )
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

fn worker(rank: usize, mut executor: Executor) -> Worker {
    let (jobs, inbox) = channel::<Job>();
    let (outbox, outcomes) = channel();
    let work = move || {
        for job in inbox {
            let outcome = job(&mut executor);
            if matches!(outcome, Err(Error::Accelerator { .. })) {
                executor.abort();
            }
            if outbox.send(outcome).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name(format!("gpu {rank}")).spawn(work).ok();
    Worker { jobs: Some(jobs), outcomes, thread }
}

fn gone(rank: usize) -> Error {
    Error::Accelerator {
        what: format!("the thread of GPU {rank} has ended"),
        remedy: "start again; this is a bug unless threads cannot be started".into(),
    }
}

/// Of all ranks together.
fn facts<'a>(ranks: impl Iterator<Item = &'a Facts>) -> Facts {
    ranks
        .cloned()
        .reduce(|all, one| Facts {
            name: all.name,
            weight_bytes: all.weight_bytes + one.weight_bytes,
            compact_head_bytes: all.compact_head_bytes + one.compact_head_bytes,
            kv_bytes: all.kv_bytes + one.kv_bytes,
            device_bytes: all.device_bytes + one.device_bytes,
            ..all
        })
        .map(|all| Facts { name: format!("{} x {}", all.tensor_parallel, all.name), ..all })
        .expect("a team has ranks")
}

impl Sequences for Team {
    fn vocab_size(&self) -> usize {
        self.first.vocab_size()
    }

    fn context(&self) -> usize {
        self.first.context()
    }

    fn batch_rows(&self) -> usize {
        self.first.batch_rows()
    }

    fn page_use(&self) -> PageUse {
        self.first.page_use()
    }

    fn open(&mut self) -> SequenceId {
        self.same(|executor| Ok(executor.open())).expect("opening a sequence takes nothing of a device")
    }

    fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        self.same(move |executor| executor.fork(id, positions))
    }

    fn close(&mut self, id: SequenceId) {
        drop(self.same(move |executor| {
            executor.close(id);
            Ok(())
        }));
    }

    fn positions(&self, id: SequenceId) -> usize {
        self.first.positions(id)
    }

    fn truncate_to(&mut self, id: SequenceId, positions: usize) {
        drop(self.same(move |executor| {
            executor.truncate_to(id, positions);
            Ok(())
        }));
    }

    fn shift(&mut self, id: SequenceId, keep: usize, discard: usize) -> Result<()> {
        self.same(move |executor| executor.shift(id, keep, discard))
    }

    fn evaluate(&mut self, batch: &Batch, answer: &mut dyn FnMut(usize, Answer<'_>)) -> Result<()> {
        self.check_interrupt()?;
        let shared = Arc::new(batch.clone());
        self.all(
            move |_| {
                let batch = Arc::clone(&shared);
                Box::new(move |executor| executor.evaluate(&batch, &mut |_, _| ()))
            },
            |first| first.evaluate(batch, answer),
        )
    }
}

impl Accelerator for Team {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn generate_greedy(&mut self, id: SequenceId, first: u32, count: usize) -> Result<Vec<u32>> {
        self.check_interrupt()?;
        self.same(move |executor| executor.generate_greedy(id, first, count))
    }

    fn step_greedy(&mut self, ids: &[SequenceId], tokens: &[u32]) -> Result<Vec<u32>> {
        self.check_interrupt()?;
        let (ids, tokens) = (ids.to_vec(), tokens.to_vec());
        self.same(move |executor| executor.step_greedy(&ids, &tokens))
    }

    fn communication(&mut self, rows: usize) -> Result<Option<Communication>> {
        self.same(move |executor| executor.communication(rows))
    }

    /// Of the first rank: what one device does.
    fn kernel_counts(&self) -> Vec<KernelCount> {
        self.first.kernel_counts()
    }

    fn reset_kernel_counts(&mut self) {
        drop(self.same(|executor| {
            executor.reset_kernel_counts();
            Ok(())
        }));
    }
}
