//! One forward pass over the rows of a batch: the graphs of `llama`, `bitnet`, `bitnet-b1.58` and `qwen3`.
//!
//! In: token ids, each with its sequence and position. Out: hidden states in the buffers, keys and values in the
//! cache, logits on request. All buffers live in [`Buffers`]; nothing is allocated here.

use super::attention::{self, Attention, Place};
use super::batch::{Best, Row};
use super::compute::{Compute, Scratch};
use super::head::CompactHead;
use super::kv_cache::KvCache;
use super::pages::SequenceId;
use super::rope::Rope;
use super::taps::{TapSink, Tapped};
use crate::kernels::KernelSet;
use crate::model::{HiddenActivation, Layer, Model, RopePairing};
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::{Error, Result};
use bitforge_schema::protocol::TapPoint;
use std::path::Path;
use std::time::Instant;

/// Scratch memory of a forward pass. Sizes in elements; T is the largest number of tokens.
pub(super) struct Buffers {
    hidden: Vec<f32>,    // [T, hidden], the residual stream
    normed: Vec<f32>,    // [T, max(hidden, query, feed_forward)]
    q: Vec<f32>,         // [T, query]
    k: Vec<f32>,         // [T, kv]
    v: Vec<f32>,         // [T, kv]
    attention: Vec<f32>, // [T, query]
    by_head: Vec<f32>,   // [kv heads, T, heads of a group, head_dim]
    gate: Vec<f32>,      // [T, feed_forward]
    up: Vec<f32>,        // [T, feed_forward]
    projected: Vec<f32>, // [T, hidden]
    scratch: Scratch,
    angles: Vec<f32>,                // [T, cosines then sines]
    attend: Vec<attention::Scratch>, // per thread
    split: attention::Split,
    logits: Vec<f32>,   // [logits rows, vocab]
    places: Vec<Place>, // [T]
    tokens: usize,
}

/// What bounds the sizes of [`Buffers`].
pub(super) struct Limits {
    /// Tokens of one chunk.
    pub tokens: usize,
    /// Rows whose logits are computed together.
    pub logits_rows: usize,
    pub threads: usize,
}

impl Buffers {
    pub(super) fn new(model: &Model, cache: &KvCache, limits: &Limits) -> Self {
        let Limits { tokens, logits_rows, threads } = *limits;
        let config = &model.config;
        let (query, kv, ffn) = (config.query_dim(), config.kv_dim(), config.feed_forward);
        let widest = config.hidden.max(query).max(ffn);
        let f32s = |per_token: usize| vec![0f32; tokens * per_token];
        Buffers {
            hidden: f32s(config.hidden),
            normed: f32s(widest),
            q: f32s(query),
            k: f32s(kv),
            v: f32s(kv),
            attention: f32s(query),
            by_head: f32s(query),
            gate: f32s(ffn),
            up: f32s(ffn),
            projected: f32s(config.hidden),
            scratch: Scratch::new(tokens, widest),
            angles: f32s(config.rope_dim),
            attend: (0..threads).map(|_| attention::Scratch::new(cache)).collect(),
            split: attention::Split::new(cache, threads),
            logits: vec![0.0; logits_rows * model.vocab_size()],
            places: Vec::with_capacity(tokens),
            tokens,
        }
    }

    /// The largest number of rows.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Where the rows of the pass to come are.
    pub(super) fn places(&mut self) -> &mut Vec<Place> {
        &mut self.places
    }
}

/// Refuses models for which some matrix has no kernel or does not fit its activation blocks.
pub(super) fn check_runnable(model: &Model, path: &Path, mode: ActivationQuant) -> Result<()> {
    for matrix in model.matrices() {
        let activation = ActivationType::for_weight(matrix.ty, mode);
        if activation == ActivationType::Q8K && !matrix.columns.is_multiple_of(256) {
            return Err(Error::unsupported(
                path,
                format!("tensor '{}' has rows of {}, not a multiple of 256", matrix.name, matrix.columns),
                "blocks of 256 activations do not fit; use --activation-quant token",
            ));
        }
    }
    Ok(())
}

/// Drops positions from the cache and rotates the keys that move; see [`super::batch::Sequences::shift`].
pub(super) fn shift(
    cache: &mut KvCache,
    model: &Model,
    rope: &Rope,
    kernels: &KernelSet,
    id: SequenceId,
    (keep, discard): (usize, usize),
) -> Result<()> {
    let mut angles = vec![0.0; 2 * rope.pairs()];
    rope.angles(-(discard as i64), &mut angles);
    cache.shift(kernels, id, (keep, discard), |key| {
        rotate(kernels, model.config.rope_pairing, &mut key[..2 * rope.pairs()], &angles);
    })
}

