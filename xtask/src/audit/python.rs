//! Requirement files: one version and at least one sha256 for each package.
//!
//! In: every requirements*.txt of the checkout. Out: one [`Check`]. Deliberately absent: what pip does with them.

use super::Check;
use crate::report::State;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

pub fn check(root: &Path) -> Result<Check> {
    let mut files = Vec::new();
    for folder in ["tools", "ci", "xtask", "runtime", "docs"] {
        find(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut problems = Vec::new();
    let mut count = 0;
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let (requirements, found) = judge(&text);
        count += requirements;
        problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    Ok(match problems.as_slice() {
        [] => {
            let detail =
                format!("{count} requirements in {} files, each with a version and its sha256", files.len());
            Check::new("python", State::Ok, detail)
        }
        problems => Check::new("python", State::Fail, problems.join("; ")),
    })
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "node_modules" && name != "target" {
            find(&path, files)?;
        } else if name.starts_with("requirements") && name.ends_with(".txt") {
            files.push(path);
        }
    }
    Ok(())
}

/// How many requirements a file has, and what is wrong with them.
fn judge(text: &str) -> (usize, Vec<String>) {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut problems = Vec::new();
    let mut count = 0;
    for line in lines {
        count += 1;
        let (name, rest) = line.split_once("==").unwrap_or((line, ""));
        let version = rest.split([' ', ';']).next().unwrap_or_default();
        let mut hashes = line.match_indices("--hash=").map(|(at, word)| &line[at + word.len()..]).peekable();
        let is_sha256 = |hash: &str| {
            let digits =
                hash.split(' ').next().unwrap_or_default().strip_prefix("sha256:").unwrap_or_default();
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if version.is_empty() || version.contains('*') {
            problems.push(format!("'{}' has no exact version", name.trim()));
        } else if hashes.peek().is_none() || !hashes.all(is_sha256) {
            problems.push(format!("{}=={version} has no --hash=sha256 of 64 digits", name.trim()));
        }
    }
    (count, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_has_a_version_and_hashes() {
        let hash = "--hash=sha256:".to_string() + &"0a".repeat(32);
        let good = format!("# why\nnumpy==2.2.6 ; python_version < \"3.14\" \\\n    {hash} \\\n    {hash}\n");
        assert_eq!(judge(&good), (1, vec![]));
        assert_eq!(judge("torch==2.15.0\n").1, ["torch==2.15.0 has no --hash=sha256 of 64 digits"]);
        assert_eq!(
            judge(&format!("torch>=2 {hash}\n")).1,
            [format!("'torch>=2 {hash}' has no exact version")]
        );
        assert_eq!(judge(&format!("torch==2.* {hash}\n")).1, ["'torch' has no exact version"]);
        assert_eq!(judge("a==1 --hash=md5:00").1.len(), 1);
        // One good hash does not excuse a bad one.
        assert_eq!(judge(&format!("a==1 {hash} --hash=sha256:12")).1.len(), 1);
    }

    #[test]
    fn the_committed_files_hold() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let check = check(&root).unwrap();
        assert_eq!(check.state, State::Ok, "{}", check.detail);
    }
}
