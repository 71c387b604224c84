//! The engine: tokens in, logits out. All state is allocated when the model is loaded.
//!
//! Several sequences share one paged cache; [`Sequences`] is what a server needs of an engine on any backend, and
//! the methods of [`Engine`] for one sequence are a thin layer over it. A row's result never depends on batch size,
//! chunking or thread count, bit for bit: every output element is one dot product in a fixed order, and attention
//! walks positions in order. Deliberately absent: tokenization, sampling and stopping (see [`crate::generate`]).

mod attention;
pub mod batch;
mod compute;
mod counters;
mod forward;
pub mod head;
#[cfg(test)]
mod head_laws;
pub mod kv_cache;
#[cfg(test)]
mod laws;
pub mod pages;
mod repack;
pub(crate) mod rope;
mod sequences;
pub mod taps;

pub use batch::{Answer, Batch, Best, Sequences, Want};

use crate::gguf::{Gguf, Mapping};
use crate::kernels::profile::Profile;
use crate::kernels::select::KernelRequest;
use crate::kernels::{KernelSet, MatmulKernel, Shape, SimdLevel};
use crate::model::{Matrix, Model, WeightOptions};
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::threads::ThreadPool;
use crate::{Error, Result};
use batch::Row;
use bitforge_schema::protocol::KernelCount;
use bitforge_schema::selection::Selection;
use compute::Compute;
use counters::Counters;
use forward::{Buffers, Limits, Step};
use head::{CompactHead, HeadMode};
use kv_cache::{KvCache, KvShape, KvType};
use pages::{PAGE, SequenceId};
use repack::MOST_ROWS_PER_CHUNK;
use rope::Rope;
use sequences::nothing_to_evaluate;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use taps::TapSink;

/// Tokens evaluated together in a prefill; with AMX more, since there unpacking weights costs a quarter of multiplying with 128.
const PREFILL_CHUNK: usize = 128;
const PREFILL_CHUNK_AMX: usize = 256;
/// Positions whose logits are computed together when all are wanted: bounds the memory of large vocabularies.
const LOGITS_CHUNK: usize = 8;
/// Context without `--ctx-size`, where the model allows more.
const DEFAULT_CONTEXT: usize = 4096;

/// How to run a model.
#[derive(Clone, Default)]
pub struct EngineOptions {
    /// Compute threads; 0 for the CPUs this process may use.
    pub threads: usize,
    /// Positions that one sequence may have; `None` for the model's own length, at most 4096.
    pub context: Option<usize>,
    /// The KV cache has room for so many sequences of full length; 0 is as 1. There may be more that are shorter.
    pub sequences: usize,
    pub kv: KvType,
    pub head: HeadMode,
    pub activation_quant: ActivationQuant,
    pub kernels: KernelRequest,
    /// Kernels that were measured to be better than the default ones; not for a forced level.
    pub profile: Option<Profile>,
    pub weights: WeightOptions,
    pub mapping: Mapping,
    /// The GPU backend that holds the model, with its selection line; `None` for the CPU.
    #[cfg(feature = "gpu")]
    pub device: Option<(crate::gpu::Open, Selection)>,
    /// The first of the GPUs that are used.
    #[cfg(feature = "gpu")]
    pub first_device: usize,
    /// GPUs that share the model; 0 is as 1.
    #[cfg(feature = "gpu")]
    pub tensor_parallel: usize,
    /// The library that they tell each other through; `None` for the one that the loader finds.
    #[cfg(feature = "gpu")]
    pub nccl: Option<String>,
    /// Set from elsewhere to make the engine return [`Error::Interrupted`] at the next chunk.
    pub interrupt: Arc<AtomicBool>,
}

