//! Weights repacked when a model is loaded: sixteen rows side by side, so that one vector register holds the same
//! few columns of sixteen rows, and one multiply-add works on all of them.
//!
//! In: packed rows as they lie in a file. Out: groups of sixteen rows in a [`Layout`]. Rows that do not exist fill up
//! the last group; their results are never written. Repacking loses nothing: what a layout cannot hold (a ternary code
//! of 3, blocks of one row with different scales) is refused, and the rows stay as they are in the file. See
//! docs/explanation/kernels.md for drawings. Deliberately absent: threads (the caller hands out groups).

mod aligned;
mod nibbles;
mod ternary;

pub use aligned::{AlignedBytes, advise_huge_pages};

use crate::quant::blocks::{BlockQ4_0, BlockQ4_1, BlockQ8_0};
use crate::tensor::TensorType;

/// Activation rows that kernels of 32-weight blocks prepare together, and bytes per block of each: two floats and eight
/// sums.
pub(crate) const PREPARED_TOKENS: usize = 8;
pub(crate) const PREPARED_BLOCK: usize = 2 * 4 + 8 * 4;

/// Memory for the sums that AMX leaves: of 512 activation rows with two groups.
pub(crate) const SUMS_BYTES: usize = 512 * 2 * ROWS * 4;

/// Rows of a group.
pub const ROWS: usize = 16;

/// How sixteen rows lie in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// Ternary, five weights in a byte (1.6 bits each): 64 bytes hold 20 columns of 16 rows. Byte 4r + j is
    /// t0 + 3 t1 + 9 t2 + 27 t3 + 81 t4, where ti is the code (0, 1, 2) of row r and column 4i + j.
    Trits,
    /// Ternary, four weights in a byte: 64 bytes hold 16 columns of 16 rows. Byte 4r + j has the code of row r and
    /// column 4i + j at bits 2i and 2i + 1.
    Codes,
    /// Q4_0 (32 weights): sixteen scales d, then four times 64 bytes of nibbles; byte 4r + j of run v has elements
    /// 4v + j (low) and 16 + 4v + j (high) of row r.
    Q4_0,
    /// Q4_1: as Q4_0, with sixteen minima m after the scales.
    Q4_1,
    /// Q8_0: sixteen scales d, then eight times 64 bytes; byte 4r + j of run v is 128 + element 4v + j of row r.
    Q8_0,
}

/// The scales of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scales<'a> {
    /// One for the whole tensor.
    Tensor(f32),
    /// One per row, whole groups of sixteen.
    Rows(&'a [f32]),
}

/// What a layout cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotHold;

impl Layout {
    pub const ALL: [Layout; 5] = [Layout::Trits, Layout::Codes, Layout::Q4_0, Layout::Q4_1, Layout::Q8_0];

    pub const fn name(self) -> &'static str {
        match self {
            Layout::Trits => "16 rows x 20 trits",
            Layout::Codes => "16 rows x 16 codes",
            Layout::Q4_0 => "16 rows of Q4_0",
            Layout::Q4_1 => "16 rows of Q4_1",
            Layout::Q8_0 => "16 rows of Q8_0",
        }
    }

    /// Bytes of a group of sixteen rows of `columns` weights.
    pub const fn group_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits => columns.div_ceil(20) * 64,
            Layout::Codes => columns.div_ceil(16) * 64,
            Layout::Q4_0 => columns.div_ceil(32) * nibbles::block_bytes::<BlockQ4_0>(),
            Layout::Q4_1 => columns.div_ceil(32) * nibbles::block_bytes::<BlockQ4_1>(),
            Layout::Q8_0 => columns.div_ceil(32) * nibbles::block_bytes::<BlockQ8_0>(),
        }
    }

    /// Memory that a kernel of this layout needs per thread.
    pub const fn scratch_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits | Layout::Codes => {
                ternary::PANEL_GROUPS * ROWS * columns.next_multiple_of(20) + SUMS_BYTES
            }
            Layout::Q4_0 | Layout::Q4_1 | Layout::Q8_0 => {
                PREPARED_TOKENS * PREPARED_BLOCK * columns.div_ceil(32)
            }
        }
    }

    /// The scale of one packed row of type `ty`.
    ///
    /// # Errors
    /// The blocks of the row have different scales.
    pub fn row_scale(self, ty: TensorType, row: &[u8], tensor_scale: f32) -> Result<f32, CannotHold> {
        match self {
            Layout::Trits | Layout::Codes => ternary::row_scale(ty, row, tensor_scale),
            Layout::Q4_0 | Layout::Q4_1 | Layout::Q8_0 => Ok(tensor_scale),
        }
    }

    /// Repacks up to sixteen rows of `row_bytes` each into `group`; `codes` is memory for a group's weights,
    /// [`Self::codes_bytes`].
    ///
    /// # Errors
    /// The rows hold something that the layout does not.
    pub fn pack(
        self,
        ty: TensorType,
        rows: &[u8],
        row_bytes: usize,
        codes: &mut [u8],
        group: &mut [u8],
    ) -> Result<(), CannotHold> {
        match self {
            Layout::Trits => return ternary::pack::<5>(ty, rows, row_bytes, codes, group),
            Layout::Codes => return ternary::pack::<4>(ty, rows, row_bytes, codes, group),
            Layout::Q4_0 => nibbles::pack::<BlockQ4_0>(rows, row_bytes, group),
            Layout::Q4_1 => nibbles::pack::<BlockQ4_1>(rows, row_bytes, group),
            Layout::Q8_0 => nibbles::pack::<BlockQ8_0>(rows, row_bytes, group),
        }
        Ok(())
    }

    /// Memory that [`Self::pack`] needs.
    pub const fn codes_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits => ROWS * columns.next_multiple_of(20),
            Layout::Codes => ROWS * columns.next_multiple_of(16),
            Layout::Q4_0 | Layout::Q4_1 | Layout::Q8_0 => 0,
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use ternary::PANEL_GROUPS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_layouts_by_hand() {
        assert_eq!(SUMS_BYTES, 65_536);
        let ternary = ternary::PANEL_GROUPS * 16 * 40 + 65_536;
        // Forty bytes for each of two blocks of 32 columns, of eight tokens.
        let prepared = 640;
        for (layout, name, group, scratch) in [
            (Layout::Trits, "16 rows x 20 trits", 128, ternary),
            (Layout::Codes, "16 rows x 16 codes", 192, ternary),
            (Layout::Q4_0, "16 rows of Q4_0", 2 * 16 * 18, prepared),
            (Layout::Q4_1, "16 rows of Q4_1", 2 * 16 * 20, prepared),
            (Layout::Q8_0, "16 rows of Q8_0", 2 * 16 * 34, prepared),
        ] {
            assert_eq!(
                (layout.name(), layout.group_bytes(40), layout.scratch_bytes(40)),
                (name, group, scratch)
            );
        }
    }
}
