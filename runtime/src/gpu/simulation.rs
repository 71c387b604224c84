//! Laws of the split: a forward pass by ranks that each hold their shard, on the CPU, against the engine.
//!
//! Every rank touches only its rows of matrices, its heads and its columns; what crosses between ranks goes through
//! [`gather`], as on devices. The arithmetic is the scalar definition.

use super::shard::{Shard, Split};
use crate::engine::rope::Rope;
use crate::engine::{Engine, EngineOptions};
use crate::gguf::{Gguf, Mapping};
use crate::kernels::ops::{PARTS, ScoresF16, ValuesF16};
use crate::kernels::select::KernelRequest;
use crate::kernels::{KernelSet, Shape, SimdLevel, Tile};
use crate::model::{HiddenActivation, Matrix, Model, RopePairing, WeightOptions};
use crate::quant::activation::{ActivationQuant, ActivationType};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What each rank has of `m` rows: [m, its columns].
type Parts = Vec<Vec<f32>>;

struct Ranks<'m> {
    model: &'m Model,
    shards: Vec<Shard>,
    kernels: KernelSet,
}

/// Whole rows [m, total] from the columns of all ranks, as the collective lays them out and the norm reads them.
fn gather(parts: &Parts, split: Split, m: usize) -> Vec<f32> {
    let mut gathered = vec![f32::NAN; parts.len() * m * split.slice];
    for (part, room) in parts.iter().zip(gathered.chunks_exact_mut(m * split.slice)) {
        room[..part.len()].copy_from_slice(part);
    }
    let element = |row: usize, i: usize| {
        let rank = i / split.slice;
        let columns = split.slice.min(split.total - rank * split.slice);
        gathered[rank * m * split.slice + row * columns + i - rank * split.slice]
    };
    (0..m).flat_map(|row| (0..split.total).map(move |i| (row, i))).map(|(row, i)| element(row, i)).collect()
}