/// Everything one step works on, borrowed from the engine.
pub(super) struct Step<'a> {
    pub model: &'a Model,
    pub rope: &'a Rope,
    pub compute: Compute<'a>,
    pub cache: &'a mut KvCache,
    pub buffers: &'a mut Buffers,
    pub taps: Option<TapSink<'a>>,
}

impl<'a> Step<'a> {
    /// Runs `rows`, which are at `buffers.places`, through every layer; the result is in `buffers.hidden`.
    pub(super) fn layers(mut self, rows: &[Row]) {
        let (config, m) = (&self.model.config, rows.len());
        let b = &mut *self.buffers;
        for (row, hidden) in rows.iter().zip(b.hidden.chunks_exact_mut(config.hidden)) {
            self.model.embedding.dequantize_row(row.token as usize, hidden);
        }
        for ((_, position), angles) in b.places.iter().zip(b.angles.chunks_exact_mut(config.rope_dim)) {
            self.rope.angles(*position as i64, angles);
        }
        // Who taps evaluates one sequence at a time.
        let position = b.places[0].1;
        let at = At { layer: None, position };
        tap(&mut self.taps, at, TapPoint::Embedding, config.hidden, &b.hidden[..m * config.hidden]);
        for layer in 0..config.layers {
            self.attention(layer, m, position);
            self.feed_forward(layer, m, position);
        }
    }

    /// hidden += output projection of attention over the normed hidden state.
    fn attention(&mut self, index: usize, m: usize, position: usize) {
        let (model, config) = (self.model, &self.model.config);
        let layer = &model.layers[index];
        let (query, kv, hidden) = (config.query_dim(), config.kv_dim(), config.hidden);
        let at = At { layer: Some(index), position };
        self.norm_hidden(&layer.attn_norm, m);
        let b = &mut *self.buffers;
        tap(&mut self.taps, at, TapPoint::AttnNorm, hidden, &b.normed[..m * hidden]);
        self.compute.project(
            &mut b.scratch,
            &b.normed[..m * config.hidden],
            m,
            [
                (&layer.q, &mut b.q[..m * query]),
                (&layer.k, &mut b.k[..m * kv]),
                (&layer.v, &mut b.v[..m * kv]),
            ],
        );
        tap(&mut self.taps, at, TapPoint::Query, query, &b.q[..m * query]);
        tap(&mut self.taps, at, TapPoint::Key, kv, &b.k[..m * kv]);
        tap(&mut self.taps, at, TapPoint::Value, kv, &b.v[..m * kv]);
        self.norm_heads(layer, m);
        self.rotate_queries_and_keys(m);
        tap(&mut self.taps, at, TapPoint::QueryRope, query, &self.buffers.q[..m * query]);
        tap(&mut self.taps, at, TapPoint::KeyRope, kv, &self.buffers.k[..m * kv]);
        self.store_keys_and_values(index, m);
        self.attend(index, m);
        let b = &mut *self.buffers;
        let (mut x, normed) = (&b.attention[..m * query], &mut b.normed[..m * query]);
        tap(&mut self.taps, at, TapPoint::Attention, query, x);
        if let Some(weight) = &layer.attn_sub_norm {
            self.compute.norm(x, weight, config.rms_eps, normed);
            tap(&mut self.taps, at, TapPoint::AttnSubNorm, query, normed);
            x = normed;
        }
        self.compute.project(&mut b.scratch, x, m, [(&layer.o, &mut b.projected[..m * hidden])]);
        tap(&mut self.taps, at, TapPoint::AttnOutput, hidden, &self.buffers.projected[..m * hidden]);
        self.add_projected(m);
        tap(&mut self.taps, at, TapPoint::AttnResidual, hidden, &self.buffers.hidden[..m * hidden]);
    }

