//! Packing and scoring of a compact head: the portable definition (see [`crate::kernels::head`]).

use crate::kernels::head::{
    BLOCK, COARSE_BYTES, Coarse, FINE_LANES, GROUP, HeadKernel, Pack, Query, Shape, coarse_places,
};

pub const HEAD: HeadKernel =
    HeadKernel { id: "head.q4x2.scalar", level: crate::kernels::SimdLevel::Scalar, pack, coarse, fine };

pub fn pack(args: &mut Pack<'_>) {
    pack_with(args, round);
}

/// Packs a group; the bits of a row depend on its values and its number alone. `round` gives the coarse and the fine
/// codes of a block, as [`round`] does.
#[inline(always)]
pub fn pack_with(args: &mut Pack<'_>, round: impl Fn(&[f32; BLOCK], f32, u32) -> [[u8; BLOCK / 2]; 2]) {
    let Shape { columns } = args.shape;
    let (blocks, fine_bytes) = (args.shape.blocks(), args.shape.fine_bytes());
    args.coarse.fill(0);
    args.scales.fill(0.0);
    for (r, row) in args.rows.chunks_exact(columns).enumerate() {
        let largest = row.iter().fold(0f32, |largest, w| largest.max(w.abs()));
        // A little more than 1 / (15 * 255), so that no block needs a multiplier above 255.
        let scale = largest * (1.000_001 / 3825.0);
        args.scales[r] = scale;
        let (fine, fine_multipliers) =
            args.fine[r * fine_bytes..][..fine_bytes].split_at_mut(blocks * BLOCK / 2);
        for block in 0..blocks {
            let mut w = [0f32; BLOCK];
            let some = &row[block * BLOCK..columns.min((block + 1) * BLOCK)];
            w[..some.len()].copy_from_slice(some);
            let largest = w.iter().fold(0f32, |largest, w| largest.max(w.abs()));
            let c = if scale > 0.0 { (largest / (15.0 * scale)).ceil().min(255.0) } else { 0.0 };
            let [codes, multipliers] = coarse_places(block);
            (args.coarse[multipliers + r], fine_multipliers[block]) = (c as u8, c as u8);
            let inverse = if c > 0.0 { 1.0 / (scale * c) } else { 0.0 };
            let seed = ((args.first + r) as u32).wrapping_mul(0x9e37_79b9) ^ (block as u32 * BLOCK as u32);
            let [coarse, fine_codes] = round(&w, inverse, seed);
            for (four, codes_of_four) in coarse.as_chunks::<4>().0.iter().enumerate() {
                args.coarse[codes + (four * GROUP + r) * 4..][..4].copy_from_slice(codes_of_four);
            }
            fine[block * BLOCK / 2..][..BLOCK / 2].copy_from_slice(&fine_codes);
        }
    }
}

/// Coarse and fine codes of a block, column i below column i + 16: w times `inverse` is in -15..=15.
#[inline(always)]
pub fn round(w: &[f32; BLOCK], inverse: f32, seed: u32) -> [[u8; BLOCK / 2]; 2] {
    let (mut coarse, mut fine) = ([0; BLOCK], [0; BLOCK]);
    for i in 0..BLOCK {
        let random = hash(seed.wrapping_add(i as u32));
        // Two numbers in [0, 1) of sixteen bits each.
        let (up, fine_up) = ((random >> 16) as f32 / 65_536.0, (random & 0xffff) as f32 / 65_536.0);
        let value = w[i] * inverse;
        let q = (value.mul_add(0.5, 7.5) + up).clamp(0.0, 15.0) as i32;
        // The rest is in -2..=2; its grid has steps of 4/15.
        let rest = value - (2 * q - 15) as f32;
        let f = (rest.mul_add(3.75, 7.5) + fine_up).clamp(0.0, 15.0) as i32;
        (coarse[i], fine[i]) = (q as u8, f as u8);
    }
    [coarse, fine].map(|codes| std::array::from_fn(|i| codes[i] | codes[i + BLOCK / 2] << 4))
}

/// Thirty-two bits that look random (the finaliser of MurmurHash3).
#[inline(always)]
fn hash(x: u32) -> u32 {
    let x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

pub fn coarse(args: &mut Coarse<'_>) {
    let (blocks, bytes) = (args.shape.blocks(), args.shape.coarse_bytes());
    for (group, packed) in args.groups.chunks_exact(bytes).enumerate() {
        for (q, query) in args.queries.iter().enumerate() {
            let out = q * args.stride + group * GROUP;
            for r in 0..GROUP {
                let (mut score, mut square) = (0f32, 0f32);
                for block in 0..blocks {
                    let [codes, multipliers] = coarse_places(block);
                    let dot = coarse_dot(&packed[codes..][..COARSE_BYTES], r, query, block);
                    let c = f32::from(packed[multipliers + r]);
                    score = (dot as f32).mul_add(c * query.scales[block], score);
                    square = (c * c).mul_add(query.squares[block], square);
                }
                let scale = args.scales[group * GROUP + r];
                (args.scores[out + r], args.spreads[out + r]) = (scale * score, scale * square.sqrt());
                args.done += 1;
            }
        }
    }
}

/// The exact sum of (2q - 15) times the activation over a block of row `r`.
fn coarse_dot(codes: &[u8], r: usize, query: &Query, block: usize) -> i32 {
    let sum: i32 = (0..BLOCK)
        .map(|i| {
            let code = codes[(i % 16 / 4 * GROUP + r) * 4 + i % 4] >> (i / 16 * 4) & 15;
            i32::from(code) * activation(query, block * BLOCK + i)
        })
        .sum();
    2 * sum - query.sums[block]
}

fn fine(shape: Shape, row: &[u8], query: &Query) -> f32 {
    let (codes, multipliers) = row.split_at(shape.blocks() * BLOCK / 2);
    let mut sums = [0f32; FINE_LANES];
    for (block, (codes, c)) in codes.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(multipliers).enumerate() {
        let factor = f32::from(*c) * query.scales[block];
        for four in 0..BLOCK / 4 {
            let dot: i32 = (4 * four..4 * four + 4)
                .map(|i| i32::from(codes[i % 16] >> (i / 16 * 4) & 15) * activation(query, block * BLOCK + i))
                .sum();
            let dot = 2 * dot - query.fours[block * BLOCK / 4 + four];
            let sum = &mut sums[block % 2 * 8 + four];
            *sum = (dot as f32).mul_add(factor, *sum);
        }
    }
    add_up(sums)
}

/// Upper half onto lower half, four times.
pub fn add_up(sums: [f32; FINE_LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| sums[i] + sums[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

fn activation(query: &Query, i: usize) -> i32 {
    256 * i32::from(query.high[i]) + i32::from(query.low[i])
}
