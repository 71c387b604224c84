//! Equality with llama.cpp on the vocabularies under fixtures/tokenizer, and laws that hold for any text.
//!
//! `TOKENIZER_FIXTURES=DIR` makes the equality test read another directory of the same form, such as one with
//! whole vocabularies (tools/goldens/tokenizer_check.py makes and runs it).

use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use std::fs;
use std::sync::LazyLock;

#[derive(Deserialize)]
struct Fixture {
    model: String,
    pre: Option<String>,
    tokens: Vec<String>,
    token_types: Vec<i32>,
    scores: Vec<f32>,
    merges: Vec<String>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    add_space_prefix: Option<bool>,
    vocab_size: Option<u32>,
    /// The token's id in the whole vocabulary.
    ids: Vec<u32>,
}

impl Fixture {
    fn read(path: &Path) -> Fixture {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn spec(&self) -> TokenizerSpec {
        TokenizerSpec {
            model: self.model.clone(),
            pre: self.pre.clone(),
            tokens: self.tokens.iter().map(|text| text.clone().into_bytes()).collect(),
            token_types: self.token_types.clone(),
            scores: self.scores.clone(),
            merges: self.merges.clone(),
            bos: self.bos,
            eos: self.eos,
            eot: self.eot,
            unknown: self.unknown,
            padding: self.padding,
            add_bos: self.add_bos,
            add_eos: self.add_eos,
            add_space_prefix: self.add_space_prefix,
            vocab_size: self.vocab_size,
            chat_template: None,
        }
    }
}

fn fixtures() -> PathBuf {
    let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tokenizer");
    std::env::var_os("TOKENIZER_FIXTURES").map_or_else(committed, PathBuf::from)
}

fn committed(name: &str) -> Fixture {
    Fixture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/tokenizer/{name}.json")))
}

fn build(spec: TokenizerSpec) -> (Tokenizer, Vec<String>) {
    Tokenizer::new(spec, Path::new("model.gguf")).unwrap()
}

fn refused(spec: TokenizerSpec) -> String {
    Tokenizer::new(spec, Path::new("model.gguf")).err().expect("must be refused").to_string()
}

/// The texts of `inputs` against the id lines of `outputs`; the number of texts.
fn compare(
    tokenizer: &Tokenizer,
    ids: &[u32],
    inputs: &Path,
    outputs: &Path,
    mode: (SpecialTokens, Bos),
) -> usize {
    let (texts, lines) = (fs::read_to_string(inputs).unwrap(), fs::read_to_string(outputs).unwrap());
    let separator = "\n__ggml_vocab_test__\n";
    let texts: Vec<&str> = texts.strip_suffix(separator).unwrap_or(&texts).split(separator).collect();
    assert_eq!(texts.len(), lines.lines().count(), "{}", outputs.display());
    for (text, line) in texts.iter().zip(lines.lines()) {
        let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let got: Vec<u32> =
            tokenizer.encode(text, mode.0, mode.1).unwrap().iter().map(|id| ids[*id as usize]).collect();
        assert_eq!(got, expected, "{}: {text:?}", outputs.display());
    }
    texts.len()
}

#[test]
fn ids_equal_llama_cpp() {
    let dir = fixtures();
    let mut compared = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let fixture = Fixture::read(&path);
        let (tokenizer, _) = build(fixture.spec());
        let plain = (SpecialTokens::AsText, Bos::Never);
        let pairs = dir.join("llama.cpp.inp");
        let count = compare(&tokenizer, &fixture.ids, &pairs, &path.with_extension("out"), plain);
        let (full, outputs) = ((SpecialTokens::Parse, Bos::AsFileAsks), path.with_extension("extra.out"));
        let more = match outputs.exists() {
            true => compare(&tokenizer, &fixture.ids, &dir.join("extra.inp"), &outputs, full),
            false => 0,
        };
        compared.push((path.file_stem().unwrap().to_string_lossy().into_owned(), count, more));
    }
    compared.sort();
    println!("{compared:?}");
    assert!(compared.len() >= 10, "fixtures are missing: {compared:?}");
    assert!(compared.iter().all(|(name, pairs, extra)| *pairs == 46 && (*extra > 50 || name == "phi-3")));
}

