//! The rules `links` and `book`: what pages link to is there, and every page is in the book.

use super::{Tree, Violation, violation};
use crate::book::{SUMMARY, is_page};
use crate::markdown::{anchors, links as links_of, resolve};
use std::collections::BTreeSet;

/// Relative links of Markdown files: the file exists, and so does the heading after `#`.
pub(super) fn links(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in tree.with_extension(&["md"]) {
        for link in links_of(&tree.text(path)) {
            let target =
                format!("{}{}{}", link.file, if link.anchor.is_empty() { "" } else { "#" }, link.anchor);
            let message = match resolve(path, link.file) {
                None => format!("links to {target}, which is outside the repository"),
                Some(file) if !tree.root.join(&file).exists() => {
                    format!("links to {target}, which does not exist")
                }
                Some(file)
                    if !link.anchor.is_empty()
                        && !anchors(&tree.text(&file)).iter().any(|anchor| anchor == link.anchor) =>
                {
                    format!("links to {target}, but the file has no such heading")
                }
                Some(_) => continue,
            };
            violations.push(Violation { line: Some(link.line), ..violation("links", path, message) });
        }
    }
    violations
}

/// Every page is in the table of contents once, and pages link to no Markdown outside the book.
pub(super) fn book(tree: &Tree) -> Vec<Violation> {
    if !tree.has(SUMMARY) {
        return Vec::new();
    }
    let summary = tree.text(SUMMARY);
    let mut listed = BTreeSet::new();
    let mut violations = Vec::new();
    for link in links_of(&summary) {
        if let Some(file) = resolve(SUMMARY, link.file)
            && !listed.insert(file.clone())
        {
            let message = format!("lists {file} twice");
            violations.push(Violation { line: Some(link.line), ..violation("book", SUMMARY, message) });
        }
    }
    for path in tree.with_extension(&["md"]).filter(|path| is_page(path) && !listed.contains(*path)) {
        violations.push(violation(
            "book",
            path,
            format!("is not in {SUMMARY}; add it where a reader looks for it"),
        ));
    }
    for path in listed.iter().map(String::as_str) {
        for link in links_of(&tree.text(path)) {
            let leads_out = |file: &String| file.ends_with(".md") && !listed.contains(file);
            if let Some(file) = resolve(path, link.file).filter(leads_out) {
                let message = format!("links to {file}, which is not in {SUMMARY}");
                violations.push(Violation { line: Some(link.line), ..violation("book", path, message) });
            }
        }
    }
    violations
}
