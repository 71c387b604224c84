//! Tokens back to text, one at a time, without ever splitting a UTF-8 character.
//!
//! In: token ids in order. Out: the text that is certain by now; bytes of an unfinished character wait for the
//! next token. Bytes that can never become a character turn into U+FFFD, exactly as in a whole decode.

use super::vocab::Kind;
use super::{ControlTokens, TextPosition, Tokenizer};

/// Made by [`Tokenizer::stream`].
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    control: ControlTokens,
    /// The next text loses the space that SentencePiece put before it.
    strip_space: bool,
    pending: Vec<u8>,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, position: TextPosition, control: ControlTokens) -> Self {
        let strip_space = position == TextPosition::Start && tokenizer.adds_space_prefix();
        DecodeStream { tokenizer, control, strip_space, pending: Vec::new() }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    pub fn push(&mut self, id: u32) -> String {
        let mut bytes = self.tokenizer.token_bytes(id);
        if matches!(self.tokenizer.vocab.kind(id), Some(Kind::Control | Kind::Unknown)) {
            if self.control == ControlTokens::Hide {
                return String::new();
            }
        } else if std::mem::take(&mut self.strip_space) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.pending.extend_from_slice(bytes);
        let unfinished = unfinished_len(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - unfinished);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What was still waiting: U+FFFD for the start of a character that never came.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Bytes at the end that are a proper prefix of some character.
fn unfinished_len(bytes: &[u8]) -> usize {
    match bytes.utf8_chunks().last() {
        Some(chunk) if std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none()) => {
            chunk.invalid().len()
        }
        _ => 0,
    }
}
