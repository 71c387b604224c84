//! Decoding steps, one token each of up to 64 sequences, as graphs of overlapping launches (kernels/step_*.cu): when a model
//! fits them, their memory, their shapes, their launches.
//!
//! In: tokens, positions and pages, written once per step or once for several greedy steps of one sequence. Out: chosen
//! tokens with their logits, or normed states that the full head takes. Five launches a layer for up to 8 rows, nine
//! beyond; every launch starts while the one before it still runs, and fetches weights meanwhile. Deliberately
//! absent: the arithmetic; sequences (see [`super::executor`]); models and chips that do not fit, which
//! [`super::forward`] computes.

mod shapes;

use super::driver::{Buffer, Device};
use super::forward::Buffers;
use super::graph::Captured;
use super::kernels::{Kernels, Shape};
use super::params::{StepAttend, StepGemm, StepRows, StepWide, Turn};
use super::weights::{DeviceModel, Head, Layers};
use crate::Result;
use crate::engine::pages::PAGE;
use crate::model::{HiddenActivation, RopePairing};
use std::collections::HashMap;
use std::sync::Arc;

use shapes::{Attention, HEAD_TILE, attention, parts};
pub(super) use shapes::{Scores, cut_attention, narrow, quantize, single, wide};

/// Rows of one step at most, as STEP_ROWS in kernels/step.cuh.
pub const ROWS: usize = 64;
/// Numbers of a row's statistics: two, in a cache line of their own.
pub(super) const STAT: usize = 16;
/// Steps whose choices are kept.
pub const HISTORY: usize = 64;
/// Rows of up to which products are those of kernels/step_gemm.cu (kernels/step_gemv.cu for one); beyond, of kernels/step_wide.cu.
const NARROW: usize = 8;

/// What a step leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The best of so many tokens and its logit, per row.
    Best { below: usize },
    /// As `Best` of all tokens; the chosen ones are what the next step evaluates.
    Chain,
    /// Normed states.
    Normed,
}

/// What is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Step(Answer),
    /// The four products of every layer alone, to measure them.
    Products(Order),
}

/// Whether a product waits for the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Chained,
    Apart,
}

/// Memory and graphs of the steps of one model.
pub struct Steps {
    phases: usize,
    stats: Buffer<f64>,        // [phases, ROWS, STAT]
    turns: Buffer<u32>,        // [launches]
    quants: Buffer<u8>,        // [widest / 128, ROWS, 128]
    token_scales: Buffer<f32>, // [ROWS]
    sums: Buffer<i32>,         // [ROWS]
    split: Buffer<i8>,         // [ROWS, 2, hidden to whole blocks of 128]
    facts: Buffer<f32>,        // [ROWS, 4]
    upper: Buffer<f32>,        // [ROWS, vocab]
    tops: Buffer<f32>,         // [ROWS, vocab / HEAD_TILE]
    low: Buffer<u32>,          // [ROWS]
    best: Buffer<u64>,         // [ROWS]
    chosen: Buffer<u32>,       // [HISTORY, m, 2]
    done: Buffer<i32>,
    /// Tokens and positions of ROWS rows, then their pages.
    places: Buffer<i32>,
    max_pages: usize,
    /// Rows of a step at most: matrices may be too wide for the kernels of several rows.
    rows: usize,
    /// Steps that were launched, modulo HISTORY.
    launched: usize,
    graphs: HashMap<(usize, usize, Answer), Captured>,
}

/// Everything that launches read and write.
pub struct On<'a> {
    pub device: &'a Device,
    pub kernels: &'a Kernels,
    pub model: &'a DeviceModel,
    pub buffers: &'a Buffers,
}

