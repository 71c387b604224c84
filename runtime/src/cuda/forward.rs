//! One forward pass of a batch on the device, kernel by kernel: the graphs of `llama`, `bitnet` and `bitnet-b1.58`.
//!
//! In: rows whose tokens, positions and pages were written to [`Buffers`]. Out: logits or best tokens in the buffers.
//! Everything is launched on one stream, in order, so it can be captured into a graph. Where several devices share the model,
//! each has columns of every vector, and a vector is gathered before it is normed: the kernel that norms and quantizes
//! whole rows then does on every device what it would do on one (the module `exchange`). Deliberately absent: sequences and pages (see
//! [`super::executor`]), and the split itself (see [`crate::gpu::shard`]).

use super::driver::{Buffer, Device};
use super::kernels::{Kernels, Shape};
use super::nccl::Communicator;
use super::params::{Attend, Cache, Gemm, Product, RopeStore, RowPlaces};
use super::weights::{DeviceModel, Head, Layers, Norms, Packed, Plain};
use crate::Result;
use crate::gpu::plan::{Segment, runs};
use crate::gpu::shard::Split;
use crate::model::{HiddenActivation, RopePairing};
use crate::quant::activation::ActivationType;
use crate::tensor::TensorType;
use exchange::PART;

mod exchange;

/// Rows whose logits are computed together.
pub const LOGITS_ROWS: usize = 64;
/// Floats of one partial result of attention: four heads of 128, their maxima and sums.
const PARTIAL: usize = 4 * 128 + 8;
/// Partial results that there is memory for.
const PARTIALS: usize = 8192;
/// Query heads of one KV head that attention takes together.
const GROUP: usize = 4;

/// Memory of a forward pass; T is the largest number of rows.
pub struct Buffers {
    pub hidden: Buffer<f32>,     // [T, hidden]
    qkv: Buffer<f32>,            // [T, query + 2 kv]
    q: Buffer<u16>,              // [T, query]
    attention: Buffer<f32>,      // [T, query]
    gate: Buffer<f32>,           // [T, ffn]
    up: Buffer<f32>,             // [T, ffn], for layers that are not packed
    quants: Buffer<i8>,          // [T, widest]
    token_scales: Buffer<f32>,   // [T]
    sums: Buffer<i32>,           // [T]
    values: Buffer<f32>,         // [T, widest], for matrices that are not packed
    steps: Buffer<f32>,          // [T, widest / 32], of Q8 blocks
    offsets: Buffer<f32>,        // [T, widest / 32], of Q8_1 blocks
    partial: Buffer<f32>,        // [PARTIALS, PARTIAL]
    pub tokens: Buffer<i32>,     // [T]
    pub positions: Buffer<i32>,  // [T]
    pub sequences: Buffer<i32>,  // [T]
    pub pages: Buffer<i32>,      // [T, pages of a sequence]
    normed: Buffer<f32>,         // [LOGITS_ROWS, hidden]
    half: Buffer<u16>,           // [LOGITS_ROWS, hidden]
    pub logits: Buffer<f32>,     // [LOGITS_ROWS, vocab]
    pub best: Buffer<i32>,       // [LOGITS_ROWS]
    pub pairs: Buffer<u32>,      // [LOGITS_ROWS, 2]: the bits of the best logit, its id
    gathered: Buffer<u32>,       // [ranks, T, widest slice]
    parts: Buffer<u64>,          // [T, PART], then [ranks, T, PART], of rows that are gathered as int8
    slice_quants: Buffer<i8>,    // [T, widest slice]
    pub all_logits: Buffer<u32>, // [ranks, LOGITS_ROWS, slice of the vocabulary]
    pub cache: Cache,
    max_pages: usize,
}

