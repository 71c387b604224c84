//! How the launches of a decoding step are cut: blocks, clusters, shared memory, and what kernels are told of it.
//!
//! In: rows, columns and positions, and what the device has. Out: a kernel's name and its [`Shape`]. The names of constants and
//! the layouts of shared memory are those of kernels/step_*.cu. Deliberately absent: launching (see [`super`]).

use super::super::driver::Device;
use super::super::kernels::Shape;
use super::NARROW;
use crate::engine::pages::PAGE;

/// Groups of 64 columns that a block takes at most, as CHUNKS in kernels/step_gemm.cu has them.
const GROUPS: usize = 14;
/// Positions of which two chunks of values lie in shared memory.
const CHUNK: usize = 128;
/// Rows of the head of one block of step_pick.
const PICK: usize = 8192;
/// Rows of the head in the smallest tile of step_scores.
pub const HEAD_TILE: usize = 128;

/// The launch of a product of up to [`NARROW`] rows: see kernels/step_gemm.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    pub cluster: usize,
    clusters: usize,
    pub tiles: usize,
    pub round: usize,
    shared: usize,
}

impl Narrow {
    pub fn shape(&self) -> Shape {
        Shape::new((self.clusters * self.cluster, 1, 1), 256, self.shared)
    }
}

/// Shared memory that kernels have of their own, at most.
const STATIC: usize = 9 << 10;

pub fn narrow(device: &Device, n: usize, k: usize, matrices: usize) -> Option<Narrow> {
    cut_narrow(device.multiprocessors as usize, device.shared_limit - STATIC, n, k, matrices)
}

/// `None` where the columns are too many, or what a block needs is too much.
fn cut_narrow(
    multiprocessors: usize,
    shared_limit: usize,
    n: usize,
    k: usize,
    matrices: usize,
) -> Option<Narrow> {
    let groups = k / 64;
    let fits = |c: &usize| groups.div_ceil(*c) <= GROUPS && (*c >= 4 || groups < 4 * c);
    let cluster = [1, 2, 4, 8].into_iter().find(fits)?;
    let all = n.div_ceil(16);
    let tiles = all.div_ceil((multiprocessors / cluster).max(1));
    let most = groups.div_ceil(cluster);
    let weights = (matrices * tiles * 16 * (most | 1) * 16).next_multiple_of(1024);
    // Sums of a tile: eight rows, sixteen and a pad of four.
    let sums = |round: usize| matrices * cluster * round.div_ceil(cluster) * NARROW * 20 * 4;
    let shared = |round: usize| weights + most.div_ceil(2) * NARROW * 128 + sums(round);
    let round =
        (1..=tiles).map(|rounds| tiles.div_ceil(rounds)).find(|round| shared(*round) <= shared_limit)?;
    Some(Narrow { cluster, clusters: all.div_ceil(tiles), tiles, round, shared: shared(round) })
}

/// The launch of a product of one row: see kernels/step_gemv.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Single {
    /// Warps that share the columns of a set of rows.
    pub parts: usize,
    /// Rows of a set that shared memory has room for.
    pub slots: usize,
    pub shape: Shape,
}

pub fn single(device: &Device, n: usize, k: usize, matrices: usize) -> Option<Single> {
    cut_single(device.multiprocessors as usize, device.shared_limit - STATIC, n, k, matrices)
}

/// `None` where there are too many rows or columns. Two launches are to be on a multiprocessor at once.
fn cut_single(
    multiprocessors: usize,
    shared_limit: usize,
    n: usize,
    k: usize,
    matrices: usize,
) -> Option<Single> {
    // As in the kernel.
    const THREADS: usize = 512;
    const WARPS: usize = THREADS / 32;
    const CHUNKS: usize = 7;
    let blocks = n.min(multiprocessors);
    let (chunks, rows) = (k.div_ceil(512), n.div_ceil(blocks));
    let parts = chunks.div_ceil(CHUNKS).next_power_of_two();
    let sets = WARPS.checked_div(parts).filter(|sets| *sets > 0 && rows <= THREADS)?;
    // What lanes read behind the end of a row belongs to the block, and is multiplied by zero.
    let fixed = chunks.next_multiple_of(parts) * 512 + matrices * rows * 4 + 128 + 128 * parts;
    let slot = sets * (matrices * k / 4 + 16);
    let slots = ((shared_limit / 2).checked_sub(fixed)? / slot).min(rows.div_ceil(sets));
    let shape = Shape::new((blocks, 1, 1), THREADS as u32, fixed + slots * slot);
    (slots >= rows.div_ceil(sets).min(2)).then_some(Single { parts, slots, shape })
}

