//! Where the lines of a chat come from: an editor on a terminal, stdin otherwise.
//!
//! The editor has history (kept in the state folder, readable by its owner alone), completes commands and files, and asks for
//! more lines where a message says that it goes on.

use super::command::COMMANDS;
use super::terminal;
use crate::args::ChatCommandArgs;
use crate::ctx::Ctx;
use bitforge_schema::env::Env;
use bitnet_runtime::{Error, Result};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::borrow::Cow;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

const PROMPT: &str = "> ";

pub enum Line {
    /// A whole message, without the marks of going on.
    Text(String),
    End,
    Interrupted,
}

pub enum Input {
    Editor { editor: Box<Editor<Assistant, FileHistory>>, history: Option<PathBuf> },
    Lines,
}

impl Input {
    /// An editor where both sides are a terminal.
    pub fn open(ctx: &Ctx, args: &ChatCommandArgs) -> Result<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return Ok(Input::Lines);
        }
        terminal::restore_at_exit();
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .bracketed_paste(true)
            .auto_add_history(false)
            .history_ignore_space(true)
            .build();
        let mut editor = Editor::with_config(config).map_err(|error| failed(&error))?;
        editor.set_helper(Some(Assistant {
            files: FilenameCompleter::new(),
            colour: ctx.env.get("NO_COLOR").is_none() && ctx.env.get("TERM") != Some("dumb"),
        }));
        editor.set_max_history_size(1000).map_err(|error| failed(&error))?;
        let history = if args.no_history { None } else { history_file(&ctx.env) };
        if let Some(path) = &history {
            // The first chat has none.
            let _ = editor.load_history(path);
        }
        Ok(Input::Editor { editor: Box::new(editor), history })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Editor { .. })
    }

    pub fn read(&mut self) -> Result<Line> {
        match self {
            Input::Editor { .. } => self.edit(""),
            Input::Lines => {
                let mut text = String::new();
                loop {
                    let mut line = String::new();
                    let read = std::io::stdin().lock().read_line(&mut line);
                    if read.map_err(|source| Error::io(Path::new("<stdin>"), source))? == 0 {
                        return Ok(if text.is_empty() { Line::End } else { Line::Text(joined(&text)) });
                    }
                    text.push_str(&line);
                    if !goes_on(text.trim_end_matches('\n')) {
                        return Ok(Line::Text(joined(text.trim_end_matches('\n'))));
                    }
                }
            }
        }
    }

    /// A line that starts as `text`, with the cursor at its end. Without an editor the next line.
    pub fn edit(&mut self, text: &str) -> Result<Line> {
        let Input::Editor { editor, history } = self else { return self.read() };
        match editor.readline_with_initial(PROMPT, (text, "")) {
            Ok(line) => {
                remember(editor, history, &line);
                Ok(Line::Text(joined(&line)))
            }
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Adds a line to the history, and to its file; a file that cannot be written is given up.
fn remember(editor: &mut Editor<Assistant, FileHistory>, history: &mut Option<PathBuf>, line: &str) {
    let added = !line.trim().is_empty() && editor.add_history_entry(line).unwrap_or(false);
    if let Some(path) = history.as_ref().filter(|_| added) {
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if made.is_err() || editor.append_history(path).is_err() {
            *history = None;
        }
    }
}

fn failed(error: &ReadlineError) -> Error {
    Error::io(Path::new("<terminal>"), std::io::Error::other(error.to_string()))
}

fn history_file(env: &Env) -> Option<PathBuf> {
    let state = env.get("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| env.get("HOME").map(|home| Path::new(home).join(".local/state")));
    state.map(|folder| folder.join("bitforge/chat-history"))
}

const BLOCK: &str = "\"\"\"";

/// Whether more lines belong to the message: it ends in a backslash, or a block is open.
fn goes_on(text: &str) -> bool {
    match text.trim_start().strip_prefix(BLOCK) {
        Some(block) => !block.trim_end().ends_with(BLOCK),
        None => text.ends_with('\\'),
    }
}

/// The message without backslashes at the ends of lines, or without the marks of the block.
fn joined(text: &str) -> String {
    let trimmed = text.trim();
    if let Some(block) = trimmed.strip_prefix(BLOCK) {
        return block.strip_suffix(BLOCK).unwrap_or(block).trim_matches('\n').to_owned();
    }
    let text = text.replace("\\\n", "\n");
    text.strip_suffix('\\').unwrap_or(&text).to_owned()
}

/// What helps while a line is edited.
pub struct Assistant {
    files: FilenameCompleter,
    colour: bool,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..pos];
        if before.starts_with("/save ") || before.starts_with("/load ") {
            return self.files.complete(line, pos, context);
        }
        if !before.starts_with('/') || before.contains(char::is_whitespace) {
            return Ok((pos, Vec::new()));
        }
        let fits = COMMANDS.iter().filter(|(name, ..)| name.starts_with(before));
        let pair = |(name, argument, _): &(&str, &str, &str)| Pair {
            display: (*name).to_owned(),
            replacement: format!("{name}{}", if argument.is_empty() { "" } else { " " }),
        };
        Ok((0, fits.map(pair).collect()))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let more = goes_on(context.input());
        Ok(if more { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        if self.colour { format!("\x1b[1;33m{prompt}\x1b[0m").into() } else { prompt.into() }
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_on_until_it_says_that_it_ends() {
        for open in ["one\\", "\"\"\"", "\"\"\"one\ntwo", "one\\\ntwo\\"] {
            assert!(goes_on(open), "{open}");
        }
        for whole in ["", "one", "one\\\ntwo", "\"\"\"one\ntwo\"\"\"", "say \"\"\""] {
            assert!(!goes_on(whole), "{whole}");
        }
        assert_eq!(joined("one\\\ntwo"), "one\ntwo");
        assert_eq!(joined("\"\"\"\none\n  two\n\"\"\""), "one\n  two");
        assert_eq!(joined("日本\\"), "日本");
    }

    #[test]
    fn commands_are_completed_and_messages_are_not() {
        let assistant = Assistant { files: FilenameCompleter::new(), colour: false };
        let history = FileHistory::new();
        let complete = |line: &str| {
            let (_, pairs) =
                assistant.complete(line, line.len(), &Context::new(&history)).expect("it completes");
            pairs.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>()
        };
        assert_eq!(complete("/me"), ["/metrics "]);
        assert_eq!(complete("/re"), ["/regen"]);
        assert_eq!(complete("/").len(), COMMANDS.len());
        assert_eq!(complete("/system o"), Vec::<String>::new());
        assert_eq!(complete("he"), Vec::<String>::new());
    }

    #[test]
    fn the_history_lies_in_the_state_folder() {
        let file = |pairs: &[(&str, &str)]| history_file(&Env::from_pairs(pairs.iter().copied()));
        assert_eq!(
            file(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]),
            Some("/s/bitforge/chat-history".into())
        );
        assert_eq!(file(&[("HOME", "/h")]), Some("/h/.local/state/bitforge/chat-history".into()));
        assert_eq!(file(&[]), None);
    }
}