impl Ranks<'_> {
    /// [m, rows.len()] products of whole rows `x` with some rows of `matrix`.
    fn product(&self, x: &[f32], matrix: &Matrix, rows: Range<usize>, scale: Option<f32>) -> Vec<f32> {
        let activation = ActivationType::for_weight(matrix.ty, ActivationQuant::Token);
        let (m, bytes) = (x.len() / matrix.columns, activation.row_bytes(matrix.columns));
        let mut packed = vec![0; m * bytes];
        for (x, packed) in x.chunks_exact(matrix.columns).zip(packed.chunks_exact_mut(bytes)) {
            // SAFETY: scalar kernels run on every CPU.
            unsafe { (self.kernels.quantize(activation).run)(x, packed) };
        }
        let mut out = vec![0.0; rows.len() * m];
        let mut tile = Tile {
            k: matrix.columns,
            weights: matrix.bytes_of(rows.clone()),
            row_bytes: matrix.row_bytes,
            activations: &packed,
            activation_bytes: bytes,
            tensor_scale: matrix.tensor_scale,
            out: &mut out,
            done: 0,
        };
        let plan = self.kernels.plan_for_rows(matrix.ty, activation).expect("the scalar level has all");
        // SAFETY: as above.
        unsafe { plan.kernel(Shape::Decode).call(&mut tile) };
        let at = |t: usize, row: usize| out[row * m + t] * scale.unwrap_or(1.0);
        (0..m).flat_map(|t| (0..rows.len()).map(move |row| (t, row))).map(|(t, row)| at(t, row)).collect()
    }

    /// Whole rows, normed where there are weights; every rank computes the same.
    fn norm(&self, parts: &Parts, split: Split, weight: Option<&[f32]>, m: usize) -> Vec<f32> {
        let x = gather(parts, split, m);
        let Some(weight) = weight else { return x };
        let mut out = vec![0.0; x.len()];
        for (x, out) in x.chunks_exact(split.total).zip(out.chunks_exact_mut(split.total)) {
            // SAFETY: as above.
            unsafe { (self.kernels.ops.rms_norm)(x, weight, self.model.config.rms_eps, out) };
        }
        out
    }

    /// Rotates heads [m, heads, head_dim] of one rank in place.
    fn rotate(&self, heads: &mut [f32], m: usize) {
        let (config, rope) = (&self.model.config, Rope::new(self.model));
        let mut angles = vec![0.0; 2 * rope.pairs()];
        if heads.is_empty() {
            return;
        }
        let width = heads.len() / m;
        for (position, row) in heads.chunks_exact_mut(width).enumerate() {
            rope.angles(position as i64, &mut angles);
            let (cos, sin) = angles.split_at(rope.pairs());
            let run = match config.rope_pairing {
                RopePairing::Adjacent => self.kernels.ops.rope_adjacent,
                RopePairing::Neox => self.kernels.ops.rope_neox,
            };
            // SAFETY: as above.
            row.chunks_exact_mut(config.head_dim)
                .for_each(|head| unsafe { run(&mut head[..config.rope_dim], cos, sin) });
        }
    }

    /// Attention of the heads of one rank over `m` positions: [m, its query columns].
    fn attend(&self, shard: &Shard, q: &[f32], k: &[f32], v: &[f32], m: usize) -> Vec<f32> {
        let (d, ops) = (self.model.config.head_dim, &self.kernels.ops);
        let (query, kv) = (shard.query_dim(), shard.kv_dim());
        let room = m.next_multiple_of(PARTS);
        let mut out = vec![0.0; m * query];
        let halves = |from: &[f32], head: usize| {
            let mut to = vec![0u16; room * d];
            for (row, to) in from.chunks_exact(kv).zip(to.chunks_exact_mut(d)) {
                // SAFETY: as above.
                unsafe { (ops.f16_from_f32)(&row[head * d..][..d], to) };
            }
            to
        };
        for head in 0..shard.heads.len() {
            let (keys, values) = (halves(k, head / shard.group()), halves(v, head / shard.group()));
            for t in 0..m {
                let mut one = q[t * query + head * d..][..d].to_vec();
                let (mut scores, mut sums) = (vec![0.0; room], vec![0.0; PARTS * d]);
                // SAFETY: as above.
                unsafe {
                    (ops.round_to_f16)(&mut one);
                    (ops.scores_f16)(&mut ScoresF16 {
                        queries: &one,
                        head_dim: d,
                        keys: &keys,
                        scale: 1.0 / (d as f32).sqrt(),
                        out: &mut scores,
                        stride: room,
                    });
                    (ops.softmax)(&mut scores, t + 1);
                    (ops.values_f16)(&mut ValuesF16 {
                        weights: &scores,
                        stride: room,
                        counts: &[t + 1],
                        runs: &[&values],
                        next: &[],
                        head_dim: d,
                        parts: 0..PARTS,
                        sums: &mut sums,
                    });
                    (ops.add_up_parts)(&sums, &mut out[t * query + head * d..][..d]);
                }
            }
        }
        out
    }

    /// Logits [vocab] of the last of `tokens`.
    fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let (model, m, first) = (self.model, tokens.len(), &self.shards[0]);
        let mut row = vec![0.0; model.config.hidden];
        let mut hidden: Parts = vec![Vec::new(); self.shards.len()];
        for token in tokens {
            model.embedding.dequantize_row(*token as usize, &mut row);
            for (shard, part) in self.shards.iter().zip(&mut hidden) {
                part.extend_from_slice(&row[shard.hidden.range(shard.rank)]);
            }
        }
        let add = |hidden: &mut Parts, more: Parts| {
            for (part, more) in hidden.iter_mut().zip(more) {
                part.iter_mut().zip(more).for_each(|(value, more)| *value += more);
            }
        };
        for layer in &model.layers {
            let linears = layer.linears();
            let product = |x: &[f32], shard: &Shard, which: usize| {
                self.product(x, &linears[which].matrix, shard.rows()[which].clone(), linears[which].scale)
            };
            let x = self.norm(&hidden, first.hidden, Some(&layer.attn_norm), m);
            let attention: Parts = self
                .shards
                .iter()
                .map(|shard| {
                    let [mut q, mut k, v] = [0, 1, 2].map(|which| product(&x, shard, which));
                    self.rotate(&mut q, m);
                    self.rotate(&mut k, m);
                    self.attend(shard, &q, &k, &v, m)
                })
                .collect();
            let x = self.norm(&attention, first.query, layer.attn_sub_norm.as_deref(), m);
            add(&mut hidden, self.shards.iter().map(|shard| product(&x, shard, 3)).collect());
            let x = self.norm(&hidden, first.hidden, Some(&layer.ffn_norm), m);
            let gated: Parts = self
                .shards
                .iter()
                .map(|shard| {
                    let (mut gate, up) = (product(&x, shard, 4), product(&x, shard, 5));
                    let multiply = match model.config.activation {
                        HiddenActivation::Silu => self.kernels.ops.silu_mul,
                        HiddenActivation::SquaredRelu => self.kernels.ops.relu2_mul,
                    };
                    // SAFETY: as above.
                    unsafe { multiply(&mut gate, &up) };
                    gate
                })
                .collect();
            let x = self.norm(&gated, first.ffn, layer.ffn_sub_norm.as_deref(), m);
            add(&mut hidden, self.shards.iter().map(|shard| product(&x, shard, 6)).collect());
        }
        let x = self.norm(&hidden, first.hidden, Some(&model.output_norm), m);
        let last = &x[(m - 1) * model.config.hidden..];
        let of = |shard: &Shard| self.product(last, model.head(), shard.vocab.range(shard.rank), None);
        self.shards.iter().flat_map(of).collect()
    }
}

#[test]
fn ranks_together_compute_what_one_engine_does() {
    for name in ["bitnet-b158-i2_s", "bitnet-tq1_0", "llama-q4_1", "llama-f16"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/gguf/ok/{name}.gguf"));
        let scalar = KernelRequest::Level(SimdLevel::Scalar);
        let options =
            EngineOptions { threads: 1, context: Some(32), kernels: scalar, ..EngineOptions::default() };
        let mut engine = Engine::load(&path, &options, &mut |_, _| ()).expect("a fixture");
        let gguf = Arc::new(Gguf::open(&path, Mapping::Mmap).expect("a fixture"));
        let model = Model::load(gguf, &WeightOptions::default(), &mut |_, _| ()).expect("a fixture");
        let tokens: Vec<u32> = (0..11).map(|i| (5 + 13 * i) % model.vocab_size() as u32).collect();
        let bits = |logits: &[f32]| -> Vec<u32> { logits.iter().map(|logit| logit.to_bits()).collect() };
        let want = bits(engine.prefill(&tokens).expect("room for it"));
        for count in [1, 2, 3, 4, 7] {
            let shard = |rank| Shard::new(&model.config, model.vocab_size(), rank, count);
            let ranks = Ranks {
                model: &model,
                shards: (0..count).map(shard).collect(),
                kernels: KernelSet::select(scalar).expect("every CPU"),
            };
            assert_eq!(bits(&ranks.logits(&tokens)), want, "{name} on {count} ranks");
        }
    }
}