/// A loaded model with its state.
///
/// ```
/// use bitnet_runtime::engine::{Engine, EngineOptions};
///
/// let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/ok/bitnet-b158-i2_s.gguf");
/// let mut engine = Engine::load(path.as_ref(), &EngineOptions::default(), &mut |_, _| ())?;
/// let logits = engine.prefill(&[1, 2, 3])?.to_vec();
/// assert_eq!((logits.len(), engine.position()), (engine.vocab_size(), 3));
///
/// // A token at a time gives the same bits as all at once.
/// engine.reset();
/// engine.prefill(&[1])?;
/// engine.decode(2)?;
/// assert_eq!(engine.decode(3)?, logits);
/// # Ok::<(), bitnet_runtime::Error>(())
/// ```
pub struct Engine {
    model: Model,
    gguf: Arc<Gguf>,
    kernels: KernelSet,
    pool: ThreadPool,
    cache: KvCache,
    /// The sequence of the methods that name none.
    own: SequenceId,
    rope: Rope,
    buffers: Buffers,
    /// The compact copy of the head, where there is one.
    head: Option<CompactHead>,
    counters: Counters,
    pending: sequences::Pending,
    activation_quant: ActivationQuant,
    interrupt: Arc<AtomicBool>,
    #[cfg(feature = "gpu")]
    device: Option<crate::gpu::device::OnDevice>,
}

impl Engine {
    /// Opens `path` and loads it; see [`Self::new`].
    pub fn load(
        path: &Path,
        options: &EngineOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        Self::new(Arc::new(Gguf::open(path, options.mapping)?), options, progress)
    }

    /// Checks and maps the weights, selects kernels, starts threads, allocates all state.
    /// `progress(layers done, layers)` is called along the way.
    pub fn new(
        gguf: Arc<Gguf>,
        options: &EngineOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let mut kernels = KernelSet::select(options.kernels)?;
        if let Some(profile) = &options.profile {
            kernels.apply(profile);
        }
        let mut model = Model::load(Arc::clone(&gguf), &options.weights, progress)?;
        #[cfg(feature = "planted-bugs")]
        crate::planted::change(&mut model)?;
        forward::check_runnable(&model, gguf.path(), options.activation_quant)?;
        let config = &model.config;
        #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "a device makes it the least"))]
        let mut context = options.context.unwrap_or(config.context_length.min(DEFAULT_CONTEXT));
        if context == 0 {
            return Err(Error::usage("a context of 0 positions", "choose a --ctx-size of at least 1"));
        }
        let sequences = options.sequences.max(1);
        #[cfg(feature = "gpu")]
        let device = match &options.device {
            Some((open, selection)) => {
                let device = on_device(*open, selection, &model, options, (context, sequences))?;
                // The CPU's own cache and buffers stay as small as they can be.
                context = 1;
                Some(device)
            }
            None => None,
        };
        let mut cache = KvCache::new(KvShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            context,
            pages: context.div_ceil(PAGE).saturating_mul(sequences),
            ty: options.kv,
        })?;
        let threads = if options.threads == 0 { available_threads() } else { options.threads };
        let mut pool = ThreadPool::new(threads).map_err(|source| {
            Error::limit(format!("cannot start {threads} threads: {source}"), "choose fewer --threads")
        })?;
        let chunk = if kernels.level == SimdLevel::AmxInt8 { PREFILL_CHUNK_AMX } else { PREFILL_CHUNK };
        let limits = Limits {
            tokens: chunk.min(context.saturating_mul(sequences)),
            logits_rows: LOGITS_CHUNK.min(context.saturating_mul(sequences)),
            threads: pool.threads(),
        };
        #[cfg(feature = "gpu")]
        let on_cpu = device.is_none();
        #[cfg(not(feature = "gpu"))]
        let on_cpu = true;
        if on_cpu {
            repack::repack(&mut model, &kernels, options.activation_quant, &mut pool);
        }
        let head = (on_cpu && options.head == HeadMode::TwoStage && CompactHead::fits(model.head()))
            .then(|| CompactHead::new(model.head(), kernels.head, &mut pool));
        let buffers = Buffers::new(&model, &cache, &limits);
        let tile = MOST_ROWS_PER_CHUNK * limits.tokens.max(limits.logits_rows);
        let counters = Counters::new(pool.threads(), repack::scratch_bytes(&model), tile);
        Ok(Engine {
            rope: Rope::new(&model),
            model,
            gguf,
            kernels,
            pool,
            own: cache.open(),
            cache,
            buffers,
            head,
            counters,
            pending: sequences::Pending::new(limits.tokens),
            activation_quant: options.activation_quant,
            interrupt: Arc::clone(&options.interrupt),
            #[cfg(feature = "gpu")]
            device,
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    pub fn selection(&self) -> &Selection {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return &device.selection;
        }
        &self.kernels.selection
    }

    /// The kernel that `matrix` is multiplied with when one token is decoded.
    pub fn kernel_for(&self, matrix: &Matrix) -> &'static MatmulKernel {
        let activation = ActivationType::for_weight(matrix.ty, self.activation_quant);
        compute::kernel(&self.kernels, matrix, activation, Shape::Decode)
    }

