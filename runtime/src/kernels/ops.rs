//! The table of element-wise operations and attention that a [`super::KernelSet`] carries.
//!
//! Attention is three steps over up to [`QUERIES`] queries that share a KV head: scores of a run of positions, the
//! softmax of one query's scores, and weighted sums of a run of values. Runs may be computed on any thread; what is
//! added up in which order is part of the definition (`arch/all/attention.rs`). Every function is unsafe to call only
//! because its instance may need the CPU features of `level`.

use super::SimdLevel;
use std::ops::Range;

/// Queries that one call takes: with them, every key and value is loaded and widened once.
pub const QUERIES: usize = 16;
/// Partial sums of a weighted sum of half-precision values: position p goes to sum p % PARTS.
pub const PARTS: usize = 32;
/// Elements that share a scale in q8_0.
pub const Q8_BLOCK: usize = 32;
/// Positions whose q8_0 keys lie side by side (see [`KeysQ8`]).
pub const Q8_GROUP: usize = 16;

/// Queries [n, head_dim], n up to [`QUERIES`], against the half-precision keys of a run of positions.
pub struct ScoresF16<'a> {
    /// Already rounded to half precision (see [`Ops::round_to_f16`]).
    pub queries: &'a [f32],
    pub head_dim: usize,
    /// [positions, head_dim].
    pub keys: &'a [u16],
    /// 1 / sqrt(head_dim).
    pub scale: f32,
    /// Scores of query q start at `q * stride`.
    pub out: &'a mut [f32],
    pub stride: usize,
}

/// Weighted sums of half-precision values over runs of positions, the first of which is a multiple of [`PARTS`].
pub struct ValuesF16<'a> {
    /// The weight of position p for query q is at `q * stride + p`.
    pub weights: &'a [f32],
    pub stride: usize,
    /// Positions of the runs that each query sees, counted over all runs.
    pub counts: &'a [usize],
    /// [positions, head_dim] each; all of the same length, whole multiples of [`PARTS`] positions.
    pub runs: &'a [&'a [u16]],
    /// Runs that will be wanted next: worth fetching, not read.
    pub next: &'a [&'a [u16]],
    pub head_dim: usize,
    /// The partial sums to add to.
    pub parts: Range<usize>,
    /// [queries, parts, head_dim], added to.
    pub sums: &'a mut [f32],
}

/// Weighted sums of half-precision values over all positions of a tile.
pub struct WeighF16<'a> {
    /// As in [`ValuesF16`].
    pub weights: &'a [f32],
    pub stride: usize,
    /// Positions that each query sees.
    pub counts: &'a [usize],
    pub values: &'a [u16],
    /// Where in `values` every `per_run` positions [per_run, head_dim] start.
    pub starts: &'a [usize],
    pub per_run: usize,
    pub head_dim: usize,
    /// [queries, head_dim].
    pub out: &'a mut [f32],
}

/// Queries in q8_0: per block of [`Q8_BLOCK`] elements a scale.
#[derive(Clone, Copy)]
pub struct QueriesQ8<'a> {
    /// [n, head_dim].
    pub quants: &'a [i8],
    /// [n, head_dim / Q8_BLOCK].
    pub scales: &'a [f32],
}

/// Keys of a run of whole groups of [`Q8_GROUP`] positions in q8_0.
#[derive(Clone, Copy)]
pub struct KeysQ8<'a> {
    /// [groups, head_dim / 4, Q8_GROUP, 4]: four elements of sixteen positions side by side.
    pub quants: &'a [i8],
    /// [groups, head_dim / Q8_BLOCK, Q8_GROUP] half floats.
    pub scales: &'a [u16],
}

pub struct ScoresQ8<'a> {
    pub queries: QueriesQ8<'a>,
    pub head_dim: usize,
    pub keys: KeysQ8<'a>,
    /// 1 / sqrt(head_dim).
    pub scale: f32,
    /// Scores of query q start at `q * stride`; those of whole groups are written.
    pub out: &'a mut [f32],
    pub stride: usize,
}

/// q8_0 values of a run of positions.
#[derive(Clone, Copy)]
pub struct RunQ8<'a> {
    /// [positions, head_dim].
    pub quants: &'a [i8],
    /// [positions, head_dim / Q8_BLOCK] half floats.
    pub scales: &'a [u16],
}

/// Weighted sums of q8_0 values over runs of positions.
pub struct ValuesQ8<'a> {
    /// As in [`ValuesF16`].
    pub weights: &'a [f32],
    pub stride: usize,
    pub counts: &'a [usize],
    /// All of the same length.
    pub runs: &'a [RunQ8<'a>],
    pub head_dim: usize,
    /// The elements to add up: whole blocks.
    pub columns: Range<usize>,
    /// [queries, columns], added to.
    pub sums: &'a mut [f32],
}

impl<'a> KeysQ8<'a> {
    /// The groups that hold the first `positions` positions of `keys`.
    pub fn first(keys: KeysQ8<'a>, positions: usize, head_dim: usize) -> Self {
        let elements = positions.next_multiple_of(Q8_GROUP) * head_dim;
        KeysQ8 { quants: &keys.quants[..elements], scales: &keys.scales[..elements / Q8_BLOCK] }
    }
}

impl Ops {
    /// The names of the fields that are operations.
    pub const NAMES: [&'static str; 13] = [
        "rms_norm",
        "silu_mul",
        "relu2_mul",
        "rope_adjacent",
        "rope_neox",
        "scores_f16",
        "scores_q8_0",
        "softmax",
        "values_f16",
        "values_q8_0",
        "add_up_parts",
        "f16_from_f32",
        "round_to_f16",
    ];
}

/// One instance of every operation; see `arch/all/ops.rs` and `arch/all/attention.rs` for the definitions.
#[derive(Clone, Copy)]
pub struct Ops {
    pub level: SimdLevel,
    pub rms_norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    pub silu_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    pub relu2_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    pub rope_adjacent: unsafe fn(head: &mut [f32], cos: &[f32], sin: &[f32]),
    pub rope_neox: unsafe fn(head: &mut [f32], cos: &[f32], sin: &[f32]),
    pub scores_f16: unsafe fn(args: &mut ScoresF16<'_>),
    pub scores_q8_0: unsafe fn(args: &mut ScoresQ8<'_>),
    /// Scores of `positions` positions to weights, in place; the slice is padded to a multiple of eight.
    pub softmax: unsafe fn(scores: &mut [f32], positions: usize),
    pub values_f16: unsafe fn(args: &mut ValuesF16<'_>),
    pub values_q8_0: unsafe fn(args: &mut ValuesQ8<'_>),
    /// What `values_f16` over all positions and then `add_up_parts` give, of heads of whole 64 elements: faster for many queries, where
    /// there is one.
    pub weigh_f16: Option<unsafe fn(args: &mut WeighF16<'_>)>,
    /// `sums` [PARTS, head_dim] to `out` `[head_dim]`.
    pub add_up_parts: unsafe fn(sums: &[f32], out: &mut [f32]),
    pub f16_from_f32: unsafe fn(src: &[f32], dst: &mut [u16]),
    pub round_to_f16: unsafe fn(values: &mut [f32]),
}