    /// hidden += down(act(gate(x)) * up(x)) with x the normed hidden state.
    fn feed_forward(&mut self, index: usize, m: usize, position: usize) {
        let (model, config) = (self.model, &self.model.config);
        let layer = &model.layers[index];
        let (ffn, hidden) = (config.feed_forward, config.hidden);
        let at = At { layer: Some(index), position };
        self.norm_hidden(&layer.ffn_norm, m);
        let b = &mut *self.buffers;
        tap(&mut self.taps, at, TapPoint::FfnNorm, hidden, &b.normed[..m * hidden]);
        self.compute.project(
            &mut b.scratch,
            &b.normed[..m * config.hidden],
            m,
            [(&layer.gate, &mut b.gate[..m * ffn]), (&layer.up, &mut b.up[..m * ffn])],
        );
        tap(&mut self.taps, at, TapPoint::Gate, ffn, &b.gate[..m * ffn]);
        tap(&mut self.taps, at, TapPoint::Up, ffn, &b.up[..m * ffn]);
        let multiply = match config.activation {
            HiddenActivation::Silu => self.compute.kernels.ops.silu_mul,
            HiddenActivation::SquaredRelu => self.compute.kernels.ops.relu2_mul,
        };
        let (gate, up) = (&mut b.gate[..m * ffn], &b.up[..m * ffn]);
        let part = if m == 1 { ffn } else { ffn * m.div_ceil(self.compute.pool.threads() * 2) };
        // SAFETY: the kernel set was selected for this CPU.
        self.compute
            .pool
            .for_each_chunk(gate, part, |i, gate| unsafe { multiply(gate, &up[i * part..][..gate.len()]) });
        tap(&mut self.taps, at, TapPoint::FfnActivation, ffn, gate);
        let (mut x, normed) = (&*gate, &mut b.normed[..m * ffn]);
        if let Some(weight) = &layer.ffn_sub_norm {
            self.compute.norm(x, weight, config.rms_eps, normed);
            tap(&mut self.taps, at, TapPoint::FfnSubNorm, ffn, normed);
            x = normed;
        }
        self.compute.project(&mut b.scratch, x, m, [(&layer.down, &mut b.projected[..m * hidden])]);
        tap(&mut self.taps, at, TapPoint::FfnOutput, hidden, &self.buffers.projected[..m * hidden]);
        self.add_projected(m);
        tap(&mut self.taps, at, TapPoint::LayerOutput, hidden, &self.buffers.hidden[..m * hidden]);
    }

    /// normed = rms_norm(hidden) * weight.
    fn norm_hidden(&mut self, weight: &[f32], m: usize) {
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let len = m * config.hidden;
        self.compute.norm(&b.hidden[..len], weight, config.rms_eps, &mut b.normed[..len]);
    }

    /// hidden += projected.
    fn add_projected(&mut self, m: usize) {
        let (b, n) = (&mut *self.buffers, self.model.config.hidden);
        let (hidden, projected) = (&mut b.hidden[..m * n], &b.projected[..m * n]);
        let add = |row: usize, hidden: &mut [f32]| {
            hidden.iter_mut().zip(&projected[row * n..]).for_each(|(hidden, projected)| *hidden += projected);
        };
        // For one row a region costs more than this.
        if m == 1 { add(0, hidden) } else { self.compute.pool.for_each_chunk(hidden, n, add) }
    }

    /// RMS norm of every head of the queries and keys, where the graph has one.
    fn norm_heads(&mut self, layer: &Layer, m: usize) {
        let (Some(of_queries), Some(of_keys)) = (&layer.q_norm, &layer.k_norm) else { return };
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let (query, kv, eps) = (config.query_dim(), config.kv_dim(), config.rms_eps);
        for (values, weight) in [(&mut b.q[..m * query], of_queries), (&mut b.k[..m * kv], of_keys)] {
            let normed = &mut b.normed[..values.len()];
            self.compute.norm(values, weight, eps, normed);
            values.copy_from_slice(normed);
        }
    }

    fn rotate_queries_and_keys(&mut self, m: usize) {
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let (query, kv, kernels) = (config.query_dim(), config.kv_dim(), self.compute.kernels);
        let angles = &b.angles[..m * config.rope_dim];
        let rotate_row = |job: usize, t: usize, row: &mut [f32]| {
            let of_row = &angles[t * config.rope_dim..][..config.rope_dim];
            #[cfg(feature = "planted-bugs")]
            let of_query: &[f32] = &crate::planted::angles_of_query(angles, t, m);
            #[cfg(not(feature = "planted-bugs"))]
            let of_query = of_row;
            for head in row.chunks_exact_mut(config.head_dim) {
                let angles = if job == 0 { of_query } else { of_row };
                rotate(kernels, config.rope_pairing, &mut head[..config.rope_dim], angles);
            }
        };
        let (q, k) = (&mut b.q[..m * query], &mut b.k[..m * kv]);
        if m == 1 {
            // A region costs more than this.
            rotate_row(0, 0, q);
            return rotate_row(1, 0, k);
        }
        self.compute.pool.for_each_chunk_of([(q, query), (k, kv)], rotate_row);
    }

