//! The commands of a chat: a line in, what it asks for out.

use bitnet_runtime::{Error, Result};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Clear,
    /// Show, or set; the empty text removes it.
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Metrics(Metrics),
    Regenerate,
    /// The new question, or `None` to write it from the old one.
    Edit(Option<String>),
    Quit,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Metrics {
    Show,
    Always(bool),
}

/// Name, argument, what it does. The order is that of `/help`.
pub const COMMANDS: [(&str, &str, &str); 9] = [
    ("/help", "", "show this"),
    ("/clear", "", "start a new conversation; the system message stays"),
    ("/system", "[TEXT|none]", "show, set or remove the system message"),
    ("/save", "FILE", "write the conversation as JSON, which the web page imports"),
    ("/load", "FILE", "go on with a conversation that was saved here or exported by the web page"),
    ("/metrics", "[on|off]", "show tokens/s, context and kernel selection, now or after every answer"),
    ("/regen", "", "answer the last question again"),
    ("/edit", "[TEXT]", "change the last question and ask again"),
    ("/quit", "", "leave, as Ctrl-D does"),
];

pub fn help() -> String {
    let mut text = String::new();
    for (name, argument, what) in COMMANDS {
        writeln!(text, "{:<22} {what}", format!("{name} {argument}"))
            .expect("writing to a string does not fail");
    }
    text + "A line that ends in \\ goes on, and so does what starts with \"\"\" until the next \"\"\". \
            A line that starts with // is a message that starts with /."
}

/// `None` for a message.
///
/// # Errors
/// A line that starts with `/` and is no command, or lacks its argument.
pub fn parse(line: &str) -> Result<Option<Command>> {
    let line = line.trim();
    if !line.starts_with('/') || line.starts_with("//") {
        return Ok(None);
    }
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let given = (!argument.is_empty()).then(|| argument.to_owned());
    let file = || match &given {
        Some(path) => Ok(PathBuf::from(path)),
        None => Err(Error::usage(format!("{name} without a file"), format!("write {name} FILE"))),
    };
    let command = match name {
        "/help" => Command::Help,
        "/clear" => Command::Clear,
        "/system" => Command::System(given.map(|text| if text == "none" { String::new() } else { text })),
        "/save" => Command::Save(file()?),
        "/load" => Command::Load(file()?),
        "/metrics" => Command::Metrics(match argument {
            "" => Metrics::Show,
            "on" => Metrics::Always(true),
            "off" => Metrics::Always(false),
            other => {
                return Err(Error::usage(
                    format!("/metrics {other}"),
                    "write /metrics, /metrics on or /metrics off",
                ));
            }
        }),
        "/regen" => Command::Regenerate,
        "/edit" => Command::Edit(given),
        "/quit" | "/exit" => Command::Quit,
        other => {
            return Err(Error::usage(format!("{other} is no command"), "write /help to see those there are"));
        }
    };
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_known_and_told() {
        for (name, argument, _) in COMMANDS {
            let argument = if argument == "FILE" { "f" } else { "" };
            assert!(parse(&format!("{name} {argument}")).expect(name).is_some());
            assert!(help().contains(name));
        }
    }

    #[test]
    fn arguments() {
        let parsed = |line| parse(line).expect("good").expect("a command");
        assert_eq!(parsed("/system be brief"), Command::System(Some("be brief".into())));
        assert_eq!(parsed("/system none"), Command::System(Some(String::new())));
        assert_eq!(parsed("/system"), Command::System(None));
        assert_eq!(parsed(" /save a b.json "), Command::Save("a b.json".into()));
        assert_eq!(parsed("/edit say\nit"), Command::Edit(Some("say\nit".into())));
        assert_eq!(parsed("/metrics off"), Command::Metrics(Metrics::Always(false)));
        for bad in ["/save", "/load", "/metrics maybe", "/unknown", "/"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for message in ["", "hello", "1/2", "// a comment"] {
            assert_eq!(parse(message).expect("a message"), None);
        }
    }
}
