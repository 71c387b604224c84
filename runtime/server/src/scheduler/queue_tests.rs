//! The queue, without threads. Apart from `queue.rs`, which `tools/interleavings` compiles with jobs of its own.

use super::job::{Client, Job};
use super::queue::{FairQueue, Full, QueueLimits};
use super::tests::job;

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
