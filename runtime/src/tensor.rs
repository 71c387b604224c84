//! Tensor element types of GGUF files: ids, block shapes and byte sizes.
//!
//! Source: ggml's `ggml_type` enumeration and block structs; I2_S (36) from bitnet.cpp's fork.
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
    Q8_0 = 8,
    Q4K = 12,
    Q6K = 14,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    I2S = 36,
}

impl TensorType {
    pub const ALL: [TensorType; 11] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q8_0,
        TensorType::Q4K,
        TensorType::Q6K,
        TensorType::BF16,
        TensorType::TQ1_0,
        TensorType::TQ2_0,
        TensorType::I2S,
    ];

    /// The type with this id, `None` for ids this runtime does not read.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| *ty as u32 == id)
    }

    pub const fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q4K => "Q4_K",
            TensorType::Q6K => "Q6_K",
            TensorType::BF16 => "BF16",
            TensorType::TQ1_0 => "TQ1_0",
            TensorType::TQ2_0 => "TQ2_0",
            TensorType::I2S => "I2_S",
        }
    }

    /// (weights per block, bytes per block). Rows are whole blocks.
    /// I2_S counts its 128-weight groups here; its tensor-wide scale is in [`Self::trailer_bytes`].
    pub const fn block(self) -> (usize, usize) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q4K => (256, 144),
            TensorType::Q6K => (256, 210),
            TensorType::TQ1_0 => (256, 54),
            TensorType::TQ2_0 => (256, 66),
            TensorType::I2S => (128, 32),
        }
    }

    /// Bytes after the last row that belong to the whole tensor (I2_S: one f32 scale and padding).
    pub const fn trailer_bytes(self) -> usize {
        match self {
            TensorType::I2S => 32,
            _ => 0,
        }
    }

    /// `general.file_type` of a file whose matrices have this type: llama.cpp's `llama_ftype`, for I2_S bitnet.cpp's.
    pub const fn file_type(self) -> u32 {
        match self {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::Q4_0 => 2,
            TensorType::Q4_1 => 3,
            TensorType::Q8_0 => 7,
            TensorType::Q4K => 14,
            TensorType::Q6K => 18,
            TensorType::BF16 => 32,
            TensorType::TQ1_0 => 36,
            TensorType::TQ2_0 => 37,
            TensorType::I2S => 40,
        }
    }

    /// Types whose weights are -1, 0 or +1 times a scale.
    pub const fn is_ternary(self) -> bool {
        matches!(self, TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::I2S)
    }

    /// Bytes of one row of `elements` weights, `None` where that is not a whole number of blocks or overflows.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        let (weights, bytes) = self.block();
        if !elements.is_multiple_of(weights as u64) {
            return None;
        }
        (elements / weights as u64).checked_mul(bytes as u64)
    }

    /// Bytes of a tensor with row length `dims[0]` and the given further dimensions.
    pub fn tensor_bytes(self, dims: &[u64]) -> Option<u64> {
        let (&row, rest) = dims.split_first()?;
        let rows = rest.iter().try_fold(1u64, |rows, dim| rows.checked_mul(*dim))?;
        self.row_bytes(row)?.checked_mul(rows)?.checked_add(self.trailer_bytes() as u64)
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
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
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
        38 => "TL1",
        39 => "TL2 or MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_type_table() {
        assert_eq!(TensorType::Q4K.tensor_bytes(&[256, 3]), Some(432));
        assert_eq!(TensorType::I2S.tensor_bytes(&[256, 2]), Some(128 + 32));
        assert_eq!(TensorType::Q8_0.tensor_bytes(&[33]), None);
        assert_eq!(TensorType::F32.tensor_bytes(&[u64::MAX, 2]), None);
        assert_eq!(TensorType::F32.tensor_bytes(&[]), None);
    }
}
