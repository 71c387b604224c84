//! The token table: texts as the file writes them, what each token is for, and the bytes it stands for.
//!
//! In: the arrays of `tokenizer.ggml.*`. Out: lookups text -> id and id -> bytes, the special tokens, and the
//! tokens that end a generation. Kinds follow llama.cpp: where a file has no or wrong `token_type`s, the
//! well-known texts below make a token a control token.

use super::texts::Texts;
use crate::error::{Error, Result};
use std::path::Path;

/// Ids and text positions fit 32 bits with room to spare.
const MAX_TOKENS: usize = 1 << 24;
const MAX_TEXT_BYTES: usize = 1 << 30;

/// `tokenizer.ggml.token_type`, values of ggml's `llama_token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// How a normal token's text spells its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's table: one printable character for each byte.
    ByteLevel,
    /// UTF-8 with U+2581 for a space.
    SentencePiece,
}

/// Texts that end a generation in the model families that use them (llama.cpp decides by text, too).
const END_TEXTS: [&str; 21] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
    // The texts up to here may also serve as the end-of-turn token of a file that names none.
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "</s>",
    "<|eom_id|>",
    "[EOS]",
    "<eos>",
    "<turn|>",
    "[e~[",
];
const END_OF_TURN_TEXTS: usize = 11;

/// Fill-in-the-middle tokens: padding, repository and file separators end a generation; the others do not.
const FILL_END_TEXTS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];
const FILL_TEXTS: [&[&str]; 3] = [
    &[
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
    ],
    &[
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
    ],
    &[
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
    ],
];

pub(super) struct Vocab {
    texts: Texts,
    kinds: Vec<Kind>,
    /// The bytes of every token, back to back; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Ids without the padding that converters append up to the embedding's size: unused `[PAD<id>]` tokens.
    pub(super) unpadded_len: usize,
    /// Control, user-defined and unknown tokens with their texts, longest text first.
    pub(super) special: Vec<(u32, Vec<u8>)>,
    /// Ascending.
    pub(super) end_of_generation: Vec<u32>,
    pub(super) end_of_turn: Option<u32>,
}

impl Vocab {
    /// `types` is empty or one per token. `ends` are the ids that the file itself names as ends.
    pub(super) fn new(
        tokens: Vec<Vec<u8>>,
        types: &[i32],
        spelling: Spelling,
        ends: &[u32],
        path: &Path,
    ) -> Result<Vocab> {
        let size: usize = tokens.iter().map(Vec::len).sum();
        if tokens.is_empty() || tokens.len() > MAX_TOKENS || size > MAX_TEXT_BYTES {
            let what = format!("tokenizer.ggml.tokens has {} entries of {size} bytes in all", tokens.len());
            return Err(Error::unsupported(path, what, "convert the model again with its vocabulary"));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            let what =
                format!("{} tokens but {} entries in tokenizer.ggml.token_type", tokens.len(), types.len());
            return Err(Error::unsupported(path, what, "convert the model again: one type per token"));
        }
        let mut texts = Texts::with_capacity(tokens.len());
        for (id, text) in tokens.iter().enumerate() {
            let pushed = match text.is_empty() {
                true => texts.push(format!("[EMPTY_{id}]").as_bytes()),
                false => texts.push(text),
            };
            if let Err(first) = pushed {
                let what = format!("tokens {first} and {id} have the same text in tokenizer.ggml.tokens");
                return Err(Error::unsupported(
                    path,
                    what,
                    "convert the model again: token texts are unique",
                ));
            }
        }
        let kinds = (0..texts.len()).map(|id| kind_of(types.get(id).copied())).collect();
        let mut vocab = Vocab {
            texts,
            kinds,
            bytes: Vec::new(),
            ends: Vec::new(),
            unpadded_len: 0,
            special: Vec::new(),
            end_of_generation: ends.to_vec(),
            end_of_turn: None,
        };
        vocab.mark_known_texts();
        vocab.collect_bytes(spelling, path)?;
        vocab.unpadded_len = vocab.count_unpadded();
        Ok(vocab)
    }

