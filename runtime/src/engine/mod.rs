//! The engine: tokens in, logits out. One sequence, all state allocated when the model is loaded.
//!
//! A row's result never depends on batch size, chunking or thread count, bit for bit: every output element
//! is one dot product in a fixed order, and attention walks positions in order. Deliberately absent:
//! tokenization, sampling and stopping (see [`crate::generate`]).

mod compute;
mod counters;
mod forward;
pub mod kv_cache;
mod repack;
mod rope;
pub mod taps;

use crate::gguf::{Gguf, Mapping};
use crate::kernels::select::KernelRequest;
use crate::kernels::{KernelSet, MatmulKernel, Shape};
use crate::model::{Matrix, Model};
use crate::quant::I2sLayout;
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::threads::ThreadPool;
use crate::{Error, Result};
use bitforge_schema::protocol::KernelCount;
use bitforge_schema::selection::Selection;
use compute::Compute;
use counters::Counters;
use forward::{Buffers, Limits, Step};
use kv_cache::{KvCache, KvShape};
use repack::MOST_ROWS_PER_CHUNK;
use rope::Rope;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use taps::TapSink;

/// Tokens evaluated together in a prefill.
const PREFILL_CHUNK: usize = 128;
/// Positions whose logits are computed together when all are wanted: bounds the memory of large vocabularies.
const LOGITS_CHUNK: usize = 8;
/// Context without `--ctx-size`, where the model allows more.
const DEFAULT_CONTEXT: usize = 4096;

/// How to run a model.
#[derive(Clone, Default)]
pub struct EngineOptions {
    /// Compute threads; 0 for the CPUs this process may use.
    pub threads: usize,
    /// Positions of the KV cache; `None` for the model's own length, at most 4096.
    pub context: Option<usize>,
    pub activation_quant: ActivationQuant,
    pub kernels: KernelRequest,
    pub i2s_layout: I2sLayout,
    pub mapping: Mapping,
    /// Set from elsewhere to make the engine return [`Error::Interrupted`] at the next chunk.
    pub interrupt: Arc<AtomicBool>,
}

