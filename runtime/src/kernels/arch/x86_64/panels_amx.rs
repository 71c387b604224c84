//! AMX products of ternary weights repacked in sixteens ([`Layout::Trits`]) with per-token int8 activations.
//!
//! Codes unpacked for AVX-512 are a tile already: 64 bytes are four columns of sixteen weight rows, which is a row of
//! the second operand of `tdpbsud`; a row of the first is 64 activations of a token as they lie. Loading tiles is what
//! costs: so some groups are unpacked some columns at a time, 20 KB that stay in the L1 cache while all tokens meet them,
//! and sums wait in memory for the next columns. Of many tokens two tiles meet two groups ([`two_by_two`]), with as many
//! tokens at a time as the L2 cache holds; fewer than sixteen are one tile, no higher than they are, which meets four
//! groups ([`one_by_four`]).
//! The compiler knows nothing of tiles: they are used in those two alone, between a configuration and a release.
//!
//! [`Layout::Trits`]: crate::quant::panels::Layout::Trits

use super::panels_avx512::{self, panel, put, unpack};
use super::simd512::load512;
use crate::kernels::PanelTile;
use crate::quant::activation::{I8_TOKEN_HEADER, i8_token_parts};
use crate::quant::panels::{PANEL_GROUPS, ROWS, SUMS_BYTES};
use std::arch::asm;

/// Columns of a tile.
const COLUMNS: usize = 64;
/// Tokens of a tile.
const TOKENS: usize = 16;
/// Activation rows from which on tiles are faster than AVX-512, which takes trits apart without writing codes.
const FEWEST: usize = 4;
/// Codes that are unpacked at a time, in bytes: whole tiles and whole steps of 20, for two groups and for four.
const CODES: usize = 2 * ROWS * 640;
/// Bytes of activations that stay in the L2 cache beside what passes through it.
const TOKENS_BYTES: usize = 1 << 20;
/// Bytes of the sums of a tile.
const SQUARE: usize = 4 * TOKENS * ROWS;

/// Rows of the tiles; all have 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

impl Configuration {
    /// Tiles 0 to 4 have `tokens` rows, the others a group's 16.
    const fn new(tokens: u8) -> Self {
        Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [tokens, tokens, tokens, tokens, tokens, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// Needs AMX-INT8 as well.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn trits(tile: &mut PanelTile<'_>) {
    let (groups, count) = tile.shape();
    if count < FEWEST {
        return panels_avx512::trits(tile);
    }
    assert!(tile.k.is_multiple_of(COLUMNS), "ternary rows are whole blocks");
    let whole = groups - groups % if count < TOKENS { PANEL_GROUPS } else { 2 };
    let configuration = Configuration::new(count.min(TOKENS) as u8);
    // SAFETY: the CPU has AMX and the system lets this process use it, which whoever selected this kernel has checked; the
    // configuration is 64 bytes of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags)) };
    if count < TOKENS {
        (0..whole).step_by(PANEL_GROUPS).for_each(|first| few(tile, first, count));
    } else {
        let most = (TOKENS_BYTES / tile.activation_bytes).clamp(2 * TOKENS, SUMS_BYTES / (4 * 2 * ROWS));
        let at_once = count.div_ceil(count.div_ceil(most)).next_multiple_of(TOKENS);
        for start in (0..count).step_by(at_once) {
            let end = count.min(start + at_once);
            (0..whole).step_by(2).for_each(|first| many(tile, first, start, end));
        }
    }
    // SAFETY: as above; no tile is in use.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    (whole..groups).for_each(|first| panel::<1>(tile, first, 0));
}

/// Two groups from `first` on times the tokens `start..end`; `end` is sixteen at least.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn many(tile: &mut PanelTile<'_>, first: usize, start: usize, end: usize) {
    let tiles = (end - start).div_ceil(TOKENS);
    // The last tile may have tokens of the one before it.
    let place = |number: usize| (start + number * TOKENS).min(end - TOKENS);
    for column in (0..tile.k).step_by(CODES / (2 * ROWS)) {
        let columns = (CODES / (2 * ROWS)).min(tile.k - column);
        unpack_some::<2>(tile, first, column, columns);
        for number in (0..tiles).step_by(2) {
            let second = (number + 1).min(tiles - 1);
            two_by_two(tile, [place(number), place(second)], [number, second], column, columns);
        }
    }
    for token in start..end {
        let number = (token - start) / TOKENS;
        write::<2>(tile, first, token, 2 * number, token - place(number));
    }
}

/// Four groups from `first` on times all `count` tokens, fewer than sixteen.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn few(tile: &mut PanelTile<'_>, first: usize, count: usize) {
    const BLOCK: usize = CODES / (PANEL_GROUPS * ROWS);
    for column in (0..tile.k).step_by(BLOCK) {
        let columns = BLOCK.min(tile.k - column);
        unpack_some::<PANEL_GROUPS>(tile, first, column, columns);
        one_by_four(tile, count, column, columns);
    }
    (0..count).for_each(|token| write::<PANEL_GROUPS>(tile, first, token, 0, token));
}

/// Codes of `columns` columns from `column` on of `R` groups from `first` on, to the start of the scratch memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn unpack_some<const R: usize>(tile: &mut PanelTile<'_>, first: usize, column: usize, columns: usize) {
    let groups = &tile.weights[first * tile.group_bytes..][..R * tile.group_bytes];
    let steps = column / 20..(column + columns).div_ceil(20);
    // The columns after these, or the first of the groups after these.
    let ahead =
        if column + columns < tile.k { 64 * steps.len() } else { R * tile.group_bytes - 64 * steps.start };
    unpack::<R>(groups, steps, ahead, tile.scratch);
}

