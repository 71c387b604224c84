//! `bitnet kernels`: the registry of this build, what this CPU runs of it, what would be selected, and why not the rest.

use super::args::{Format, KernelsArgs};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use super::json::{CandidateRow, CapabilitiesRow, DeviceOutput, KernelRow, KernelsOutput, OperationRow};
use super::{device_check, lab, replay, settings, tune};
use bitnet_runtime::Result;
use bitnet_runtime::backend::{self, KernelBackend};
use bitnet_runtime::kernels::arch::QUANTIZE_ACTIVATION;
use bitnet_runtime::kernels::ops::Ops;
use bitnet_runtime::kernels::{KernelCapabilities, KernelSet, MatmulKernel, Shape, SimdLevel, registry};
use bitnet_runtime::quant::activation::ActivationType;
use bitnet_runtime::quant::panels::Layout;

pub fn run(ctx: &mut Ctx, args: &KernelsArgs) -> Result<()> {
    let device = settings::choose_device(ctx, args.device)?;
    if let Some(model) = &args.check_team {
        return device_check::team(ctx, &device, model, args.tensor_parallel.into());
    }
    if let Some(rounds) = args.check_device {
        return device_check::run(ctx, &device, rounds);
    }
    if let Some(path) = &args.replay {
        return replay::run(ctx, path);
    }
    if let Some(weight) = &args.lab {
        return lab::run(ctx, args, weight);
    }
    if let Some(model) = &args.tune {
        return tune::run(ctx, args, model);
    }
    let mut set = KernelSet::select(settings::kernel_request(&ctx.env, args.kernels.as_deref())?)?;
    if let Some(profile) = tune::profile(ctx)? {
        set.apply(&profile);
    }
    let of_cpu = matmul().map(|kernel| KernelRow {
        id: kernel.id,
        weight: kernel.weight.name(),
        activation: format!("{:?}", kernel.activation),
        level: kernel.level.name(),
        available: kernel.level.is_available(),
        layout: kernel.layout().map(Layout::name),
        selected: Shape::ALL.into_iter().any(|shape| is_chosen(&set, kernel, shape)),
    });
    #[cfg_attr(not(feature = "cuda"), expect(unused_mut, reason = "a GPU backend adds its own"))]
    let mut kernels: Vec<KernelRow> = of_cpu.collect();
    #[cfg(feature = "cuda")]
    kernels.extend(bitnet_runtime::cuda::executor::COUNTED.map(|id| KernelRow {
        id,
        weight: "any",
        activation: "any".into(),
        level: KernelBackend::Cuda.name(),
        available: device.selection.detected.iter().any(|name| name == KernelBackend::Cuda.name())
            && !device.faked,
        layout: None,
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
        capabilities: SimdLevel::ALL.map(SimdLevel::capabilities).map(capabilities).into(),
        operations: operations(&set),
        kernel_ids: kernels
            .iter()
            .map(|kernel| kernel.id)
            .chain(registry::HEAD.iter().map(|head| head.id))
            .collect(),
        kernels,
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

fn matmul() -> impl Iterator<Item = &'static MatmulKernel> {
    registry::MATMUL.iter().copied().flatten()
}

fn is_chosen(set: &KernelSet, kernel: &MatmulKernel, shape: Shape) -> bool {
    set.plan(kernel.weight, kernel.activation).is_some_and(|plan| plan.kernel(shape).id == kernel.id)
}

fn capabilities(row: KernelCapabilities) -> CapabilitiesRow {
    CapabilitiesRow {
        level: row.level.name(),
        features: row.features,
        register_bytes: row.register_bytes,
        int8_instruction: row.int8,
        compiled: row.compiled,
        available: row.available,
    }
}

/// Every operation with all its candidates, scalar first: matrix products, packing of activations, element-wise.
fn operations(set: &KernelSet) -> Vec<OperationRow> {
    let mut rows = Vec::new();
    for pair in matmul().filter(|kernel| kernel.level == SimdLevel::Scalar) {
        let same =
            |kernel: &&MatmulKernel| (kernel.weight, kernel.activation) == (pair.weight, pair.activation);
        for shape in Shape::ALL {
            let row = |kernel: &MatmulKernel| CandidateRow {
                id: kernel.id.to_owned(),
                level: kernel.level.name(),
                available: kernel.level.is_available(),
                selected: is_chosen(set, kernel, shape),
                reason: set.matmul_reason(kernel, shape),
            };
            let candidates: Vec<CandidateRow> = matmul().filter(same).map(row).collect();
            let selected = |rows: &[CandidateRow]| rows.iter().position(|row| row.selected);
            match rows.last_mut() {
                Some(OperationRow { weight, activation, shapes, candidates: before, .. })
                    if *weight == Some(pair.weight.name())
                        && *activation == Some(format!("{:?}", pair.activation))
                        && selected(before) == selected(&candidates) =>
                {
                    shapes.push(shape.name());
                }
                _ => rows.push(OperationRow {
                    operation: "matmul",
                    weight: Some(pair.weight.name()),
                    activation: Some(format!("{:?}", pair.activation)),
                    shapes: vec![shape.name()],
                    candidates,
                }),
            }
        }
    }
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
            shapes: Vec::new(),
            candidates: candidates(
                set.quantize(activation).level,
                &mut all.map(|pack| (id(pack.level), pack.level)),
            ),
        });
    }
    let head =
        candidates(set.head.level, &mut registry::HEAD.iter().map(|head| (head.id.to_owned(), head.level)));
    rows.push(OperationRow {
        operation: "head",
        weight: None,
        activation: None,
        shapes: Vec::new(),
        candidates: head,
    });
    for operation in Ops::NAMES {
        let mut all =
            registry::OPS.iter().map(|ops| (format!("{operation}.{}", ops.level.name()), ops.level));
        let candidates = candidates(set.ops.level, &mut all);
        rows.push(OperationRow { operation, weight: None, activation: None, shapes: Vec::new(), candidates });
    }
    rows
}

fn human(output: &KernelsOutput) -> String {
    let columns =
        ["operation", "rows", "kernel", "this CPU", "selected", "why"].map(|name| (name, Align::Left));
    let rows = output.operations.iter().flat_map(|operation| {
        operation.candidates.iter().map(|row| {
            let available = if row.available { "runs it" } else { "lacks it" };
            let selected = if row.selected { "yes" } else { "" };
            let shapes = operation.shapes.join(", ");
            [operation.operation, &shapes, &row.id, available, selected, &row.reason]
                .map(String::from)
                .to_vec()
        })
    });
    let table = markdown(&columns, &rows.collect::<Vec<_>>());
    format!("{}\ndevice: {}\n\n{table}", output.selection_line, output.device.selection_line)
}
