//! Laws of the scheduler, on a trained model and without threads or sockets.

#[path = "../../tests/it/faulty.rs"]
mod faulty;

use super::job::{Client, Event, Failure, Job, Task};
use super::{Scheduler, SchedulerLimits};
use crate::metrics::Metrics;
use bitnet_runtime::Result;
use bitnet_runtime::engine::{Engine, EngineOptions, Sequences};
use bitnet_runtime::generate::{
    AtEndOfSequence, FinishReason, Overflow, Request, StopRules, generate, load_tokenizer,
};
use bitnet_runtime::sampling::{Sampler, SamplingParams};
use bitnet_runtime::tokenizer::{Bos, SpecialTokens, Tokenizer};
use faulty::Faulty;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/trained/kjv-b158.gguf");
const LIMITS: SchedulerLimits = SchedulerLimits { slots: 16, kept_sequences: 8 };

/// A greedy job of up to 16 tokens.
pub fn job(prompt: &[u32]) -> (Job, UnboundedReceiver<Event>) {
    let (events, receiver) = unbounded_channel();
    let now = Instant::now();
    let job = Job {
        client: Client(0),
        task: Task::Answer,
        prompt: prompt.to_vec(),
        choices: 1,
        first_choice: 0,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        rules: StopRules { max_tokens: 16, ..StopRules::default() },
        at_end_of_sequence: AtEndOfSequence::Stop,
        logprobs: None,
        bias: Vec::new(),
        grammar: None,
        submitted: now,
        deadline: now + Duration::from_secs(3600),
        events,
    };
    (job, receiver)
}

fn engine(context: usize, sequences: usize) -> Engine {
    let options = EngineOptions { threads: 1, context: Some(context), sequences, ..EngineOptions::default() };
    Engine::load(Path::new(MODEL), &options, &mut |_, _| ()).unwrap()
}

fn tokenizer() -> Tokenizer {
    load_tokenizer(engine(1, 1).gguf()).unwrap().0
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, SpecialTokens::Parse, Bos::AsFileAsks).unwrap()
}

/// What the runtime itself gives for the request when nothing else is there.
fn alone(tokenizer: &Tokenizer, job: &Job, choice: usize) -> String {
    let mut engine = engine(512, 1);
    let mut sampling = job.sampling.clone();
    sampling.seed += choice as u64;
    let mut sampler = Sampler::new(sampling, tokenizer.real_vocab_size()).unwrap();
    let request = Request {
        prompt: &job.prompt,
        rules: job.rules.clone(),
        at_end_of_sequence: job.at_end_of_sequence,
        overflow: Overflow::Stop,
        prompt_lookup: 0,
    };
    generate(&mut engine, tokenizer, &mut sampler, request, &mut |_| Ok(())).unwrap().text
}

#[derive(Default)]
struct Got {
    texts: BTreeMap<usize, String>,
    finished: BTreeMap<usize, FinishReason>,
    failure: Option<Failure>,
    cached: usize,
}

fn drain(receiver: &mut UnboundedReceiver<Event>, got: &mut Got) {
    while let Ok(event) = receiver.try_recv() {
        match event {
            Event::Started { cached } => got.cached += cached,
            Event::Piece { choice, piece } => got.texts.entry(choice).or_default().push_str(&piece.text),
            Event::Finished { choice, reason, .. } => drop(got.finished.insert(choice, reason)),
            Event::Embedding { .. } => panic!("no embedding was asked for"),
            Event::Failed(failure) => got.failure = Some(failure),
        }
    }
}

/// Runs jobs that arrive `every` steps one after another, until all have ended.
fn run(scheduler: &mut Scheduler<'_>, jobs: Vec<(Job, UnboundedReceiver<Event>)>, every: usize) -> Vec<Got> {
    let (mut waiting, mut receivers) = (std::collections::VecDeque::new(), Vec::new());
    for (job, receiver) in jobs {
        waiting.push_back(job);
        receivers.push((receiver, Got::default()));
    }
    for step in 0.. {
        while step % every == 0 && waiting.front().is_some_and(|job| scheduler.fits(job)) {
            scheduler.admit(waiting.pop_front().unwrap());
            if every > 1 {
                break;
            }
        }
        if scheduler.is_idle() && waiting.is_empty() {
            break;
        }
        scheduler.step();
        assert!(step < 10_000, "nothing moves");
    }
    receivers.iter_mut().for_each(|(receiver, got)| drain(receiver, got));
    receivers.into_iter().map(|(_, got)| got).collect()
}

