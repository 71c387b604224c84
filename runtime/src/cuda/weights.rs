//! A model on the device: packed ternary layers one after the other, everything else as it is in the file.
//!
//! In: a [`Model`] and what of it this device has. Out: [`DeviceModel`]: addresses and shapes of what the kernels read. Where all seven matrices of every
//! layer are ternary with one scale each, they are packed ([`crate::gpu::pack`]) in the order that the persistent
//! kernel reads; otherwise each matrix keeps its type. No second copy of a weight exists but the compact head.

use super::driver::{Buffer, Device};
use super::forward::product_kernel;
use super::kernels::{Kernels, Shape};
use crate::engine::rope::Rope;
use crate::gpu::pack;
use crate::gpu::shard::Shard;
use crate::model::{Linear, Matrix, Model, ModelConfig};
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::tensor::TensorType;
use crate::{Error, Result};
use std::ops::Range;

/// Norm weights of a layer, as offsets in elements of [`DeviceModel::vectors`]; `None` where the graph has none.
#[derive(Clone, Copy)]
pub struct Norms {
    pub attn: usize,
    pub attn_sub: Option<usize>,
    pub ffn: usize,
    pub ffn_sub: Option<usize>,
}

/// A matrix as it is in the file.
pub struct Plain {
    pub bytes: Buffer<u8>,
    pub ty: TensorType,
    /// What its products see of a row of activations.
    pub activation: ActivationType,
    pub rows: usize,
    pub columns: usize,
    pub row_bytes: usize,
    pub tensor_scale: f32,
    /// The separate scale.
    pub extra: f32,
}

/// The matrices of all layers.
pub enum Layers {
    Packed(Packed),
    /// q, k, v, o, gate, up, down of every layer.
    Plain(Vec<[Plain; 7]>),
}

/// Ternary layers in one buffer.
pub struct Packed {
    /// Layers of q, k, v | o | gate | up | down.
    pub weights: Buffer<u8>,
    pub layer_bytes: usize,
    /// Offsets of o, gate (then up) and down in a layer.
    pub offsets: [usize; 3],
    /// [layers, 7, 2]: the shared scale and the separate one.
    pub scales: Buffer<f32>,
}

/// A head of half floats with its compact copy.
pub struct HalfHead {
    pub half: Buffer<u8>,
    pub compact: Buffer<u8>,
    /// [vocab, 4] f32.
    pub facts: Buffer<f32>,
}

pub struct DeviceModel {
    /// Of the whole model.
    pub config: ModelConfig,
    /// What of it is here.
    pub shard: Shard,
    pub vocab: usize,
    pub layers: Layers,
    /// All norm weights of the layers.
    pub vectors: Buffer<f32>,
    pub norms: Vec<Norms>,
    pub final_norm: Buffer<f32>,
    /// Cosine and sine [positions, rope_dim / 2, 2].
    pub angles: Buffer<f32>,
    /// The embedding where it is of half floats: rows are taken on the device then. Of its columns those that are here.
    pub embedding: Option<u64>,
    pub head: Head,
    /// The separate buffer of an embedding that is not the head.
    _embedding: Option<Buffer<u8>>,
}

pub enum Head {
    Half(HalfHead),
    Plain(Plain),
}

