//! AMX products of ternary weights repacked in sixteens ([`Layout::Trits`]) with per-token int8 activations.
//!
//! Codes unpacked for AVX-512 are a tile already: 64 bytes are four columns of sixteen weight rows, which is a row of
//! the second operand of `tdpbsud`; a row of the first is 64 activations of a token as they lie. Two tiles of sixteen
//! tokens times two groups keep four sums in tiles. Loading tiles is what costs: so four groups are unpacked [`BLOCK`] columns
//! at a time, which stay in the L1 cache while all tokens meet them, and sums wait in memory for the next block.
//! What does not fill sixteen tokens is left to AVX-512, which unpacks whole rows for it.
//! The compiler knows nothing of tiles: they are used in [`two_by_two`] alone, between a configuration and a release.
//!
//! [`Layout::Trits`]: crate::quant::panels::Layout::Trits

use super::panels_avx512::{panel, put, unpack};
use super::simd512::load512;
use crate::kernels::PanelTile;
use crate::quant::activation::{I8_TOKEN_HEADER, i8_token_parts};
use crate::quant::panels::{PANEL_GROUPS, ROWS, SUMS_BYTES, SUMS_TOKENS};
use std::arch::asm;

/// Columns of a tile.
const COLUMNS: usize = 64;
/// Tokens of a tile.
const TOKENS: usize = 16;
/// Columns that are unpacked at a time: whole tiles, whole steps of 20, and 20 KB of codes.
const BLOCK: usize = 320;
/// Bytes of the sums of a tile.
const SQUARE: usize = 4 * TOKENS * ROWS;

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
    let tiled = count - count % TOKENS;
    // SAFETY: the CPU has AMX and the system lets this process use it, which whoever selected this kernel has checked; the
    // configuration is 64 bytes of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, preserves_flags)) };
    for first in (0..whole).step_by(PANEL_GROUPS) {
        for start in (0..tiled).step_by(SUMS_TOKENS) {
            four_groups(tile, first, start, (tiled - start).min(SUMS_TOKENS));
        }
    }
    // SAFETY: as above; no tile is in use.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    if tiled < count {
        (0..whole).step_by(PANEL_GROUPS).for_each(|first| panel::<PANEL_GROUPS>(tile, first, tiled));
    }
    (whole..groups).for_each(|first| panel::<1>(tile, first, 0));
}

/// Four groups from `first` on times `count` tokens, a multiple of sixteen, from `start` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn four_groups(tile: &mut PanelTile<'_>, first: usize, start: usize, count: usize) {
    for column in (0..tile.k).step_by(BLOCK) {
        let columns = BLOCK.min(tile.k - column);
        let groups = &tile.weights[first * tile.group_bytes..][..PANEL_GROUPS * tile.group_bytes];
        unpack::<PANEL_GROUPS>(groups, column / 20..(column + columns).div_ceil(20), tile.scratch);
        for token in (0..count).step_by(2 * TOKENS) {
            let second = if count - token > TOKENS { TOKENS } else { 0 };
            for pair in 0..PANEL_GROUPS / 2 {
                two_by_two(tile, start, token, second, 2 * pair, column, columns);
            }
        }
    }
    let sums = PANEL_GROUPS * ROWS * tile.k.next_multiple_of(20);
    for token in 0..count {
        let row = &tile.activations[(start + token) * tile.activation_bytes..][..tile.activation_bytes];
        let (token_scale, sum, _) = i8_token_parts(row);
        for group in 0..PANEL_GROUPS {
            let square = token / TOKENS * PANEL_GROUPS + group;
            let vector = load512(&tile.scratch[sums..].as_chunks::<64>().0[square * TOKENS + token % TOKENS]);
            put(tile, first + group, start + token, vector, (token_scale, sum));
        }
    }
}

/// Adds the products of `columns` columns from `column` on to the sums of sixteen tokens from `start + token` on, and of those
/// from `second` after them on, with unpacked groups `group` and `group + 1`. Sums start with the first column.
fn two_by_two(
    tile: &mut PanelTile<'_>,
    start: usize,
    token: usize,
    second: usize,
    group: usize,
    column: usize,
    columns: usize,
) {
    let stride = tile.activation_bytes;
    let (panel, sums) = tile.scratch.split_at_mut(PANEL_GROUPS * ROWS * tile.k.next_multiple_of(20));
    assert!((start + token + second + TOKENS) * stride <= tile.activations.len());
    assert!(stride >= I8_TOKEN_HEADER + column + columns && columns.is_multiple_of(COLUMNS) && columns > 0);
    let tokens = tile.activations[(start + token) * stride + I8_TOKEN_HEADER + column..].as_ptr();
    // A step of 64 columns is 16 vectors of each of the four groups, which lie in turns.
    const NEXT: usize = COLUMNS / 4 * PANEL_GROUPS * 64;
    assert!(group + 2 <= PANEL_GROUPS && panel.len() >= columns / COLUMNS * NEXT);
    let codes = panel[group * 64..].as_ptr();
    let square = (token / TOKENS * PANEL_GROUPS + group) * SQUARE;
    let below = second / TOKENS * PANEL_GROUPS * SQUARE;
    assert!(sums.len() >= SUMS_BYTES && square + below + 2 * SQUARE <= SUMS_BYTES);
    // SAFETY: the CPU and the configuration are as in `trits`. The first operands' rows are `columns` bytes of 16 tokens each,
    // inside `activations` as asserted; the second operands' the vectors of two groups, inside `panel` as asserted; sums are
    // two squares at `c0` and two at `c1`, inside `sums` as asserted.
    unsafe {
        asm!(
            "test {more}, {more}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{c0} + {row}*1]",
            "tileloadd tmm1, [{c0} + {row}*1 + 1024]",
            "tileloadd tmm2, [{c1} + {row}*1]",
            "tileloadd tmm3, [{c1} + {row}*1 + 1024]",
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
            "tilestored [{c0} + {row}*1], tmm0",
            "tilestored [{c0} + {row}*1 + 1024], tmm1",
            "tilestored [{c1} + {row}*1], tmm2",
            "tilestored [{c1} + {row}*1 + 1024], tmm3",
            a0 = inout(reg) tokens => _,
            a1 = inout(reg) tokens.add(second * stride) => _,
            b = inout(reg) codes => _,
            stride = in(reg) stride,
            turn = in(reg) PANEL_GROUPS * 64,
            next = const NEXT,
            steps = inout(reg) columns / COLUMNS => _,
            c0 = in(reg) sums[square..].as_mut_ptr(),
            c1 = in(reg) sums[square + below..].as_mut_ptr(),
            row = in(reg) 64usize,
            more = in(reg) column,
            options(nostack),
        );
    }
}
