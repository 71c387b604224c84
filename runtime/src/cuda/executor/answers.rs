//! How hidden states become answers: the head, the choice, logits brought to the host from all devices of a team.
//!
//! In: rows of hidden states in the buffers. Out: candidates or logits. Deliberately absent: layers.

use super::{Executor, LOGITS_ROWS, greedy_below};
use crate::Result;
use crate::engine::batch::Candidate;
use crate::engine::{Answer, Want};

impl Executor {
    /// Answers rows `wanted` of the hidden states, whose batch started a launch before.
    pub(super) fn answer(
        &mut self,
        wanted: &[(usize, Want)],
        already: bool,
        answer: &mut dyn FnMut(usize, Answer<'_>),
    ) -> Result<()> {
        let vocab = self.model.vocab;
        let mut index = 0;
        while index < wanted.len() {
            // Consecutive rows go through the head together.
            let first = wanted[index].0;
            let most = LOGITS_ROWS.min(wanted.len() - index);
            let count = (0..most).take_while(|i| wanted[index + i].0 == first + i).count();
            if !already {
                self.forward().head(first, count)?;
            }
            let rows = &wanted[index..index + count];
            let below = greedy_below(rows).map(|below| below.min(vocab));
            if let (Some(below), false) = (below, already) {
                self.forward().choose(count, below)?;
            }
            match below {
                Some(below) if !already || below == vocab => {
                    let mut best = vec![0u32; 2 * count];
                    self.device.read(&self.buffers.pairs, 0, &mut best)?;
                    for ((row, _), pair) in rows.iter().zip(best.chunks_exact(2)) {
                        let best = Candidate { id: pair[1], logit: f32::from_bits(pair[0]) };
                        answer(*row, Answer::Best(&[best]));
                    }
                }
                _ => {
                    self.read_logits(count)?;
                    for ((row, _), logits) in rows.iter().zip(self.logits.chunks_exact(vocab)) {
                        answer(*row, Answer::Logits(logits));
                    }
                }
            }
            index += count;
        }
        Ok(())
    }

    /// Brings the logits [count, vocab] here, from all devices.
    pub(super) fn read_logits(&mut self, count: usize) -> Result<()> {
        let (vocab, shard) = (self.model.vocab, &self.model.shard);
        if self.team.is_none() {
            self.logits.resize(count * vocab, 0.0);
            return self.device.read(&self.buffers.logits, 0, &mut self.logits);
        }
        self.forward().gather_logits(count)?;
        if shard.rank > 0 {
            // Only the first rank answers.
            self.logits.clear();
            return self.device.synchronize();
        }
        let mut all = vec![0u32; shard.ranks * count * shard.vocab.slice];
        self.device.read(&self.buffers.all_logits, 0, &mut all)?;
        self.logits.clear();
        for row in 0..count {
            for (rank, part) in all.chunks_exact(count * shard.vocab.slice).enumerate() {
                let columns = shard.vocab.columns(rank);
                self.logits.extend(part[row * columns..][..columns].iter().map(|bits| f32::from_bits(*bits)));
            }
        }
        Ok(())
    }
}
