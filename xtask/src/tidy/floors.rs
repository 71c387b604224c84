//! How many property tests, snapshots and log-capture tests there are, against floors that may only be raised.
//!
//! In: the sources. Out: a violation for each count below its floor. Counted is what runs: `#[test]` inside `proptest!`,
//! stored `.snap` files and inline snapshots, tests that call `logs()`. Deliberately absent: whether the tests are good.

use super::{Tree, Violation, violation};
use std::collections::BTreeSet;

/// What is counted, in which files (a path or a folder with a final `/`), and how many there must be.
pub(super) struct Floor {
    pub name: &'static str,
    pub within: &'static str,
    pub without: &'static [&'static str],
    pub least: usize,
    pub count: fn(&str) -> usize,
}

const KV: &str = "runtime/src/engine/kv_cache.rs";

pub(super) const FLOORS: &[Floor] = &[
    Floor {
        name: "property tests of logits",
        within: "runtime/src/sampling/",
        without: &[],
        least: 13,
        count: property_tests,
    },
    Floor {
        name: "property tests of generation",
        within: "runtime/src/generate/",
        without: &[],
        least: 8,
        count: property_tests,
    },
    Floor {
        name: "property tests of the engine",
        within: "runtime/src/engine/",
        without: &[KV],
        least: 7,
        count: property_tests,
    },
    Floor {
        name: "property tests of the KV cache",
        within: KV,
        without: &[],
        least: 4,
        count: property_tests,
    },
    Floor { name: "log-capture tests", within: "runtime/", without: &[], least: 3, count: log_capture_tests },
];

/// Snapshots, and source files that compare some.
const SNAPSHOTS: usize = 45;
const SNAPSHOT_MODULES: usize = 10;

pub(super) fn floors(tree: &Tree) -> Vec<Violation> {
    if !tree.has("runtime/Cargo.toml") {
        return Vec::new();
    }
    let mut violations = Vec::new();
    let mut below = |name: &str, path: &str, found: usize, least: usize| {
        if found < least {
            let message = format!("{found} {name}, at least {least} are wanted; write some");
            violations.push(violation("floors", path, message));
        }
    };
    for floor in FLOORS {
        below(floor.name, floor.within, counted(tree, floor), floor.least);
    }
    let (snapshots, modules) = snapshots(tree);
    below("snapshots", "the whole tree", snapshots, SNAPSHOTS);
    below("modules with snapshots", "the whole tree", modules.len(), SNAPSHOT_MODULES);
    violations
}

pub(super) fn counted(tree: &Tree, floor: &Floor) -> usize {
    let files = tree.with_extension(&["rs"]).filter(|path| path.starts_with(floor.within));
    files.filter(|path| !floor.without.contains(path)).map(|path| (floor.count)(&tree.text(path))).sum()
}

/// `.snap` files and inline snapshots, and the source files that compare some.
pub(super) fn snapshots(tree: &Tree) -> (usize, BTreeSet<&str>) {
    let mut count = tree.with_extension(&["snap"]).count();
    let mut modules = BTreeSet::new();
    for path in tree.with_extension(&["rs"]) {
        let text = tree.text(path);
        // In two halves, so that this file is no module with snapshots.
        let asserts = text.matches(concat!("_snap", "shot!(")).count();
        if asserts > 0 {
            modules.insert(path);
            let inline =
                text.matches("@r\"").count() + text.matches("@\"").count() + text.matches("@r#\"").count();
            count += inline.min(asserts);
        }
    }
    (count, modules)
}

/// Tests inside `proptest! { .. }`.
fn property_tests(text: &str) -> usize {
    let blocks = text.split(concat!("prop", "test! {")).skip(1);
    blocks.map(|rest| block(rest).matches("#[test]").count()).sum()
}

/// The text up to the brace that closes the block; strings with lone braces would end it early, and count fewer.
fn block(text: &str) -> &str {
    let mut depth = 1;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// Functions marked as tests that look at what was logged.
fn log_capture_tests(text: &str) -> usize {
    let tests = text.split("#[test]").skip(1);
    tests.filter(|rest| rest.split("\n}").next().is_some_and(|body| body.contains("logs()"))).count()
}
