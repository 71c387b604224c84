//! What a request is to the scheduler, and what it gets back.
//!
//! In: token ids, rules and a place to send events to. Out: pieces of text per choice, a reason to end per choice, or one
//! failure for all of them. A receiver that is dropped cancels the job. Deliberately absent: HTTP, JSON, messages.

use crate::grammar::Grammar;
use bitnet_runtime::generate::{AtEndOfSequence, FinishReason, StopRules};
use bitnet_runtime::sampling::SamplingParams;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// Who asks, for fair turns: an API key or an address, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client(pub u64);

/// What is made of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Text that follows.
    Answer,
    /// The final hidden state of its last token.
    Embed,
}

pub struct Job {
    pub client: Client,
    pub task: Task,
    /// At least one token, fewer than the context has positions.
    pub prompt: Vec<u32>,
    /// Independent answers to the prompt; number `i` is sampled with the seed plus `i`.
    pub choices: usize,
    /// The number under which events name the first of them.
    pub first_choice: usize,
    pub sampling: SamplingParams,
    pub rules: StopRules,
    pub at_end_of_sequence: AtEndOfSequence,
    /// Report the logarithm of the probability of every token, and of so many best ones.
    pub logprobs: Option<usize>,
    /// Added to the logits of these ids.
    pub bias: Vec<(u32, f32)>,
    /// What the text must match.
    pub grammar: Option<Grammar>,
    pub submitted: Instant,
    pub deadline: Instant,
    /// Never full: what it may hold is bounded by the maximum of tokens.
    pub events: UnboundedSender<Event>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is about to be evaluated; so many of its first tokens need not be.
    Started {
        cached: usize,
    },
    Piece {
        choice: usize,
        piece: Piece,
    },
    /// What [`Task::Embed`] asked for; [hidden].
    Embedding {
        choice: usize,
        values: Vec<f32>,
    },
    /// Nothing follows for this choice.
    Finished {
        choice: usize,
        reason: FinishReason,
        tokens: usize,
    },
    /// Nothing follows at all.
    Failed(Failure),
}

/// Text that is final, and the tokens that it came from where logprobs were asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    pub text: String,
    pub logprobs: Vec<TokenLogprob>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprob: f32,
    /// Best first.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the request took longer than its deadline allows")]
    Deadline,
    #[error("the engine failed on this request: {0}")]
    Engine(String),
    #[error("{0}")]
    Grammar(String),
    #[error("the server is shutting down")]
    ShuttingDown,
}
