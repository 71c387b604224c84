//! Pair merging: the one loop that byte-level BPE and SentencePiece vocabularies share.
//!
//! In: symbols (token ids over byte ranges of a text) and a function that ranks adjacent pairs. Out: the symbols
//! left when no pair can merge. Lowest rank first, leftmost first among equals, as llama.cpp does for both.
//! A heap of candidates keeps it O(n log n), so that a hostile word of a megabyte costs no more than text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// "No such symbol" in links, "no token yet" in ids.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub(super) id: u32,
    pub(super) start: u32,
    pub(super) end: u32,
    prev: u32,
    next: u32,
}

/// What two adjacent symbols merge into.
#[derive(Clone, Copy)]
pub(super) struct Merged {
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// Candidates in the order they are taken: (rank, left, right, end of the merged range, id).
type Candidate = Reverse<(u32, u32, u32, u32, u32)>;

/// Buffers reused from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
}

impl Merger {
    /// Starts a new text.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.candidates.clear();
    }

    /// Appends a symbol that covers the next `len` bytes.
    pub(super) fn push(&mut self, id: u32, len: u32) {
        let index = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.end);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        let prev = index.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { id, start, end: start + len, prev, next: NONE });
    }

    /// Merges until no adjacent pair has a rank; the surviving symbols, in order.
    pub(super) fn merge(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<Merged>,
    ) -> impl Iterator<Item = Symbol> + '_ {
        for left in 1..self.symbols.len() as u32 {
            self.consider(left - 1, left, &pair);
        }
        while let Some(Reverse((_, left, right, end, id))) = self.candidates.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // A symbol that was swallowed has an empty range; one that grew no longer fits the candidate.
            let stale = l.start == l.end || r.start == r.end || l.end != r.start || r.end != end;
            if stale {
                continue;
            }
            self.symbols[left as usize] = Symbol { id, end, next: r.next, ..l };
            self.symbols[right as usize].start = end;
            if r.next != NONE {
                self.symbols[r.next as usize].prev = left;
                self.consider(left, r.next, &pair);
            }
            if l.prev != NONE {
                self.consider(l.prev, left, &pair);
            }
        }
        self.symbols.iter().copied().filter(|symbol| symbol.start < symbol.end)
    }

    fn consider(&mut self, left: u32, right: u32, pair: &impl Fn(&Symbol, &Symbol) -> Option<Merged>) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some(Merged { rank, id }) = pair(l, r) {
            self.candidates.push(Reverse((rank, left, right, r.end, id)));
        }
    }
}
