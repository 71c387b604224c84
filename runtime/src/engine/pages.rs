//! Which page of a KV cache holds which positions of which sequence: bookkeeping without data.
//!
//! In: sequences that grow, shrink, are forked and closed. Out: a page and a place for every position, and the
//! copies that a backend must make before it writes. A page holds [`PAGE`] positions of all layers and is shared
//! by every sequence that was forked with it; a sequence that writes into a shared page gets a copy of its own
//! first (copy on write). Every backend keeps its keys and values by these page numbers. Deliberately absent:
//! the data, and any policy of what to keep.

use crate::{Error, Result};

/// Positions of one page.
pub const PAGE: usize = 64;

/// One sequence of a [`PageTable`]. Numbers of closed sequences are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u32);

/// A page whose contents must be copied to another before anything is written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    pub from: u32,
    pub to: u32,
}

/// Pages of all sequences together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PageUse {
    pub total: usize,
    /// In use by no sequence.
    pub free: usize,
    /// In use by more than one sequence.
    pub shared: usize,
}

pub struct PageTable {
    /// Positions that one sequence may have.
    context: usize,
    /// Sequences that use a page.
    users: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
}

#[derive(Clone, Default)]
struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

impl PageTable {
    /// `pages` pages for any number of sequences of up to `context` positions each.
    pub fn new(pages: usize, context: usize) -> Self {
        let free = (0..pages as u32).rev().collect();
        PageTable { context, users: vec![0; pages], free, sequences: Vec::new() }
    }

    pub fn context(&self) -> usize {
        self.context
    }

    pub fn usage(&self) -> PageUse {
        let shared = self.users.iter().filter(|users| **users > 1).count();
        PageUse { total: self.users.len(), free: self.free.len(), shared }
    }

    /// A new, empty sequence. It uses no page yet.
    pub fn open(&mut self) -> SequenceId {
        let pages = Vec::with_capacity(self.context.div_ceil(PAGE).min(self.users.len()));
        self.insert(Sequence { pages, len: 0 })
    }

