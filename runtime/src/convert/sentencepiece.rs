//! tokenizer.model: the fields of a SentencePiece model that a GGUF file keeps.
//!
//! In: the bytes of a `ModelProto`. Out: pieces with scores and types, and the ids and switches beside them. The
//! reader knows only protobuf's wire format, checks every length, and skips fields it does not need.
//! Deliberately absent: the normalization table (a model with one is told to the caller), unigram models.
//!
//! Source: sentencepiece_model.proto.

use super::tokenizer::Vocabulary;
use crate::{Error, Result};
use std::path::Path;

/// `TrainerSpec.model_type` of merges by score.
const BPE: u64 = 2;

pub struct Model {
    pub vocabulary: Vocabulary,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// A space goes before the text.
    pub dummy_prefix: bool,
    /// The model changes characters before it looks at them.
    pub normalizes: bool,
}

/// # Errors
/// Bytes that are no such model, with the offset; a model that is not BPE.
pub fn read(path: &Path, bytes: &[u8]) -> Result<Model> {
    let bad = |offset: usize| {
        let what = "not a SentencePiece model";
        Error::malformed(path, offset as u64, what, "fetch tokenizer.model again (not a pointer to it)")
    };
    let mut model = Model {
        vocabulary: Vocabulary::default(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        dummy_prefix: true,
        normalizes: false,
    };
    let mut kind = 1;
    for field in fields(bytes, 0) {
        match field.map_err(bad)? {
            Field { number: 1, value: Value::Bytes(piece, at), .. } => {
                let (mut text, mut score, mut ty) = (&[][..], 0.0, 1);
                for field in fields(piece, at) {
                    match field.map_err(bad)? {
                        Field { number: 1, value: Value::Bytes(bytes, _) } => text = bytes,
                        Field { number: 2, value: Value::Fixed32(bits) } => score = f32::from_bits(bits),
                        Field { number: 3, value: Value::Varint(number) } => ty = number as i32,
                        _ => {}
                    }
                }
                model.vocabulary.push(text, score, ty);
            }
            Field { number: 2, value: Value::Bytes(trainer, at) } => {
                // Ids are int32: -1 (no such token) is a varint of ten bytes.
                let id = |number: u64| u32::try_from(number as i64).ok();
                for field in fields(trainer, at) {
                    match field.map_err(bad)? {
                        Field { number: 3, value: Value::Varint(number) } => kind = number,
                        Field { number: 40, value: Value::Varint(number) } => model.unknown = id(number),
                        Field { number: 41, value: Value::Varint(number) } => model.bos = id(number),
                        Field { number: 42, value: Value::Varint(number) } => model.eos = id(number),
                        _ => {}
                    }
                }
            }
            Field { number: 3, value: Value::Bytes(normalizer, at) } => {
                for field in fields(normalizer, at) {
                    match field.map_err(bad)? {
                        Field { number: 2, value: Value::Bytes(table, _) } => {
                            model.normalizes = !table.is_empty()
                        }
                        Field { number: 3, value: Value::Varint(number) } => model.dummy_prefix = number != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if model.vocabulary.tokens.is_empty() {
        return Err(bad(0));
    }
    if kind != BPE {
        let what = format!("a SentencePiece model of type {kind}, not BPE (2)");
        return Err(Error::unsupported(path, what, "this runtime has no unigram tokenizer"));
    }
    Ok(model)
}

struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    /// With their offset in the file.
    Bytes(&'a [u8], usize),
}

/// The fields of a message that starts at `offset` of the file; an error is an offset, and the last item.
fn fields(message: &[u8], offset: usize) -> impl Iterator<Item = Result<Field<'_>, usize>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = offset + message.len() - rest.len();
        let field = field(&mut rest, offset + message.len()).ok_or(at);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8], end: usize) -> Option<Field<'a>> {
    let key = varint(rest)?;
    let value = match key & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => {
            rest.split_off(..8)?;
            Value::Fixed64
        }
        2 => {
            let len = usize::try_from(varint(rest)?).ok()?;
            let at = end - rest.len();
            Value::Bytes(rest.split_off(..len)?, at)
        }
        5 => Value::Fixed32(u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?)),
        _ => return None,
    };
    Some(Field { number: key >> 3, value })
}

/// Seven bits a byte, low ones first, ten bytes at most.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(number: u8, bytes: &[u8]) -> Vec<u8> {
        assert!(bytes.len() < 128);
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    /// A model of `pieces` (text, score, type) without a dummy prefix.
    pub(crate) fn model(pieces: &[(&str, f32, u8)]) -> Vec<u8> {
        let piece = |(text, score, ty): &(&str, f32, u8)| {
            let parts = [
                message(1, text.as_bytes()),
                [&[2 << 3 | 5], &score.to_le_bytes()[..]].concat(),
                vec![3 << 3, *ty],
            ];
            message(1, &parts.concat())
        };
        let trainer = [3 << 3, 2, 41 << 3 & 0x7f | 0x80, 41 >> 4, 7];
        [pieces.iter().flat_map(piece).collect(), message(2, &trainer), message(3, &[3 << 3, 0])].concat()
    }

    #[test]
    fn fields_are_read_and_others_skipped() {
        let mut bytes = model(&[("<unk>", 0.0, 2), ("\u{2581}a", -1.5, 1)]);
        bytes.extend([9 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let model = read(Path::new("t"), &bytes).unwrap();
        assert_eq!(model.vocabulary.tokens[1], "\u{2581}a".as_bytes());
        assert_eq!((model.vocabulary.scores[1], model.vocabulary.types[0]), (-1.5, 2));
        assert_eq!(
            (model.bos, model.eos, model.dummy_prefix, model.normalizes),
            (Some(7), Some(2), false, false)
        );
    }

    #[test]
    fn damage_is_told_with_its_offset() {
        let message = |bytes: &[u8]| read(Path::new("t"), bytes).err().expect("refused").to_string();
        assert!(message(&[]).contains("at byte offset 0"));
        assert!(message(b"version https://git-lfs").contains("not a SentencePiece model"));
        let mut cut = model(&[("a", 0.0, 1)]);
        cut.truncate(5);
        assert!(message(&cut).contains("at byte offset 0"), "{}", message(&cut));
    }

    proptest! {
        #[test]
        fn hostile_models_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0usize..30, byte: u8) {
            let mut changed = model(&[("a", 0.0, 1), ("b", 0.0, 1)]);
            changed[at] = byte;
            for bytes in [bytes, changed] {
                if let Ok(model) = read(Path::new("t"), &bytes) {
                    prop_assert!(model.vocabulary.tokens.len() <= bytes.len());
                }
            }
        }
    }
}
