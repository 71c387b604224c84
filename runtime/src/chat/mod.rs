//! Chat templates: a conversation becomes the prompt text that a model was trained on.
//!
//! In: messages, and the template of the GGUF file (Jinja, in `jinja`) or one of the built-in ones. Out: text
//! to encode with special tokens parsed; where it begins with BOS, [`crate::tokenizer`] adds no second one.
//! [`ChatMode`] is what `--chat` takes; [`ChatTemplate::choose`] turns it into a template. Deliberately absent:
//! tools and documents (templates see them as `none`), as no supported model calls tools yet.

mod budget;
mod folding;
mod jinja;
mod strftime;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The values of `--chat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChatMode {
    /// The file's template, else llama3-chat for a llama-3 vocabulary, else instruct.
    #[default]
    Auto,
    /// The messages as they are, without any markup.
    Raw,
    /// `Q: ...` and `A: ...` lines, for models that know no chat markup.
    Instruct,
    /// The llama-3 headers.
    Llama3Chat,
    /// The file's own Jinja template.
    Gguf,
}

impl ChatMode {
    pub const ALL: [ChatMode; 5] =
        [ChatMode::Auto, ChatMode::Raw, ChatMode::Instruct, ChatMode::Llama3Chat, ChatMode::Gguf];

    pub const fn name(self) -> &'static str {
        match self {
            ChatMode::Auto => "auto",
            ChatMode::Raw => "raw",
            ChatMode::Instruct => "instruct",
            ChatMode::Llama3Chat => "llama3-chat",
            ChatMode::Gguf => "gguf",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message { role, content: content.into() }
    }
}

/// Whether the text ends with what opens the model's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddGenerationPrompt {
    Yes,
    No,
}

/// What templates may ask for besides the messages.
#[derive(Clone, Debug)]
pub struct ChatContext {
    /// Text of the BOS token, empty where the file names none.
    pub bos_token: String,
    pub eos_token: String,
    /// What `strftime_now` reads, in UTC.
    pub now: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The Jinja `source` of the file at `path`.
    Gguf {
        source: String,
        path: PathBuf,
    },
    Raw,
    Instruct,
    Llama3Chat,
}

impl ChatTemplate {
    /// The template that `mode` means for the file at `path`, with that file's own template and tokenizer family.
    ///
    /// Errors: `gguf` where the file has no template; a template that is not valid Jinja.
    pub fn choose(mode: ChatMode, own: Option<&str>, family: &str, path: &Path) -> Result<ChatTemplate> {
        let gguf = |source: &str| {
            jinja::check(source, path)?;
            Ok(ChatTemplate::Gguf { source: source.into(), path: path.into() })
        };
        match (mode, own) {
            (ChatMode::Raw, _) => Ok(ChatTemplate::Raw),
            (ChatMode::Instruct, _) => Ok(ChatTemplate::Instruct),
            (ChatMode::Llama3Chat, _) => Ok(ChatTemplate::Llama3Chat),
            (ChatMode::Auto | ChatMode::Gguf, Some(source)) => gguf(source),
            (ChatMode::Auto, None) if family == "llama3" => Ok(ChatTemplate::Llama3Chat),
            (ChatMode::Auto, None) => Ok(ChatTemplate::Instruct),
            (ChatMode::Gguf, None) => {
                let remedy = "use --chat raw, instruct or llama3-chat";
                Err(Error::unsupported(path, "the file has no tokenizer.chat_template", remedy))
            }
        }
    }

    /// The name under which `--chat` knows it.
    pub const fn name(&self) -> &'static str {
        match self {
            ChatTemplate::Gguf { .. } => "gguf",
            ChatTemplate::Raw => "raw",
            ChatTemplate::Instruct => "instruct",
            ChatTemplate::Llama3Chat => "llama3-chat",
        }
    }

    /// Texts that end an answer because the model would go on with the user's next turn. Templates with tokens
    /// for that need none.
    pub const fn stop_texts(&self) -> &'static [&'static str] {
        match self {
            ChatTemplate::Instruct => &["\nQ:"],
            _ => &[],
        }
    }

    /// The prompt text of `messages`.
    ///
    /// ```
    /// use bitnet_runtime::chat::{AddGenerationPrompt, ChatContext, ChatTemplate, Message, Role};
    ///
    /// let context = ChatContext { bos_token: "".into(), eos_token: "".into(), now: std::time::UNIX_EPOCH };
    /// let messages = [Message::new(Role::User, "Name three rivers.")];
    /// let text = ChatTemplate::Instruct.render(&messages, AddGenerationPrompt::Yes, &context)?;
    /// assert_eq!(text, "Q: Name three rivers.\nA:");
    /// # Ok::<(), bitnet_runtime::Error>(())
    /// ```
    ///
    /// Errors: a Jinja template that fails, refuses the messages, or runs past its budget of steps.
    pub fn render(
        &self,
        messages: &[Message],
        prompt: AddGenerationPrompt,
        context: &ChatContext,
    ) -> Result<String> {
        let answer = prompt == AddGenerationPrompt::Yes;
        let mut text = String::new();
        match self {
            ChatTemplate::Gguf { source, path } => {
                return jinja::render(source, path, messages, prompt, context);
            }
            ChatTemplate::Raw => {
                let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
                text.push_str(&contents.join("\n"));
            }
            ChatTemplate::Instruct => {
                for Message { role, content } in messages {
                    text.push_str(&match role {
                        Role::System => format!("{content}\n\n"),
                        Role::User => format!("Q: {content}\n"),
                        Role::Assistant => format!("A: {content}\n\n"),
                    });
                }
                text.push_str(if answer { "A:" } else { "" });
            }
            ChatTemplate::Llama3Chat => {
                let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
                text.push_str("<|begin_of_text|>");
                for Message { role, content } in messages {
                    text.push_str(&header(role.name()));
                    text.push_str(content.trim());
                    text.push_str("<|eot_id|>");
                }
                text.push_str(&if answer { header("assistant") } else { String::new() });
            }
        }
        Ok(text)
    }
}
