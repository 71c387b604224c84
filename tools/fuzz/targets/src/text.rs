//! Text: tokenizers there and back, streams, and the rules that end an answer.

use crate::bases::tokenizers;
use crate::input::Input;
use bitnet_runtime::generate::{FinishReason, MAX_STOP_BYTES, StopMachine, StopRules, TokenClass};
use bitnet_runtime::tokenizer::{Bos, ControlTokens, SpecialTokens, TextPosition, Tokenizer, TokenizerSpec};
use std::path::Path;

/// Longer texts are encoded once, so that what an input takes is what its text takes.
const LONG: usize = 64 << 10;

/// The first byte: which tokenizer, whether special tokens are parsed, or a vocabulary of the input's own.
pub fn encode(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    if how & 0x80 != 0 {
        return own_vocabulary(&mut input);
    }
    let index = usize::from(how & 3) % 3;
    let tokenizer = &tokenizers()[index];
    let special = if how & 4 == 0 { SpecialTokens::AsText } else { SpecialTokens::Parse };
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let ids = tokenizer.encode(&text, special, Bos::Never).expect("every byte has a token");
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.real_vocab_size()));
    // SentencePiece puts spaces after special tokens, and cannot tell its own sign for a space from one.
    if index == 0 || special == SpecialTokens::AsText && !text.contains('\u{2581}') {
        assert_eq!(tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Show), text);
    }
    if text.len() > LONG {
        return;
    }
    let with_bos = tokenizer.encode(&text, special, Bos::AsFileAsks).expect("as before");
    let added = with_bos.len() - ids.len();
    assert!(added <= 1 && with_bos[added..] == ids, "BOS is all that is added");
}

/// A vocabulary of any pieces: refused, or ids that lie inside it.
fn own_vocabulary(input: &mut Input<'_>) {
    let flags = input.byte();
    let count = input.below(600);
    let mut spec = TokenizerSpec {
        model: if flags & 1 == 0 { "gpt2" } else { "llama" }.into(),
        pre: (flags & 2 != 0)
            .then(|| ["llama-bpe", "qwen2", "smollm", "falcon"][usize::from(flags >> 6)].into()),
        add_bos: (flags & 4 != 0).then_some(flags & 8 != 0),
        bos: (flags & 16 != 0).then(|| input.u32()),
        eos: (flags & 32 != 0).then(|| u32::from(input.byte())),
        ..TokenizerSpec::default()
    };
    for _ in 0..count {
        let piece = input.piece();
        if flags & 1 == 0 && piece.contains(&b' ') {
            spec.merges.push(String::from_utf8_lossy(piece).into_owned());
        } else {
            spec.tokens.push(piece.to_vec());
        }
        if input.is_empty() {
            break;
        }
    }
    if flags & 1 != 0 {
        spec.scores =
            spec.tokens.iter().map(|text| text.first().map_or(0.0, |byte| -f32::from(*byte))).collect();
    }
    if flags & 8 != 0 {
        spec.token_types =
            spec.tokens.iter().map(|text| text.last().map_or(1, |byte| i32::from(byte % 8))).collect();
    }
    let Ok((tokenizer, _)) = Tokenizer::new(spec, Path::new("fuzz")) else { return };
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
        if special == SpecialTokens::AsText && text.len() > LONG {
            break;
        }
        let Ok(ids) = tokenizer.encode(&text, special, Bos::AsFileAsks) else { continue };
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids, TextPosition::Start, ControlTokens::Show);
    }
}

/// Ids of two bytes, some outside the vocabulary.
pub fn decode(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let index = usize::from(how & 3) % 3;
    let tokenizer = &tokenizers()[index];
    let position = if how & 4 == 0 { TextPosition::Start } else { TextPosition::Continuation };
    let control = if how & 8 == 0 { ControlTokens::Show } else { ControlTokens::Hide };
    let mut stream = tokenizer.stream(position, control);
    let (mut pieces, mut bytes) = (String::new(), Vec::new());
    let mut strip = position == TextPosition::Start && index == 2;
    while !input.is_empty() {
        let id = input.below(tokenizer.vocab_size() + 4) as u32;
        let piece = stream.push(id);
        assert!(
            piece.len() <= 3 * tokenizer.token_bytes(id).len() + 9,
            "a piece is its token's, and what waited"
        );
        pieces.push_str(&piece);
        let own = tokenizer.token_bytes(id);
        // Id 0 of the SentencePiece vocabularies is the unknown token.
        let hidden = tokenizer.is_control(id) || index > 0 && id == 0;
        if !hidden {
            let taken = if std::mem::take(&mut strip) { own.strip_prefix(b" ").unwrap_or(own) } else { own };
            bytes.extend(taken);
        } else if control == ControlTokens::Show {
            bytes.extend(own);
        }
    }
    pieces.push_str(&stream.finish());
    assert_eq!(pieces, String::from_utf8_lossy(&bytes));
}

/// Up to four stop texts, then pieces, all ended by 0xff.
pub fn stop(data: &[u8]) {
    let mut input = Input(data);
    let (count, max_tokens) = (input.byte() % 5, usize::from(input.u16()));
    let strings: Vec<String> = (0..count).map(|_| input.text()).collect();
    let mut pieces = Vec::new();
    while !input.is_empty() {
        pieces.push(input.text());
    }
    let rules = StopRules { token_ids: vec![7], max_tokens, strings: strings.clone() };
    if strings.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
        return assert!(StopMachine::new(rules).is_err(), "an empty or endless stop text is refused");
    }
    pieces.truncate(max_tokens);
    let run = |pieces: &[&str]| {
        let rules = StopRules { max_tokens: pieces.len() + 1, ..rules.clone() };
        let mut machine = StopMachine::new(rules).expect("no empty text");
        let (mut shown, mut reason) = (String::new(), None);
        for piece in pieces {
            reason = machine.push(1, TokenClass::Text, piece, &mut shown);
            if reason.is_some() {
                break;
            }
        }
        machine.finish("", &mut shown);
        (shown, reason)
    };
    let borrowed: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let whole = pieces.concat();
    let (shown, reason) = run(&borrowed);
    // Naively: of all occurrences the one that ends first, and of those the longest.
    let found = strings.iter().filter_map(|s| whole.find(s.as_str()).map(|at| (at + s.len(), at, s))).min();
    match found {
        Some((_, at, string)) => {
            assert_eq!(shown, whole[..at], "what is before {string:?}");
            assert_eq!(reason, Some(FinishReason::StopString { string: string.clone() }));
        }
        None => assert_eq!((shown.as_str(), &reason), (whole.as_str(), &None)),
    }
    assert_eq!(run(&[&whole]), (shown, reason), "how the text is cut");
}
