//! Text to token ids and back, from the vocabulary inside a GGUF file.
//!
//! In: a [`TokenizerSpec`] (the `tokenizer.ggml.*` values). Out: a [`Tokenizer`] whose ids equal llama.cpp's:
//! byte-level BPE (`bpe`, words from `pre`) or SentencePiece (`spm`), special tokens split out first
//! (`special`), both merging with `merge`. `stream` turns ids back into text.
//!
//! BPE is written here instead of taken from the `tokenizers` crate, which costs more to build and to ship and
//! has no SentencePiece like llama.cpp's (numbers, and where this differs from llama.cpp on purpose, in
//! docs/explanation/tokenizer.md). Deliberately absent: reading GGUF, training, normalization, the
//! word-piece and unigram models, and llama.cpp's clean-up of spaces before punctuation in decoded text.

mod bpe;
mod merge;
mod pre;
mod special;
mod spm;
mod stream;
#[cfg(test)]
mod tests;
mod texts;
mod vocab;

pub use stream::DecodeStream;

use crate::error::{Error, Result};
use special::Fragment;
use std::path::{Path, PathBuf};
use vocab::{Kind, Spelling, Vocab};

/// Longest text that one call encodes, so that positions fit 32 bits.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// What a GGUF file says about its tokenizer (`tokenizer.ggml.*` unless noted).
#[derive(Clone, Debug, Default)]
pub struct TokenizerSpec {
    /// `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    pub pre: Option<String>,
    /// Token texts as they are in the file; the index is the id.
    pub tokens: Vec<Vec<u8>>,
    /// ggml's token types, empty where the file has none.
    pub token_types: Vec<i32>,
    /// SentencePiece scores.
    pub scores: Vec<f32>,
    /// BPE merges, `left right`, best first.
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    /// `{architecture}.vocab_size`: rows of the embedding, at least as many as tokens.
    pub vocab_size: Option<u32>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// What text like `<|im_end|>` in the input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// The token of that name.
    Parse,
    /// Characters like any others (user-defined tokens are still found, as in llama.cpp).
    AsText,
}

/// Whether the beginning-of-sequence token goes before the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// As the file asks, once: not where the text itself begins with it. EOS, too, where the file asks for it.
    AsFileAsks,
    Never,
}

/// Whether decoding writes out control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTokens {
    Show,
    Hide,
}

/// Where decoded text stands: SentencePiece puts a space before a text that decoding takes off again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPosition {
    Start,
    /// After other text, as generated tokens are.
    Continuation,
}

/// A vocabulary and its rules, both ways.
///
/// ```
/// use bitnet_runtime::generate::load_tokenizer;
/// use bitnet_runtime::gguf::{Gguf, Mapping};
/// use bitnet_runtime::tokenizer::{Bos, ControlTokens, SpecialTokens, TextPosition};
///
/// let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/trained/kjv-b158.gguf");
/// let (tokenizer, warnings) = load_tokenizer(&Gguf::open(path, Mapping::default())?)?;
/// let ids = tokenizer.encode("In the beginning", SpecialTokens::Parse, Bos::Never)?;
/// assert_eq!(tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Hide), "In the beginning");
/// assert!(warnings.is_empty());
/// # Ok::<(), bitnet_runtime::Error>(())
/// ```
pub struct Tokenizer {
    path: PathBuf,
    vocab: Vocab,
    model: Model,
    family: &'static str,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    padding: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
    chat_template: Option<String>,
    inferred: Vec<&'static str>,
}

enum Model {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
}

