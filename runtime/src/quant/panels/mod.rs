//! Weights repacked when a model is loaded: sixteen rows side by side, so that one vector register holds the same
//! few columns of sixteen rows, and one multiply-add works on all of them.
//!
//! In: packed rows as they lie in a file. Out: groups of sixteen rows in a [`Layout`]. Rows that do not exist fill up
//! the last group; their results are never written. Repacking loses nothing: what a layout cannot hold (a ternary code
//! of 3, blocks of one row with different scales) is refused, and the rows stay as they are in the file. See
//! docs/explanation/kernels.md for drawings. Deliberately absent: threads (the caller hands out groups).

mod aligned;
mod ternary;

pub use aligned::AlignedBytes;

use crate::tensor::TensorType;

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
    pub const ALL: [Layout; 2] = [Layout::Trits, Layout::Codes];

    pub const fn name(self) -> &'static str {
        match self {
            Layout::Trits => "16 rows x 20 trits",
            Layout::Codes => "16 rows x 16 codes",
        }
    }

    /// Bytes of a group of sixteen rows of `columns` weights.
    pub const fn group_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits => columns.div_ceil(20) * 64,
            Layout::Codes => columns.div_ceil(16) * 64,
        }
    }

    /// Memory that a kernel of this layout needs per thread.
    pub const fn scratch_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits | Layout::Codes => ternary::PANEL_GROUPS * ROWS * columns.next_multiple_of(20),
        }
    }

    /// The scale of one packed row of type `ty`.
    ///
    /// # Errors
    /// The blocks of the row have different scales.
    pub fn row_scale(self, ty: TensorType, row: &[u8], tensor_scale: f32) -> Result<f32, CannotHold> {
        match self {
            Layout::Trits | Layout::Codes => ternary::row_scale(ty, row, tensor_scale),
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
            Layout::Trits => ternary::pack::<5>(ty, rows, row_bytes, codes, group),
            Layout::Codes => ternary::pack::<4>(ty, rows, row_bytes, codes, group),
        }
    }

    /// Memory that [`Self::pack`] needs.
    pub const fn codes_bytes(self, columns: usize) -> usize {
        match self {
            Layout::Trits => ROWS * columns.next_multiple_of(20),
            Layout::Codes => ROWS * columns.next_multiple_of(16),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use ternary::PANEL_GROUPS;
