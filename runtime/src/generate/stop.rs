//! When generation ends, and which text may be shown: a state machine without a model.
//!
//! In: each sampled token with the text it completed. Out: text that is safe to show, and in the end a
//! [`FinishReason`]. Text that could be the start of a stop string is held back until it is decided, so no
//! part of a stop string is ever shown, wherever tokens cut it.
//!
//! Priority where one token meets several rules: stop token id, end of sequence, maximum of tokens, stop
//! string. Whatever the reason, text from a stop string on is never shown.

use crate::error::{Error, Result};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopRules {
    /// Ids that end generation, besides the tokenizer's own end-of-generation tokens.
    pub token_ids: Vec<u32>,
    /// Tokens sampled at most; 0 samples none.
    pub max_tokens: usize,
    pub strings: Vec<String>,
}

/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 4096;

/// Why generation ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FinishReason {
    /// One of [`StopRules::token_ids`].
    StopToken {
        id: u32,
    },
    /// The model's own end of sequence (or of a turn).
    EndOfSequence {
        id: u32,
    },
    MaxTokens,
    StopString {
        string: String,
    },
    /// The context window is full and may not be shifted.
    ContextFull,
    Interrupted,
}

/// What is known about a sampled token, besides its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenClass {
    Text,
    /// An end-of-generation token of the vocabulary.
    EndOfSequence,
}

/// The machine. Feed it with [`Self::push`] until that returns a reason.
pub struct StopMachine {
    rules: StopRules,
    /// One per stop string.
    searches: Vec<Search>,
    tokens: usize,
    /// Text that may turn out to be the start of a stop string.
    held: String,
    /// A stop string was found: nothing more is shown.
    cut: bool,
}

impl StopMachine {
    /// # Errors
    /// `Usage` for an empty stop string, which every text would contain, and for one over [`MAX_STOP_BYTES`].
    pub fn new(rules: StopRules) -> Result<Self> {
        if rules.strings.iter().any(String::is_empty) {
            return Err(Error::usage("a stop string is empty", "give --stop at least one character"));
        }
        if let Some(long) = rules.strings.iter().map(String::len).find(|len| *len > MAX_STOP_BYTES) {
            let what = format!("a stop string has {long} bytes");
            return Err(Error::usage(what, format!("give --stop at most {MAX_STOP_BYTES} bytes")));
        }
        let searches = rules.strings.iter().map(|string| Search::new(string)).collect();
        Ok(StopMachine { rules, searches, tokens: 0, held: String::new(), cut: false })
    }

    /// The reason to end before any token is sampled.
    pub fn before_first(&self) -> Option<FinishReason> {
        (self.rules.max_tokens == 0).then_some(FinishReason::MaxTokens)
    }

    /// Whether `id` ends generation without being part of the text, so that it need not be decoded.
    pub fn ends_at(&self, id: u32, class: TokenClass) -> Option<FinishReason> {
        if self.rules.token_ids.contains(&id) {
            return Some(FinishReason::StopToken { id });
        }
        (class == TokenClass::EndOfSequence).then_some(FinishReason::EndOfSequence { id })
    }

    /// Takes one sampled token and the text it completed (empty for a stop token or in the middle of a
    /// character); appends to `shown` what may be shown now.
    pub fn push(
        &mut self,
        id: u32,
        class: TokenClass,
        text: &str,
        shown: &mut String,
    ) -> Option<FinishReason> {
        self.tokens += 1;
        if let Some(reason) = self.ends_at(id, class) {
            return Some(reason);
        }
        let found = self.push_text(text, shown);
        if self.tokens >= self.rules.max_tokens {
            return Some(FinishReason::MaxTokens);
        }
        found.map(|string| FinishReason::StopString { string })
    }

    /// Ends the text: `tail` is what the decoder still had. Releases text that was held back in vain.
    pub fn finish(mut self, tail: &str, shown: &mut String) {
        self.push_text(tail, shown);
        if !self.cut {
            shown.push_str(&self.held);
        }
    }

