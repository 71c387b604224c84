//! A conversation and the engine that answers it.
//!
//! Every answer renders the whole conversation and evaluates only what differs from the positions that the engine has in use,
//! so a question costs its own tokens and an edit costs what it changed. What does not fit into the context is
//! dealt with here: the oldest exchanges are left out, and an answer that runs past the end drops the oldest half.

use super::file;
use crate::prompt;
use bitnet_runtime::chat::{ChatTemplate, Message, Role};
use bitnet_runtime::engine::Engine;
use bitnet_runtime::generate::{self, AtEndOfSequence, FinishReason, Overflow, Request, StopRules, Timings};
use bitnet_runtime::sampling::{Sampler, SamplingParams};
use bitnet_runtime::tokenizer::Tokenizer;
use bitnet_runtime::{Error, Result};

/// Positions that an answer should have at least, where the context is large enough.
const ROOM: usize = 256;

pub struct Session {
    /// Of the conversation, in files.
    pub id: String,
    pub engine: Engine,
    pub params: SamplingParams,
    /// The seed was given: answering again gives the same.
    pub fixed_seed: bool,
    /// Empty for none.
    pub system: String,
    pub messages: Vec<Message>,
    /// Texts that end an answer, besides those of the template.
    pub stop: Vec<String>,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    max_tokens: usize,
    /// The tokens of the positions in use.
    evaluated: Vec<u32>,
}

/// What an answer was.
pub struct Answered {
    pub finish: FinishReason,
    /// Sampled.
    pub tokens: usize,
    /// Whether the oldest positions were dropped along the way.
    pub shifted: bool,
    /// Of the prompt: all, and those that were in use already.
    prompt: usize,
    reused: usize,
    timings: Timings,
}

impl Answered {
    pub fn numbers(&self) -> String {
        let rate = |n: usize, seconds: f64| {
            if n > 0 && seconds > 0.0 { format!("{:.1}", n as f64 / seconds) } else { "-".into() }
        };
        format!(
            "prompt: {} tokens, {} of them evaluated before, {} tokens/s; answer: {} tokens, {} tokens/s",
            self.prompt,
            self.reused,
            rate(self.prompt - self.reused, self.timings.prompt.as_secs_f64()),
            self.tokens,
            rate(self.timings.decoded, self.timings.decode.as_secs_f64())
        )
    }
}

impl Session {
    pub fn new(
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        params: SamplingParams,
        max_tokens: usize,
    ) -> Self {
        Session {
            id: file::new_id(),
            engine,
            params,
            fixed_seed: false,
            system: String::new(),
            messages: Vec::new(),
            stop: Vec::new(),
            tokenizer,
            template,
            max_tokens,
            evaluated: Vec::new(),
        }
    }

    pub fn model_name(&self) -> String {
        let gguf = self.engine.gguf();
        let named = gguf.opt_str("general.name").ok().flatten().map(str::to_owned);
        named.unwrap_or_else(|| gguf.path().display().to_string())
    }

    pub fn push(&mut self, role: Role, text: &str) {
        self.messages.push(Message::new(role, text));
    }

    /// Forgets the messages; the system message stays.
    pub fn clear(&mut self) {
        self.id = file::new_id();
        self.messages.clear();
    }

    /// # Errors
    /// Nothing was asked yet.
    pub fn last_question(&self) -> Result<&str> {
        let last = self.messages.iter().rfind(|message| message.role == Role::User);
        last.map(|message| message.content.as_str())
            .ok_or_else(|| Error::usage("nothing was asked yet", "write a message first"))
    }

    /// Takes the last answer back, so that its question is the last message.
    ///
    /// # Errors
    /// Nothing was asked yet.
    pub fn drop_answer(&mut self) -> Result<()> {
        self.last_question()?;
        self.messages.pop_if(|message| message.role == Role::Assistant);
        Ok(())
    }

