//! Pre-tokenizers: how byte-level BPE vocabularies cut text into words before any merge.
//!
//! In: the file's `tokenizer.ggml.pre`. Out: a [`PreTokenizer`] that yields word ranges covering the text.
//! The table lists the names this runtime supports; families that share their expressions share a row.
//! Source of the facts: the names and expressions of llama.cpp's `llama-vocab.cpp` and the `tokenizer.json`
//! files they stand for. Each row's last expression covers every character, so nothing is lost.
//!
//! The upstream expressions end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word
//! that follows. The `regex` crate has no look-ahead (and in exchange runs in linear time on any text), so that
//! one rule is code, in [`Expression::end_of`].

use regex::Regex;
use std::ops::Range;

/// What a `tokenizer.ggml.pre` name stands for.
pub(super) struct PreRow {
    /// The first name is the one this runtime reports.
    pub(super) names: &'static [&'static str],
    /// Applied one after the other, each to the pieces that the one before left.
    expressions: &'static [&'static str],
    /// A word that is a token by itself is taken whole, before any merge.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub(super) add_bos: bool,
}

/// GPT-2's words: English contractions, letters, digits and symbols with one leading space, white space.
const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3_WORDS: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);
const QWEN2_WORDS: &str = concat!(
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
);

pub(super) const DEFAULT: &str = "default";
pub(super) const LLAMA_BPE: &str = "llama-bpe";

const fn row(names: &'static [&'static str], expressions: &'static [&'static str]) -> PreRow {
    PreRow { names, expressions, ignore_merges: false, add_bos: false }
}

const ROWS: [PreRow; 6] = [
    PreRow {
        ignore_merges: true,
        add_bos: true,
        ..row(&[LLAMA_BPE, "llama3", "llama-v3", "falcon3", "falcon-h1"], &[LLAMA3_WORDS])
    },
    row(&["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"], &[r"\p{N}", GPT2_WORDS]),
    row(&["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2"], &[QWEN2_WORDS]),
    row(&["gpt-2", "mpt", "olmo", "phi-2", "jais", "exaone4"], &[GPT2_WORDS]),
    row(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]"]),
    row(&[DEFAULT], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

/// The row of a `tokenizer.ggml.pre` name.
pub(super) fn find(name: &str) -> Option<&'static PreRow> {
    ROWS.iter().find(|row| row.names.contains(&name))
}

/// Every supported name, for error messages.
pub(super) fn supported() -> String {
    ROWS.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
}

pub(super) struct PreTokenizer {
    expressions: Vec<Expression>,
}

struct Expression {
    regex: Regex,
    /// This expression decides about white space at all.
    spaces: bool,
    /// White space that ends in a line break stays whole (`\s*[\r\n]+` is one of the alternatives).
    line_breaks: bool,
}

impl PreTokenizer {
    pub(super) fn new(row: &PreRow) -> Self {
        let compile = |source: &&str| Expression {
            regex: Regex::new(source).expect("the expressions in the table are valid"),
            spaces: source.ends_with(r"|\s+"),
            line_breaks: source.contains(r"\s*[\r\n]+"),
        };
        PreTokenizer { expressions: row.expressions.iter().map(compile).collect() }
    }

    /// The words of `text`, in order, without gaps.
    pub(super) fn split(&self, text: &str) -> Vec<Range<usize>> {
        let whole = 0..text.len();
        self.expressions.iter().fold(vec![whole], |pieces, expression| {
            pieces.into_iter().flat_map(|piece| expression.split(text, piece)).collect()
        })
    }
}

impl Expression {
    /// Matches and the gaps between them are pieces of their own.
    fn split(&self, text: &str, piece: Range<usize>) -> Vec<Range<usize>> {
        let (base, part) = (piece.start, &text[piece]);
        let (mut pieces, mut done) = (Vec::new(), 0);
        while let Some(found) = self.regex.find_at(part, done) {
            if found.start() > done {
                pieces.push(base + done..base + found.start());
            }
            let end = self.end_of(part, found.range());
            pieces.push(base + found.start()..base + end);
            done = end;
        }
        if done < part.len() {
            pieces.push(base + done..base + part.len());
        }
        pieces
    }

    /// `\s+(?!\S)|\s+`: a run of several white space characters before a word leaves it the last one.
    fn end_of(&self, part: &str, found: Range<usize>) -> usize {
        let run = &part[found.clone()];
        let keeps_whole = self.line_breaks && run.ends_with(['\r', '\n']);
        if !self.spaces || keeps_whole || found.end == part.len() || !run.chars().all(char::is_whitespace) {
            return found.end;
        }
        match run.char_indices().next_back() {
            Some((last, _)) if last > 0 => found.start + last,
            _ => found.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pre: &str, text: &str) -> Vec<String> {
        let split = PreTokenizer::new(find(pre).expect("a supported name")).split(text);
        split.into_iter().map(|range| text[range].to_string()).collect()
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        assert_eq!(words("gpt-2", "a  b \n\nc  "), ["a", " ", " b", " \n", "\n", "c", "  "]);
        assert_eq!(words("llama-bpe", "a  b \n\nc  "), ["a", " ", " b", " \n\n", "c", "  "]);
        assert_eq!(words("qwen2", "\t\tif\u{3000}\u{3000}x"), ["\t", "\tif", "\u{3000}", "\u{3000}x"]);
    }

    #[test]
    fn digits_group_as_each_family_trains_them() {
        assert_eq!(words("llama-bpe", "x 12345"), ["x", " ", "123", "45"]);
        assert_eq!(words("qwen2", "x 123"), ["x", " ", "1", "2", "3"]);
        assert_eq!(words("smollm", "x 123"), ["x", " ", "1", "2", "3"]);
        assert_eq!(words("gpt-2", "x 12345"), ["x", " 12345"]);
        assert_eq!(words("default", "x 12345"), ["x", " ", "123", "45"]);
    }

    #[test]
    fn contractions_follow_the_case_rule() {
        assert_eq!(words("llama-bpe", "I'LL"), ["I", "'LL"]);
        assert_eq!(words("gpt-2", "I'LL I'll"), ["I", "'", "LL", " I", "'ll"]);
    }

    #[test]
    fn words_cover_the_text_whatever_the_family() {
        let text = "Ünïcode\u{85} 日本語\r\n\r\n \u{a0}½ 🦙.cpp\t ''s 3.14\u{200d}\u{0301}e ";
        for row in &ROWS {
            assert_eq!(words(row.names[0], text).concat(), text, "{}", row.names[0]);
        }
    }
}