/// Prompts of many lengths, some of which begin alike, with greedy and sampled answers and several choices.
fn mixed(tokenizer: &Tokenizer) -> Vec<(Job, UnboundedReceiver<Event>)> {
    let story = "And it came to pass in those days, that there went out a decree from Caesar Augustus, ";
    let long = story.repeat(6);
    let texts = [
        "In the beginning".to_owned(),
        format!("{story}that all the world"),
        format!("{story}and the king said"),
        long.clone() + "And Joseph",
        long + "And Mary",
        "The".to_owned(),
        "Thou shalt not".to_owned(),
        format!("{story}that all the world should"),
    ];
    let jobs = texts.iter().enumerate().map(|(i, text)| {
        let (mut job, receiver) = job(&encode(tokenizer, text));
        job.client = Client(i as u64 % 3);
        job.rules.max_tokens = 10 + 7 * i;
        if i % 3 == 1 {
            job.sampling = SamplingParams { seed: 40 + i as u64, ..SamplingParams::default() };
            job.choices = 1 + i % 4;
        }
        if i == 2 {
            job.rules.strings = vec![" the".into()];
        }
        (job, receiver)
    });
    jobs.collect()
}

fn expected(tokenizer: &Tokenizer, jobs: &[(Job, UnboundedReceiver<Event>)]) -> Vec<Vec<String>> {
    let of = |(job, _): &(Job, _)| (0..job.choices).map(|choice| alone(tokenizer, job, choice)).collect();
    jobs.iter().map(of).collect()
}

fn assert_equal(got: &[Got], expected: &[Vec<String>]) {
    for (number, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.failure, None, "job {number}");
        assert_eq!(got.finished.len(), expected.len(), "job {number}");
        for (choice, expected) in expected.iter().enumerate() {
            assert_eq!(got.texts.get(&choice).map_or("", String::as_str), expected, "job {number}, {choice}");
        }
    }
}

#[test]
fn no_schedule_changes_an_answer() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let expected = expected(&tokenizer, &mixed(&tokenizer));
    // Room for all; one at a time; pages for little more than one, so that answers are computed again.
    for (slots, sequences, kept, every) in [(16, 4, 8, 1), (1, 1, 0, 1), (16, 1, 8, 1), (6, 2, 2, 3)] {
        let make = || Ok(Box::new(engine(512, sequences)) as Box<dyn Sequences>);
        let limits = SchedulerLimits { slots, kept_sequences: kept };
        let mut scheduler = Scheduler::new(&make, &tokenizer, limits, &metrics).unwrap();
        // Twice: the second time most of every prompt is in the cache.
        for _ in 0..2 {
            let got = run(&mut scheduler, mixed(&tokenizer), every);
            assert_equal(&got, &expected);
        }
        assert!(kept == 0 || metrics.cached_tokens.get() > 0);
    }
}

#[test]
fn answers_whose_pages_are_taken_are_computed_again() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let make = || Ok(Box::new(engine(256, 1)) as Box<dyn Sequences>);
    let mut scheduler = Scheduler::new(&make, &tokenizer, LIMITS, &metrics).unwrap();
    // Four short prompts are let in, and outgrow four pages together.
    let jobs = || {
        let texts = ["Moses", "Aaron", "Joshua", "Samuel"];
        let jobs = texts.iter().map(|text| {
            let (mut job, receiver) = job(&encode(&tokenizer, text));
            job.rules.max_tokens = 100;
            job.at_end_of_sequence = AtEndOfSequence::Continue;
            (job, receiver)
        });
        jobs.collect::<Vec<_>>()
    };
    let expected = expected(&tokenizer, &jobs());
    assert_equal(&run(&mut scheduler, jobs(), 1), &expected);
    assert!(metrics.preempted.get() > 0);
    assert_eq!(metrics.pages_total.get(), 4);
}

/// One engine after another that panics at `bad`, and the first of them once where `once` says so.
fn faulty(bad: Option<u32>, once: bool) -> impl Fn() -> Result<Box<dyn Sequences>> {
    let once = Arc::new(AtomicBool::new(once));
    move || {
        let engine = Box::new(engine(512, 4));
        Ok(Box::new(Faulty { engine, bad, once: Arc::clone(&once), gate: Arc::default() })
            as Box<dyn Sequences>)
    }
}

