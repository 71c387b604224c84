//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`): words of the pre-tokenizer, merged by rank.
//!
//! Bytes become tokens, then the merges of the file apply in order of rank within each word. Where a merge names
//! a text that the vocabulary lacks it can never produce a token, so it is left out (and counted).

use super::merge::{Merged, Merger, Symbol};
use super::pre::{PreRow, PreTokenizer};
use super::vocab::{Vocab, char_of_byte};

pub(super) struct Bpe {
    pre: PreTokenizer,
    ignore_merges: bool,
    chars: [char; 256],
    byte_ids: [Option<u32>; 256],
    merges: Merges,
    /// Merges left out because the vocabulary lacks one of their texts.
    pub(super) unusable_merges: usize,
}

impl Bpe {
    pub(super) fn new(vocab: &Vocab, merges: &[String], row: &PreRow) -> Bpe {
        let chars = char_of_byte();
        let byte_ids = chars.map(|c| vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes()));
        let mut pairs = Vec::with_capacity(merges.len());
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
                pairs.push((l, r, Merged { rank: rank as u32, id }));
            }
        }
        let table = Merges::new(pairs, vocab.len());
        let unusable_merges = merges.len() - table.rights.len();
        let pre = PreTokenizer::new(row);
        Bpe { pre, ignore_merges: row.ignore_merges, chars, byte_ids, merges: table, unusable_merges }
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
            let pair = |l: &Symbol, r: &Symbol| self.merges.get(l.id, r.id);
            out.extend(merger.merge(pair).map(|symbol| symbol.id));
        }
        Ok(())
    }
}

/// What pairs of tokens merge into: a sorted list of right tokens for every left one. Most pairs of a text have no merge, and
/// most of those a left token with few; no choice of ids makes it slow, as it could make a table by hash.
struct Merges {
    /// The merges of left token `l` are `starts[l]..starts[l + 1]`.
    starts: Vec<u32>,
    rights: Vec<(u32, Merged)>,
}

impl Merges {
    /// `pairs` are left, right and what they give, by rank; of a pair that comes twice the first counts.
    fn new(mut pairs: Vec<(u32, u32, Merged)>, tokens: usize) -> Merges {
        pairs.sort_by_key(|&(left, right, _)| (left, right));
        pairs.dedup_by_key(|&mut (left, right, _)| (left, right));
        let mut starts = vec![0; tokens + 1];
        for (left, ..) in &pairs {
            starts[*left as usize + 1] += 1;
        }
        for left in 0..tokens {
            starts[left + 1] += starts[left];
        }
        Merges { starts, rights: pairs.into_iter().map(|(_, right, merged)| (right, merged)).collect() }
    }

    fn get(&self, left: u32, right: u32) -> Option<Merged> {
        let of_left = self.starts[left as usize] as usize..self.starts[left as usize + 1] as usize;
        let of_left = &self.rights[of_left];
        let found = of_left.binary_search_by_key(&right, |(right, _)| *right).ok()?;
        Some(of_left[found].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_its_first_merge_and_others_have_none() {
        let pairs = [(2, 1, 0, 7), (0, 3, 1, 8), (2, 0, 2, 9), (2, 1, 3, 10)];
        let pairs = pairs.map(|(left, right, rank, id)| (left, right, Merged { rank, id }));
        let merges = Merges::new(pairs.into(), 4);
        let get = |left, right| merges.get(left, right).map(|merged| (merged.rank, merged.id));
        assert_eq!(merges.rights.len(), 3);
        assert_eq!([get(2, 1), get(0, 3), get(2, 0)], [Some((0, 7)), Some((1, 8)), Some((2, 9))]);
        assert_eq!([get(0, 0), get(1, 2), get(3, 3), get(2, 2)], [None; 4]);
    }
}
