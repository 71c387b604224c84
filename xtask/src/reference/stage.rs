//! A copy of a tree with the files it lacks and the patches it needs.
//!
//! In: a tree and its pin. Out: what would change (`Changes`), and the changed copy. A tree that needs
//! nothing is built where it lies. Patches are found by the text of their lines, not by line numbers, so one
//! file serves several versions of a tree; a patch whose lines are not there is not needed.

use super::pins::Pin;
use super::source::{self, Tree};
use crate::cli::Kernels;
use crate::exit::Failure;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// One change to a tree, as the manifest records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The file of the tree.
    pub path: String,
    pub reason: String,
    /// sha256 of the new content.
    pub sha256: String,
    #[serde(skip)]
    content: String,
}

/// What the tree needs. Nothing is written.
pub fn changes(root: &Path, pin: &Pin, tree: &Tree, kernels: Kernels) -> Result<Vec<Change>> {
    let mut changes: Vec<Change> = Vec::new();
    for supply in &pin.supply {
        let target = tree.dir.join(&supply.path);
        // A supplied file belongs to a tree that has the folder above it or the file to copy.
        let fits = target.parent().and_then(Path::parent).is_some_and(Path::is_dir);
        let from = supply.copy.as_ref().map(|copy| tree.dir.join(copy));
        if target.exists() || !fits || from.as_ref().is_some_and(|from| !from.is_file()) {
            continue;
        }
        let content = match from {
            Some(from) => fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?,
            None => String::new(),
        };
        changes.push(change(supply.path.clone(), supply.reason.clone(), content));
    }
    for patch in pin.patch.iter().filter(|patch| patch.kernels.is_none_or(|only| only == kernels)) {
        let path = root.join(&patch.file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let patch = Patch::parse(&text)
            .map_err(|what| Failure::new(ExitCode::BadInput, format!("{}: {what}", path.display())))?;
        for file in &patch.files {
            // A supplied file may need the patch as well.
            let supplied = changes.iter().position(|change| change.path == file.path);
            let old = match supplied {
                Some(at) => Some(changes[at].content.clone()),
                None => fs::read_to_string(tree.dir.join(&file.path)).ok(),
            };
            let Some(new) = old.and_then(|old| file.apply(&old)) else { continue };
            match supplied {
                Some(at) => {
                    let reason = format!("{}; {}", changes[at].reason, patch.reason);
                    changes[at] = change(file.path.clone(), reason, new);
                }
                None => changes.push(change(file.path.clone(), patch.reason.clone(), new)),
            }
        }
    }
    Ok(changes)
}

fn change(path: String, reason: String, content: String) -> Change {
    let sha256 = source::hex(&Sha256::digest(content.as_bytes()));
    Change { path, reason, sha256, content }
}

/// The folder to build: the tree itself, or a copy of it at `to` with the changes.
pub fn stage(tree: &Tree, changes: &[Change], to: &Path) -> Result<PathBuf> {
    if changes.is_empty() {
        return Ok(tree.dir.clone());
    }
    let done = to.join(".staged");
    if done.is_file() {
        return Ok(to.into());
    }
    let write = |path: &Path, write: &dyn Fn(&Path) -> std::io::Result<()>| -> Result<()> {
        let folder = path.parent().unwrap_or(to);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        write(path).with_context(|| format!("writing {}", path.display()))
    };
    for file in source::files(&tree.dir)? {
        write(&to.join(&file), &|path| {
            // A copy that is there already keeps its time, so a resumed build compiles nothing twice.
            let from = tree.dir.join(&file);
            let same =
                fs::metadata(path).is_ok_and(|meta| fs::metadata(&from).is_ok_and(|m| m.len() == meta.len()));
            if same { Ok(()) } else { fs::copy(&from, path).map(drop) }
        })?;
    }
    for change in changes {
        write(&to.join(&change.path), &|path| {
            // The copy of a read-only file is read-only.
            let _ = fs::remove_file(path);
            fs::write(path, &change.content)
        })?;
    }
    fs::write(&done, "").with_context(|| format!("writing {}", done.display()))?;
    Ok(to.into())
}

/// A unified diff without line numbers, after a reason in words.
struct Patch {
    reason: String,
    files: Vec<FilePatch>,
}

struct FilePatch {
    path: String,
    /// Old and new lines of each hunk.
    hunks: Vec<(Vec<String>, Vec<String>)>,
}

impl Patch {
    fn parse(text: &str) -> Result<Self, String> {
        let mut patch = Patch { reason: String::new(), files: Vec::new() };
        for line in text.lines() {
            if line.starts_with("--- ") {
                continue;
            }
            if let Some(path) = line.strip_prefix("+++ ") {
                let path = path.strip_prefix("b/").unwrap_or(path).to_string();
                patch.files.push(FilePatch { path, hunks: Vec::new() });
                continue;
            }
            let Some(file) = patch.files.last_mut() else {
                patch.reason.push_str(line);
                patch.reason.push(' ');
                continue;
            };
            if line.starts_with("@@") {
                file.hunks.push((Vec::new(), Vec::new()));
                continue;
            }
            let (old, new) = file.hunks.last_mut().ok_or("a line before the first @@")?;
            let (kind, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
            match kind {
                "-" => old.push(rest.to_string()),
                "+" => new.push(rest.to_string()),
                " " => {
                    old.push(rest.to_string());
                    new.push(rest.to_string());
                }
                _ => return Err(format!("the line `{line}` starts with none of - + space")),
            }
        }
        patch.reason = patch.reason.trim().to_string();
        let empty = |file: &FilePatch| file.hunks.iter().any(|(old, _)| old.is_empty());
        if patch.files.is_empty() || patch.files.iter().any(empty) || patch.reason.is_empty() {
            return Err("a patch needs a reason in words, a +++ line, and hunks with old lines".into());
        }
        Ok(patch)
    }
}

impl FilePatch {
    /// The new text; `None` where no hunk's old lines occur. A hunk applies wherever its old lines occur.
    fn apply(&self, text: &str) -> Option<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        let mut applied = false;
        for (old, new) in &self.hunks {
            let mut at = 0;
            while at + old.len() <= lines.len() {
                let same =
                    lines[at..at + old.len()].iter().zip(old).all(|(a, b)| a.trim_end() == b.trim_end());
                if same {
                    lines.splice(at..at + old.len(), new.iter().cloned());
                    at += new.len();
                    applied = true;
                } else {
                    at += 1;
                }
            }
        }
        applied.then(|| lines.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Because.\n\n--- a/x.c\n+++ b/x.c\n@@ anywhere\n one\n-two\n+2\n three\n";

    #[test]
    fn a_patch_applies_where_its_lines_are() {
        let patch = Patch::parse(PATCH).unwrap();
        assert_eq!(patch.reason, "Because.");
        assert_eq!(patch.files[0].path, "x.c");
        let apply = |text: &str| patch.files[0].apply(text);
        assert_eq!(apply("zero\none\ntwo\nthree\n").as_deref(), Some("zero\none\n2\nthree\n"));
        assert_eq!(apply("one\ntwo\n"), None);
    }

    #[test]
    fn a_patch_without_a_reason_is_refused() {
        assert!(Patch::parse("--- a/x\n+++ b/x\n@@\n-a\n+b\n").is_err());
        assert!(Patch::parse("why\n--- a/x\n+++ b/x\n@@\n+b\n").is_err());
    }

    #[test]
    fn the_committed_patches_parse() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/patches");
        let mut seen = 0;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            Patch::parse(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            seen += 1;
        }
        assert!(seen > 0);
    }
}
