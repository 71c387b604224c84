//! AVX2 products for ternary weights: TQ1_0, TQ2_0 and I2_S, with Q8_K or per-token int8 activations.
//!
//! Codes are multiplied as 0, 1, 2 (unsigned bytes), and the sum of the activations is taken off. Same
//! integers and same order of float operations as `arch::all::matmul`: bit for bit equal, also for a code
//! of 3 and a quant of -128: two products sum to at most 2 * 3 * 128 = 768 in 16 bits, so that 42 such sums
//! may be added before they are widened.

use super::matmul::sums;
use super::simd::{self, *};
use crate::kernels::Tile;
use crate::quant::activation::i8_token_parts;
use crate::quant::blocks::*;
use std::arch::x86_64::*;

tile_kernel!(tq1_0_q8_k = tq1_0_by_q8_k, 4 x 2);
tile_kernel!(tq2_0_q8_k = tq2_0_by_q8_k, 4 x 2);
tile_kernel!(i2_s_q8_k = i2_s_by_q8_k, 4 x 2);
tile_kernel!(tq1_0_i8 = tq1_0_by_i8, 4 x 2);
tile_kernel!(tq2_0_i8 = tq2_0_by_i8, 4 x 2);
tile_kernel!(i2_s_i8 = i2_s_by_i8, 4 x 2);

/// Eight vectors of codes in element order.
type Codes = [__m256i; 8];

/// The top trit of a byte q is 0, 1 or 2 as q is at least 86 (256 / 3) and at least 171 (512 / 3); adding q
/// twice to itself brings up the next one. 32 bytes give five vectors; 16 bytes give five halves and four
/// bytes four quarters of a half, in element order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tq1_codes(block: &BlockTQ1_0) -> Codes {
    let (qs, _) = block.qs.as_chunks::<16>();
    let mut wide = _mm256_set_m128i(load128(&qs[1]), load128(&qs[0]));
    let mut half = load128(&qs[2]);
    let mut quarter = _mm_set1_epi32(i32::from_le_bytes(block.qh));
    let mut codes = [_mm256_setzero_si256(); 8];
    let mut halves = [half; 6];
    let mut last = quarter;
    for n in 0..5 {
        codes[n] = top_trit(wide);
        halves[n] = half;
        wide = _mm256_add_epi8(wide, _mm256_add_epi8(wide, wide));
        half = _mm_add_epi8(half, _mm_add_epi8(half, half));
        last = match n {
            1 => _mm_blend_epi32::<0b0010>(last, quarter),
            2 => _mm_blend_epi32::<0b0100>(last, quarter),
            3 => _mm_blend_epi32::<0b1000>(last, quarter),
            _ => last,
        };
        quarter = _mm_add_epi8(quarter, _mm_add_epi8(quarter, quarter));
    }
    halves[5] = last;
    for i in 0..3 {
        codes[5 + i] = top_trit(_mm256_set_m128i(halves[2 * i + 1], halves[2 * i]));
    }
    codes
}

/// Each comparison gives -1 where it holds (bytes are shifted to signed ones to compare).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn top_trit(bytes: __m256i) -> __m256i {
    let signed = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    let one = _mm256_cmpgt_epi8(signed, _mm256_set1_epi8((85 - 128i32) as i8));
    let two = _mm256_cmpgt_epi8(signed, _mm256_set1_epi8((170 - 128i32) as i8));
    _mm256_abs_epi8(_mm256_add_epi8(one, two))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tq2_codes(block: &BlockTQ2_0) -> Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (half, qs) in block.qs.as_chunks::<32>().0.iter().enumerate() {
        let [a, b, c, d] = two_bit_fields(load256(qs));
        (codes[4 * half], codes[4 * half + 1], codes[4 * half + 2], codes[4 * half + 3]) = (a, b, c, d);
    }
    codes
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn i2_s_codes(block: &[BlockI2S; 2]) -> Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (half, group) in block.iter().enumerate() {
        let [d, c, b, a] = two_bit_fields(load256(group));
        (codes[4 * half], codes[4 * half + 1], codes[4 * half + 2], codes[4 * half + 3]) = (a, b, c, d);
    }
    codes
}

/// Bits 0-1, 2-3, 4-5 and 6-7 of each byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn two_bit_fields(bytes: __m256i) -> [__m256i; 4] {
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

/// Sixteen sums of sixteen products each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products(codes: &Codes, quants: &[i8; 256]) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (codes, quants) in codes.iter().zip(quants.as_chunks::<32>().0) {
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(*codes, load256(quants)));
    }
    sum
}

