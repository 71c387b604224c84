//! `kernels list`: which kernel each operation gets on this machine, and why the others were not chosen.
//!
//! In: `bitnet kernels --json`. Out: one row per kernel, grouped by operation. A reason that the binary gives is
//! shown as it is; otherwise it follows from what the binary says about the CPU and its choice.
//! Deliberately absent: any choice.

use crate::binary;
use crate::cli;
use crate::ctx::Ctx;
use crate::proc::{self, Command};
use crate::report::table;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};

pub fn run(ctx: &Ctx, command: &cli::KernelsCommand) -> Result<ExitCode> {
    let cli::KernelsCommand::List = command;
    let bitnet = binary::release(ctx)?;
    let text = proc::read(ctx, &Command::new(bitnet).args(["kernels", "--json"]))?;
    let listed = list(&text).context("`bitnet kernels --json` printed JSON that xtask does not know")?;
    if ctx.out.is_json() {
        ctx.out.json(&listed)?
    } else {
        ctx.out.stdout(&render(&listed))?
    }
    Ok(ExitCode::Ok)
}

#[derive(Deserialize)]
struct Output {
    selection_line: String,
    kernels: Vec<Kernel>,
}

#[derive(Deserialize)]
struct Kernel {
    id: String,
    weight: String,
    activation: String,
    level: String,
    available: bool,
    selected: bool,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    selection: String,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Candidate {
    /// Weight type by activation type.
    operation: String,
    kernel: String,
    selected: bool,
    reason: String,
}

fn list(json: &str) -> Result<Listed> {
    let output: Output = serde_json::from_str(json)?;
    let operation = |kernel: &Kernel| format!("{} x {}", kernel.weight, kernel.activation);
    let mut candidates: Vec<Candidate> = Vec::new();
    for kernel in &output.kernels {
        let chosen = output.kernels.iter().find(|k| k.selected && operation(k) == operation(kernel));
        let reason = match (&kernel.reason, chosen) {
            (Some(reason), _) => reason.clone(),
            (None, _) if kernel.selected => "chosen".to_string(),
            (None, _) if !kernel.available => format!("this CPU lacks {}", kernel.level),
            (None, Some(chosen)) => format!("{} was chosen", chosen.id),
            (None, None) => "no kernel was chosen for this operation".to_string(),
        };
        candidates.push(Candidate {
            operation: operation(kernel),
            kernel: kernel.id.clone(),
            selected: kernel.selected,
            reason,
        });
    }
    candidates.sort_by(|a, b| (&a.operation, !a.selected).cmp(&(&b.operation, !b.selected)));
    Ok(Listed { selection: output.selection_line, candidates })
}

fn render(listed: &Listed) -> String {
    let rows = listed.candidates.iter().map(|candidate| {
        let selected = if candidate.selected { "yes" } else { "" };
        [candidate.operation.clone(), candidate.kernel.clone(), selected.into(), candidate.reason.clone()]
    });
    format!("{}\n\n{}", listed.selection, table(["operation", "kernel", "selected", "why"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_that_was_not_chosen_says_why() {
        let row = |id: &str, available: bool, selected: bool, more: &str| {
            format!(
                r#"{{"id": "{id}", "weight": "I2_S", "activation": "I8", "level": "{id}-level",
                "available": {available}, "selected": {selected}{more}}}"#
            )
        };
        let rows = [
            row("scalar", true, false, ""),
            row("avx2", true, true, ""),
            row("neon", false, false, ""),
            row("odd", true, false, r#", "reason": "its own words""#),
        ];
        let json = format!(r#"{{"selection_line": "requested=auto", "kernels": [{}]}}"#, rows.join(","));
        insta::assert_snapshot!(render(&list(&json).unwrap()), @"");
    }
}