#[test]
fn a_panic_costs_the_request_that_makes_it_and_no_other() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let expected = expected(&tokenizer, &mixed(&tokenizer));
    // A token that no answer has: it is in the culprit's prompt alone.
    let bad = (0..tokenizer.real_vocab_size() as u32).rev().find(|id| tokenizer.token_bytes(*id).len() > 5);
    let make = faulty(bad, false);
    let mut scheduler = Scheduler::new(&make, &tokenizer, LIMITS, &metrics).unwrap();
    let mut jobs = mixed(&tokenizer);
    let mut prompt = encode(&tokenizer, "The");
    prompt.extend(bad);
    jobs.insert(3, job(&prompt));
    let mut got = run(&mut scheduler, jobs, 2);
    let culprit = got.remove(3);
    assert!(matches!(&culprit.failure, Some(Failure::Engine(_))), "{:?}", culprit.failure);
    assert_equal(&got, &expected);
    assert!(metrics.engine_failures.get() >= 2, "in a batch, then alone");
}

#[test]
fn a_panic_that_is_nobodys_fault_costs_nothing() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let expected = expected(&tokenizer, &mixed(&tokenizer));
    let make = faulty(None, true);
    let mut scheduler = Scheduler::new(&make, &tokenizer, LIMITS, &metrics).unwrap();
    assert_equal(&run(&mut scheduler, mixed(&tokenizer), 1), &expected);
    assert_eq!(metrics.engine_failures.get(), 1);
}

#[test]
fn who_goes_away_is_gone_before_the_next_batch() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let make = || Ok(Box::new(engine(512, 2)) as Box<dyn Sequences>);
    let limits = SchedulerLimits { slots: 2, kept_sequences: 0 };
    let mut scheduler = Scheduler::new(&make, &tokenizer, limits, &metrics).unwrap();
    let (mut first, mut receiver) = job(&encode(&tokenizer, "In the beginning"));
    first.rules.max_tokens = 400;
    first.choices = 2;
    scheduler.admit(first);
    (0..5).for_each(|_| scheduler.step());
    let mut got = Got::default();
    drain(&mut receiver, &mut got);
    assert_eq!(got.texts.len(), 2, "both choices have text");
    let before = metrics.generated_tokens.get();
    drop(receiver);
    scheduler.step();
    assert!(scheduler.is_idle());
    assert_eq!(metrics.generated_tokens.get(), before, "nothing was computed for nobody");
    assert_eq!(metrics.pages_free.get(), metrics.pages_total.get());
}

#[test]
fn a_deadline_ends_a_request_with_its_reason() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let make = || Ok(Box::new(engine(512, 2)) as Box<dyn Sequences>);
    let mut scheduler = Scheduler::new(&make, &tokenizer, LIMITS, &metrics).unwrap();
    let mut late = job(&encode(&tokenizer, "In the beginning"));
    late.0.deadline = Instant::now();
    let got = run(&mut scheduler, vec![late, job(&encode(&tokenizer, "The"))], 1);
    assert_eq!(got[0].failure, Some(Failure::Deadline));
    assert_eq!((got[1].failure.clone(), got[1].finished.len()), (None, 1));
}

#[test]
fn the_context_ends_an_answer_where_the_runtime_ends_it() {
    let (tokenizer, metrics) = (tokenizer(), Metrics::default());
    let make = || Ok(Box::new(engine(20, 1)) as Box<dyn Sequences>);
    let mut scheduler = Scheduler::new(&make, &tokenizer, LIMITS, &metrics).unwrap();
    let mut long = job(&encode(&tokenizer, "In the beginning God created"));
    long.0.rules.max_tokens = 1000;
    long.0.at_end_of_sequence = AtEndOfSequence::Continue;
    let prompt = long.0.prompt.len();
    let mut engine = engine(20, 1);
    let mut sampler = Sampler::new(long.0.sampling.clone(), tokenizer.real_vocab_size()).unwrap();
    let request = Request {
        prompt: &long.0.prompt.clone(),
        rules: long.0.rules.clone(),
        at_end_of_sequence: AtEndOfSequence::Continue,
        overflow: Overflow::Stop,
        prompt_lookup: 0,
    };
    let alone = generate(&mut engine, &tokenizer, &mut sampler, request, &mut |_| Ok(())).unwrap();
    assert_eq!(alone.tokens.len(), 21 - prompt);
    let got = run(&mut scheduler, vec![long], 1);
    assert_eq!(got[0].texts[&0], alone.text);
    assert_eq!(got[0].finished[&0], FinishReason::ContextFull);
}
