//! One answer on its way: its tokens, how many of them are in the cache, and what becomes of the next one.
//!
//! In: answers of the engine. Out: events. The tokens are the truth: a slot that lost its sequence evaluates them again
//! and goes on with the same bits, since a row never depends on how it was batched. Deliberately absent: batches, pages.

use super::job::{Event, Failure, Job, Piece, Task, TokenLogprob};
use crate::grammar::{Grammar, Next};
use bitnet_runtime::engine::pages::SequenceId;
use bitnet_runtime::engine::{Answer, Want};
use bitnet_runtime::generate::{AtEndOfSequence, FinishReason, StopMachine, TokenClass};
use bitnet_runtime::sampling::Sampler;
use bitnet_runtime::tokenizer::{ControlTokens, DecodeStream, TextPosition, Tokenizer};
use std::rc::Rc;
use std::time::Instant;

pub struct Slot<'t> {
    pub job: Rc<Job>,
    pub choice: usize,
    /// Choices of one job share this number.
    pub group: u64,
    /// The prompt and what was chosen.
    pub tokens: Vec<u32>,
    /// `None` before the first batch, and after its pages were taken away.
    pub sequence: Option<SequenceId>,
    /// How many of the tokens the sequence holds.
    pub evaluated: usize,
    /// Whole pages that were shared when the sequence was made.
    pub shared_pages: usize,
    /// Its pages were taken away: it waits for others to end.
    pub paused: bool,
    /// It was in a batch in which the engine failed, and is evaluated alone until that is known to be not its fault.
    pub suspect: bool,
    /// When its first token was chosen.
    pub first: Option<Instant>,
    /// What the last batch gave it.
    pub outcome: Option<Result<Chosen, Failure>>,
    sampler: Sampler,
    grammar: Option<Grammar>,
    machine: Option<StopMachine>,
    stream: Option<DecodeStream<'t>>,
    held: Held,
    vocab: usize,
}

/// What was chosen from the logits.
pub struct Chosen {
    /// `None` where the grammar lets nothing follow, and where nothing was to.
    token: Option<u32>,
    logprob: Option<TokenLogprob>,
}

/// Logprobs of tokens whose text is not final, with where it begins.
#[derive(Default)]
struct Held {
    logprobs: Vec<(usize, TokenLogprob)>,
    /// Bytes of text that were decoded and that were sent.
    decoded: usize,
    shown: usize,
}

/// Whether a slot goes on.
#[derive(Debug, PartialEq)]
pub enum Progress {
    GoesOn,
    Ended(Option<FinishReason>),
}

impl<'t> Slot<'t> {
    /// # Errors
    /// Sampling settings or stop strings that are no good; both were checked before the job was made.
    pub fn new(
        job: Rc<Job>,
        choice: usize,
        group: u64,
        tokenizer: &'t Tokenizer,
    ) -> bitnet_runtime::Result<Self> {
        let mut sampling = job.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(choice as u64);
        let mut sampler = Sampler::new(sampling, tokenizer.real_vocab_size())?;
        job.prompt.iter().for_each(|token| sampler.accept(*token));
        Ok(Slot {
            choice,
            group,
            tokens: job.prompt.clone(),
            sequence: None,
            evaluated: 0,
            shared_pages: 0,
            paused: false,
            suspect: false,
            first: None,
            outcome: None,
            sampler,
            grammar: job.grammar.clone(),
            machine: Some(StopMachine::new(job.rules.clone())?),
            stream: Some(tokenizer.stream(TextPosition::Continuation, ControlTokens::Hide)),
            held: Held::default(),
            vocab: tokenizer.real_vocab_size(),
            job,
        })
    }

    /// Tokens to evaluate before the next one can be chosen.
    pub fn pending(&self) -> &[u32] {
        &self.tokens[self.evaluated..]
    }

