//! The `tokenizer.*` keys of a GGUF file, from tokenizer.json or tokenizer.model and what lies beside them.
//!
//! In: a checkpoint directory. Out: keys as llama.cpp's converter writes them. tokenizer.json is taken where it is
//! byte-level BPE; otherwise tokenizer.model (SentencePiece), or a tokenizer.json that holds one, whose merges become
//! scores of the same order. Ids that the embedding has rows for and no token uses become `[PAD<id>]`, unused.
//! Deliberately absent: unigram and word-piece models, normalizers.
//!
//! Source: the `set_vocab` functions and `SpecialVocab` of llama.cpp's converter.

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::{pre, sentencepiece};
use crate::gguf::{Strings, Value};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;

// ggml's token types.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Tokens in order of ids.
#[derive(Default)]
pub struct Vocabulary {
    pub tokens: Vec<Vec<u8>>,
    pub scores: Vec<f32>,
    pub types: Vec<i32>,
}

impl Vocabulary {
    pub fn push(&mut self, text: &[u8], score: f32, ty: i32) {
        self.tokens.push(text.to_vec());
        self.scores.push(score);
        self.types.push(ty);
    }

    /// Sets or adds token `id`; ids in between become padding.
    fn set(&mut self, id: usize, text: &[u8], score: f32, ty: i32) {
        self.pad(id + 1);
        (self.tokens[id], self.scores[id], self.types[id]) = (text.to_vec(), score, ty);
    }

    fn pad(&mut self, len: usize) {
        for id in self.tokens.len()..len {
            self.push(format!("[PAD{id}]").as_bytes(), PADDING_SCORE, UNUSED);
        }
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.tokens.iter().position(|token| token == text.as_bytes()).map(|id| id as u32)
    }
}

/// Below every score of a merge, as llama.cpp's converter has it.
const PADDING_SCORE: f32 = -10_000.0;
const ADDED_SCORE: f32 = -1_000.0;

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    pre_tokenizer: serde_json::Value,
    #[serde(default)]
    post_processor: serde_json::Value,
    model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// `"a b"` in older files, `["a", "b"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    /// The two texts with the first space that can part them between them.
    fn line(&self) -> Option<String> {
        match self {
            Merge::Line(line) => Some(line.clone()),
            // A space inside a text would part it elsewhere.
            Merge::Pair(left, right) if left.contains(' ') || right.contains(' ') => None,
            Merge::Pair(left, right) => Some(format!("{left} {right}")),
        }
    }

    fn joined(&self) -> Option<String> {
        match self {
            Merge::Line(line) => line.split_once(' ').map(|(left, right)| format!("{left}{right}")),
            Merge::Pair(left, right) => Some(format!("{left}{right}")),
        }
    }
}

/// Only what tells the models apart.
#[derive(Deserialize)]
struct Peek {
    model: PeekModel,
    #[serde(default)]
    pre_tokenizer: serde_json::Value,
    #[serde(default)]
    decoder: serde_json::Value,
}

#[derive(Deserialize)]
struct PeekModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
    unk_token: Option<TokenText>,
    pad_token: Option<TokenText>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<Templates>,
    #[serde(default)]
    added_tokens_decoder: HashMap<u32, AddedText>,
}

#[derive(Deserialize)]
struct AddedText {
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Text(String),
    Object { content: String },
}

