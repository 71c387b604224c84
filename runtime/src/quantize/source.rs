//! The weights of one tensor as some file holds them, read row by row as floats or as ternary codes.
//!
//! In: bytes of a GGUF or safetensors file and how they are packed. Out: rows in the order in which they will be
//! written. Deliberately absent: finding tensors (see [`super::plan`] and [`crate::convert`]), encoding.

use crate::gguf::Gguf;
use crate::quant::tl::TlTile;
use crate::quant::{I2sLayout, dequantize_row, i2s, unpack_ternary};
use crate::tensor::TensorType;
use crate::{Error, Result};
use half::f16;
use std::ops::Range;
use std::path::Path;

/// A file whose bytes are mapped.
pub trait Mapped: Sync {
    fn path(&self) -> &Path;
    /// Lets go of the memory of `part`.
    fn forget(&self, part: &[u8]);
}

impl Mapped for Gguf {
    fn path(&self) -> &Path {
        Gguf::path(self)
    }

    fn forget(&self, part: &[u8]) {
        Gguf::forget(self, part);
    }
}

/// How rows lie in the bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packing {
    /// One after the other in a GGUF type (I2_S in the x86 layout); `scale` is that of an I2_S tensor, else 1.
    Rows { ty: TensorType, scale: f32 },
    /// An I2_S tensor in another layout.
    I2s { layout: I2sLayout, scale: f32 },
    /// A whole TL1 or TL2 tensor, with its trailer; writing it unpacks it to [`Packing::Codes`].
    Tiles { ty: TensorType, tile: TlTile, scale: f32 },
    /// One byte a weight.
    Codes { scale: f32 },
    /// As Hugging Face packs ternary weights: byte (i, c) of [rows / 4, columns] holds column c of rows
    /// i + n * rows / 4 at bit 2n, each as code + 1. Source: `pack_weights` of transformers' bitnet integration.
    Slabs { scale: f32 },
}

/// Which row of the source is written where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    AsIs,
    /// Rows i and i + head_dim / 2 of every head become neighbours: RoPE pairs as the `llama` graph takes them.
    /// Source: `LlamaModel.permute` of llama.cpp's converter.
    AdjacentPairs {
        head_dim: usize,
    },
}

impl RowOrder {
    fn source_of(self, row: usize) -> usize {
        match self {
            RowOrder::AsIs => row,
            RowOrder::AdjacentPairs { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + within % 2 * (head_dim / 2) + within / 2
            }
        }
    }
}

pub struct Source<'a> {
    pub file: &'a dyn Mapped,
    /// What the file calls the tensor, and where its bytes start.
    pub name: &'a str,
    pub offset: u64,
    /// Without a trailer.
    pub bytes: &'a [u8],
    pub packing: Packing,
    pub order: RowOrder,
    pub rows: usize,
    pub columns: usize,
}

