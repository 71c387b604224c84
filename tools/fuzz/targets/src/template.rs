//! Chat templates: strangers' Jinja over any conversation.

use crate::input::Input;
use bitnet_runtime::chat::{AddGenerationPrompt, ChatContext, ChatMode, ChatTemplate, Message, Role};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Longest text that a template may make: 64 bytes a step, a million steps.
const MOST: usize = 70 << 20;

/// A byte of settings, a template, then messages, all ended by 0xff; a message's first byte says whose it is.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let how = input.byte();
    let source = input.text();
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < 64 {
        let role = [Role::System, Role::User, Role::Assistant][usize::from(input.byte()) % 3];
        messages.push(Message::new(role, input.text()));
    }
    let prompt = if how & 1 == 0 { AddGenerationPrompt::Yes } else { AddGenerationPrompt::No };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let context = ChatContext { bos_token: "<s>".into(), eos_token: "</s>".into(), now };
    for mode in [ChatMode::Raw, ChatMode::Instruct, ChatMode::Llama3Chat] {
        let template = ChatTemplate::choose(mode, None, "any", Path::new("fuzz")).expect("built in");
        let text = template.render(&messages, prompt, &context).expect("built in");
        let holds = |message: &Message| text.contains(message.content.trim());
        assert!(messages.iter().all(holds), "{mode:?} lost a message");
    }
    let Ok(template) = ChatTemplate::choose(ChatMode::Gguf, Some(&source), "any", Path::new("fuzz")) else {
        return;
    };
    let first = template.render(&messages, prompt, &context);
    if let Ok(text) = &first {
        assert!(text.len() <= MOST, "{} bytes", text.len());
    }
    // Rendering costs up to a million steps: what was short is done again.
    if first.as_ref().is_ok_and(|text| text.len() < 4096) {
        let again = template.render(&messages, prompt, &context);
        assert_eq!(first.ok(), again.ok(), "rendering twice");
    }
}