/// A loaded model with its state.
pub struct Engine {
    model: Model,
    gguf: Arc<Gguf>,
    kernels: KernelSet,
    pool: ThreadPool,
    cache: KvCache,
    rope: Rope,
    buffers: Buffers,
    counters: Counters,
    activation_quant: ActivationQuant,
    interrupt: Arc<AtomicBool>,
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
        let kernels = KernelSet::select(options.kernels)?;
        let mut model = Model::load(Arc::clone(&gguf), options.i2s_layout, progress)?;
        #[cfg(feature = "planted-bugs")]
        crate::planted::change(&mut model)?;
        forward::check_runnable(&model, gguf.path(), options.activation_quant)?;
        let config = &model.config;
        let capacity = options.context.unwrap_or(config.context_length.min(DEFAULT_CONTEXT));
        if capacity == 0 {
            return Err(Error::usage("a context of 0 positions", "choose a --ctx-size of at least 1"));
        }
        let cache = KvCache::new(KvShape {
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            capacity,
        })?;
        let threads = if options.threads == 0 { available_threads() } else { options.threads };
        let mut pool = ThreadPool::new(threads).map_err(|source| {
            Error::limit(format!("cannot start {threads} threads: {source}"), "choose fewer --threads")
        })?;
        let limits = Limits {
            tokens: PREFILL_CHUNK.min(capacity),
            logits_rows: LOGITS_CHUNK.min(capacity),
            capacity,
            threads: pool.threads(),
        };
        repack::repack(&mut model, &kernels, options.activation_quant, &mut pool);
        let buffers = Buffers::new(&model, &limits);
        let tile = MOST_ROWS_PER_CHUNK * limits.tokens.max(limits.logits_rows);
        let counters = Counters::new(pool.threads(), repack::scratch_bytes(&model), tile);
        Ok(Engine {
            rope: Rope::new(&model),
            model,
            gguf,
            kernels,
            pool,
            cache,
            buffers,
            counters,
            activation_quant: options.activation_quant,
            interrupt: Arc::clone(&options.interrupt),
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    pub fn selection(&self) -> &Selection {
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
        self.counters.read()
    }

    pub fn reset_kernel_counts(&mut self) {
        self.counters.reset();
    }

    /// Length of the logits: the padded vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Positions the KV cache holds.
    pub fn context(&self) -> usize {
        self.cache.shape().capacity
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> usize {
        self.cache.shape().bytes().expect("the cache was allocated with this shape")
    }

    /// Positions in use.
    pub fn position(&self) -> usize {
        self.cache.len()
    }

    /// Forgets all positions.
    pub fn reset(&mut self) {
        self.cache.truncate(0);
    }

    /// Forgets the positions from `positions` on.
    pub fn truncate(&mut self, positions: usize) {
        self.cache.truncate(positions);
    }

    /// Drops `discard` positions after the first `keep` and moves the later ones down, rotating their keys
    /// back by as many positions. An approximation, as in llama.cpp: the moved keys and values were computed
    /// with the dropped ones in view.
    pub fn shift_context(&mut self, keep: usize, discard: usize) -> Result<()> {
        forward::shift(&mut self.cache, &self.model, &self.rope, &self.kernels, keep, discard)
    }

    /// Evaluates `tokens` after the positions in use; returns the logits [vocab] of the last one.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, no room in the context, or an interrupt. The positions in
    /// use are as before then.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        if tokens.is_empty() {
            return Err(Error::usage("there is nothing to evaluate", "give a prompt of at least one token"));
        }
        self.check_tokens(tokens)?;
        let start = self.cache.len();
        for chunk in tokens.chunks(self.buffers.tokens()) {
            self.evaluate(chunk, start, None)?;
        }
        let row = (tokens.len() - 1) % self.buffers.tokens();
        let position = start + tokens.len() - 1 - row;
        Ok(self.step(None).head(row, 1, position))
    }

    /// Evaluates one token; returns the logits [vocab] of the next.
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Evaluates `tokens` and passes the logits [vocab] of every position to `sink(index, logits)`, in order.
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
        self.check_tokens(tokens)?;
        let start = self.cache.len();
        let (chunk_len, vocab) = (self.buffers.tokens(), self.vocab_size());
        for (number, chunk) in tokens.chunks(chunk_len).enumerate() {
            self.evaluate(chunk, start, taps::reborrow(&mut taps))?;
            for first in (0..chunk.len()).step_by(LOGITS_CHUNK) {
                let count = LOGITS_CHUNK.min(chunk.len() - first);
                let position = start + number * chunk_len;
                let logits = self.step(taps::reborrow(&mut taps)).head(first, count, position);
                for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                    sink(number * chunk_len + first + row, logits)?;
                }
            }
        }
        Ok(())
    }

    /// Runs one chunk through all layers; on an error the cache goes back to `start` positions.
    fn evaluate(&mut self, chunk: &[u32], start: usize, mut taps: Option<TapSink<'_>>) -> Result<()> {
        let outcome = if self.interrupt.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            self.cache.extend(chunk.len())
        };
        match outcome {
            Ok(position) => {
                self.step(taps::reborrow(&mut taps)).layers(chunk, position);
                Ok(())
            }
            Err(error) => {
                self.cache.truncate(start);
                Err(error)
            }
        }
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

    fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        match tokens.iter().position(|token| *token as usize >= self.vocab_size()) {
            None => Ok(()),
            Some(index) => Err(Error::usage(
                format!(
                    "token {} at index {index} is outside the vocabulary of {}",
                    tokens[index],
                    self.vocab_size()
                ),
                "tokenize with this model's own tokenizer",
            )),
        }
    }
}

/// The CPUs this process may use (affinity and cgroup quota), at least 1.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
