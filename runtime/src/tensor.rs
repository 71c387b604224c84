//! Tensor element types of GGUF files: ids, block shapes and byte sizes.
//!
//! Source: ggml's `ggml_type` enumeration and block structs; I2_S (36), TL1 (38) and TL2 (39) from bitnet.cpp's fork.
//! Deliberately absent: decoding (see [`crate::quant`]) and matrix products (see [`crate::kernels`]).

use std::fmt;

/// A type this runtime can decode and multiply. The discriminant is the id in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum TensorType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    I2S = 36,
    /// Only in files: converted when a model is loaded, as [`TensorType::TL2`] is (see [`crate::quant::tl`]).
    TL1 = 38,
    TL2 = 39,
    Q2_0 = 42,
}

impl TensorType {
    pub const ALL: [TensorType; 19] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2K,
        TensorType::Q3K,
        TensorType::Q4K,
        TensorType::Q5K,
        TensorType::Q6K,
        TensorType::BF16,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::I2S,
        TensorType::TL1,
        TensorType::TL2,
        TensorType::Q2_0,
    ];

    /// The types whose rows lie one after the other, in order of ids: all but the tiled ones. Kernels multiply these.
    pub fn with_rows() -> impl Iterator<Item = TensorType> {
        Self::ALL.into_iter().filter(|ty| !ty.is_tiled())
    }

    /// The type with this id, `None` for ids this runtime does not read. Some ids mean another type in another
    /// project's files: [`crate::gguf::TensorInfo`] says what one means in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| *ty as u32 == id)
    }

    pub const fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q5_1 => "Q5_1",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q2K => "Q2_K",
            TensorType::Q3K => "Q3_K",
            TensorType::Q4K => "Q4_K",
            TensorType::Q5K => "Q5_K",
            TensorType::Q6K => "Q6_K",
            TensorType::BF16 => "BF16",
            TensorType::TQ1_0 => "TQ1_0",
            TensorType::TQ2_0 => "TQ2_0",
            TensorType::I2S => "I2_S",
            TensorType::TL1 => "TL1",
            TensorType::TL2 => "TL2",
            TensorType::Q2_0 => "Q2_0",
        }
    }

    /// `general.file_type` of a model whose matrices are mostly of this type: llama.cpp's `llama_ftype`, and bitnet.cpp's
    /// for I2_S, TL1 and TL2. K-quants are called pure (small) where llama.cpp has several mixtures.
    pub const fn file_type(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q4_1 => 3,
            TensorType::Q8_0 => 7,
            TensorType::Q5_0 => 8,
            TensorType::Q5_1 => 9,
            TensorType::Q2K => 10,
            TensorType::Q3K => 11,
            TensorType::Q4K => 14,
            TensorType::Q5K => 16,
            TensorType::Q6K => 18,
            TensorType::BF16 => 32,
            TensorType::TQ1_0 => 36,
            TensorType::TQ2_0 => 37,
            TensorType::TL1 => 38,
            TensorType::TL2 => 39,
            TensorType::I2S => 40,
            TensorType::Q2_0 => 41,
        }
    }

    /// (weights per block, bytes per block). Rows are whole blocks, except in the tiled types, where this is the
    /// density. I2_S counts its 128-weight groups here; its tensor-wide scale is in [`Self::trailer_bytes`].
    pub const fn block(self) -> (usize, usize) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q5_0 => (32, 22),
            TensorType::Q5_1 => (32, 24),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q2K => (256, 84),
            TensorType::Q3K => (256, 110),
            TensorType::Q4K => (256, 144),
            TensorType::Q5K => (256, 176),
            TensorType::Q6K => (256, 210),
            TensorType::TQ1_0 => (256, 54),
            TensorType::TQ2_0 => (256, 66),
            TensorType::I2S => (128, 32),
            TensorType::TL1 => (4, 1),
            TensorType::TL2 => (24, 5),
            TensorType::Q2_0 => (64, 18),
        }
    }

    /// Bytes after the last row that belong to the whole tensor (one f32 scale and padding).
    pub const fn trailer_bytes(self) -> usize {
        match self {
            TensorType::I2S | TensorType::TL1 | TensorType::TL2 => 32,
            _ => 0,
        }
    }

    /// Types made for weights that are -1, 0 or +1 times a scale.
    pub const fn is_ternary(self) -> bool {
        matches!(self, TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::I2S | TensorType::Q2_0)
            || self.is_tiled()
    }

    /// Types that store tiles of several rows, in an order that only the tile sizes tell.
    pub const fn is_tiled(self) -> bool {
        matches!(self, TensorType::TL1 | TensorType::TL2)
    }

    /// Bytes of one row of `elements` weights, `None` where that is not a whole number of blocks or overflows, or
    /// where the type has no rows.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        let (weights, bytes) = self.block();
        if self.is_tiled() || !elements.is_multiple_of(weights as u64) {
            return None;
        }
        (elements / weights as u64).checked_mul(bytes as u64)
    }

    /// Bytes of a tensor with row length `dims[0]` and the given further dimensions.
    pub fn tensor_bytes(self, dims: &[u64]) -> Option<u64> {
        let (&row, rest) = dims.split_first()?;
        if self.is_tiled() {
            return self.tiled_bytes(row, dims.get(1).copied().unwrap_or(1)).filter(|_| dims.len() <= 2);
        }
        let rows = rest.iter().try_fold(1u64, |rows, dim| rows.checked_mul(*dim))?;
        self.row_bytes(row)?.checked_mul(rows)?.checked_add(self.trailer_bytes() as u64)
    }

    /// As bitnet.cpp's `ggml_nbytes` has it: TL1 takes two bits a weight; TL2 five bytes for 24 weights except for
    /// 256 columns, which take two bits, whatever the tiles are; both then the trailer.
    fn tiled_bytes(self, columns: u64, rows: u64) -> Option<u64> {
        let fields = if self == TensorType::TL1 {
            columns.checked_mul(rows).filter(|weights| weights.is_multiple_of(4))? / 4
        } else {
            let triples = columns.checked_sub(256)?.checked_mul(rows)? / 3;
            (triples.checked_mul(5)? / 8).checked_add(rows.checked_mul(64)?)?.checked_next_multiple_of(32)?
        };
        fields.checked_add(self.trailer_bytes() as u64)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for TensorType {
    type Err = String;

    /// A name, in lower or upper case.
    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("one of {}", Self::ALL.map(|ty| ty.name().to_lowercase()).join(", ")))
    }
}