    /// Tokens that were chosen.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.job.prompt.len()
    }

    pub fn want(&self) -> Want {
        if self.job.task == Task::Embed {
            return Want::Hidden;
        }
        let all = self.job.logprobs.is_some() || self.grammar.is_some() || !self.job.bias.is_empty();
        if all { Want::Logits } else { self.sampler.want() }
    }

    /// Whether there is nothing to choose at all.
    pub fn ends_at_once(&self) -> Option<FinishReason> {
        self.machine.as_ref().and_then(StopMachine::before_first)
    }

    /// Chooses the next token. `scratch` is memory for logits.
    pub fn choose(&mut self, answer: Answer<'_>, scratch: &mut Vec<f32>) -> Result<Chosen, Failure> {
        let failed = |error: bitnet_runtime::Error| Failure::Engine(error.to_string());
        if let Answer::Hidden(values) = answer {
            let choice = self.job.first_choice + self.choice;
            // Who is gone needs no values.
            let _ = self.job.events.send(Event::Embedding { choice, values: values.to_vec() });
            return Ok(Chosen { token: None, logprob: None });
        }
        let Answer::Logits(logits) = answer else {
            let token = self.sampler.choose(answer).map_err(failed)?;
            self.sampler.accept(token);
            return Ok(Chosen { token: Some(token), logprob: None });
        };
        let mut given = logits;
        if self.grammar.is_some() || !self.job.bias.is_empty() {
            scratch.clear();
            scratch.extend_from_slice(logits);
            for (id, bias) in &self.job.bias {
                if let Some(logit) = scratch.get_mut(*id as usize) {
                    *logit += bias;
                }
            }
            if let Some(grammar) = &mut self.grammar
                && grammar.mask(scratch).map_err(Failure::Grammar)? == Next::End
            {
                return Ok(Chosen { token: None, logprob: None });
            }
            given = scratch;
        }
        let token = self.sampler.sample(given).map_err(failed)?;
        self.sampler.accept(token);
        let logprob =
            self.job.logprobs.map(|top| logprobs(&logits[..logits.len().min(self.vocab)], token, top));
        Ok(Chosen { token: Some(token), logprob })
    }

    /// Takes the chosen token, sends what may be shown.
    pub fn take(
        &mut self,
        chosen: Chosen,
        context: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Progress, Failure> {
        let Some(token) = chosen.token else { return Ok(self.end(None)) };
        let (machine, stream) = match (&mut self.machine, &mut self.stream) {
            (Some(machine), Some(stream)) => (machine, stream),
            _ => return Ok(Progress::Ended(None)),
        };
        self.first.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        let class = match self.job.at_end_of_sequence {
            AtEndOfSequence::Stop if tokenizer.is_end_of_generation(token) => TokenClass::EndOfSequence,
            _ => TokenClass::Text,
        };
        let is_end = machine.ends_at(token, class).is_some();
        let text = if is_end { String::new() } else { stream.push(token) };
        let mut shown = String::new();
        let mut finish = machine.push(token, class, &text, &mut shown);
        if let Some(grammar) = self.grammar.as_mut().filter(|_| !is_end)
            && grammar.accept(token).map_err(Failure::Grammar)? == Next::End
            && finish.is_none()
        {
            return Ok(self.show_and_end(shown, None));
        }
        if let Some(logprob) = chosen.logprob.filter(|_| !is_end) {
            self.held.logprobs.push((self.held.decoded, logprob));
        }
        self.held.decoded += text.len();
        if finish.is_none() && self.tokens.len() > context {
            finish = Some(FinishReason::ContextFull);
        }
        if finish.is_some() {
            return Ok(self.show_and_end(shown, finish));
        }
        self.send(shown);
        Ok(Progress::GoesOn)
    }

    /// Sends the end: text that was held back, then the reason; none where the grammar is complete.
    pub fn end(&mut self, reason: Option<FinishReason>) -> Progress {
        self.show_and_end(String::new(), reason)
    }

    fn show_and_end(&mut self, mut shown: String, reason: Option<FinishReason>) -> Progress {
        let tail = self.stream.take().map(DecodeStream::finish).unwrap_or_default();
        if let Some(machine) = self.machine.take() {
            machine.finish(&tail, &mut shown);
        }
        self.send(shown);
        let tokens = self.generated();
        let of_grammar = FinishReason::StopString { string: String::new() };
        let event = Event::Finished {
            choice: self.job.first_choice + self.choice,
            reason: reason.clone().unwrap_or(of_grammar),
            tokens,
        };
        // Who is gone needs no end.
        let _ = self.job.events.send(event);
        Progress::Ended(reason)
    }

    fn send(&mut self, text: String) {
        self.held.shown += text.len();
        let shown = self.held.shown;
        let is_shown = |(start, _): &mut (usize, TokenLogprob)| *start < shown;
        let logprobs: Vec<_> =
            self.held.logprobs.extract_if(.., is_shown).map(|(_, logprob)| logprob).collect();
        if text.is_empty() && logprobs.is_empty() {
            return;
        }
        // Who is gone is found out by the sweep before the next batch.
        let choice = self.job.first_choice + self.choice;
        let _ = self.job.events.send(Event::Piece { choice, piece: Piece { text, logprobs } });
    }
}

/// log softmax of `token` and of the `top` best, over all logits.
fn logprobs(logits: &[f32], token: u32, top: usize) -> TokenLogprob {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
    let log_sum = f64::from(best) + sum.ln();
    let of = |id: u32| (f64::from(logits[id as usize]) - log_sum) as f32;
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let top = top.min(ids.len());
    if top > 0 {
        ids.select_nth_unstable_by(top - 1, order);
    }
    ids.truncate(top);
    ids.sort_unstable_by(order);
    TokenLogprob { id: token, logprob: of(token), top: ids.into_iter().map(|id| (id, of(id))).collect() }
}
