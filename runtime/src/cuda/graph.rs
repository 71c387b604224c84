//! A graph of launches: captured once, launched as one.

use super::driver::failure;
use crate::{Error, Result};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use std::sync::Arc;

pub struct Captured(CudaGraph);
// SAFETY: the handles are used through the `&mut` of their owner, by one thread at a time; the driver allows any thread.
unsafe impl Send for Captured {}

impl Captured {
    /// What `launches` puts on `stream`, which does not run yet.
    ///
    /// # Errors
    /// Those of `launches`, and of the driver.
    pub fn of(stream: &Arc<CudaStream>, launches: impl FnOnce() -> Result<()>) -> Result<Self> {
        let failed = |error| failure("capturing a graph", error);
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
        let launched = launches();
        let graph = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .map_err(failed)?;
        launched?;
        let graph = graph.ok_or_else(|| Error::Accelerator {
            what: "a graph of launches came out empty".into(),
            remedy: "update the driver, or use --device cpu".into(),
        })?;
        Ok(Captured(graph))
    }

    /// # Errors
    /// The driver's.
    pub fn launch(&self) -> Result<()> {
        self.0.launch().map_err(|error| failure("launching a graph", error))
    }
}
