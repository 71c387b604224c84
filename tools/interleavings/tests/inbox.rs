//! The inbox: a job that was taken in is taken out once, whoever stops whatever when, and nobody sleeps beside one.

use bitforge_interleavings::metrics::Metrics;
use bitforge_interleavings::scheduler::inbox::{Inbox, Refused, Stop};
use bitforge_interleavings::scheduler::job::{Client, Event, Events, Failure, Job};
use bitforge_interleavings::scheduler::queue::{Full, QueueLimits};
use bitforge_interleavings::sync::Arc;
use loom::thread;
use std::time::{Duration, Instant};

const LIMITS: QueueLimits = QueueLimits { all: 2, per_client: 2 };

fn inbox() -> (Arc<Inbox>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (Arc::new(Inbox::new(LIMITS, Arc::clone(&metrics))), metrics)
}

fn job(client: u64) -> (Job, Events) {
    let events = Events::default();
    let deadline = Instant::now() + Duration::from_secs(3600);
    (Job { client: Client(client), deadline, events: events.clone() }, events)
}

/// The engine thread with an engine that is done at once: jobs it took until it was told to stop.
fn serve(inbox: &Inbox) -> usize {
    let mut served = 0;
    loop {
        let stop = inbox.wait();
        if stop == Stop::Now {
            inbox.fail_all(&Failure::ShuttingDown);
            return served;
        }
        while inbox.take(|_| true).is_some() {
            served += 1;
        }
        if stop == Stop::Drain && inbox.waiting() == 0 {
            return served;
        }
    }
}

#[test]
fn what_is_accepted_before_a_drain_is_served_and_the_engine_ends() {
    loom::model(|| {
        let (inbox, metrics) = inbox();
        let engine = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || serve(&inbox)
        });
        let submitter = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || usize::from(inbox.submit(job(1).0).is_ok())
        });
        inbox.stop(Stop::Drain);
        let accepted = submitter.join().unwrap();
        // The engine may have left before, but then nothing was accepted after it.
        assert_eq!(engine.join().unwrap(), accepted);
        assert_eq!(metrics.queued.get(), 0);
        assert_eq!(inbox.submit(job(2).0), Err(Refused::Stopping));
    });
}

#[test]
fn a_hard_stop_serves_or_fails_what_was_accepted() {
    loom::model(|| {
        let (inbox, metrics) = inbox();
        let engine = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || serve(&inbox)
        });
        let (job, events) = job(1);
        let accepted = inbox.submit(job).is_ok();
        inbox.stop(Stop::Now);
        // A milder form does not undo it.
        inbox.stop(Stop::Drain);
        assert_eq!(inbox.stopping(), Stop::Now);
        let served = engine.join().unwrap();
        let failed = events.seen() == [Event::Failed(Failure::ShuttingDown)];
        assert!(accepted && (served == 1) != failed, "served {served}, failed {failed}");
        assert_eq!(metrics.queued.get(), 0);
    });
}

#[test]
fn limits_hold_however_two_submit() {
    loom::model(|| {
        let (inbox, metrics) = inbox();
        let submit = |client: u64| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                (0..2).filter(|_| inbox.submit(job(client).0) == Err(Refused::Full(Full::All))).count()
            })
        };
        let (a, b) = (submit(1), submit(2));
        let refused = a.join().unwrap() + b.join().unwrap();
        assert_eq!((refused, inbox.waiting(), metrics.queued.get()), (2, 2, 2));
        let clients: Vec<Client> =
            std::iter::from_fn(|| inbox.take(|_| true)).map(|job| job.client).collect();
        assert_eq!(clients.len(), 2);
        assert_eq!(metrics.queued.get(), 0);
    });
}
