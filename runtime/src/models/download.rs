//! The download engine: ranged parts over several connections, a journal of blocks, one digest of the whole.
//!
//! In: a [`Job`]. Out: a file under its final name, with the digest it must have, or an error and nothing under that
//! name. Parts are taken in order, so that hashing keeps up; a part that fails goes back and is taken again after a
//! wait. Without ranges on the other side one connection reads the whole. The caller holds the lock of the target.
//! Deliberately absent: where files belong (see [`super::hub`], [`super::slot`]).

use super::body::Body;
use super::digest::{Expected, Sums};
use super::frontier::{self, Buffers, Finished};
use super::http::{Client, Fault, Remote, Reply};
use super::journal::{self, BLOCK, Caching, Identity, Partial, block_len, blocks};
use super::parts::{Pace, Parts};
use super::{Context, Event};
use crate::{Error, Result};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes whose CRC is taken while the processor's cache has them.
const PIECE: usize = 128 << 10;
/// A block that took less time than this came faster than a network of 1 Gbit/s brings it.
const FAST: Duration = Duration::from_millis(8);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

pub struct Job<'a> {
    pub remote: &'a Remote,
    /// How progress calls the file.
    pub label: &'a str,
    pub target: &'a Path,
    pub bytes: u64,
    /// What `If-Range` may compare, as the source told it.
    pub validator: Option<String>,
    pub expected: Option<Expected>,
    /// The most that progress told of this file, also of earlier jobs for it.
    pub shown: &'a AtomicU64,
}

/// How a download ended that did not fail.
pub enum Ended {
    Done(Sums),
    /// The source has something else now: ask it again.
    Changed(String),
}

/// Fetches `job`. What arrived stays for the next time unless it is known to be wrong; content with another digest
/// is fetched a second time, since the way may have spoilt it.
pub fn run(ctx: &Context<'_>, client: &Client, job: &Job<'_>) -> Result<Ended> {
    let identity = Identity {
        source: job.remote.url.clone(),
        bytes: job.bytes,
        block: BLOCK,
        content: match &job.expected {
            Some(Expected::Sha256(digest) | Expected::GitBlob(digest)) => Some(digest.clone()),
            None => job.validator.clone(),
        },
    };
    super::place::create_parent(job.target)?;
    let mut second = false;
    loop {
        let partial = Partial::open(ctx, job.target, &identity, job.expected.as_ref())?;
        let (partial, sums) = match transfer_all(ctx, client, job, partial) {
            Ok(done) => done,
            Err(Fault::Changed(what)) => {
                journal::discard(job.target)?;
                return Ok(Ended::Changed(what));
            }
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Again { what, .. }) => {
                let tries = ctx.tuning.tries;
                return Err(Error::network(
                    format!("{what} (given up after {tries} tries without progress)"),
                    "run it again: what has arrived is kept and not fetched again",
                ));
            }
        };
        let remedy = "the source offers another file than it should; do not use it";
        let verdict =
            job.expected.as_ref().map_or(Ok(()), |expected| sums.check(expected, job.label, remedy));
        match verdict {
            Ok(()) => {
                partial.publish(job.target)?;
                return Ok(Ended::Done(sums));
            }
            Err(error) => {
                journal::discard(job.target)?;
                if second {
                    return Err(error);
                }
                ctx.note(format!("{error}; fetching it a second time"));
                second = true;
            }
        }
    }
}

/// Tries a small request until it works, fails for good, or was tried often enough.
pub fn retrying<T>(ctx: &Context<'_>, mut request: impl FnMut() -> Result<T, Fault>) -> Result<T> {
    for failures in 1.. {
        ctx.check_interrupt()?;
        match request() {
            Ok(value) => return Ok(value),
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Changed(what)) => return Err(Error::network(what, "run it again")),
            Err(Fault::Again { what, after }) if failures < ctx.tuning.tries => {
                wait(ctx, &what, after, failures, &AtomicBool::new(false));
            }
            Err(Fault::Again { what, .. }) => {
                return Err(Error::network(
                    format!("{what} (given up after {failures} tries)"),
                    "check the network, HF_ENDPOINT and the proxy variables, then run it again",
                ));
            }
        }
    }
    unreachable!("the loop ends by a return")
}

/// What the threads of one download share.
pub(super) struct Shared<'a> {
    pub(super) ctx: &'a Context<'a>,
    client: &'a Client,
    pub(super) job: &'a Job<'a>,
    partial: &'a Partial,
    buffers: Buffers<'a>,
    parts: Parts,
    have: Mutex<Vec<bool>>,
    /// Blocks finished by this process; progress in the sense of giving up.
    finished: AtomicUsize,
    /// Bytes of finished blocks and of those under way.
    pub(super) received: AtomicU64,
    validator: Mutex<Option<String>>,
    /// Where the last redirect led.
    storage: Mutex<Option<String>>,
    /// One connection reads the whole, since the source has no ranges.
    whole: AtomicBool,
    pub(super) stop: AtomicBool,
    failure: Mutex<Option<Fault>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked")
}

