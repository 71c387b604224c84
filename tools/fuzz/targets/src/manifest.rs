//! The list of targets as files that others read: `tools/fuzz/targets.json` for xtask, which does not link this crate,
//! and the table in docs/reference/assurance.md.

use crate::{Kind, TARGETS};
use serde_json::json;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- targets: written by `cargo xtask fuzz generate` -->\n";
const END: &str = "<!-- end of targets -->\n";

/// Files and what they must hold, `root` being the checkout.
///
/// # Errors
/// A page without the place for the table, or that cannot be read.
pub fn files(root: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let targets: Vec<_> = TARGETS
        .iter()
        .map(|target| {
            json!({
                "name": target.name, "kind": target.kind, "about": target.about, "oracle": target.oracle,
                "max_len": target.max_len,
            })
        })
        .collect();
    let list = format!("{}\n", serde_json::to_string_pretty(&targets)?);
    let page = root.join("docs/reference/assurance.md");
    let text = std::fs::read_to_string(&page)?;
    let place = text.find(BEGIN).map(|at| at + BEGIN.len()).zip(text.find(END));
    let (start, end) =
        place.ok_or_else(|| std::io::Error::other("assurance.md has no place for the targets"))?;
    let text = format!("{}{}{}", &text[..start], table(), &text[end..]);
    Ok(vec![(root.join("tools/fuzz/targets.json"), list), (page, text)])
}

fn table() -> String {
    let mut table = String::from("| target | what the bytes are | what must hold |\n|---|---|---|\n");
    for target in TARGETS {
        let star = if target.kind == Kind::Parser { " *" } else { "" };
        table += &format!("| `{}`{star} | {} | {} |\n", target.name, target.about, target.oracle);
    }
    table
}
