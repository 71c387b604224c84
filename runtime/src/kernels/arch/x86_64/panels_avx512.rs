//! AVX-512 products of ternary weights repacked in sixteens ([`Layout::Trits`]) with per-token int8 activations.
//!
//! A vector holds four columns of sixteen rows; `vpdpbusd` multiplies them with the same four activations broadcast,
//! which leaves one exact sum per row in its 32-bit lane: codes count 0, 1, 2, and the sum of the activations is taken
//! off at the end. One row of activations is bound by reading weights, so trits are taken apart on the fly; from
//! [`FEW`] rows on, 64 weight rows are unpacked once for all of them, and 24 sums stay in registers.
//!
//! [`Layout::Trits`]: crate::quant::panels::Layout::Trits

use super::simd::fetch_ahead;
use super::simd512::*;
use crate::kernels::PanelTile;
use crate::quant::activation::i8_token_parts;
use crate::quant::panels::{PANEL_GROUPS, ROWS, Scales};
use std::arch::x86_64::*;
use std::ops::Range;

/// Activation rows up to which trits are taken apart again for each block of rows.
const FEW: usize = 8;

/// The bytes of the four low trits of 0..=80, as two-bit fields.
static FIELDS: [[u8; 64]; 2] = {
    let mut table = [[0; 64]; 2];
    let mut value = 0;
    while value < 81 {
        let [a, b, c, d] = [value % 3, value / 3 % 3, value / 9 % 3, value / 27];
        table[value / 64][value % 64] = (a | b << 2 | c << 4 | d << 6) as u8;
        value += 1;
    }
    table
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn trits(tile: &mut PanelTile<'_>) {
    let (_, count) = tile.shape();
    match count {
        1 => one(tile),
        2 => few::<2>(tile),
        3 => few::<3>(tile),
        4 => few::<4>(tile),
        5 => few::<5>(tile),
        6 => few::<6>(tile),
        7 => few::<7>(tile),
        FEW => few::<FEW>(tile),
        _ => many(tile),
    }
}

/// The two parts of a vector of bytes: the four low trits as one number 0..=80, and the tables for them.
struct Tables([__m512i; 2]);

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    fn load() -> Self {
        Tables([load512(&FIELDS[0]), load512(&FIELDS[1])])
    }

    /// bytes mod 81: subtracting 81 wraps to something larger, unless the byte is 81 or more.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    fn low(bytes: __m512i) -> __m512i {
        let c81 = _mm512_set1_epi8(81);
        let once = _mm512_min_epu8(bytes, _mm512_sub_epi8(bytes, c81));
        _mm512_min_epu8(once, _mm512_sub_epi8(once, c81))
    }

    /// The codes of columns 0..16 of a step from its low trits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    fn codes(&self, low: __m512i) -> [__m512i; 4] {
        let mask = _mm512_set1_epi8(3);
        let fields = _mm512_permutex2var_epi8(self.0[0], low, self.0[1]);
        [
            _mm512_and_si512(fields, mask),
            _mm512_and_si512(_mm512_srli_epi16::<2>(fields), mask),
            _mm512_and_si512(_mm512_srli_epi16::<4>(fields), mask),
            _mm512_and_si512(_mm512_srli_epi16::<6>(fields), mask),
        ]
    }

    /// The codes of all 20 columns of a step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
    fn all(&self, bytes: __m512i) -> [__m512i; 5] {
        let one = _mm512_set1_epi8(1);
        let [a, b, c, d] = self.codes(Self::low(bytes));
        let top = _mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(81)), one);
        let two = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(162u8 as i8));
        [a, b, c, d, _mm512_mask_add_epi8(top, two, top, one)]
    }
}

/// Activations of whole steps of 20, and a last step filled up with zeros.
#[inline(always)]
fn steps(quants: &[u8]) -> (&[[[u8; 4]; 5]], [[u8; 4]; 5]) {
    let (words, rest) = quants.as_chunks::<4>();
    assert!(rest.is_empty(), "ternary rows are whole blocks");
    let (steps, rest) = words.as_chunks::<5>();
    let mut last = [[0; 4]; 5];
    last[..rest.len()].copy_from_slice(rest);
    (steps, last)
}

