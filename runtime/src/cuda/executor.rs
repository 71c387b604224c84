//! [`Sequences`] and [`Accelerator`] on one CUDA device, alone or as one of a team.
//!
//! In: batches. Out: logits or best tokens. Pages are kept by [`PageTable`]; a token of one sequence goes to the persistent
//! kernel where the model fits it, one token each of up to 64 sequences is a decoding step ([`super::step`]), other decoding batches run as graphs of launches that are
//! captured once per size, all other batches are launched kernel by kernel. Deliberately absent: context shift, which would move keys; the caller
//! is told to evaluate again or to use the CPU.

use super::decode::{self, Plan};
use super::driver::{Buffer, Device};
use super::forward::{Buffers, Extent, Forward, LOGITS_ROWS};
use super::graph::Captured;
use super::kernels::Kernels;
use super::nccl::Communicator;
use super::params::Cache;
use super::step::{self, Steps};
use super::team::Team;
use super::weights::{DeviceModel, Layers};
use crate::engine::batch::Rule;
use crate::engine::pages::{PAGE, PageCopy, PageTable, PageUse, SequenceId};
use crate::engine::{Answer, Batch, Sequences, Want};
use crate::gpu::plan::{Segment, bucket, segments};
use crate::gpu::shard::Shard;
use crate::gpu::{Accelerator, Communication, Facts, OpenOptions, ProductTimes};
use crate::model::{Matrix, Model};
use crate::{Error, Result};
use bitforge_schema::protocol::KernelCount;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod answers;
mod measure;
mod steps;

/// Rows of one batch.
const ROWS: usize = 2048;
/// Decoding batches of up to so many rows are captured.
const GRAPH_ROWS: usize = LOGITS_ROWS;

pub struct Executor {
    // The first two are dropped before what they work on, in this order.
    graphs: HashMap<(usize, usize), Captured>,
    /// The other devices that have parts of the model.
    team: Option<Communicator>,
    device: Device,
    kernels: Kernels,
    model: DeviceModel,
    /// Rows of an embedding that is not of half floats are taken on the host.
    embedding: Option<HostEmbedding>,
    cache: Buffer<u16>,
    table: PageTable,
    buffers: Buffers,
    plan: Option<Plan>,
    steps: Option<Steps>,
    facts: Facts,
    counts: Counts,
    logits: Vec<f32>,
    rows: usize,
    interrupt: Arc<AtomicBool>,
}

/// Ids under which multiplications are counted, as `bitnet kernels` lists them.
pub const COUNTED: [&str; 3] = ["ternary.layers.cuda", "plain.layers.cuda", "head.cuda"];

/// Takes `model` to the first device, or its parts to the first ones.
pub fn open(model: &Model, options: &OpenOptions) -> Result<Box<dyn Accelerator>> {
    if options.tensor_parallel > 1 {
        return Ok(Box::new(Team::open(model, options)?));
    }
    let shard = Shard::whole(&model.config, model.vocab_size());
    Ok(Box::new(Executor::new(model, options, shard, &options.interrupt)?))
}

struct HostEmbedding {
    matrix: Matrix,
}

/// What was multiplied, by kernel: calls, dot products and bytes of weights.
#[derive(Default)]
struct Counts(HashMap<String, (u64, u64, u64)>);

impl Counts {
    fn add(&mut self, id: &str, calls: u64, rows: u64, bytes: u64) {
        let count = self.0.entry(id.to_owned()).or_default();
        *count = (count.0 + calls, count.1 + rows, count.2 + bytes);
    }
}

