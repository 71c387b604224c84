//! The rule `dependencies`: docs/reference/dependencies.md states how many crates each program has and why each is there.
//!
//! In: the page, `cargo tree` and `cargo metadata`. A number that is not the right one is a violation, so whoever adds a crate has
//! to say so; so is a direct dependency without a row, or a row without one. Deliberately absent: two versions of a crate,
//! which `cargo xtask audit` watches by deny.toml.

use super::{Tree, Violation, violation};
use crate::ctx::Ctx;
use crate::linked::{self, Linked};
use anyhow::Result;
use cargo_metadata::{DependencyKind, Metadata};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = "docs/reference/dependencies.md";
/// Package and name of a program.
const PROGRAMS: [(&str, &str); 2] = [("bitnet-cli", "bitnet"), ("xtask", "xtask")];
/// What the page counts for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

pub(super) fn dependencies(ctx: &Ctx, tree: &Tree, metadata: &Metadata) -> Result<Vec<Violation>> {
    // A workspace without these programs, as some tests make it, has no page about them either.
    if !metadata.packages.iter().any(|package| package.name.as_str() == PROGRAMS[0].0) {
        return Ok(Vec::new());
    }
    let (mut counts, mut direct) = (BTreeMap::new(), BTreeSet::new());
    for (package, program) in PROGRAMS {
        let crates = linked::crates(ctx, package, PLATFORM, &[])?;
        direct.extend(direct_of(metadata, &crates));
        counts.insert(program, crates.len());
    }
    Ok(judge(&tree.text(PAGE), &counts, &direct))
}

/// What the manifests of the workspace's own `crates` name, without their own.
fn direct_of(metadata: &Metadata, crates: &BTreeSet<Linked>) -> BTreeSet<String> {
    let own =
        metadata.packages.iter().filter(|package| crates.iter().any(|krate| *package.name == krate.name));
    let named = own.flat_map(|package| &package.dependencies);
    named
        .filter(|dependency| dependency.kind == DependencyKind::Normal && dependency.path.is_none())
        .map(|dependency| dependency.name.clone())
        .collect()
}

/// `page` against how many crates there are and which are direct. Its tables have the name in backticks first: a
/// program with its number second, a crate with the reason last.
fn judge(page: &str, counts: &BTreeMap<&str, usize>, direct: &BTreeSet<String>) -> Vec<Violation> {
    let rows: Vec<Vec<&str>> = page.lines().filter_map(row).collect();
    let mut found = Vec::new();
    let mut say = |message: String| found.push(violation("dependencies", PAGE, message));
    for (program, count) in counts {
        let stated = rows.iter().find(|row| row[0] == *program).and_then(|row| row.get(1));
        if stated != Some(&count.to_string().as_str()) {
            let stated = stated.unwrap_or(&"nothing");
            say(format!(
                "states {stated} for {program}, which is compiled from {count} crates; say why, or leave out what came"
            ));
        }
    }
    for name in direct {
        let row = rows.iter().find(|row| row[0] == name);
        if row.and_then(|row| row.last()).is_none_or(|reason| reason.is_empty()) {
            say(format!("gives no reason for {name}; add a row for it, or do without"));
        }
    }
    for row in rows.iter().filter(|row| !counts.contains_key(row[0]) && !direct.contains(row[0])) {
        say(format!("gives a reason for {}, which is no direct dependency; delete the row", row[0]));
    }
    found
}

/// The cells of a row whose first one is a name in backticks.
fn row(line: &str) -> Option<Vec<&str>> {
    let mut cells: Vec<&str> =
        line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|').map(str::trim).collect();
    cells[0] = cells[0].strip_prefix('`')?.strip_suffix('`')?;
    Some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_a_missing_reason_and_an_idle_row_are_seen() {
        let counts = BTreeMap::from([("bitnet", 12), ("xtask", 3)]);
        let direct = BTreeSet::from(["a".to_string(), "b".into(), "c".into()]);
        let page = "| program | crates |\n|---|---:|\n| `bitnet` | 11 |\n| `xtask` | 3 |\n\n\
                    | crate | why |\n| `a` | because |\n| `b` |  |\n| `d` | gone |\n";
        let said: Vec<String> = judge(page, &counts, &direct).iter().map(Violation::to_string).collect();
        let wanted = [
            "states 11 for bitnet, which is compiled from 12 crates; say why, or leave out what came",
            "gives no reason for b; add a row for it, or do without",
            "gives no reason for c; add a row for it, or do without",
            "gives a reason for d, which is no direct dependency; delete the row",
        ];
        assert_eq!(said, wanted.map(|text| format!("{PAGE}: {text} (dependencies)")));
        let right = page.replace("11", "12").replace("|  |", "| x |").replace("`d`", "`c`");
        assert!(judge(&right, &counts, &direct).is_empty());
    }
}
