//! One call of a kernel whose weights were repacked in groups of sixteen rows (see [`crate::quant::panels`]).

use crate::quant::panels::{ROWS, Scales};
use std::marker::PhantomData;

/// Some groups of weight rows times some activation rows.
pub struct PanelTile<'a> {
    /// Weights per row.
    pub k: usize,
    /// Whole groups of sixteen rows, `group_bytes` each; the last may stand for fewer rows than that.
    pub weights: &'a [u8],
    pub group_bytes: usize,
    /// Packed activation rows, `activation_bytes` each.
    pub activations: &'a [u8],
    pub activation_bytes: usize,
    pub scales: Scales<'a>,
    pub out: Columns<'a>,
    /// Memory of this thread, at least [`crate::quant::panels::Layout::scratch_bytes`]; its contents do not matter.
    pub scratch: &'a mut [u8],
    /// Dot products written; kernels add to it where they write them.
    pub done: u64,
}

impl PanelTile<'_> {
    /// Number of (groups, activation rows); panics where the parts do not fit each other.
    #[inline(always)]
    pub fn shape(&self) -> (usize, usize) {
        let shape = (self.weights.len() / self.group_bytes, self.activations.len() / self.activation_bytes);
        assert_eq!((shape.0, shape.1), (self.out.rows.div_ceil(ROWS), self.out.count));
        shape
    }
}

/// Columns `0..rows` of a row-major matrix [count, stride] of results that other threads fill elsewhere.
pub struct Columns<'a> {
    start: *mut f32,
    stride: usize,
    rows: usize,
    count: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> Columns<'a> {
    /// All of `out` [count, rows].
    pub fn whole(out: &'a mut [f32], rows: usize) -> Self {
        assert!(rows > 0 && out.len().is_multiple_of(rows));
        let count = out.len() / rows;
        Columns { start: out.as_mut_ptr(), stride: rows, rows, count, lifetime: PhantomData }
    }

    /// # Safety
    /// For every `a < count` the `rows` floats from `start + a * stride` on are writable for `'a`, and nothing else
    /// reads or writes them in that time.
    pub unsafe fn new(start: *mut f32, stride: usize, rows: usize, count: usize) -> Self {
        assert!(rows <= stride);
        Columns { start, stride, rows, count, lifetime: PhantomData }
    }

    /// The results of activation row `activation` for weight rows from `first` on, sixteen at most.
    #[inline(always)]
    pub fn at(&mut self, activation: usize, first: usize) -> &mut [f32] {
        assert!(activation < self.count && first < self.rows);
        let len = (self.rows - first).min(ROWS);
        // SAFETY: `first + len <= rows` and `activation < count`, so these floats are ours (see `new`), and the result
        // borrows `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(activation * self.stride + first), len) }
    }

    /// The last result.
    pub fn last_mut(&mut self) -> Option<&mut f32> {
        let (count, rows) = (self.count.checked_sub(1)?, self.rows.checked_sub(1)?);
        self.at(count, rows).last_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_parts_of_rows() {
        let mut out = vec![0.0; 3 * 40];
        // SAFETY: columns 7..7 + 20 of three rows of 40 lie inside `out`, which is not used before the end of `columns`.
        let mut columns = unsafe { Columns::new(out.as_mut_ptr().add(7), 40, 20, 3) };
        columns.at(1, 16).fill(1.0);
        columns.at(2, 0).fill(2.0);
        *columns.last_mut().unwrap() = 3.0;
        let set = |range: std::ops::Range<usize>| out[range].to_vec();
        assert_eq!(set(40 + 23..40 + 27), [1.0; 4]);
        assert_eq!(set(80 + 7..80 + 23), [2.0; 16]);
        assert_eq!((out[80 + 26], out.iter().filter(|v| **v != 0.0).count()), (3.0, 21));
    }

    #[test]
    #[should_panic(expected = "first < self.rows")]
    fn rows_that_do_not_exist_are_refused() {
        Columns::whole(&mut [0.0; 32], 16).at(0, 16);
    }
}