fn transfer_all(
    ctx: &Context<'_>,
    client: &Client,
    job: &Job<'_>,
    mut partial: Partial,
) -> Result<(Partial, Sums), Fault> {
    let have = partial.have.clone();
    let hasher = std::mem::replace(&mut partial.hasher, super::digest::Hasher::new(0, None));
    let present = (0..have.len()).filter(|i| have[*i]).map(|i| block_len(job.bytes, i) as u64).sum();
    let mut memory = frontier::memory(ctx.tuning.connections)
        .map_err(|error| Fault::Fatal(Error::io(&partial.path, error)))?;
    let missing = have.iter().filter(|have| !**have).count();
    let shared = Shared {
        ctx,
        client,
        job,
        partial: &partial,
        buffers: Buffers::new(&mut memory),
        parts: Parts::new(&have),
        have: Mutex::new(have.clone()),
        finished: AtomicUsize::new(0),
        received: AtomicU64::new(present),
        validator: Mutex::new(job.validator.clone()),
        storage: Mutex::new(None),
        whole: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let sums = std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(frontier::QUEUE);
        let (ended, end) = mpsc::channel::<()>();
        let file = &partial.file;
        let buffers = &shared.buffers;
        let hashing = scope.spawn(move || {
            let _ended = ended;
            frontier::hash(file, job.bytes, have, hasher, buffers, &receiver)
        });
        let workers: Vec<_> = (0..ctx.tuning.connections.min(missing))
            .map(|_| {
                let (sender, shared) = (sender.clone(), &shared);
                scope.spawn(move || shared.work(&sender))
            })
            .collect();
        drop(sender);
        while end.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            shared.show();
            if ctx.check_interrupt().is_err() && !shared.stop.swap(true, Ordering::Relaxed) {
                client.shut_down();
            }
        }
        shared.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("a worker does not panic");
        }
        shared.show();
        hashing.join().expect("the hasher does not panic")
    });
    ctx.check_interrupt().map_err(Fault::Fatal)?;
    let failure = locked(&shared.failure).take();
    drop(shared);
    match (failure, sums) {
        (Some(fault), _) => Err(fault),
        (None, Ok(Some(sums))) => Ok((partial, sums)),
        (None, Ok(None)) => {
            Err(Fault::Again { what: format!("{}: blocks are missing", job.label), after: None })
        }
        (None, Err(error)) => Err(Fault::Fatal(Error::io(&partial.path, error))),
    }
}