    /// Appends decided text to `shown`; returns the stop string that was found. The one that ends first
    /// counts (among those, the one that starts first), so how the text was cut into pieces does not matter.
    fn push_text(&mut self, text: &str, shown: &mut String) -> Option<String> {
        if self.cut {
            return None;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut longest: Option<&str> = None;
            for (search, string) in self.searches.iter_mut().zip(&self.rules.strings) {
                if search.step(string.as_bytes(), byte) && longest.is_none_or(|s| s.len() < string.len()) {
                    longest = Some(string);
                }
            }
            if let Some(string) = longest {
                shown.push_str(&self.held[..before + at + 1 - string.len()]);
                self.cut = true;
                return Some(string.to_owned());
            }
        }
        let undecided = self.searches.iter().map(|search| search.matched).max().unwrap_or(0);
        let decided = self.held.len() - undecided;
        shown.push_str(&self.held[..decided]);
        self.held.drain(..decided);
        None
    }
}

/// Where a text stands in one stop string (Knuth, Morris, Pratt 1977): a step costs the same however long the string is,
/// so that no request can make others wait.
struct Search {
    /// For each beginning of the string, the longest shorter one that it ends with.
    fallback: Vec<usize>,
    /// Bytes of the string that the text ends with.
    matched: usize,
}

impl Search {
    fn new(string: &str) -> Self {
        let mut search = Search { fallback: vec![0], matched: 0 };
        for byte in string.bytes().skip(1) {
            search.step(string.as_bytes(), byte);
            search.fallback.push(search.matched);
        }
        Search { matched: 0, ..search }
    }