/// The scratch memory: codes, then sums.
fn parts(scratch: &mut [u8], k: usize) -> (&mut [u8], &mut [u8]) {
    scratch.split_at_mut(PANEL_GROUPS * ROWS * k.next_multiple_of(20))
}

/// The results of `R` groups from `first` on for one token, whose sums are row `row` of the squares from `square` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn write<const R: usize>(tile: &mut PanelTile<'_>, first: usize, token: usize, square: usize, row: usize) {
    let activations = &tile.activations[token * tile.activation_bytes..][..tile.activation_bytes];
    let (token_scale, sum, _) = i8_token_parts(activations);
    for group in 0..R {
        let sums = parts(tile.scratch, tile.k).1.as_chunks::<64>().0;
        let vector = load512(&sums[(square + group) * TOKENS + row]);
        put(tile, first + group, token, vector, (token_scale, sum));
    }
}

/// Adds the products of `columns` columns from `column` on of sixteen tokens each from `tokens` on with two unpacked groups to
/// the squares of tiles `numbers`. Sums start with the first column.
fn two_by_two(
    tile: &mut PanelTile<'_>,
    tokens: [usize; 2],
    numbers: [usize; 2],
    column: usize,
    columns: usize,
) {
    let stride = tile.activation_bytes;
    let (codes, sums) = parts(tile.scratch, tile.k);
    assert!(tokens.iter().all(|token| (token + TOKENS) * stride <= tile.activations.len()));
    assert!(stride >= I8_TOKEN_HEADER + column + columns && columns.is_multiple_of(COLUMNS) && columns > 0);
    let rows = tokens.map(|token| tile.activations[token * stride + I8_TOKEN_HEADER + column..].as_ptr());
    // A step of 64 columns is 16 vectors of each group, which lie in turns.
    const NEXT: usize = COLUMNS / 4 * 2 * 64;
    assert!(codes.len() >= columns / COLUMNS * NEXT);
    assert!(numbers.iter().all(|number| (2 * number + 2) * SQUARE <= sums.len()));
    let squares = numbers.map(|number| sums[2 * number * SQUARE..].as_mut_ptr());
    // SAFETY: the CPU is as in `trits`, whose configuration gives all tiles 16 rows. The first operands' rows are `columns` bytes
    // of 16 tokens each, inside `activations` as asserted; the second operands' the vectors of two groups, inside `codes` as
    // asserted; sums are two squares in each of two places, inside `sums` as asserted.
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
            a0 = inout(reg) rows[0] => _,
            a1 = inout(reg) rows[1] => _,
            b = inout(reg) codes.as_ptr() => _,
            stride = in(reg) stride,
            turn = in(reg) 2 * 64usize,
            next = const NEXT,
            steps = inout(reg) columns / COLUMNS => _,
            c0 = in(reg) squares[0],
            c1 = in(reg) squares[1],
            row = in(reg) 64usize,
            more = in(reg) column,
            options(nostack),
        );
    }
}

/// Adds the products of `columns` columns from `column` on of the first `count` tokens, which are as many as a tile has rows, with
/// four unpacked groups to the first four squares. Sums start with the first column.
fn one_by_four(tile: &mut PanelTile<'_>, count: usize, column: usize, columns: usize) {
    let stride = tile.activation_bytes;
    let (codes, sums) = parts(tile.scratch, tile.k);
    assert!(count < TOKENS && count * stride <= tile.activations.len());
    assert!(stride >= I8_TOKEN_HEADER + column + columns && columns.is_multiple_of(COLUMNS) && columns > 0);
    const NEXT: usize = COLUMNS / 4 * PANEL_GROUPS * 64;
    assert!(codes.len() >= columns / COLUMNS * NEXT && sums.len() >= PANEL_GROUPS * SQUARE);
    // SAFETY: as in `two_by_two`, with `count` rows in the tiles of tokens and of sums, and four groups.
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
            "tileloadd tmm0, [{c} + {row}*1]",
            "tileloadd tmm1, [{c} + {row}*1 + 1024]",
            "tileloadd tmm2, [{c} + {row}*1 + 2048]",
            "tileloadd tmm3, [{c} + {row}*1 + 3072]",
            "2:",
            "tileloadd tmm4, [{a} + {stride}*1]",
            "tileloadd tmm5, [{b} + {turn}*1]",
            "tdpbsud tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{b} + {turn}*1 + 64]",
            "tdpbsud tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {turn}*1 + 128]",
            "tdpbsud tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{b} + {turn}*1 + 192]",
            "tdpbsud tmm3, tmm4, tmm5",
            "add {a}, 64",
            "add {b}, {next}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {row}*1], tmm0",
            "tilestored [{c} + {row}*1 + 1024], tmm1",
            "tilestored [{c} + {row}*1 + 2048], tmm2",
            "tilestored [{c} + {row}*1 + 3072], tmm3",
            a = inout(reg) tile.activations[I8_TOKEN_HEADER + column..].as_ptr() => _,
            b = inout(reg) codes.as_ptr() => _,
            stride = in(reg) stride,
            turn = in(reg) PANEL_GROUPS * 64,
            next = const NEXT,
            steps = inout(reg) columns / COLUMNS => _,
            c = in(reg) sums.as_mut_ptr(),
            row = in(reg) 64usize,
            more = in(reg) column,
            options(nostack),
        );
    }
}
