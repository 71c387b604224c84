//! Conversations in files: the format that the web page exports and imports, `bitforge-conversations-1`.
//!
//! `{"format", "conversations": [{"id", "title", "system", "created", "updated", "messages": [{"role", "text"}]}]}`, times in
//! milliseconds since 1970. Of several conversations the latest is taken. What the page keeps of an answer besides
//! its text is not read.

use super::session::Session;
use bitnet_runtime::chat::{Message, Role};
use bitnet_runtime::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const FORMAT: &str = "bitforge-conversations-1";

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    conversations: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    system: String,
    #[serde(default)]
    created: f64,
    #[serde(default)]
    updated: f64,
    messages: Vec<StoredMessage>,
}

#[derive(Serialize, Deserialize)]
struct StoredMessage {
    role: String,
    text: String,
}

/// A conversation that was read.
pub struct Conversation {
    pub id: String,
    pub system: String,
    pub messages: Vec<Message>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// An id for a new conversation. The page takes a file with an id that it has for a newer state of that conversation.
pub fn new_id() -> String {
    format!("chat-{}-{}", now(), std::process::id())
}

pub fn save(session: &Session, path: &Path) -> Result<()> {
    let now = now();
    let message =
        |message: &Message| StoredMessage { role: message.role.name().into(), text: message.content.clone() };
    let stored = Stored {
        id: session.id.clone(),
        title: String::new(),
        system: session.system.clone(),
        created: now as f64,
        updated: now as f64,
        messages: session.messages.iter().map(message).collect(),
    };
    let file = File { format: FORMAT.into(), conversations: vec![stored] };
    let text = serde_json::to_string_pretty(&file).expect("keys are strings and no Serialize of ours fails");
    std::fs::write(path, text + "\n").map_err(|source| Error::io(path, source))
}

/// # Errors
/// A file that cannot be read, is of another format, or holds no conversation that ends with an answer.
pub fn load(path: &Path) -> Result<Conversation> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    let remedy = "give a file that /save or the web page wrote";
    let file: File = serde_json::from_str(&text).map_err(|error| {
        let at = text.lines().take(error.line().saturating_sub(1)).map(|line| line.len() + 1).sum::<usize>();
        Error::malformed(path, (at + error.column().saturating_sub(1)) as u64, error.to_string(), remedy)
    })?;
    if file.format != FORMAT {
        return Err(Error::unsupported(
            path,
            format!("the format is '{}', not {FORMAT}", file.format),
            remedy,
        ));
    }
    let latest = file.conversations.into_iter().max_by(|a, b| a.updated.total_cmp(&b.updated));
    let Some(stored) = latest else {
        return Err(Error::unsupported(path, "the file holds no conversation", remedy));
    };
    let mut messages = Vec::new();
    for StoredMessage { role, text } in stored.messages {
        // Turns take turns, as chat templates demand.
        let wanted = if messages.len() % 2 == 0 { Role::User } else { Role::Assistant };
        if role != wanted.name() {
            let what = format!("message {} is of '{role}', not of {}", messages.len() + 1, wanted.name());
            return Err(Error::unsupported(path, what, remedy));
        }
        messages.push(Message::new(wanted, text));
    }
    if messages.len() % 2 == 1 {
        messages.pop();
    }
    Ok(Conversation { id: stored.id, system: stored.system, messages })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> std::result::Result<Conversation, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        load(file.path()).map_err(|error| error.to_string())
    }

    fn of(messages: &str) -> String {
        format!(r#"{{"format": "{FORMAT}", "conversations": [{{"id": "a", "messages": [{messages}]}}]}}"#)
    }

    #[test]
    fn the_pages_files_are_read() {
        let page = include_str!("../../../../tools/browser/conversation.json");
        let conversation = loaded(page).expect("it loads");
        assert!(conversation.messages[0].content.starts_with("What are ternary weights"));
        assert_eq!(conversation.messages.len(), 2);
    }

    #[test]
    fn a_question_without_an_answer_is_left_out() {
        let one = r#"{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"}, {"role": "user", "text": "c"}"#;
        assert_eq!(loaded(&of(one)).expect("it loads").messages.len(), 2);
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        for (text, why) in [
            ("{", "EOF while parsing"),
            (r#"{"format": "x", "conversations": []}"#, "the format is 'x'"),
            (&of("").replace(r#"{"id": "a", "messages": []}"#, ""), "no conversation"),
            (&of(r#"{"role": "assistant", "text": "b"}"#), "message 1 is of 'assistant'"),
            (&of(r#"{"role": "user"}"#), "missing field `text`"),
        ] {
            let error = loaded(text).err().unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
