//! How a model is split over several devices: which heads, columns and rows each one has.
//!
//! In: a configuration, a vocabulary, a number of ranks. Out: [`Shard`], what one rank holds. Every matrix is split by
//! its rows alone, so every dot product is whole on one rank and no sum is ever made of parts: results are those of one
//! device, bit for bit. Between products the ranks gather the vector that the next one multiplies ([`Split`] says who
//! has which columns). Query heads go with their KV head; where there are more ranks than KV heads, ranks share one
//! and each keeps a copy of its keys and values. Any number of ranks is taken: one that nothing is left for has no
//! rows of that matrix. Deliberately absent: devices, communication.

use crate::model::ModelConfig;
use std::ops::Range;

/// `total` columns in slices of `slice`, one per rank; the last ranks may have fewer, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub total: usize,
    pub slice: usize,
}

impl Split {
    /// Whole units of `unit` columns where `total` has only such, single columns otherwise.
    pub fn of(total: usize, unit: usize, ranks: usize) -> Self {
        let unit = if total.is_multiple_of(unit) { unit } else { 1 };
        Split { total, slice: (total / unit).div_ceil(ranks) * unit }
    }

    pub fn range(&self, rank: usize) -> Range<usize> {
        let at = |rank: usize| (rank * self.slice).min(self.total);
        at(rank)..at(rank + 1)
    }

    /// Columns of `rank`.
    pub fn columns(&self, rank: usize) -> usize {
        self.range(rank).len()
    }
}

/// What one rank of a team holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub rank: usize,
    pub ranks: usize,
    /// Columns of the hidden state.
    pub hidden: Split,
    /// Columns of attention's result: whole heads.
    pub query: Split,
    /// Columns of the feed-forward network.
    pub ffn: Split,
    /// Rows of the head.
    pub vocab: Split,
    /// Query heads, and the KV heads that they look at.
    pub heads: Range<usize>,
    pub kv_heads: Range<usize>,
    head_dim: usize,
}

/// Slices of quantized rows are whole groups of so many columns.
const UNIT: usize = 64;

impl Shard {
    /// The whole model on one device.
    pub fn whole(config: &ModelConfig, vocab: usize) -> Self {
        Self::new(config, vocab, 0, 1)
    }

    /// What rank `rank` of `ranks` has.
    pub fn new(config: &ModelConfig, vocab: usize, rank: usize, ranks: usize) -> Self {
        let group = config.heads / config.kv_heads;
        // Parts that the query heads of one KV head are cut into.
        let most = (ranks / config.kv_heads).max(1);
        let parts = (1..=most.min(group)).rev().find(|parts| group.is_multiple_of(*parts)).unwrap_or(1);
        let together = group / parts;
        let units = Split::of(config.kv_heads * parts, 1, ranks);
        let own = units.range(rank);
        Shard {
            rank,
            ranks,
            hidden: Split::of(config.hidden, UNIT, ranks),
            query: Split { total: config.query_dim(), slice: units.slice * together * config.head_dim },
            ffn: Split::of(config.feed_forward, UNIT, ranks),
            vocab: Split::of(vocab, 1, ranks),
            heads: own.start * together..own.end * together,
            kv_heads: if own.is_empty() { 0..0 } else { own.start / parts..(own.end - 1) / parts + 1 },
            head_dim: config.head_dim,
        }
    }

    /// Rows of this rank of the matrices q, k, v, o, gate, up, down.
    pub fn rows(&self) -> [Range<usize>; 7] {
        let kv = self.kv_heads.start * self.head_dim..self.kv_heads.end * self.head_dim;
        let (query, hidden, ffn) =
            (self.query.range(self.rank), self.hidden.range(self.rank), self.ffn.range(self.rank));
        [query, kv.clone(), kv, hidden.clone(), ffn.clone(), ffn, hidden]
    }

    /// Query heads of one KV head here: 0 on a rank without heads.
    pub fn group(&self) -> usize {
        self.heads.len().checked_div(self.kv_heads.len()).unwrap_or(0)
    }

    pub fn query_dim(&self) -> usize {
        self.query.columns(self.rank)
    }

    pub fn kv_dim(&self) -> usize {
        self.kv_heads.len() * self.head_dim
    }

    /// Columns of the hidden state here.
    pub fn hidden(&self) -> usize {
        self.hidden.columns(self.rank)
    }

    /// Columns of the feed-forward network here.
    pub fn ffn(&self) -> usize {
        self.ffn.columns(self.rank)
    }

