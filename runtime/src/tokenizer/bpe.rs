//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): words of the pre-tokenizer, merged by rank.
//!
//! Bytes become tokens, then the merges of the file apply in order of rank within each word. Where a merge names
//! a text that the vocabulary lacks it can never produce a token, so it is left out (and counted).

use super::merge::{Merged, Merger, Symbol};
use super::pre::{PreRow, PreTokenizer};
use super::vocab::{Vocab, char_of_byte};
use std::collections::HashMap;

pub(super) struct Bpe {
    pre: PreTokenizer,
    ignore_merges: bool,
    chars: [char; 256],
    byte_ids: [Option<u32>; 256],
    /// (left << 32 | right) to (rank, merged).
    merges: HashMap<u64, (u32, u32)>,
    /// Merges left out because the vocabulary lacks one of their texts.
    pub(super) unusable_merges: usize,
}

impl Bpe {
    pub(super) fn new(vocab: &Vocab, merges: &[String], row: &PreRow) -> Bpe {
        let chars = char_of_byte();
        let byte_ids = chars.map(|c| vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes()));
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut joined = Vec::new();
        for (rank, merge) in merges.iter().enumerate() {
            // The separator is the first space after the first byte: a text may begin with a space.
            let pair = merge.as_bytes();
            let Some(space) = pair.iter().skip(1).position(|b| *b == b' ').map(|at| at + 1) else { continue };
            let (left, right) = (&pair[..space], &pair[space + 1..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            if let (Some(l), Some(r), Some(id)) = (vocab.id(left), vocab.id(right), vocab.id(&joined)) {
                ranks.entry(key(l, r)).or_insert((rank as u32, id));
            }
        }
        let unusable_merges = merges.len() - ranks.len();
        let pre = PreTokenizer::new(row);
        Bpe { pre, ignore_merges: row.ignore_merges, chars, byte_ids, merges: ranks, unusable_merges }
    }

    /// Appends the tokens of `text`; `Err` is a byte that the vocabulary has no token for.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<(), u8> {
        let (mut merger, mut spelled) = (Merger::default(), String::new());
        for word in self.pre.split(text) {
            let word = &text.as_bytes()[word];
            if self.ignore_merges {
                spelled.clear();
                spelled.extend(word.iter().map(|byte| self.chars[*byte as usize]));
                if let Some(id) = vocab.id(spelled.as_bytes()) {
                    out.push(id);
                    continue;
                }
            }
            merger.clear();
            for &byte in word {
                merger.push(self.byte_ids[byte as usize].ok_or(byte)?, 1);
            }
            let pair = |l: &_, r: &_| self.pair(l, r);
            out.extend(merger.merge(pair).map(|symbol| symbol.id));
        }
        Ok(())
    }

    fn pair(&self, left: &Symbol, right: &Symbol) -> Option<Merged> {
        self.merges.get(&key(left.id, right.id)).map(|&(rank, id)| Merged { rank, id })
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}
