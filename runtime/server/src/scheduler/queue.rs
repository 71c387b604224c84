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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::tests::job;

    fn queue(all: usize, per_client: usize) -> FairQueue {
        FairQueue::new(QueueLimits { all, per_client })
    }

    fn of(client: u64, token: u32) -> Job {
        Job { client: Client(client), ..job(&[token]).0 }
    }

    #[test]
    fn clients_take_turns() {
        let mut queue = queue(10, 10);
        for (client, token) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)] {
            queue.push(of(client, token)).unwrap();
        }
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop(|_| true)).map(|job| job.prompt[0]).collect();
        assert_eq!(order, [10, 20, 30, 11, 21, 12]);
        assert!(queue.is_empty());
    }

    #[test]
    fn limits_hold_for_one_and_for_all() {
        let mut queue = queue(3, 2);
        assert_eq!(queue.push(of(1, 0)), Ok(()));
        assert_eq!(queue.push(of(1, 0)), Ok(()));
        assert_eq!(queue.push(of(1, 0)), Err(Full::Client));
        assert_eq!(queue.push(of(2, 0)), Ok(()));
        assert_eq!(queue.push(of(3, 0)), Err(Full::All));
        assert_eq!(queue.remove(|job| job.client == Client(1)).len(), 2);
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.push(of(1, 0)), Ok(()));
    }

    #[test]
    fn a_job_that_does_not_fit_keeps_its_turn() {
        let mut queue = queue(10, 10);
        queue.push(of(1, 10)).unwrap();
        queue.push(of(2, 20)).unwrap();
        assert!(queue.pop(|job| job.prompt[0] != 10).is_none());
        assert_eq!(queue.pop(|_| true).unwrap().prompt, [10]);
    }
}
