//! `bitnet kernels`: the registry of this build, what this CPU runs of it, and what would be selected.

use super::args::{Format, KernelsArgs};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::json::{KernelRow, KernelsOutput};
use super::settings;
use crate::Result;
use crate::kernels::{KernelSet, registry};

pub fn run(ctx: &mut Ctx, args: &KernelsArgs) -> Result<()> {
    settings::check_device(args.device)?;
    let set = KernelSet::select(settings::kernel_request(&ctx.env, args.kernels.as_deref())?)?;
    let kernels = registry::MATMUL.iter().copied().flatten().map(|kernel| KernelRow {
        id: kernel.id,
        weight: kernel.weight.name(),
        activation: format!("{:?}", kernel.activation),
        level: kernel.level.name(),
        available: kernel.level.is_available(),
        selected: set.matmul(kernel.weight, kernel.activation).is_some_and(|chosen| chosen.id == kernel.id),
    });
    let output = KernelsOutput {
        selection_line: set.selection.to_string(),
        selection: set.selection.clone(),
        kernels: kernels.collect(),
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

fn human(output: &KernelsOutput) -> String {
    let columns =
        ["kernel", "weight", "activation", "level", "this CPU", "selected"].map(|name| (name, Align::Left));
    let rows: Vec<Vec<String>> = output
        .kernels
        .iter()
        .map(|row| {
            let available = if row.available { "runs it" } else { "lacks it" };
            let selected = if row.selected { "yes" } else { "" };
            [row.id, row.weight, &row.activation, row.level, available, selected].map(String::from).to_vec()
        })
        .collect();
    format!("{}\n\n{}", output.selection_line, markdown(&columns, &rows))
}