impl Tokenizer {
    /// Builds the tokenizer of the file at `path` (used in messages only), with warnings for the user.
    ///
    /// Errors: an unknown model or pre-tokenizer, arrays that do not fit each other, ids outside the vocabulary.
    pub fn new(spec: TokenizerSpec, path: &Path) -> Result<(Tokenizer, Vec<String>)> {
        let mut warnings = Vec::new();
        let spelling = match spec.model.as_str() {
            "gpt2" => Spelling::ByteLevel,
            "llama" => Spelling::SentencePiece,
            other => {
                let what = format!("tokenizer.ggml.model is {other:?}");
                return Err(Error::unsupported(path, what, "supported are gpt2 and llama"));
            }
        };
        check_ids(&spec, path)?;
        let ends: Vec<u32> = spec.eos.into_iter().chain(spec.eot).collect();
        let mut vocab = Vocab::new(spec.tokens, &spec.token_types, spelling, &ends, path)?;
        vocab.end_of_turn = spec.eot.or(vocab.end_of_turn);
        let llama3 =
            [b"<|begin_of_text|>".as_slice(), b"<|eot_id|>"].iter().all(|text| vocab.id(text).is_some());

        let (model, family, add_bos, bos, eos) = match spelling {
            Spelling::ByteLevel => {
                let row = choose_pre(spec.pre.as_deref(), &vocab, llama3, path, &mut warnings)?;
                let bpe = bpe::Bpe::new(&vocab, &spec.merges, row);
                if spec.merges.is_empty() && (0..vocab.len() as u32).any(|id| vocab.is_word(id)) {
                    let what = "tokenizer.ggml.merges is missing or empty, but there are tokens to merge";
                    return Err(Error::unsupported(path, what, "convert the model again with its merges"));
                }
                if bpe.unusable_merges > 0 {
                    warnings.push(format!(
                        "{}: {} of {} merges are malformed, repeated or name texts that are no tokens; they are left out",
                        path.display(),
                        bpe.unusable_merges,
                        spec.merges.len()
                    ));
                }
                let family = if llama3 { "llama3" } else { row.names[0] };
                (Model::Bpe(Box::new(bpe)), family, row.add_bos, spec.bos, spec.eos)
            }
            Spelling::SentencePiece => {
                // SentencePiece's own ids, where the vocabulary has these tokens there.
                let usual = |id: u32, text: &str| Some(id).filter(|_| vocab.id(text.as_bytes()) == Some(id));
                let unknown = spec.unknown.or(usual(0, "<unk>"));
                let prefix = spec.add_space_prefix.unwrap_or(true);
                let spm = spm::Spm::new(&vocab, &spec.scores, unknown, prefix, path)?;
                let (bos, eos) = (spec.bos.or(usual(1, "<s>")), spec.eos.or(usual(2, "</s>")));
                (Model::Spm(Box::new(spm)), "llama-spm", true, bos, eos)
            }
        };
        if spec.add_bos == Some(true) && bos.is_none() || spec.add_eos == Some(true) && eos.is_none() {
            let what =
                "tokenizer.ggml.add_bos_token or add_eos_token asks for a token that the file does not name";
            let remedy = "set tokenizer.ggml.bos_token_id and eos_token_id in the file";
            return Err(Error::unsupported(path, what, remedy));
        }
        let vocab_size = spec.vocab_size.map_or(vocab.len(), |size| size as usize);
        if vocab_size < vocab.len() {
            warnings.push(format!(
                "{}: vocab_size is {vocab_size}, but tokenizer.ggml.tokens lists {}; the larger number counts",
                path.display(),
                vocab.len()
            ));
        }
        let inferred = [
            ("tokenizer.ggml.pre", spelling == Spelling::ByteLevel && spec.pre.is_none()),
            ("tokenizer.ggml.bos_token_id", bos != spec.bos),
            ("tokenizer.ggml.eos_token_id", eos != spec.eos),
        ];
        for (key, id) in
            [("bos", bos.filter(|_| spec.bos.is_none())), ("eos", eos.filter(|_| spec.eos.is_none()))]
        {
            if let Some(id) = id {
                warnings.push(format!(
                    "{}: no tokenizer.ggml.{key}_token_id, using {id} as SentencePiece does",
                    path.display()
                ));
            }
        }
        let tokenizer = Tokenizer {
            path: path.into(),
            vocab_size: vocab_size.max(vocab.len()),
            vocab,
            model,
            family,
            bos,
            eos,
            padding: spec.padding,
            adds_bos: spec.add_bos.unwrap_or(add_bos) && bos.is_some(),
            adds_eos: spec.add_eos.unwrap_or(false),
            chat_template: spec.chat_template,
            inferred: inferred.into_iter().filter(|(_, is)| *is).map(|(key, _)| key).collect(),
        };
        Ok((tokenizer, warnings))
    }

