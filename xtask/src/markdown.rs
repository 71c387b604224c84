//! Links and headings of Markdown, for what checks pages and for what makes a book of them.
//!
//! In: the text of a page. Out: where its links lie and where they lead, the anchors that its headings have. Deliberately
//! absent: rendering; links with the address elsewhere on the page (`[a][b]`), which no page here uses.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// A link or a picture that leads to this tree: its target has no scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// From 1.
    pub line: usize,
    /// The target's bytes in the text.
    pub at: Range<usize>,
    /// As written; empty where it leads to the page itself.
    pub file: &'a str,
    /// What is after `#`; empty for none.
    pub anchor: &'a str,
}

/// The links of a page outside code.
pub fn links(text: &str) -> Vec<Link<'_>> {
    let (mut links, mut in_code, mut start) = (Vec::new(), false, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            links.extend(targets(line).map(|(at, target)| {
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                Link { line: index + 1, at: start + at..start + at + target.len(), file, anchor }
            }));
        }
        start += line.len();
    }
    links
}

/// Offsets and targets in a line, but for those with a scheme and those in code spans.
fn targets(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = line.match_indices("](").map(|(at, _)| at + 2);
    let outside = starts.filter(|at| line[..*at].matches('`').count().is_multiple_of(2));
    outside.filter_map(|at| {
        let target = line[at..].split([')', ' ', '\n']).next().unwrap_or_default();
        let here = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
        here.then_some((at, target))
    })
}

/// The anchors of a page's headings, by the usual rule: lower case, punctuation dropped, spaces to hyphens, and a number
/// behind each that was there before.
pub fn anchors(text: &str) -> Vec<String> {
    let (mut anchors, mut in_code, mut seen) = (Vec::new(), false, BTreeMap::new());
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let heading = line.trim_start_matches('#');
        if in_code || heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading.trim().to_lowercase().replace(' ', "-");
        let slug: String = slug.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let count = seen.entry(slug.clone()).or_insert(0);
        anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// The path below the root that a link of the page `from` leads to, without `.` and `..`; `None` where it leads out.
pub fn resolve(from: &str, file: &str) -> Option<String> {
    if file.is_empty() {
        return Some(from.into());
    }
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(file).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_where_they_are_links() {
        let text = "é [a](b.md#c) ![p](p.svg)\n`[x](y.md)` [`f`](../f.rs) [w](https://example.org/)\n```\n[x](y.md)\n```\n[s](#s)\n";
        let found: Vec<_> = links(text)
            .into_iter()
            .map(|link| {
                let whole = &text[link.at];
                (link.line, whole, link.file, link.anchor)
            })
            .collect();
        let expected = [
            (1, "b.md#c", "b.md", "c"),
            (1, "p.svg", "p.svg", ""),
            (2, "../f.rs", "../f.rs", ""),
            (6, "#s", "", "s"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn headings_have_anchors_and_the_second_of_a_name_a_number() {
        let text = "# A page: one\n## `cargo x` & more\n#no\n```\n# not\n```\n## A page: one\n";
        assert_eq!(anchors(text), ["a-page-one", "cargo-x--more", "a-page-one-1"]);
    }

    #[test]
    fn links_lead_below_the_root_or_nowhere() {
        let resolved = ["b.md", "../../README.md", "./x/../c.md", "", "../../../etc"]
            .map(|file| resolve("docs/a/p.md", file));
        let expected =
            [Some("docs/a/b.md"), Some("README.md"), Some("docs/a/c.md"), Some("docs/a/p.md"), None];
        assert_eq!(resolved, expected.map(|path| path.map(String::from)));
    }
}
