//! AVX-512 VNNI kernels of the compact head: `vpdpbusd` of the codes with both bytes of the activations.
//!
//! A vector holds four columns of sixteen rows, so that no sum crosses lanes; codes are unpacked once for all queries
//! of a call. Results equal the scalar ones bit for bit: integer sums are exact, float operations the same.

use super::simd::fetch_ahead;
use super::simd512::{broadcast4, load_f32, load512, store_f32};
use crate::kernels::SimdLevel;
use crate::kernels::arch::all::head as portable;
use crate::kernels::head::{
    BLOCK, COARSE_BYTES, Coarse, FINE_LANES, GROUP, HeadKernel, Pack, Query, RUN, RUN_BYTES, Shape,
};
use std::arch::x86_64::*;

pub const HEAD: HeadKernel =
    HeadKernel { id: "head.q4x2.avx512", level: SimdLevel::Avx512, pack, coarse, fine };

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn pack(args: &mut Pack<'_>) {
    portable::pack_with(args, |w, inverse, seed| round(w, inverse, seed));
}

/// As the portable one, sixteen columns at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn round(w: &[f32; BLOCK], inverse: f32, seed: u32) -> [[u8; BLOCK / 2]; 2] {
    let columns = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let (halves, _) = w.as_chunks::<16>();
    let code = |value: __m512, up: __m512i, steps: f32| {
        // Dividing by a power of two is exact, and so is the product.
        let up = _mm512_mul_ps(_mm512_cvtepi32_ps(up), _mm512_set1_ps(1.0 / 65_536.0));
        let code = _mm512_add_ps(_mm512_fmadd_ps(value, _mm512_set1_ps(steps), _mm512_set1_ps(7.5)), up);
        _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(code, _mm512_setzero_ps()), _mm512_set1_ps(15.0)))
    };
    let half = |w: &[f32; 16], seed: u32| {
        let random = hash(_mm512_add_epi32(_mm512_set1_epi32(seed as i32), columns));
        let value = _mm512_mul_ps(load_f32(w), _mm512_set1_ps(inverse));
        let q = code(value, _mm512_srli_epi32::<16>(random), 0.5);
        let grid = _mm512_sub_epi32(_mm512_slli_epi32::<1>(q), _mm512_set1_epi32(15));
        let rest = _mm512_sub_ps(value, _mm512_cvtepi32_ps(grid));
        [q, code(rest, _mm512_and_si512(random, _mm512_set1_epi32(0xffff)), 3.75)]
    };
    let ([q, f], [q_high, f_high]) = (half(&halves[0], seed), half(&halves[1], seed.wrapping_add(16)));
    let bytes = |low: __m512i, high: __m512i| {
        let both = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
        let mut bytes = [0; 16];
        super::simd::store128(&mut bytes, _mm512_cvtepi32_epi8(both));
        bytes
    };
    [bytes(q, q_high), bytes(f, f_high)]
}