impl<'m> Shared<'m> {
    /// Takes parts until there are none, all is read, or something failed for good.
    fn work(&self, sender: &SyncSender<Finished<'m>>) {
        let (mut failures, mut finished) = (0, 0);
        let mut pace = Pace::default();
        loop {
            if self.stop.load(Ordering::Relaxed) || self.whole.load(Ordering::Relaxed) {
                return;
            }
            let Some(part) = self.parts.take(pace.blocks()) else { return };
            let fault = match self.transfer(part.clone(), &mut pace, sender) {
                Ok(()) => continue,
                Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Err(fault) => fault,
            };
            let now = self.finished.load(Ordering::Relaxed);
            failures = if now > finished { 1 } else { failures + 1 };
            finished = now;
            match fault {
                Fault::Again { what, after } if failures < self.ctx.tuning.tries => {
                    self.parts.put_back(part, &locked(&self.have));
                    wait(self.ctx, &what, after, failures, &self.stop);
                }
                fault => {
                    locked(&self.failure).get_or_insert(fault);
                    self.stop.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    fn transfer(
        &self,
        part: Range<usize>,
        pace: &mut Pace,
        sender: &SyncSender<Finished<'m>>,
    ) -> Result<(), Fault> {
        let Shared { job, .. } = self;
        let asked = Instant::now();
        let first = part.start as u64 * BLOCK;
        let last = (part.end as u64 * BLOCK).min(job.bytes) - 1;
        let mut headers = vec![("range", format!("bytes={first}-{last}"))];
        headers.extend(locked(&self.validator).clone().map(|tag| ("if-range", tag)));
        let storage = locked(&self.storage).clone();
        let reply = match storage {
            Some(url) => {
                let storage = Remote { url, ..job.remote.clone() };
                match self.client.get(&storage, &headers) {
                    // Signed addresses expire: from the beginning, then.
                    Err(Fault::Fatal(_)) => {
                        *locked(&self.storage) = None;
                        self.client.get(job.remote, &headers)?
                    }
                    outcome => outcome?,
                }
            }
            None => self.client.get(job.remote, &headers)?,
        };
        self.check_same(&reply)?;
        if reply.url != job.remote.url {
            *locked(&self.storage) = Some(reply.url.clone());
        }
        if reply.status == 200 {
            return self.read_whole(reply, sender);
        }
        let told = reply.content_range();
        match told {
            Some((start, end, total)) if start == first && end == last => {
                if total.is_some_and(|total| total != job.bytes) {
                    return Err(self.changed("has another length than it had"));
                }
            }
            _ => {
                let what = format!("{}: asked for bytes {first}-{last}, answered {told:?}", job.label);
                return Err(Fault::Again { what, after: None });
            }
        }
        let (waited, len) = (asked.elapsed(), part.len());
        let mut body = Body::new(reply, self);
        part.into_iter().try_for_each(|index| self.receive(&mut body, index, sender))?;
        body.end()?;
        pace.note(waited, (asked.elapsed() - waited) / len as u32);
        Ok(())
    }

    /// A source without ranges: everything from the beginning, over one connection.
    fn read_whole(&self, reply: Reply, sender: &SyncSender<Finished<'m>>) -> Result<(), Fault> {
        if reply.number("content-length").is_some_and(|length| length != self.job.bytes) {
            return Err(self.changed("has another length than it had"));
        }
        if self.whole.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut body = Body::new(reply, self);
        let outcome = (0..blocks(self.job.bytes)).try_for_each(|index| {
            let have = locked(&self.have)[index];
            if !have {
                return self.receive(&mut body, index, sender);
            }
            body.skip(block_len(self.job.bytes, index))?;
            self.received.fetch_sub(std::mem::take(&mut body.counted), Ordering::Relaxed);
            Ok(())
        });
        // What is missing now is everybody's again: nothing after a success.
        let have = locked(&self.have);
        self.parts.reset(&have);
        self.whole.store(false, Ordering::Relaxed);
        outcome
    }

    /// Reads block `index`, writes it, and passes it on to be hashed.
    fn receive(
        &self,
        body: &mut Body<'_, '_, impl Read>,
        index: usize,
        sender: &SyncSender<Finished<'m>>,
    ) -> Result<(), Fault> {
        let began = Instant::now();
        let len = block_len(self.job.bytes, index);
        let mut block = self.buffers.take(len).ok_or_else(|| body.failed("stopped"))?;
        let mut crc = crc32fast::Hasher::new();
        let filled = block.chunks_mut(PIECE).try_for_each(|piece| {
            body.fill(piece)?;
            crc.update(piece);
            Ok(())
        });
        let how = if began.elapsed() < FAST { Caching::Past } else { Caching::Through };
        let written = filled
            .and_then(|()| self.partial.write(index, &block, crc.finalize(), how).map_err(Fault::Fatal));
        if written.is_err() {
            self.buffers.give(block);
            return written;
        }
        body.counted = 0;
        if std::mem::replace(&mut locked(&self.have)[index], true) {
            // Another connection was faster: counted and hashed already.
            self.received.fetch_sub(block.len() as u64, Ordering::Relaxed);
            self.buffers.give(block);
            return Ok(());
        }
        self.finished.fetch_add(1, Ordering::Relaxed);
        let block = self.buffers.hand_over(block);
        // A hasher that is gone failed; its error is the one that counts.
        let _ = sender.send((index, block));
        Ok(())
    }

    /// Whether an answer is of what the first answer was of.
    fn check_same(&self, reply: &Reply) -> Result<(), Fault> {
        let Some(tag) = reply.validator() else { return Ok(()) };
        let mut known = locked(&self.validator);
        match known.as_deref() {
            Some(known) if known != tag => Err(self.changed("has another entity tag than it had")),
            Some(_) => Ok(()),
            None => {
                *known = Some(tag.to_owned());
                Ok(())
            }
        }
    }

    fn changed(&self, what: &str) -> Fault {
        Fault::Changed(format!("{} {what}", self.job.remote.what))
    }

    /// Tells how far it is; never less than before, although a dropped connection loses part of a block.
    fn show(&self) {
        let now = self.received.load(Ordering::Relaxed).min(self.job.bytes);
        let done = self.job.shown.fetch_max(now, Ordering::Relaxed).max(now).min(self.job.bytes);
        (self.ctx.watch)(Event::Progress { file: self.job.label.into(), done, total: self.job.bytes });
    }
}

/// Waits as the server asks, otherwise twice as long after each failure, never all connections in step.
fn wait(ctx: &Context<'_>, what: &str, after: Option<Duration>, failures: u32, stop: &AtomicBool) {
    let doubled = ctx.tuning.backoff.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_BACKOFF);
    let nanoseconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let spread = 0.75 + f64::from(nanoseconds.subsec_nanos() % 1000) / 2000.0;
    let pause = after.unwrap_or(doubled.mul_f64(spread));
    ctx.note(format!("{what}; trying again in {:.1} s", pause.as_secs_f64()));
    let until = Instant::now() + pause;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) && ctx.check_interrupt().is_ok() {
        std::thread::sleep(Duration::from_millis(10).min(pause));
    }
}
