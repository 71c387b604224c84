//! The pre-tokenizer of a tokenizer.json, recognised by its own description.
//!
//! In: the `pre_tokenizer` value. Out: the name that `tokenizer.ggml.pre` gets. Expressions are compared as text:
//! one that is not in the table is an error for the caller to report, since a wrong pre-tokenizer cuts words in
//! other places than training did and nothing else would show it.
//!
//! Source: tokenizer.json of the families named, and llama.cpp's table of the same names.

use serde_json::Value;

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// The steps of known pre-tokenizers, as [`steps`] writes them.
fn known() -> [(&'static str, Vec<String>); 5] {
    let split = |expression: &str| format!("split {expression}");
    let (bytes, words) = ("bytes".to_owned(), "words and bytes".to_owned());
    [
        ("llama-bpe", vec![split(LLAMA3), bytes.clone()]),
        ("qwen2", vec![split(QWEN2), bytes]),
        ("gpt-2", vec![words.clone()]),
        ("smollm", vec!["each digit".into(), words.clone()]),
        ("falcon", vec!["punctuation".into(), words, "digits".into(), split("[0-9][0-9][0-9]")]),
    ]
}

/// The name of a pre-tokenizer, or its steps where it has none.
pub fn recognise(pre_tokenizer: &Value) -> Result<&'static str, String> {
    let mut found = Vec::new();
    steps(pre_tokenizer, &mut found);
    let name = known().into_iter().find(|(_, steps)| *steps == found).map(|(name, _)| name);
    name.ok_or_else(|| if found.is_empty() { "nothing".into() } else { found.join(", then ") })
}

/// Whether text becomes bytes, each with a printable character, before any merge.
pub fn is_byte_level(value: &Value) -> bool {
    let parts = |key: &str| value[key].as_array().is_some_and(|parts| parts.iter().any(is_byte_level));
    value["type"] == "ByteLevel" || parts("pretokenizers") || parts("decoders")
}

fn steps(value: &Value, out: &mut Vec<String>) {
    let yes = |key: &str| value[key].as_bool();
    match value["type"].as_str() {
        Some("Sequence") => {
            value["pretokenizers"].as_array().into_iter().flatten().for_each(|part| steps(part, out));
        }
        Some("Split") if value["behavior"] == "Isolated" && yes("invert") != Some(true) => {
            let pattern = value["pattern"]["Regex"].as_str().or_else(|| value["pattern"]["String"].as_str());
            out.push(format!("split {}", pattern.unwrap_or("nothing")));
        }
        Some("ByteLevel") if yes("add_prefix_space") != Some(true) => {
            out.push(if yes("use_regex") == Some(false) { "bytes".into() } else { "words and bytes".into() });
        }
        Some("Digits") => {
            out.push(if yes("individual_digits") == Some(true) {
                "each digit".into()
            } else {
                "digits".into()
            });
        }
        Some("Punctuation") if value["behavior"] == "Contiguous" => out.push("punctuation".into()),
        _ if value.is_null() => {}
        _ => out.push(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn byte_level(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn sequence(parts: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": parts})
    }

    fn split(expression: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
    }

    #[test]
    fn families_are_told_apart() {
        let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
        for (name, value) in [
            ("llama-bpe", sequence(&[split(LLAMA3), byte_level(false)])),
            ("qwen2", sequence(&[split(QWEN2), byte_level(false)])),
            ("gpt-2", byte_level(true)),
            ("gpt-2", json!({"type": "ByteLevel", "add_prefix_space": false})),
            ("smollm", sequence(&[digits(true), byte_level(true)])),
            (
                "falcon",
                sequence(&[
                    json!({"type": "Punctuation", "behavior": "Contiguous"}),
                    byte_level(true),
                    digits(false),
                    split("[0-9][0-9][0-9]"),
                ]),
            ),
        ] {
            assert_eq!(recognise(&value), Ok(name), "{value}");
            assert!(is_byte_level(&value));
        }
    }

    #[test]
    fn others_are_shown() {
        let near = LLAMA3.replace("{1,3}", "{1,2}");
        let error = recognise(&sequence(&[split(&near), byte_level(false)])).unwrap_err();
        assert!(error.contains(r"\p{N}{1,2}") && error.ends_with("then bytes"), "{error}");
        assert_eq!(recognise(&Value::Null), Err("nothing".into()));
        assert!(recognise(&json!({"type": "Metaspace"})).unwrap_err().contains("Metaspace"));
    }
}
