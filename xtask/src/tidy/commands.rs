//! The rule `commands`: every `cargo xtask` command line on a page is one that this xtask takes.
//!
//! Commands of `bitnet` are parsed by the tests of its crate, which has its command line.

use super::{Tree, Violation, violation};
use crate::cli::Cli;
use bitforge_schema::markdown::command_lines;
use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

pub(super) fn commands(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in tree.with_extension(&["md"]) {
        for command in command_lines(&tree.text(path), "cargo xtask") {
            let words = ["cargo xtask".to_string()].into_iter().chain(command.words.iter().cloned());
            if let Err(error) = Cli::try_parse_from(words)
                && !is_fine(&error)
            {
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                let message =
                    format!("shows `cargo xtask {}`, which is none: {first}", command.words.join(" "));
                violations
                    .push(Violation { line: Some(command.line), ..violation("commands", path, message) });
            }
        }
    }
    violations
}

/// What a page may leave open: arguments that are not given, and placeholders in capitals.
fn is_fine(error: &clap::Error) -> bool {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand => true,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => {
                value.is_empty() || !value.contains(|c: char| c.is_ascii_lowercase())
            }
            _ => false,
        },
        _ => false,
    }
}