    /// Token ids of `text`.
    ///
    /// Errors: text over 1 GiB; a byte that a vocabulary without byte tokens cannot spell.
    pub fn encode(&self, text: &str, special: SpecialTokens, bos: Bos) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            let what = format!("a text of {} bytes is too long to tokenize at once", text.len());
            return Err(Error::limit(what, format!("split it into parts of at most {MAX_TEXT_BYTES} bytes")));
        }
        let is_text =
            |id: u32| special == SpecialTokens::AsText && self.vocab.kind(id) != Some(Kind::UserDefined);
        let specials = self.vocab.special.iter().map(|(id, text)| (*id, text.as_slice()));
        let fragments = special::split(text, specials.filter(|(id, _)| !is_text(*id)));

        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if let (Bos::AsFileAsks, true, Some(id)) = (bos, self.adds_bos, self.bos)
            && fragments.first() != Some(&Fragment::Token(id))
        {
            ids.push(id);
        }
        let mut after_special = true;
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(ref range) => {
                    self.encode_text(&text[range.clone()], after_special, &mut ids)?
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        if let (Bos::AsFileAsks, true, Some(id)) = (bos, self.adds_eos, self.eos)
            && ids.last() != Some(&id)
        {
            ids.push(id);
        }
        Ok(ids)
    }

    fn encode_text(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) -> Result<()> {
        let encoded = match &self.model {
            Model::Bpe(bpe) => bpe.encode(&self.vocab, text, ids),
            Model::Spm(spm) if spm.space_prefix && after_special => {
                spm.encode(&self.vocab, &format!(" {text}"), ids)
            }
            Model::Spm(spm) => spm.encode(&self.vocab, text, ids),
        };
        encoded.map_err(|byte| {
            let what = format!("the vocabulary has no token for the byte 0x{byte:02x} of the text");
            Error::unsupported(&self.path, what, "leave that character out, or use a model with byte tokens")
        })
    }

    /// The text of `ids`; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], position: TextPosition, control: ControlTokens) -> String {
        let mut stream = self.stream(position, control);
        let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes token by token.
    pub fn stream(&self, position: TextPosition, control: ControlTokens) -> DecodeStream<'_> {
        DecodeStream::new(self, position, control)
    }

    /// The bytes that `id` stands for (a control token's text), empty for unused ids and padding.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// Whether `id` is a control token: it stands for no text of its own, and [`ControlTokens::Hide`] hides it.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == Some(Kind::Control)
    }

    /// Keys that the file lacks and whose values were inferred from the vocabulary or by convention.
    pub fn inferred(&self) -> &[&'static str] {
        &self.inferred
    }

    /// The token whose text in the file is exactly `text`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text.as_bytes())
    }

    /// Ids that the model scores, padding included: logits per position.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Ids that stand for something: without the padding at the end.
    pub fn real_vocab_size(&self) -> usize {
        self.vocab.unpadded_len
    }

    /// `llama3`, `smollm`, `qwen2`, `gpt-2`, `falcon`, `llama-bpe`, `default` or `llama-spm`.
    pub fn family(&self) -> &'static str {
        self.family
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The end-of-turn token that the file names, or that its vocabulary is known for.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.vocab.end_of_turn
    }

    pub fn padding(&self) -> Option<u32> {
        self.padding
    }

    /// Whether [`Bos::AsFileAsks`] adds BOS.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether generation stops at `id`: EOS, end of turn, and the texts that llama.cpp stops at.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.end_of_generation().binary_search(&id).is_ok()
    }

    /// Ids that [`Self::is_end_of_generation`] accepts, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.vocab.end_of_generation
    }

    /// The file's own chat template (Jinja).
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn adds_space_prefix(&self) -> bool {
        matches!(&self.model, Model::Spm(spm) if spm.space_prefix)
    }
}

fn check_ids(spec: &TokenizerSpec, path: &Path) -> Result<()> {
    let named = [
        ("bos_token_id", spec.bos),
        ("eos_token_id", spec.eos),
        ("eot_token_id", spec.eot),
        ("unknown_token_id", spec.unknown),
        ("padding_token_id", spec.padding),
    ];
    for (key, id) in named {
        if let Some(id) = id.filter(|id| *id as usize >= spec.tokens.len()) {
            let what = format!("tokenizer.ggml.{key} is {id}, but there are {} tokens", spec.tokens.len());
            return Err(Error::unsupported(path, what, "set it to a token of the vocabulary, or remove it"));
        }
    }
    Ok(())
}

/// The pre-tokenizer that the file names. Where it names none, `default` with a warning, as llama.cpp and
/// bitnet.cpp do; but a llama-3 vocabulary (the official BitNet 2B-4T file) gets the `llama-bpe` it was trained
/// with, because `default` would cut numbers, line breaks and punctuation differently.
fn choose_pre(
    name: Option<&str>,
    vocab: &Vocab,
    llama3: bool,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<&'static pre::PreRow> {
    let name = name.unwrap_or_else(|| {
        let (chosen, why) = match llama3 && vocab.len() >= 128_000 {
            true => {
                (pre::LLAMA_BPE, "its vocabulary is llama-3's (llama.cpp and bitnet.cpp would use default)")
            }
            false => (pre::DEFAULT, "as llama.cpp does; the text may be cut differently than in training"),
        };
        warnings.push(format!("{}: no tokenizer.ggml.pre, using {chosen}: {why}", path.display()));
        chosen
    });
    pre::find(name).ok_or_else(|| {
        let what = format!("tokenizer.ggml.pre is {name:?}");
        Error::unsupported(path, what, format!("supported are {}", pre::supported()))
    })
}
