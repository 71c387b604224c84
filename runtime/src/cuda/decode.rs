//! Single tokens by the persistent kernel (kernels/decode.cu): when a model fits it, its memory, its launches.
//!
//! In: a model on the device whose shape fits. Out: greedy tokens, or the normed last state that the full head takes.
//! Deliberately absent: the arithmetic; models that do not fit are computed by [`super::forward`].

use super::driver::{Buffer, Device};
use super::kernels::{Kernels, Shape};
use super::params::{Cache, Decode};
use super::weights::{DeviceModel, Head, Layers};
use crate::Result;
use crate::engine::pages::PAGE;
use crate::model::{HiddenActivation, Model, ModelConfig, RopePairing};

const THREADS: usize = 512;
/// Values of one slot; slots are 16 bytes.
const SLOT: usize = 3;
/// As the constants of the same names in kernels/decode.cu.
const MAX_SPLITS: usize = 26;
const MAX_PIECES: usize = 16;
const PIECE: usize = 11;
const MAX_RESULTS: usize = 512;
const MAX_HEAD_ROWS: usize = 1216;
/// Contexts of up to so many positions are attended to by query heads alone.
const SHORT: usize = 512;
/// Positions of one run of attention in longer contexts, at least.
const RUN: usize = 32;

/// Memory and launch shape.
pub struct Plan {
    grid: usize,
    shared: usize,
    /// Norm weights of every layer by slot: three, and a spare.
    norms: Buffer<f32>,
    slots: Buffer<u32>,
    /// Slots before each of the seven exchanges.
    offsets: [usize; 7],
    first: Buffer<i32>,
    tokens: Buffer<i32>,
    pages: Buffer<i32>,
    ticket: u32,
}

/// Bytes of packed layers from which on the kernel is used.
const SMALLEST: usize = 32 << 20;

/// Tokens of one launch at most.
pub const MOST_TOKENS: usize = 64;

/// What one launch computes.
pub struct Step<'a> {
    pub device: &'a Device,
    pub kernels: &'a Kernels,
    pub model: &'a DeviceModel,
    pub cache: Cache,
    /// Where the normed state of the last position goes if nothing is chosen.
    pub normed: u64,
}

impl Plan {
    /// `None` where the chip, the model or the context does not fit.
    pub fn new(
        device: &Device,
        kernels: &Kernels,
        model: &Model,
        on_device: &DeviceModel,
        context: usize,
    ) -> Result<Option<Self>> {
        let grid = device.multiprocessors as usize;
        let fixed = kernels.decode_shared;
        // Small models are computed kernel by kernel in the CPU's own order of operations, where that is fast enough.
        let packed = match (&on_device.layers, &on_device.head) {
            (Layers::Packed(packed), Head::Half(_)) => packed.weights.slice.len() >= SMALLEST,
            _ => false,
        };
        let Some(shared) = fixed
            .filter(|_| packed && on_device.embedding.is_some())
            .and_then(|fixed| shared_bytes(&model.config, model.vocab_size(), grid, fixed as usize, context))
        else {
            return Ok(None);
        };
        if shared > device.shared_limit {
            return Ok(None);
        }
        let config = &model.config;
        let mut norms = Vec::new();
        for layer in &model.layers {
            let (Some(attn_sub), Some(ffn_sub)) = (&layer.attn_sub_norm, &layer.ffn_sub_norm) else {
                return Ok(None);
            };
            slotted(&layer.attn_norm, config.hidden, &mut norms);
            slotted(attn_sub, config.head_dim, &mut norms);
            slotted(&layer.ffn_norm, config.hidden, &mut norms);
            slotted(ffn_sub, config.feed_forward, &mut norms);
        }
        let slots = |n: usize| n.div_ceil(SLOT);
        let sizes = [
            slots(config.query_dim() + 2 * config.kv_dim()),
            config.heads * slots(config.head_dim),
            slots(config.hidden),
            slots(config.feed_forward),
            slots(config.hidden),
            config.kv_heads * MAX_PIECES * MAX_SPLITS * (PIECE + 1),
            2 * grid,
        ];
        let mut total = 0;
        let offsets = sizes.map(|size| {
            total += size;
            total - size
        });
        Ok(Some(Plan {
            grid,
            shared,
            norms: device.upload("norms by slot", &norms)?,
            slots: device.zeros("slots", 4 * total)?,
            offsets,
            first: device.zeros("the first token", 1)?,
            tokens: device.zeros("chosen tokens", MOST_TOKENS)?,
            pages: device.zeros("the page table", context.div_ceil(PAGE))?,
            ticket: 0,
        }))
    }

