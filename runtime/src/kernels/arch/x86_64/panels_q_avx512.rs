//! AVX-512 products of Q4_0, Q4_1 and Q8_0 rows repacked in sixteens.
//!
//! The definition keeps eight float sums per row, sum l taking the four products of word l of every block with one
//! fused multiply-add. Here sixteen rows are the lanes of a vector, and the eight sums eight vectors: same integers,
//! same floats, same order, so the same bits. Unsigned quants stand for signed ones by an offset of 8 or 128, which is
//! taken off by what a sum starts with: minus the offset times the sum of the four activations.
//!
//! A group meets up to [`PREPARED_TOKENS`] activation rows before the next, two at a time (their sixteen sums stay in
//! registers), and the next group is fetched meanwhile: reading weights and multiplying take place at once, not one after
//! the other.

use super::simd512::*;
use crate::kernels::PanelTile;
use crate::quant::blocks::*;
use crate::quant::panels::{PREPARED_BLOCK, PREPARED_TOKENS};
use std::arch::x86_64::*;

/// What one activation row and block comes to: its scale, its sum times the scale (Q8_1), and what sums start with.
#[derive(Clone, Copy)]
#[repr(C)]
struct Prepared {
    d: [u8; 4],
    s: [u8; 4],
    start: [[u8; 4]; 8],
}

const _: () = assert!(size_of::<Prepared>() == PREPARED_BLOCK && align_of::<Prepared>() == 1);
// SAFETY: `repr(C)` over bytes; the assertion above shows that nothing is padded.
unsafe impl Block for Prepared {}

/// Activations in blocks of 32.
trait Activation: Block {
    fn parts(&self) -> (F16, F16, &[i8; 32]);
}

impl Activation for BlockQ8_0 {
    fn parts(&self) -> (F16, F16, &[i8; 32]) {
        (self.d, F16([0; 2]), &self.qs)
    }
}

impl Activation for BlockQ8_1 {
    fn parts(&self) -> (F16, F16, &[i8; 32]) {
        (self.d, self.s, &self.qs)
    }
}