/// Names of ids that exist in the field but that this runtime does not read, for error messages.
pub fn foreign_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        37 => "I8_S",
        40 => "NVFP4",
        41 => "Q1_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_type_table() {
        assert_eq!(TensorType::Q4K.tensor_bytes(&[256, 3]), Some(432));
        assert_eq!(TensorType::Q2_0.tensor_bytes(&[128, 3]), Some(108));
        assert_eq!(TensorType::I2S.tensor_bytes(&[256, 2]), Some(128 + 32));
        assert_eq!(TensorType::Q8_0.tensor_bytes(&[33]), None);
        assert_eq!(TensorType::F32.tensor_bytes(&[u64::MAX, 2]), None);
        assert_eq!(TensorType::F32.tensor_bytes(&[]), None);
    }

    #[test]
    fn tiled_sizes_are_those_of_bitnet_cpp() {
        assert_eq!(TensorType::TL1.tensor_bytes(&[8640, 3200]), Some(8640 * 3200 / 4 + 32));
        // (8640 - 256) * 3200 / 3 * 5 / 8 + 256 * 3200 / 2 * 4 / 8, in whole numbers at each step, is 5,794,133.
        assert_eq!(TensorType::TL2.tensor_bytes(&[8640, 3200]), Some(5_794_144 + 32));
        assert_eq!(TensorType::TL2.tensor_bytes(&[255, 3200]), None);
        assert_eq!(TensorType::TL2.tensor_bytes(&[u64::MAX, 2]), None);
        assert_eq!(TensorType::TL1.tensor_bytes(&[64, 64, 2]), None);
        assert_eq!(TensorType::TL1.row_bytes(256), None);
    }

    #[test]
    fn the_table_is_in_order_of_ids() {
        assert!(
            TensorType::ALL.is_sorted()
                && TensorType::ALL.iter().all(|ty| TensorType::from_id(*ty as u32) == Some(*ty))
        );
        assert!(TensorType::ALL.iter().all(|ty| foreign_type_name(*ty as u32).is_none()));
    }
}