impl Buffers {
    pub fn new(
        device: &Device,
        model: &DeviceModel,
        cache: Cache,
        rows: usize,
        max_pages: usize,
    ) -> Result<Self> {
        let (config, shard) = (&model.config, &model.shard);
        let widest = config.query_dim().max(config.feed_forward).max(config.hidden);
        // Of a team each has slices; all are given as much room, as all send as much.
        let (query, ffn, part, vocab) =
            (shard.query.slice, shard.ffn.slice, shard.hidden.slice, shard.vocab.slice);
        let (hidden, kv) = (config.hidden, shard.kv_dim());
        let of_team = |elements: usize| if shard.ranks > 1 { shard.ranks * elements } else { 0 };
        let plain = matches!(model.layers, Layers::Plain(_));
        let only_plain = |elements: usize| if plain { elements } else { 0 };
        let floats = |what: &str, elements: usize| device.zeros::<f32>(what, elements);
        Ok(Buffers {
            hidden: floats("hidden states", rows * part)?,
            qkv: floats("queries, keys and values", rows * (query + 2 * kv))?,
            q: device.zeros("queries", rows * query)?,
            attention: floats("attention", rows * query)?,
            gate: floats("the feed-forward network", rows * ffn)?,
            up: floats("the feed-forward network", only_plain(rows * ffn))?,
            quants: device.zeros("int8 activations", rows * widest)?,
            token_scales: floats("activation scales", rows)?,
            sums: device.zeros("activation sums", rows)?,
            values: floats("activations", only_plain(rows * widest).max(LOGITS_ROWS * hidden))?,
            steps: floats("steps of activations", (rows * widest / 32).max(LOGITS_ROWS * hidden / 32))?,
            offsets: floats("offsets of activations", (rows * widest / 32).max(LOGITS_ROWS * hidden / 32))?,
            partial: floats("partial attention", PARTIALS * PARTIAL)?,
            tokens: device.zeros("tokens", rows)?,
            positions: device.zeros("positions", rows)?,
            sequences: device.zeros("sequences", rows)?,
            pages: device.zeros("page tables", rows * max_pages)?,
            normed: floats("normed states", LOGITS_ROWS * hidden)?,
            half: device.zeros("normed states", LOGITS_ROWS * hidden)?,
            logits: floats("logits", LOGITS_ROWS * vocab)?,
            best: device.zeros("best tokens", LOGITS_ROWS)?,
            pairs: device.zeros("best tokens", 2 * LOGITS_ROWS)?,
            gathered: device
                .zeros("gathered vectors", of_team((rows * query.max(ffn).max(part)).max(2 * LOGITS_ROWS)))?,
            parts: device.zeros(
                "what ranks know of rows",
                if shard.ranks > 1 { (1 + shard.ranks) * rows * PART } else { 0 },
            )?,
            slice_quants: device
                .zeros("int8 activations", of_team(rows * query.max(ffn).max(part)) / shard.ranks)?,
            all_logits: device.zeros("gathered logits", of_team(LOGITS_ROWS * vocab))?,
            cache,
            max_pages,
        })
    }

    /// Where normed rows are, for [`Forward::head_of_normed`].
    pub fn normed_address(&self) -> u64 {
        self.normed.at
    }

    pub fn qkv_address(&self) -> u64 {
        self.qkv.at
    }

    pub fn attention_address(&self) -> u64 {
        self.attention.at
    }

    pub fn gate_address(&self) -> u64 {
        self.gate.at
    }
}

/// Everything a pass works with.
pub struct Forward<'a> {
    pub device: &'a Device,
    pub kernels: &'a Kernels,
    pub model: &'a DeviceModel,
    pub buffers: &'a Buffers,
    /// The other devices that have parts of the model.
    pub team: Option<&'a Communicator>,
    /// What is to be launched.
    pub extent: Extent,
}

/// What of a pass is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    All,
    /// What devices tell each other alone, to measure it.
    Communication,
}