impl<'a> Source<'a> {
    /// The type's name, for reports.
    pub fn type_name(&self) -> &'static str {
        match self.packing {
            Packing::Rows { ty, .. } => ty.name(),
            Packing::I2s { .. } => TensorType::I2S.name(),
            Packing::Tiles { ty, .. } => ty.name(),
            Packing::Codes { .. } => "codes",
            Packing::Slabs { .. } => "U8 (four rows a byte)",
        }
    }

    /// The codes and scales are in the file.
    pub fn is_packed_ternary(&self) -> bool {
        match self.packing {
            Packing::Rows { ty, .. } => ty.is_ternary(),
            _ => true,
        }
    }

    /// One float per weight.
    pub fn is_float(&self) -> bool {
        matches!(self.packing, Packing::Rows { ty: TensorType::F32 | TensorType::F16 | TensorType::BF16, .. })
    }

    /// The bytes that row `row` of the output comes from.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        let row = self.order.source_of(row);
        match self.packing {
            Packing::Tiles { .. } => self.bytes,
            Packing::Rows { .. } | Packing::Codes { .. } => {
                let len = self.bytes.len() / self.rows;
                &self.bytes[row * len..][..len]
            }
            Packing::I2s { layout: I2sLayout::Row4, .. } => {
                &self.bytes[row / 4 * self.columns..][..self.columns]
            }
            Packing::I2s { .. } => &self.bytes[row * self.columns / 4..][..self.columns / 4],
            Packing::Slabs { .. } => &self.bytes[row % (self.rows / 4) * self.columns..][..self.columns],
        }
    }

    /// Lets go of the memory of `rows`, and of what lies between them in the file.
    pub fn forget(&self, rows: Range<usize>) {
        let ends = rows.map(|row| {
            let bytes = self.row_bytes(row);
            let start = bytes.as_ptr().addr() - self.bytes.as_ptr().addr();
            (start, start + bytes.len())
        });
        let hull = ends.reduce(|(start, end), (a, b)| (start.min(a), end.max(b)));
        if let Some((start, end)) = hull {
            self.file.forget(&self.bytes[start..end]);
        }
    }

    /// Row `row` as floats.
    ///
    /// # Errors
    /// An invalid ternary code.
    pub fn decode(&self, row: usize, codes: &mut [i8], out: &mut [f32]) -> Result<()> {
        match self.packing {
            Packing::Rows { ty, scale } => dequantize_row(ty, self.row_bytes(row), scale, out)
                .map_err(|code| self.invalid(row, code.byte)),
            Packing::I2s { scale, .. }
            | Packing::Tiles { scale, .. }
            | Packing::Codes { scale }
            | Packing::Slabs { scale } => {
                self.codes(row, codes)?;
                out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code) * scale);
                Ok(())
            }
        }
    }

    /// The ternary codes of row `row`. Panics unless [`Self::is_packed_ternary`].
    ///
    /// # Errors
    /// An invalid code.
    pub fn codes(&self, row: usize, out: &mut [i8]) -> Result<()> {
        let bytes = self.row_bytes(row);
        match self.packing {
            Packing::Rows { ty, .. } => {
                unpack_ternary(ty, bytes, out).map_err(|code| self.invalid(row, code.byte))
            }
            Packing::I2s { layout, .. } => {
                let first = row - if layout == I2sLayout::Row4 { row % 4 } else { 0 };
                i2s::unpack_row(bytes, layout, row - first, out).map_err(|code| self.invalid(row, code.byte))
            }
            Packing::Codes { .. } => {
                out.iter_mut().zip(bytes).for_each(|(code, byte)| *code = *byte as i8);
                Ok(())
            }
            Packing::Tiles { .. } => panic!("tiles are unpacked before their rows are read"),
            Packing::Slabs { .. } => {
                let shift = 2 * (self.order.source_of(row) / (self.rows / 4));
                let mut worst = 0;
                for (byte, code) in bytes.iter().zip(&mut *out) {
                    let field = byte >> shift & 3;
                    worst = worst.max(field);
                    *code = field as i8 - 1;
                }
                match out.iter().position(|code| *code == 2).filter(|_| worst == 3) {
                    Some(byte) => Err(self.invalid(row, byte)),
                    None => Ok(()),
                }
            }
        }
    }

    /// The one scale of a ternary tensor, `None` where every block has its own.
    pub fn tensor_scale(&self) -> Option<f32> {
        match self.packing {
            Packing::Rows { ty, scale } => (ty.trailer_bytes() > 0).then_some(scale),
            Packing::I2s { scale, .. }
            | Packing::Tiles { scale, .. }
            | Packing::Codes { scale }
            | Packing::Slabs { scale } => Some(scale),
        }
    }

    /// (weights, scale) of every block of row `row`. Panics where the tensor has one scale.
    pub fn block_scales(&self, row: usize) -> impl Iterator<Item = (usize, f32)> + use<'a> {
        let Packing::Rows { ty, .. } = self.packing else { panic!("rows of four have one scale") };
        let (weights, bytes) = ty.block();
        self.row_bytes(row).chunks_exact(bytes).map(move |block| (weights, block_scale(ty, block)))
    }

    /// An error in row `row`, at byte `byte` of its bytes.
    fn invalid(&self, row: usize, byte: usize) -> Error {
        let at = self.row_bytes(row).as_ptr().addr() - self.bytes.as_ptr().addr() + byte;
        let what = format!("tensor {:?} has an invalid ternary code", self.name);
        let remedy = "fetch the file again, or check --i2s-layout";
        Error::malformed(self.file.path(), self.offset + at as u64, what, remedy)
    }

    pub fn refuse(&self, what: impl std::fmt::Display, remedy: &str) -> Error {
        Error::unsupported(self.file.path(), format!("tensor {:?} {what}", self.name), remedy)
    }
}

/// The f16 scale of a block of a ternary type: first in Q2_0, last in the others.
fn block_scale(ty: TensorType, block: &[u8]) -> f32 {
    let d = if ty == TensorType::Q2_0 { block.first_chunk() } else { block.last_chunk() };
    f16::from_le_bytes(*d.expect("a block is longer than its scale")).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nowhere;

    impl Mapped for Nowhere {
        fn path(&self) -> &Path {
            Path::new("nowhere")
        }

        fn forget(&self, _: &[u8]) {}
    }

    #[test]
    fn adjacent_pairs_are_those_of_the_converter() {
        // reshape(heads, 2, 3).swapaxes: rows 0 1 2 | 3 4 5 of a head become 0 3 1 4 2 5.
        let order = RowOrder::AdjacentPairs { head_dim: 6 };
        let sources: Vec<usize> = (0..12).map(|row| order.source_of(row)).collect();
        assert_eq!(sources, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn slabs_hold_a_quarter_of_the_rows_each() {
        // Rows 0..8 of two columns: row r is [r % 3 - 1, 0].
        let mut bytes = [0u8; 4];
        for row in 0..8usize {
            bytes[row % 2 * 2] |= (row % 3) as u8 * (1 << (row / 2 * 2));
            bytes[row % 2 * 2 + 1] |= 1 << (row / 2 * 2);
        }
        let packing = Packing::Slabs { scale: 0.5 };
        let order = RowOrder::AsIs;
        let (file, bytes) = (&Nowhere, &bytes);
        let source = Source { file, name: "t", offset: 100, bytes, packing, order, rows: 8, columns: 2 };
        for row in 0..8 {
            let (mut codes, mut floats) = ([0; 2], [0.0; 2]);
            source.decode(row, &mut codes, &mut floats).unwrap();
            assert_eq!((codes, floats), ([(row % 3) as i8 - 1, 0], [0.5 * ((row % 3) as f32 - 1.0), 0.0]));
        }
        let bad = Source { bytes: &[0x55, 0x55, 0x55, 0x95 | 0x60], ..source };
        let error = bad.codes(5, &mut [0; 2]).unwrap_err().to_string();
        assert!(error.contains("\"t\" has an invalid ternary code (at byte offset 103)"), "{error}");
    }
}
