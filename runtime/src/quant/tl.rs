//! TL1 and TL2, bitnet.cpp's ternary tensors for look-up tables: tiles, packing and unpacking.
//!
//! In: the codes (-1, 0, 1) of a whole tensor, or its bytes, and the sizes of its tiles ([`TlTile`]), which a file does
//! not hold: [`TlConfig`] has those of bitnet.cpp's presets and what the user says. Out: bytes or codes. Deliberately
//! absent: products; a tensor is unpacked when a model is loaded (see [`crate::model`]).
//!
//! TL1 packs two weights a, b as the nibble 3a + b + 4. TL2 packs three as the nibble |9a + 3b + c| and the sign of that
//! sum in a plane of its own; the columns that are left after the last whole tile are packed in pairs as in TL1. Rows
//! are cut into tiles of BM, columns into tiles of BK, and a tile into what a kernel takes at a time: see `Walk` and
//! docs/explanation/formats.md. The tensor's f32 scale follows, at a multiple of 32 bytes.
//!
//! Source: bitnet.cpp utils/convert-hf-to-gguf-bitnet.py (`preprocess_weights_tl1` and `_tl2`), utils/codegen_tl1.py,
//! utils/codegen_tl2.py and preset_kernels.

use super::i2s;
use crate::tensor::TensorType;

/// The metadata key in which this project's writers keep the tile sizes of a file's tensors, as [`TlConfig::parse`]
/// takes them. Other readers ignore it.
pub const CONFIG_KEY: &str = "bitforge.tl_config";

/// How tensors of one shape are tiled; the names are those of bitnet.cpp's kernel_config.ini.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlTile {
    /// Rows of the tensor.
    pub m: usize,
    /// Columns of the tensor.
    pub k: usize,
    /// Rows of a tile.
    pub bm: usize,
    /// Columns of a tile.
    pub bk: usize,
    /// Rows of a tile that a TL1 kernel takes at a time: 32 or 64. TL2 kernels take 32, whatever this says.
    pub bmm: usize,
}

/// Why a tensor cannot be packed or unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlError {
    #[error("byte {byte} of the tensor has a nibble that stands for no weights")]
    InvalidNibble { byte: usize },
    #[error("the tiles {bm},{bk},{bmm} do not divide {m} rows of {k} as {ty} needs", bm = tile.bm, bk = tile.bk, bmm = tile.bmm, m = tile.m, k = tile.k)]
    Misfit { ty: TensorType, tile: TlTile },
}

/// Tile sizes by shape: what was given, then the presets of bitnet.cpp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlConfig(Vec<TlTile>);

const fn tile(m: usize, k: usize, bm: usize, bk: usize, bmm: usize) -> TlTile {
    TlTile { m, k, bm, bk, bmm }
}

/// bitnet_b1_58-3B, bitnet_b1_58-large, Llama3-8B-1.58-100B-tokens.
const TL1_PRESETS: [TlTile; 10] = [
    tile(3200, 8640, 160, 64, 32),
    tile(3200, 3200, 320, 128, 64),
    tile(8640, 3200, 320, 64, 32),
    tile(1536, 4096, 256, 128, 32),
    tile(1536, 1536, 128, 64, 64),
    tile(4096, 1536, 256, 128, 32),
    tile(14336, 4096, 256, 128, 64),
    tile(4096, 14336, 256, 128, 32),
    tile(1024, 4096, 128, 64, 64),
    tile(4096, 4096, 128, 64, 32),
];
const TL2_PRESETS: [TlTile; 10] = [
    tile(3200, 8640, 160, 96, 32),
    tile(3200, 3200, 320, 96, 32),
    tile(8640, 3200, 320, 96, 32),
    tile(1536, 4096, 256, 96, 32),
    tile(1536, 1536, 128, 192, 32),
    tile(4096, 1536, 256, 96, 32),
    tile(14336, 4096, 256, 96, 32),
    tile(4096, 14336, 128, 96, 32),
    tile(1024, 4096, 256, 96, 32),
    tile(4096, 4096, 128, 96, 32),
];

