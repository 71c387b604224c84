//! The pages where mdbook wants them: below one folder, with links that hold there.
//!
//! In: the tree. Out: a folder with `book.toml` and `src`, in which a page lies at its path without `docs/`, and as `index.md`
//! where it is a README; a file that a page links to is copied to its path. Everything else of a page stays as it is.

use super::SUMMARY;
use crate::exit::fail;
use crate::markdown::{links, resolve};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Lays the book out in `source` and says how many pages it has.
///
/// # Errors
/// Where a link of the summary or of a page leads to no file, and where the disk fails.
pub(super) fn lay_out(root: &Path, source: &Path) -> Result<usize> {
    if source.exists() {
        fs::remove_dir_all(source).with_context(|| format!("removing {}", source.display()))?;
    }
    let src = source.join("src");
    let summary = read(root, SUMMARY)?;
    let mut pages = BTreeMap::from([(SUMMARY.to_string(), summary.clone())]);
    for link in links(&summary) {
        if let Some(path) = resolve(SUMMARY, link.file) {
            let text = read(root, &path)?;
            pages.insert(path, text);
        }
    }
    let mut files = BTreeSet::new();
    for (path, text) in &pages {
        let text = moved(path, text, |file| {
            if !pages.contains_key(file) {
                files.insert(file.to_string());
            }
        });
        write(&src, &place(path), text?.as_bytes())?;
    }
    for file in &files {
        let content =
            fs::read(root.join(file)).with_context(|| format!("reading {file}, which a page links to"))?;
        write(&src, &place(file), &content)?;
    }
    for name in ["book.toml", "book.css"] {
        let settings = read(root, &format!("docs/{name}"))?;
        write(source, name, settings.as_bytes())?;
    }
    Ok(pages.len() - 1)
}

/// Where a file of the tree lies in the book.
fn place(path: &str) -> String {
    let inside = path.strip_prefix("docs/").unwrap_or(path);
    match inside.strip_suffix("README.md") {
        Some(folder) => format!("{folder}index.md"),
        None => inside.into(),
    }
}

/// The text of the page `path` with its links as they must be in the book; `seen` hears of every file that one leads to.
fn moved(path: &str, text: &str, mut seen: impl FnMut(&str)) -> Result<String> {
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    let here = place(path);
    for link in links(text).iter().filter(|link| !link.file.is_empty()) {
        let Some(file) = resolve(path, link.file) else {
            return fail(
                ExitCode::BadInput,
                format!("{path}:{}: links to {}, which is outside the repository", link.line, link.file),
            );
        };
        seen(&file);
        out.push_str(&text[done..link.at.start]);
        out.push_str(&relative(&here, &place(&file)));
        if !link.anchor.is_empty() {
            out.push('#');
            out.push_str(link.anchor);
        }
        done = link.at.end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}

/// The link from one file of the book to another.
fn relative(from: &str, to: &str) -> String {
    let folders: Vec<&str> = from.split('/').collect();
    let target: Vec<&str> = to.split('/').collect();
    let folders = &folders[..folders.len() - 1];
    let same = folders.iter().zip(&target[..target.len() - 1]).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..", folders.len() - same);
    up.chain(target[same..].iter().copied()).collect::<Vec<_>>().join("/")
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}, a page of {SUMMARY}"))
}

fn write(folder: &Path, path: &str, content: &[u8]) -> Result<()> {
    let file = folder.join(path);
    let parent = file.parent().unwrap_or(folder);
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    fs::write(&file, content).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_hold_where_pages_lie_in_the_book() {
        let mut seen = Vec::new();
        let text = "[r](../../README.md#a) [c](../reference/c.md) [s](../../src/x.rs) [h](#h) [t](../receipts/README.md)";
        let out = moved("docs/howto/p.md", text, |file| seen.push(file.to_string())).unwrap();
        assert_eq!(
            out,
            "[r](../index.md#a) [c](../reference/c.md) [s](../src/x.rs) [h](#h) [t](../receipts/index.md)"
        );
        assert_eq!(seen, ["README.md", "docs/reference/c.md", "src/x.rs", "docs/receipts/README.md"]);
        let out = moved("README.md", "[a](docs/howto/p.md)", |_| ()).unwrap();
        assert_eq!(out, "[a](howto/p.md)");
        assert!(moved("README.md", "[a](../p.md)", |_| ()).is_err());
    }

    #[test]
    fn the_book_has_what_its_pages_link_to_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("docs/book.toml", "[book]\n"),
            ("docs/book.css", ""),
            (SUMMARY, "# Summary\n\n- [Start](../README.md)\n- [A](howto/a.md)\n"),
            ("README.md", "[a](docs/howto/a.md) [licence](LICENSE)"),
            ("docs/howto/a.md", "![p](../p.svg)"),
            ("docs/p.svg", "<svg/>"),
            ("docs/other.md", ""),
            ("LICENSE", "free"),
        ] {
            write(dir.path(), path, text.as_bytes()).unwrap();
        }
        let source = dir.path().join("target/book-source");
        assert_eq!(lay_out(dir.path(), &source).unwrap(), 2);
        let there = |path: &str| source.join("src").join(path).is_file();
        let files = ["SUMMARY.md", "index.md", "howto/a.md", "p.svg", "LICENSE", "other.md"].map(there);
        assert_eq!(files, [true, true, true, true, true, false]);
        fs::remove_file(dir.path().join("docs/p.svg")).unwrap();
        let error = lay_out(dir.path(), &source).unwrap_err();
        assert_eq!(error.to_string(), "reading docs/p.svg, which a page links to");
    }
}
