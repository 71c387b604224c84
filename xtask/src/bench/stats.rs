//! Statistics of samples: medians, spread, and what paired samples can tell.
//!
//! In: numbers. Out: numbers. The interval of a median is the sign test's: between two order statistics, chosen
//! by the binomial distribution, so it assumes nothing about how noise is distributed (Conover, "Practical
//! nonparametric statistics", 3.2). Deliberately absent: means, and any assumption of normal noise.

/// The middle value, of two the mean. `None` without samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// Third quartile minus first. `None` without samples.
pub fn iqr(samples: &[f64]) -> Option<f64> {
    Some(quantile(samples, 0.75)? - quantile(samples, 0.25)?)
}

/// Linear between order statistics.
pub fn quantile(samples: &[f64], q: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * (at - at.floor()))
}

/// A median and where it lies with a confidence of at least [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub median: f64,
    /// `None` for fewer than five samples: too few for that confidence.
    pub interval: Option<(f64, f64)>,
}

/// Reached by five samples, whose extremes enclose the median 15 times in 16.
pub const CONFIDENCE: f64 = 0.9375;

impl Estimate {
    /// Of positive numbers, on a logarithmic scale, so that a ratio and its inverse give inverse estimates.
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut logs: Vec<f64> = samples.iter().map(|sample| sample.ln()).collect();
        logs.sort_by(f64::total_cmp);
        let median = median(&logs)?.exp();
        let interval = skipped(logs.len()).map(|k| (logs[k].exp(), logs[logs.len() - 1 - k].exp()));
        Some(Estimate { median, interval })
    }

    /// The smallest relative difference from the median that the samples can tell; `None` for too few.
    pub fn resolution(&self) -> Option<f64> {
        let (low, high) = self.interval?;
        Some((high / self.median - 1.0).max(self.median / low - 1.0))
    }

    /// Whether the median is farther from 1 than [`Self::resolution`]; the interval then leaves 1 out.
    pub fn verdict(&self) -> Verdict {
        match self.resolution() {
            Some(least) if self.median - 1.0 > least => Verdict::Faster,
            Some(least) if 1.0 / self.median - 1.0 > least => Verdict::Slower,
            _ => Verdict::CannotTell,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Faster,
    Slower,
    CannotTell,
}

/// How many order statistics may be skipped at each end; `None` where even the extremes are not sure enough.
fn skipped(n: usize) -> Option<usize> {
    // P(Binomial(n, 1/2) <= k) is the chance that the median lies below order statistic k (from 0).
    let mut term = 0.5f64.powi(n as i32);
    let mut tail = 0.0;
    let mut best = None;
    for k in 0..n / 2 + 1 {
        tail += term;
        if 2.0 * tail > 1.0 - CONFIDENCE + 1e-12 {
            break;
        }
        best = Some(k);
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    best
}

/// Ratios of samples taken side by side, theirs over ours: of times, the speed of ours as a multiple of theirs.
pub fn paired_ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> impl Strategy<Value = Vec<f64>> {
        proptest::collection::vec(0.001f64..1000.0, 1..40)
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    #[test]
    fn known_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(iqr(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(2.0));
        assert_eq!(median(&[]), None);
        assert_eq!([1, 4, 5, 8, 9, 20].map(skipped), [None, None, Some(0), Some(0), Some(1), Some(5)]);
    }

    proptest! {
        #[test]
        fn the_median_is_inside_and_does_not_depend_on_order(samples in samples()) {
            let estimate = Estimate::of(&samples).unwrap();
            let low = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let high = samples.iter().copied().fold(0.0, f64::max);
            prop_assert!(low * (1.0 - 1e-12) <= estimate.median && estimate.median <= high * (1.0 + 1e-12));
            if let Some((from, to)) = estimate.interval {
                prop_assert!(from <= estimate.median && estimate.median <= to);
            }
            prop_assert_eq!(estimate.interval.is_some(), samples.len() >= 5);
            let reversed: Vec<f64> = samples.iter().rev().copied().collect();
            prop_assert_eq!(Estimate::of(&reversed), Some(estimate));
        }

        #[test]
        fn a_factor_moves_everything_and_hides_no_noise(samples in samples(), factor in 0.1f64..10.0) {
            let scaled: Vec<f64> = samples.iter().map(|sample| sample * factor).collect();
            let (plain, scaled) = (Estimate::of(&samples).unwrap(), Estimate::of(&scaled).unwrap());
            prop_assert!(near(scaled.median, plain.median * factor));
            match (plain.resolution(), scaled.resolution()) {
                (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-6 * (1.0 + a)),
                (a, b) => prop_assert_eq!(a, b),
            }
        }

        #[test]
        fn exchanging_the_engines_inverts_the_ratio(pairs in proptest::collection::vec((0.1f64..10.0, 0.1f64..10.0), 5..30)) {
            let (a, b): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let forth = Estimate::of(&paired_ratios(&a, &b)).unwrap();
            let back = Estimate::of(&paired_ratios(&b, &a)).unwrap();
            prop_assert!(near(forth.median, 1.0 / back.median));
            let opposite = match forth.verdict() {
                Verdict::Faster => Verdict::Slower,
                Verdict::Slower => Verdict::Faster,
                Verdict::CannotTell => Verdict::CannotTell,
            };
            prop_assert_eq!(back.verdict(), opposite);
        }

        #[test]
        fn an_engine_against_itself_cannot_be_told(samples in samples()) {
            let estimate = Estimate::of(&paired_ratios(&samples, &samples)).unwrap();
            prop_assert_eq!((estimate.median, estimate.verdict()), (1.0, Verdict::CannotTell));
        }
    }
}
