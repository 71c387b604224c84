//! AMX products of ternary weights repacked in sixteens ([`Layout::Trits`]) with per-token int8 activations.
//!
//! Codes unpacked for AVX-512 are a tile already: 64 bytes are four columns of sixteen weight rows, which is a row of
//! the second operand of `tdpbsud`; a row of the first is 64 activations of a token as they lie. Two tiles of sixteen
//! tokens times two groups keep four sums in tiles. What does not fill sixteen tokens is left to AVX-512.
//! The compiler knows nothing of tiles: they are used in [`two_by_two`] alone, between a configuration and a release.
//!
//! [`Layout::Trits`]: crate::quant::panels::Layout::Trits

use super::panels_avx512::{multiply_block, put, unpack};
use super::simd512::load512;
use crate::kernels::PanelTile;
use crate::quant::activation::{I8_TOKEN_HEADER, i8_token_parts};
use crate::quant::panels::{PANEL_GROUPS, ROWS, SUMS_BYTES};
use std::arch::asm;

/// Columns of a tile.
const COLUMNS: usize = 64;
/// Tokens of a tile.
const TOKENS: usize = 16;

/// All eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Needs AMX-INT8 as well.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn trits(tile: &mut PanelTile<'_>) {
    let (groups, count) = tile.shape();
    assert!(tile.k.is_multiple_of(COLUMNS), "ternary rows are whole blocks");
    let whole = groups - groups % PANEL_GROUPS;
    // SAFETY: the CPU has AMX and the system lets this process use it, which whoever selected this kernel has checked; the
    // configuration is 64 bytes of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags)) };
    for first in (0..whole).step_by(PANEL_GROUPS) {
        let groups = &tile.weights[first * tile.group_bytes..][..PANEL_GROUPS * tile.group_bytes];
        unpack::<PANEL_GROUPS>(groups, tile.scratch);
        let mut start = 0;
        while count - start >= TOKENS {
            let second = if count - start >= 2 * TOKENS { TOKENS } else { 0 };
            for pair in 0..PANEL_GROUPS / 2 {
                two_by_two(tile, start, second, 2 * pair);
                write(tile, start, first + 2 * pair, 0);
                if second > 0 {
                    write(tile, start + second, first + 2 * pair, 2);
                }
            }
            start += TOKENS + second;
        }
        multiply_block::<PANEL_GROUPS>(tile, first, start);
    }
    // SAFETY: as above; no tile is in use.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    for first in whole..groups {
        unpack::<1>(&tile.weights[first * tile.group_bytes..][..tile.group_bytes], tile.scratch);
        multiply_block::<1>(tile, first, 0);
    }
}

/// The sums of tokens `start..start + 16` and `start + second..` with unpacked groups `group` and `group + 1`, into the
/// four squares of 16 x 16 at the end of the scratch memory.
fn two_by_two(tile: &mut PanelTile<'_>, start: usize, second: usize, group: usize) {
    let stride = tile.activation_bytes;
    let steps = tile.k / COLUMNS;
    let (panel, sums) = tile.scratch.split_at_mut(PANEL_GROUPS * ROWS * tile.k.next_multiple_of(20));
    assert!((start + second + TOKENS) * stride <= tile.activations.len());
    assert!(stride >= I8_TOKEN_HEADER + tile.k && group + 2 <= PANEL_GROUPS && sums.len() >= SUMS_BYTES);
    let tokens = tile.activations[start * stride + I8_TOKEN_HEADER..].as_ptr();
    // A step of 64 columns is 16 vectors of each of the four groups, which lie in turns.
    const NEXT: usize = COLUMNS / 4 * PANEL_GROUPS * 64;
    assert!(panel.len() >= steps * NEXT);
    let codes = panel[group * 64..].as_ptr();
    // SAFETY: the CPU and the configuration are as in `trits`. The first operands' rows are `k` bytes of 16 tokens from
    // `start` and from `start + second` on, inside `activations` as asserted; the second operands' the vectors of two
    // groups, inside `panel` as asserted; the stores go to 4096 bytes of `sums`.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b} + {turn}*1]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {turn}*1 + 64]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tdpbsud tmm2, tmm5, tmm6",
            "tdpbsud tmm3, tmm5, tmm7",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {row}*1], tmm0",
            "tilestored [{c} + {row}*1 + 1024], tmm1",
            "tilestored [{c} + {row}*1 + 2048], tmm2",
            "tilestored [{c} + {row}*1 + 3072], tmm3",
            a0 = inout(reg) tokens => _,
            a1 = inout(reg) tokens.add(second * stride) => _,
            b = inout(reg) codes => _,
            stride = in(reg) stride,
            turn = in(reg) PANEL_GROUPS * 64,
            next = const NEXT,
            steps = inout(reg) steps => _,
            c = in(reg) sums.as_mut_ptr(),
            row = in(reg) 64usize,
            options(nostack),
        );
    }
}

/// Writes the results of squares `square` and `square + 1`: groups `group` and `group + 1` for 16 tokens from `start` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn write(tile: &mut PanelTile<'_>, start: usize, group: usize, square: usize) {
    let sums = PANEL_GROUPS * ROWS * tile.k.next_multiple_of(20);
    for t in 0..TOKENS {
        let row = &tile.activations[(start + t) * tile.activation_bytes..][..tile.activation_bytes];
        let (token_scale, sum, _) = i8_token_parts(row);
        for g in 0..2 {
            let vector = load512(&tile.scratch[sums..].as_chunks::<64>().0[(square + g) * TOKENS + t]);
            put(tile, group + g, start + t, vector, (token_scale, sum));
        }
    }
}