impl Steps {
    /// `None` where the chip or the model does not fit.
    pub fn new(on: &On<'_>, context: usize) -> Result<Option<Self>> {
        let On { device, kernels, model, .. } = *on;
        let config = &model.config;
        let group = config.heads / config.kv_heads;
        let fits = kernels.steps
            && matches!((&model.layers, &model.head), (Layers::Packed(_), Head::Half(_)))
            && model.embedding.is_some()
            && matches!(config.head_dim, 64 | 128)
            && config.heads.is_multiple_of(config.kv_heads)
            && group <= 4
            && config.hidden.is_multiple_of(64);
        let rows = |(n, k, count)| {
            let wide = |parts| wide(device, n, k, ROWS, count, parts).is_some();
            match single(device, n, k, count) {
                None => 0,
                Some(_) if narrow(device, n, k, count).is_none() => 1,
                Some(_) if wide(1) && (count > 1 || wide(2)) => ROWS,
                Some(_) => NARROW,
            }
        };
        let rows = matrices(on).into_iter().map(rows).min().unwrap_or(0);
        if !fits || rows == 0 {
            return Ok(None);
        }
        let (phases, hidden, max_pages) = (4 * config.layers + 1, config.hidden, context.div_ceil(PAGE));
        let widest = hidden.max(config.query_dim()).max(config.feed_forward);
        Ok(Some(Steps {
            phases,
            stats: device.zeros("statistics of norms", STAT * phases * ROWS)?,
            turns: device.zeros("turns of launches", 9 * config.layers)?,
            quants: device.zeros("int8 activations", ROWS * widest.next_multiple_of(128))?,
            token_scales: device.zeros("activation scales", ROWS)?,
            sums: device.zeros("activation sums", ROWS)?,
            split: device.zeros("the input of the compact head", 2 * ROWS * hidden.next_multiple_of(128))?,
            facts: device.zeros("facts of the compact head's input", 4 * ROWS)?,
            upper: device.zeros("bounds of logits", ROWS * model.vocab)?,
            tops: device.zeros("the largest bounds", ROWS * model.vocab.div_ceil(HEAD_TILE))?,
            low: device.zeros("bounds of the best logits", ROWS)?,
            best: device.zeros("best logits", ROWS)?,
            chosen: device.zeros("chosen tokens", 2 * HISTORY * ROWS)?,
            done: device.zeros("the number of steps", 1)?,
            places: device.zeros("places of rows", 2 * ROWS + ROWS * max_pages)?,
            max_pages,
            rows,
            launched: 0,
            graphs: HashMap::new(),
        }))
    }

    /// Whether a step of `rows` rows with so many positions at most can be taken.
    pub fn take(&self, on: &On<'_>, rows: usize, positions: usize) -> bool {
        rows <= self.rows && self.attention(on, rows, bucket(positions)).is_some()
    }

    /// Writes what the next steps evaluate: token, position and pages per row.
    pub fn stage<'p>(
        &mut self,
        device: &Device,
        rows: impl Iterator<Item = (u32, usize, &'p [u32])>,
    ) -> Result<()> {
        let mut places = vec![0i32; 2 * ROWS];
        for (row, (token, position, pages)) in rows.enumerate() {
            places[row] = token as i32;
            places[ROWS + row] = position as i32;
            places.extend(pages.iter().map(|page| *page as i32));
            places.resize(2 * ROWS + (row + 1) * self.max_pages, 0);
        }
        device.write(&mut self.places, 0, &places)
    }

    /// Launches one step over `m` staged rows, all of whose positions are below `positions`.
    pub fn launch(&mut self, on: &On<'_>, m: usize, positions: usize, answer: Answer) -> Result<()> {
        let key = (m, bucket(positions), answer);
        if !self.graphs.contains_key(&key) {
            let stream = Arc::clone(&on.device.stream);
            let graph = Captured::of(&stream, || self.step(on, m, key.1, Extent::Step(answer)))?;
            self.graphs.insert(key, graph);
        }
        if answer != Answer::Normed {
            self.launched = (self.launched + 1) % HISTORY;
        }
        self.graphs[&key].launch()
    }

    /// (token, logit) of `m` rows, of the last `steps` steps, in order.
    pub fn chosen(&self, device: &Device, m: usize, steps: usize) -> Result<Vec<(u32, f32)>> {
        let mut found = Vec::with_capacity(m * steps);
        let first = (self.launched + HISTORY - steps) % HISTORY;
        let mut read = |from: usize, to: usize| -> Result<()> {
            let mut words = vec![0u32; 2 * m * (to - from)];
            device.read(&self.chosen, 2 * m * from, &mut words)?;
            found.extend(words.chunks_exact(2).map(|pair| (pair[0], f32::from_bits(pair[1]))));
            Ok(())
        };
        read(first, (first + steps).min(HISTORY))?;
        if first + steps > HISTORY {
            read(0, first + steps - HISTORY)?;
        }
        Ok(found)
    }

    /// The products of all layers for `m` rows, without attention and head. What they compute is of no use.
    pub fn products(&self, on: &On<'_>, m: usize, order: Order) -> Result<Captured> {
        Captured::of(&on.device.stream, || self.step(on, m, 1, Extent::Products(order)))
    }