/// Defines the kernel `$name` for groups whose blocks have `$halves` sixteens of halves (a scale, a minimum) and
/// `$runs` runs of 64 bytes; `$codes(run, l)` are the quants of word l.
macro_rules! kernel {
    ($name:ident: $activation:ty, halves $halves:literal, runs $runs:literal, offset $offset:literal, $codes:ident) => {
        pub(super) mod $name {
            use super::*;

            type Bytes = [[u8; 32]; $halves + 2 * $runs];

            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
            pub(in super::super) fn run(tile: &mut PanelTile<'_>) {
                let (groups, count) = tile.shape();
                for start in (0..count).step_by(PREPARED_TOKENS) {
                    let tokens = PREPARED_TOKENS.min(count - start);
                    for t in 0..tokens {
                        prepare(tile, start + t, t);
                    }
                    for group in 0..groups {
                        for t in (0..tokens).step_by(2) {
                            // Every pass over this group fetches its part of the next.
                            let part = tile.group_bytes / tokens.div_ceil(2);
                            let ahead = (group + 1) * tile.group_bytes + t / 2 * part;
                            match tokens - t {
                                1 => multiply::<1>(tile, group, (start, t), (ahead, part)),
                                _ => multiply::<2>(tile, group, (start, t), (ahead, part)),
                            }
                        }
                    }
                }
            }

            fn prepare(tile: &mut PanelTile<'_>, activation: usize, t: usize) {
                let row = &tile.activations[activation * tile.activation_bytes..][..tile.activation_bytes];
                let row = blocks::<$activation>(row);
                let out = blocks_mut::<Prepared>(
                    &mut tile.scratch[t * row.len() * PREPARED_BLOCK..][..row.len() * PREPARED_BLOCK],
                );
                for (block, out) in row.iter().zip(out) {
                    let (d, s, quants) = block.parts();
                    let start = |l: usize| {
                        -$offset * quants[4 * l..4 * l + 4].iter().map(|q| i32::from(*q)).sum::<i32>()
                    };
                    out.d = d.get().to_le_bytes();
                    out.s = s.get().to_le_bytes();
                    if $offset != 0 {
                        out.start = std::array::from_fn(|l| start(l).to_le_bytes());
                    }
                }
            }

            /// A group times `T` activation rows from `first` of those on that are prepared from `start` on. Fetches
            /// `part` bytes of weights from byte `ahead` on.
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
            fn multiply<const T: usize>(
                tile: &mut PanelTile<'_>,
                group: usize,
                (start, first): (usize, usize),
                (ahead, part): (usize, usize),
            ) {
                let weights = tile.weights[group * tile.group_bytes..][..tile.group_bytes]
                    .as_chunks::<{ size_of::<Bytes>() }>()
                    .0;
                let count = weights.len();
                let quants: [_; T] = std::array::from_fn(|t| {
                    let row = &tile.activations[(start + first + t) * tile.activation_bytes..]
                        [..tile.activation_bytes];
                    &blocks::<$activation>(row)[..count]
                });
                let prepared: [_; T] = std::array::from_fn(|t| {
                    let bytes =
                        &tile.scratch[(first + t) * count * PREPARED_BLOCK..][..count * PREPARED_BLOCK];
                    &blocks::<Prepared>(bytes)[..count]
                });
                let mut acc = [[_mm512_setzero_ps(); 8]; T];
                let mut minima = [_mm512_setzero_ps(); T];
                let (next, step) = (tile.weights.as_ptr().wrapping_add(ahead), part / count);
                for b in 0..count {
                    for line in (0..step).step_by(64) {
                        prefetch(next.wrapping_add(b * step + line));
                    }
                    let (halves, runs) = weights[b].split_at(32 * $halves);
                    let (halves, runs) = (halves.as_chunks::<32>().0, runs.as_chunks::<64>().0);
                    let d = _mm512_cvtph_ps(super::super::simd::load256(&halves[0]));
                    let mut scales = [d; T];
                    for t in 0..T {
                        scales[t] = _mm512_mul_ps(d, _mm512_set1_ps(f32::from_le_bytes(prepared[t][b].d)));
                    }
                    if $halves == 2 {
                        let m = _mm512_cvtph_ps(super::super::simd::load256(&halves[$halves - 1]));
                        for t in 0..T {
                            let s = _mm512_set1_ps(f32::from_le_bytes(prepared[t][b].s));
                            minima[t] = _mm512_fmadd_ps(m, s, minima[t]);
                        }
                    }
                    for l in 0..8 {
                        let codes = $codes(&runs[l % $runs], l);
                        for t in 0..T {
                            let start = match $offset {
                                0 => _mm512_setzero_si512(),
                                _ => broadcast4(&prepared[t][b].start[l]),
                            };
                            let quants = quants[t][b].qs.as_chunks::<4>().0[l].map(|q| q as u8);
                            let lanes = _mm512_dpbusd_epi32(start, codes, broadcast4(&quants));
                            acc[t][l] = _mm512_fmadd_ps(scales[t], _mm512_cvtepi32_ps(lanes), acc[t][l]);
                        }
                    }
                }
                for t in 0..T {
                    let a = &acc[t];
                    let even = _mm512_add_ps(_mm512_add_ps(a[0], a[4]), _mm512_add_ps(a[2], a[6]));
                    let odd = _mm512_add_ps(_mm512_add_ps(a[1], a[5]), _mm512_add_ps(a[3], a[7]));
                    let mut sum = _mm512_add_ps(even, odd);
                    if $halves == 2 {
                        sum = _mm512_add_ps(sum, minima[t]);
                    }
                    let out = tile.out.at(start + first + t, group * crate::quant::panels::ROWS);
                    tile.done += out.len() as u64;
                    store_f32(out, sum);
                }
            }
        }
    };
}

kernel!(q4_0: BlockQ8_0, halves 1, runs 4, offset 8, nibbles);
kernel!(q4_1: BlockQ8_1, halves 2, runs 4, offset 0, nibbles);
kernel!(q8_0: BlockQ8_0, halves 1, runs 8, offset 128, bytes);

/// The low nibbles for words 0 to 3, the high ones for 4 to 7.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn nibbles(run: &[u8; 64], word: usize) -> __m512i {
    let bytes = load512(run);
    let bytes = if word < 4 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
    _mm512_and_si512(bytes, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn bytes(run: &[u8; 64], _: usize) -> __m512i {
    load512(run)
}
