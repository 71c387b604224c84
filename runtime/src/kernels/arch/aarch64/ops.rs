//! Element-wise operations and attention. NEON and fused multiply-adds are part of aarch64, so that the portable source
//! compiles to them as it is; what is added are the instructions for half floats, and `sdot` for scores over q8_0.
//! Results equal the scalar ones bit for bit.

use super::simd::*;
use crate::kernels::SimdLevel;
use crate::kernels::arch::all::attention;
use crate::kernels::arch::all::ops::{self as portable, F16};
use crate::kernels::ops::{Ops, Q8_BLOCK, Q8_GROUP, ScoresQ8};
use std::arch::aarch64::*;

pub const NEON: Ops = instance::<Neon>(SimdLevel::Neon);
pub const DOTPROD: Ops = instance::<Dotprod>(SimdLevel::Dotprod);

const fn instance<D: Dot>(level: SimdLevel) -> Ops {
    Ops {
        level,
        rms_norm: portable::rms_norm,
        silu_mul: portable::silu_mul,
        relu2_mul: portable::relu2_mul,
        rope_adjacent: portable::rope_adjacent,
        rope_neox: portable::rope_neox,
        scores_f16: attention::scores_f16::<Halves>,
        scores_q8_0: scores_q8_0::<D>,
        softmax: attention::softmax::<Halves>,
        values_f16: attention::values_f16::<Halves>,
        values_q8_0: attention::values_q8_0::<Halves>,
        weigh_f16: None,
        add_up_parts: attention::add_up_parts,
        f16_from_f32: portable::f16_from_f32::<Halves>,
        round_to_f16: portable::round_to_f16::<Halves>,
    }
}

/// Half floats through `fcvtl` and `fcvtn`, which round to nearest even as the system sets them up.
struct Halves;

impl F16 for Halves {
    #[inline(always)]
    fn widen(values: &[u16; 8]) -> [f32; 8] {
        let mut out = [0f32; 8];
        // SAFETY: aarch64 has NEON; source and target are 16 and 32 bytes long.
        unsafe {
            let halves = vreinterpretq_f16_u16(vld1q_u16(values.as_ptr()));
            vst1q_f32(out.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(halves)));
            vst1q_f32(out[4..].as_mut_ptr(), vcvt_high_f32_f16(halves));
        }
        out
    }

    #[inline(always)]
    fn narrow(values: &[f32; 8]) -> [u16; 8] {
        let mut out = [0u16; 8];
        // SAFETY: as in `widen`.
        unsafe {
            let low = vcvt_f16_f32(vld1q_f32(values.as_ptr()));
            let halves = vcvt_high_f16_f32(low, vld1q_f32(values[4..].as_ptr()));
            vst1q_u16(out.as_mut_ptr(), vreinterpretq_u16_f16(halves));
        }
        out
    }
}

/// As the portable one: a vector has four elements of four positions. Quants of q8_0 are never -128, so that two
/// products sum to at most 2 * 127 * 127.
///
/// # Safety
/// The CPU has the instructions of `D`.
#[target_feature(enable = "neon")]
unsafe fn scores_q8_0<D: Dot>(args: &mut ScoresQ8<'_>) {
    // SAFETY: passed on to the caller.
    let d = unsafe { D::assume() };
    let (head_dim, blocks) = (args.head_dim, args.head_dim / Q8_BLOCK);
    let groups = args.keys.quants.chunks_exact(head_dim * Q8_GROUP);
    let scales = args.keys.scales.chunks_exact(blocks * Q8_GROUP);
    for (group, (quants, scales)) in groups.zip(scales).enumerate() {
        let (quants, scales) = (quants.as_chunks::<64>().0, scales.as_chunks::<Q8_GROUP>().0);
        for (q, (query, query_scales)) in attention::queries(args.queries, head_dim).enumerate() {
            let query = query.as_chunks::<4>().0;
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (block, query_scale) in query_scales.iter().enumerate() {
                let mut dots = [vdupq_n_s32(0); 4];
                for word in block * Q8_BLOCK / 4..(block + 1) * Q8_BLOCK / 4 {
                    let y =
                        vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(query[word].map(|q| q as u8))));
                    for (dots, keys) in dots.iter_mut().zip(quants[word].as_chunks::<16>().0) {
                        *dots = d.dot(*dots, load_signed(keys), y);
                    }
                }
                for (half, scales) in scales[block].as_chunks::<8>().0.iter().enumerate() {
                    for (i, scales) in Halves::widen(scales).as_chunks::<4>().0.iter().enumerate() {
                        let r = 2 * half + i;
                        let scale = vmulq_n_f32(load_f32(scales), *query_scale);
                        sums[r] = vfmaq_f32(sums[r], vcvtq_f32_s32(dots[r]), scale);
                    }
                }
            }
            let out = &mut args.out[q * args.stride + group * Q8_GROUP..][..Q8_GROUP];
            for (out, sums) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                store_f32(out, vmulq_n_f32(sums, args.scale));
            }
        }
    }
}