impl Executor {
    /// What `shard` says of `model`, on the device of its rank. Who is to compute with others is told them afterwards
    /// ([`Self::join`]).
    pub(super) fn new(
        model: &Model,
        options: &OpenOptions,
        shard: Shard,
        interrupt: &Arc<AtomicBool>,
    ) -> Result<Self> {
        check(model)?;
        let device = Device::open(options.first_device + shard.rank)?;
        let before = device.bytes_in_use()?;
        let kernels = Kernels::load(&device)?;
        let config = &model.config;
        let on_device = DeviceModel::upload(
            &device,
            &kernels,
            model,
            options.activation_quant,
            options.context.next_multiple_of(PAGE),
            shard,
        )?;
        let shard = &on_device.shard;
        let max_pages = options.context.div_ceil(PAGE);
        let pages = max_pages * options.sequences.max(1);
        let layer_stride = pages * 2 * shard.kv_heads.len() * PAGE * config.head_dim;
        let cache: Buffer<u16> = device.zeros("the KV cache", config.layers * layer_stride)?;
        let params = Cache {
            data: cache.at,
            layer_stride: layer_stride as i64,
            kv_heads: shard.kv_heads.len() as i32,
            head_dim: config.head_dim as i32,
        };
        let alone = shard.ranks == 1;
        let rows = ROWS.min(options.context.saturating_mul(options.sequences.max(1)));
        let buffers = Buffers::new(&device, &on_device, params, rows, max_pages)?;
        let on = step::On { device: &device, kernels: &kernels, model: &on_device, buffers: &buffers };
        let steps = if alone { Steps::new(&on, options.context)? } else { None };
        let plan =
            if alone { Plan::new(&device, &kernels, model, &on_device, options.context)? } else { None };
        let embedding = match on_device.embedding {
            Some(_) => None,
            None => Some(HostEmbedding { matrix: copy_of(&model.embedding) }),
        };
        device.synchronize()?;
        let (weight_bytes, compact_head_bytes) = on_device.weight_bytes();
        let facts = Facts {
            name: format!("{} (sm_{}{})", device.name, device.capability.0, device.capability.1),
            weight_bytes,
            compact_head_bytes,
            kv_bytes: 2 * (config.layers * layer_stride) as u64,
            device_bytes: device.bytes_in_use()?.saturating_sub(before),
            decode: match (&plan, &steps) {
                (Some(_), _) => "persistent kernel",
                (None, Some(_)) => "overlapping launches",
                (None, None) => "kernel by kernel",
            },
            tensor_parallel: shard.ranks,
        };
        Ok(Executor {
            device,
            kernels,
            model: on_device,
            embedding,
            cache,
            table: PageTable::new(pages, options.context),
            buffers,
            plan,
            steps,
            graphs: HashMap::new(),
            facts,
            counts: Counts::default(),
            logits: Vec::new(),
            rows,
            interrupt: Arc::clone(interrupt),
            team: None,
        })
    }

    /// Leaves out what computes decoding steps faster.
    pub(super) fn kernel_by_kernel(&mut self) {
        (self.plan, self.steps) = (None, None);
    }

    /// Computes with others from here on. The first gather, in which devices find their ways to each other, is not to be
    /// part of a graph.
    pub(super) fn join(&mut self, team: Communicator) -> Result<()> {
        self.team = Some(team);
        self.forward().gather_logits(1)?;
        self.device.synchronize()
    }

    /// Ends what the others of the team wait for.
    pub(super) fn abort(&self) {
        if let Some(team) = &self.team {
            team.abort();
        }
    }

    /// Whether some rank of the team has ended it.
    pub(super) fn ended(&self) -> bool {
        self.team.as_ref().is_some_and(|team| team.check().is_err())
    }