    fn step(&self, on: &On<'_>, m: usize, positions: usize, extent: Extent) -> Result<()> {
        let answer = match extent {
            Extent::Step(answer) => answer,
            Extent::Products(_) => Answer::Normed,
        };
        let On { device, model, buffers: b, .. } = *on;
        let (Layers::Packed(packed), Head::Half(head)) = (&model.layers, &model.head) else {
            unreachable!("steps are made for packed layers and a head of half floats")
        };
        let config = &model.config;
        let (hidden, query, kv) = (config.hidden, config.query_dim(), config.kv_dim());
        let vector = |at: Option<usize>| at.map_or(0, |at| model.vectors.address(at));
        let stat = |phase: usize| self.stats.address(STAT * phase * ROWS);
        let scores = Scores::of(m, model.vocab, hidden);
        let rows = StepRows {
            embedding: model.embedding.expect("steps are made where the embedding is on the device"),
            tokens: self.places.at,
            positions: self.places.address(ROWS),
            hidden: b.hidden.at,
            stats: self.stats.at,
            turns: self.turns.at,
            first_norm: vector(Some(model.norms[0].attn)),
            final_norm: model.final_norm.at,
            normed: b.normed_address(),
            split: self.split.at,
            facts: self.facts.at,
            head: head.half.at,
            compact: head.compact.at,
            head_facts: head.facts.at,
            upper: self.upper.at,
            tops: self.tops.at,
            low: self.low.at,
            best: self.best.at,
            chosen: self.chosen.at,
            done: self.done.at,
            hidden_size: hidden as i32,
            vocab: model.vocab as i32,
            below: if let Answer::Best { below } = answer { below as i32 } else { model.vocab as i32 },
            phases: self.phases as i32,
            m: m as i32,
            history: HISTORY as i32,
            eps: config.rms_eps,
            advance: (answer == Answer::Chain).into(),
            launches: (9 * config.layers) as i32,
            tile: scores.tile as i32,
            split_tokens: scores.split_tokens as i32,
            spare: 0,
        };
        on.launch("step_embed", Shape::new((m, 1, 1), 256, 0), 1, &rows)?;
        let cut =
            self.attention(on, m, positions).expect("the caller has asked whether the step can be taken");
        let attend = format!("step_attend_{}_{}", config.head_dim, cut.name);
        // Every launch waits for the blocks of the one before it.
        let (mut launches, mut blocks) = (0, 0);
        let mut turn = |grid: (u32, u32, u32)| {
            let ready = if launches == 0 { 0 } else { self.turns.address(launches - 1) };
            let expected = if extent == Extent::Products(Order::Apart) { 0 } else { blocks };
            let turn = Turn { ready, done: self.turns.address(launches), expected, spare: 0 };
            (launches, blocks) = (launches + 1, grid.0 * grid.1 * grid.2);
            turn
        };
        // Where each product's weights are in a layer, and where they end.
        let at = [0, packed.offsets[0], packed.offsets[1], packed.offsets[2], packed.layer_bytes];
        for layer in 0..config.layers {
            let norms = model.norms[layer];
            let base = layer * packed.layer_bytes;
            let after_this =
                model.norms.get(layer + 1).map_or(rows.final_norm, |next| vector(Some(next.attn)));
            let gemm = |turn: &mut dyn FnMut((u32, u32, u32)) -> Turn,
                        index: usize,
                        which: &str,
                        x: u64,
                        norm: u64,
                        out: u64,
                        next_norm: u64|
             -> Result<()> {
                let (n, k, count) = matrices(on)[index];
                let bound = if index == 0 { [query, query + kv] } else { [n, n] }.map(|row| row as i32);
                let phase = 4 * layer + index;
                let weights = packed.weights.address(base + at[index]);
                let scales = packed.scales.address(layer * 14 + 2 * [0, 3, 4, 6][index]);
                let activation = (config.activation == HiddenActivation::SquaredRelu).into();
                if m <= NARROW {
                    const CHECKED: &str = "checked when the steps were made";
                    let (kernel, shape, cluster, [tiles, round]) = if m == 1 {
                        let p = single(device, n, k, count).expect(CHECKED);
                        ("gemv", p.shape, 1, [p.parts, p.slots])
                    } else {
                        let p = narrow(device, n, k, count).expect(CHECKED);
                        ("gemm", p.shape(), p.cluster, [p.tiles, p.round])
                    };
                    let params = StepGemm {
                        weights,
                        x,
                        norm,
                        before: stat(phase),
                        scales,
                        out,
                        after: stat(phase + 1),
                        next_norm,
                        turn: turn(shape.grid),
                        n: n as i32,
                        m: m as i32,
                        k: k as i32,
                        tiles: tiles as i32,
                        round: round as i32,
                        bound,
                        activation,
                        eps: config.rms_eps,
                        spare: 0,
                    };
                    return on.launch(&format!("step_{kernel}_{which}"), shape, cluster as u32, &params);
                }
                let p = wide(device, n, k, m, count, parts(device, which, n, k))
                    .expect("checked when the steps were made");
                let (quantize, quantize_shape) = quantize(m, k, which);
                let mut params = StepWide {
                    weights,
                    x,
                    norm,
                    before: stat(phase),
                    quants: self.quants.at,
                    token_scales: self.token_scales.at,
                    sums: self.sums.at,
                    scales,
                    out,
                    after: stat(phase + 1),
                    next_norm,
                    turn: turn(quantize_shape.grid),
                    n: n as i32,
                    m: m as i32,
                    k: k as i32,
                    rows: p.rows as i32,
                    bound,
                    activation,
                    stages: p.stages as i32,
                    eps: config.rms_eps,
                    spare: 0,
                };
                on.launch(quantize, quantize_shape, 1, &params)?;
                params.turn = turn(p.shape.grid);
                on.launch(&p.name(which), p.shape, p.parts as u32, &params)
            };
            let first = vector(Some(norms.attn));
            gemm(&mut turn, 0, "store", b.hidden.at, first, b.qkv_address(), 0)?;
            if let Extent::Step(_) = extent {
                let params = StepAttend {
                    qkv: b.qkv_address(),
                    out: b.attention_address(),
                    angles: model.angles.at,
                    positions: rows.positions,
                    pages: self.places.address(2 * ROWS),
                    after: stat(4 * layer + 1),
                    next_norm: vector(norms.attn_sub),
                    turn: turn(cut.shape.grid),
                    cache: b.cache,
                    max_pages: self.max_pages as i32,
                    layer: layer as i32,
                    heads: config.heads as i32,
                    rope_dim: config.rope_dim as i32,
                    neox: (config.rope_pairing == RopePairing::Neox).into(),
                    places: cut.places as i32,
                    chunk: cut.chunk as i32,
                    spare: 0,
                };
                on.launch(&attend, cut.shape, cut.splits as u32, &params)?;
            }
            let (mid, act, sub) = (vector(Some(norms.ffn)), vector(norms.ffn_sub), vector(norms.attn_sub));
            gemm(&mut turn, 1, "add", b.attention_address(), sub, b.hidden.at, mid)?;
            gemm(&mut turn, 2, "gate_up", b.hidden.at, mid, b.gate_address(), act)?;
            gemm(&mut turn, 3, "add", b.gate_address(), act, b.hidden.at, after_this)?;
        }
        if extent != Extent::Step(answer) {
            return Ok(());
        }
        on.launch("step_final", Shape::new((m, 1, 1), 256, 4 * hidden), 1, &rows)?;
        if answer == Answer::Normed {
            return Ok(());
        }
        on.launch(scores.name, scores.shape, 1, &rows)?;
        on.launch("step_pick", scores.pick, 1, &rows)?;
        on.launch("step_choose", Shape::new((1, 1, 1), ROWS as u32, 0), 1, &rows)
    }