    /// Takes the last question back, with its answer.
    pub fn drop_question(&mut self) {
        self.messages.pop_if(|message| message.role == Role::Assistant);
        self.drop_unanswered();
    }

    /// Takes a question without an answer back.
    pub fn drop_unanswered(&mut self) {
        self.messages.pop_if(|message| message.role == Role::User);
    }

    /// Answers the last message, which is a question, and adds the answer to the conversation. `dropped` hears how many of the oldest
    /// messages did not fit; `show` gets the text as it is made.
    ///
    /// # Errors
    /// A question that does not fit into the context on its own, what a template refuses, what `show` returns.
    pub fn answer(
        &mut self,
        dropped: &mut dyn FnMut(usize),
        show: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let (prompt, left_out) = self.fitting()?;
        if left_out > 0 {
            dropped(left_out);
        }
        let same = self.evaluated.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        // The last token is always evaluated: its logits choose the first of the answer.
        let reused = same.min(prompt.len() - 1);
        self.engine.truncate(reused);
        self.evaluated.truncate(reused);
        let mut sampler = Sampler::new(self.params.clone(), self.tokenizer.real_vocab_size())?;
        prompt[..reused].iter().for_each(|token| sampler.accept(*token));
        let strings =
            self.template.stop_texts().iter().map(|text| text.to_string()).chain(self.stop.iter().cloned());
        let request = Request {
            prompt: &prompt[reused..],
            rules: StopRules {
                token_ids: Vec::new(),
                max_tokens: self.max_tokens,
                strings: strings.collect(),
            },
            at_end_of_sequence: AtEndOfSequence::Stop,
            prompt_lookup: 0,
            overflow: Overflow::Shift { keep: self.kept(&prompt) },
        };
        let (engine, tokenizer) = (&mut self.engine, &self.tokenizer);
        let made = generate::generate(engine, tokenizer, &mut sampler, request, show);
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                self.forget();
                return Err(error);
            }
        };
        let shifted = prompt.len() + made.timings.decoded > self.engine.context();
        if shifted {
            self.forget();
        } else {
            self.evaluated = prompt.iter().chain(&made.tokens).copied().collect();
            self.evaluated.truncate(self.engine.position());
        }
        self.push(Role::Assistant, made.text.trim());
        Ok(Answered {
            finish: made.finish,
            tokens: made.tokens.len(),
            shifted,
            prompt: prompt.len(),
            reused,
            timings: made.timings,
        })
    }

    fn forget(&mut self) {
        self.engine.reset();
        self.evaluated.clear();
    }

    /// The prompt, and how many of the oldest messages it leaves out so that an answer has room.
    fn fitting(&self) -> Result<(Vec<u32>, usize)> {
        let context = self.engine.context();
        let room = ROOM.min(context / 4).min(self.max_tokens).max(1);
        let mut first = 0;
        loop {
            let prompt = self.encode(&self.messages[first..])?;
            if prompt.len() + room <= context {
                return Ok((prompt, first));
            }
            if first + 2 >= self.messages.len() {
                return Err(Error::limit(
                    format!("the question has {} tokens, and the context {context}", prompt.len()),
                    "ask in fewer words, or give a larger --ctx-size",
                ));
            }
            // A question and its answer.
            first += 2;
        }
    }

    /// How many positions at the start are the system message's.
    fn kept(&self, prompt: &[u32]) -> usize {
        if self.system.is_empty() {
            return 1;
        }
        // What two prompts have in common before their questions; a template that refuses this one keeps BOS alone.
        let other = self.encode(&[Message::new(Role::User, "?")]).unwrap_or_default();
        let same = prompt.iter().zip(&other).take_while(|(a, b)| a == b).count();
        same.clamp(1, (self.engine.context() / 2).max(1))
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let system = (!self.system.is_empty()).then(|| Message::new(Role::System, self.system.as_str()));
        let messages: Vec<Message> = system.into_iter().chain(messages.iter().cloned()).collect();
        prompt::encode_messages(&self.template, &messages, &self.tokenizer)
    }
}
