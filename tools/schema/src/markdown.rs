//! Command lines that Markdown shows, for tests that parse each of them.
//!
//! In: a page. Out: the words after a program's name, with the line. Command lines are looked for in fenced blocks and in
//! code spans; a line that ends with a backslash goes on. Deliberately absent: a shell; where one would take over (`|`, `>`,
//! `&&`, `;`, `#`, a closing bracket of `$(...)`) the command ends.

/// A command line of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// From 1.
    pub line: usize,
    /// After the program's name; of forms like `[--flag N]`, `[a | b]` and `a|b` the first is taken.
    pub words: Vec<String>,
}

/// The commands of `program` (`cargo xtask`, `bitnet`) on the page `text`.
pub fn command_lines(text: &str, program: &str) -> Vec<CommandLine> {
    let (mut found, mut fence, mut open): (_, _, Option<(usize, String)>) = (Vec::new(), None, None);
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if let Some(language) = trimmed.strip_prefix("```") {
            // Of blocks only those that are for a shell.
            fence = if fence.is_some() { None } else { Some(matches!(language, "sh" | "bash" | "console")) };
            continue;
        }
        match fence {
            Some(true) => {
                let (start, mut whole) = open.take().unwrap_or((index + 1, String::new()));
                whole.push_str(trimmed.strip_suffix('\\').unwrap_or(trimmed));
                if trimmed.ends_with('\\') {
                    open = Some((start, whole + " "));
                } else {
                    found
                        .extend(commands_of(&whole, program).map(|words| CommandLine { line: start, words }));
                }
            }
            Some(false) => {}
            None => {
                let spans = line.split('`').skip(1).step_by(2).filter(|span| span.starts_with(program));
                let of = |span| commands_of(span, program).next();
                found.extend(spans.filter_map(of).map(|words| CommandLine { line: index + 1, words }));
            }
        }
    }
    found
}

/// Every command of `program` in one line of a shell.
fn commands_of<'a>(line: &'a str, program: &'a str) -> impl Iterator<Item = Vec<String>> + 'a {
    let starts = line.match_indices(program).filter_map(move |(at, _)| {
        // `target/release/bitnet` and `$(cargo xtask ...)` begin one, `bitnet-runtime` and `my-bitnet` do not.
        let before = line[..at].chars().next_back();
        let rest = &line[at + program.len()..];
        let begins = before.is_none_or(|c| c.is_whitespace() || "/(".contains(c));
        (begins && (rest.is_empty() || rest.starts_with(' '))).then_some((line[..at].trim_end(), rest))
    });
    // Only where a command stands, not an argument: at the start, or after what separates commands.
    let stands = |before: &str| {
        let path = before.rsplit([' ', '(']).next().filter(|word| word.ends_with('/')).unwrap_or_default();
        let before = before[..before.len() - path.len()].trim_end();
        let word = before.rsplit(' ').next().unwrap_or_default();
        before.is_empty() || word.ends_with(['(', ';', '|', '&']) || word.contains('=')
    };
    starts.filter(move |(before, _)| stands(before)).map(|(_, rest)| words(rest))
}

fn words(rest: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut in_brackets) = (Vec::new(), String::new(), None, false);
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                // An empty string is a word, too.
                if chars.peek() == Some(&c) {
                    word.push(' ');
                }
            }
            ('>' | '<', None) => {
                // `2>` is a redirection, not an argument.
                if word.bytes().all(|byte| byte.is_ascii_digit()) {
                    word.clear();
                }
                break;
            }
            (';' | '&' | ')', None) => break,
            // Of [a | b] the first, with its value.
            ('|', None) if in_brackets => {
                words.extend(finish(&mut word));
                chars.by_ref().find(|c| *c == ']');
                in_brackets = false;
            }
            ('|', None) if word.is_empty() => break,
            ('#', None) if word.is_empty() => break,
            ('[' | ']', None) => in_brackets = c == '[',
            (c, None) if c.is_whitespace() => words.extend(finish(&mut word)),
            (c, None) => word.push(c),
        }
    }
    words.extend(finish(&mut word));
    words
}

/// The word that was read, the first of `a|b`; nothing for `...`.
fn finish(word: &mut String) -> Option<String> {
    let word = std::mem::take(word);
    let first = word.split('|').next().unwrap_or_default().to_string();
    (!first.is_empty() && first != "..." && first != "…").then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_where_they_stand() {
        let page = "Run `tool up --all` or `tool`, not `my-tool x` and not tool y.\n\
            ```sh\ntool go \"a b\" --to X   # why\ncd x && target/tool one \\\n    --two\necho tool three\nA=$(tool path z)/lib\ncat f | tool last > out\npy x.py bin/tool no\n```\n\
            ```text\ntool printed\n```\n`tool form FILE [--n N] [a|b] [--x X|--y] ... c|d 2>/dev/null`\n";
        let found: Vec<(usize, String)> = command_lines(page, "tool")
            .into_iter()
            .map(|command| (command.line, command.words.join("·")))
            .collect();
        let expected = [
            (1, "up·--all"),
            (1, ""),
            (3, "go·a b·--to·X"),
            (4, "one·--two"),
            (7, "path·z"),
            (8, "last"),
            (14, "form·FILE·--n·N·a·--x·X·c"),
        ];
        assert_eq!(found, expected.map(|(line, words)| (line, words.to_string())));
    }
}