    /// How attention is cut.
    fn attention(&self, on: &On<'_>, m: usize, positions: usize) -> Option<Attention> {
        let config = &on.model.config;
        attention(on.device, m, positions, (config.heads, config.kv_heads, config.head_dim))
    }
}

impl On<'_> {
    fn launch<P: cudarc::driver::DeviceRepr>(
        &self,
        name: &str,
        shape: Shape,
        cluster: u32,
        params: &P,
    ) -> Result<()> {
        // SAFETY: 1. every caller passes the struct that is named like the kernel's. 2. Addresses are of the model, its
        // buffers and those of `Steps`, which outlive the stream's work on them; shapes were checked against them. 3. One
        // stream, and every kernel waits for the one before it reads what that wrote.
        unsafe { self.kernels.launch_step(self.device, name, shape, cluster, params) }
    }
}

/// Rows, columns and matrices at once of the four products of a layer.
fn matrices(on: &On<'_>) -> [(usize, usize, usize); 4] {
    let config = &on.model.config;
    let (hidden, query, ffn) = (config.hidden, config.query_dim(), config.feed_forward);
    [(query + 2 * config.kv_dim(), hidden, 1), (hidden, query, 1), (ffn, hidden, 2), (hidden, ffn, 1)]
}

/// How many of `tokens` steps in a chain from `position` on one graph serves.
pub fn chain_len(position: usize, tokens: usize) -> usize {
    tokens.min(HISTORY).min(bucket(position + 1) - position)
}

/// Graphs are kept by the next power of two of positions, 128 at least.
fn bucket(positions: usize) -> usize {
    positions.next_power_of_two().max(128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_where_its_graph_does() {
        assert_eq!((chain_len(0, 10), chain_len(120, 64), chain_len(128, 500)), (10, 8, HISTORY));
    }
}