    /// A new sequence with the first `positions` positions of `id`, whose pages both share.
    ///
    /// # Errors
    /// [`Error::Usage`] where `id` has fewer positions.
    pub fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        let parent = self.sequence(id);
        if positions > parent.len {
            let what = format!("cannot fork {positions} positions of a sequence of {}", parent.len);
            return Err(Error::usage(what, "fork at most the positions in use"));
        }
        let shared = parent.pages[..positions.div_ceil(PAGE)].to_vec();
        shared.iter().for_each(|page| self.users[*page as usize] += 1);
        Ok(self.insert(Sequence { pages: shared, len: positions }))
    }

    /// Gives back the pages of `id` and its number.
    pub fn close(&mut self, id: SequenceId) {
        self.truncate(id, 0);
        self.sequences[id.0 as usize] = None;
    }

    /// Positions in use.
    pub fn len(&self, id: SequenceId) -> usize {
        self.sequence(id).len
    }

    pub fn is_empty(&self, id: SequenceId) -> bool {
        self.len(id) == 0
    }

    /// Pages in use, in the order of positions.
    pub fn pages(&self, id: SequenceId) -> &[u32] {
        &self.sequence(id).pages
    }

    /// Page and index within the page of a position in use.
    ///
    /// # Panics
    /// On a position that is not in use: a bug in the caller.
    pub fn place(&self, id: SequenceId, position: usize) -> (u32, usize) {
        let sequence = self.sequence(id);
        assert!(position < sequence.len, "position {position} of {}", sequence.len);
        (sequence.pages[position / PAGE], position % PAGE)
    }

    /// Whether `growth` more positions of each sequence fit, all of them together.
    ///
    /// # Errors
    /// [`Error::Limit`] naming what does not fit.
    pub fn check_fit(&self, growth: impl IntoIterator<Item = (SequenceId, usize)>) -> Result<()> {
        let mut needed = 0;
        for (id, count) in growth {
            let used = self.len(id);
            if count > self.context - used {
                return Err(Error::limit(
                    format!(
                        "{count} more tokens do not fit into the context of {} ({used} in use)",
                        self.context
                    ),
                    "choose a larger --ctx-size, a shorter prompt, fewer --max-tokens, or --context-shift",
                ));
            }
            needed += self.pages_needed(id, count);
        }
        self.check_free(needed)
    }

    /// Adds `count` positions, to be filled; returns the first. Copies to make are appended to `copies`.
    ///
    /// # Errors
    /// As [`Self::check_fit`]; nothing is changed then.
    pub fn extend(&mut self, id: SequenceId, count: usize, copies: &mut Vec<PageCopy>) -> Result<usize> {
        self.check_fit([(id, count)])?;
        let first = self.len(id);
        if count == 0 {
            return Ok(first);
        }
        if !first.is_multiple_of(PAGE) {
            self.own(id, first / PAGE, copies);
        }
        while self.pages(id).len() < (first + count).div_ceil(PAGE) {
            let page = self.take();
            self.sequence_mut(id).pages.push(page);
        }
        self.sequence_mut(id).len += count;
        Ok(first)
    }

    /// Forgets all positions from `len` on; does nothing where there are fewer.
    pub fn truncate(&mut self, id: SequenceId, len: usize) {
        let sequence = self.sequence_mut(id);
        sequence.len = sequence.len.min(len);
        let kept = sequence.len.div_ceil(PAGE);
        while self.pages(id).len() > kept {
            let page = self.sequence_mut(id).pages.pop().expect("longer than kept");
            self.release(page);
        }
    }

    /// Prepares moving the positions from `keep + discard` on down by `discard`: every page that will be written is
    /// the sequence's own afterwards. The caller makes the copies, moves, then truncates.
    ///
    /// # Errors
    /// [`Error::Usage`] where the range is not inside the positions in use, [`Error::Limit`] where copies find no
    /// page; nothing is changed then.
    pub fn prepare_shift(
        &mut self,
        id: SequenceId,
        keep: usize,
        discard: usize,
        copies: &mut Vec<PageCopy>,
    ) -> Result<()> {
        let len = self.len(id);
        if keep.checked_add(discard).is_none_or(|first| first > len) {
            let what = format!("cannot drop {discard} positions after the first {keep} of {len}");
            return Err(Error::usage(what, "keep and drop fewer"));
        }
        if discard == 0 || keep + discard == len {
            return Ok(());
        }
        let written = keep / PAGE..(len - discard).div_ceil(PAGE);
        self.check_free(written.clone().filter(|index| self.is_shared(id, *index)).count())?;
        written.for_each(|index| self.own(id, index, copies));
        Ok(())
    }

    /// Free pages that `count` more positions take: new ones, and a copy of a shared last one.
    fn pages_needed(&self, id: SequenceId, count: usize) -> usize {
        let len = self.len(id);
        let copied = count > 0 && !len.is_multiple_of(PAGE) && self.is_shared(id, len / PAGE);
        (len + count).div_ceil(PAGE) - len.div_ceil(PAGE) + usize::from(copied)
    }

    fn check_free(&self, needed: usize) -> Result<()> {
        if needed <= self.free.len() {
            return Ok(());
        }
        Err(Error::limit(
            format!("{needed} more pages of the KV cache are needed, {} are free", self.free.len()),
            "close a sequence, or give the cache more positions",
        ))
    }

    fn is_shared(&self, id: SequenceId, index: usize) -> bool {
        self.users[self.pages(id)[index] as usize] > 1
    }

    /// Makes page `index` of `id` its own. The caller has checked that a page is free where it is shared.
    fn own(&mut self, id: SequenceId, index: usize, copies: &mut Vec<PageCopy>) {
        if self.is_shared(id, index) {
            let from = self.pages(id)[index];
            let to = self.take();
            self.users[from as usize] -= 1;
            self.sequence_mut(id).pages[index] = to;
            copies.push(PageCopy { from, to });
        }
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("the caller has checked that a page is free");
        self.users[page as usize] = 1;
        page
    }

    fn release(&mut self, page: u32) {
        let users = &mut self.users[page as usize];
        *users -= 1;
        if *users == 0 {
            self.free.push(page);
        }
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let slot = self.sequences.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[slot] = Some(sequence);
        SequenceId(slot as u32)
    }

    /// # Panics
    /// On a sequence that is not open: a bug in the caller.
    fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences.get(id.0 as usize).and_then(Option::as_ref).expect("the sequence is open")
    }

    fn sequence_mut(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences.get_mut(id.0 as usize).and_then(Option::as_mut).expect("the sequence is open")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Open,
        Fork(usize, usize),
        Extend(usize, usize),
        Truncate(usize, usize),
        Shift(usize, usize, usize),
        Close(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            1 => Just(Op::Open),
            2 => (0usize..8, 0usize..300).prop_map(|(s, n)| Op::Fork(s, n)),
            4 => (0usize..8, 0usize..200).prop_map(|(s, n)| Op::Extend(s, n)),
            2 => (0usize..8, 0usize..300).prop_map(|(s, n)| Op::Truncate(s, n)),
            1 => (0usize..8, 0usize..150, 0usize..150).prop_map(|(s, keep, n)| Op::Shift(s, keep, n)),
            1 => (0usize..8).prop_map(Op::Close),
        ];
        proptest::collection::vec(op, 1..60)
    }

    /// The law of the table: data written by page and place is what a plain list per sequence holds.
    struct Model {
        table: PageTable,
        data: Vec<[u64; PAGE]>,
        sequences: Vec<(SequenceId, Vec<u64>)>,
        stamp: u64,
    }

    impl Model {
        fn apply(&mut self, op: &Op) {
            let open = self.sequences.len();
            let mut copies = Vec::new();
            match *op {
                Op::Open => {
                    let id = self.table.open();
                    self.sequences.push((id, Vec::new()));
                }
                _ if open == 0 => {}
                Op::Fork(s, n) => {
                    let (id, held) = &self.sequences[s % open];
                    match self.table.fork(*id, n) {
                        Ok(child) => {
                            let held = held[..n].to_vec();
                            self.sequences.push((child, held));
                        }
                        Err(_) => assert!(n > held.len()),
                    }
                }
                Op::Extend(s, n) => {
                    let (id, held) = &mut self.sequences[s % open];
                    let before = self.table.usage();
                    match self.table.extend(*id, n, &mut copies) {
                        Ok(first) => {
                            assert_eq!(first, held.len());
                            copies.iter().for_each(|c| self.data[c.to as usize] = self.data[c.from as usize]);
                            for position in first..first + n {
                                self.stamp += 1;
                                let (page, at) = self.table.place(*id, position);
                                self.data[page as usize][at] = self.stamp;
                                held.push(self.stamp);
                            }
                        }
                        Err(_) => {
                            assert!(
                                held.len() + n > self.table.context() || before.free < n.div_ceil(PAGE) + 1
                            );
                            assert_eq!((self.table.usage(), self.table.len(*id)), (before, held.len()));
                        }
                    }
                }
                Op::Truncate(s, n) => {
                    let (id, held) = &mut self.sequences[s % open];
                    self.table.truncate(*id, n);
                    held.truncate(n);
                }
                Op::Shift(s, keep, n) => {
                    let (id, held) = &mut self.sequences[s % open];
                    let before = self.table.usage();
                    if self.table.prepare_shift(*id, keep, n, &mut copies).is_err() {
                        assert!(keep + n > held.len() || before.free < held.len().div_ceil(PAGE));
                        assert_eq!(self.table.usage(), before);
                        return;
                    }
                    copies.iter().for_each(|c| self.data[c.to as usize] = self.data[c.from as usize]);
                    for position in keep + n..held.len() {
                        let (from, at) = self.table.place(*id, position);
                        let value = self.data[from as usize][at];
                        let (to, at) = self.table.place(*id, position - n);
                        self.data[to as usize][at] = value;
                    }
                    held.drain(keep..keep + n);
                    self.table.truncate(*id, held.len());
                }
                Op::Close(s) => {
                    let (id, _) = self.sequences.swap_remove(s % open);
                    self.table.close(id);
                }
            }
        }

        fn check(&self) {
            let mut users = vec![0; self.data.len()];
            for (id, held) in &self.sequences {
                assert_eq!(
                    (self.table.len(*id), self.table.pages(*id).len()),
                    (held.len(), held.len().div_ceil(PAGE))
                );
                for (position, value) in held.iter().enumerate() {
                    let (page, at) = self.table.place(*id, position);
                    assert_eq!(self.data[page as usize][at], *value, "position {position}");
                }
                self.table.pages(*id).iter().for_each(|page| users[*page as usize] += 1);
            }
            let free = users.iter().filter(|users| **users == 0).count();
            let shared = users.iter().filter(|users| **users > 1).count();
            assert_eq!(self.table.usage(), PageUse { total: users.len(), free, shared });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn sequences_hold_what_was_written(ops in ops(), pages in 1usize..12, context in 1usize..500) {
            let table = PageTable::new(pages, context);
            let mut model = Model { table, data: vec![[0; PAGE]; pages], sequences: Vec::new(), stamp: 0 };
            for op in &ops {
                model.apply(op);
                model.check();
            }
            let open: Vec<SequenceId> = model.sequences.iter().map(|(id, _)| *id).collect();
            open.into_iter().for_each(|id| model.table.close(id));
            prop_assert_eq!(model.table.usage(), PageUse { total: pages, free: pages, shared: 0 });
        }
    }

    #[test]
    fn a_fork_copies_one_page_and_only_when_it_writes() {
        let mut table = PageTable::new(4, 1000);
        let (parent, mut copies) = (table.open(), Vec::new());
        table.extend(parent, PAGE + 10, &mut copies).unwrap();
        let child = table.fork(parent, PAGE + 5).unwrap();
        assert_eq!(table.usage(), PageUse { total: 4, free: 2, shared: 2 });
        table.extend(child, 1, &mut copies).unwrap();
        assert_eq!(copies, [PageCopy { from: table.pages(parent)[1], to: table.pages(child)[1] }]);
        assert_eq!(table.usage(), PageUse { total: 4, free: 1, shared: 1 });
        assert!(table.check_fit([(parent, PAGE), (child, PAGE)]).is_err());
        assert!(table.check_fit([(parent, PAGE)]).is_ok());
    }
}