impl TlConfig {
    /// `text` is MxK:BM,BK,BMM per shape, with semicolons between shapes, or the content of a kernel_config.ini.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tiles = if text.trim_start().starts_with('[') { ini(text) } else { specs(text) }?;
        match tiles.iter().find(|t| [t.m, t.k, t.bm, t.bk, t.bmm].contains(&0)) {
            Some(tile) => Err(format!("a size of 0 for the shape {}x{}", tile.m, tile.k)),
            None => Ok(TlConfig(tiles)),
        }
    }

    /// Tile sizes for tensors of `m` rows of `k` weights.
    pub fn find(&self, ty: TensorType, m: usize, k: usize) -> Option<TlTile> {
        let presets = if ty == TensorType::TL1 { &TL1_PRESETS } else { &TL2_PRESETS };
        self.0.iter().chain(presets).find(|tile| (tile.m, tile.k) == (m, k)).copied()
    }

    /// Shapes of `self`, then of `other`.
    pub fn or(mut self, other: TlConfig) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl std::fmt::Display for TlConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, TlTile { m, k, bm, bk, bmm }) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ";" };
            write!(f, "{separator}{m}x{k}:{bm},{bk},{bmm}")?;
        }
        Ok(())
    }
}

impl FromIterator<TlTile> for TlConfig {
    fn from_iter<I: IntoIterator<Item = TlTile>>(tiles: I) -> Self {
        TlConfig(tiles.into_iter().collect())
    }
}

fn specs(text: &str) -> Result<Vec<TlTile>, String> {
    let spec = |spec: &str| {
        let numbers: Option<Vec<usize>> =
            spec.split([':', ',', 'x']).map(|number| number.trim().parse().ok()).collect();
        let separators: String = spec.chars().filter(|c| matches!(c, 'x' | ':' | ',')).collect();
        match (numbers.as_deref(), separators.as_str()) {
            (Some(&[m, k, bm, bk, bmm]), "x:,,") => Ok(TlTile { m, k, bm, bk, bmm }),
            _ => Err(format!("'{spec}' is not MxK:BM,BK,BMM")),
        }
    };
    text.split(';').map(str::trim).filter(|part| !part.is_empty()).map(spec).collect()
}

fn ini(text: &str) -> Result<Vec<TlTile>, String> {
    let mut tiles: Vec<TlTile> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            tiles.push(tile(0, 0, 0, 0, 0));
            continue;
        }
        let wrong = || format!("the line '{line}' is not one of m, k, bm, bk or bmm = NUMBER");
        let (key, value) = line.split_once('=').ok_or_else(wrong)?;
        let tile = tiles.last_mut().expect("the text starts with a section");
        let size = match key.trim().to_ascii_lowercase().as_str() {
            "m" => &mut tile.m,
            "k" => &mut tile.k,
            "bm" => &mut tile.bm,
            "bk" => &mut tile.bk,
            "bmm" => &mut tile.bmm,
            _ => return Err(wrong()),
        };
        *size = value.trim().parse().map_err(|_| wrong())?;
    }
    Ok(tiles)
}

impl TlTile {
    /// Whether tensors of type `ty` can be tiled so.
    ///
    /// # Errors
    /// [`TlError::Misfit`].
    pub fn check(&self, ty: TensorType) -> Result<(), TlError> {
        let TlTile { m, k, bm, bk, bmm } = *self;
        let divides = |part: usize, whole: usize| part > 0 && whole.is_multiple_of(part);
        let fits = match ty {
            TensorType::TL1 => {
                matches!(bmm, 32 | 64) && divides(bmm, bm) && divides(256 / bmm, bk) && divides(bk, k)
            }
            // The size of a TL2 tensor leaves room for no more than 256 columns in pairs.
            _ => divides(32, bm) && divides(24, bk) && k >= 256 && k % bk <= 256 && divides(32, k % bk + 32),
        };
        if fits && divides(bm, m) { Ok(()) } else { Err(TlError::Misfit { ty, tile: *self }) }
    }

    /// The columns that TL2 packs in threes; the rest is packed in pairs.
    fn three_columns(&self) -> usize {
        self.k - self.k % self.bk
    }

    fn pairs_tl1(&self) -> Walk {
        Walk {
            m: self.m,
            bm: self.bm,
            bk: self.bk,
            strip: self.bmm,
            step: 256 / self.bmm,
            lane: 16,
            width: 4,
        }
    }

    fn triples(&self) -> Walk {
        Walk { m: self.m, bm: self.bm, bk: self.bk, strip: 32, step: 6, lane: 32, width: 6 }
    }

    fn pairs_tl2(&self) -> Walk {
        Walk { bk: 32, step: 4, width: 4, ..self.triples() }
    }
}

