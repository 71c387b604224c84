//! AVX2 and AVX-VNNI products of ternary weights repacked in sixteens ([`Layout::Codes`]) with per-token int8 activations.
//!
//! A vector holds four columns of eight rows; it is multiplied with the same four activations broadcast. Codes count
//! 0, 1, 2, and the sum of the activations is taken off at the end. AVX2 adds products in pairs to 16-bit lanes: a pair
//! is at most 2 * 2 * 128 = 512 in magnitude, so that [`STEPS`] of them fit before they are widened. AVX-VNNI adds
//! fours to 32-bit lanes, which only saves instructions.
//!
//! [`Layout::Codes`]: crate::quant::panels::Layout::Codes

use super::simd::*;
use crate::kernels::PanelTile;
use crate::quant::activation::i8_token_parts;
use crate::quant::panels::{ROWS, Scales};
use std::arch::x86_64::*;

/// Products that may be added in 16 bits: 63 * 512 < 2^15.
const STEPS: usize = 60;
const _: () = assert!(STEPS * 512 < 1 << 15);

/// Defines `$name(tile)` and what it consists of under `$features`: `$multiply_add(sum, codes, activations)` adds
/// products to narrow lanes, and `$widen_add(wide, narrow)` narrow lanes to 32-bit ones.
macro_rules! codes {
    ($name:ident, $features:literal, $multiply_add:ident, $widen_add:ident) => {
        pub(super) mod $name {
            use super::*;

            #[target_feature(enable = $features)]
            pub(in super::super) fn codes(tile: &mut PanelTile<'_>) {
                let (groups, count) = tile.shape();
                if count == 1 {
                    return one(tile);
                }
                for group in 0..groups {
                    unpack(&tile.weights[group * tile.group_bytes..][..tile.group_bytes], tile.scratch);
                    let mut start = 0;
                    while start < count {
                        match count - start {
                            1 => multiply::<1>(tile, group, start),
                            2 => multiply::<2>(tile, group, start),
                            3 => multiply::<3>(tile, group, start),
                            _ => multiply::<4>(tile, group, start),
                        }
                        start += 4;
                    }
                }
            }

            /// One activation row: fields are taken apart on the fly, each with a sum of its own.
            #[target_feature(enable = $features)]
            fn one(tile: &mut PanelTile<'_>) {
                let (token_scale, sum, quants) = i8_token_parts(tile.activations);
                let quants = quants.as_chunks::<4>().0.as_chunks::<4>().0;
                for (g, group) in tile.weights.chunks_exact(tile.group_bytes).enumerate() {
                    let mut wide = [_mm256_setzero_si256(); 2];
                    let group = group.as_chunks::<32>().0.as_chunks::<2>().0;
                    assert_eq!(group.len(), quants.len());
                    for (group, quants) in group.chunks(STEPS).zip(quants.chunks(STEPS)) {
                        let mut narrow = [[_mm256_setzero_si256(); 4]; 2];
                        for (bytes, quants) in group.iter().zip(quants) {
                            fetch_ahead(bytes[0].as_ptr());
                            let halves = [fields(load256(&bytes[0])), fields(load256(&bytes[1]))];
                            for i in 0..4 {
                                let quants = _mm256_set1_epi32(i32::from_le_bytes(quants[i]));
                                for h in 0..2 {
                                    narrow[h][i] = $multiply_add(narrow[h][i], halves[h][i], quants);
                                }
                            }
                        }
                        for h in 0..2 {
                            for i in 0..4 {
                                wide[h] = $widen_add(wide[h], narrow[h][i]);
                            }
                        }
                    }
                    put(tile, g, 0, wide, (token_scale, sum));
                }
            }

            /// An unpacked group times `T` activation rows from `start` on.
            #[target_feature(enable = $features)]
            fn multiply<const T: usize>(tile: &mut PanelTile<'_>, group: usize, start: usize) {
                let parts: [_; T] = std::array::from_fn(|t| {
                    i8_token_parts(
                        &tile.activations[(start + t) * tile.activation_bytes..][..tile.activation_bytes],
                    )
                });
                let words = tile.k / 4;
                let quants = parts.map(|(_, _, quants)| &quants.as_chunks::<4>().0[..words]);
                let vectors = &tile.scratch.as_chunks::<32>().0.as_chunks::<2>().0[..words];
                let mut wide = [[_mm256_setzero_si256(); 2]; T];
                for first in (0..words).step_by(STEPS) {
                    let mut narrow = [[_mm256_setzero_si256(); 2]; T];
                    for i in first..words.min(first + STEPS) {
                        let codes = [load256(&vectors[i][0]), load256(&vectors[i][1])];
                        for t in 0..T {
                            let quants = _mm256_set1_epi32(i32::from_le_bytes(quants[t][i]));
                            for h in 0..2 {
                                narrow[t][h] = $multiply_add(narrow[t][h], codes[h], quants);
                            }
                        }
                    }
                    for t in 0..T {
                        for h in 0..2 {
                            wide[t][h] = $widen_add(wide[t][h], narrow[t][h]);
                        }
                    }
                }
                for t in 0..T {
                    put(tile, group, start + t, wide[t], (parts[t].0, parts[t].1));
                }
            }
        }
    };
}

codes!(avx2, "avx2,fma,f16c", add_pairs, widen_add_pairs);
codes!(avx_vnni, "avx2,fma,f16c,avxvnni", add_fours, add_wide);

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_pairs(sum: __m256i, codes: __m256i, quants: __m256i) -> __m256i {
    _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, quants))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen_add_pairs(wide: __m256i, narrow: __m256i) -> __m256i {
    _mm256_add_epi32(wide, widen(narrow))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn add_fours(sum: __m256i, codes: __m256i, quants: __m256i) -> __m256i {
    _mm256_dpbusd_avx_epi32(sum, codes, quants)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn add_wide(wide: __m256i, narrow: __m256i) -> __m256i {
    _mm256_add_epi32(wide, narrow)
}

/// The codes of columns 4i..4i + 4 of a step, for eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fields(bytes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

/// The codes of a group: 64 bytes are four columns of sixteen rows.
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack(group: &[u8], codes: &mut [u8]) {
    let codes = codes.as_chunks_mut::<32>().0;
    for (step, bytes) in group.as_chunks::<32>().0.iter().enumerate() {
        for (i, vector) in fields(load256(bytes)).into_iter().enumerate() {
            store256(&mut codes[step / 2 * 8 + 2 * i + step % 2], vector);
        }
    }
}

/// Writes the results of a group for one activation row: (sum over codes - sum of the activations) / token scale, times
/// the rows' scales, in this order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn put(
    tile: &mut PanelTile<'_>,
    group: usize,
    activation: usize,
    sums: [__m256i; 2],
    (token_scale, sum): (f32, i32),
) {
    let mut values = [0.0; ROWS];
    for (h, out) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let dots = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[h], _mm256_set1_epi32(sum)));
        let scale = match tile.scales {
            Scales::Tensor(scale) => _mm256_set1_ps(scale),
            Scales::Rows(scales) => load_f32(&scales.as_chunks::<8>().0[2 * group + h]),
        };
        store_f32(out, _mm256_mul_ps(_mm256_div_ps(dots, _mm256_set1_ps(token_scale)), scale));
    }
    let out = tile.out.at(activation, group * ROWS);
    out.copy_from_slice(&values[..out.len()]);
    tile.done += out.len() as u64;
}