    /// The number of tokens that the file lists.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The token written exactly like `text`.
    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        self.texts.id(text)
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The bytes `id` stands for: none for unused tokens and for ids that the file lists no token for.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// A normal token of more than one byte: only merges can make it.
    pub(super) fn is_word(&self, id: u32) -> bool {
        self.kind(id) == Some(Kind::Normal) && self.bytes(id).len() > 1
    }

    fn count_unpadded(&self) -> usize {
        let is_padding = |id: usize| {
            self.kinds[id] == Kind::Unused && self.id(format!("[PAD{id}]").as_bytes()) == Some(id as u32)
        };
        (0..self.len()).rev().find(|id| !is_padding(*id)).map_or(0, |last| last + 1)
    }

    fn mark_known_texts(&mut self) {
        let find = |text: &&str| self.texts.id(text.as_bytes());
        let ends: Vec<u32> = END_TEXTS.iter().filter_map(find).collect();
        let fill_ends: Vec<u32> =
            FILL_END_TEXTS.iter().filter_map(|texts| texts.iter().find_map(find)).collect();
        let fills: Vec<u32> = FILL_TEXTS.iter().filter_map(|texts| texts.iter().find_map(find)).collect();
        self.end_of_turn = END_TEXTS[..END_OF_TURN_TEXTS].iter().find_map(find);
        for &id in ends.iter().chain(&fill_ends).chain(&fills) {
            self.kinds[id as usize] = Kind::Control;
        }
        self.end_of_generation.extend(ends.iter().chain(&fill_ends));
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
    }

    fn collect_bytes(&mut self, spelling: Spelling, path: &Path) -> Result<()> {
        let byte_of = byte_of_char();
        for (id, kind) in self.kinds.iter().enumerate() {
            let text = self.texts.text(id);
            match kind {
                Kind::Control | Kind::UserDefined | Kind::Unknown => {
                    self.bytes.extend_from_slice(text);
                    self.special.push((id as u32, text.to_vec()));
                }
                Kind::Normal if spelling == Spelling::ByteLevel => {
                    let start = self.bytes.len();
                    let spelled = std::str::from_utf8(text).is_ok_and(|text| {
                        let byte = |c: char| byte_of.get(c as usize).copied().flatten();
                        text.chars().all(|c| byte(c).map(|byte| self.bytes.push(byte)).is_some())
                    });
                    if !spelled {
                        self.bytes.truncate(start);
                        self.bytes.extend_from_slice(text);
                    }
                }
                Kind::Normal => unescape_spaces(text, &mut self.bytes),
                Kind::Byte => self.bytes.push(byte_token(text).ok_or_else(|| {
                    let what = format!("token {id} is a byte but reads {:?}", String::from_utf8_lossy(text));
                    Error::unsupported(
                        path,
                        what,
                        "convert the model again: byte tokens read <0x00> to <0xFF>",
                    )
                })?),
                Kind::Unused => {}
            }
            self.ends.push(self.bytes.len() as u32);
        }
        self.special.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
        Ok(())
    }
}

/// Undefined and unknown numbers behave as unused: no bytes, never split out.
fn kind_of(number: Option<i32>) -> Kind {
    match number {
        None | Some(1) => Kind::Normal,
        Some(2) => Kind::Unknown,
        Some(3) => Kind::Control,
        Some(4) => Kind::UserDefined,
        Some(6) => Kind::Byte,
        Some(_) => Kind::Unused,
    }
}

/// `<0x0A>` -> 10.
fn byte_token(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

fn unescape_spaces(text: &[u8], out: &mut Vec<u8>) {
    let escaped = "\u{2581}".as_bytes();
    let mut rest = text;
    while let Some(&first) = rest.first() {
        match rest.strip_prefix(escaped) {
            Some(tail) => {
                out.push(b' ');
                rest = tail;
            }
            None => {
                out.push(first);
                rest = &rest[1..];
            }
        }
    }
}

/// GPT-2's spelling of each byte: itself where printable in Latin-1, else the characters from U+0100 on.
pub(super) fn char_of_byte() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        }
    })
}

/// The byte that each character below U+0144 spells.
fn byte_of_char() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    for (byte, c) in char_of_byte().into_iter().enumerate() {
        bytes[c as usize] = Some(byte as u8);
    }
    bytes
}
