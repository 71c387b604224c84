//! What the pages that mdbook made link to: the files and the anchors are there.
//!
//! In: the folder of the built book. Out: a line for each relative `href` or `src` that leads nowhere. Deliberately absent:
//! links to other hosts, which need the network.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// `page: target` for each link that leads nowhere.
pub(super) fn dead_links(book: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    read(book, &mut pages)?;
    let ids: BTreeMap<&Path, BTreeSet<&str>> =
        pages.iter().map(|(path, text)| (path.as_path(), values(text, "id").collect())).collect();
    let mut dead = Vec::new();
    for (page, text) in &pages {
        let folder = page.parent().unwrap_or(book);
        let links: BTreeSet<&str> = ["href", "src"].iter().flat_map(|name| values(text, name)).collect();
        for link in links {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
                continue;
            }
            let target = if file.is_empty() { page.clone() } else { plain(&folder.join(file)) };
            let has = |ids: &BTreeSet<&str>| anchor.is_empty() || ids.contains(anchor);
            let holds = match ids.get(target.as_path()) {
                Some(ids) => has(ids),
                None => target.is_file() && target.starts_with(book),
            };
            if !holds {
                let page = page.strip_prefix(book).unwrap_or(page);
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    Ok(dead)
}

/// The values of an attribute, of which mdbook writes all in double quotes.
fn values<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let start = format!(" {name}=\"");
    let ends = text.match_indices(&start).map(|(at, found)| at + found.len()).collect::<Vec<_>>();
    ends.into_iter().filter_map(|at| text[at..].split('"').next())
}

/// `path` without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn read(folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        if path.is_dir() {
            read(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_named_with_their_page() {
        let dir = tempfile::tempdir().unwrap();
        let book = dir.path().join("book");
        fs::create_dir_all(book.join("a")).unwrap();
        fs::write(dir.path().join("outside.txt"), "").unwrap();
        fs::write(book.join("p.svg"), "").unwrap();
        fs::write(
            book.join("index.html"),
            r##"<h1 id="top"></h1><a href="a/b.html#x"></a><a href="#top"></a>"##,
        )
        .unwrap();
        let page = r##"<h2 id="x"></h2><img src="../p.svg"><a href="../q.svg"></a><a href="../index.html#no"></a>
            <a href="../../outside.txt"></a><a href="https://example.org/"></a>"##;
        fs::write(book.join("a/b.html"), page).unwrap();
        let expected = ["a/b.html: ../../outside.txt", "a/b.html: ../index.html#no", "a/b.html: ../q.svg"];
        assert_eq!(dead_links(&book).unwrap(), expected);
    }
}