    /// Rounds queries to half precision, and writes keys and values to the cache.
    fn store_keys_and_values(&mut self, layer: usize, m: usize) {
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let (kernels, query, kv) = (self.compute.kernels, config.query_dim(), config.kv_dim());
        self.compute.pool.for_each_chunk(&mut b.q[..m * query], query, |_, q| {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (kernels.ops.round_to_f16)(q) }
        });
        let rows = b.k.chunks_exact(kv).zip(b.v.chunks_exact(kv));
        for (place, (keys, values)) in b.places.iter().zip(rows) {
            self.cache.store(kernels, layer, *place, keys, values);
        }
    }

    /// Causal attention of every query head of the rows over its keys in the cache.
    fn attend(&mut self, layer: usize, m: usize) {
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let query = config.query_dim();
        let attention = Attention {
            kernels: self.compute.kernels,
            cache: &*self.cache,
            layer,
            places: &b.places,
            heads: config.heads,
            queries: &b.q[..m * query],
        };
        let out = &mut b.attention[..m * query];
        if m == 1 {
            return attention.run(self.compute.pool, &mut b.attend, &mut b.split, out);
        }
        let by_head = &mut b.by_head[..m * query];
        attention.run(self.compute.pool, &mut b.attend, &mut b.split, by_head);
        let (group, by_head) = (query / config.kv_heads, &*by_head);
        self.compute.pool.for_each_chunk(out, query, |row, out| {
            for (head, out) in out.chunks_exact_mut(group).enumerate() {
                out.copy_from_slice(&by_head[(head * m + row) * group..][..group]);
            }
        });
    }

    /// Logits [rows.len(), vocab] of rows of the last pass.
    pub(super) fn head(mut self, rows: &[usize]) -> &'a [f32] {
        self.norm_rows(rows);
        let b = self.buffers;
        let normed = &b.normed[..rows.len() * self.model.config.hidden];
        let logits = &mut b.logits[..rows.len() * self.model.vocab_size()];
        self.compute.project_matrices(
            &mut b.scratch,
            normed,
            rows.len(),
            [(self.model.head(), &mut *logits)],
        );
        logits
    }

    /// Searches the head for what the rows `rows` of the last pass want; see [`CompactHead::found`].
    pub(super) fn search(mut self, compact: &mut CompactHead, rows: &[usize], wants: &[Best]) {
        self.norm_rows(rows);
        let (matrix, b) = (self.model.head(), &mut *self.buffers);
        let normed = &b.normed[..rows.len() * self.model.config.hidden];
        let (kernel, packed) = self.compute.pack(&mut b.scratch, normed, matrix);
        let started = Instant::now();
        let read = compact.search(self.compute.pool, matrix, kernel, packed, wants);
        let wall_ns = started.elapsed().as_nanos() as u64;
        self.compute.counters.add_search(wall_ns, compact.kernel(), read, (kernel, matrix.row_bytes));
    }

    /// Final hidden states [rows.len(), hidden] of rows of the last pass, after the last norm.
    pub(super) fn hidden(mut self, rows: &[usize]) -> &'a [f32] {
        self.norm_rows(rows);
        let b = self.buffers;
        &b.normed[..rows.len() * self.model.config.hidden]
    }

    /// normed = final norm of the given rows of the last pass.
    fn norm_rows(&mut self, rows: &[usize]) {
        let (config, b) = (&self.model.config, &mut *self.buffers);
        let (n, weight, rms_norm) =
            (config.hidden, &self.model.output_norm, self.compute.kernels.ops.rms_norm);
        let (hidden, normed) = (&b.hidden, &mut b.normed[..rows.len() * n]);
        self.compute.pool.for_each_chunk(normed, n, |row, out| {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { rms_norm(&hidden[rows[row] * n..][..n], weight, config.rms_eps, out) }
        });
        let at = At { layer: None, position: b.places[rows[0]].1 };
        tap(&mut self.taps, at, TapPoint::FinalNorm, n, normed);
    }
}

/// Where in the model and the sequence a value belongs.
#[derive(Clone, Copy)]
struct At {
    layer: Option<usize>,
    position: usize,
}

fn tap(taps: &mut Option<TapSink<'_>>, at: At, point: TapPoint, width: usize, values: &[f32]) {
    if let Some(sink) = taps {
        sink(&Tapped { point, layer: at.layer, position: at.position, width, values });
    }
}

fn rotate(kernels: &KernelSet, pairing: RopePairing, head: &mut [f32], angles: &[f32]) {
    let (cos, sin) = angles.split_at(angles.len() / 2);
    let rope = match pairing {
        RopePairing::Adjacent => kernels.ops.rope_adjacent,
        RopePairing::Neox => kernels.ops.rope_neox,
    };
    // SAFETY: the kernel set was selected for this CPU.
    unsafe { rope(head, cos, sin) }
}