/// As the portable one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn hash(x: __m512i) -> __m512i {
    let mix = |x: __m512i, factor: u32| _mm512_mullo_epi32(x, _mm512_set1_epi32(factor as i32));
    let x = mix(_mm512_xor_si512(x, _mm512_srli_epi32::<16>(x)), 0x85eb_ca6b);
    let x = mix(_mm512_xor_si512(x, _mm512_srli_epi32::<13>(x)), 0xc2b2_ae35);
    _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn coarse(args: &mut Coarse<'_>) {
    match args.queries.len() {
        1 => coarse_of::<1>(args),
        2 => coarse_of::<2>(args),
        3 => coarse_of::<3>(args),
        _ => coarse_of::<4>(args),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn coarse_of<const N: usize>(args: &mut Coarse<'_>) {
    let (blocks, bytes) = (args.shape.blocks(), args.shape.coarse_bytes());
    // All slices are cut to `blocks` here: a bounds check in the loop keeps activations from being broadcast as they are
    // loaded.
    let (mut high, mut low): ([&[_]; N], [&[_]; N]) = ([&[]; N], [&[]; N]);
    let (mut scales, mut lengths): ([&[_]; N], [&[_]; N]) = ([&[]; N], [&[]; N]);
    let mut offsets: [&[_]; N] = [&[]; N];
    for (n, query) in args.queries.iter().enumerate() {
        high[n] = &planes(&query.high)[..blocks];
        low[n] = &planes(&query.low)[..blocks];
        scales[n] = &query.scales[..blocks];
        lengths[n] = &query.squares[..blocks];
        offsets[n] = &query.sums[..blocks];
    }
    let nibble = _mm512_set1_epi8(15);
    for (group, packed) in args.groups.chunks_exact(bytes).enumerate() {
        let (mut scores, mut squares) = ([_mm512_setzero_ps(); N], [_mm512_setzero_ps(); N]);
        for (run, packed) in packed.as_chunks::<RUN_BYTES>().0.iter().enumerate() {
            packed.as_chunks::<64>().0.iter().for_each(|line| fetch_ahead(line.as_ptr()));
            let (codes, multipliers) = packed.split_at(RUN * COARSE_BYTES);
            let (codes, multipliers) =
                (codes.as_chunks::<COARSE_BYTES>().0, multipliers.as_chunks::<GROUP>().0);
            for (index, (codes, multipliers)) in codes.iter().zip(multipliers).enumerate() {
                let block = run * RUN + index;
                if block >= blocks {
                    break;
                }
                let codes = codes.as_chunks::<64>().0;
                let mut unpacked = [_mm512_setzero_si512(); 8];
                for i in 0..4 {
                    let both = load512(&codes[i]);
                    unpacked[i] = _mm512_and_si512(both, nibble);
                    unpacked[4 + i] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
                }
                let c = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(super::simd::load128(multipliers)));
                let square = _mm512_mul_ps(c, c);
                for n in 0..N {
                    let mut sums = [_mm512_setzero_si512(); 4];
                    for i in 0..8 {
                        let (high, low) = (broadcast4(&high[n][block][i]), broadcast4(&low[n][block][i]));
                        sums[i % 2] = _mm512_dpbusd_epi32(sums[i % 2], unpacked[i], high);
                        sums[2 + i % 2] = _mm512_dpbusd_epi32(sums[2 + i % 2], unpacked[i], low);
                    }
                    let high = _mm512_slli_epi32::<9>(_mm512_add_epi32(sums[0], sums[1]));
                    let low = _mm512_slli_epi32::<1>(_mm512_add_epi32(sums[2], sums[3]));
                    let sum = _mm512_set1_epi32(offsets[n][block]);
                    let dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_add_epi32(high, low), sum));
                    let factor = _mm512_mul_ps(c, _mm512_set1_ps(scales[n][block]));
                    scores[n] = _mm512_fmadd_ps(dot, factor, scores[n]);
                    squares[n] = _mm512_fmadd_ps(square, _mm512_set1_ps(lengths[n][block]), squares[n]);
                }
            }
        }
        let scale = load_f32(&args.scales.as_chunks::<GROUP>().0[group]);
        for n in 0..N {
            let out = n * args.stride + group * GROUP;
            store_f32(&mut args.scores[out..out + GROUP], _mm512_mul_ps(scale, scores[n]));
            let spread = _mm512_mul_ps(scale, _mm512_sqrt_ps(squares[n]));
            store_f32(&mut args.spreads[out..out + GROUP], spread);
            args.done += GROUP as u64;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn fine(shape: Shape, row: &[u8], query: &Query) -> f32 {
    let blocks = shape.blocks();
    let (codes, multipliers) = row.split_at(blocks * BLOCK / 2);
    let codes = codes.as_chunks::<{ BLOCK / 2 }>().0;
    let nibble = _mm256_set1_epi8(15);
    let mut sums = _mm512_setzero_ps();
    // Two blocks at a time, even ones in the lower half; a last one alone has zeros above it.
    for first in (0..blocks).step_by(2) {
        let two = first + 1 < blocks;
        let unpack = |block: usize| {
            let packed = super::simd::load128(&codes[block]);
            _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), nibble)
        };
        let upper = if two { unpack(first + 1) } else { _mm256_setzero_si256() };
        let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(unpack(first)), upper);
        let mask = if two { u64::MAX } else { u64::from(u32::MAX) };
        let activations = |plane: &[i8]| load_i8(&plane[first * BLOCK..], mask);
        let high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, activations(&query.high));
        let low = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, activations(&query.low));
        let fours = load_i32(&query.fours[first * BLOCK / 4..], mask);
        let dot = _mm512_add_epi32(_mm512_slli_epi32::<9>(high), _mm512_slli_epi32::<1>(low));
        let dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(dot, fours));
        let factor = |block: usize| f32::from(multipliers[block]) * query.scales[block];
        let upper = if two { factor(first + 1) } else { 0.0 };
        let factors = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(factor(first)), _mm512_set1_ps(upper));
        let added = _mm512_fmadd_ps(dot, factors, sums);
        sums = _mm512_mask_blend_ps(if two { 0xffff } else { 0x00ff }, sums, added);
    }
    let mut lanes = [0f32; FINE_LANES];
    store_f32(&mut lanes, sums);
    portable::add_up(lanes)
}

/// Blocks of activations as `vpdpbusd` takes them, four columns to a lane.
fn planes(plane: &[i8]) -> &[[[u8; 4]; BLOCK / 4]] {
    // SAFETY: i8 and u8 have the same size and alignment, and every bit pattern is valid for both.
    let bytes: &[u8] = unsafe { std::slice::from_raw_parts(plane.as_ptr().cast(), plane.len()) };
    bytes.as_chunks::<4>().0.as_chunks().0
}

/// The bytes of `mask` from the start of `values`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn load_i8(values: &[i8], mask: u64) -> __m512i {
    assert!(values.len() >= (64 - mask.leading_zeros()) as usize);
    // SAFETY: the mask covers bytes of the slice; others are not touched.
    unsafe { _mm512_maskz_loadu_epi8(mask, values.as_ptr()) }
}

/// As [`load_i8`], four bytes of the mask to a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn load_i32(values: &[i32], mask: u64) -> __m512i {
    let lanes = (64 - mask.leading_zeros()) as usize / 4;
    assert!(values.len() >= lanes);
    // SAFETY: the mask covers lanes of the slice; others are not touched.
    unsafe { _mm512_maskz_loadu_epi32((0xffffu32 >> (16 - lanes)) as u16, values.as_ptr()) }
}