    /// Evaluates `first` at `position` and then chosen tokens, `count` in all (0: `first` alone, nothing chosen). `pages`
    /// hold all these positions. Of ids below `below` the best are chosen.
    pub fn launch(
        &mut self,
        step: &Step<'_>,
        pages: &[u32],
        first: u32,
        position: usize,
        count: usize,
        below: usize,
    ) -> Result<()> {
        let Step { device, kernels, model, .. } = *step;
        let (Layers::Packed(packed), Head::Half(head)) = (&model.layers, &model.head) else {
            unreachable!("a plan is made for packed layers and a head of half floats")
        };
        let config = &model.config;
        let pages: Vec<i32> = pages.iter().map(|page| *page as i32).collect();
        device.write(&mut self.first, 0, &[first as i32])?;
        device.write(&mut self.pages, 0, &pages)?;
        let slot = |exchange: usize| self.slots.address(4 * self.offsets[exchange]);
        let evaluated = count.max(1);
        let params = Decode {
            weights: packed.weights.at,
            norms: self.norms.at,
            scales: packed.scales.at,
            final_norm: model.final_norm.at,
            embedding: model.embedding.expect("a plan is made where the embedding is on the device"),
            head: head.half.at,
            compact: head.compact.at,
            compact_facts: head.facts.at,
            angles: model.angles.at,
            pages: self.pages.at,
            qkv: slot(0),
            attn: slot(1),
            mid: slot(2),
            act: slot(3),
            out: slot(4),
            partial: slot(5),
            best: slot(6),
            first: self.first.at,
            tokens: self.tokens.at,
            normed: step.normed,
            cache: step.cache,
            layer_bytes: packed.layer_bytes as i64,
            layers: config.layers as i32,
            hidden: config.hidden as i32,
            ffn: config.feed_forward as i32,
            heads: config.heads as i32,
            kv_heads: config.kv_heads as i32,
            head_dim: config.head_dim as i32,
            rope_dim: config.rope_dim as i32,
            vocab: below as i32,
            activation: (config.activation == HiddenActivation::SquaredRelu).into(),
            neox: (config.rope_pairing == RopePairing::Neox).into(),
            position: position as i32,
            count: evaluated as i32,
            choose: (count > 0).into(),
            run: RUN as i32,
            eps: config.rms_eps,
            ticket: self.ticket,
        };
        self.ticket = self.ticket.wrapping_add((evaluated * (config.layers + 1)) as u32);
        let name = if position + evaluated <= SHORT { "decode_short" } else { "decode_long" };
        let shape = Shape::new((self.grid, 1, 1), THREADS as u32, self.shared);
        // SAFETY: 1. both kernels take Decode. 2. Every buffer is of this plan, the model or the cache, for the shapes that
        // `shared_bytes` has checked; pages hold the positions. 3. One stream; the launch is cooperative, as the kernel needs.
        unsafe { kernels.launch_resident(device, name, shape, &params) }
    }

    /// The tokens that the last launch chose.
    pub fn chosen(&self, device: &Device, count: usize) -> Result<Vec<u32>> {
        let mut tokens = vec![0i32; count];
        device.read(&self.tokens, 0, &mut tokens)?;
        Ok(tokens.into_iter().map(|token| token as u32).collect())
    }
}

/// How many of `tokens` from `position` on one launch takes: never from a short into a long context.
pub fn launch_len(position: usize, tokens: usize) -> usize {
    let until_long = if position < SHORT { SHORT - position } else { usize::MAX };
    tokens.min(MOST_TOKENS).min(until_long)
}

