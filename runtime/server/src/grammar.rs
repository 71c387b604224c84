//! What a text must match, as masks over the tokens that may come next.
//!
//! In: a vocabulary and a JSON schema. Out: a [`Grammar`] that lowers the logits of all other tokens to nothing and follows
//! the tokens that were chosen. `llguidance` does the matching. Deliberately absent: schemas that name other documents.

mod limits;

use bitnet_runtime::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::sync::Arc;

/// Texts that stand for no characters begin with this byte, which is part of no UTF-8.
const CONTROL: u8 = 0xff;

/// Addresses, not memory: the library's stack grows with every `$ref` that leads to another.
const STACK: usize = 1 << 30;

/// Compiles schemas for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    ends: Vec<u32>,
}

/// One text on its way. A clone goes on independently.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// What the matcher takes for the end; beyond the vocabulary where the model has none.
    end: u32,
    /// Tokens that end generation.
    ends: Vec<u32>,
}

/// Whether the text may or must go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Token,
    /// The text is complete and nothing may follow.
    End,
}

impl Grammars {
    /// # Errors
    /// What the library says of the vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let vocab = tokenizer.real_vocab_size() as u32;
        let word = |id: u32| {
            let bytes = tokenizer.token_bytes(id);
            let control = tokenizer.is_control(id) || tokenizer.is_end_of_generation(id);
            if control { [&[CONTROL], bytes].concat() } else { bytes.to_vec() }
        };
        // One id beyond the vocabulary is the end where the model has none.
        let mut words: Vec<Vec<u8>> = (0..vocab).map(word).collect();
        words.push(vec![CONTROL, b'e', b'n', b'd']);
        let ends = tokenizer.end_of_generation().to_vec();
        let end = tokenizer.eos().or(ends.first().copied()).unwrap_or(vocab);
        let trie = TokTrie::from(&TokRxInfo::new(vocab + 1, end), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        factory.quiet();
        Ok(Grammars { factory, ends })
    }

    /// Any JSON object.
    ///
    /// # Errors
    /// As [`Self::json_schema`].
    pub fn json_object(&self) -> Result<Grammar, String> {
        self.json_schema(json!({ "type": "object" }))
    }

    /// Texts that `schema` describes, without white space between the parts.
    ///
    /// # Errors
    /// What is wrong with the schema, which part of it is not supported, or which limit it exceeds.
    pub fn json_schema(&self, schema: Value) -> Result<Grammar, String> {
        limits::check(&schema)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("bitnet-schema".into()).stack_size(STACK);
            let thread =
                thread.spawn_scoped(scope, || self.compile(schema)).map_err(|error| error.to_string())?;
            thread.join().unwrap_or_else(|_| Err("the schema is not understood".into()))
        })
    }

    fn compile(&self, mut schema: Value) -> Result<Grammar, String> {
        if let Some(object) = schema.as_object_mut() {
            object.entry("x-guidance").or_insert_with(|| json!({ "whitespace_flexible": false }));
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(error) => Err(first_line(&error)),
            None => Ok(Grammar {
                matcher,
                end: self.factory.tok_env().tok_trie().eos_token(),
                ends: self.ends.clone(),
            }),
        }
    }
}

impl Grammar {
    /// Lowers the logits of what may not come next to negative infinity.
    ///
    /// # Errors
    /// What the library says where it gives up.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<Next, String> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| first_line(&error.to_string()))?;
        let may_end = mask.is_allowed(self.end);
        let allowed = |id: u32| allows(&mask, id) || may_end && self.ends.contains(&id);
        let mut any = false;
        for (logit, id) in logits.iter_mut().zip(0..) {
            match allowed(id) {
                true => any = true,
                false => *logit = f32::NEG_INFINITY,
            }
        }
        Ok(if any { Next::Token } else { Next::End })
    }

    /// Goes on after `token`, which [`Self::mask`] has allowed and which does not end generation.
    ///
    /// # Errors
    /// What the library says where it does not follow.
    pub fn accept(&mut self, token: u32) -> Result<Next, String> {
        self.matcher.consume_token(token).map_err(|error| first_line(&error.to_string()))?;
        Ok(if self.matcher.is_stopped() { Next::End } else { Next::Token })
    }
}

fn allows(mask: &SimpleVob, id: u32) -> bool {
    (id as usize) < mask.len() && mask.is_allowed(id)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
