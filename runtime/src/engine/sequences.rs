//! [`Sequences`] on the CPU.

use super::batch::{Answer, Batch, Best, Row, Rule, Sequences, Want};
use super::pages::{PageUse, SequenceId};
use super::taps::{self, TapSink};
use super::{Engine, LOGITS_CHUNK, forward};
use crate::kernels::head::QUERIES;
use crate::{Error, Result};
use std::sync::atomic::Ordering;

/// How the rows of a batch are answered together.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Best,
    Logits,
    Hidden,
}

/// The batch being evaluated; its memory is allocated once.
pub(super) struct Pending {
    rows: Vec<Row>,
    /// Sequences of the batch and how many rows each has.
    growth: Vec<(SequenceId, usize)>,
    /// Rows that want an answer.
    wanted: Vec<usize>,
}

impl Pending {
    pub(super) fn new(rows: usize) -> Self {
        let (growth, wanted) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Pending { rows: Vec::with_capacity(rows), growth, wanted }
    }

    pub(super) fn set(&mut self, rows: impl Iterator<Item = Row>) {
        self.rows.clear();
        self.growth.clear();
        self.wanted.clear();
        for (number, row) in rows.enumerate() {
            match self.growth.iter_mut().find(|(id, _)| *id == row.sequence) {
                Some((_, count)) => *count += 1,
                None => self.growth.push((row.sequence, 1)),
            }
            if row.want != Want::Nothing {
                self.wanted.push(number);
            }
            self.rows.push(row);
        }
    }
}

pub(super) fn nothing_to_evaluate() -> Error {
    Error::usage("there is nothing to evaluate", "give a prompt of at least one token")
}

impl Engine {
    /// Runs the pending rows through all layers. On an error every sequence is as before.
    pub(super) fn evaluate_pending(&mut self, mut taps: Option<TapSink<'_>>) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.cache.table().check_fit(self.pending.growth.iter().copied())?;
        let places = self.buffers.places();
        places.clear();
        for row in &self.pending.rows {
            places.push((row.sequence, self.cache.extend(row.sequence, 1)?));
        }
        // Lent out while the step borrows the engine.
        let rows = std::mem::take(&mut self.pending.rows);
        self.step(taps::reborrow(&mut taps)).layers(&rows);
        self.pending.rows = rows;
        Ok(())
    }

    /// Searches the head, where it has a compact copy, for up to [`QUERIES`] rows of the last pass.
    pub(super) fn search_head(&mut self, rows: &[usize], wants: &[Best]) {
        // Lent out while the step borrows the engine.
        if let Some(mut head) = self.head.take() {
            self.step(None).search(&mut head, rows, wants);
            self.head = Some(head);
        }
    }

    fn answer_best(&mut self, batch: &Batch, rows: &[usize], answer: &mut dyn FnMut(usize, Answer<'_>)) {
        let mut wants = [Best { below: 0, rule: Rule::Top(1) }; QUERIES];
        for (want, row) in wants.iter_mut().zip(rows) {
            if let Want::Best(best) = batch.rows()[*row].want {
                *want = best;
            }
        }
        self.search_head(rows, &wants[..rows.len()]);
        for (index, row) in rows.iter().enumerate() {
            match self.head.as_ref().and_then(|head| head.found(index)) {
                Some(candidates) => answer(*row, Answer::Best(candidates)),
                None => self.answer_logits(&[*row], answer),
            }
        }
    }

    fn answer_logits(&mut self, rows: &[usize], answer: &mut dyn FnMut(usize, Answer<'_>)) {
        let vocab = self.model.vocab_size();
        let logits = self.step(None).head(rows);
        rows.iter()
            .zip(logits.chunks_exact(vocab))
            .for_each(|(row, logits)| answer(*row, Answer::Logits(logits)));
    }

    fn answer_hidden(&mut self, rows: &[usize], answer: &mut dyn FnMut(usize, Answer<'_>)) {
        let n = self.model.config.hidden;
        let hidden = self.step(None).hidden(rows);
        rows.iter()
            .zip(hidden.chunks_exact(n))
            .for_each(|(row, hidden)| answer(*row, Answer::Hidden(hidden)));
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        match tokens.iter().position(|token| *token as usize >= self.vocab_size()) {
            None => Ok(()),
            Some(index) => Err(Error::usage(
                format!(
                    "token {} at index {index} is outside the vocabulary of {}",
                    tokens[index],
                    self.vocab_size()
                ),
                "tokenize with this model's own tokenizer",
            )),
        }
    }
}

impl Sequences for Engine {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn context(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.context();
        }

        self.cache.shape().context
    }

    fn batch_rows(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.batch_rows();
        }

        self.buffers.tokens()
    }

    fn page_use(&self) -> PageUse {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.page_use();
        }

        self.cache.usage()
    }

    fn open(&mut self) -> SequenceId {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.open();
        }

        self.cache.open()
    }

    fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.fork(id, positions);
        }

        self.cache.fork(id, positions)
    }

    fn close(&mut self, id: SequenceId) {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.close(id);
        }

        self.cache.close(id);
    }

    fn positions(&self, id: SequenceId) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.positions(id);
        }

        self.cache.len(id)
    }

    fn truncate_to(&mut self, id: SequenceId, positions: usize) {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.truncate_to(id, positions);
        }

        self.cache.truncate(id, positions);
    }

    fn shift(&mut self, id: SequenceId, keep: usize, discard: usize) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.shift(id, keep, discard);
        }

        forward::shift(&mut self.cache, &self.model, &self.rope, &self.kernels, id, (keep, discard))
    }

    fn evaluate(&mut self, batch: &Batch, answer: &mut dyn FnMut(usize, Answer<'_>)) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            if batch.rows().iter().any(|row| row.want == Want::Hidden) {
                return Err(Error::Unavailable {
                    what: "hidden states, of which embeddings are made, are not read back from a GPU".into(),
                    remedy: "use --device cpu".into(),
                });
            }
            return device.accelerator.evaluate(batch, answer);
        }

        if batch.is_empty() {
            return Err(nothing_to_evaluate());
        }
        if batch.len() > self.batch_rows() {
            let what = format!("a batch of {} rows, where {} are the most", batch.len(), self.batch_rows());
            return Err(Error::usage(what, "cut it into smaller ones"));
        }
        batch.rows().iter().try_for_each(|row| self.check_tokens(&[row.token]))?;
        self.pending.set(batch.rows().iter().copied());
        self.evaluate_pending(None)?;
        let wanted = std::mem::take(&mut self.pending.wanted);
        let mut rest = &wanted[..];
        while let Some((row, _)) = rest.split_first() {
            let kind_of = |row: usize| match batch.rows()[row].want {
                Want::Best(_) if self.head.is_some() => Kind::Best,
                Want::Hidden => Kind::Hidden,
                _ => Kind::Logits,
            };
            let kind = kind_of(*row);
            let most = if kind == Kind::Best { QUERIES } else { LOGITS_CHUNK };
            let count = rest.iter().take(most).take_while(|row| kind_of(**row) == kind).count();
            let (rows, others) = rest.split_at(count);
            rest = others;
            match kind {
                Kind::Best => self.answer_best(batch, rows, answer),
                Kind::Hidden => self.answer_hidden(rows, answer),
                Kind::Logits => self.answer_logits(rows, answer),
            }
        }
        self.pending.wanted = wanted;
        Ok(())
    }
}
