//! What happens to a vector between two products: it is gathered where several devices have parts of it, normed and packed.
//!
//! In: rows of which this device has all columns or some. Out: whole rows in the buffers, as the next product takes them.
//! Few rows are gathered as floats, in one collective; many are quantized by the device that has them and gathered as
//! int8 (kernels/team.cu). Deliberately absent: products, and what is split how (see [`crate::gpu::shard`]).

use super::Forward;
use crate::Result;
use crate::cuda::kernels::Shape;
use crate::cuda::nccl::Kind;
use crate::cuda::params::{NormRow, TeamRows};
use crate::gpu::shard::Split;
use crate::quant::activation::ActivationType;

/// Words of 64 bits of a `Part` in kernels/team.cu.
pub(super) const PART: usize = 3;
/// From so many rows on vectors are gathered as int8, in two steps; fewer are gathered as they are, in one.
const MANY: usize = 65;

impl Forward<'_> {
    /// The logits of `count` rows of all devices, one device after the other: [ranks, count, its rows of the head].
    pub fn gather_logits(&self, count: usize) -> Result<()> {
        let b = self.buffers;
        self.gather(b.logits.at, count * self.model.shard.vocab.slice, b.all_logits.at).map(drop)
    }

    /// Puts `count` words from `from` of every device at `to`; where there is one device, they stay where they are.
    pub(super) fn gather(&self, from: u64, count: usize, to: u64) -> Result<u64> {
        self.gather_kind(from, count, to, Kind::Word)
    }

    /// As [`Self::gather`], of `count` elements.
    fn gather_kind(&self, from: u64, count: usize, to: u64, kind: Kind) -> Result<u64> {
        let Some(team) = self.team else { return Ok(from) };
        // SAFETY: 1. buffers of what is gathered are made for whole slices of every rank. 2. Ranks evaluate the same batches
        // with the same code.
        unsafe { team.all_gather(&self.device.stream, from, to, count, kind)? };
        Ok(to)
    }

    /// Normalises `m` rows and packs them for products: int8 for packed matrices, or the values that a type leaves.
    pub(super) fn norm(
        &self,
        x: u64,
        weight: Option<usize>,
        split: Split,
        m: usize,
        activation: ActivationType,
        packed: bool,
    ) -> Result<()> {
        let b = self.buffers;
        if packed {
            if self.team.is_some() && m >= MANY && split.slice.is_multiple_of(64) {
                return self.quantize_together(x, weight, split, m);
            }
            let weight = weight.map_or(0, |at| self.model.vectors.address(at));
            return self.norm_row(x, weight, split, m, 1, b.quants.at);
        }
        self.norm_at(
            x,
            weight.map_or(0, |at| self.model.vectors.address(at)),
            split,
            m,
            activation,
            b.values.at,
        )
    }

    pub(super) fn norm_at(
        &self,
        x: u64,
        weight: u64,
        split: Split,
        m: usize,
        activation: ActivationType,
        out: u64,
    ) -> Result<()> {
        let packing = match activation {
            ActivationType::F32 => 0,
            ActivationType::F16 => 2,
            ActivationType::BF16 => 3,
            ActivationType::I8Token => 4,
            ActivationType::Q8_0 | ActivationType::Q8_1 => 5,
            ActivationType::Q8K => 6,
        };
        self.norm_row(x, weight, split, m, packing, out)
    }

    /// As the norm of packed rows, of many rows: ranks quantize their own columns, and quants are gathered (kernels/team.cu).
    fn quantize_together(&self, x: u64, weight: Option<usize>, split: Split, m: usize) -> Result<()> {
        let (b, shard) = (self.buffers, &self.model.shard);
        let here = split.range(shard.rank);
        let params = TeamRows {
            x,
            weight: weight.map_or(0, |at| self.model.vectors.at + 4 * (at + here.start) as u64),
            part: b.parts.at,
            parts: b.parts.address(m * PART),
            quants: b.slice_quants.at,
            slices: b.gathered.at,
            rows: b.quants.at,
            scales: b.token_scales.at,
            sums: b.sums.at,
            width: split.total as i32,
            slice: split.slice as i32,
            columns: here.len() as i32,
            ranks: shard.ranks as i32,
            eps: self.model.config.rms_eps,
            spare: 0,
        };
        let shape = Shape::new((m, 1, 1), 256, 0);
        self.launch("team_stats", shape, &params)?;
        self.gather(params.part, 2 * PART * m, params.parts)?;
        self.launch("team_quantize", shape, &params)?;
        self.gather_kind(params.quants, m * split.slice, params.slices, Kind::Byte)?;
        self.launch("team_collect", shape, &params)
    }

    /// Gathers `m` rows of which every device has some columns, norms and packs them.
    fn norm_row(&self, x: u64, weight: u64, split: Split, m: usize, packing: i32, out: u64) -> Result<()> {
        let (b, width) = (self.buffers, split.total);
        let params = NormRow {
            x: self.gather(x, m * split.slice, b.gathered.at)?,
            weight,
            quants: out,
            scales: if packing >= 5 { b.steps.at } else { b.token_scales.at },
            sums: b.sums.at,
            values: out,
            offsets: if packing == 5 { b.offsets.at } else { 0 },
            width: width as i32,
            packing,
            eps: self.model.config.rms_eps,
            slice: if self.team.is_some() { split.slice as i32 } else { 0 },
        };
        let threads = if width > 4096 {
            1024
        } else if width > 1024 {
            512
        } else {
            256
        };
        self.launch("norm_row", Shape::new((m, 1, 1), threads, 4 * width), &params)
    }
}