    pub fn activation_quant(&self) -> ActivationQuant {
        self.activation_quant
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// What the matrix kernels did since [`Self::reset_kernel_counts`].
    pub fn kernel_counts(&self) -> Vec<KernelCount> {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.kernel_counts();
        }
        self.counters.read()
    }

    pub fn reset_kernel_counts(&mut self) {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.reset_kernel_counts();
        }
        self.counters.reset();
    }

    /// Length of the logits: the padded vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Positions that one sequence may have.
    pub fn context(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.context();
        }
        self.cache.shape().context
    }

    /// How keys and values are stored.
    pub fn kv_type(&self) -> KvType {
        self.cache.shape().ty
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.facts().kv_bytes as usize;
        }
        self.cache.shape().bytes().expect("the cache was allocated with this shape")
    }

    /// How the best candidates are found: in two stages only where the head has a compact copy.
    pub fn head_mode(&self) -> HeadMode {
        if self.head.is_some() { HeadMode::TwoStage } else { HeadMode::Full }
    }

    /// Bytes of the compact copy of the head; 0 where there is none.
    pub fn compact_head_bytes(&self) -> usize {
        self.head.as_ref().map_or(0, CompactHead::bytes)
    }

    /// Bytes of keys and values that attention reads at `positions` positions.
    pub fn kv_bytes_of(&self, positions: usize) -> usize {
        self.cache.shape().bytes_of(positions)
    }

    /// The sequence of the methods that name none.
    pub fn sequence(&self) -> SequenceId {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.own;
        }
        self.own
    }

    /// Positions in use.
    pub fn position(&self) -> usize {
        #[cfg(feature = "gpu")]
        if let Some(device) = &self.device {
            return device.accelerator.positions(device.own);
        }
        self.cache.len(self.own)
    }

    /// Forgets all positions.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Forgets the positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.truncate_to(device.own, positions);
        }
        self.cache.truncate(self.own, positions);
    }

    /// See [`Sequences::shift`].
    pub fn shift_context(&mut self, keep: usize, discard: usize) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.accelerator.shift(device.own, keep, discard);
        }
        self.shift(self.own, keep, discard)
    }

    /// Evaluates `tokens` after the positions in use; returns the logits `[vocab]` of the last one.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, no room in the context, or an interrupt. The positions in
    /// use are as before then.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        #[cfg(feature = "gpu")]
        if self.device.is_some() {
            return self.device_for(tokens)?.prefill(tokens);
        }
        let last = self.evaluate_own(tokens)?;
        Ok(self.step(None).head(&[last]))
    }

    /// The device, once `tokens` are found to be fit for it.
    #[cfg(feature = "gpu")]
    fn device_for(&mut self, tokens: &[u32]) -> Result<&mut crate::gpu::device::OnDevice> {
        if tokens.is_empty() {
            return Err(nothing_to_evaluate());
        }
        self.check_tokens(tokens)?;
        Ok(self.device.as_mut().expect("the caller has seen it"))
    }

    /// As [`Self::prefill`], with the answer that is wanted; [`Want::Nothing`] gets the logits.
    pub fn prefill_for(&mut self, tokens: &[u32], want: Want) -> Result<Answer<'_>> {
        #[cfg(feature = "gpu")]
        if self.device.is_some() {
            return self.device_for(tokens)?.prefill_for(tokens, want);
        }
        let last = self.evaluate_own(tokens)?;
        if let Want::Best(want) = want {
            self.search_head(&[last], &[want]);
        }
        match &self.head {
            Some(head) if matches!(want, Want::Best(_)) && head.found(0).is_some() => {
                Ok(Answer::Best(self.head.as_ref().and_then(|head| head.found(0)).expect("it was there")))
            }
            _ => Ok(Answer::Logits(self.step(None).head(&[last]))),
        }
    }

    /// Evaluates `tokens` in the own sequence; returns the number of the last row in the last pass.
    fn evaluate_own(&mut self, tokens: &[u32]) -> Result<usize> {
        if tokens.is_empty() {
            return Err(nothing_to_evaluate());
        }
        let start = self.position();
        self.check_tokens(tokens)?;
        let chunk_len = self.buffers.tokens();
        for chunk in tokens.chunks(chunk_len) {
            self.evaluate_chunk(chunk, start, None)?;
        }
        Ok((tokens.len() - 1) % chunk_len)
    }

    /// Evaluates one token; returns the logits `[vocab]` of the next.
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Evaluates `tokens` and passes the logits `[vocab]` of every position to `sink(index, logits)`, in order.
    pub fn logits_all(
        &mut self,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.logits_and_taps(tokens, sink, None)
    }

    /// As [`Self::logits_all`]; `taps` sees every intermediate result as well.
    pub fn logits_and_taps(
        &mut self,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
        mut taps: Option<TapSink<'_>>,
    ) -> Result<()> {
        let start = self.position();
        self.check_tokens(tokens)?;
        #[cfg(feature = "gpu")]
        if let Some(device) = &mut self.device {
            return device.logits_all(tokens, sink);
        }
        let (chunk_len, vocab) = (self.buffers.tokens(), self.vocab_size());
        for (number, chunk) in tokens.chunks(chunk_len).enumerate() {
            self.evaluate_chunk(chunk, start, taps::reborrow(&mut taps))?;
            let rows: Vec<usize> = (0..chunk.len()).collect();
            for rows in rows.chunks(LOGITS_CHUNK) {
                let logits = self.step(taps::reborrow(&mut taps)).head(rows);
                for (row, logits) in rows.iter().zip(logits.chunks_exact(vocab)) {
                    sink(number * chunk_len + row, logits)?;
                }
            }
        }
        Ok(())
    }

    /// What the device holds, where the model is on one.
    #[cfg(feature = "gpu")]
    pub fn device(&self) -> Option<&crate::gpu::Facts> {
        self.device.as_ref().map(|device| device.accelerator.facts())
    }

    /// The accelerator, where the model is on one.
    #[cfg(feature = "gpu")]
    pub fn accelerator(&mut self) -> Option<&mut dyn crate::gpu::Accelerator> {
        Some(self.device.as_mut()?.accelerator.as_mut())
    }

    /// Runs one chunk of the own sequence through all layers; on an error it goes back to `start` positions.
    fn evaluate_chunk(&mut self, chunk: &[u32], start: usize, taps: Option<TapSink<'_>>) -> Result<()> {
        let own = self.own;
        self.pending.set(chunk.iter().map(|token| Row { sequence: own, token: *token, want: Want::Nothing }));
        self.evaluate_pending(taps).inspect_err(|_| self.cache.truncate(own, start))
    }

    fn step<'a>(&'a mut self, taps: Option<TapSink<'a>>) -> Step<'a> {
        Step {
            model: &self.model,
            compute: Compute {
                kernels: &self.kernels,
                mode: self.activation_quant,
                pool: &mut self.pool,
                counters: &mut self.counters,
            },
            rope: &self.rope,
            cache: &mut self.cache,
            buffers: &mut self.buffers,
            taps,
        }
    }
}

/// Takes `model` to the device of `open`.
#[cfg(feature = "gpu")]
fn on_device(
    open: crate::gpu::Open,
    selection: &Selection,
    model: &Model,
    options: &EngineOptions,
    (context, sequences): (usize, usize),
) -> Result<crate::gpu::device::OnDevice> {
    if options.kv != KvType::F16 {
        return Err(Error::Unavailable {
            what: format!("--kv {} is not kept on a GPU", options.kv.name()),
            remedy: "use --kv f16, or --device cpu".into(),
        });
    }
    let accelerator = open(
        model,
        &crate::gpu::OpenOptions {
            context,
            sequences,
            activation_quant: options.activation_quant,
            first_device: options.first_device,
            tensor_parallel: options.tensor_parallel.max(1),
            nccl: options.nccl.clone(),
            interrupt: Arc::clone(&options.interrupt),
        },
    )?;
    Ok(crate::gpu::device::OnDevice::new(accelerator, selection.clone()))
}

/// The CPUs this process may use (affinity and cgroup quota), at least 1.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