static SMOLLM: LazyLock<Tokenizer> = LazyLock::new(|| build(committed("smollm").spec()).0);
static LLAMA_SPM: LazyLock<Tokenizer> = LazyLock::new(|| build(committed("llama-spm").spec()).0);
static LLAMA_BPE: LazyLock<Tokenizer> = LazyLock::new(|| build(committed("llama-bpe").spec()).0);

/// Any text, and text made of what tokenizers stumble over.
fn text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "▁",
        "Ġ",
        "<|im_end|>",
        "<s>",
        "</s>",
        "<0x41>",
        "'ll",
        "12345",
        "🦙",
        "\u{301}",
        "\u{3000}",
        "日本",
        "the",
        "\0",
    ]);
    prop_oneof![any::<String>(), prop::collection::vec(odd, 0..24).prop_map(|parts| parts.concat())]
}

proptest! {
    #[test]
    fn byte_level_bpe_round_trips_any_text(text in text()) {
        for tokenizer in [&*SMOLLM, &*LLAMA_BPE] {
            for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                let ids = tokenizer.encode(&text, special, Bos::Never).unwrap();
                prop_assert_eq!(tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Show), text.as_str());
            }
        }
    }

    /// U+2581 stands for a space, so it does not survive; the space before the text is taken off again.
    #[test]
    fn sentencepiece_round_trips_any_text(text in text()) {
        let ids = LLAMA_SPM.encode(&text, SpecialTokens::AsText, Bos::AsFileAsks).unwrap();
        let back = LLAMA_SPM.decode(&ids, TextPosition::Start, ControlTokens::Hide);
        prop_assert_eq!(back, text.replace('▁', " "));
    }

    /// Any ids at all, also ones that cut characters apart or lie outside the vocabulary.
    #[test]
    fn streaming_equals_decoding_at_once(ids in prop::collection::vec(0u32..6000, 0..40), hide in any::<bool>()) {
        let control = if hide { ControlTokens::Hide } else { ControlTokens::Show };
        for tokenizer in [&*SMOLLM, &*LLAMA_SPM] {
            let shown = |id: &&u32| {
                !hide || !matches!(tokenizer.vocab.kind(**id), Some(Kind::Control | Kind::Unknown))
            };
            let bytes: Vec<u8> =
                ids.iter().filter(shown).flat_map(|id| tokenizer.token_bytes(*id)).copied().collect();
            let whole = tokenizer.decode(&ids, TextPosition::Continuation, control);
            prop_assert_eq!(whole, String::from_utf8_lossy(&bytes));
        }
    }

    /// Every piece is whole characters: U+FFFD appears only where the text itself has it.
    #[test]
    fn streaming_never_splits_a_character(text in "[a-z 🦙日é\u{301}👩‍👧]{0,20}") {
        for tokenizer in [&*SMOLLM, &*LLAMA_SPM, &*LLAMA_BPE] {
            let ids = tokenizer.encode(&text, SpecialTokens::AsText, Bos::Never).unwrap();
            let mut stream = tokenizer.stream(TextPosition::Start, ControlTokens::Show);
            let pieces: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
            let split = pieces.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
            prop_assert!(!split);
            prop_assert_eq!(stream.finish(), "");
            prop_assert_eq!(pieces.concat(), text.as_str());
        }
    }
}

#[test]
fn bos_is_added_once() {
    let bos = LLAMA_BPE.bos().unwrap();
    let once = LLAMA_BPE.encode("Hello", SpecialTokens::Parse, Bos::AsFileAsks).unwrap();
    let written = LLAMA_BPE.encode("<|begin_of_text|>Hello", SpecialTokens::Parse, Bos::AsFileAsks).unwrap();
    assert_eq!(once, written);
    assert_eq!(once.iter().filter(|id| **id == bos).count(), 1);
    assert_eq!(LLAMA_BPE.encode("Hello", SpecialTokens::Parse, Bos::Never).unwrap(), once[1..]);
    assert_eq!(LLAMA_BPE.encode("", SpecialTokens::Parse, Bos::AsFileAsks).unwrap(), [bos]);
    assert!(!SMOLLM.adds_bos());
    assert!(SMOLLM.encode("", SpecialTokens::Parse, Bos::AsFileAsks).unwrap().is_empty());
}