impl DeviceModel {
    pub fn upload(
        device: &Device,
        kernels: &Kernels,
        model: &Model,
        mode: ActivationQuant,
        positions: usize,
        shard: Shard,
    ) -> Result<Self> {
        let mut vectors: Vec<f32> = Vec::new();
        let mut keep = |values: &[f32]| {
            let at = vectors.len();
            vectors.extend_from_slice(values);
            at
        };
        let norms = model
            .layers
            .iter()
            .map(|layer| Norms {
                attn: keep(&layer.attn_norm),
                attn_sub: layer.attn_sub_norm.as_deref().map(&mut keep),
                ffn: keep(&layer.ffn_norm),
                ffn_sub: layer.ffn_sub_norm.as_deref().map(&mut keep),
            })
            .collect();
        let layers = match scales(model, mode) {
            Some(scales) => Layers::Packed(packed(device, model, &scales, &shard)?),
            None => {
                let mut layers = Vec::with_capacity(model.layers.len());
                for layer in &model.layers {
                    let mut plain = Vec::with_capacity(7);
                    for (linear, rows) in layer.linears().into_iter().zip(shard.rows()) {
                        plain.push(Plain::upload(device, &linear.matrix, rows, linear.scale, mode)?);
                    }
                    layers.push(plain.try_into().ok().expect("a layer has seven matrices"));
                }
                Layers::Plain(layers)
            }
        };
        let rows = shard.vocab.range(shard.rank);
        let head = match model.head().ty {
            TensorType::F16 if model.head().columns.is_multiple_of(32) => {
                Head::Half(half_head(device, kernels, model.head(), rows, shard.ranks == 1)?)
            }
            _ => Head::Plain(Plain::upload(device, model.head(), rows, None, mode)?),
        };
        let half = model.embedding.ty == TensorType::F16;
        let embedding_buffer = if half && (model.output.is_some() || shard.ranks > 1) {
            Some(device.upload("the embedding", &columns(&model.embedding, &shard))?)
        } else {
            None
        };
        let embedding = match (&embedding_buffer, &head) {
            (Some(buffer), _) => Some(buffer.at),
            (None, Head::Half(head)) if model.output.is_none() => Some(head.half.at),
            _ => None,
        };
        Ok(DeviceModel {
            config: model.config.clone(),
            shard,
            vocab: model.vocab_size(),
            layers,
            vectors: device.upload("norms", &vectors)?,
            norms,
            final_norm: device.upload("the last norm", &model.output_norm)?,
            angles: device.upload("angles", &angles(model, positions))?,
            embedding,
            head,
            _embedding: embedding_buffer,
        })
    }

    /// Bytes of the matrices as they lie on the device, without the compact head; bytes of that.
    pub fn weight_bytes(&self) -> (u64, u64) {
        let layers: usize = match &self.layers {
            Layers::Packed(packed) => packed.weights.slice.len(),
            Layers::Plain(layers) => layers.iter().flatten().map(|plain| plain.bytes.slice.len()).sum(),
        };
        let (head, compact) = match &self.head {
            Head::Half(head) => {
                (head.half.slice.len(), head.compact.slice.len() + 4 * head.facts.slice.len())
            }
            Head::Plain(plain) => (plain.bytes.slice.len(), 0),
        };
        let embedding = self._embedding.as_ref().map_or(0, |buffer| buffer.slice.len());
        ((layers + head + embedding) as u64, compact as u64)
    }
}

impl Plain {
    /// # Errors
    /// [`Error::Unavailable`] for a type that no kernel reads.
    fn upload(
        device: &Device,
        matrix: &Matrix,
        rows: Range<usize>,
        extra: Option<f32>,
        mode: ActivationQuant,
    ) -> Result<Self> {
        if product_kernel(matrix.ty).is_none() {
            return Err(Error::Unavailable {
                what: format!(
                    "the CUDA kernels do not take {} weights as tensor '{}' has them",
                    matrix.ty, matrix.name
                ),
                remedy: "use --device cpu".into(),
            });
        }
        Ok(Plain {
            bytes: device.upload(&format!("tensor '{}'", matrix.name), matrix.bytes_of(rows.clone()))?,
            ty: matrix.ty,
            activation: ActivationType::for_weight(matrix.ty, mode),
            rows: rows.len(),
            columns: matrix.columns,
            row_bytes: matrix.row_bytes,
            tensor_scale: matrix.tensor_scale,
            extra: extra.unwrap_or(1.0),
        })
    }
}

/// (scale, separate scale) of the seven matrices of every layer, where all can be packed.
fn scales(model: &Model, mode: ActivationQuant) -> Option<Vec<f32>> {
    if mode != ActivationQuant::Token {
        return None;
    }
    let of = |linear: &Linear| Some([pack::uniform_scale(&linear.matrix)?, linear.scale.unwrap_or(1.0)]);
    let pairs: Option<Vec<[f32; 2]>> =
        model.layers.iter().flat_map(|layer| layer.linears()).map(of).collect();
    Some(pairs?.into_flattened())
}

