//! An engine that panics or waits on purpose.

use bitnet_runtime::Result;
use bitnet_runtime::engine::pages::{PageUse, SequenceId};
use bitnet_runtime::engine::{Answer, Batch, Sequences};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Panics at one token, and once; waits for whoever holds the gate.
pub struct Faulty {
    pub engine: Box<dyn Sequences>,
    pub bad: Option<u32>,
    pub once: Arc<AtomicBool>,
    pub gate: Arc<Mutex<()>>,
}

impl Sequences for Faulty {
    fn vocab_size(&self) -> usize {
        self.engine.vocab_size()
    }
    fn context(&self) -> usize {
        self.engine.context()
    }
    fn batch_rows(&self) -> usize {
        self.engine.batch_rows()
    }
    fn page_use(&self) -> PageUse {
        self.engine.page_use()
    }
    fn open(&mut self) -> SequenceId {
        self.engine.open()
    }
    fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        self.engine.fork(id, positions)
    }
    fn close(&mut self, id: SequenceId) {
        self.engine.close(id);
    }
    fn positions(&self, id: SequenceId) -> usize {
        self.engine.positions(id)
    }
    fn truncate_to(&mut self, id: SequenceId, positions: usize) {
        self.engine.truncate_to(id, positions);
    }
    fn shift(&mut self, id: SequenceId, keep: usize, discard: usize) -> Result<()> {
        self.engine.shift(id, keep, discard)
    }
    fn evaluate(&mut self, batch: &Batch, answer: &mut dyn FnMut(usize, Answer<'_>)) -> Result<()> {
        drop(self.gate.lock());
        assert!(!batch.rows().iter().any(|row| Some(row.token) == self.bad), "planted at a token");
        self.engine.evaluate(batch, answer)?;
        // After all was answered.
        assert!(!self.once.swap(false, Ordering::Relaxed), "planted once");
        Ok(())
    }
}
