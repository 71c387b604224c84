//! Looking at intermediate results.
//!
//! In: nothing where nobody looks. Out: every [`TapPoint`] of the graph as rows of f32. Deliberately absent: files
//! and formats; the caller decides what becomes of a value.

use bitforge_schema::protocol::TapPoint;

/// One intermediate result of a chunk of positions.
pub struct Tapped<'a> {
    pub point: TapPoint,
    /// `None` outside the layers.
    pub layer: Option<usize>,
    /// Position of the first row.
    pub position: usize,
    /// Elements of a row.
    pub width: usize,
    /// [rows, width].
    pub values: &'a [f32],
}

/// Sees every intermediate result, in the order of evaluation within a chunk.
pub type TapSink<'a> = &'a mut (dyn FnMut(&Tapped<'_>) + 'a);

/// The same sink for a shorter time.
pub(super) fn reborrow<'b>(taps: &'b mut Option<TapSink<'_>>) -> Option<TapSink<'b>> {
    // Not `map`: only here does the compiler shorten the lifetime of the trait object.
    match taps {
        Some(taps) => Some(&mut **taps),
        None => None,
    }
}
