//! The prefix cache: sequences of requests that ended, kept for those that begin alike.
//!
//! In: sequences with the tokens that their positions hold. Out: the one that shares the longest beginning with a prompt,
//! to be forked. Pages are shared, so what is kept twice costs once. The one that was not used for the longest goes
//! first when pages are short. Deliberately absent: data of keys and values (see `bitnet_runtime::engine::pages`).

use bitnet_runtime::engine::Sequences;
use bitnet_runtime::engine::pages::SequenceId;

/// Beginnings shorter than this are not worth a fork.
pub const SHORTEST: usize = 8;

pub struct PrefixCache {
    entries: Vec<Entry>,
    most: usize,
    clock: u64,
}

struct Entry {
    sequence: SequenceId,
    tokens: Vec<u32>,
    used: u64,
}

impl PrefixCache {
    /// Keeps `most` sequences at most.
    pub fn new(most: usize) -> Self {
        PrefixCache { entries: Vec::new(), most, clock: 0 }
    }

    /// Sequences that are kept.
    pub fn kept(&self) -> usize {
        self.entries.len()
    }

    /// Forgets all without closing: their engine is gone.
    pub fn forget(&mut self) {
        self.entries.clear();
    }

    /// Takes over `sequence`, whose positions hold `tokens`. Closes what it makes superfluous.
    pub fn keep(&mut self, engine: &mut dyn Sequences, sequence: SequenceId, tokens: Vec<u32>) {
        let covers = |entry: &Entry| entry.tokens.starts_with(&tokens);
        if tokens.len() < SHORTEST || self.most == 0 || self.entries.iter().any(covers) {
            return engine.close(sequence);
        }
        self.entries.retain(|entry| {
            let covered = tokens.starts_with(&entry.tokens);
            if covered {
                engine.close(entry.sequence);
            }
            !covered
        });
        if self.entries.len() >= self.most {
            self.evict(engine);
        }
        self.clock += 1;
        self.entries.push(Entry { sequence, tokens, used: self.clock });
    }

    /// The kept sequence that shares the longest beginning with `tokens`, and its length.
    pub fn find(&mut self, tokens: &[u32]) -> Option<(SequenceId, usize)> {
        let entry = self.entries.iter_mut().max_by_key(|entry| common(&entry.tokens, tokens))?;
        let shared = common(&entry.tokens, tokens);
        if shared < SHORTEST {
            return None;
        }
        self.clock += 1;
        entry.used = self.clock;
        Some((entry.sequence, shared))
    }

    /// Closes the one that was not used for the longest; says whether there was one.
    pub fn evict(&mut self, engine: &mut dyn Sequences) -> bool {
        let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.used);
        let Some((oldest, _)) = oldest else { return false };
        engine.close(self.entries.swap_remove(oldest).sequence);
        true
    }
}

/// How many tokens both begin with.
pub fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