/// `81 t4 = byte - low` for every byte, so that the sum over the top trits comes from two sums of products, exactly: a
/// difference that 81 divides is divided by multiplying with the inverse of 81 modulo 2^32.
const INVERSE_OF_81: i32 = 0x7819_48b1;
const _: () = assert!(INVERSE_OF_81.wrapping_mul(81) == 1);

/// One activation row. Six sums run side by side, as one alone would wait for itself.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn one(tile: &mut PanelTile<'_>) {
    let tables = Tables::load();
    let (token_scale, sum, quants) = i8_token_parts(tile.activations);
    let (steps, last) = steps(quants);
    for (g, group) in tile.weights.chunks_exact(tile.group_bytes).enumerate() {
        let mut sums = [_mm512_setzero_si512(); 4];
        let (mut bytes_sum, mut low_sum) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (bytes, quants) in group.as_chunks::<64>().0.iter().zip(steps.iter().chain([&last])) {
            fetch_ahead(bytes.as_ptr());
            let bytes = load512(bytes);
            let low = Tables::low(bytes);
            let top = broadcast4(&quants[4]);
            bytes_sum = _mm512_dpbusd_epi32(bytes_sum, bytes, top);
            low_sum = _mm512_dpbusd_epi32(low_sum, low, top);
            let codes = tables.codes(low);
            for i in 0..4 {
                sums[i] = _mm512_dpbusd_epi32(sums[i], codes[i], broadcast4(&quants[i]));
            }
        }
        let top = _mm512_mullo_epi32(_mm512_sub_epi32(bytes_sum, low_sum), _mm512_set1_epi32(INVERSE_OF_81));
        let pairs = [_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3])];
        let total = _mm512_add_epi32(top, _mm512_add_epi32(pairs[0], pairs[1]));
        put(tile, g, 0, total, (token_scale, sum));
    }
}

/// `T` activation rows, two sums each.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn few<const T: usize>(tile: &mut PanelTile<'_>) {
    let tables = Tables::load();
    let whole = tile.k / 20;
    // Cut to `whole` here: a bounds check in the loop keeps activations from being broadcast as they are loaded.
    let mut quants: [&[[[u8; 4]; 5]]; T] = [&[]; T];
    let (mut last, mut token) = ([[[0; 4]; 5]; T], [(0.0, 0); T]);
    for t in 0..T {
        let row = &tile.activations[t * tile.activation_bytes..][..tile.activation_bytes];
        let (scale, sum, all) = i8_token_parts(row);
        let (of_row, rest) = steps(all);
        (quants[t], last[t], token[t]) = (&of_row[..whole], rest, (scale, sum));
    }
    for (g, group) in tile.weights.chunks_exact(tile.group_bytes).enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 2]; T];
        let (group, rest) = group.as_chunks::<64>().0.split_at(whole);
        for s in 0..whole {
            fetch_ahead(group[s].as_ptr());
            let codes = tables.all(load512(&group[s]));
            for t in 0..T {
                for i in 0..5 {
                    sums[t][i % 2] =
                        _mm512_dpbusd_epi32(sums[t][i % 2], codes[i], broadcast4(&quants[t][s][i]));
                }
            }
        }
        if let [bytes] = rest {
            let codes = tables.all(load512(bytes));
            for t in 0..T {
                for (codes, quants) in codes.iter().zip(&last[t]) {
                    sums[t][0] = _mm512_dpbusd_epi32(sums[t][0], *codes, broadcast4(quants));
                }
            }
        }
        for t in 0..T {
            put(tile, g, t, _mm512_add_epi32(sums[t][0], sums[t][1]), token[t]);
        }
    }
}

/// Any number of activation rows: groups are unpacked in fours, and multiplied with six activation rows at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn many(tile: &mut PanelTile<'_>) {
    let (groups, _) = tile.shape();
    let whole = groups - groups % PANEL_GROUPS;
    (0..whole).step_by(PANEL_GROUPS).for_each(|first| panel::<PANEL_GROUPS>(tile, first, 0));
    (whole..groups).for_each(|first| panel::<1>(tile, first, 0));
}

