//! The prompt: where its text or its token ids come from, the chat template around it, and its token ids.

use super::args::{ChatArgs, PromptArgs};
use bitnet_runtime::chat::{AddGenerationPrompt, ChatContext, ChatMode, ChatTemplate, Message, Role};
use bitnet_runtime::tokenizer::{Bos, SpecialTokens, Tokenizer};
use bitnet_runtime::{Error, Result};
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

pub struct Prompt {
    pub tokens: Vec<u32>,
    /// The template that was applied, `None` without `--chat`.
    pub template: Option<&'static str>,
    /// Stop strings that the template needs.
    pub stop_texts: &'static [&'static str],
}

/// A prompt as it was given.
pub enum Source {
    Text(String),
    Tokens(Vec<u32>),
}

/// Token ids of a text, wrapped as `chat` asks; special tokens are parsed, BOS is added as the file asks. Given ids
/// stay as they are. `path` is the model's.
pub fn encode(source: Source, chat: &ChatArgs, tokenizer: &Tokenizer, path: &Path) -> Result<Prompt> {
    let text = match source {
        Source::Text(text) => text,
        Source::Tokens(tokens) => {
            let size = tokenizer.vocab_size();
            if let Some(id) = tokens.iter().find(|id| **id as usize >= size) {
                let what = format!("token {id} of --prompt-tokens is outside the vocabulary of {size}");
                return Err(Error::usage(what, "tokenize with this model's own tokenizer"));
            }
            return Ok(Prompt { tokens, template: None, stop_texts: &[] });
        }
    };
    let encode = |text: &str| tokenizer.encode(text, SpecialTokens::Parse, Bos::AsFileAsks);
    let Some(mode) = chat.chat else {
        return Ok(Prompt { tokens: encode(&text)?, template: None, stop_texts: &[] });
    };
    let template = template(mode, tokenizer, path)?;
    let system = chat.system.iter().map(|system| Message::new(Role::System, system.as_str()));
    let messages: Vec<Message> = system.chain([Message::new(Role::User, text)]).collect();
    let tokens = encode_messages(&template, &messages, tokenizer)?;
    Ok(Prompt { tokens, template: Some(template.name()), stop_texts: template.stop_texts() })
}

/// The template that `mode` means for the model at `path`.
pub fn template(mode: ChatMode, tokenizer: &Tokenizer, path: &Path) -> Result<ChatTemplate> {
    ChatTemplate::choose(mode, tokenizer.chat_template(), tokenizer.family(), path)
}

/// Token ids of a conversation, up to where the model's answer begins.
pub fn encode_messages(
    template: &ChatTemplate,
    messages: &[Message],
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>> {
    let token =
        |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned());
    let context = ChatContext {
        bos_token: token(tokenizer.bos()).unwrap_or_default(),
        eos_token: token(tokenizer.eos()).unwrap_or_default(),
        now: SystemTime::now(),
    };
    let text = template.render(messages, AddGenerationPrompt::Yes, &context)?;
    tokenizer.encode(&text, SpecialTokens::Parse, Bos::AsFileAsks)
}

/// The ids of `--prompt-tokens`, or the text of the other arguments.
pub fn source(args: &PromptArgs) -> Result<Source> {
    match &args.prompt_tokens {
        Some(tokens) => Ok(Source::Tokens(tokens.clone())),
        None => text(args).map(Source::Text),
    }
}

/// The text of `--prompt`, of stdin, or of `--prompt-file`; from the latter two one final newline is dropped,
/// which editors and `echo` add.
fn text(args: &PromptArgs) -> Result<String> {
    match (&args.prompt, &args.prompt_file) {
        (_, Some(path)) => file_text(path),
        (Some(prompt), None) if prompt != "-" => Ok(prompt.clone()),
        _ => file_text(Path::new("-")),
    }
}

/// The text of a file, or of stdin for `-`, without one final newline.
pub fn file_text(path: &Path) -> Result<String> {
    let (path, bytes) = match path == Path::new("-") {
        false => (path, std::fs::read(path)),
        true => {
            let mut bytes = Vec::new();
            (Path::new("<stdin>"), std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes))
        }
    };
    let mut text = String::from_utf8(bytes.map_err(|e| Error::io(path, e))?).map_err(|e| {
        let at = e.utf8_error().valid_up_to() as u64;
        Error::malformed(path, at, "the text is not UTF-8", "convert it to UTF-8")
    })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// A stop string with `\n`, `\t` and `\\` replaced; other backslashes stay.
pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let rest = chars.as_str();
        let replacement = match (c, rest.chars().next()) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('t')) => '\t',
            ('\\', Some('\\')) => '\\',
            _ => {
                out.push(c);
                continue;
            }
        };
        out.push(replacement);
        chars.next();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_in_stop_strings() {
        assert_eq!(unescape(r"\n\n"), "\n\n");
        assert_eq!(unescape(r"a\\n\tb\x"), "a\\n\tb\\x");
        assert_eq!(unescape(r"end\"), r"end\");
    }
}
