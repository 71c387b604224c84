//! Continuous batching: which rows the engine evaluates next, for all requests at once.
//!
//! In: [`Job`]s. Out: events of theirs, one batch per [`Scheduler::step`]. Plain synchronous code over
//! [`Sequences`], so that it runs on any backend and under test without a thread. Every batch has the next token of every
//! answer that is under way, then parts of prompts in the order of their arrival. Pages of the KV cache that nobody
//! reserved run out now and then: the prefix cache gives way first, then the youngest answer, which is computed again
//! later. An engine that panics is replaced, what it held is computed again, and the request that made it panic when
//! alone gets the failure. Deliberately absent: threads (see [`crate::engine_thread`]), HTTP, text of prompts.

pub mod inbox;
pub mod job;
mod prefix;
pub mod queue;
#[cfg(test)]
mod queue_tests;
mod slot;
#[cfg(test)]
pub(crate) mod tests;

use crate::metrics::Metrics;
use bitnet_runtime::engine::pages::PAGE;
use bitnet_runtime::engine::{Answer, Batch, Sequences, Want};
use bitnet_runtime::tokenizer::Tokenizer;
use bitnet_runtime::{Error, Result};
use job::{Event, Failure, Job};
use prefix::PrefixCache;
use slot::{Progress, Slot};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Instant;

/// Makes an engine, at the start and after a failure.
pub type MakeEngine<'a> = &'a dyn Fn() -> Result<Box<dyn Sequences>>;

#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Answers that are computed side by side.
    pub slots: usize,
    /// Sequences that the prefix cache keeps.
    pub kept_sequences: usize,
}

pub struct Scheduler<'t> {
    /// `None` after it failed, until the next step makes another.
    engine: Option<Box<dyn Sequences>>,
    /// Pages of its cache, and positions of a sequence.
    total_pages: usize,
    context: usize,
    make_engine: MakeEngine<'t>,
    tokenizer: &'t Tokenizer,
    limits: SchedulerLimits,
    /// Oldest first.
    slots: Vec<Slot<'t>>,
    prefix: PrefixCache,
    batch: Batch,
    /// Of every slot in the batch: its index, its rows, and the row that it wants an answer of.
    parts: Vec<Part>,
    scratch: Vec<f32>,
    groups: u64,
    /// Where the next batch begins when there are more answers than rows.
    turn: usize,
    metrics: &'t Metrics,
    /// What the metrics have of it: other replicas add theirs.
    reported: Reported,
}

/// Active, kept sequences, pages: all, free, shared.
type Reported = [u64; 5];

#[derive(Clone, Copy)]
struct Part {
    slot: usize,
    rows: usize,
    wanted: Option<usize>,
}

impl<'t> Scheduler<'t> {
    /// # Errors
    /// What making the engine says.
    pub fn new(
        make_engine: MakeEngine<'t>,
        tokenizer: &'t Tokenizer,
        limits: SchedulerLimits,
        metrics: &'t Metrics,
    ) -> Result<Self> {
        let engine = make_engine()?;
        Ok(Scheduler {
            total_pages: engine.page_use().total,
            context: engine.context(),
            engine: Some(engine),
            make_engine,
            tokenizer,
            limits,
            slots: Vec::new(),
            prefix: PrefixCache::new(limits.kept_sequences),
            batch: Batch::new(),
            parts: Vec::new(),
            scratch: Vec::new(),
            groups: 0,
            turn: 0,
            metrics,
            reported: Reported::default(),
        })
    }

    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Answers under way.
    pub fn active(&self) -> usize {
        self.slots.len()
    }

    /// Whether `job` can begin now.
    pub fn fits(&self, job: &Job) -> bool {
        if self.slots.is_empty() {
            return true;
        }
        let reserved: usize = self.slots.iter().map(pages_of).sum();
        let needed = pages(job.prompt.len() + 1) + job.choices - 1;
        self.slots.len() + job.choices <= self.limits.slots.max(job.choices)
            && self.slots.iter().all(|slot| !slot.paused)
            && reserved + needed <= self.total_pages
    }