fn packed(device: &Device, model: &Model, scales: &[f32], shard: &Shard) -> Result<Packed> {
    let rows = shard.rows();
    let columns = model.layers[0].linears().map(|linear| linear.matrix.columns);
    let sizes: [usize; 7] = std::array::from_fn(|i| rows[i].len() * columns[i] / 4);
    let out = sizes[0] + sizes[1] + sizes[2];
    let offsets = [out, out + sizes[3], out + sizes[3] + sizes[4] + sizes[5]];
    let layer_bytes: usize = sizes.iter().sum();
    let mut weights: Buffer<u8> = device.zeros("the packed layers", layer_bytes * model.layers.len())?;
    // Packed in parallel, one layer in memory per thread at a time.
    let threads = (crate::engine::available_threads() / shard.ranks).clamp(1, model.layers.len());
    for (group, layers) in model.layers.chunks(threads).enumerate() {
        let made: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let rows = &rows;
            let pack_one = move |layer: &'_ crate::model::Layer| {
                let mut out = Vec::with_capacity(layer_bytes);
                let linears = layer.linears().into_iter().zip(rows.clone());
                linears.for_each(|(linear, rows)| pack::pack(&linear.matrix, rows, &mut out));
                out
            };
            let running: Vec<_> = layers.iter().map(|layer| scope.spawn(move || pack_one(layer))).collect();
            running.into_iter().map(|thread| thread.join().expect("packing does not panic")).collect()
        });
        for (index, bytes) in made.iter().enumerate() {
            device.write(&mut weights, (group * threads + index) * layer_bytes, bytes)?;
        }
        device.synchronize()?;
    }
    Ok(Packed { weights, layer_bytes, offsets, scales: device.upload("scales", scales)? })
}

/// The rows of a head of half floats; their compact copy where it is wanted.
fn half_head(
    device: &Device,
    kernels: &Kernels,
    matrix: &Matrix,
    rows: Range<usize>,
    compact: bool,
) -> Result<HalfHead> {
    let half: Buffer<u8> = device.upload("the head", matrix.bytes_of(rows.clone()))?;
    let copied = if compact { rows.len() } else { 0 };
    let compact: Buffer<u8> = device.zeros("the compact head", copied * matrix.columns)?;
    let facts: Buffer<f32> = device.zeros("the bounds of the compact head", 4 * copied)?;
    if copied > 0 {
        let shape = Shape::new((copied.div_ceil(64), 1, 1), 256, 0);
        let (addresses, numbers) = ([half.at, compact.at, facts.at], [copied as i32, matrix.columns as i32]);
        // SAFETY: 1. compact_head takes three addresses and two numbers. 2. The buffers have rows * columns half floats,
        // rows * columns bytes and four floats per row. 3. `half` was written on the same stream.
        unsafe { kernels.launch_plain(device, "compact_head", shape, &addresses, &numbers)? };
    }
    Ok(HalfHead { half, compact, facts })
}

/// The columns of every row of an embedding of half floats that are here.
fn columns(embedding: &Matrix, shard: &Shard) -> Vec<u8> {
    let here = shard.hidden.range(shard.rank);
    let mut found = Vec::with_capacity(2 * here.len() * embedding.rows);
    let rows = embedding.bytes().chunks_exact(embedding.row_bytes);
    rows.for_each(|row| found.extend_from_slice(&row[2 * here.start..2 * here.end]));
    found
}

/// Cosine and sine of every position, side by side, in the arithmetic of the CPU path.
fn angles(model: &Model, positions: usize) -> Vec<f32> {
    let rope = Rope::new(model);
    let pairs = rope.pairs();
    let mut row = vec![0.0; 2 * pairs];
    let mut all = Vec::with_capacity(positions * 2 * pairs);
    for position in 0..positions {
        rope.angles(position as i64, &mut row);
        let (cos, sin) = row.split_at(pairs);
        all.extend(cos.iter().zip(sin).flat_map(|(cos, sin)| [*cos, *sin]));
    }
    all
}
