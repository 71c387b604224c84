//! What an executor measures of itself: its collectives, and its products, each without the rest of a step.
//!
//! In: a model on the device. Out: times. Deliberately absent: whole steps, which whoever asks for them can time.

use super::Executor;
use crate::Result;
use crate::cuda::forward::{Extent, Forward};
use crate::cuda::graph::Captured;
use crate::cuda::step;
use crate::cuda::weights::Layers;
use crate::gpu::plan::Segment;
use crate::gpu::{Communication, ProductTimes};
use std::sync::Arc;
use std::time::Instant;

impl Executor {
    /// See [`crate::gpu::Accelerator::communication`].
    pub(super) fn measure_communication(&self, rows: usize) -> Result<Option<Communication>> {
        if self.team.is_none() {
            return Ok(None);
        }
        let stream = Arc::clone(&self.device.stream);
        let graph = Captured::of(&stream, || {
            let forward = Forward { extent: Extent::Communication, ..self.forward() };
            forward.layers(rows, &[Segment::Decode { first: 0, count: rows }], 1)?;
            forward.head(0, rows)?;
            forward.choose(rows, self.model.vocab)
        })?;
        let bytes = self.model.shard.bytes_per_step(self.model.config.layers, rows);
        Ok(Some(Communication { bytes, nanoseconds: self.time_of(&graph)? }))
    }

    /// See [`crate::gpu::Accelerator::time_products`].
    pub(super) fn measure_products(&self) -> Result<Option<ProductTimes>> {
        let (Some(steps), Layers::Packed(packed)) = (&self.steps, &self.model.layers) else {
            return Ok(None);
        };
        let on = self.on();
        let [chained_ns, apart_ns] = [step::Order::Chained, step::Order::Apart].map(|order| {
            let graph = steps.products(&on, 1, order)?;
            self.time_of(&graph)
        });
        let weight_bytes = packed.weights.slice.len() as u64;
        Ok(Some(ProductTimes { chained_ns: chained_ns?, apart_ns: apart_ns?, weight_bytes }))
    }

    /// Median nanoseconds of a graph, of several launches in a row.
    fn time_of(&self, graph: &Captured) -> Result<u64> {
        const ROUNDS: usize = 20;
        const LAUNCHES: u32 = 8;
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 0..=ROUNDS {
            let started = Instant::now();
            (0..LAUNCHES).try_for_each(|_| graph.launch())?;
            self.device.synchronize()?;
            if round > 0 {
                times.push(started.elapsed().as_nanos() as u64 / u64::from(LAUNCHES));
            }
        }
        times.sort_unstable();
        Ok(times[ROUNDS / 2])
    }
}