/// Dynamic shared memory of a block; `None` where the shape does not fit the kernel. `fixed` is what it takes before the
/// regions of packed rows.
fn shared_bytes(
    config: &ModelConfig,
    vocab: usize,
    grid: usize,
    fixed: usize,
    context: usize,
) -> Option<usize> {
    let (hidden, query, ffn) = (config.hidden, config.query_dim(), config.feed_forward);
    let slots = |n: usize| n.div_ceil(SLOT);
    // Rows of the block that has most: whole slots.
    let rows = |n: usize| {
        let total = slots(n);
        (0..grid).map(|b| SLOT * (total * (b + 1) / grid - total * b / grid)).max().unwrap_or(0)
    };
    let groups = |n: usize| n.is_multiple_of(64);
    let fits = groups(hidden)
        && groups(query)
        && groups(ffn)
        && hidden <= 2560
        && query <= 2560
        && ffn <= 7200
        // A row of keys takes whole lines of the L1 cache, which may be stale where a newer row is in them.
        && config.head_dim.is_multiple_of(64)
        && config.head_dim <= 128
        && config.heads / config.kv_heads <= 4
        && config.heads * slots(config.head_dim) <= 2 * THREADS
        && config.heads <= grid
        && config.kv_heads <= grid
        && config.layers <= 64
        && context.div_ceil(PAGE) <= 256
        && 2 * rows(ffn) <= MAX_RESULTS
        && 4 * rows(hidden) <= MAX_RESULTS
        && rows(query + 2 * config.kv_dim()) <= MAX_RESULTS
        && rows(vocab) <= MAX_HEAD_ROWS;
    let region = rows(query + 2 * config.kv_dim()) * hidden / 4
        + rows(hidden) * (query + ffn) / 4
        + 2 * rows(ffn) * hidden / 4;
    // The last vector is written in whole slots.
    let act = ffn.max(query).max(4 * hidden) + 16;
    fits.then_some(fixed + region + act)
}

/// Appends weights three to a slot; segments start at slots of their own, padding is zero.
fn slotted(weights: &[f32], segment: usize, out: &mut Vec<f32>) {
    for segment in weights.chunks(segment) {
        for slot in segment.chunks(SLOT) {
            let value = |i: usize| slot.get(i).copied().unwrap_or(0.0);
            out.extend([value(0), value(1), value(2), 0.0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    fn config(hidden: usize, ffn: usize) -> ModelConfig {
        ModelConfig {
            architecture: Architecture::BitnetB158,
            architecture_name: "bitnet-b1.58".into(),
            layers: 30,
            hidden,
            feed_forward: ffn,
            heads: 20,
            kv_heads: 5,
            head_dim: 128,
            rope_dim: 128,
            rope_base: 500_000.0,
            rope_scale: 1.0,
            rope_pairing: RopePairing::Neox,
            rms_eps: 1e-5,
            activation: HiddenActivation::SquaredRelu,
            context_length: 4096,
            pooling: None,
        }
    }

    #[test]
    fn the_2b_model_fits_a_hopper_block_and_larger_ones_do_not() {
        let bytes = shared_bytes(&config(2560, 6912), 128_256, 132, 49_152, 8448).expect("it fits");
        assert!((150_000..=227 << 10).contains(&bytes), "{bytes}");
        assert_eq!(shared_bytes(&config(2560, 8192), 128_256, 132, 49_152, 4096), None);
        assert_eq!(shared_bytes(&config(4096, 6912), 128_256, 132, 49_152, 4096), None);
        assert_eq!(shared_bytes(&config(2560, 6912), 128_256, 132, 49_152, 20_000), None);
        assert_eq!(
            shared_bytes(&config(2560, 6912), 128_256, 60, 49_152, 4096),
            None,
            "too few multiprocessors"
        );
    }

    #[test]
    fn slots_hold_three_weights_and_start_anew_per_segment() {
        let mut out = Vec::new();
        slotted(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 4, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 0.0, 8.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn launches_stop_where_contexts_get_long() {
        assert_eq!((launch_len(0, 10), launch_len(500, 64), launch_len(512, 500)), (10, 12, MOST_TOKENS));
    }
}