    fn forward(&self) -> Forward<'_> {
        Forward {
            device: &self.device,
            kernels: &self.kernels,
            model: &self.model,
            buffers: &self.buffers,
            team: self.team.as_ref(),
            extent: Extent::All,
        }
    }

    /// Gives every row its position; makes the copies that shared pages need.
    fn extend(&mut self, rows: &[(SequenceId, u32)]) -> Result<Vec<(SequenceId, usize)>> {
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let vocab = self.model.vocab;
        if let Some((_, token)) = rows.iter().find(|(_, token)| *token as usize >= vocab) {
            let what = format!("token {token} is outside the vocabulary of {vocab}");
            return Err(Error::usage(what, "tokenize with this model's own tokenizer"));
        }
        let mut growth: Vec<(SequenceId, usize)> = Vec::new();
        for (id, _) in rows {
            match growth.iter_mut().find(|(known, _)| known == id) {
                Some((_, count)) => *count += 1,
                None => growth.push((*id, 1)),
            }
        }
        self.table.check_fit(growth.iter().copied())?;
        let mut copies = Vec::new();
        let mut places = Vec::with_capacity(rows.len());
        for (id, _) in rows {
            places.push((*id, self.table.extend(*id, 1, &mut copies)?));
        }
        copies.into_iter().try_for_each(|copy| self.copy_page(copy))?;
        Ok(places)
    }

    fn copy_page(&mut self, copy: PageCopy) -> Result<()> {
        let (config, kv_heads) = (&self.model.config, self.model.shard.kv_heads.len());
        let (len, stride) = (2 * kv_heads * PAGE * config.head_dim, self.buffers.cache.layer_stride as usize);
        if len == 0 {
            return Ok(());
        }
        let mut page = vec![0u16; len];
        for layer in 0..config.layers {
            self.device.read(&self.cache, layer * stride + copy.from as usize * len, &mut page)?;
            self.device.write(&mut self.cache, layer * stride + copy.to as usize * len, &page)?;
        }
        Ok(())
    }

    /// Sequences as they were before `places` were added.
    fn forget(&mut self, places: &[(SequenceId, usize)]) {
        places.iter().rev().for_each(|(id, position)| self.table.truncate(*id, *position));
    }

    /// Writes tokens, positions and page tables of a batch, and hidden states where they come from the host.
    fn stage(&mut self, rows: &[(SequenceId, u32)], places: &[(SequenceId, usize)]) -> Result<()> {
        let mut ids: Vec<SequenceId> = Vec::new();
        let sequences: Vec<i32> = places
            .iter()
            .map(|(id, _)| {
                let index = ids.iter().position(|known| known == id).unwrap_or_else(|| {
                    ids.push(*id);
                    ids.len() - 1
                });
                index as i32
            })
            .collect();
        let max_pages = self.table.context().div_ceil(PAGE);
        let mut pages = vec![0i32; ids.len() * max_pages];
        for (id, row) in ids.iter().zip(pages.chunks_exact_mut(max_pages)) {
            row.iter_mut().zip(self.table.pages(*id)).for_each(|(to, page)| *to = *page as i32);
        }
        let tokens: Vec<i32> = rows.iter().map(|(_, token)| *token as i32).collect();
        let positions: Vec<i32> = places.iter().map(|(_, position)| *position as i32).collect();
        let (device, b) = (&self.device, &mut self.buffers);
        device.write(&mut b.tokens, 0, &tokens)?;
        device.write(&mut b.positions, 0, &positions)?;
        device.write(&mut b.sequences, 0, &sequences)?;
        device.write(&mut b.pages, 0, &pages)?;
        if let Some(embedding) = &self.embedding {
            let here = self.model.shard.hidden.range(self.model.shard.rank);
            let mut row = vec![0f32; self.model.config.hidden];
            let mut hidden = Vec::with_capacity(rows.len() * here.len());
            for (_, token) in rows {
                embedding.matrix.dequantize_row(*token as usize, &mut row);
                hidden.extend_from_slice(&row[here.clone()]);
            }
            device.write(&mut b.hidden, 0, &hidden)?;
        }
        Ok(())
    }

    /// Hidden states of all rows after the last layer.
    fn layers(&self, m: usize, segments: &[Segment], positions: usize) -> Result<()> {
        let forward = self.forward();
        if self.embedding.is_none() {
            forward.embed(m)?;
        }
        forward.layers(m, segments, positions)
    }

    /// Layers and head of a decoding batch as one graph; logits and best tokens are in the buffers afterwards.
    fn decode_graph(&mut self, m: usize, positions: usize) -> Result<()> {
        let key = (m, bucket(positions));
        if !self.graphs.contains_key(&key) {
            let stream = Arc::clone(&self.device.stream);
            let graph = Captured::of(&stream, || {
                self.layers(m, &[Segment::Decode { first: 0, count: m }], key.1)?;
                self.forward().head(0, m)?;
                self.forward().choose(m, self.model.vocab)
            })?;
            self.graphs.insert(key, graph);
        }
        self.graphs[&key].launch()
    }

    /// Counts `rows` rows that went through the layers and `logits` that went through the head.
    fn count(&mut self, rows: usize, logits: usize, passes: usize) {
        let shard = &self.model.shard;
        let layer_rows =
            self.model.config.layers * shard.rows().into_iter().map(|rows| rows.len()).sum::<usize>();
        let (weights, compact) = self.model.weight_bytes();
        let kind = if matches!(self.model.layers, Layers::Packed(_)) { "ternary" } else { "plain" };
        let head = shard.vocab();
        let layer_bytes = match &self.model.layers {
            Layers::Packed(packed) => packed.weights.slice.len() as u64,
            Layers::Plain(_) => weights,
        };
        self.counts.add(
            &format!("{kind}.layers.cuda"),
            passes as u64,
            (layer_rows * rows) as u64,
            layer_bytes * passes as u64,
        );
        let head_bytes = weights.saturating_sub(layer_bytes).max(compact);
        self.counts.add("head.cuda", logits as u64, (head * logits) as u64, head_bytes * logits as u64);
    }

    fn evaluate_rows(
        &mut self,
        batch: &Batch,
        places: &[(SequenceId, usize)],
        answer: &mut dyn FnMut(usize, Answer<'_>),
    ) -> Result<()> {
        let rows: Vec<(SequenceId, u32)> = batch.rows().iter().map(|row| (row.sequence, row.token)).collect();
        let wanted: Vec<(usize, Want)> = batch
            .rows()
            .iter()
            .enumerate()
            .filter(|(_, row)| row.want != Want::Nothing)
            .map(|(index, row)| (index, row.want))
            .collect();
        let m = rows.len();
        self.count(m, wanted.len(), 1);
        if (m == 1 && self.plan.is_some()) || self.is_step(places) && (wanted.len() == m || m == 1) {
            return self.answer_step(&rows, places, &wanted, answer);
        }
        self.stage(&rows, places)?;
        let positions = places.iter().map(|(_, position)| position + 1).max().unwrap_or(1);
        let cut = segments(places);
        let decodes = matches!(cut.as_slice(), [Segment::Decode { .. }]);
        if decodes && m <= GRAPH_ROWS && wanted.len() == m && self.embedding.is_none() {
            self.decode_graph(m, positions)?;
            return self.answer(&wanted, true, answer);
        }
        self.layers(m, &cut, positions)?;
        if wanted.is_empty() {
            return self.device.synchronize();
        }
        self.answer(&wanted, false, answer)
    }
}

