//! An engine's own sequence on a device: what [`crate::engine::Engine`] needs where its model is on a GPU.
//!
//! In: tokens. Out: logits, as the CPU path gives them. Deliberately absent: taps, which devices do not keep.

use super::Accelerator;
use crate::Result;
use crate::engine::batch::Candidate;
use crate::engine::pages::SequenceId;
use crate::engine::{Answer, Batch, Want};
use bitforge_schema::selection::Selection;

/// A model on a device with the sequence of the methods that name none.
pub struct OnDevice {
    pub accelerator: Box<dyn Accelerator>,
    pub own: SequenceId,
    pub selection: Selection,
    logits: Vec<f32>,
    best: Vec<Candidate>,
}

impl OnDevice {
    pub fn new(mut accelerator: Box<dyn Accelerator>, selection: Selection) -> Self {
        let own = accelerator.open();
        OnDevice { accelerator, own, selection, logits: Vec::new(), best: Vec::new() }
    }

    /// Logits `[vocab]` of the last of `tokens`, which are not empty. On an error the sequence is as before.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.evaluate(tokens, Want::Logits)?;
        Ok(&self.logits)
    }

    /// As [`Self::prefill`], with the answer that is wanted; [`Want::Nothing`] gets the logits.
    pub fn prefill_for(&mut self, tokens: &[u32], want: Want) -> Result<Answer<'_>> {
        self.evaluate(tokens, if want == Want::Nothing { Want::Logits } else { want })?;
        Ok(if self.best.is_empty() { Answer::Logits(&self.logits) } else { Answer::Best(&self.best) })
    }

    fn evaluate(&mut self, tokens: &[u32], want: Want) -> Result<()> {
        let start = self.accelerator.positions(self.own);
        let rows = self.accelerator.batch_rows();
        let mut batch = Batch::new();
        self.best.clear();
        for (index, chunk) in tokens.chunks(rows).enumerate() {
            let last = (index + 1) * rows >= tokens.len();
            batch.clear();
            batch.push_all(self.own, chunk, if last { want } else { Want::Nothing });
            let (logits, best) = (&mut self.logits, &mut self.best);
            let outcome = self.accelerator.evaluate(&batch, &mut |_, answer| match answer {
                Answer::Logits(values) => {
                    logits.clear();
                    logits.extend_from_slice(values);
                }
                Answer::Best(candidates) => best.extend_from_slice(candidates),
                Answer::Hidden(_) => unreachable!("an engine passes no such want on to a device"),
            });
            outcome.inspect_err(|_| self.accelerator.truncate_to(self.own, start))?;
        }
        Ok(())
    }

    /// Passes the logits `[vocab]` of every one of `tokens` to `sink(index, logits)`, in order.
    pub fn logits_all(
        &mut self,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let rows = self.accelerator.batch_rows();
        let mut batch = Batch::new();
        for (number, chunk) in tokens.chunks(rows).enumerate() {
            batch.clear();
            chunk.iter().for_each(|token| batch.push(self.own, *token, Want::Logits));
            let mut outcome = Ok(());
            self.accelerator.evaluate(&batch, &mut |row, answer| {
                if let (Answer::Logits(values), true) = (answer, outcome.is_ok()) {
                    outcome = sink(number * rows + row, values);
                }
            })?;
            outcome?;
        }
        Ok(())
    }
}
