//! Splitting special tokens out of a text before anything else looks at it.
//!
//! In: text and the special tokens, longest first. Out: fragments, each a token or a piece of plain text.
//! Longer tokens win over shorter ones wherever they are, as in llama.cpp. Deliberately absent: the stripping of
//! white space around some tokens of BERT-like and Phi-3 models, which no supported architecture uses.

use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

/// Cuts `text` at every occurrence of the `special` texts, taken in the order given.
pub(super) fn split<'a>(text: &str, special: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<Fragment> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut fragments = vec![Fragment::Text(0..text.len())];
    for (id, needle) in special {
        let Ok(needle) = std::str::from_utf8(needle) else { continue };
        if !text.contains(needle) {
            continue;
        }
        let mut cut = Vec::with_capacity(fragments.len() + 2);
        for fragment in fragments {
            let Fragment::Text(range) = fragment else {
                cut.push(fragment);
                continue;
            };
            let mut start = range.start;
            for (at, _) in text[range.clone()].match_indices(needle) {
                let at = range.start + at;
                if at > start {
                    cut.push(Fragment::Text(start..at));
                }
                cut.push(Fragment::Token(id));
                start = at + needle.len();
            }
            if start < range.end {
                cut.push(Fragment::Text(start..range.end));
            }
        }
        fragments = cut;
    }
    fragments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_tokens_are_cut_out_first() {
        let special: [(u32, &[u8]); 3] = [(7, b"bcde"), (8, b"abc"), (9, b"f")];
        let cut = split("abcdeffx", special.into_iter());
        let expected = [
            Fragment::Text(0..1),
            Fragment::Token(7),
            Fragment::Token(9),
            Fragment::Token(9),
            Fragment::Text(7..8),
        ];
        assert_eq!(cut, expected);
        assert_eq!(split("", special.into_iter()), []);
    }
}