/// The bound on ids where all rows want the best token alone, with the same bound.
fn greedy_below(rows: &[(usize, Want)]) -> Option<usize> {
    let below = |want: &Want| match want {
        Want::Best(best) if best.rule == Rule::Top(1) && best.below > 0 => Some(best.below as usize),
        _ => None,
    };
    let first = below(&rows.first()?.1)?;
    rows.iter().all(|(_, want)| below(want) == Some(first)).then_some(first)
}

fn copy_of(matrix: &Matrix) -> Matrix {
    let mut copy =
        Matrix::of_bytes(&matrix.name, matrix.ty, matrix.rows, matrix.columns, matrix.bytes().to_vec());
    copy.tensor_scale = matrix.tensor_scale;
    copy
}

/// What the kernels cannot do, before anything is uploaded.
fn check(model: &Model) -> Result<()> {
    let config = &model.config;
    let problem = if model.matrices().any(|matrix| !matrix.columns.is_multiple_of(8)) {
        "rows that are not a multiple of 8".to_owned()
    } else if config.head_dim > 128 || !config.head_dim.is_multiple_of(8) {
        format!("heads of {} dimensions", config.head_dim)
    } else if config.architecture.has_head_norms() {
        format!("the norms of query and key heads of '{}'", config.architecture_name)
    } else if config.hidden.max(config.feed_forward).max(config.query_dim()) * 4 > 160 << 10 {
        format!("rows of more than {} elements", (160 << 10) / 4)
    } else {
        return Ok(());
    };
    Err(Error::Unavailable {
        what: format!("the CUDA kernels do not take {problem}"),
        remedy: "use --device cpu".into(),
    })
}

impl Sequences for Executor {
    fn vocab_size(&self) -> usize {
        self.model.vocab
    }

    fn context(&self) -> usize {
        self.table.context()
    }

    fn batch_rows(&self) -> usize {
        self.rows
    }

    fn page_use(&self) -> PageUse {
        self.table.usage()
    }

    fn open(&mut self) -> SequenceId {
        self.table.open()
    }

    fn fork(&mut self, id: SequenceId, positions: usize) -> Result<SequenceId> {
        self.table.fork(id, positions)
    }

    fn close(&mut self, id: SequenceId) {
        self.table.close(id);
    }

    fn positions(&self, id: SequenceId) -> usize {
        self.table.len(id)
    }

    fn truncate_to(&mut self, id: SequenceId, positions: usize) {
        self.table.truncate(id, positions);
    }

    fn shift(&mut self, _id: SequenceId, keep: usize, discard: usize) -> Result<()> {
        Err(Error::Unavailable {
            what: format!("dropping {discard} positions after {keep} is not done on a GPU"),
            remedy: "choose a larger --ctx-size, or --device cpu".into(),
        })
    }

