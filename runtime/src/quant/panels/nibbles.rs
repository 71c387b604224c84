//! Repacking of Q4_0, Q4_1 and Q8_0: blocks of sixteen rows together, scales first, then their words of four quants.

use super::ROWS;
use crate::quant::blocks::{Block, BlockQ4_0, BlockQ4_1, BlockQ8_0, blocks};

/// A block as it is put into a group: its halves (scale, minimum) and its 32-bit words.
pub(super) trait Parts: Block {
    const HALVES: usize;
    const WORDS: usize;
    fn half(&self, i: usize) -> [u8; 2];
    fn word(&self, i: usize) -> [u8; 4];
}

impl Parts for BlockQ4_0 {
    const HALVES: usize = 1;
    const WORDS: usize = 4;

    fn half(&self, _: usize) -> [u8; 2] {
        self.d.0
    }

    fn word(&self, i: usize) -> [u8; 4] {
        self.qs.as_chunks::<4>().0[i]
    }
}

impl Parts for BlockQ4_1 {
    const HALVES: usize = 2;
    const WORDS: usize = 4;

    fn half(&self, i: usize) -> [u8; 2] {
        [self.d.0, self.m.0][i]
    }

    fn word(&self, i: usize) -> [u8; 4] {
        self.qs.as_chunks::<4>().0[i]
    }
}

/// Quants become unsigned: 128 is added.
impl Parts for BlockQ8_0 {
    const HALVES: usize = 1;
    const WORDS: usize = 8;

    fn half(&self, _: usize) -> [u8; 2] {
        self.d.0
    }

    fn word(&self, i: usize) -> [u8; 4] {
        self.qs.as_chunks::<4>().0[i].map(|q| q as u8 ^ 0x80)
    }
}

/// Bytes of a block of sixteen rows.
pub(super) const fn block_bytes<B: Parts>() -> usize {
    ROWS * (2 * B::HALVES + 4 * B::WORDS)
}

pub(super) fn pack<B: Parts>(rows: &[u8], row_bytes: usize, group: &mut [u8]) {
    group.fill(0);
    for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (block, out) in blocks::<B>(row).iter().zip(group.chunks_exact_mut(block_bytes::<B>())) {
            let (halves, words) = out.split_at_mut(ROWS * 2 * B::HALVES);
            for i in 0..B::HALVES {
                halves[2 * (i * ROWS + r)..][..2].copy_from_slice(&block.half(i));
            }
            for i in 0..B::WORDS {
                words[4 * (i * ROWS + r)..][..4].copy_from_slice(&block.word(i));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_q8_0_has_its_place() {
        const ROW: usize = 2 * 34;
        let rows: Vec<u8> = (0..ROWS * ROW).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut group = vec![0; 2 * block_bytes::<BlockQ8_0>()];
        pack::<BlockQ8_0>(&rows, ROW, &mut group);
        for (r, row) in rows.chunks_exact(ROW).enumerate() {
            for (block, out) in row.chunks_exact(34).zip(group.chunks_exact(ROWS * 34)) {
                assert_eq!(&out[2 * r..][..2], &block[..2], "scale of row {r}");
                for (i, &quant) in block[2..].iter().enumerate() {
                    let at = 2 * ROWS + 4 * (i / 4 * ROWS + r) + i % 4;
                    assert_eq!(i32::from(out[at]), i32::from(quant as i8) + 128, "quant {i} of row {r}");
                }
            }
        }
    }

    #[test]
    fn every_byte_of_q4_has_its_place() {
        fn check<B: Parts>() {
            let (block_len, group_len) = (2 * B::HALVES + 16, block_bytes::<B>());
            let rows: Vec<u8> = (0..ROWS * 2 * block_len).map(|i| (i * 7 + i / 251) as u8).collect();
            let mut group = vec![0; 2 * group_len];
            pack::<B>(&rows, 2 * block_len, &mut group);
            for (r, row) in rows.chunks_exact(2 * block_len).enumerate() {
                for (block, out) in row.chunks_exact(block_len).zip(group.chunks_exact(group_len)) {
                    let (halves, words) = block.split_at(2 * B::HALVES);
                    for (i, half) in halves.chunks_exact(2).enumerate() {
                        assert_eq!(&out[2 * (i * ROWS + r)..][..2], half, "half {i} of row {r}");
                    }
                    for (i, word) in words.chunks_exact(4).enumerate() {
                        assert_eq!(
                            &out[2 * B::HALVES * ROWS + 4 * (i * ROWS + r)..][..4],
                            word,
                            "word {i} of row {r}"
                        );
                    }
                }
            }
        }
        check::<BlockQ4_0>();
        check::<BlockQ4_1>();
    }
}
