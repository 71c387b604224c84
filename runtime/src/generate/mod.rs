//! Generation: a prompt in, sampled tokens and their text out, until a stop rule says so.

mod stop;

pub use stop::{FinishReason, StopMachine, StopRules, TokenClass};