/// The order of a plane's bytes, each of which holds `width` weights of a row: tiles of `bm` rows, in them tiles of
/// `bk` columns, in them strips of `strip` rows, in them steps of `step` columns, in them groups of `lane` rows, in them
/// runs of `width` columns, row after row.
#[derive(Clone, Copy)]
struct Walk {
    m: usize,
    bm: usize,
    bk: usize,
    strip: usize,
    step: usize,
    lane: usize,
    width: usize,
}

impl Walk {
    /// Calls `visit(byte, row, first column)` for the bytes of a plane over `columns` columns, in order. Planes of TL2
    /// (lanes of 32) have the second and third eight rows of a lane exchanged, for the kernel's unpack instructions.
    fn each(&self, columns: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let Walk { m, bm, bk, strip, step, lane, width } = *self;
        let place = |r: usize| if lane == 32 && (8..24).contains(&r) { r ^ 24 } else { r };
        let mut byte = 0;
        for (row, column) in in_steps(m, bm).flat_map(|row| in_steps(columns, bk).map(move |c| (row, c))) {
            for (row, column) in
                in_steps(bm, strip).flat_map(|r| in_steps(bk, step).map(move |c| (row + r, column + c)))
            {
                for (row, column) in in_steps(strip, lane)
                    .flat_map(|r| in_steps(step, width).map(move |c| (row + r, column + c)))
                {
                    for r in 0..lane {
                        visit(byte, row + place(r), column);
                        byte += 1;
                    }
                }
            }
        }
    }
}

fn in_steps(end: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..end).step_by(step)
}

/// A whole tensor of type `ty` (TL1 or TL2) from `codes` [tile.m, tile.k], with its trailer.
///
/// # Errors
/// Tiles that do not fit the type. Panics unless there are as many codes as the shape has.
pub fn pack(ty: TensorType, codes: &[i8], tile: &TlTile, scale: f32) -> Result<Vec<u8>, TlError> {
    tile.check(ty)?;
    assert_eq!(codes.len(), tile.m * tile.k);
    let len = ty.tensor_bytes(&[tile.k as u64, tile.m as u64]).expect("a shape that has tiles has a size");
    let mut bytes = vec![0; len as usize];
    let pair = |at: usize| (3 * codes[at] + codes[at + 1] + 4) as u8;
    let k = tile.k;
    if ty == TensorType::TL1 {
        tile.pairs_tl1().each(k, |byte, row, column| {
            let at = row * k + column;
            bytes[byte] = pair(at) << 4 | pair(at + 2);
        });
    } else {
        let three_k = tile.three_columns();
        let (signs, pairs) = planes(tile);
        tile.triples().each(three_k, |byte, row, column| {
            let triple = |at: usize| 9 * codes[at] + 3 * codes[at + 1] + codes[at + 2];
            let (high, low) = (triple(row * k + column), triple(row * k + column + 3));
            bytes[byte] = high.unsigned_abs() << 4 | low.unsigned_abs();
            for (n, value) in [high, low].into_iter().enumerate() {
                let (word, bit) = sign_place(tile, row, column / 3 + n);
                bytes[signs + 2 * word + bit / 8] |= u8::from(value < 0) << (bit % 8);
            }
        });
        tile.pairs_tl2().each(k - three_k, |byte, row, column| {
            let at = row * k + three_k + column;
            bytes[pairs + byte] = pair(at) << 4 | pair(at + 2);
        });
    }
    let trailer = bytes.len() - i2s::TRAILER;
    bytes[trailer..].copy_from_slice(&i2s::trailer(scale));
    Ok(bytes)
}

