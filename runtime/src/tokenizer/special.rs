//! Splitting special tokens out of a text before anything else looks at it.
//!
//! In: text and the special tokens, longest first. Out: fragments, each a token or a piece of plain text.
//! Longer tokens win over shorter ones wherever they are, as in llama.cpp. Deliberately absent: the stripping of
//! white space around some tokens of BERT-like and Phi-3 models, which no supported architecture uses.

use std::collections::HashSet;
use std::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

/// Cuts `text` at every occurrence of the `special` texts, taken in the order given, the longest first. Beside one search
/// per special text it costs a step per occurrence, whatever the order and however many were cut out before.
pub(super) fn split<'a>(text: &str, special: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<Fragment> {
    // Of every byte the end of the token that has it, 0 where none does; empty until there is one.
    let mut taken: Vec<usize> = Vec::new();
    let (mut tokens, mut seen) = (Vec::new(), HashSet::new());
    for (id, needle) in special {
        let Ok(needle) = std::str::from_utf8(needle) else { continue };
        let Some(mut at) = text.find(needle) else { continue };
        if needle.is_empty() || !seen.insert(needle) {
            continue;
        }
        taken.resize(text.len(), 0);
        loop {
            let end = at + needle.len();
            // What was cut out before is as long at least: where it overlaps, it has one of the ends.
            let from = match taken[at].max(taken[end - 1]) {
                0 => {
                    taken[at..end].fill(end);
                    tokens.push((at, end, id));
                    end
                }
                overlap => overlap,
            };
            let Some(next) = text[from..].find(needle) else { break };
            at = from + next;
        }
    }
    tokens.sort_unstable();
    let mut fragments = Vec::with_capacity(2 * tokens.len() + 1);
    let mut done = 0;
    for (start, end, id) in tokens {
        if start > done {
            fragments.push(Fragment::Text(done..start));
        }
        fragments.push(Fragment::Token(id));
        done = end;
    }
    if done < text.len() {
        fragments.push(Fragment::Text(done..text.len()));
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

    /// One special text after the other over what the ones before left.
    fn naive(text: &str, special: &[(u32, &str)]) -> Vec<Fragment> {
        let mut fragments = vec![Fragment::Text(0..text.len())];
        for (id, needle) in special {
            let cut = |fragment: Fragment| match fragment {
                Fragment::Text(range) => {
                    let (mut cut, mut start) = (Vec::new(), range.start);
                    for (at, _) in text[range.clone()].match_indices(needle) {
                        cut.extend([Fragment::Text(start..range.start + at), Fragment::Token(*id)]);
                        start = range.start + at + needle.len();
                    }
                    cut.push(Fragment::Text(start..range.end));
                    cut
                }
                token => vec![token],
            };
            fragments = fragments.into_iter().flat_map(cut).collect();
        }
        fragments.retain(|fragment| !matches!(fragment, Fragment::Text(range) if range.is_empty()));
        fragments
    }

    proptest::proptest! {
        #[test]
        fn cutting_equals_cutting_one_after_the_other(
            text in "[abé]{0,60}",
            mut needles in proptest::collection::vec("[abé]{1,4}", 0..12),
        ) {
            needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
            let special: Vec<(u32, &str)> = (0..).zip(needles.iter().map(String::as_str)).collect();
            let cut = split(&text, special.iter().map(|(id, needle)| (*id, needle.as_bytes())));
            proptest::prop_assert_eq!(cut, naive(&text, &special));
        }
    }
}
