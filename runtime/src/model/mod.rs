//! A model: its configuration and its named, packed weights, checked against each other.
//!
//! In: a [`Gguf`] file. Out: a [`Model`] whose matrices are views of the file (or converted copies where a
//! kernel needs another layout). Deliberately absent: arithmetic, and any f32 copy of a weight matrix.

pub mod config;
mod weights;

pub use config::{Architecture, HiddenActivation, ModelConfig, Pooling, RopePairing};
pub use weights::{Layer, Linear, Matrix, Panels, WeightOptions};

use crate::gguf::Gguf;
use crate::{Error, Result};
use std::sync::Arc;

/// Everything the forward pass reads.
///
/// ```
/// use bitnet_runtime::gguf::{Gguf, Mapping};
/// use bitnet_runtime::model::{Model, WeightOptions};
///
/// let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/gguf/ok/bitnet-b158-i2_s.gguf");
/// let gguf = Gguf::open(path, Mapping::default())?;
/// let model = Model::load(gguf.into(), &WeightOptions::default(), &mut |_, _| ())?;
/// let ternary = model.matrices().filter(|matrix| matrix.ty.is_ternary()).count();
/// assert_eq!(ternary, 7 * model.config.layers);
/// # Ok::<(), bitnet_runtime::Error>(())
/// ```
pub struct Model {
    pub config: ModelConfig,
    /// [vocab, hidden].
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    /// `[hidden]`.
    pub output_norm: Vec<f32>,
    /// [vocab, hidden]; `None` where the head is tied to the embedding.
    pub output: Option<Matrix>,
    /// [rope_dim / 2] divisors of the RoPE frequencies (Llama 3 long-context scaling).
    pub rope_factors: Option<Vec<f32>>,
}

impl Model {
    /// Maps every tensor of the file. `progress(done, layers)` is called after each layer.
    ///
    /// # Errors
    /// Missing, unmapped or wrongly shaped tensors (all names are listed), invalid codes, bad metadata.
    pub fn load(
        gguf: Arc<Gguf>,
        options: &WeightOptions,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let config = ModelConfig::from_gguf(&gguf)?;
        match options.code_map {
            Some(_) => gguf.require_mappable_types()?,
            None => gguf.require_readable_types()?,
        }
        let mut reader = weights::Reader::new(&gguf, options)?;
        let embedding = reader.embedding(config.hidden)?;
        let vocab = embedding.rows;
        let layers = (0..config.layers)
            .map(|index| {
                let layer = Layer::read(&mut reader, &config, index)?;
                progress(index + 1, config.layers);
                Ok(layer)
            })
            .collect::<Result<Vec<_>>>()?;
        let output_norm = reader.vector("output_norm.weight", config.hidden)?;
        let output = reader.optional_matrix("output.weight", vocab, config.hidden)?;
        let rope_factors = reader.optional_vector("rope_freqs.weight", config.rope_dim / 2)?;
        let unmapped = reader.unread();
        if !unmapped.is_empty() {
            return Err(Error::unsupported(
                gguf.path(),
                format!(
                    "{} tensors have no place in a '{}' model: {}",
                    unmapped.len(),
                    config.architecture_name,
                    unmapped.join(", ")
                ),
                "ignoring them would compute another model; check general.architecture",
            ));
        }
        Ok(Model { config, embedding, layers, output_norm, output, rope_factors })
    }

    /// Rows of the embedding: the padded vocabulary size, the length of the logits.
    pub fn vocab_size(&self) -> usize {
        self.embedding.rows
    }

    /// Every matrix that a token is multiplied with, the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(Layer::linears).map(|linear| &linear.matrix).chain([self.head()])
    }

    /// As [`Self::matrices`], for writing.
    pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let head = self.output.as_mut().unwrap_or(&mut self.embedding);
        let linears = self.layers.iter_mut().flat_map(Layer::linears_mut);
        linears.map(|linear| &mut linear.matrix).chain([head])
    }

    /// The matrix that turns the last hidden state into logits.
    pub fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }
}