/// The launch of a product of more rows: see kernels/step_wide.cu.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    /// Rows that the kernel is made for.
    pub rows: usize,
    pub stages: usize,
    /// Blocks that share the columns of a tile.
    pub parts: usize,
    pub shape: Shape,
}

impl Wide {
    pub fn name(&self, which: &str) -> String {
        let parts = if self.parts == 1 { "" } else { "_2" };
        format!("step_wide_{}_{which}{parts}", self.rows)
    }
}

pub fn wide(device: &Device, n: usize, k: usize, m: usize, matrices: usize, parts: usize) -> Option<Wide> {
    cut_wide(device.shared_limit - STATIC, n, k, m, matrices, parts)
}

/// Two blocks for a tile of long rows, where there are multiprocessors for them: the exchange of sums costs a microsecond.
pub fn parts(device: &Device, which: &str, n: usize, k: usize) -> usize {
    let pays = which == "add" && k >= 4096 && 2 * n.div_ceil(64) <= device.multiprocessors as usize;
    if pays { 2 } else { 1 }
}

fn cut_wide(
    shared_limit: usize,
    n: usize,
    k: usize,
    m: usize,
    matrices: usize,
    parts: usize,
) -> Option<Wide> {
    // Warpgroups; rows of a tile; bytes between the sums of two tokens.
    const TEAMS: usize = 4;
    const TILE: usize = 64;
    const PITCH: usize = 4 * (TILE + 4);
    let rows = m.next_power_of_two().max(16);
    let turns = k.div_ceil(128).div_ceil(TEAMS * parts);
    let weights = matrices * TILE * (turns * TEAMS * 32 + 16);
    let received = if parts == 1 { 0 } else { rows / 2 * PITCH };
    let stage = TEAMS * rows * 128;
    let stages = turns.min(shared_limit.checked_sub(weights + received)? / stage).min(16);
    // Sums of the teams take the place of activations and weights at the end.
    let shared = (weights + stages * stage).max(TEAMS * matrices * rows * PITCH) + received;
    let fits = n.is_multiple_of(TILE) && stages > 0 && shared <= shared_limit && k <= 8192;
    let shape = Shape::new((n / TILE * parts, 1, 1), 512, shared);
    fits.then_some(Wide { rows, stages, parts, shape })
}

/// The kernel that quantizes `m` rows of `k` for a product, and its launch. Before gate and up, whose blocks are nearly as many
/// as multiprocessors, few blocks, so that those can begin.
pub fn quantize(m: usize, k: usize, which: &str) -> (&'static str, Shape) {
    if which == "gate_up" && k <= 3072 {
        ("step_quantize_4", Shape::new((m.div_ceil(4), 1, 1), 1024, 0))
    } else {
        ("step_quantize", Shape::new((m, 1, 1), 512, 0))
    }
}

/// How the choice of a token is launched: see kernels/step_rows.cu.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    pub name: &'static str,
    pub shape: Shape,
    /// Of step_pick.
    pub pick: Shape,
    /// Rows of the head of a block.
    pub tile: usize,
    /// As in the kernel's parameters.
    pub split_tokens: usize,
}

impl Scores {
    pub fn of(m: usize, vocab: usize, hidden: usize) -> Self {
        const STAGES: usize = 4;
        let (name, tile, split_tokens) = match m {
            0..=8 => ("step_scores_8", 2 * HEAD_TILE, 0),
            9..=32 => ("step_scores_32", HEAD_TILE, 32),
            _ => ("step_scores_64", HEAD_TILE, 64),
        };
        let shape = Shape::new((vocab.div_ceil(tile), 1, 1), 256, STAGES * 2 * split_tokens * 128);
        let pick = Shape::new((vocab.div_ceil(PICK), m, 1), 256, 4 * hidden);
        Scores { name, shape, pick, tile, split_tokens }
    }
}

/// How attention is cut.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Of the kernel, after the head dimension.
    pub name: &'static str,
    /// Blocks of one cluster.
    pub splits: usize,
    pub shape: Shape,
    /// Positions of one block.
    pub places: usize,
    /// Positions whose values are copied at once.
    pub chunk: usize,
}