    /// Bytes that this rank receives for one step of `rows` rows: four vectors of f32 a layer, the last state, and the
    /// best token of each rank.
    pub fn bytes_per_step(&self, layers: usize, rows: usize) -> u64 {
        let vectors = 2 * self.hidden.slice + self.query.slice + self.ffn.slice;
        let words = layers * vectors + self.hidden.slice + 2;
        ((self.ranks - 1) * rows * words * size_of::<f32>()) as u64
    }

    /// Rows of the head here.
    pub fn vocab(&self) -> usize {
        self.vocab.columns(self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, HiddenActivation, RopePairing};
    use proptest::prelude::*;

    pub fn config(heads: usize, kv_heads: usize, hidden: usize, ffn: usize) -> ModelConfig {
        ModelConfig {
            architecture: Architecture::BitnetB158,
            architecture_name: "bitnet-b1.58".into(),
            layers: 2,
            hidden,
            feed_forward: ffn,
            heads,
            kv_heads,
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
    fn one_rank_has_everything() {
        let config = config(20, 5, 2560, 6912);
        let shard = Shard::whole(&config, 128_256);
        let rows = shard.rows().map(|range| range.len());
        assert_eq!(rows, [2560, 640, 640, 2560, 6912, 6912, 2560]);
        assert_eq!((shard.vocab(), shard.heads.clone(), shard.group()), (128_256, 0..20, 4));
    }

    #[test]
    fn ranks_share_a_kv_head_where_there_are_too_few() {
        let config = config(8, 2, 1024, 1024);
        let heads = |ranks| Vec::from_iter((0..ranks).map(|r| Shard::new(&config, 100, r, ranks)));
        let four: Vec<_> = heads(4).into_iter().map(|s| (s.heads, s.kv_heads)).collect();
        assert_eq!(four, [(0..2, 0..1), (2..4, 0..1), (4..6, 1..2), (6..8, 1..2)]);
        let three: Vec<_> = heads(3).into_iter().map(|s| (s.heads, s.kv_heads)).collect();
        assert_eq!(three, [(0..4, 0..1), (4..8, 1..2), (8..8, 0..0)]);
        assert!(heads(9).into_iter().all(|s| s.heads.len() <= 1 && s.heads.len() == s.kv_heads.len()));
    }

    /// As docs/explanation/scale.md has them.
    #[test]
    fn bytes_of_a_step_of_two_ranks() {
        let shape =
            |heads, kv_heads, hidden, ffn| Shard::new(&config(heads, kv_heads, hidden, ffn), 128_256, 0, 2);
        assert_eq!(shape(20, 5, 2560, 6912).bytes_per_step(30, 1), 911_368);
        assert_eq!(shape(52, 52, 6656, 17_920).bytes_per_step(60, 1), 4_559_880);
        assert_eq!(Shard::whole(&config(20, 5, 2560, 6912), 128_256).bytes_per_step(30, 1), 0);
    }

    proptest! {
        #[test]
        fn every_row_is_on_exactly_one_rank(
            kv_heads in 1usize..9, group in 1usize..9, hidden in 1usize..40, ffn in 1usize..500, vocab in 1usize..999, ranks in 1usize..17,
        ) {
            let config = config(kv_heads * group, kv_heads, 64 * hidden, ffn);
            let shards: Vec<Shard> = (0..ranks).map(|rank| Shard::new(&config, vocab, rank, ranks)).collect();
            let (mut next, mut rows, mut heads) = ([0; 4], 0, 0);
            for shard in &shards {
                let [query, kv, _, out, gate, _, down] = shard.rows();
                for (next, range) in next.iter_mut().zip([query.clone(), out, gate, shard.vocab.range(shard.rank)]) {
                    prop_assert!(range.is_empty() || range.start == *next);
                    *next += range.len();
                }
                prop_assert_eq!(down.len(), shard.hidden());
                prop_assert_eq!(query, shard.heads.start * 128..shard.heads.end * 128);
                prop_assert_eq!(kv.len(), shard.kv_dim());
                // Heads see their own KV head, at the same place in the group on every rank.
                for head in shard.heads.clone() {
                    let local = (head - shard.heads.start) / shard.group();
                    prop_assert_eq!(shard.kv_heads.start + local, head / group);
                }
                (rows, heads) = (rows + shard.query_dim(), heads + shard.heads.len());
            }
            prop_assert_eq!(next, [config.query_dim(), config.hidden, ffn, vocab]);
            prop_assert_eq!((rows, heads), (config.query_dim(), config.heads));
        }
    }
}
