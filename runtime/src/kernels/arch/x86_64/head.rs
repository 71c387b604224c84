//! AVX2 kernels of the compact head: `vpmaddubsw` of the codes with both bytes of the activations.
//!
//! A vector holds four columns of eight rows. Sums stay in sixteen bits over one block: eight times 2 * 15 * 128 is
//! 30,720. Results equal the scalar ones bit for bit.

use super::simd::{fetch_ahead, load_f32, load128, load256, widen};
use crate::kernels::SimdLevel;
use crate::kernels::arch::all::head as portable;
use crate::kernels::head::{
    BLOCK, COARSE_BYTES, Coarse, FINE_LANES, GROUP, HeadKernel, Pack, Query, Shape, coarse_places,
};
use std::arch::x86_64::*;

pub const HEAD: HeadKernel = HeadKernel { id: "head.q4x2.avx2", level: SimdLevel::Avx2, pack, coarse, fine };

#[target_feature(enable = "avx2,fma,f16c")]
fn pack(args: &mut Pack<'_>) {
    portable::pack_with(args, portable::round);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn coarse(args: &mut Coarse<'_>) {
    let (blocks, bytes) = (args.shape.blocks(), args.shape.coarse_bytes());
    for (group, packed) in args.groups.chunks_exact(bytes).enumerate() {
        for (q, query) in args.queries.iter().enumerate() {
            // Rows 0 to 7, then 8 to 15.
            for half in 0..2 {
                let (mut scores, mut squares) = (_mm256_setzero_ps(), _mm256_setzero_ps());
                for block in 0..blocks {
                    let [codes, multipliers] = coarse_places(block);
                    let codes = &packed[codes..][..COARSE_BYTES];
                    if (q, half) == (0, 0) {
                        codes.as_chunks::<64>().0.iter().for_each(|line| fetch_ahead(line.as_ptr()));
                    }
                    let codes = codes.as_chunks::<32>().0;
                    let multipliers = packed[multipliers..][..GROUP].as_chunks::<8>().0;
                    let dot = dot(codes, half, query, block);
                    let c = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load64(&multipliers[half])));
                    let factor = _mm256_mul_ps(c, _mm256_set1_ps(query.scales[block]));
                    scores = _mm256_fmadd_ps(dot, factor, scores);
                    let square = _mm256_mul_ps(c, c);
                    squares = _mm256_fmadd_ps(square, _mm256_set1_ps(query.squares[block]), squares);
                }
                let row = group * GROUP + half * 8;
                let scale = load_f32(&args.scales.as_chunks::<8>().0[row / 8]);
                let out = q * args.stride + row;
                store(&mut args.scores[out..out + 8], _mm256_mul_ps(scale, scores));
                store(&mut args.spreads[out..out + 8], _mm256_mul_ps(scale, _mm256_sqrt_ps(squares)));
                args.done += 8;
            }
        }
    }
}

/// Exact dot products of eight rows of a block, as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(codes: &[[u8; 32]], half: usize, query: &Query, block: usize) -> __m256 {
    let nibble = _mm256_set1_epi8(15);
    let (mut high, mut low) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for four in 0..4 {
        let packed = load256(&codes[2 * four + half]);
        let codes = [packed, _mm256_srli_epi16::<4>(packed)].map(|v| _mm256_and_si256(v, nibble));
        for (codes, four) in codes.into_iter().zip([four, four + 4]) {
            let at = block * BLOCK / 4 + four;
            high = _mm256_add_epi16(high, _mm256_maddubs_epi16(codes, broadcast(&query.high, at)));
            low = _mm256_add_epi16(low, _mm256_maddubs_epi16(codes, broadcast(&query.low, at)));
        }
    }
    let dot = _mm256_add_epi32(_mm256_slli_epi32::<9>(widen(high)), _mm256_slli_epi32::<1>(widen(low)));
    _mm256_cvtepi32_ps(_mm256_sub_epi32(dot, _mm256_set1_epi32(query.sums[block])))
}

#[target_feature(enable = "avx2,fma,f16c")]
fn fine(shape: Shape, row: &[u8], query: &Query) -> f32 {
    let (codes, multipliers) = row.split_at(shape.blocks() * BLOCK / 2);
    let nibble = _mm256_set1_epi8(15);
    let mut sums = [_mm256_setzero_ps(); 2];
    for (block, (codes, c)) in codes.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(multipliers).enumerate() {
        let packed = load128(codes);
        let codes = _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), nibble);
        let plane = |plane: &[i8]| load_i8(&plane.as_chunks::<BLOCK>().0[block]);
        let high = widen(_mm256_maddubs_epi16(codes, plane(&query.high)));
        let low = widen(_mm256_maddubs_epi16(codes, plane(&query.low)));
        let dot = _mm256_add_epi32(_mm256_slli_epi32::<9>(high), _mm256_slli_epi32::<1>(low));
        let dot = _mm256_sub_epi32(dot, load_i32(&query.fours.as_chunks::<8>().0[block]));
        let factor = _mm256_set1_ps(f32::from(*c) * query.scales[block]);
        sums[block % 2] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sums[block % 2]);
    }
    let mut lanes = [0f32; FINE_LANES];
    store(&mut lanes[..8], sums[0]);
    store(&mut lanes[8..], sums[1]);
    portable::add_up(lanes)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn broadcast(plane: &[i8], four: usize) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(plane.as_chunks::<4>().0[four].map(|x| x as u8)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load64(bytes: &[u8; 8]) -> __m128i {
    _mm_cvtsi64_si128(i64::from_le_bytes(*bytes))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i8(values: &[i8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes read.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_i32(values: &[i32; 8]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes read.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(out: &mut [f32], value: __m256) {
    let out: &mut [f32; 8] = out.try_into().expect("eight lanes");
    // SAFETY: the reference covers the 32 bytes written.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}