impl TokenText {
    fn text(&self) -> &str {
        match self {
            TokenText::Text(text) | TokenText::Object { content: text } => text,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// What the caller wants otherwise than the files say.
#[derive(Default)]
pub struct Overrides<'a> {
    /// The name of the pre-tokenizer.
    pub pre: Option<&'a str>,
}

/// The keys, for an embedding of `rows` rows. Warnings are added to `warnings`.
///
/// # Errors
/// No tokenizer that this runtime has, an unknown pre-tokenizer, more tokens than rows.
pub fn keys(
    checkpoint: &Checkpoint,
    config: &Config,
    rows: usize,
    overrides: &Overrides<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, Value)>> {
    let settings: TokenizerConfig = checkpoint.json("tokenizer_config.json")?.unwrap_or_default();
    let dir = checkpoint.dir();
    let peek: Option<Peek> = checkpoint.json("tokenizer.json")?;
    let byte_level = peek
        .as_ref()
        .is_some_and(|json| pre::is_byte_level(&json.pre_tokenizer) || pre::is_byte_level(&json.decoder));
    if let Some(kind) =
        peek.as_ref().and_then(|json| json.model.kind.as_deref()).filter(|kind| *kind != "BPE")
    {
        let what = format!("tokenizer.json holds a {kind} model");
        return Err(Error::unsupported(dir, what, "this runtime has byte-level BPE and SentencePiece BPE"));
    }
    let mut keys = Keys::default();
    let model = checkpoint.bytes("tokenizer.model")?;
    let mut vocabulary = match (byte_level, model) {
        (false, Some(bytes)) => {
            sentencepiece_model(checkpoint, &bytes, &settings, rows, &mut keys, warnings)?
        }
        (_, None) if peek.is_none() => {
            let what = format!("{} holds neither tokenizer.json nor tokenizer.model", dir.display());
            return Err(Error::NotFound { what, remedy: "fetch the whole directory of the model".into() });
        }
        _ => {
            let json: TokenizerJson = checkpoint.json("tokenizer.json")?.expect("it was there a moment ago");
            match byte_level {
                true => byte_level_bpe(checkpoint, &json, rows, overrides, &mut keys, warnings)?,
                false => sentencepiece_json(checkpoint, &json, rows, &mut keys)?,
            }
        }
    };
    if vocabulary.tokens.len() > rows {
        let what = format!("there are {} tokens, but the embedding has {rows} rows", vocabulary.tokens.len());
        return Err(Error::unsupported(dir, what, "fetch the tokenizer that belongs to this model"));
    }
    vocabulary.pad(rows);
    special_tokens(&vocabulary, &settings, config, &mut keys);
    if let Some(template) = chat_template(checkpoint, &settings)? {
        keys.chat_template = Some(template);
    }
    Ok(keys.into_metadata(vocabulary))
}

#[derive(Default)]
struct Keys {
    /// `gpt2` or `llama`.
    model: &'static str,
    pre: String,
    merges: Option<Strings>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
    /// The text of the token that a post-processor puts after a text.
    after: Option<String>,
    chat_template: Option<String>,
}

impl Keys {
    fn into_metadata(self, vocabulary: Vocabulary) -> Vec<(String, Value)> {
        let mut keys: Vec<(&str, Value)> = vec![("ggml.model", self.model.into())];
        keys.push(("ggml.pre", self.pre.as_str().into()));
        keys.push(("ggml.tokens", vocabulary.tokens.iter().collect::<Strings>().into()));
        if self.merges.is_none() {
            keys.push(("ggml.scores", vocabulary.scores.into()));
        }
        keys.push(("ggml.token_type", vocabulary.types.into()));
        keys.extend(self.merges.map(|merges| ("ggml.merges", merges.into())));
        for (key, id) in [
            ("ggml.bos_token_id", self.bos),
            ("ggml.eos_token_id", self.eos),
            ("ggml.unknown_token_id", self.unknown),
            ("ggml.padding_token_id", self.padding),
        ] {
            keys.extend(id.map(|id| (key, id.into())));
        }
        for (key, flag) in [
            ("ggml.add_bos_token", self.add_bos),
            ("ggml.add_eos_token", self.add_eos),
            ("ggml.add_space_prefix", self.add_space_prefix),
        ] {
            keys.extend(flag.map(|flag| (key, flag.into())));
        }
        keys.extend(self.chat_template.map(|template| ("chat_template", template.as_str().into())));
        keys.into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value)).collect()
    }
}

