//! JSON schemas: compiled, and walked through by the rest of the input.

use crate::bases::tokenizers;
use crate::input::Input;
use bitnet_server::grammar::{Grammars, Next};
use std::sync::OnceLock;

/// Tokens that a walk takes at most.
const STEPS: usize = 48;

fn grammars() -> &'static Grammars {
    static GRAMMARS: OnceLock<Grammars> = OnceLock::new();
    GRAMMARS.get_or_init(|| Grammars::new(&tokenizers()[0]).expect("a committed vocabulary"))
}

/// A schema ended by 0xff, then choices of tokens.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let Ok(schema) = serde_json::from_slice::<serde_json::Value>(input.piece()) else { return };
    let mut grammar = match grammars().json_schema(schema) {
        Ok(grammar) => grammar,
        Err(problem) => return assert!(!problem.is_empty()),
    };
    let tokenizer = &tokenizers()[0];
    let mut text = Vec::new();
    for _ in 0..STEPS {
        let mut logits = vec![0f32; tokenizer.vocab_size()];
        match grammar.mask(&mut logits) {
            Err(_) => return,
            Ok(Next::End) => return complete(&text),
            Ok(Next::Token) => {}
        }
        let allowed: Vec<u32> =
            logits.iter().zip(0..).filter(|(logit, _)| **logit == 0.0).map(|(_, id)| id).collect();
        let token = allowed[input.below(allowed.len())];
        if tokenizer.is_end_of_generation(token) {
            return complete(&text);
        }
        assert!((token as usize) < tokenizer.real_vocab_size(), "padding is never allowed");
        text.extend(tokenizer.token_bytes(token));
        match grammar.accept(token) {
            Err(_) => return,
            Ok(Next::End) => return complete(&text),
            Ok(Next::Token) => {}
        }
    }
}

fn complete(text: &[u8]) {
    let read = serde_json::from_slice::<serde::de::IgnoredAny>(text);
    assert!(read.is_ok(), "{:?} is complete and no JSON", String::from_utf8_lossy(text));
}
