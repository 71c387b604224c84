//! Good files that targets start from; they are part of the binary, so that it needs no checkout.

use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::tokenizer::{Tokenizer, TokenizerSpec};
use std::path::Path;
use std::sync::OnceLock;

macro_rules! models {
    ($($name:literal),+ $(,)?) => {
        /// Models of every kind of weights that are packed in a way of their own, with their names.
        pub const MODELS: &[(&str, &[u8])] =
            &[$(($name, include_bytes!(concat!("../../../../fixtures/gguf/ok/", $name, ".gguf")))),+];
    };
}
models!(
    "llama-q4_0",
    "llama-f16",
    "bitnet-i2_s",
    "bitnet-tl1",
    "bitnet-tl2",
    "bitnet-tq1_0",
    "bitnet-q2_0",
    "llama-q2_k",
);

/// The model that the server of the HTTP targets has.
pub fn served() -> Gguf {
    Gguf::from_bytes("served.gguf", MODELS[0].1).expect("a committed fixture is a good file")
}

/// The three tokenizers of the text targets: byte-level BPE with llama-3's words, SentencePiece with byte tokens, and
/// SentencePiece that puts a space before a text.
pub fn tokenizers() -> &'static [Tokenizer; 3] {
    static ALL: OnceLock<[Tokenizer; 3]> = OnceLock::new();
    ALL.get_or_init(|| {
        let bpe = bitnet_runtime::generate::load_tokenizer(&served())
            .expect("a committed fixture has a tokenizer")
            .0;
        [bpe, make(sentencepiece(false)), make(sentencepiece(true))]
    })
}

fn make(spec: TokenizerSpec) -> Tokenizer {
    Tokenizer::new(spec, Path::new("base")).expect("a well-made vocabulary").0
}

/// `<unk>`, `<s>`, `</s>`, the 256 bytes, ASCII letters, and some words over them.
pub fn sentencepiece(add_space_prefix: bool) -> TokenizerSpec {
    let mut spec = TokenizerSpec {
        model: "llama".into(),
        add_space_prefix: Some(add_space_prefix),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..TokenizerSpec::default()
    };
    let mut push = |text: &[u8], score: f32, ty: i32| {
        spec.tokens.push(text.to_vec());
        spec.scores.push(score);
        spec.token_types.push(ty);
    };
    push(b"<unk>", 0.0, 2);
    push(b"<s>", 0.0, 3);
    push(b"</s>", 0.0, 3);
    (0..=255u8).for_each(|byte| push(format!("<0x{byte:02X}>").as_bytes(), 0.0, 6));
    let letters =
        (b' '..=b'~').map(|byte| if byte == b' ' { "▁".to_owned() } else { char::from(byte).to_string() });
    letters.chain(["é".to_owned(), "日".to_owned()]).for_each(|letter| push(letter.as_bytes(), -1000.0, 1));
    let words = [
        "▁t", "he", "▁the", "in", "er", "▁a", "on", "re", "▁▁", "an", "at", "▁b", "é日", "ab", "aab", "ba",
        "aa",
    ];
    words.iter().zip(1u8..).for_each(|(word, rank)| push(word.as_bytes(), -f32::from(rank), 1));
    spec
}
