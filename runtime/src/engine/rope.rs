//! Rotary position embedding: angles per position (Su et al. 2021), in the arithmetic of ggml: frequencies
//! are the powers of one f32 ratio, multiplied up step by step.

use crate::model::Model;

/// Angles of one model.
pub(crate) struct Rope {
    pairs: usize,
    /// base^(-2 / rope_dim), the ratio of neighbouring frequencies.
    ratio: f32,
    /// Factor on positions (linear scaling).
    scale: f32,
    /// [pairs] divisors of the frequencies.
    factors: Option<Vec<f32>>,
}

impl Rope {
    pub(crate) fn new(model: &Model) -> Self {
        let config = &model.config;
        Rope {
            pairs: config.rope_dim / 2,
            ratio: config.rope_base.powf(-2.0 / config.rope_dim as f32),
            scale: config.rope_scale,
            factors: model.rope_factors.clone(),
        }
    }

    /// Pairs of elements that are rotated.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Writes the cosines and sines of the angles at `position` (negative to rotate back) into `out`
    /// [2 * pairs]: cosines first.
    pub(crate) fn angles(&self, position: i64, out: &mut [f32]) {
        let (cos, sin) = out.split_at_mut(self.pairs);
        let mut theta = position as f32;
        for (pair, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
            let factor = self.factors.as_ref().map_or(1.0, |factors| factors[pair]);
            let angle = self.scale * (theta / factor);
            (*cos, *sin) = (angle.cos(), angle.sin());
            theta *= self.ratio;
        }
    }
}
