//! What the AVX-512 kernels share: loads and stores of exactly a vector's size.
//!
//! As in `simd`, loads take references to arrays of that size, so the only unsafe code of the kernels is here.

use crate::quant::blocks::Block;
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn load512<B: Block>(bytes: &B) -> __m512i {
    const { assert!(size_of::<B>() == 64) };
    // SAFETY: the reference covers the 64 bytes read; an unaligned load needs no more.
    unsafe { _mm512_loadu_si512((&raw const *bytes).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn store512(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: the exclusive reference covers the 64 bytes written.
    unsafe { _mm512_storeu_si512((&raw mut *bytes).cast(), value) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn load_f32(values: &[f32; 16]) -> __m512 {
    // SAFETY: the reference covers the sixteen floats read.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// Stores the first `out.len()` lanes, sixteen at most.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn store_f32(out: &mut [f32], value: __m512) {
    let lanes = out.len().min(16);
    let mask = (0xffffu32 >> (16 - lanes)) as u16;
    // SAFETY: the mask covers the `lanes` floats of the exclusive reference; lanes outside the mask touch no memory.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, value) }
}

/// Fetches the line of an address, which need not be one.
#[inline(always)]
pub(super) fn prefetch(bytes: *const u8) {
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on the cache.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.cast()) };
}

/// Four bytes in every 32-bit lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn broadcast4(bytes: &[u8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(*bytes))
}
