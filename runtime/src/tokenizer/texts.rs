//! Token texts, back to back, with an index from text to id.
//!
//! A vocabulary of 128,000 tokens and 280,000 merges is looked up close to a million times while it loads. With a
//! map of owned strings that took half as long again and three times the memory of this table of 8-byte slots
//! over one block of text. Open addressing, at most half full, with a seed per process.

use std::hash::{BuildHasher, RandomState};

const EMPTY: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// Text `i` ends at `ends[i]`.
    ends: Vec<u32>,
    /// (part of the hash, id), a power of two of them.
    slots: Vec<(u32, u32)>,
    seed: RandomState,
}

impl Texts {
    /// For `count` texts, fewer than 2^31.
    pub(super) fn with_capacity(count: usize) -> Texts {
        let slots = vec![(0, EMPTY); (count * 2).next_power_of_two()];
        Texts {
            bytes: Vec::with_capacity(count * 8),
            ends: Vec::with_capacity(count),
            slots,
            ..Default::default()
        }
    }

    /// Appends `text` with the next id; `Err` is the id that already has this text. At most `count` times.
    pub(super) fn push(&mut self, text: &[u8]) -> Result<(), u32> {
        let (tag, slot) = self.find(text);
        match self.slots[slot].1 {
            EMPTY => {
                self.slots[slot] = (tag, self.ends.len() as u32);
                self.bytes.extend_from_slice(text);
                self.ends.push(self.bytes.len() as u32);
                Ok(())
            }
            id => Err(id),
        }
    }

    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        Some(self.slots[self.find(text).1].1).filter(|id| *id != EMPTY)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text of `id`, empty beyond the last.
    pub(super) fn text(&self, id: usize) -> &[u8] {
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// The hash's tag, and the slot that holds `text` or is free for it.
    fn find(&self, text: &[u8]) -> (u32, usize) {
        let (hash, mask) = (self.seed.hash_one(text), self.slots.len() - 1);
        let (tag, mut slot) = ((hash >> 32) as u32, hash as usize & mask);
        loop {
            let (other, id) = self.slots[slot];
            if id == EMPTY || other == tag && self.text(id as usize) == text {
                return (tag, slot);
            }
            slot = (slot + 1) & mask;
        }
    }
}
