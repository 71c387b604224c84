//! Documents of strangers: receipts, a hub's answers, tokenizer models.

use crate::input::Input;
use bitnet_runtime::convert::sentencepiece;
use bitnet_runtime::models::spec::{Spec, safe_relative};
use bitnet_runtime::models::{http, hub};
use bitnet_runtime::tokenizer::{Bos, ControlTokens, SpecialTokens, TextPosition, Tokenizer, TokenizerSpec};
use std::path::{Component, Path};
use xtask::ci::lanes as pipeline;
use xtask::receipts::store;

pub fn receipt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match store::parse(&text) {
        Ok(receipt) => {
            let written = serde_json::to_string_pretty(&receipt).expect("a receipt is JSON");
            assert_eq!(store::parse(&written).as_ref(), Ok(&receipt), "read again");
        }
        Err(problem) => assert!(!problem.is_empty()),
    }
}

/// A pipeline's definition; an error says where.
pub fn lanes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match pipeline::parse(&text) {
        Ok(lanes) => {
            assert!(lanes.lanes.iter().all(|lane| lanes.lane(&lane.name).is_ok_and(|found| found == lane)));
            assert_eq!(pipeline::parse(&text).ok().as_ref(), Some(&lanes), "read again");
        }
        Err(error) => assert!(error.to_string().contains("line"), "{error}"),
    }
}

/// A redirect and the page it is on, a Retry-After, an address of a model, a list of files, all ended by 0xff.
pub fn hub(data: &[u8]) {
    let mut input = Input(data);
    let (base, location, wait, address) = (input.text(), input.text(), input.text(), input.text());
    if let Some(next) = http::join(&base, &location) {
        assert!(next.starts_with("http://") || next.starts_with("https://"), "{next}");
        assert!(http::origin(&next).is_some_and(|origin| !origin.contains('@')), "{next}");
        assert!(!next.chars().any(char::is_control), "{next:?}");
    }
    // Some time or none, whatever it says.
    let _ = http::retry_after(&wait);
    if let Ok(spec) = Spec::parse(&address) {
        let again = Spec::parse(&spec.to_string()).expect("an address reads as it is written");
        assert_eq!(again.to_string(), spec.to_string());
    }
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    match hub::parse_list(&text, "a/b") {
        Ok((commit, files)) => {
            assert!(commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert!(files.is_sorted() && files.len() <= 10_000);
            files.iter().for_each(|file| below(file));
        }
        Err(error) => assert!(error.to_string().starts_with("a/b")),
    }
    if safe_relative(&text).is_ok() {
        below(&text);
    }
}

/// Every part of a good relative path is a plain name.
fn below(path: &str) {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    assert!(Path::new(path).components().all(plain) && !path.contains(['\\', '\0']), "{path:?}");
}

pub fn sentencepiece(data: &[u8]) {
    let model = match sentencepiece::read(Path::new("fuzz.model"), data) {
        Ok(model) => model,
        Err(error) => return assert!(error.to_string().starts_with("fuzz.model"), "{error}"),
    };
    let pieces = &model.vocabulary;
    assert!(pieces.tokens.len() == pieces.scores.len() && pieces.tokens.len() == pieces.types.len());
    let total: usize = pieces.tokens.iter().map(Vec::len).sum();
    assert!(
        total <= data.len() && pieces.tokens.len() <= data.len(),
        "pieces of more bytes than the file has"
    );
    let spec = TokenizerSpec {
        model: "llama".into(),
        tokens: model.vocabulary.tokens,
        token_types: model.vocabulary.types,
        scores: model.vocabulary.scores,
        bos: model.bos,
        eos: model.eos,
        unknown: model.unknown,
        add_space_prefix: Some(model.dummy_prefix),
        ..TokenizerSpec::default()
    };
    let Ok((tokenizer, _)) = Tokenizer::new(spec, Path::new("fuzz.model")) else { return };
    if let Ok(ids) = tokenizer.encode(" a bé\n", SpecialTokens::Parse, Bos::AsFileAsks) {
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Show);
    }
}