    /// Begins `job`.
    pub fn admit(&mut self, job: Job) {
        self.groups += 1;
        self.metrics.queue_seconds.observe(job.submitted.elapsed());
        let job = Rc::new(job);
        for choice in 0..job.choices {
            match Slot::new(Rc::clone(&job), choice, self.groups, self.tokenizer) {
                Ok(mut slot) => match slot.ends_at_once() {
                    Some(reason) => drop(slot.end(Some(reason))),
                    None => self.slots.push(slot),
                },
                Err(error) => return fail(&job, Failure::Engine(error.to_string())),
            }
        }
    }

    /// Ends everything that is under way.
    pub fn fail_all(&mut self, failure: &Failure) {
        self.slots.iter().for_each(|slot| fail(&slot.job, failure.clone()));
        self.remove(|_| true);
    }

    /// Evaluates one batch and hands out what came of it.
    pub fn step(&mut self) {
        self.sweep();
        self.resume();
        let mut engine = match self.engine.take().map_or_else(self.make_engine, Ok) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::error!(%error, "the engine cannot be made again");
                return self.fail_all(&Failure::Engine(error.to_string()));
            }
        };
        self.open_sequences(engine.as_mut());
        match self.evaluate(engine.as_mut()) {
            Ok(()) => self.engine = Some(engine),
            Err(why) => {
                // What it holds is not to be trusted any longer. Two at once might not fit into memory.
                drop(engine);
                self.recover(&why);
            }
        }
        self.hand_out();
        self.report();
    }

    /// Ends what nobody waits for any longer.
    fn sweep(&mut self) {
        let now = Instant::now();
        for slot in &self.slots {
            if now >= slot.job.deadline {
                fail(&slot.job, Failure::Deadline);
            }
        }
        let cancelled = self.slots.iter().filter(|slot| slot.job.events.is_closed()).count();
        self.metrics.cancelled.add(cancelled as u64);
        self.remove(|slot| slot.job.events.is_closed() || now >= slot.job.deadline);
    }

    /// Lets slots go on whose pages were taken away, oldest first, once there is room for all of their tokens.
    fn resume(&mut self) {
        let total = self.total_pages;
        let mut reserved: usize =
            self.slots.iter().filter(|slot| slot.sequence.is_some()).map(pages_of).sum();
        for slot in self.slots.iter_mut().filter(|slot| slot.paused) {
            let needed = pages(slot.tokens.len() + 1);
            if reserved > 0 && reserved + needed > total {
                break;
            }
            slot.paused = false;
            reserved += needed;
        }
    }

    /// Gives every slot without one a sequence, forked from whichever shares the longest beginning with its tokens. The
    /// choices of one job wait until the first of them has its prompt in the cache.
    fn open_sequences(&mut self, engine: &mut dyn Sequences) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.sequence.is_some() || slot.paused || self.waits_for_its_group(index) {
                continue;
            }
            // The last token is always evaluated: its logits are wanted.
            let wanted = &slot.tokens[..slot.tokens.len() - 1];
            let kept = self.prefix.find(wanted);
            let running = self.slots.iter().filter_map(|other| {
                let held = &other.tokens[..other.evaluated];
                Some((other.sequence?, prefix::common(held, wanted)))
            });
            let best = running.chain(kept).max_by_key(|(_, shared)| *shared);
            let best = best.filter(|(_, shared)| *shared >= prefix::SHORTEST);
            let forked = best.and_then(|(id, shared)| Some((engine.fork(id, shared).ok()?, shared)));
            let (sequence, shared) = forked.unwrap_or_else(|| (engine.open(), 0));
            let slot = &mut self.slots[index];
            slot.sequence = Some(sequence);
            slot.evaluated = shared;
            slot.shared_pages = shared / PAGE;
            if slot.generated() == 0 {
                self.metrics.prompt_tokens.add(slot.tokens.len() as u64);
                self.metrics.cached_tokens.add(shared as u64);
                if slot.choice == 0 {
                    let _ = slot.job.events.send(Event::Started { cached: shared });
                }
            }
        }
    }

    fn waits_for_its_group(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        let leader = self.slots[..index].iter().find(|other| other.group == slot.group);
        slot.choice > 0
            && slot.tokens.len() > prefix::SHORTEST
            && leader.is_some_and(|leader| leader.evaluated + 1 < slot.job.prompt.len())
    }

    /// Evaluates one batch; where pages are short, makes room and tries again.
    ///
    /// # Errors
    /// What the engine says, or its panic.
    fn evaluate(&mut self, engine: &mut dyn Sequences) -> Result<(), String> {
        while self.compose(engine.batch_rows()) {
            let batch = &self.batch;
            let (slots, parts, scratch) = (&mut self.slots, &self.parts, &mut self.scratch);
            let mut answer = |row: usize, answer: Answer<'_>| {
                if let Some(part) = parts.iter().find(|part| part.wanted == Some(row)) {
                    let slot = &mut slots[part.slot];
                    slot.outcome = Some(slot.choose(answer, scratch));
                }
            };
            match catch_unwind(AssertUnwindSafe(|| engine.evaluate(batch, &mut answer))) {
                Ok(Ok(())) => {
                    self.metrics.batch_rows.observe(self.batch.len() as f64);
                    for part in &self.parts {
                        let slot = &mut self.slots[part.slot];
                        slot.evaluated += part.rows;
                        slot.suspect &= part.wanted.is_none();
                    }
                    return Ok(());
                }
                Ok(Err(Error::Limit { .. })) if self.make_room(engine) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(panic) => return Err(panic_text(&*panic)),
            }
        }
        Ok(())
    }

    /// Fills the batch; says whether there is anything in it.
    fn compose(&mut self, rows: usize) -> bool {
        self.batch.clear();
        self.parts.clear();
        let suspect = self.slots.iter().position(|slot| slot.suspect && slot.sequence.is_some());
        let decoding = |slot: &Slot<'_>| slot.pending().len() == 1;
        let mut order: Vec<usize> = match suspect {
            Some(suspect) => vec![suspect],
            None => (0..self.slots.len()).filter(|index| self.slots[*index].sequence.is_some()).collect(),
        };
        if order.len() > rows {
            self.turn = (self.turn + rows) % order.len();
            order.rotate_left(self.turn);
        }
        order.sort_by_key(|index| !decoding(&self.slots[*index]));
        for index in order {
            let slot = &self.slots[index];
            let (Some(sequence), room) = (slot.sequence, rows - self.batch.len()) else { continue };
            let pending = slot.pending();
            let taken = pending.len().min(room);
            if taken == 0 {
                break;
            }
            let whole = taken == pending.len();
            self.batch.push_all(sequence, &pending[..taken], if whole { slot.want() } else { Want::Nothing });
            let wanted = whole.then(|| self.batch.len() - 1);
            self.parts.push(Part { slot: index, rows: taken, wanted });
        }
        !self.batch.is_empty()
    }

    /// Frees pages: of the prefix cache, else of the youngest slot. Says whether there was anything to free.
    fn make_room(&mut self, engine: &mut dyn Sequences) -> bool {
        if self.prefix.evict(engine) {
            return true;
        }
        if self.slots.iter().filter(|slot| slot.sequence.is_some()).count() < 2 {
            return false;
        }
        let Some(slot) = self.slots.iter_mut().rev().find(|slot| slot.sequence.is_some()) else {
            return false;
        };
        if let Some(sequence) = slot.sequence.take() {
            engine.close(sequence);
        }
        (slot.evaluated, slot.shared_pages, slot.paused) = (0, 0, true);
        self.metrics.preempted.add(1);
        true
    }

    /// After the engine failed: the only slot of the batch gets the failure; several are tried again one by one.
    fn recover(&mut self, why: &str) {
        self.metrics.engine_failures.add(1);
        let mut culprit = None;
        match self.parts[..] {
            [part] => {
                let slot = &self.slots[part.slot];
                tracing::error!(reason = why, "the engine failed on a request");
                fail(&slot.job, Failure::Engine(why.to_owned()));
                culprit = Some(slot.group);
            }
            _ => {
                tracing::error!(
                    reason = why,
                    requests = self.parts.len(),
                    "the engine failed on a batch; its requests are tried one by one"
                );
                for part in &self.parts {
                    self.slots[part.slot].suspect = true;
                }
            }
        }
        self.prefix.forget();
        for slot in &mut self.slots {
            (slot.sequence, slot.evaluated, slot.shared_pages) = (None, 0, 0);
        }
        self.slots.retain(|slot| Some(slot.group) != culprit);
    }

    fn hand_out(&mut self) {
        let mut ended = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(outcome) = slot.outcome.take() else { continue };
            let (is_first, before) = (slot.first.is_none(), slot.generated());
            match outcome.and_then(|chosen| slot.take(chosen, self.context, self.tokenizer)) {
                Ok(Progress::GoesOn) => {}
                Ok(Progress::Ended(_)) => ended.push(index),
                Err(failure) => {
                    fail(&slot.job, failure);
                    ended.push(index);
                }
            }
            self.metrics.generated_tokens.add((slot.generated() - before) as u64);
            if let Some(first) = slot.first.filter(|_| is_first) {
                self.metrics.first_token_seconds.observe(first - slot.job.submitted);
            }
        }
        for index in ended.into_iter().rev() {
            let slot = self.slots.remove(index);
            self.metrics.request_seconds.observe(slot.job.submitted.elapsed());
            self.retire(slot);
        }
    }

    /// Keeps what a slot has computed for others that begin alike.
    fn retire(&mut self, mut slot: Slot<'t>) {
        if let (Some(sequence), Some(engine)) = (slot.sequence, &mut self.engine) {
            slot.tokens.truncate(slot.evaluated);
            self.prefix.keep(engine.as_mut(), sequence, slot.tokens);
        }
    }

    fn remove(&mut self, gone: impl Fn(&Slot<'t>) -> bool) {
        let removed: Vec<Slot<'t>> = self.slots.extract_if(.., |slot| gone(slot)).collect();
        removed.into_iter().for_each(|slot| self.retire(slot));
    }

    fn report(&mut self) {
        let [_, _, pages @ ..] = self.reported;
        let pages = self.engine.as_ref().map_or(pages, |engine| {
            let pages = engine.page_use();
            [pages.total, pages.free, pages.shared].map(|pages| pages as u64)
        });
        let [all, free, shared] = pages;
        self.tell([self.slots.len() as u64, self.prefix.kept() as u64, all, free, shared]);
    }

    fn tell(&mut self, now: Reported) {
        let m = self.metrics;
        let gauges = [&m.active, &m.kept_sequences, &m.pages_total, &m.pages_free, &m.pages_shared];
        for (gauge, (before, now)) in gauges.into_iter().zip(self.reported.into_iter().zip(now)) {
            gauge.change(before, now);
        }
        self.reported = now;
    }
}

impl Drop for Scheduler<'_> {
    fn drop(&mut self) {
        self.tell(Reported::default());
    }
}

fn pages(positions: usize) -> usize {
    positions.div_ceil(PAGE)
}

/// Pages that are a slot's own, with room for its next token.
fn pages_of(slot: &Slot<'_>) -> usize {
    pages(slot.tokens.len() + 1) - slot.shared_pages
}

fn fail(job: &Job, failure: Failure) {
    // Who is gone needs no reason.
    let _ = job.events.send(Event::Failed(failure));
}

/// What a panic says.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
}
