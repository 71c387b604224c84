//! What every AVX2 kernel shares: loads, scale broadcasts, horizontal sums, and the walk over a tile.
//!
//! Loads take references to byte arrays of exactly the vector's size, so the only unsafe code of the kernels
//! is here. Everything needs AVX2, FMA and F16C; the functions that start a kernel are reached only through
//! the table, whose users have checked the CPU.

use crate::kernels::Tile;
use crate::quant::blocks::{Block, F16};
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load256<B: Block>(bytes: &B) -> __m256i {
    const { assert!(size_of::<B>() == 32) };
    // SAFETY: the reference covers the 32 bytes read; an unaligned load needs no more.
    unsafe { _mm256_loadu_si256((&raw const *bytes).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load128<B: Block>(bytes: &B) -> __m128i {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: the reference covers the 16 bytes read; an unaligned load needs no more.
    unsafe { _mm_loadu_si128((&raw const *bytes).cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_f32(values: &[f32; 8]) -> __m256 {
    // SAFETY: the reference covers the eight floats read.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store_f32(values: &mut [f32; 8], value: __m256) {
    // SAFETY: the exclusive reference covers the eight floats written.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store256<B: Block>(bytes: &mut B, value: __m256i) {
    const { assert!(size_of::<B>() == 32) };
    // SAFETY: the exclusive reference covers the 32 bytes written.
    unsafe { _mm256_storeu_si256((&raw mut *bytes).cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn store128<B: Block>(bytes: &mut B, value: __m128i) {
    const { assert!(size_of::<B>() == 16) };
    // SAFETY: the exclusive reference covers the 16 bytes written.
    unsafe { _mm_storeu_si128((&raw mut *bytes).cast(), value) }
}

/// A half float in all eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast(value: F16) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(value.0)))
}

/// Two half floats in alternate lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn broadcast_pair(even: F16, odd: F16) -> __m256 {
    let [a, b] = even.0;
    let [c, d] = odd.0;
    _mm256_cvtph_ps(_mm_set1_epi32(i32::from_le_bytes([a, b, c, d])))
}

/// As the scalar `Lanes::sum`: halves are added twice, then the last pair.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_lanes(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Adds neighbouring 16-bit integers into eight 32-bit lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(pairs: __m256i) -> __m256i {
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

/// Sum of eight 32-bit integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_i32(lanes: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b01>(two)))
}

/// `N` packed rows from row `first` of `bytes`, `stride` bytes each.
#[inline(always)]
pub(super) fn rows<const N: usize>(bytes: &[u8], stride: usize, first: usize) -> [&[u8]; N] {
    std::array::from_fn(|i| &bytes[(first + i) * stride..][..stride])
}

/// Stores a block of results at (row, activation) of the tile's output, whose rows have `count` entries.
#[inline(always)]
pub(super) fn put<const R: usize, const N: usize>(
    out: &mut [f32],
    count: usize,
    (row, activation): (usize, usize),
    values: [[f32; N]; R],
) {
    for (r, values) in values.iter().enumerate() {
        out[(row + r) * count + activation..][..N].copy_from_slice(values);
    }
}

/// Number of (weight rows, activation rows) in a tile.
#[inline(always)]
pub(super) fn shape(tile: &Tile<'_>) -> (usize, usize) {
    let shape = (tile.weights.len() / tile.row_bytes, tile.activations.len() / tile.activation_bytes);
    assert_eq!(shape.0 * shape.1, tile.out.len());
    shape
}

/// The largest multiple of `step` up to `n`.
#[inline(always)]
pub(super) fn whole(n: usize, step: usize) -> usize {
    n - n % step
}

/// Bytes between the weights in use and those being fetched: short rows in groups of four are a pattern that
/// the hardware does not follow by itself.
const PREFETCH_DISTANCE: usize = 4096;

/// Fetches the `len` bytes that lie [`PREFETCH_DISTANCE`] after the start of row `row` into the cache.
#[inline(always)]
pub(super) fn prefetch(tile: &Tile<'_>, row: usize, len: usize) {
    let start = tile.weights.as_ptr().wrapping_add(row * tile.row_bytes + PREFETCH_DISTANCE);
    for offset in (0..len).step_by(64) {
        // SAFETY: a prefetch of any address, mapped or not, has no effect but on the cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset).cast()) };
    }
}

/// Fetches what a kernel that walks along repacked weights from `bytes` on reads soon, a line at each of two distances: far
/// ahead into the second-level cache, since the hardware follows a stream for less than memory takes on a busy machine, and near
/// ahead into the first.
#[inline(always)]
pub(super) fn fetch_ahead(bytes: *const u8) {
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on the cache.
    unsafe {
        _mm_prefetch::<_MM_HINT_T1>(bytes.wrapping_add(8192).cast());
        _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(1024).cast());
    }
}

/// Defines the kernel `$name` (AVX2 unless `$features` are given) from
/// `$dot::<R, N>(rows, activations, tensor_scale) -> [[f32; N]; R]`: the tile is
/// cut into blocks of `$r` rows by `$n` activations and what is left over. Blocks only share loads and
/// unpacking: each pair has its own accumulator, so its result does not depend on the block it is in.
macro_rules! tile_kernel {
    ($name:ident = $dot:ident, $r:literal x $n:literal) => {
        tile_kernel!($name = $dot, $r x $n, "avx2,fma,f16c");
    };
    ($name:ident = $dot:ident, $r:literal x $n:literal, $features:literal) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(tile: &mut Tile<'_>) {
            let (rows, count) = shape(tile);
            let (row_bytes, activation_bytes, scale) = (tile.row_bytes, tile.activation_bytes, tile.tensor_scale);
            macro_rules! block {
                ($rr:literal x $nn:literal at $row:expr, $activation:expr) => {{
                    let weights = simd::rows::<$rr>(tile.weights, row_bytes, $row);
                    let activations = simd::rows::<$nn>(tile.activations, activation_bytes, $activation);
                    put(tile.out, count, ($row, $activation), $dot::<$rr, $nn>(weights, activations, scale));
                    tile.done += $rr * $nn;
                }};
            }
            let (row_end, activation_end) = (whole(rows, $r), whole(count, $n));
            for row in (0..row_end).step_by($r) {
                simd::prefetch(tile, row, $r * row_bytes);
                (0..activation_end).step_by($n).for_each(|a| block!($r x $n at row, a));
                (activation_end..count).for_each(|a| block!($r x 1 at row, a));
            }
            for row in row_end..rows {
                (0..activation_end).step_by($n).for_each(|a| block!(1 x $n at row, a));
                (activation_end..count).for_each(|a| block!(1 x 1 at row, a));
            }
        }
    };
}
pub(super) use tile_kernel;
