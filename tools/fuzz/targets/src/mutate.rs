//! Good files and requests, damaged: each is refused with an error, or is right.
//!
//! In: a number and a seed, which give the same mutations everywhere. Out: how many were refused and accepted; a law that
//! does not hold is a panic. Fuzzing looks for new paths, this looks near what people have.

use crate::bases::MODELS;
use crate::{gguf, http, libraries, seeds};
use bitnet_runtime::gguf::Gguf;
use bitnet_runtime::sampling::rng::SplitMix64;
use std::path::Path;

/// What became of the damaged inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcome {
    pub refused: u64,
    pub accepted: u64,
}

impl Outcome {
    fn count(&mut self, accepted: bool) {
        *if accepted { &mut self.accepted } else { &mut self.refused } += 1;
    }
}

/// Good models with bytes changed, mostly in the header.
pub fn ggufs(count: u64, seed: u64) -> Outcome {
    let mut random = Random(SplitMix64::new(seed));
    let mut outcome = Outcome::default();
    for round in 0..count {
        let (name, base) = MODELS[round as usize % MODELS.len()];
        let good = Gguf::from_bytes(name, base).expect("a committed fixture");
        let header = good.tensors().iter().map(|info| info.offset as usize).min().unwrap_or(base.len());
        // Tokens, scores and merges fill most of a header; the rest is what decides.
        let small = header.min(700);
        let near = [small, header, base.len()][random.below(3)];
        let bad = random.damaged(base, near);
        outcome.count(Gguf::from_bytes("damaged", &bad).is_ok());
        gguf::whole_at_every_level(&bad);
    }
    outcome
}

/// Shared objects, objects and archives of every format.
///
/// # Errors
/// Samples that cannot be read.
pub fn objects(count: u64, seed: u64, root: &Path) -> std::io::Result<Outcome> {
    let samples = seeds::files(&root.join("fixtures/elf/bin"))?;
    let mut random = Random(SplitMix64::new(seed));
    let mut outcome = Outcome::default();
    for round in 0..count {
        let (_, base) = &samples[round as usize % samples.len()];
        let near = [64, 1024, base.len()][random.below(3)];
        let bad = random.damaged(base, near);
        outcome.count(libraries::library(&bad));
    }
    Ok(outcome)
}

/// Requests, sent to a real server on loopback. Accepted are those that were answered with 200.
pub fn requests(count: u64, seed: u64) -> Outcome {
    let good = seeds::requests();
    let mut random = Random(SplitMix64::new(seed));
    let mut outcome = Outcome::default();
    for round in 0..count {
        let base = &good[round as usize % good.len()];
        let near = [40, base.len()][random.below(2)];
        let bad = random.damaged(base, near);
        outcome.count(http::raw(&bad) == Some(200));
    }
    outcome
}

struct Random(SplitMix64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() >> 16) as usize % limit.max(1)
    }

    /// One to four changes among the first `near` bytes: values, bits, runs of one byte, numbers at limits, pieces left
    /// out, doubled or moved, and now and then an early end.
    fn damaged(&mut self, base: &[u8], near: usize) -> Vec<u8> {
        let mut bad = base.to_vec();
        for _ in 0..1 + self.below(4) {
            if bad.is_empty() {
                break;
            }
            let at = self.below(near.min(bad.len()));
            let len = 1 + self.below(16);
            let end = (at + len).min(bad.len());
            match self.below(9) {
                0 => bad[at] = self.below(256) as u8,
                1 => bad[at] ^= 1 << self.below(8),
                2 => bad[at..end].fill([0, 0xff, b'0', b' '][self.below(4)]),
                3 => {
                    let number = [u64::MAX, 1 << 63, 1 << 31, 1 << 32, 0, 1, bad.len() as u64, 0x7fff_ffff]
                        [self.below(8)];
                    bad[at..]
                        .iter_mut()
                        .zip(number.to_le_bytes())
                        .take(len.min(8))
                        .for_each(|(byte, new)| *byte = new);
                }
                4 => drop(bad.drain(at..end)),
                5 => {
                    let piece = bad[at..end].to_vec();
                    bad.splice(at..at, piece);
                }
                6 => {
                    let from = self.below(bad.len());
                    let piece: Vec<u8> = bad[from..].iter().take(len).copied().collect();
                    bad[at..].iter_mut().zip(piece).for_each(|(byte, new)| *byte = new);
                }
                7 if self.below(8) == 0 => bad.truncate(at),
                _ => bad[at] = bad[at].wrapping_add([1, 0xff][self.below(2)]),
            }
        }
        bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_are_the_same_everywhere() {
        let damaged = |seed| Random(SplitMix64::new(seed)).damaged(b"a good file of some bytes", 20);
        assert_eq!(damaged(3), damaged(3));
        let all: std::collections::BTreeSet<Vec<u8>> = (0..100).map(damaged).collect();
        assert!(all.len() > 90, "{} of 100 differ", all.len());
    }
}