fn byte_level_bpe(
    checkpoint: &Checkpoint,
    json: &TokenizerJson,
    rows: usize,
    overrides: &Overrides<'_>,
    keys: &mut Keys,
    warnings: &mut Vec<String>,
) -> Result<Vocabulary> {
    keys.model = "gpt2";
    keys.pre = match (overrides.pre, pre::recognise(&json.pre_tokenizer)) {
        (Some(name), _) => name.into(),
        (None, Ok(name)) => name.into(),
        (None, Err(steps)) => {
            let what = format!("the pre-tokenizer of tokenizer.json is not one that is known: {steps}");
            let remedy = "name one that cuts text the same way with --pre (llama-bpe, qwen2, gpt-2, smollm, falcon, ...)";
            return Err(Error::unsupported(checkpoint.dir(), what, remedy));
        }
    };
    if json.model.ignore_merges != (keys.pre == "llama-bpe") {
        warnings.push(format!(
            "tokenizer.json has ignore_merges {}, which readers of GGUF take from the pre-tokenizer ({}) to be {}",
            json.model.ignore_merges,
            keys.pre,
            !json.model.ignore_merges
        ));
    }
    let merges: Option<Strings> = json
        .model
        .merges
        .iter()
        .map(Merge::line)
        .collect::<Option<Vec<_>>>()
        .map(|merges| merges.iter().collect());
    keys.merges = Some(merges.ok_or_else(|| {
        let what = "tokenizer.json has a merge of a text with a space in it";
        Error::unsupported(checkpoint.dir(), what, "GGUF has no way to write that")
    })?);
    (keys.add_bos, keys.after) = (bos_of(&json.post_processor), after_of(&json.post_processor));
    let mut vocabulary = texts(checkpoint, json, rows, |_, _| (0.0, NORMAL))?;
    added(&mut vocabulary, json);
    Ok(vocabulary)
}

/// A SentencePiece vocabulary in tokenizer.json: the score of a text is the rank of the merge that makes it, negated.
fn sentencepiece_json(
    checkpoint: &Checkpoint,
    json: &TokenizerJson,
    rows: usize,
    keys: &mut Keys,
) -> Result<Vocabulary> {
    if !json.model.byte_fallback {
        let what = "tokenizer.json is neither byte-level BPE nor SentencePiece BPE with bytes";
        return Err(Error::unsupported(checkpoint.dir(), what, "this runtime has no other tokenizers"));
    }
    (keys.model, keys.pre, keys.add_bos) = ("llama", "default".into(), bos_of(&json.post_processor));
    let mut rank_of_text: HashMap<String, usize> = HashMap::new();
    for (rank, merge) in json.model.merges.iter().enumerate() {
        if let Some(joined) = merge.joined() {
            rank_of_text.entry(joined).or_insert(rank);
        }
    }
    let mut vocabulary = texts(checkpoint, json, rows, |_, text| {
        let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let rank = rank_of_text.get(text).map_or(0.0, |rank| -(*rank as f32));
        (rank, if is_byte { BYTE } else { NORMAL })
    })?;
    added(&mut vocabulary, json);
    if let Some(id) = vocabulary.id("<unk>") {
        vocabulary.types[id as usize] = UNKNOWN;
        keys.unknown = Some(id);
    }
    Ok(vocabulary)
}

fn texts(
    checkpoint: &Checkpoint,
    json: &TokenizerJson,
    rows: usize,
    score_and_type: impl Fn(u32, &str) -> (f32, i32),
) -> Result<Vocabulary> {
    if json.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(Error::unsupported(
            checkpoint.dir(),
            "tokenizer.json is not BPE",
            "this runtime has BPE only",
        ));
    }
    let ids = json.model.vocab.values().copied().chain(json.added_tokens.iter().map(|added| added.id));
    check_ids(checkpoint, ids, rows)?;
    let mut vocabulary = Vocabulary::default();
    for (text, id) in &json.model.vocab {
        let (score, ty) = score_and_type(*id, text);
        vocabulary.set(*id as usize, text.as_bytes(), score, ty);
    }
    Ok(vocabulary)
}

/// # Errors
/// An id that the embedding has no row for.
fn check_ids(checkpoint: &Checkpoint, mut ids: impl Iterator<Item = u32>, rows: usize) -> Result<()> {
    match ids.find(|id| *id as usize >= rows) {
        None => Ok(()),
        Some(id) => {
            let what = format!("a token has the id {id}, but the embedding has {rows} rows");
            Err(Error::unsupported(checkpoint.dir(), what, "fetch the tokenizer that belongs to this model"))
        }
    }
}

fn added(vocabulary: &mut Vocabulary, json: &TokenizerJson) {
    for Added { id, content, special } in &json.added_tokens {
        let ty = if *special { CONTROL } else { USER_DEFINED };
        vocabulary.set(*id as usize, content.as_bytes(), ADDED_SCORE, ty);
    }
}

