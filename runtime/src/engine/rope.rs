//! Rotary position embedding: angles per position (Su et al. 2021), computed in f64.

use crate::model::Model;

/// Angular frequencies of one model.
pub struct Rope {
    /// [rope_dim / 2] radians per position.
    frequencies: Vec<f64>,
}

impl Rope {
    pub fn new(model: &Model) -> Self {
        let config = &model.config;
        let frequency = |pair: usize| {
            let exponent = 2.0 * pair as f64 / config.rope_dim as f64;
            let factor = model.rope_factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
            f64::from(config.rope_scale) * f64::from(config.rope_base).powf(-exponent) / factor
        };
        Rope { frequencies: (0..config.rope_dim / 2).map(frequency).collect() }
    }

    /// Pairs of elements that are rotated.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Writes the cosines and sines of the angles at `position` (negative to rotate back) into `out`
    /// [2 * pairs]: cosines first.
    pub fn angles(&self, position: i64, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.frequencies.len());
        for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
            let (s, c) = (position as f64 * frequency).sin_cos();
            (*cos, *sin) = (c as f32, s as f32);
        }
    }
}