/// The codes [tile.m, tile.k] of a tensor, row after row; [`i2s::scale`] has the scale, which lies as in I2_S.
///
/// # Errors
/// Tiles that do not fit the type, or a nibble that no weights have. Panics unless `bytes` has the tensor's size.
pub fn unpack(ty: TensorType, bytes: &[u8], tile: &TlTile) -> Result<Vec<i8>, TlError> {
    tile.check(ty)?;
    assert_eq!(Some(bytes.len() as u64), ty.tensor_bytes(&[tile.k as u64, tile.m as u64]));
    let k = tile.k;
    let mut codes = vec![0i8; tile.m * k];
    let mut invalid = None;
    let mut pair = |codes: &mut [i8], at: usize, byte: usize| {
        let [a, b, c, d] = &mut codes[at..at + 4] else { unreachable!("four columns") };
        let (high, low) = (bytes[byte] >> 4, bytes[byte] & 15);
        if high > 8 || low > 8 {
            invalid.get_or_insert(byte);
        }
        for (nibble, first, second) in [(high, a, b), (low, c, d)] {
            (*first, *second) = (nibble as i8 / 3 - 1, nibble as i8 % 3 - 1);
        }
    };
    if ty == TensorType::TL1 {
        tile.pairs_tl1().each(k, |byte, row, column| pair(&mut codes, row * k + column, byte));
    } else {
        let three_k = tile.three_columns();
        let (signs, pairs) = planes(tile);
        tile.pairs_tl2().each(k - three_k, |byte, row, column| {
            pair(&mut codes, row * k + three_k + column, pairs + byte);
        });
        tile.triples().each(three_k, |byte, row, column| {
            for (n, value) in [bytes[byte] >> 4, bytes[byte] & 15].into_iter().enumerate() {
                if value > 13 {
                    invalid.get_or_insert(byte);
                }
                let (word, bit) = sign_place(tile, row, column / 3 + n);
                let sign = 1 - 2 * (bytes[signs + 2 * word + bit / 8] >> (bit % 8) & 1) as i8;
                // In base 3 with the digits 0, 1, 2 the value plus 13 has each digit one higher.
                let digits = (value.min(13) as i8) * sign + 13;
                let at = row * k + column + 3 * n;
                codes[at..at + 3].copy_from_slice(&[digits / 9 - 1, digits / 3 % 3 - 1, digits % 3 - 1]);
            }
        });
    }
    invalid.map_or(Ok(codes), |byte| Err(TlError::InvalidNibble { byte }))
}

/// Where TL2's signs and pairs start, in bytes.
fn planes(tile: &TlTile) -> (usize, usize) {
    let weights = tile.m * tile.three_columns();
    (weights / 6, weights / 6 + weights / 24)
}