impl Forward<'_> {
    /// hidden = embedding rows of the tokens in the buffers. The embedding is on the device.
    pub fn embed(&self, m: usize) -> Result<()> {
        let embedding = self.model.embedding.expect("the caller has looked");
        let (b, hidden) = (self.buffers, self.model.shard.hidden());
        self.plain("embed", (m, 1, 1), 256, 0, &[embedding, b.tokens.at, b.hidden.at], &[hidden as i32])
    }

    /// Runs `m` rows through every layer. `positions` is above every position of a row.
    pub fn layers(&self, m: usize, segments: &[Segment], positions: usize) -> Result<()> {
        for layer in 0..self.model.config.layers {
            let norms = self.model.norms[layer];
            match &self.model.layers {
                Layers::Packed(packed) => self.packed_layer(packed, layer, norms, m, segments, positions)?,
                Layers::Plain(layers) => {
                    self.plain_layer(&layers[layer], layer, norms, m, segments, positions)?
                }
            }
        }
        Ok(())
    }

    fn packed_layer(
        &self,
        packed: &Packed,
        layer: usize,
        norms: Norms,
        m: usize,
        segments: &[Segment],
        positions: usize,
    ) -> Result<()> {
        let (b, shard) = (self.buffers, &self.model.shard);
        let (query, kv) = (shard.query_dim(), shard.kv_dim());
        let base = layer * packed.layer_bytes;
        let weights = |at: usize| packed.weights.address(base + at);
        let scales = |matrix: usize| packed.scales.address(layer * 14 + 2 * matrix);
        let gemm = |at, matrix, out: u64, n: usize, split: Split| Gemm {
            weights: if n > 0 { weights(at) } else { 0 },
            activations: b.quants.at,
            token_scales: b.token_scales.at,
            sums: b.sums.at,
            scales: scales(matrix),
            out,
            n: n as i32,
            m: m as i32,
            k: split.total as i32,
            bound: [n as i32; 2],
            activation: self.activation(),
        };
        let quantize =
            |x: &Buffer<f32>, norm, split| self.norm(x.at, norm, split, m, ActivationType::I8Token, true);
        quantize(&b.hidden, Some(norms.attn), shard.hidden)?;
        let bound = [query as i32, (query + kv) as i32];
        self.gemm("store", Gemm { bound, ..gemm(0, 0, b.qkv.at, query + 2 * kv, shard.hidden) })?;
        self.attention(layer, m, segments, positions)?;
        quantize(&b.attention, norms.attn_sub, shard.query)?;
        self.gemm("add", gemm(packed.offsets[0], 3, b.hidden.at, shard.hidden(), shard.query))?;
        quantize(&b.hidden, Some(norms.ffn), shard.hidden)?;
        self.gemm("gate_up", gemm(packed.offsets[1], 4, b.gate.at, shard.ffn(), shard.hidden))?;
        quantize(&b.gate, norms.ffn_sub, shard.ffn)?;
        self.gemm("add", gemm(packed.offsets[2], 6, b.hidden.at, shard.hidden(), shard.ffn))
    }

    fn plain_layer(
        &self,
        matrices: &[Plain; 7],
        layer: usize,
        norms: Norms,
        m: usize,
        segments: &[Segment],
        positions: usize,
    ) -> Result<()> {
        let (b, shard) = (self.buffers, &self.model.shard);
        let (hidden, query, kv, ffn) = (shard.hidden(), shard.query_dim(), shard.kv_dim(), shard.ffn());
        let [q, k, v, o, gate, up, down] = matrices;
        let row = query + 2 * kv;
        // Products of one input may see it in different types.
        let product = |input: u64,
                       split: Split,
                       norm: Option<usize>,
                       seen: &mut Option<ActivationType>,
                       plain: &Plain,
                       out,
                       column,
                       stride,
                       add| {
            if *seen != Some(plain.activation) {
                self.norm(input, norm, split, m, plain.activation, false)?;
                *seen = Some(plain.activation);
            }
            self.product(plain, b.values.at, m, out, column, stride, add)
        };
        let mut seen = None;
        product(b.hidden.at, shard.hidden, Some(norms.attn), &mut seen, q, b.qkv.at, 0, row, false)?;
        product(b.hidden.at, shard.hidden, Some(norms.attn), &mut seen, k, b.qkv.at, query, row, false)?;
        product(b.hidden.at, shard.hidden, Some(norms.attn), &mut seen, v, b.qkv.at, query + kv, row, false)?;
        self.attention(layer, m, segments, positions)?;
        product(b.attention.at, shard.query, norms.attn_sub, &mut None, o, b.hidden.at, 0, hidden, true)?;
        let mut seen = None;
        product(b.hidden.at, shard.hidden, Some(norms.ffn), &mut seen, gate, b.gate.at, 0, ffn, false)?;
        product(b.hidden.at, shard.hidden, Some(norms.ffn), &mut seen, up, b.up.at, 0, ffn, false)?;
        let count = m * ffn;
        let numbers = [count as i32, self.activation()];
        self.plain("gate_up", (count.div_ceil(256), 1, 1), 256, 0, &[b.gate.at, b.up.at], &numbers)?;
        product(b.gate.at, shard.ffn, norms.ffn_sub, &mut None, down, b.hidden.at, 0, hidden, true)
    }

    /// attention = softmax(QK^T) V of all heads; keys and values go to the cache first.
    fn attention(&self, layer: usize, m: usize, segments: &[Segment], positions: usize) -> Result<()> {
        let (b, config, shard) = (self.buffers, &self.model.config, &self.model.shard);
        if shard.heads.is_empty() {
            return Ok(());
        }
        let rows = RowPlaces {
            position: b.positions.at,
            sequence: b.sequences.at,
            pages: b.pages.at,
            max_pages: b.max_pages as i32,
        };
        let heads = shard.heads.len() as i32;
        let store = RopeStore {
            qkv: b.qkv.at,
            q: b.q.at,
            angles: self.model.angles.at,
            rows,
            cache: b.cache,
            layer: layer as i32,
            heads,
            rope_dim: config.rope_dim as i32,
            neox: (config.rope_pairing == RopePairing::Neox).into(),
        };
        let elements = shard.query_dim() + 2 * shard.kv_dim();
        self.launch("rope_store", Shape::new((m, elements.div_ceil(256), 1), 256, 0), &store)?;
        let parts = |group: usize| group.div_ceil(GROUP);
        for segment in segments {
            let attend = |first: usize, count: usize, splits: usize, run: usize| Attend {
                q: b.q.at,
                out: b.attention.at,
                partial: b.partial.at,
                rows,
                cache: b.cache,
                layer: layer as i32,
                heads,
                splits: splits as i32,
                run: run as i32,
                first: first as i32,
                count: count as i32,
            };
            match *segment {
                Segment::Prefill { first, count } | Segment::Decode { first, count }
                    if exact(segment, m, positions) =>
                {
                    let shape =
                        Shape::new((count, shard.heads.len(), 1), 128, 4 * positions.next_multiple_of(8));
                    self.launch("attend_exact", shape, &attend(first, count, 1, positions))?;
                }
                Segment::Prefill { first, count } => {
                    let dim = if config.head_dim <= 64 { 64 } else { 128 };
                    let name = if dim == 64 { "attend_prefill_64" } else { "attend_prefill_128" };
                    let shape = Shape::new((count.div_ceil(64), shard.heads.len(), 1), 128, 4 * 64 * dim * 2);
                    self.launch(name, shape, &attend(first, count, 1, 0))?;
                }
                Segment::Decode { first, count } => {
                    // Runs are those of one device that has all heads, so that sums are the same.
                    let units = config.kv_heads * parts(config.heads / config.kv_heads);
                    let most = (PARTIALS / (units * m)).max(1);
                    let (splits, run) =
                        runs(positions, count * units, self.device.multiprocessors as usize, most);
                    let params = attend(first, count, splits, run);
                    let units = shard.kv_heads.len() * parts(shard.group());
                    let shape = Shape::new((count, units, splits), 256, run * 4 * GROUP);
                    self.launch("attend_decode", shape, &params)?;
                    if splits > 1 {
                        self.launch(
                            "attend_merge",
                            Shape::new((count, shard.heads.len(), 1), 128, 0),
                            &params,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Logits of `count` rows from row `first` of the hidden states, into rows from 0 on of the logits: those of this device.
    pub fn head(&self, first: usize, count: usize) -> Result<()> {
        let (b, split) = (self.buffers, self.model.shard.hidden);
        let from = b.hidden.at + 4 * (first * self.model.shard.hidden()) as u64;
        if let Head::Plain(plain) = &self.model.head {
            let norm = self.model.final_norm.at;
            self.norm_at(from, norm, split, count, plain.activation, b.values.at)?;
            return self.product(plain, b.values.at, count, b.logits.at, 0, plain.rows, false);
        }
        self.norm_at(from, self.model.final_norm.at, split, count, ActivationType::F32, b.normed.at)?;
        self.head_of_normed(count)
    }

    /// Logits of `count` normed rows, where the head is of half floats.
    pub fn head_of_normed(&self, count: usize) -> Result<()> {
        let (b, hidden, vocab) = (self.buffers, self.model.config.hidden, self.model.shard.vocab());
        let Head::Half(head) = &self.model.head else { unreachable!("the caller has looked") };
        if vocab == 0 {
            return Ok(());
        }
        if count == 1 {
            let blocks = (8 * self.device.multiprocessors as usize).min(vocab.div_ceil(8));
            let numbers = [vocab as i32, hidden as i32];
            return self.plain(
                "head_full",
                (blocks, 1, 1),
                256,
                4 * hidden,
                &[head.half.at, b.normed.at, b.logits.at],
                &numbers,
            );
        }
        self.plain("to_half", (count, 1, 1), 256, 0, &[b.normed.at, b.half.at], &[hidden as i32])?;
        let (name, tokens) = head_kernel(count);
        let grid = (vocab.div_ceil(128), count.div_ceil(tokens), 1);
        let numbers = [vocab as i32, count as i32, hidden as i32];
        self.plain(name, grid, 128, 0, &[head.half.at, b.half.at, b.logits.at], &numbers)
    }

    /// The best of the first `below` logits of `count` rows, and those logits.
    pub fn choose(&self, count: usize, below: usize) -> Result<()> {
        let (b, here) = (self.buffers, self.model.shard.vocab.range(self.model.shard.rank));
        let inside = below.clamp(here.start, here.end) - here.start;
        let numbers = [inside as i32, here.len() as i32, here.start as i32];
        self.plain("argmax", (count, 1, 1), 1024, 0, &[b.logits.at, b.best.at, b.pairs.at], &numbers)?;
        let Some(_) = self.team else { return Ok(()) };
        let all = self.gather(b.pairs.at, 2 * count, b.gathered.at)?;
        let numbers = [count as i32, self.model.shard.ranks as i32];
        self.plain("best_pair", (1, 1, 1), LOGITS_ROWS as u32, 0, &[all, b.best.at, b.pairs.at], &numbers)
    }

    fn activation(&self) -> i32 {
        (self.model.config.activation == HiddenActivation::SquaredRelu).into()
    }

    /// A product with packed weights, by the kernel that fits the number of rows.
    fn gemm(&self, epilogue: &str, params: Gemm) -> Result<()> {
        let (n, m) = (params.n as usize, params.m as usize);
        if n == 0 {
            return Ok(());
        }
        let both = epilogue == "gate_up";
        let add = epilogue == "add";
        // As measured on an H100: docs/explanation/cuda.md.
        let kind = match m {
            0..=8 => "skinny_8",
            9..=64 if both && m > 32 => "tile_64",
            9..=64 if both || add && params.k > 4096 => "skinny_32x2",
            9..=64 => "skinny_32",
            _ if !add && m >= 1024 => "tile_128",
            _ => "tile_64",
        };
        let name = format!("gemm_{kind}_{epilogue}");
        let shape = gemm_shape(kind, both, n, m);
        self.launch(&name, shape, &params)
    }

    #[expect(clippy::too_many_arguments, reason = "where a product reads and writes")]
    fn product(
        &self,
        plain: &Plain,
        x: u64,
        m: usize,
        out: u64,
        column: usize,
        stride: usize,
        add: bool,
    ) -> Result<()> {
        if plain.rows == 0 {
            return Ok(());
        }
        let params = Product {
            weights: plain.bytes.at,
            x,
            out,
            steps: self.buffers.steps.at,
            offsets: self.buffers.offsets.at,
            n: plain.rows as i32,
            m: m as i32,
            k: plain.columns as i32,
            row_bytes: plain.row_bytes as i32,
            stride: stride as i32,
            column: column as i32,
            add: add.into(),
            tensor_scale: plain.tensor_scale,
            extra: plain.extra,
        };
        let kernel = product_kernel(plain.ty).expect("the types were checked when the model was loaded");
        let grid = (plain.rows.div_ceil(rows_of_block(plain.ty)), m.div_ceil(8), 1);
        self.launch(kernel, Shape::new(grid, 256, 0), &params)
    }

    fn launch<P: cudarc::driver::DeviceRepr>(&self, name: &str, shape: Shape, params: &P) -> Result<()> {
        if self.extent == Extent::Communication {
            return Ok(());
        }
        // SAFETY: 1. every caller passes the struct that is named like the kernel's. 2. Addresses are of `buffers` and
        // `model`, which outlive the stream's work on them, and shapes are bounded by what they were made for. 3. One
        // stream.
        unsafe { self.kernels.launch(self.device, name, shape, params) }
    }

    fn plain(
        &self,
        name: &str,
        grid: (usize, usize, usize),
        threads: u32,
        shared: usize,
        addresses: &[u64],
        numbers: &[i32],
    ) -> Result<()> {
        if self.extent == Extent::Communication || grid.0 * grid.1 * grid.2 == 0 {
            return Ok(());
        }
        // SAFETY: as in `launch`; every caller passes the addresses, then the numbers, in the kernel's order.
        unsafe {
            self.kernels.launch_plain(
                self.device,
                name,
                Shape::new(grid, threads, shared),
                addresses,
                numbers,
            )
        }
    }
}

/// The launch of a kernel of products with packed weights, by what its name says: the kind, and how many tokens by how many
/// tiles of rows a block takes.
pub(super) fn gemm_shape(kind: &str, both: bool, n: usize, m: usize) -> Shape {
    let matrices = if both { 2 } else { 1 };
    let (skinny, tokens, tiles) = match kind {
        "skinny_8" => (true, 8, 1),
        "skinny_32" => (true, 32, 1),
        "skinny_32x2" => (true, 32, 2),
        "tile_64" => (false, 64, 8),
        _ => (false, 128, 8),
    };
    if skinny {
        let shared = matrices * tiles * tokens / 8 * 128 * 9 * 4;
        return Shape::new((n.div_ceil(16 * tiles), m.div_ceil(tokens), 1), 256, shared);
    }
    Shape::new((n.div_ceil(128 / matrices), m.div_ceil(tokens), 1), 256, 4 * (128 * 32 + tokens * 128))
}

/// The kernel of logits for so many rows, and how many it takes at once.
pub(super) const fn head_kernel(rows: usize) -> (&'static str, usize) {
    match rows {
        0..=8 => ("head_batch_8", 8),
        9..=32 => ("head_batch_32", 32),
        _ => ("head_batch_64", 64),
    }
}

/// Whether attention of a segment is computed in the CPU's own order of operations: where that costs little.
fn exact(segment: &Segment, m: usize, positions: usize) -> bool {
    match segment {
        Segment::Decode { .. } if m == 1 => positions <= 4096,
        Segment::Prefill { count, .. } | Segment::Decode { count, .. } => count * positions <= 1 << 17,
    }
}

/// Weight rows that a block of the kernel takes.
pub(super) const fn rows_of_block(ty: TensorType) -> usize {
    match ty {
        TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q8_0 | TensorType::Q4K | TensorType::Q6K => 32,
        _ => 8,
    }
}

/// The kernel for matrices that keep their type; `None` for types that none reads.
pub(super) const fn product_kernel(ty: TensorType) -> Option<&'static str> {
    Some(match ty {
        TensorType::F32 => "product_f32",
        TensorType::F16 => "product_f16",
        TensorType::BF16 => "product_bf16",
        TensorType::Q4_0 => "product_q4_0",
        TensorType::Q4_1 => "product_q4_1",
        TensorType::Q8_0 => "product_q8_0",
        TensorType::Q4K => "product_q4_k",
        TensorType::Q6K => "product_q6_k",
        TensorType::TQ1_0 => "product_tq1_0",
        TensorType::TQ2_0 => "product_tq2_0",
        TensorType::I2S => "product_i2_s",
        _ => return None,
    })
}
