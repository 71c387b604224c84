//! SentencePiece vocabularies (`tokenizer.ggml.model` = `llama`): characters merged by token score.
//!
//! Any two neighbours whose joined text is a token may merge, best score first. What is no token in the end is
//! spelled in byte tokens `<0x00>` to `<0xFF>`. Spaces are U+2581; a space is put before the text where the file
//! asks for it. Deliberately absent: normalization tables (`precompiled_charsmap`), which llama models lack.

use super::merge::{Merged, Merger, NONE, Symbol};
use super::vocab::Vocab;
use crate::error::{Error, Result};
use std::path::Path;

pub(super) struct Spm {
    /// Position of each token's score, best first; equal scores share a rank.
    ranks: Vec<u32>,
    byte_ids: [Option<u32>; 256],
    unknown: Option<u32>,
    /// A space goes before text at the start and after a special token.
    pub(super) space_prefix: bool,
}

impl Spm {
    pub(super) fn new(
        vocab: &Vocab,
        scores: &[f32],
        unknown: Option<u32>,
        space_prefix: bool,
        path: &Path,
    ) -> Result<Spm> {
        if scores.len() != vocab.len() {
            let what =
                format!("{} tokens but {} entries in tokenizer.ggml.scores", vocab.len(), scores.len());
            return Err(Error::unsupported(path, what, "convert the model again: one score per token"));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            let what = format!("the score of token {id} in tokenizer.ggml.scores is not a number");
            return Err(Error::unsupported(path, what, "convert the model again"));
        }
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let mut ranks = vec![0; scores.len()];
        for pair in order.windows(2) {
            let (better, id) = (pair[0] as usize, pair[1] as usize);
            ranks[id] = ranks[better] + u32::from(scores[better] != scores[id]);
        }
        let byte_ids = std::array::from_fn(|byte| {
            vocab.id(format!("<0x{byte:02X}>").as_bytes()).or_else(|| vocab.id(&[byte as u8]))
        });
        Ok(Spm { ranks, byte_ids, unknown, space_prefix })
    }

    /// Appends the tokens of `text`, with a space before it where `prefixed`; `Err` is a byte without a token.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<(), u8> {
        let escaped = text.replace(' ', "\u{2581}");
        let text = escaped.as_bytes();
        let mut merger = Merger::default();
        for c in escaped.chars() {
            let id = vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes()).unwrap_or(NONE);
            merger.push(id, c.len_utf8() as u32);
        }
        let pair = |left: &Symbol, right: &Symbol| {
            let id = vocab.id(&text[left.start as usize..right.end as usize])?;
            Some(Merged { rank: self.ranks[id as usize], id })
        };
        for symbol in merger.merge(pair) {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            let bytes = &text[symbol.start as usize..symbol.end as usize];
            match bytes
                .iter()
                .map(|byte| self.byte_ids[*byte as usize].ok_or(*byte))
                .collect::<Result<Vec<_>, _>>()
            {
                Ok(ids) => out.extend(ids),
                Err(byte) => out.push(self.unknown.ok_or(byte)?),
            }
        }
        Ok(())
    }
}