/// Where TL2 keeps the sign of triple `triple` of a row: the number of a little-endian u16, and a bit of it. A word
/// belongs to rows r and r + 16 of a strip and to eight triples, which take turns from the highest bit down.
fn sign_place(tile: &TlTile, row: usize, triple: usize) -> (usize, usize) {
    let TlTile { bm, bk, .. } = *tile;
    let (strip_row, eight) = (row % bm % 32, triple % (bk / 3) / 8);
    let tile_number = row / bm * (tile.three_columns() / bk) + triple / (bk / 3);
    let strips = (tile_number * (bm / 32) + row % bm / 32) * (bk / 24) + eight;
    (strips * 16 + strip_row % 16, 15 - (2 * (triple % 8) + strip_row / 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codes(len: usize, mut state: u64) -> Vec<i8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % 3) as i8 - 1
        };
        (0..len).map(next).collect()
    }

    proptest! {
        #[test]
        fn codes_round_trip(
            seed: u64,
            scale: f32,
            (tiles, strips, steps) in (1usize..3, 1usize..4, 1usize..4),
            (wide, bmm) in (11usize..17, prop_oneof![Just(32usize), Just(64)]),
        ) {
            let tl1 = TlTile { m: tiles * strips * 64, k: steps * 32 * 3, bm: strips * 64, bk: steps * 32, bmm };
            let tl2 = TlTile { m: tiles * strips * 32, k: wide * 32, bm: strips * 32, bk: 96, bmm: 32 };
            for (ty, tile) in [(TensorType::TL1, tl1), (TensorType::TL2, tl2)] {
                let codes = codes(tile.m * tile.k, seed);
                let bytes = pack(ty, &codes, &tile, scale).unwrap();
                prop_assert_eq!(unpack(ty, &bytes, &tile).unwrap(), codes);
                prop_assert_eq!(i2s::scale(&bytes).to_bits(), scale.to_bits());
            }
        }

        #[test]
        fn any_bytes_are_codes_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 64), fill: u8) {
            let tile = TlTile { m: 32, k: 320, bm: 32, bk: 96, bmm: 32 };
            for ty in [TensorType::TL1, TensorType::TL2] {
                let tile = TlTile { bk: if ty == TensorType::TL1 { 64 } else { 96 }, ..tile };
                let len = ty.tensor_bytes(&[320, 32]).unwrap() as usize;
                let mut packed = vec![fill % 9 * 17; len];
                packed[..64].copy_from_slice(&bytes);
                match unpack(ty, &packed, &tile) {
                    Ok(codes) => prop_assert!(codes.iter().all(|code| (-1..=1).contains(code))),
                    Err(TlError::InvalidNibble { byte }) => prop_assert!(byte < len),
                    Err(misfit) => prop_assert!(false, "{misfit}"),
                }
            }
        }
    }

    #[test]
    fn presets_and_given_tiles_are_found_by_shape() {
        let given = TlConfig::parse("256x512:128,64,32; 3200x3200:160,96,32").unwrap();
        assert_eq!(given.find(TensorType::TL2, 256, 512), Some(tile(256, 512, 128, 64, 32)));
        assert_eq!(given.find(TensorType::TL2, 3200, 3200).unwrap().bm, 160);
        assert_eq!(given.find(TensorType::TL2, 2560, 2560), None);
        assert_eq!(TlConfig::parse(&given.to_string()).as_ref(), Ok(&given));
        let both = given.or(TlConfig::parse("256x512:1,2,3;7x8:4,5,6").unwrap());
        assert_eq!(
            both.find(TensorType::TL2, 256, 512),
            Some(tile(256, 512, 128, 64, 32)),
            "the first counts"
        );
        assert_eq!(both.find(TensorType::TL2, 7, 8), Some(tile(7, 8, 4, 5, 6)));
        let collected: TlConfig = [tile(7, 8, 4, 5, 6)].into_iter().collect();
        assert_eq!(collected.to_string(), "7x8:4,5,6");
        let ini = "[Kernels_0]\nm = 256\nk = 512\nbm = 128\nbk = 64\nbmm = 32\n\n[Kernels_1]\nM=1\nK=2\nBM=3\nBK=4\nbmm=5\n";
        assert_eq!(TlConfig::parse(ini).unwrap().to_string(), "256x512:128,64,32;1x2:3,4,5");
        let unset = TlConfig::default();
        assert_eq!(unset.find(TensorType::TL1, 3200, 8640).unwrap().bk, 64);
        for (ty, presets) in [(TensorType::TL1, TL1_PRESETS), (TensorType::TL2, TL2_PRESETS)] {
            presets.iter().for_each(|tile| tile.check(ty).unwrap());
        }
    }

    #[test]
    fn configs_that_say_nothing_are_refused() {
        for (text, part) in [
            ("256x512", "'256x512' is not MxK:BM,BK,BMM"),
            ("256,512:1x2,3", "is not MxK"),
            ("256x512:0,64,32", "a size of 0 for the shape 256x512"),
            ("[a]\nm = 5", "a size of 0"),
            ("[a]\nm: 5", "the line 'm: 5'"),
            ("[a]\nrows = 5", "the line 'rows = 5'"),
        ] {
            let error = TlConfig::parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn one_nibble_of_a_byte_that_stands_for_nothing_is_enough() {
        let tile = tile(256, 256, 128, 64, 32);
        for wrong in [0x90, 0x09] {
            let mut bytes = pack(TensorType::TL1, &[0; 256 * 256], &tile, 1.0).unwrap();
            bytes[5] = wrong;
            assert_eq!(unpack(TensorType::TL1, &bytes, &tile), Err(TlError::InvalidNibble { byte: 5 }));
        }
    }

    #[test]
    fn tiles_that_do_not_divide_are_refused() {
        let misfit = |ty, tile: TlTile| matches!(tile.check(ty), Err(TlError::Misfit { .. }));
        assert!(misfit(TensorType::TL1, tile(256, 256, 96, 64, 32)));
        assert!(misfit(TensorType::TL1, tile(256, 256, 128, 64, 48)));
        assert!(
            misfit(TensorType::TL1, tile(256, 256, 128, 64, 16)),
            "16 divides all, and is no size of bitnet.cpp's"
        );
        assert!(
            misfit(TensorType::TL2, tile(256, 256, 128, 64, 32)),
            "64 columns are no whole threes and signs"
        );
        assert!(misfit(TensorType::TL2, tile(256, 128, 128, 96, 32)), "fewer than 256 columns");
        assert!(misfit(TensorType::TL2, tile(256, 600, 128, 312, 32)), "288 columns in pairs");
        assert!(misfit(TensorType::TL2, tile(256, 300, 128, 96, 32)), "12 columns in pairs");
        assert_eq!(tile(256, 320, 128, 72, 32).check(TensorType::TL2), Ok(()), "32 columns in pairs");
    }
}
