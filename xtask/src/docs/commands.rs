//! docs/reference/commands.md: every command of xtask with its arguments, from the command line's own definition.

use crate::cli::Cli;
use clap::{Arg, Command, CommandFactory};

/// The page, below `heading`.
pub(super) fn render(heading: &str) -> String {
    let mut text = format!(
        "{heading}# Commands of `cargo xtask`\n\nEvery command also takes `--json` (one JSON value on stdout; text for people goes to \
         stderr) and `--offline` (never touch the\nnetwork). Those of `bitnet` are in its man pages: `bitnet man DIR`, or \
         `bitnet run --help` for one of them.\n"
    );
    let mut command = Cli::command();
    // Global arguments reach every command only when the whole is built; the page names them once.
    command.build();
    command.get_subcommands().for_each(|command| render_command(&mut text, "cargo xtask", command));
    text
}

fn render_command(text: &mut String, parent: &str, command: &Command) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    text.push_str(&format!("\n## `{name}`\n\n{}.\n", about.trim_end_matches('.')));
    let shown = |arg: &&Arg| {
        !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str())
    };
    let mut arguments = command.get_arguments().filter(shown).peekable();
    if arguments.peek().is_some() {
        text.push_str("\n| argument | what |\n|---|---|\n");
    }
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> =
            argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        let values = match argument.get_action().takes_values() && !values.is_empty() {
            true => format!(" ({})", values.join(", ")),
            false => String::new(),
        };
        text.push_str(&format!("| `{}` | {}{values} |\n", form(argument), help.replace('|', "\\|")));
    }
    command.get_subcommands().for_each(|command| render_command(text, &name, command));
}

/// `--flag <VALUE>`, or `[VALUE]...` of a positional argument.
fn form(argument: &Arg) -> String {
    argument.to_string().replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_command_has_a_heading_and_its_flags() {
        let page = super::render("");
        for wanted in [
            "## `cargo xtask up`\n",
            "## `cargo xtask reference build`\n",
            "| `--plan` | Print the steps",
            "`always`",
        ] {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
    }
}
