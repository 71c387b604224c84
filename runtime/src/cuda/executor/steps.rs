//! How an executor evaluates decoding steps: single tokens by the persistent kernel, rows of several sequences by
//! [`crate::cuda::step`].
//!
//! In: rows with their places. Out: answers. Deliberately absent: every other batch (see the module above).

use super::{Executor, greedy_below};
use crate::Result;
use crate::cuda::decode::Step;
use crate::cuda::step;
use crate::engine::batch::Candidate;
use crate::engine::pages::SequenceId;
use crate::engine::{Answer, Want};

impl Executor {
    /// One token of one sequence by the persistent kernel; its normed state is left for the full head.
    pub(super) fn single(
        &mut self,
        id: SequenceId,
        token: u32,
        position: usize,
        count: usize,
        below: usize,
    ) -> Result<()> {
        let plan = self.plan.as_mut().expect("the caller has looked");
        let step = Step {
            device: &self.device,
            kernels: &self.kernels,
            model: &self.model,
            cache: self.buffers.cache,
            normed: self.buffers.normed_address(),
        };
        plan.launch(&step, self.table.pages(id), token, position, count, below)
    }

    /// Launches `count` steps of `rows`, which are staged first: one, or several of one row if they are chained.
    pub(super) fn launch_steps(
        &mut self,
        rows: &[(SequenceId, u32)],
        places: &[(SequenceId, usize)],
        count: usize,
        answer: step::Answer,
    ) -> Result<()> {
        let steps = self.steps.as_mut().expect("the caller has looked");
        let on = step::On {
            device: &self.device,
            kernels: &self.kernels,
            model: &self.model,
            buffers: &self.buffers,
        };
        let table = &self.table;
        let staged = rows.iter().zip(places);
        steps.stage(&self.device, staged.map(|((id, token), (_, at))| (*token, *at, table.pages(*id))))?;
        let positions = places.iter().map(|(_, position)| position + count).max().unwrap_or(1);
        (0..count).try_for_each(|_| steps.launch(&on, rows.len(), positions, answer))
    }

    pub(super) fn on(&self) -> step::On<'_> {
        step::On { device: &self.device, kernels: &self.kernels, model: &self.model, buffers: &self.buffers }
    }

    /// Whether rows, each at its place, are a decoding step: one token each of sequences that differ.
    pub(super) fn is_step(&self, places: &[(SequenceId, usize)]) -> bool {
        let on = self.on();
        let positions = places.iter().map(|(_, position)| position + 1).max().unwrap_or(1);
        let differ =
            |(i, place): (usize, &(SequenceId, usize))| places[..i].iter().all(|(id, _)| *id != place.0);
        self.steps.as_ref().is_some_and(|steps| steps.take(&on, places.len(), positions))
            && places.iter().enumerate().all(differ)
    }

    /// Evaluates rows as one step and answers them: all are wanted, or the only one is not.
    pub(super) fn answer_step(
        &mut self,
        rows: &[(SequenceId, u32)],
        places: &[(SequenceId, usize)],
        wanted: &[(usize, Want)],
        answer: &mut dyn FnMut(usize, Answer<'_>),
    ) -> Result<()> {
        let single = rows.len() == 1 && self.plan.is_some();
        if let (Some(below), false) = (greedy_below(wanted), single) {
            let below = below.min(self.model.vocab);
            self.launch_steps(rows, places, 1, step::Answer::Best { below })?;
            for ((row, _), (id, logit)) in wanted.iter().zip(self.chosen(rows.len(), 1)?) {
                answer(*row, Answer::Best(&[Candidate { id, logit }]));
            }
            return Ok(());
        }
        if single {
            self.single(rows[0].0, rows[0].1, places[0].1, 0, self.model.vocab)?;
        } else {
            self.launch_steps(rows, places, 1, step::Answer::Normed)?;
        }
        if wanted.is_empty() {
            return self.device.synchronize();
        }
        self.forward().head_of_normed(rows.len())?;
        if let Some(below) = greedy_below(wanted) {
            self.forward().choose(1, below.min(self.model.vocab))?;
            let mut best = [0u32; 2];
            self.device.read(&self.buffers.pairs, 0, &mut best)?;
            let best = Candidate { id: best[1], logit: f32::from_bits(best[0]) };
            answer(wanted[0].0, Answer::Best(&[best]));
            return Ok(());
        }
        let vocab = self.model.vocab;
        self.read_logits(rows.len())?;
        for ((row, _), logits) in wanted.iter().zip(self.logits.chunks_exact(vocab)) {
            answer(*row, Answer::Logits(logits));
        }
        Ok(())
    }

    /// What the last `count` steps of `m` rows chose.
    pub(super) fn chosen(&self, m: usize, count: usize) -> Result<Vec<(u32, f32)>> {
        self.steps.as_ref().expect("the caller has looked").chosen(&self.device, m, count)
    }
}
