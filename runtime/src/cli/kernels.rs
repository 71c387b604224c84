//! `bitnet kernels`: the registry of this build, what this CPU runs of it, what would be selected, and why not the rest.

use super::args::{Format, KernelsArgs};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::json::{CandidateRow, DeviceOutput, KernelRow, KernelsOutput, OperationRow};
use super::{device_check, replay, settings};
use crate::Result;
use crate::backend::{self, KernelBackend};
use crate::kernels::arch::QUANTIZE_ACTIVATION;
use crate::kernels::ops::Ops;
use crate::kernels::{KernelSet, MatmulKernel, SimdLevel, registry};
use crate::quant::activation::ActivationType;

pub fn run(ctx: &mut Ctx, args: &KernelsArgs) -> Result<()> {
    let device = settings::choose_device(ctx, args.device)?;
    if let Some(rounds) = args.check_device {
        return device_check::run(ctx, &device, rounds);
    }
    if let Some(path) = &args.replay {
        return replay::run(ctx, path);
    }
    let set = KernelSet::select(settings::kernel_request(&ctx.env, args.kernels.as_deref())?)?;
    let of_cpu = matmul().map(|kernel| KernelRow {
        id: kernel.id,
        weight: kernel.weight.name(),
        activation: format!("{:?}", kernel.activation),
        level: kernel.level.name(),
        available: kernel.level.is_available(),
        selected: set.matmul(kernel.weight, kernel.activation).is_some_and(|chosen| chosen.id == kernel.id),
    });
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "a GPU backend adds its own"))]
    let mut kernels: Vec<KernelRow> = of_cpu.collect();
    #[cfg(feature = "cuda")]
    kernels.extend(crate::cuda::executor::COUNTED.map(|id| KernelRow {
        id,
        weight: "any",
        activation: "any".into(),
        level: KernelBackend::Cuda.name(),
        available: device.selection.detected.iter().any(|name| name == KernelBackend::Cuda.name())
            && !device.faked,
        selected: device.selection.selected == KernelBackend::Cuda.name(),
    }));
    let output = KernelsOutput {
        selection_line: set.selection.to_string(),
        selection: set.selection.clone(),
        device: DeviceOutput {
            selection_line: device.selection.to_string(),
            gpu_compiled: backend::gpu_compiled(),
            gpu_available: device.selection.detected.iter().any(|name| name != KernelBackend::Cpu.name()),
            faked: device.faked,
            selection: device.selection,
        },
        kernel_ids: kernels.iter().map(|kernel| kernel.id).collect(),
        kernels,
        operations: operations(&set),
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

fn matmul() -> impl Iterator<Item = &'static MatmulKernel> {
    registry::MATMUL.iter().copied().flatten()
}

/// Every operation with all its candidates, scalar first: matrix products, packing of activations, element-wise.
fn operations(set: &KernelSet) -> Vec<OperationRow> {
    let candidates = |chosen: SimdLevel, all: &mut dyn Iterator<Item = (String, SimdLevel)>| {
        let row = |(id, level): (String, SimdLevel)| CandidateRow {
            id,
            level: level.name(),
            available: level.is_available(),
            selected: level == chosen,
            reason: set.reason(level, chosen),
        };
        all.map(row).collect()
    };
    let mut rows = Vec::new();
    for pair in matmul().filter(|kernel| kernel.level == SimdLevel::Scalar) {
        let chosen = set.matmul(pair.weight, pair.activation).unwrap_or(pair).level;
        let same =
            |kernel: &&MatmulKernel| (kernel.weight, kernel.activation) == (pair.weight, pair.activation);
        let mut all = matmul().filter(same).map(|kernel| (kernel.id.to_owned(), kernel.level));
        rows.push(OperationRow {
            operation: "matmul",
            weight: Some(pair.weight.name()),
            activation: Some(format!("{:?}", pair.activation)),
            candidates: candidates(chosen, &mut all),
        });
    }
    for activation in ActivationType::ALL {
        let all = QUANTIZE_ACTIVATION.iter().copied().flatten().filter(|pack| pack.activation == activation);
        // As the ids of matrix kernels name it.
        let users =
            matmul().find(|kernel| kernel.activation == activation).and_then(|k| k.id.split('.').nth(1));
        let name = users.unwrap_or("unused");
        let id = |level: SimdLevel| format!("quantize.{name}.{}", level.name());
        rows.push(OperationRow {
            operation: "quantize",
            weight: None,
            activation: Some(format!("{activation:?}")),
            candidates: candidates(
                set.quantize(activation).level,
                &mut all.map(|pack| (id(pack.level), pack.level)),
            ),
        });
    }
    for operation in Ops::NAMES {
        let mut all =
            registry::OPS.iter().map(|ops| (format!("{operation}.{}", ops.level.name()), ops.level));
        let candidates = candidates(set.ops.level, &mut all);
        rows.push(OperationRow { operation, weight: None, activation: None, candidates });
    }
    rows
}

fn human(output: &KernelsOutput) -> String {
    let columns = ["operation", "kernel", "this CPU", "selected", "why"].map(|name| (name, Align::Left));
    let rows = output.operations.iter().flat_map(|operation| {
        operation.candidates.iter().map(|row| {
            let available = if row.available { "runs it" } else { "lacks it" };
            let selected = if row.selected { "yes" } else { "" };
            [operation.operation, &row.id, available, selected, &row.reason].map(String::from).to_vec()
        })
    });
    format!(
        "{}\ndevice: {}\n\n{}",
        output.selection_line,
        output.device.selection_line,
        markdown(&columns, &rows.collect::<Vec<_>>())
    )
}
