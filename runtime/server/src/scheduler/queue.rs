//! Jobs that wait: one line per client, served in turns, so that who asks for much waits for himself alone.
//!
//! In: jobs. Out: the next one, or a refusal where a line or all of them are full. Deliberately absent: threads, time.

use super::job::{Client, Job};
use std::collections::VecDeque;

/// How many jobs may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub all: usize,
    pub per_client: usize,
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    Client,
}

pub struct FairQueue {
    limits: QueueLimits,
    len: usize,
    /// Clients with something waiting; the first is served next.
    lines: VecDeque<(Client, VecDeque<Job>)>,
}

impl FairQueue {
    pub fn new(limits: QueueLimits) -> Self {
        FairQueue { limits, len: 0, lines: VecDeque::new() }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// # Errors
    /// The limit that was reached; nothing changes then.
    pub fn push(&mut self, job: Job) -> Result<(), Full> {
        if self.len >= self.limits.all {
            return Err(Full::All);
        }
        match self.lines.iter_mut().find(|(client, _)| *client == job.client) {
            Some((_, line)) if line.len() >= self.limits.per_client => return Err(Full::Client),
            Some((_, line)) => line.push_back(job),
            None if self.limits.per_client == 0 => return Err(Full::Client),
            None => self.lines.push_back((job.client, VecDeque::from([job]))),
        }
        self.len += 1;
        Ok(())
    }

    /// The next job, where `fits` takes it. One that does not fit holds up the others: it would never get its turn
    /// otherwise.
    pub fn pop(&mut self, fits: impl FnOnce(&Job) -> bool) -> Option<Job> {
        let (_, line) = self.lines.front()?;
        if !fits(line.front()?) {
            return None;
        }
        let (client, mut line) = self.lines.pop_front()?;
        let job = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((client, line));
        }
        self.len -= usize::from(job.is_some());
        job
    }

    /// Takes out every job that `gone` picks.
    pub fn remove(&mut self, mut gone: impl FnMut(&Job) -> bool) -> Vec<Job> {
        let mut removed = Vec::new();
        for (_, line) in &mut self.lines {
            let (out, stay): (VecDeque<Job>, VecDeque<Job>) =
                std::mem::take(line).into_iter().partition(&mut gone);
            removed.extend(out);
            *line = stay;
        }
        self.lines.retain(|(_, line)| !line.is_empty());
        self.len -= removed.len();
        removed
    }
}