    /// Takes the next byte of the text; whether the whole of `string` ends here.
    fn step(&mut self, string: &[u8], byte: u8) -> bool {
        while self.matched > 0 && string[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(string[self.matched] == byte);
        self.matched == string.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const EOS: u32 = 2;

    fn rules(max_tokens: usize, token_ids: &[u32], strings: &[&str]) -> StopRules {
        let strings = strings.iter().map(|s| s.to_string()).collect();
        StopRules { token_ids: token_ids.to_vec(), max_tokens, strings }
    }

    /// Runs the machine over (id, text) tokens; returns what was shown after each, the whole, and the reason.
    fn run(rules: StopRules, tokens: &[(u32, &str)]) -> (Vec<String>, String, Option<FinishReason>) {
        let mut machine = StopMachine::new(rules).expect("no empty stop string");
        let (mut steps, mut shown) = (Vec::new(), String::new());
        let mut reason = machine.before_first();
        for (id, text) in tokens {
            if reason.is_some() {
                break;
            }
            let class = if *id == EOS { TokenClass::EndOfSequence } else { TokenClass::Text };
            reason = machine.push(*id, class, text, &mut shown);
            steps.push(shown.clone());
        }
        machine.finish("", &mut shown);
        (steps, shown, reason)
    }

    fn string(s: &str) -> Option<FinishReason> {
        Some(FinishReason::StopString { string: s.into() })
    }

    #[test]
    fn a_stop_token_goes_before_end_of_sequence() {
        let (_, text, reason) = run(rules(1, &[EOS], &["x"]), &[(EOS, "")]);
        assert_eq!((text.as_str(), reason), ("", Some(FinishReason::StopToken { id: EOS })));
    }

    #[test]
    fn end_of_sequence_goes_before_the_maximum() {
        let (_, _, reason) = run(rules(1, &[], &[]), &[(EOS, "")]);
        assert_eq!(reason, Some(FinishReason::EndOfSequence { id: EOS }));
    }

    #[test]
    fn the_maximum_goes_before_a_stop_string_whose_text_still_stays_hidden() {
        let (_, text, reason) = run(rules(2, &[], &["END"]), &[(5, "go "), (6, "END more")]);
        assert_eq!((text.as_str(), reason), ("go ", Some(FinishReason::MaxTokens)));
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_shown() {
        let (steps, text, reason) =
            run(rules(9, &[], &["STOP"]), &[(5, "a S"), (6, "T"), (7, "OP b"), (8, "c")]);
        assert_eq!(steps, ["a ", "a ", "a "]);
        assert_eq!((text.as_str(), reason), ("a ", string("STOP")));
    }

    #[test]
    fn text_held_back_in_vain_is_released() {
        let (steps, text, reason) = run(rules(3, &[], &["STOP"]), &[(5, "a ST"), (6, "ART ST"), (7, "")]);
        assert_eq!(steps, ["a ", "a START ", "a START "]);
        assert_eq!((text.as_str(), reason), ("a START ST", Some(FinishReason::MaxTokens)));
    }

    #[test]
    fn the_stop_string_that_ends_first_counts() {
        assert_eq!(run(rules(9, &[], &["abc", "b"]), &[(5, "xabc")]).1, "xa");
        assert_eq!(run(rules(9, &[], &["ab", "b"]), &[(5, "xabc")]).1, "x");
    }

    #[test]
    fn zero_tokens_sample_nothing() {
        assert_eq!(
            run(rules(0, &[], &[]), &[(5, "a")]),
            (vec![], String::new(), Some(FinishReason::MaxTokens))
        );
    }

    #[test]
    fn the_decoders_tail_is_shown_unless_the_text_was_cut() {
        let finish = |text: &str| {
            let mut machine = StopMachine::new(rules(9, &[], &["!"])).expect("no empty stop string");
            let mut shown = String::new();
            machine.push(5, TokenClass::Text, text, &mut shown);
            machine.finish("\u{fffd}", &mut shown);
            shown
        };
        assert_eq!((finish("a").as_str(), finish("a!").as_str()), ("a\u{fffd}", "a"));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMachine::new(rules(1, &[], &["a", ""])).err().expect("must be refused");
        assert_eq!(error.to_string(), "a stop string is empty; give --stop at least one character");
    }

    #[test]
    fn a_stop_string_that_is_too_long_is_refused() {
        assert!(StopMachine::new(rules(1, &[], &[&"a".repeat(MAX_STOP_BYTES)])).is_ok());
        let error = StopMachine::new(rules(1, &[], &[&"a".repeat(MAX_STOP_BYTES + 1)])).err();
        let text = error.expect("must be refused").to_string();
        assert_eq!(text, "a stop string has 4097 bytes; give --stop at most 4096 bytes");
    }

    /// Short strings over few letters (one of them two bytes long), so that partial matches are common.
    fn words(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
        vec("[abé]{1,4}", n)
    }

    fn pieces(words: &[String]) -> Vec<(u32, &str)> {
        words.iter().map(|w| (5, w.as_str())).collect()
    }

    proptest! {
        #[test]
        fn cutting_into_tokens_does_not_matter(words in words(0..12), stops in words(0..3)) {
            let whole = words.concat();
            let rules = StopRules { max_tokens: 100, strings: stops, ..Default::default() };
            let one = run(rules.clone(), &[(5, &whole)]);
            let by_word = run(rules.clone(), &pieces(&words));
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            let by_char = run(rules, &pieces(&chars));
            prop_assert_eq!((&one.1, &one.2), (&by_word.1, &by_word.2));
            prop_assert_eq!((&one.1, &one.2), (&by_char.1, &by_char.2));
        }

        #[test]
        fn shown_text_is_a_prefix_that_only_grows(words in words(0..12), stops in words(0..3)) {
            let rules = StopRules { max_tokens: 100, strings: stops.clone(), ..Default::default() };
            let (steps, text, reason) = run(rules, &pieces(&words));
            prop_assert!(words.concat().starts_with(&text));
            prop_assert!(steps.iter().all(|step| text.starts_with(step.as_str())));
            prop_assert!(stops.iter().all(|stop| !text.contains(stop.as_str())));
            if reason.is_none() {
                prop_assert_eq!(text, words.concat());
            }
        }

        #[test]
        fn streamed_text_never_holds_a_part_of_the_stop_string(before in "[ab]{0,9}", stop in "[cd]{1,5}") {
            let chars: Vec<String> = format!("{before}{stop}").chars().map(String::from).collect();
            let (steps, text, reason) = run(rules(100, &[], &[&stop]), &pieces(&chars));
            prop_assert!(steps.iter().all(|step| before.starts_with(step.as_str())));
            prop_assert_eq!((text, reason), (before, string(&stop)));
        }

        #[test]
        fn the_maximum_is_exact(words in words(1..20), max in 1usize..20) {
            let (steps, _, reason) = run(rules(max, &[], &[]), &pieces(&words));
            prop_assert_eq!(steps.len(), max.min(words.len()));
            prop_assert_eq!(reason.is_some(), max <= words.len());
        }

        #[test]
        fn without_stop_strings_text_is_shown_at_once(words in words(0..12)) {
            let (steps, ..) = run(rules(100, &[], &[]), &pieces(&words));
            for (i, step) in steps.iter().enumerate() {
                prop_assert_eq!(step, &words[..=i].concat());
            }
        }
    }
}
