//! The embedded kernels on a device: loading, and the one place that launches.
//!
//! In: what build.rs embedded. Out: [`Kernels`], functions by name. A launch takes a grid, a block, shared memory and the
//! parameters of [`super::params`]; whoever builds the parameters owns the buffers that they point into.

use super::driver::{Device, failure};
use crate::{Error, Result};
use cudarc::driver::sys::{
    CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchAttributeValue_union__bindgen_ty_1 as ClusterDim, CUlaunchConfig, cuLaunchKernelEx,
};
use cudarc::driver::{CudaFunction, CudaModule, CudaView, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Modules and the functions that are launched, by name.
const MODULES: &[(&str, &[&str])] = &[
    (
        "gemm",
        &[
            "gemm_tile_128_store",
            "gemm_tile_128_add",
            "gemm_tile_128_gate_up",
            "gemm_tile_64_store",
            "gemm_tile_64_add",
            "gemm_tile_64_gate_up",
            "gemm_skinny_8_store",
            "gemm_skinny_8_add",
            "gemm_skinny_8_gate_up",
            "gemm_skinny_32_store",
            "gemm_skinny_32_add",
            "gemm_skinny_32_gate_up",
            "gemm_skinny_32x2_store",
            "gemm_skinny_32x2_add",
            "gemm_skinny_32x2_gate_up",
        ],
    ),
    ("exact", &["attend_exact"]),
    (
        "attention",
        &["rope_store", "attend_decode", "attend_merge", "attend_prefill_64", "attend_prefill_128"],
    ),
    (
        "rows",
        &[
            "embed",
            "norm_row",
            "compact_head",
            "head_full",
            "head_batch_8",
            "head_batch_32",
            "head_batch_64",
            "to_half",
            "argmax",
            "best_pair",
            "gate_up",
        ],
    ),
    ("team", &["team_stats", "team_quantize", "team_collect"]),
    (
        "quants",
        &[
            "product_f32",
            "product_f16",
            "product_bf16",
            "product_q4_0",
            "product_q4_1",
            "product_q8_0",
            "product_q4_k",
            "product_q6_k",
            "product_tq1_0",
            "product_tq2_0",
            "product_i2_s",
        ],
    ),
];

/// The module of the persistent kernel, for compute capability 9.0 and later.
const DECODE: (&str, &[&str]) = ("decode", &["decode_short", "decode_long"]);

/// The modules of decoding steps ([`super::step`]), for compute capability 9.0 alone: they use what no other chip has.
const STEP: &[(&str, &[&str])] = &[
    ("step_gemm", &["step_gemm_store", "step_gemm_add", "step_gemm_gate_up"]),
    ("step_gemv", &["step_gemv_store", "step_gemv_add", "step_gemv_gate_up"]),
    (
        "step_wide",
        &[
            "step_quantize",
            "step_quantize_4",
            "step_wide_16_store",
            "step_wide_16_add",
            "step_wide_16_add_2",
            "step_wide_16_gate_up",
            "step_wide_32_store",
            "step_wide_32_add",
            "step_wide_32_add_2",
            "step_wide_32_gate_up",
            "step_wide_64_store",
            "step_wide_64_add",
            "step_wide_64_add_2",
            "step_wide_64_gate_up",
        ],
    ),
    (
        "step_attend",
        &[
            "step_attend_64_1_one",
            "step_attend_64_1_short",
            "step_attend_64_1",
            "step_attend_64_4",
            "step_attend_128_1_one",
            "step_attend_128_1_short",
            "step_attend_128_1",
            "step_attend_128_4",
        ],
    ),
    (
        "step_rows",
        &[
            "step_embed",
            "step_final",
            "step_scores_8",
            "step_scores_32",
            "step_scores_64",
            "step_pick",
            "step_choose",
        ],
    ),
];

/// How many blocks of how many threads, and dynamic shared memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: (u32, u32, u32),
    pub threads: u32,
    pub shared: u32,
}

impl Shape {
    pub fn new(grid: (usize, usize, usize), threads: u32, shared: usize) -> Self {
        Shape { grid: (grid.0 as u32, grid.1 as u32, grid.2 as u32), threads, shared: shared as u32 }
    }
}

/// Functions on a device.
pub struct Kernels {
    functions: HashMap<&'static str, CudaFunction>,
    /// Shared memory of the persistent kernel before its regions; `None` where the chip does not run it.
    pub decode_shared: Option<u32>,
    /// Whether the chip runs the kernels of decoding steps.
    pub steps: bool,
}

impl Kernels {
    /// Loads what the device runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a build without kernels, [`Error::Accelerator`] where the driver takes none of them.
    pub fn load(device: &Device) -> Result<Self> {
        let steps = device.capability == (9, 0);
        let mut kernels = Kernels { functions: HashMap::new(), decode_shared: None, steps };
        for (name, functions) in MODULES.iter().chain(if steps { STEP } else { &[] }) {
            kernels.module(device, name, functions)?;
        }
        if device.capability >= (9, 0) {
            let module = kernels.module(device, DECODE.0, DECODE.1)?;
            let failed = |error| failure("asking the kernels for their shared memory", error);
            let global = module.get_global("decode_shared_bytes", &device.stream).map_err(failed)?;
            let mut bytes = [0u8; 4];
            let view: CudaView<'_, u8> = global.as_view();
            device.stream.memcpy_dtoh(&view, &mut bytes).map_err(failed)?;
            device.synchronize()?;
            kernels.decode_shared = Some(u32::from_le_bytes(bytes));
        }
        Ok(kernels)
    }