fn sentencepiece_model(
    checkpoint: &Checkpoint,
    bytes: &[u8],
    settings: &TokenizerConfig,
    rows: usize,
    keys: &mut Keys,
    warnings: &mut Vec<String>,
) -> Result<Vocabulary> {
    let model = sentencepiece::read(&checkpoint.dir().join("tokenizer.model"), bytes)?;
    let mut vocabulary = model.vocabulary;
    let texts: HashMap<String, u32> = checkpoint.json("added_tokens.json")?.unwrap_or_default();
    let decoder =
        settings.added_tokens_decoder.iter().map(|(id, text)| (*id, text.content.as_str(), text.special));
    let listed = texts.iter().map(|(text, id)| (*id, text.as_str(), false)).chain(decoder);
    let listed: Vec<(u32, &str, bool)> = listed.collect();
    check_ids(checkpoint, listed.iter().map(|(id, ..)| *id), rows)?;
    for (id, text, special) in listed {
        let known = vocabulary.tokens.get(id as usize).is_some_and(|token| token == text.as_bytes());
        if !known {
            vocabulary.set(
                id as usize,
                text.as_bytes(),
                ADDED_SCORE,
                if special { CONTROL } else { USER_DEFINED },
            );
        }
    }
    (keys.model, keys.pre) = ("llama", "default".into());
    (keys.bos, keys.eos, keys.unknown) = (model.bos, model.eos, model.unknown);
    keys.add_space_prefix = (!model.dummy_prefix).then_some(false);
    if model.normalizes {
        warnings.push("tokenizer.model has a normalization table, which GGUF readers do not apply".into());
    }
    Ok(vocabulary)
}

/// Ids by the texts of tokenizer_config.json, then by config.json, then what the model itself says.
fn special_tokens(vocabulary: &Vocabulary, settings: &TokenizerConfig, config: &Config, keys: &mut Keys) {
    let id = |token: &Option<TokenText>| token.as_ref().and_then(|token| vocabulary.id(token.text()));
    keys.bos = id(&settings.bos_token).or(config.bos_token_id).or(keys.bos);
    keys.eos =
        id(&settings.eos_token).or(config.eos_token_id.as_ref().and_then(|ids| ids.first())).or(keys.eos);
    keys.unknown = id(&settings.unk_token).or(keys.unknown);
    keys.padding = id(&settings.pad_token).or(config.pad_token_id);
    let exists = |id: &u32| (*id as usize) < vocabulary.tokens.len();
    for slot in [&mut keys.bos, &mut keys.eos, &mut keys.unknown, &mut keys.padding] {
        *slot = slot.filter(exists);
    }
    keys.add_bos = settings.add_bos_token.or(keys.add_bos).map(|add| add && keys.bos.is_some());
    // What a post-processor puts after a text ends it, whatever ends an answer.
    let after = keys.after.take().and_then(|text| vocabulary.id(&text));
    keys.eos = after.or(keys.eos);
    let add_eos = settings.add_eos_token.or(after.map(|_| true));
    keys.add_eos = add_eos.map(|add| add && keys.eos.is_some());
}

/// Whether a post-processor puts a special token before a text, `None` where there is no template.
fn bos_of(post_processor: &serde_json::Value) -> Option<bool> {
    if let Some(parts) = post_processor["processors"].as_array() {
        return parts.iter().find_map(bos_of);
    }
    let single = post_processor["single"].as_array()?;
    Some(single.first().is_some_and(|first| first.get("SpecialToken").is_some()))
}

/// The token that a post-processor puts after a text.
fn after_of(post_processor: &serde_json::Value) -> Option<String> {
    if let Some(parts) = post_processor["processors"].as_array() {
        return parts.iter().find_map(after_of);
    }
    let last = post_processor["single"].as_array()?.last()?;
    Some(last["SpecialToken"]["id"].as_str()?.to_owned())
}

fn chat_template(checkpoint: &Checkpoint, settings: &TokenizerConfig) -> Result<Option<String>> {
    if let Some(bytes) = checkpoint.bytes("chat_template.jinja")? {
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(match &settings.chat_template {
        Some(Templates::One(template)) => Some(template.clone()),
        Some(Templates::Named(all)) => {
            let default = all.iter().find(|named| named.name == "default").or(all.first());
            default.map(|named| named.template.clone())
        }
        None => None,
    })
}
