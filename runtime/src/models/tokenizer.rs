//! The tokenizer authority: which tokenizer a model file brings, and whether it fits the model.
//!
//! In: a file and its tokenizer; what the catalog says about it. Out: [`Vocabulary`], the numbers that must agree, and
//! [`Error::Mismatch`] where they do not. Deliberately absent: other places to take a tokenizer from; the file's own
//! is the only one that is used.

use crate::generate::load_tokenizer;
use crate::gguf::{Gguf, Mapping};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use bitforge_schema::catalog;
use serde::Serialize;
use std::path::Path;

/// Sizes of the vocabulary as different parts of a file state them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vocabulary {
    /// Entries of `tokenizer.ggml.tokens`.
    pub listed: usize,
    /// Without the padding at their end.
    pub real: usize,
    /// Rows of the embedding.
    pub embedding_rows: Option<u64>,
    /// Rows of the head; as the embedding where it is tied.
    pub head_rows: Option<u64>,
    /// `ARCHITECTURE.vocab_size`.
    pub key: Option<u32>,
}

impl Vocabulary {
    pub fn of(gguf: &Gguf, tokenizer: &Tokenizer) -> Self {
        let rows = |name: &str| {
            let info = gguf.tensors().iter().find(|info| info.name == name)?;
            info.dims.get(1).copied()
        };
        let architecture = gguf.opt_str("general.architecture").ok().flatten().unwrap_or_default();
        let listed = gguf.strings("tokenizer.ggml.tokens").map_or(0, |tokens| tokens.len());
        Vocabulary {
            listed,
            real: tokenizer.real_vocab_size(),
            embedding_rows: rows("token_embd.weight"),
            head_rows: rows("output.weight").or(rows("token_embd.weight")),
            key: gguf.opt_u32(&format!("{architecture}.vocab_size")).ok().flatten(),
        }
    }

    /// What does not fit together, in words.
    pub fn problems(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let mut problems = Vec::new();
        let Vocabulary { listed, real, .. } = *self;
        if let Some(rows) = self.embedding_rows.filter(|rows| *rows < listed as u64) {
            problems.push(format!("the tokenizer lists {listed} tokens, the embedding has {rows} rows"));
        }
        if let (Some(embedding), Some(head)) = (self.embedding_rows, self.head_rows)
            && embedding != head
        {
            problems.push(format!("the embedding has {embedding} rows, the head {head}"));
        }
        if let (Some(rows), Some(key)) = (self.embedding_rows, self.key)
            && rows != u64::from(key)
        {
            problems.push(format!("the vocab_size key says {key}, the embedding has {rows} rows"));
        }
        let ends = tokenizer.end_of_generation().iter().map(|id| ("an end of generation", *id));
        let named = [("BOS", tokenizer.bos()), ("EOS", tokenizer.eos())];
        let named = named.into_iter().filter_map(|(name, id)| Some((name, id?)));
        for (name, id) in named.chain(ends).filter(|(_, id)| *id as usize >= real) {
            problems.push(format!("{name} is token {id}, but there are {real} real tokens"));
        }
        problems
    }
}

/// Whether the tokenizer of the file fits the file's model and is the one that the catalog names.
pub fn check(
    gguf: &Gguf,
    tokenizer: &Tokenizer,
    expected: Option<&catalog::Tokenizer>,
) -> Result<Vocabulary> {
    let vocabulary = Vocabulary::of(gguf, tokenizer);
    let mut problems = vocabulary.problems(tokenizer);
    if let Some(expected) = expected {
        let (family, tokens) = (tokenizer.family(), vocabulary.real);
        if family != expected.family || tokens != expected.tokens as usize {
            problems.push(format!(
                "it is {family} with {tokens} tokens, the catalog says {} with {}",
                expected.family, expected.tokens
            ));
        }
    }
    match problems.is_empty() {
        true => Ok(vocabulary),
        false => Err(Error::mismatch(
            format!(
                "{}: the tokenizer does not fit the model: {}",
                gguf.path().display(),
                problems.join("; ")
            ),
            "convert the model again with its own tokenizer",
        )),
    }
}

/// As [`check`], for the file at `path`.
pub fn check_file(path: &Path, expected: &catalog::Tokenizer) -> Result<Vocabulary> {
    let gguf = Gguf::open(path, Mapping::Mmap)?;
    let (tokenizer, _) = load_tokenizer(&gguf)?;
    check(&gguf, &tokenizer, Some(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitforge_schema::exit::ExitCode;

    fn fixture() -> Gguf {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/ok/bitnet-b158-i2_s.gguf");
        Gguf::open(path, Mapping::Read).unwrap()
    }

    #[test]
    fn padding_is_told_from_real_tokens() {
        let gguf = fixture();
        let (tokenizer, _) = load_tokenizer(&gguf).unwrap();
        let vocabulary = check(&gguf, &tokenizer, None).unwrap();
        let Vocabulary { listed, real, embedding_rows, head_rows, key } = vocabulary;
        assert_eq!(
            (listed, real, embedding_rows, head_rows, key),
            (352, 349, Some(352), Some(352), Some(352))
        );
    }

    #[test]
    fn a_tokenizer_of_another_model_is_an_error() {
        let gguf = fixture();
        let (tokenizer, _) = load_tokenizer(&gguf).unwrap();
        let expected = catalog::Tokenizer { family: "llama3".into(), tokens: 128_256 };
        let error = check(&gguf, &tokenizer, Some(&expected)).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Mismatch);
        assert!(error.to_string().contains("llama3 with 349 tokens, the catalog says llama3 with 128256"));

        let fits = Vocabulary::of(&gguf, &tokenizer);
        for (wrong, says) in [
            (Vocabulary { embedding_rows: Some(300), ..fits.clone() }, "lists 352 tokens"),
            (Vocabulary { head_rows: Some(300), ..fits.clone() }, "the head 300"),
            (Vocabulary { key: Some(351), ..fits.clone() }, "key says 351"),
            (Vocabulary { real: 10, ..fits.clone() }, "there are 10 real tokens"),
        ] {
            assert!(wrong.problems(&tokenizer).iter().any(|problem| problem.contains(says)), "{says}");
        }
    }
}