/// `None` where a block would need too much. `heads` are the query heads, the KV heads and their dimension.
pub fn attention(
    device: &Device,
    m: usize,
    positions: usize,
    heads: (usize, usize, usize),
) -> Option<Attention> {
    let multiprocessors = device.multiprocessors as usize;
    let units = m * heads.1;
    let name = match positions {
        0..=256 if m * heads.0 <= 2 * multiprocessors => "1_one",
        0..=CHUNK if units > 2 * multiprocessors => "1_short",
        0..=256 => "1",
        257..=1024 if 4 * units > 2 * multiprocessors => "1",
        _ => "4",
    };
    let cut = cut_attention(name, m, positions, heads);
    let fits = positions <= 512 * PAGE && cut.shape.shared as usize + (16 << 10) <= device.shared_limit;
    fits.then_some(cut)
}

pub fn cut_attention(
    name: &'static str,
    m: usize,
    positions: usize,
    (heads, kv_heads, dim): (usize, usize, usize),
) -> Attention {
    let (splits, together) = match name {
        "1_one" => (1, 1),
        "1" | "1_short" => (1, 4),
        _ => (4, 4),
    };
    let places = positions.div_ceil(splits).next_multiple_of(64);
    let chunk = CHUNK.min(places);
    let chunks = if places > chunk { 2 } else { 1 };
    let weights = places * together * if splits == 4 { 6 } else { 4 };
    let grid = (splits, if together == 1 { heads } else { kv_heads }, m);
    Attention {
        name,
        splits,
        shape: Shape::new(grid, 256, weights + chunks * chunk * dim * 2),
        places,
        chunk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = (227 << 10) - STATIC;

    #[test]
    fn products_of_the_2b_model_fit_and_cover_every_row() {
        for (n, k, matrices) in [(3840, 2560, 1), (2560, 2560, 1), (6912, 2560, 2), (2560, 6912, 1)] {
            let p = cut_narrow(132, LIMIT, n, k, matrices).expect("it fits");
            assert!(p.clusters * p.tiles * 16 >= n && (p.clusters - 1) * p.tiles * 16 < n, "{p:?}");
            assert!(p.clusters * p.cluster <= 132 && p.shared <= LIMIT && p.round == p.tiles, "{p:?}");
            for m in [9, 17, 64] {
                for parts in 1..=3 - matrices {
                    let w = cut_wide(LIMIT, n, k, m, matrices, parts).expect("it fits");
                    assert!(w.rows >= m && w.shape.shared as usize <= LIMIT && w.stages >= 2, "{w:?}");
                }
            }
        }
        assert_eq!(cut_narrow(132, LIMIT, 64, 64, 1).map(|p| p.cluster), Some(1));
        let cut = |n, k, matrices| {
            cut_single(132, LIMIT, n, k, matrices).map(|s| (s.shape.grid.0, s.parts, s.slots))
        };
        assert_eq!(cut(6912, 2560, 2), Some((132, 1, 4)), "all rows are fetched ahead");
        assert_eq!(cut(2560, 6912, 1), Some((132, 2, 3)), "all rows are fetched ahead");
        assert_eq!(cut(14_336, 4096, 2), Some((132, 2, 6)), "rings of six of fourteen rows");
        assert_eq!(cut(4096, 14_336, 1), Some((132, 4, 6)), "rings of six of eight rows");
        assert_eq!(cut(64, 64, 1), Some((64, 1, 1)));
        assert_eq!(cut(64, 131_072, 1), None, "too many columns");
        assert_eq!(cut_narrow(132, LIMIT, 2560, 16_384, 1), None, "too many columns");
        assert!(cut_wide(LIMIT, 2560, 16_384, 9, 1, 1).is_none(), "too many columns");
    }

    #[test]
    fn chunks_of_values_are_whole_turns_of_32_positions() {
        for (name, positions) in [("1_one", 128), ("1_short", 128), ("1", 256), ("4", 1024), ("4", 16_384)] {
            let cut = cut_attention(name, 3, positions, (20, 5, 128));
            assert!(
                cut.places * cut.splits >= positions && cut.chunk.is_multiple_of(32 / cut.splits),
                "{cut:?}"
            );
            assert!(cut.shape.shared < 200 << 10, "{cut:?}");
        }
    }
}