    fn module(
        &mut self,
        device: &Device,
        name: &str,
        functions: &'static [&'static str],
    ) -> Result<Arc<CudaModule>> {
        let Some((_, image)) = EMBEDDED.iter().find(|(embedded, _)| *embedded == name) else {
            return Err(Error::Unavailable {
                what: format!("this binary was built without the CUDA kernels '{name}'"),
                remedy: "run `cargo xtask kernels build --cuda`, then build again with --features cuda"
                    .into(),
            });
        };
        let failed = |what: String| move |error| failure(&what, error);
        let module = device
            .context
            .load_module(Ptx::from_binary(image.to_vec()))
            .map_err(failed(format!("loading the kernels '{name}'")))?;
        for function in functions {
            let loaded =
                module.load_function(function).map_err(failed(format!("finding the kernel {function}")))?;
            let most = device.shared_limit as i32 - loaded.shared_size_bytes().unwrap_or(0);
            loaded
                .set_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)
                .map_err(failed(format!("giving {function} shared memory")))?;
            self.functions.insert(function, loaded);
        }
        Ok(module)
    }

    /// Launches `name` with one struct of parameters.
    ///
    /// # Safety
    /// 1. `params` is the struct that the kernel takes.
    /// 2. Its addresses are of live buffers of `device`, as long as the kernel reads and writes for this shape.
    /// 3. What other launches on the stream write there was written in an order that the stream keeps.
    pub unsafe fn launch<P: DeviceRepr>(
        &self,
        device: &Device,
        name: &str,
        shape: Shape,
        params: &P,
    ) -> Result<()> {
        let mut builder = device.stream.launch_builder(self.function(name));
        builder.arg(params);
        // SAFETY: passed on to the caller.
        unsafe { builder.launch(config(shape)) }
            .map(drop)
            .map_err(|error| failure(&format!("launching {name}"), error))
    }

    /// As [`Self::launch`], all blocks resident at once.
    ///
    /// # Safety
    /// As [`Self::launch`].
    pub unsafe fn launch_resident<P: DeviceRepr>(
        &self,
        device: &Device,
        name: &str,
        shape: Shape,
        params: &P,
    ) -> Result<()> {
        let mut builder = device.stream.launch_builder(self.function(name));
        builder.arg(params);
        // SAFETY: passed on to the caller.
        unsafe { builder.launch_cooperative(config(shape)) }
            .map(drop)
            .map_err(|error| failure(&format!("launching {name}"), error))
    }

    /// As [`Self::launch`], in clusters of `cluster` blocks along x, and so that the kernel may start before the one in front
    /// of it on the stream is done: it waits by itself (kernels/step.cuh).
    ///
    /// # Safety
    /// As [`Self::launch`]; the kernel is one of a decoding step.
    pub unsafe fn launch_step<P: DeviceRepr>(
        &self,
        device: &Device,
        name: &str,
        shape: Shape,
        cluster: u32,
        params: &P,
    ) -> Result<()> {
        let attribute = |id, value| CUlaunchAttribute { id, pad: [0; 4], value };
        let mut attributes = [
            attribute(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
            ),
            attribute(
                CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                CUlaunchAttributeValue { clusterDim: ClusterDim { x: cluster, y: 1, z: 1 } },
            ),
        ];
        let config = CUlaunchConfig {
            gridDimX: shape.grid.0,
            gridDimY: shape.grid.1,
            gridDimZ: shape.grid.2,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared,
            hStream: device.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: the attributes and the one argument live through the call, which copies them; the function is of this
        // device's context. What the kernel reads and writes is passed on to the caller.
        let outcome = unsafe {
            cuLaunchKernelEx(
                &config,
                self.function(name).cu_function(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        outcome.result().map_err(|error| failure(&format!("launching {name}"), error))
    }

    /// As [`Self::launch`] for kernels that take addresses and numbers.
    ///
    /// # Safety
    /// As [`Self::launch`]; `addresses` come first in the kernel's parameters, then `numbers`.
    pub unsafe fn launch_plain(
        &self,
        device: &Device,
        name: &str,
        shape: Shape,
        addresses: &[u64],
        numbers: &[i32],
    ) -> Result<()> {
        let mut builder = device.stream.launch_builder(self.function(name));
        addresses.iter().for_each(|address| {
            builder.arg(address);
        });
        numbers.iter().for_each(|number| {
            builder.arg(number);
        });
        // SAFETY: passed on to the caller.
        unsafe { builder.launch(config(shape)) }
            .map(drop)
            .map_err(|error| failure(&format!("launching {name}"), error))
    }

    fn function(&self, name: &str) -> &CudaFunction {
        self.functions.get(name).unwrap_or_else(|| panic!("{name} is in no table of kernels"))
    }
}

fn config(shape: Shape) -> LaunchConfig {
    LaunchConfig { grid_dim: shape.grid, block_dim: (shape.threads, 1, 1), shared_mem_bytes: shape.shared }
}