/// Defines `$name`: `$codes(block)` unpacks a block of type `$block`, `$scale(block, tensor scale)` is its
/// scale in all lanes. What is taken off a lane are the sums of 16 of two groups, as in ggml.
macro_rules! by_q8_k {
    ($name:ident: $block:ty, $codes:ident, $scale:expr) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name<const R: usize, const N: usize>(
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            tensor_scale: f32,
        ) -> [[f32; N]; R] {
            let (rows, activations) = (rows.map(blocks::<$block>), activations.map(blocks::<BlockQ8K>));
            assert_eq!(rows[0].len(), activations[0].len());
            let mut acc = [[_mm256_setzero_ps(); N]; R];
            for b in 0..rows[0].len() {
                for r in 0..R {
                    let block = &rows[r][b];
                    let (codes, scale) = ($codes(block), $scale(block, tensor_scale));
                    for n in 0..N {
                        let y = &activations[n][b];
                        let lanes = widen(_mm256_sub_epi16(products(&codes, &y.qs), load256(&y.bsums)));
                        let scale = _mm256_mul_ps(_mm256_set1_ps(y.d()), scale);
                        acc[r][n] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(lanes), acc[r][n]);
                    }
                }
            }
            sums(acc)
        }
    };
}

by_q8_k!(tq1_0_by_q8_k: BlockTQ1_0, tq1_codes, |block: &BlockTQ1_0, _: f32| broadcast(block.d));
by_q8_k!(tq2_0_by_q8_k: BlockTQ2_0, tq2_codes, |block: &BlockTQ2_0, _: f32| broadcast(block.d));
by_q8_k!(i2_s_by_q8_k: [BlockI2S; 2], i2_s_codes, |_: &[BlockI2S; 2], scale: f32| _mm256_set1_ps(scale));

/// Defines `$name` for blocks with a scale `d` of their own and per-token activations: one integer sum per run of blocks
/// of one scale, as `arch::all::matmul` defines it.
macro_rules! by_i8 {
    ($name:ident: $block:ty, $codes:ident) => {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name<const R: usize, const N: usize>(
            rows: [&[u8]; R],
            activations: [&[u8]; N],
            _: f32,
        ) -> [[f32; N]; R] {
            let (rows, parts) = (rows.map(blocks::<$block>), activations.map(i8_token_parts));
            let quants = parts.map(|(_, _, quants)| blocks::<[i8; 256]>(quants));
            assert_eq!(rows[0].len(), quants[0].len());
            let ones = [_mm256_set1_epi8(1); 8];
            let mut out = [[0.0; N]; R];
            for r in 0..R {
                let mut sums = [_mm256_setzero_si256(); N];
                let mut run: Option<F16> = None;
                let mut runs = 0;
                let mut add = |scale: F16, sums: [__m256i; N]| {
                    for n in 0..N {
                        let value = sum_i32(sums[n]) as f32 / parts[n].0 * scale.get();
                        out[r][n] = if runs == 0 { value } else { out[r][n] + value };
                    }
                    runs += 1;
                };
                for (b, block) in rows[r].iter().enumerate().filter(|(_, block)| !block.d.is_zero()) {
                    if let Some(scale) = run.filter(|scale| *scale != block.d) {
                        add(scale, std::mem::replace(&mut sums, [_mm256_setzero_si256(); N]));
                    }
                    run = Some(block.d);
                    let codes = $codes(block);
                    for n in 0..N {
                        let y = &quants[n][b];
                        let lanes = widen(_mm256_sub_epi16(products(&codes, y), products(&ones, y)));
                        sums[n] = _mm256_add_epi32(sums[n], lanes);
                    }
                }
                if let Some(scale) = run {
                    add(scale, sums);
                }
            }
            out
        }
    };
}

by_i8!(tq1_0_by_i8: BlockTQ1_0, tq1_codes);
by_i8!(tq2_0_by_i8: BlockTQ2_0, tq2_codes);

/// One integer per row and activation; 16-bit sums are widened after eight groups of 128 (32 sums).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn i2_s_by_i8<const R: usize, const N: usize>(
    rows: [&[u8]; R],
    activations: [&[u8]; N],
    tensor_scale: f32,
) -> [[f32; N]; R] {
    let (rows, parts) = (rows.map(blocks::<BlockI2S>), activations.map(i8_token_parts));
    let quants = parts.map(|(_, _, quants)| blocks::<[i8; 128]>(quants));
    let groups = rows[0].len();
    assert_eq!(groups, quants[0].len());
    let mut acc = [[_mm256_setzero_si256(); N]; R];
    for start in (0..groups).step_by(8) {
        let mut narrow = [[_mm256_setzero_si256(); N]; R];
        for g in start..groups.min(start + 8) {
            for r in 0..R {
                let [d, c, b, a] = two_bit_fields(load256(&rows[r][g]));
                for n in 0..N {
                    let y = quants[n][g].as_chunks::<32>().0;
                    let first = _mm256_add_epi16(
                        _mm256_maddubs_epi16(a, load256(&y[0])),
                        _mm256_maddubs_epi16(b, load256(&y[1])),
                    );
                    let second = _mm256_add_epi16(
                        _mm256_maddubs_epi16(c, load256(&y[2])),
                        _mm256_maddubs_epi16(d, load256(&y[3])),
                    );
                    narrow[r][n] = _mm256_add_epi16(narrow[r][n], _mm256_add_epi16(first, second));
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                acc[r][n] = _mm256_add_epi32(acc[r][n], widen(narrow[r][n]));
            }
        }
    }
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            let (token_scale, sum, _) = parts[n];
            out[r][n] = (sum_i32(acc[r][n]) - sum) as f32 / token_scale * tensor_scale;
        }
    }
    out
}