#[test]
fn families_and_ends_of_generation() {
    let end = |tokenizer: &Tokenizer, text| tokenizer.is_end_of_generation(tokenizer.token_id(text).unwrap());
    assert_eq!((SMOLLM.family(), LLAMA_SPM.family(), LLAMA_BPE.family()), ("smollm", "llama-spm", "llama3"));
    assert!(end(&SMOLLM, "<|im_end|>") && end(&SMOLLM, "<|endoftext|>") && !end(&SMOLLM, "<|im_start|>"));
    assert!(end(&LLAMA_BPE, "<|eot_id|>") && end(&LLAMA_BPE, "<|end_of_text|>"));
    assert!(!end(&LLAMA_BPE, "<|begin_of_text|>"));
    assert_eq!(LLAMA_BPE.end_of_turn(), LLAMA_BPE.token_id("<|eot_id|>"));
    assert!(end(&LLAMA_SPM, "</s>") && !end(&LLAMA_SPM, "<s>"));
}

#[test]
fn sentencepiece_strips_its_own_space_at_the_start_only() {
    let ids = LLAMA_SPM.encode("Hello world", SpecialTokens::Parse, Bos::AsFileAsks).unwrap();
    assert_eq!(LLAMA_SPM.decode(&ids, TextPosition::Start, ControlTokens::Hide), "Hello world");
    assert_eq!(LLAMA_SPM.decode(&ids, TextPosition::Start, ControlTokens::Show), "<s>Hello world");
    assert_eq!(LLAMA_SPM.decode(&ids, TextPosition::Continuation, ControlTokens::Hide), " Hello world");
}

/// A byte-level vocabulary of single bytes, `extra` tokens after them, padded to `len` tokens.
fn bytes_and(extra: &[&str], len: usize) -> TokenizerSpec {
    let bytes = vocab::char_of_byte().map(|c| c.to_string().into_bytes());
    let mut tokens: Vec<Vec<u8>> = bytes.into_iter().chain(extra.iter().map(|text| (*text).into())).collect();
    let mut token_types = vec![1; tokens.len()];
    token_types.resize(len.max(tokens.len()), 5);
    tokens.extend((tokens.len()..len).map(|id| format!("[PAD{id}]").into_bytes()));
    TokenizerSpec { model: "gpt2".into(), tokens, token_types, ..Default::default() }
}

#[test]
fn a_missing_pre_tokenizer_is_default_unless_the_vocabulary_is_llama_3s() {
    let text = "12345\n\nx";
    let merges = || vec!["1 2".to_string(), "12 3".into(), "4 5".into(), "Ċ Ċ".into()];
    let (tokenizer, warnings) =
        build(TokenizerSpec { merges: merges(), ..bytes_and(&["12", "123", "45", "ĊĊ"], 300) });
    assert!(warnings[0].contains("no tokenizer.ggml.pre, using default"), "{warnings:?}");
    assert_eq!(tokenizer.family(), "default");
    assert_eq!(tokenizer.encode(text, SpecialTokens::Parse, Bos::Never).unwrap().len(), 5);

    let extra = ["12", "123", "45", "ĊĊ", "<|begin_of_text|>", "<|eot_id|>"];
    let mut spec = TokenizerSpec { merges: merges(), bos: Some(260), ..bytes_and(&extra, 128_256) };
    let (tokenizer, warnings) = build(spec.clone());
    assert!(warnings[0].contains("using llama-bpe: its vocabulary is llama-3's"), "{warnings:?}");
    assert_eq!(tokenizer.family(), "llama3");
    assert_eq!(
        tokenizer.encode(text, SpecialTokens::Parse, Bos::AsFileAsks).unwrap(),
        [260, 257, 258, 259, 120]
    );

    spec.pre = Some("default".into());
    let (tokenizer, warnings) = build(spec);
    assert_eq!((tokenizer.family(), warnings.len()), ("llama3", 0));
    assert_eq!(tokenizer.encode(text, SpecialTokens::Parse, Bos::Never).unwrap().len(), 5);
}

