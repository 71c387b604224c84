//! NVIDIA GPUs, through the driver API that is loaded at run time.
//!
//! In: a loaded model. Out: an [`crate::gpu::Accelerator`]. [`driver`] looks for the driver and turns its errors into
//! ours, [`kernels`] has the embedded kernels and their launches, [`weights`] the model on the device, [`executor`] the
//! batches, [`decode`] the persistent kernel for single tokens, [`step`] decoding batches as graphs of overlapping launches, [`team`] several devices that share a model through [`nccl`], [`smoke`] the checks of every kernel.
//! Deliberately absent: choosing between devices of one machine; the first are taken (CUDA_VISIBLE_DEVICES says which they are).

pub mod decode;
pub mod driver;
pub mod executor;
pub mod forward;
mod graph;
pub mod kernels;
pub mod nccl;
pub mod params;
pub mod smoke;
mod smoke_step;
pub mod smoke_team;
pub mod step;
pub mod team;
pub mod weights;

use crate::backend::{Detection, KernelBackend, Row};

/// The one row that adds this backend to the registry.
pub const ROW: Row = Row { backend: KernelBackend::Cuda, detect, open: Some(executor::open) };

/// Devices that the kernels of this build run on, by name.
fn detect() -> Detection {
    match driver::probe() {
        Ok(devices) => Detection::Devices(devices),
        Err(missing) => Detection::Missing(missing),
    }
}
