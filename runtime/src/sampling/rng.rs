//! SplitMix64 (Steele, Lea, Flood 2014): the random numbers of sampling.
//!
//! Integer arithmetic only, so a seed gives the same sequence on every platform. One 64-bit number is drawn
//! per sampled token. Not for anything secret.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        SplitMix64(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// A seed for when the user gave none: 32 bits, so that it survives any JSON reader; print it.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_equals_the_published_one() {
        let mut rng = SplitMix64::new(1234567);
        let drawn: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(
            drawn,
            [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
        );
    }

    #[test]
    fn units_stay_below_one_and_average_a_half() {
        let mut rng = SplitMix64::new(7);
        let units: Vec<f64> = (0..10_000).map(|_| rng.next_unit()).collect();
        assert!(units.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = units.iter().sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
    }

    #[test]
    fn seeds_differ_and_fit_into_32_bits() {
        let seeds: Vec<u64> = (0..8).map(|_| random_seed()).collect();
        assert!(seeds.iter().all(|seed| *seed <= u64::from(u32::MAX)), "{seeds:?}");
        assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
    }
}
