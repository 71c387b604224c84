//! `kernels list`: the kernel that each operation gets on this machine, and why the others were not chosen.
//!
//! In: `bitnet kernels --json`. Out: a table. Deliberately absent: any choice; the binary makes it.

use crate::binary;
use crate::ctx::Ctx;
use crate::proc::{self, Command};
use crate::report::table;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum KernelsCommand {
    /// What every operation gets, and why not something else.
    List,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listing {
    selection_line: String,
    operations: Vec<Operation>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Operation {
    operation: String,
    weight: Option<String>,
    activation: Option<String>,
    #[serde(default)]
    shapes: Vec<String>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Candidate {
    id: String,
    level: String,
    available: bool,
    selected: bool,
    reason: String,
}

pub fn run(ctx: &Ctx, command: &KernelsCommand) -> Result<ExitCode> {
    let KernelsCommand::List = command;
    let binary = binary::release(ctx)?;
    let text = proc::read(ctx, &Command::new(&binary).args(["kernels", "--json"]))?;
    let listing: Listing =
        serde_json::from_str(&text).with_context(|| format!("the kernels of {}", binary.display()))?;
    if ctx.out.is_json() {
        ctx.out.json(&listing)?;
    } else {
        ctx.out.stdout(&render(&listing))?;
    }
    Ok(ExitCode::Ok)
}

fn render(listing: &Listing) -> String {
    let rows = listing.operations.iter().map(|operation| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let selected = operation.candidates.iter().find(|candidate| candidate.selected);
        let others: Vec<String> = operation
            .candidates
            .iter()
            .filter(|candidate| !candidate.selected)
            .map(|candidate| format!("{}: {}", candidate.id, candidate.reason))
            .collect();
        let shapes = operation.shapes.join(", ");
        let what = format!(
            "{} {} {} {shapes}",
            operation.operation,
            part(&operation.weight),
            part(&operation.activation)
        );
        [
            what.split_whitespace().collect::<Vec<_>>().join(" "),
            selected.map_or("none".to_string(), |candidate| candidate.id.clone()),
            others.join("; "),
        ]
    });
    format!("{}\n{}", table(["operation", "selected", "not chosen"], rows), listing.selection_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_says_why_not() {
        let json = r#"{"selection_line": "requested=auto", "operations": [{"operation": "matmul", "weight": "F32",
            "activation": "F32", "candidates": [
            {"id": "f32.f32.scalar", "level": "scalar", "available": true, "selected": false, "reason": "scalar is below avx2"},
            {"id": "f32.f32.avx2", "level": "avx2", "available": true, "selected": true, "reason": "best"}]}]}"#;
        insta::assert_snapshot!(render(&serde_json::from_str(json).unwrap()));
    }
}