#[test]
fn padding_is_told_apart_from_the_vocabulary() {
    let spec =
        TokenizerSpec { pre: Some("qwen2".into()), vocab_size: Some(320), ..bytes_and(&["<|im_end|>"], 300) };
    let (tokenizer, warnings) = build(spec);
    assert_eq!((tokenizer.real_vocab_size(), tokenizer.vocab_size()), (257, 320));
    assert_eq!(warnings, [] as [&str; 0]);
    assert_eq!(tokenizer.decode(&[64, 299, 310, 65], TextPosition::Start, ControlTokens::Show), "@A");
    // A token type that the file forgot: the text says what it is.
    assert!(tokenizer.is_end_of_generation(256));
    assert_eq!(tokenizer.decode(&[256], TextPosition::Start, ControlTokens::Hide), "");
}

#[test]
fn a_vocabulary_that_cannot_work_is_refused() {
    let pre = Some("gpt-2".to_string());
    let good = || TokenizerSpec { pre: pre.clone(), ..bytes_and(&["ab"], 0) };
    let with_merge = || TokenizerSpec { merges: vec!["a b".into()], ..good() };
    build(with_merge());
    assert!(
        refused(TokenizerSpec { model: "bert".into(), ..good() }).contains("supported are gpt2 and llama")
    );
    let unknown = refused(TokenizerSpec { pre: Some("kimi-k2".into()), ..with_merge() });
    assert!(
        unknown.contains("\"kimi-k2\"")
            && unknown.contains("llama-bpe, llama3")
            && unknown.contains("default")
    );
    assert!(refused(good()).contains("tokenizer.ggml.merges is missing"));
    assert!(refused(TokenizerSpec { eos: Some(257), ..with_merge() }).contains("eos_token_id is 257"));
    assert!(refused(TokenizerSpec { add_bos: Some(true), ..with_merge() }).contains("does not name"));
    assert!(
        refused(TokenizerSpec { token_types: vec![1], ..with_merge() }).contains("tokenizer.ggml.token_type")
    );
    assert!(
        refused(TokenizerSpec { tokens: vec![], token_types: vec![], ..good() }).contains("has 0 entries")
    );
    let twice = TokenizerSpec { tokens: vec![b"a".to_vec(), b"a".to_vec()], token_types: vec![], ..good() };
    assert!(refused(twice).contains("tokens 0 and 1 have the same text"));
    let spm = TokenizerSpec { model: "llama".into(), tokens: vec![b"a".to_vec()], ..Default::default() };
    assert!(refused(spm.clone()).contains("tokenizer.ggml.scores"));
    let nan = TokenizerSpec { scores: vec![f32::NAN], ..spm.clone() };
    assert!(refused(nan).contains("not a number"));
    let byte = TokenizerSpec { scores: vec![0.0], token_types: vec![6], ..spm };
    assert!(refused(byte).contains("token 0 is a byte but reads \"a\""));
}

#[test]
fn what_the_vocabulary_cannot_spell_is_an_error_or_the_unknown_token() {
    let tokens: Vec<Vec<u8>> = [b"<unk>".as_slice(), "▁".as_bytes(), b"a"].map(<[u8]>::to_vec).into();
    let spec = TokenizerSpec {
        model: "llama".into(),
        token_types: vec![2, 1, 1],
        scores: vec![0.0; 3],
        tokens,
        ..Default::default()
    };
    let (tokenizer, _) = build(spec.clone());
    assert_eq!(tokenizer.encode("aéa", SpecialTokens::Parse, Bos::Never).unwrap(), [1, 2, 0, 2]);
    let (tokenizer, _) = build(TokenizerSpec {
        tokens: vec![b"x".to_vec(), "▁".as_bytes().to_vec(), b"a".to_vec()],
        ..spec
    });
    let message = tokenizer.encode("aéa", SpecialTokens::Parse, Bos::Never).unwrap_err().to_string();
    assert!(message.contains("no token for the byte 0xc3"), "{message}");
    let message = SMOLLM.encode("a\u{4}b", SpecialTokens::Parse, Bos::Never).unwrap_err().to_string();
    assert!(message.contains("no token for the byte 0x04"), "{message}");
}

#[test]
fn long_hostile_words_take_no_quadratic_time() {
    for tokenizer in [&*SMOLLM, &*LLAMA_SPM, &*LLAMA_BPE] {
        for unit in ["a", " ", "\n", "-", "日", "0"] {
            let text = unit.repeat(100_000);
            let ids = tokenizer.encode(&text, SpecialTokens::Parse, Bos::Never).unwrap();
            assert_eq!(tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Show), text);
        }
    }
}
