//! What generation and a server ask of an engine, on any backend: several sequences, and batches over them.
//!
//! In: a [`Batch`] of rows, each the next token of some sequence, prefill and decode mixed. Out: for every row that
//! wants it, its logits or the candidates that a sampling rule can choose from. A row's result never depends on the
//! rows beside it, on how a prompt was cut into batches, or on what was shared by [`Sequences::fork`], bit for bit.
//! Deliberately absent: scheduling, sampling, text.

use super::pages::{PageUse, SequenceId};
use crate::Result;

/// One engine with its sequences.
pub trait Sequences {
    /// Length of the logits: the padded vocabulary.
    fn vocab_size(&self) -> usize;

    /// Positions that one sequence may have.
    fn context(&self) -> usize;

    /// Rows that one batch may have.
    fn batch_rows(&self) -> usize;

    /// Pages of [`super::pages::PAGE`] positions, of all sequences together.
    fn page_use(&self) -> PageUse;

    /// A new, empty sequence. It uses no page until it has a position.
    fn open(&mut self) -> SequenceId;

    /// A new sequence with the first `positions` positions of `id`, shared until one of them writes: this is how
    /// requests share a prefix.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] where `id` has fewer positions.
    fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId>;

    /// Forgets `id` and gives its pages back.
    fn close(&mut self, id: SequenceId);

    /// Positions of `id`.
    fn positions(&self, id: SequenceId) -> usize;

    /// Forgets the positions of `id` from `positions` on.
    fn truncate_to(&mut self, id: SequenceId, positions: usize);

    /// Drops `discard` positions of `id` after the first `keep` and moves the later ones down, rotating their keys
    /// back by as many positions. An approximation, as in llama.cpp: the moved keys and values were computed with
    /// the dropped ones in view.
    ///
    /// # Errors
    /// A range that is not inside the positions in use, or no free page for a copy of a shared one.
    fn shift(&mut self, id: SequenceId, keep: usize, discard: usize) -> Result<()>;

    /// Evaluates the rows of `batch` and passes what they want to `answer(row number, answer)`, in the order of rows.
    ///
    /// # Errors
    /// No rows or too many, a token outside the vocabulary, no room in a context or in the cache, a want that the
    /// backend does not answer, or an interrupt.
    /// Every sequence is as before then, and nothing was answered.
    fn evaluate(&mut self, batch: &Batch, answer: &mut dyn FnMut(usize, Answer<'_>)) -> Result<()>;
}

/// Rows to evaluate together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    rows: Vec<Row>,
}

/// The next token of a sequence. Its position is the one after those that the sequence has, earlier rows of the batch
/// counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub sequence: SequenceId,
    pub token: u32,
    pub want: Want,
}

/// What a row is evaluated for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// Its keys and values only.
    Nothing,
    /// All logits.
    Logits,
    /// The final hidden state, after the last norm: what embeddings are made of.
    Hidden,
    /// At least every candidate that `rule` can keep.
    Best(Best),
}

/// Part of the logits. A backend may always answer with all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Only ids below this one count: the tokenizer's real vocabulary.
    pub below: u32,
    pub rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// The `n` best, ties to the lowest id; 1 is greedy.
    Top(usize),
    /// Those at least this probable, as a part of the best one.
    MinP(f32),
}

/// One id and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// What an engine found for a row.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// `[vocab]`.
    Logits(&'a [f32]),
    /// By ascending id, with exactly the logits that [`Self::Logits`] would have.
    Best(&'a [Candidate]),
    /// `[hidden]`.
    Hidden(&'a [f32]),
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
    }

    pub fn push(&mut self, sequence: SequenceId, token: u32, want: Want) {
        self.rows.push(Row { sequence, token, want });
    }

    /// Appends `tokens` of a prompt; only the last one wants `want`.
    pub fn push_all(&mut self, sequence: SequenceId, tokens: &[u32], want: Want) {
        for (index, token) in tokens.iter().enumerate() {
            let last = index + 1 == tokens.len();
            self.push(sequence, *token, if last { want } else { Want::Nothing });
        }
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
