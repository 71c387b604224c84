//! What is still to be fetched, handed out in order in parts of a fitting size.
//!
//! In: which blocks are there. Out: ranges of blocks, one for each request. A source that answers at once is asked for
//! one block at a time, so that blocks arrive in order, hashing keeps up and a failure loses little; one that is far
//! away is asked for many, since each request costs a round trip.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

/// Blocks that one request asks for at most.
const MOST: usize = 32;
/// A request should take this many times as long as the wait for its answer.
const WORTH: f64 = 8.0;

/// Runs of missing blocks that nobody has taken.
pub struct Parts(Mutex<VecDeque<Range<usize>>>);

impl Parts {
    pub fn new(have: &[bool]) -> Self {
        Parts(Mutex::new(runs(have)))
    }

    /// The next part, of at most `most` blocks.
    pub fn take(&self, most: usize) -> Option<Range<usize>> {
        let mut waiting = self.0.lock().expect("no thread panicked");
        let run = waiting.front_mut()?;
        let part = run.start..run.end.min(run.start + most);
        if part.end == run.end {
            waiting.pop_front();
        } else {
            run.start = part.end;
        }
        Some(part)
    }

    /// What is missing of `part` is everybody's again, before all else.
    pub fn put_back(&self, part: Range<usize>, have: &[bool]) {
        let mut waiting = self.0.lock().expect("no thread panicked");
        for run in runs(&have[part.clone()]).into_iter().rev() {
            waiting.push_front(run.start + part.start..run.end + part.start);
        }
    }

    /// Only what is missing now, whoever had taken it.
    pub fn reset(&self, have: &[bool]) {
        *self.0.lock().expect("no thread panicked") = runs(have);
    }
}

/// How one connection gets on.
#[derive(Default)]
pub struct Pace(Option<(Duration, Duration)>);

impl Pace {
    /// Notes a request whose answer began after `wait` and whose blocks took `block` each. The shortest wait counts: longer
    /// ones tell more of how busy both sides are than of the way.
    pub fn note(&mut self, wait: Duration, block: Duration) {
        let shortest = self.0.map_or(wait, |(shortest, _)| shortest.min(wait));
        self.0 = Some((shortest, block));
    }

    /// How many blocks the next request should ask for.
    pub fn blocks(&self) -> usize {
        let Some((wait, block)) = self.0 else { return 1 };
        ((WORTH * wait.as_secs_f64() / block.as_secs_f64().max(1e-9)) as usize).clamp(1, MOST)
    }
}

/// The missing blocks, in order.
fn runs(have: &[bool]) -> VecDeque<Range<usize>> {
    let mut runs: VecDeque<Range<usize>> = VecDeque::new();
    for index in (0..have.len()).filter(|index| !have[*index]) {
        match runs.back_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push_back(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_blocks_are_handed_out_in_order_and_come_back() {
        let mut have = vec![false; 70];
        (have[0], have[2]) = (true, true);
        let parts = Parts::new(&have);
        assert_eq!([parts.take(32), parts.take(32)], [Some(1..2), Some(3..35)]);
        (3..20).for_each(|index| have[index] = true);
        parts.put_back(3..35, &have);
        assert_eq!(
            [parts.take(1), parts.take(32), parts.take(99)],
            [Some(20..21), Some(21..35), Some(35..70)]
        );
        assert_eq!(parts.take(1), None);
        parts.reset(&have);
        assert_eq!(parts.take(1), Some(1..2));
    }

    #[test]
    fn a_far_source_is_asked_for_more_at_once() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        assert_eq!(pace.blocks(), 1);
        let mut after = |wait, block| {
            pace.note(wait, block);
            pace.blocks()
        };
        assert_eq!(after(ms(200), ms(30)), MOST);
        assert_eq!(after(ms(10), ms(20)), 4);
        assert_eq!(after(ms(200), ms(20)), 4);
        assert_eq!(after(Duration::from_micros(100), ms(2)), 1);
        assert_eq!(after(ms(1), Duration::ZERO), MOST);
    }
}