    fn evaluate(&mut self, batch: &Batch, answer: &mut dyn FnMut(usize, Answer<'_>)) -> Result<()> {
        if batch.is_empty() {
            return Err(Error::usage("there is nothing to evaluate", "give a prompt of at least one token"));
        }
        if batch.len() > self.rows {
            let what = format!("a batch of {} rows, where {} are the most", batch.len(), self.rows);
            return Err(Error::usage(what, "cut it into smaller ones"));
        }
        let rows: Vec<(SequenceId, u32)> = batch.rows().iter().map(|row| (row.sequence, row.token)).collect();
        let places = self.extend(&rows)?;
        self.evaluate_rows(batch, &places, answer).inspect_err(|_| self.forget(&places))
    }
}

impl Accelerator for Executor {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn generate_greedy(&mut self, id: SequenceId, first: u32, count: usize) -> Result<Vec<u32>> {
        let mut tokens: Vec<u32> = Vec::with_capacity(count);
        let start = self.table.len(id);
        while tokens.len() < count {
            let token = tokens.last().copied().unwrap_or(first);
            let position = self.table.len(id);
            let (left, step) = (count - tokens.len(), self.is_step(&[(id, position)]));
            let now = match &self.plan {
                Some(_) => decode::launch_len(position, left),
                None if step => step::chain_len(position, left),
                None => 1,
            };
            let outcome = self.extend(&vec![(id, token); now]).and_then(|places| {
                self.count(now, now, now);
                if self.plan.is_some() {
                    self.single(id, token, position, now, self.model.vocab)?;
                    return self.plan.as_ref().expect("just seen").chosen(&self.device, now);
                }
                if step {
                    self.launch_steps(&[(id, token)], &places[..1], now, step::Answer::Chain)?;
                    return Ok(self.chosen(1, now)?.into_iter().map(|(token, _)| token).collect());
                }
                self.stage(&[(id, token)], &places)?;
                if self.embedding.is_none() {
                    self.decode_graph(1, position + 1)?;
                } else {
                    self.layers(1, &[Segment::Decode { first: 0, count: 1 }], position + 1)?;
                    self.forward().head(0, 1)?;
                    self.forward().choose(1, self.model.vocab)?;
                }
                let mut best = [0i32];
                self.device.read(&self.buffers.best, 0, &mut best)?;
                Ok(vec![best[0] as u32])
            });
            match outcome {
                Ok(chosen) => tokens.extend(chosen),
                Err(error) => {
                    self.table.truncate(id, start);
                    return Err(error);
                }
            }
        }
        Ok(tokens)
    }

    fn step_greedy(&mut self, ids: &[SequenceId], tokens: &[u32]) -> Result<Vec<u32>> {
        if self.embedding.is_some() || ids.len() > GRAPH_ROWS || ids.len() == 1 {
            let mut best = Vec::with_capacity(ids.len());
            for (id, token) in ids.iter().zip(tokens) {
                best.extend(self.generate_greedy(*id, *token, 1)?);
            }
            return Ok(best);
        }
        let rows: Vec<(SequenceId, u32)> = ids.iter().copied().zip(tokens.iter().copied()).collect();
        let places = self.extend(&rows)?;
        if self.is_step(&places) {
            self.count(rows.len(), rows.len(), 1);
            let below = self.model.vocab;
            let outcome = self.launch_steps(&rows, &places, 1, step::Answer::Best { below });
            let chosen = outcome.and_then(|()| self.chosen(rows.len(), 1));
            let chosen = chosen.inspect_err(|_| self.forget(&places))?;
            return Ok(chosen.into_iter().map(|(token, _)| token).collect());
        }
        let outcome = self.stage(&rows, &places).and_then(|()| {
            let positions = places.iter().map(|(_, position)| position + 1).max().unwrap_or(1);
            self.count(rows.len(), rows.len(), 1);
            self.decode_graph(rows.len(), positions)?;
            let mut best = vec![0i32; rows.len()];
            self.device.read(&self.buffers.best, 0, &mut best)?;
            Ok(best.into_iter().map(|token| token as u32).collect())
        });
        outcome.inspect_err(|_| self.forget(&places))
    }

    fn communication(&mut self, rows: usize) -> Result<Option<Communication>> {
        self.measure_communication(rows)
    }

    fn time_products(&mut self) -> Result<Option<ProductTimes>> {
        self.measure_products()
    }

    fn kernel_counts(&self) -> Vec<KernelCount> {
        let mut counts: Vec<KernelCount> = self
            .counts
            .0
            .iter()
            .map(|(id, (calls, rows, bytes))| KernelCount {
                id: id.clone(),
                calls: *calls,
                rows: *rows,
                rescored_rows: 0,
                bytes: *bytes,
                nanoseconds: 0,
            })
            .collect();
        counts.sort_by(|a, b| a.id.cmp(&b.id));
        counts
    }

    fn reset_kernel_counts(&mut self) {
        self.counts = Counts::default();
    }
}