/// `R` groups from `first` on times all activation rows from `start` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn panel<const R: usize>(tile: &mut PanelTile<'_>, first: usize, start: usize) {
    unpack::<R>(
        &tile.weights[first * tile.group_bytes..][..R * tile.group_bytes],
        0..tile.group_bytes / 64,
        R * tile.group_bytes,
        tile.scratch,
    );
    multiply_block::<R>(tile, first, start);
}

/// `R` unpacked groups times all activation rows from `start` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn multiply_block<const R: usize>(tile: &mut PanelTile<'_>, first: usize, start: usize) {
    let count = tile.activations.len() / tile.activation_bytes - start;
    // Blocks of almost equal size, six at most.
    let blocks = count.div_ceil(6);
    for block in 0..blocks {
        let (from, to) = (start + count * block / blocks, start + count * (block + 1) / blocks);
        match to - from {
            1 => multiply::<R, 1>(tile, first, from),
            2 => multiply::<R, 2>(tile, first, from),
            3 => multiply::<R, 3>(tile, first, from),
            4 => multiply::<R, 4>(tile, first, from),
            5 => multiply::<R, 5>(tile, first, from),
            _ => multiply::<R, 6>(tile, first, from),
        }
    }
}

/// The codes of `R` groups in some of their steps of 20 columns: vector `i * R + r` holds columns 4i..4i + 4 of group r. What is
/// wanted next is `ahead` bytes further: the hardware does not see it, as groups lie far apart and steps end soon.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn unpack<const R: usize>(groups: &[u8], steps: Range<usize>, ahead: usize, codes: &mut [u8]) {
    let tables = Tables::load();
    let codes = codes.as_chunks_mut::<64>().0;
    for (r, group) in groups.chunks_exact(groups.len() / R).enumerate() {
        for (step, bytes) in group.as_chunks::<64>().0[steps.clone()].iter().enumerate() {
            prefetch(bytes.as_ptr().wrapping_add(ahead));
            for (i, vector) in tables.all(load512(bytes)).into_iter().enumerate() {
                store512(&mut codes[(5 * step + i) * R + r], vector);
            }
        }
    }
}

/// `R` unpacked groups times `T` activation rows from `start` on: every sum stays in its register.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn multiply<const R: usize, const T: usize>(tile: &mut PanelTile<'_>, first: usize, start: usize) {
    let words = tile.k / 4;
    let (mut quants, mut token): ([&[[u8; 4]]; T], _) = ([&[]; T], [(0.0, 0); T]);
    for t in 0..T {
        let row = &tile.activations[(start + t) * tile.activation_bytes..][..tile.activation_bytes];
        let (scale, sum, all) = i8_token_parts(row);
        (quants[t], token[t]) = (&all.as_chunks::<4>().0[..words], (scale, sum));
    }
    let vectors = &tile.scratch.as_chunks::<64>().0.as_chunks::<R>().0[..words];
    let mut sums = [[_mm512_setzero_si512(); R]; T];
    for i in 0..words {
        let mut codes = [_mm512_setzero_si512(); R];
        for r in 0..R {
            codes[r] = load512(&vectors[i][r]);
        }
        for t in 0..T {
            let quants = broadcast4(&quants[t][i]);
            for r in 0..R {
                sums[t][r] = _mm512_dpbusd_epi32(sums[t][r], codes[r], quants);
            }
        }
    }
    for t in 0..T {
        for (r, sums) in sums[t].into_iter().enumerate() {
            put(tile, first + r, start + t, sums, token[t]);
        }
    }
}

/// Writes the results of a group for one activation row: (sum over codes - sum of the activations) / token scale, times
/// the rows' scales, in this order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn put(
    tile: &mut PanelTile<'_>,
    group: usize,
    activation: usize,
    sums: __m512i,
    (token_scale, sum): (f32, i32),
) {
    let dots = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(sum)));
    let scale = match tile.scales {
        Scales::Tensor(scale) => _mm512_set1_ps(scale),
        Scales::Rows(scales) => load_f32(&scales.as_chunks::<ROWS>().0[group]),
    };
    let out = tile.out.at(activation, group * ROWS);
    tile.done += out.len() as u64;
    store_f32(out, _mm512_mul_ps(_mm512_div_ps(dots, _mm512_set1_ps(token_scale)), scale));
}
