//! How far apart two engines' logits are.
//!
//! In: two tables of f32 [positions, width]. Out: per position cosine, distances, KL divergence and agreement of
//! the best tokens; over all positions what a receipt keeps. Everything is computed in f64. Deliberately absent:
//! whether that is close enough for what.

use anyhow::{Context, Result, ensure};
use bitforge_receipt_schema::crossval::Metrics;
use serde::Serialize;
use std::path::Path;

/// f32 [positions, width], as an engine wrote it.
#[derive(Debug, PartialEq)]
pub struct Table {
    pub values: Vec<f32>,
    pub width: usize,
}

impl Table {
    /// The `count` values at `offset` bytes of a file of little-endian f32.
    pub fn read(path: &Path, offset: u64, positions: usize, width: usize) -> Result<Self> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut bytes = vec![0; 4 * positions * width];
        file.read_exact_at(&mut bytes, offset).with_context(|| {
            format!("reading {} values at byte {offset} of {}", positions * width, path.display())
        })?;
        let values: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect();
        Ok(Table { values, width })
    }

    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }
}

/// One position, ours against the other's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    pub cosine: f64,
    pub max_abs: f64,
    pub relative_l2: f64,
    /// KL(other || ours) of the two softmax distributions, nats.
    pub kl: f64,
    pub top1: bool,
    /// Part of the other's five best tokens that are among our five best.
    pub top5: f64,
    /// Distance of the other's two best logits.
    pub gap: f64,
    pub bit_equal: bool,
}

/// Compares one row. Values that are not finite make every measure as bad as it can be.
pub fn position(ours: &[f32], other: &[f32]) -> Position {
    let best = |values: &[f32]| top(values, 5);
    let (our_best, other_best) = (best(ours), best(other));
    let gap = match other_best.as_slice() {
        [first, second, ..] => f64::from(other[*first]) - f64::from(other[*second]),
        _ => 0.0,
    };
    let common = other_best.iter().filter(|index| our_best.contains(index)).count();
    let Distance { cosine, relative_l2, max_abs } = distance(ours, other);
    Position {
        cosine,
        max_abs,
        relative_l2,
        kl: kl(other, ours),
        top1: our_best.first() == other_best.first(),
        top5: common as f64 / other_best.len().max(1) as f64,
        gap,
        bit_equal: ours.iter().zip(other).all(|(a, b)| a.to_bits() == b.to_bits()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    pub cosine: f64,
    /// |ours - other| / |other|.
    pub relative_l2: f64,
    pub max_abs: f64,
}

pub fn distance(ours: &[f32], other: &[f32]) -> Distance {
    let pairs = || ours.iter().zip(other).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let sum = |term: fn((f64, f64)) -> f64| pairs().map(term).sum::<f64>();
    let (aa, bb, ab) = (sum(|(a, _)| a * a), sum(|(_, b)| b * b), sum(|(a, b)| a * b));
    let difference = sum(|(a, b)| (a - b) * (a - b)).sqrt();
    let max_abs = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    if !(aa.is_finite() && bb.is_finite()) {
        return Distance { cosine: -1.0, relative_l2: f64::MAX, max_abs: f64::MAX };
    }
    let zero = aa == 0.0 && bb == 0.0;
    Distance {
        cosine: if zero { 1.0 } else { (ab / (aa.sqrt() * bb.sqrt()).max(f64::MIN_POSITIVE)).min(1.0) },
        relative_l2: if zero { 0.0 } else { difference / bb.sqrt().max(f64::MIN_POSITIVE) },
        max_abs,
    }
}

/// Over all positions; `tokens` are those evaluated, so that position i predicts token i + 1.
pub fn summary(positions: &[Position], ours: &Table, other: &Table, tokens: &[u32], gap: f64) -> Metrics {
    let part =
        |of: &dyn Fn(&Position) -> f64| positions.iter().map(of).sum::<f64>() / positions.len().max(1) as f64;
    let highest = |of: &dyn Fn(&Position) -> f64| positions.iter().map(of).fold(0.0, f64::max);
    let (worst, min_cosine) = positions
        .iter()
        .enumerate()
        .map(|(index, position)| (index, position.cosine))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap_or((0, 1.0));
    Metrics {
        positions: positions.len() as u32,
        min_cosine,
        min_cosine_position: worst as u32,
        max_abs: highest(&|position| position.max_abs),
        max_relative_l2: highest(&|position| position.relative_l2),
        max_kl: highest(&|position| position.kl),
        top1_agreement: part(&|position| f64::from(u8::from(position.top1))),
        top5_agreement: part(&|position| position.top5),
        decided_disagreements: positions.iter().filter(|p| !p.top1 && p.gap > gap).count() as u32,
        perplexity_ours: perplexity(ours, tokens),
        perplexity_other: perplexity(other, tokens),
        bit_equal_positions: positions.iter().filter(|position| position.bit_equal).count() as u32,
    }
}

/// Rows of both tables compared; they must have one shape.
pub fn positions(ours: &Table, other: &Table) -> Result<Vec<Position>> {
    ensure!(
        ours.width == other.width && ours.values.len() == other.values.len(),
        "rows of {} and {} logits, {} and {} values in all",
        ours.width,
        other.width,
        ours.values.len(),
        other.values.len()
    );
    Ok(ours.rows().zip(other.rows()).map(|(ours, other)| position(ours, other)).collect())
}

/// exp of the mean negative log likelihood of every token but the first.
pub fn perplexity(logits: &Table, tokens: &[u32]) -> f64 {
    let losses: Vec<f64> = logits
        .rows()
        .zip(tokens.iter().skip(1))
        .map(|(row, next)| -log_softmax(row).get(*next as usize).copied().unwrap_or(f64::NEG_INFINITY))
        .collect();
    (losses.iter().sum::<f64>() / losses.len().max(1) as f64).exp()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f64::NEG_INFINITY, |max, value| max.max(f64::from(*value)));
    let sum: f64 = row.iter().map(|value| (f64::from(*value) - max).exp()).sum();
    row.iter().map(|value| f64::from(*value) - max - sum.ln()).collect()
}

/// KL(p || q) of the softmax of two rows, nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    let sum: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
    if sum.is_finite() { sum.max(0.0) } else { f64::MAX }
}

/// Indices of the `n` largest values, the largest first; of equal ones the lower index.
fn top(values: &[f32], n: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(n + 1);
    for (index, value) in values.iter().enumerate() {
        let place = best.iter().position(|other| *value > values[*other]).unwrap_or(best.len());
        best.insert(place, index);
        best.truncate(n);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-20f32..20.0, 8)
    }

    proptest! {
        #[test]
        fn a_row_equals_itself(row in row()) {
            let position = position(&row, &row);
            prop_assert!(position.bit_equal && position.top1);
            prop_assert!(position.cosine > 1.0 - 1e-12);
            prop_assert_eq!((position.max_abs, position.relative_l2, position.top5), (0.0, 0.0, 1.0));
            prop_assert!(position.kl < 1e-12);
        }

        #[test]
        fn cosine_knows_no_scale_and_distances_do(row in row(), factor in 1.5f32..4.0) {
            prop_assume!(row.iter().any(|value| value.abs() > 0.1));
            let scaled: Vec<f32> = row.iter().map(|value| value * factor).collect();
            let Distance { cosine, relative_l2, .. } = distance(&scaled, &row);
            prop_assert!(cosine > 1.0 - 1e-9);
            prop_assert!((relative_l2 - f64::from(factor - 1.0)).abs() < 1e-4);
        }

        #[test]
        fn kl_is_never_negative_and_knows_no_offset(a in row(), b in row(), offset in -5f32..5.0) {
            prop_assert!(kl(&a, &b) >= 0.0);
            let moved: Vec<f32> = a.iter().map(|value| value + offset).collect();
            prop_assert!(kl(&a, &moved) < 1e-6);
        }

        #[test]
        fn the_best_are_the_largest(row in row()) {
            let best = top(&row, 3);
            let mut sorted = row.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(best.iter().map(|index| row[*index]).collect::<Vec<_>>(), &sorted[..3]);
        }
    }

    #[test]
    fn perplexity_of_even_odds_is_the_vocabulary() {
        let logits = Table { values: vec![0.0; 12], width: 4 };
        assert!((perplexity(&logits, &[0, 1, 2]) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_finite_never_agrees() {
        let position = position(&[1.0, f32::NAN], &[1.0, 2.0]);
        assert!(position.cosine < 0.0 && position.relative_l2 > 1.0);
    }

    #[test]
    fn a_close_call_is_no_disagreement() {
        let ours = Table { values: vec![1.0, 1.0005, 0.0, 3.0], width: 2 };
        let other = Table { values: vec![1.0005, 1.0, 3.0, 0.0], width: 2 };
        let positions = positions(&ours, &other).unwrap();
        let metrics = summary(&positions, &ours, &other, &[0, 1], 1e-3);
        assert_eq!((metrics.top1_agreement, metrics.decided_disagreements), (0.0, 1));
    }

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    #[test]
    fn a_position_by_hand() {
        let (ours, other) = ([1.0, 2.0, 2.0], [2.0, 0.0, 1.0]);
        let found = position(&ours, &other);
        near(found.cosine, 4.0 / (3.0 * 5f64.sqrt()));
        near(found.relative_l2, (6.0f64 / 5.0).sqrt());
        near(found.max_abs, 2.0);
        near(found.kl, 0.6948401779931341);
        near(found.gap, 1.0);
        assert_eq!((found.top1, found.top5, found.bit_equal), (false, 1.0, false));
        // One of the other's five best is not among ours.
        let ours = [9.0, 8.0, 7.0, 6.0, 0.0, 5.0];
        let other = [9.0, 8.0, 7.0, 6.0, 5.0, 0.0];
        let found = position(&ours, &other);
        assert_eq!((found.top1, found.top5), (true, 0.8));
        assert_eq!(position(&[1.0], &[1.0]).gap, 0.0, "no second");
    }

    #[test]
    fn rows_of_zeros_have_a_distance() {
        let of = |ours: [f32; 2], other: [f32; 2]| {
            let Distance { cosine, relative_l2, .. } = distance(&ours, &other);
            (cosine, relative_l2)
        };
        assert_eq!(of([0.0, 0.0], [0.0, 0.0]), (1.0, 0.0));
        assert_eq!(of([0.0, 0.0], [3.0, 4.0]), (0.0, 1.0));
        assert!(of([3.0, 4.0], [0.0, 0.0]).1 > 1e300);
        for (ours, other) in [(f32::INFINITY, 1.0), (1.0, f32::INFINITY), (f32::NAN, 1.0), (1.0, f32::NAN)] {
            let far = distance(&[ours, 0.0], &[other, 0.0]);
            assert_eq!((far.cosine, far.relative_l2, far.max_abs), (-1.0, f64::MAX, f64::MAX));
        }
    }

    #[test]
    fn a_summary_by_hand() {
        let ours = Table { values: vec![0.0, 1.0, 1.0, 0.0, 3.0, 4.0], width: 2 };
        let other = Table { values: vec![0.0, 1.0, 0.5, 1.0, 3.0, 2.0], width: 2 };
        let positions = positions(&ours, &other).unwrap();
        let tokens = [0, 1, 0];
        let metrics = summary(&positions, &ours, &other, &tokens, 0.5);
        assert_eq!((metrics.positions, metrics.min_cosine_position), (3, 1));
        near(metrics.min_cosine, 0.5 / 1.25f64.sqrt());
        near(metrics.max_abs, 2.0);
        near(metrics.max_relative_l2, positions[1].relative_l2);
        near(metrics.max_kl, positions.iter().map(|position| position.kl).fold(0.0, f64::max));
        assert!(metrics.max_kl > 0.0);
        near(metrics.top1_agreement, 1.0 / 3.0);
        near(metrics.top5_agreement, 1.0);
        // The gaps of the two that disagree are 0.5 and 1.
        assert_eq!(metrics.decided_disagreements, 1);
        assert_eq!(metrics.bit_equal_positions, 1);
        near(metrics.perplexity_ours, perplexity(&ours, &tokens));
        near(metrics.perplexity_other, perplexity(&other, &tokens));
        assert!(metrics.perplexity_ours < metrics.perplexity_other);
    }

    #[test]
    fn nothing_compared_is_no_distance() {
        let none = Table { values: Vec::new(), width: 0 };
        assert_eq!(none.rows().count(), 0);
        let metrics = summary(&[], &none, &none, &[], 0.0);
        assert_eq!((metrics.positions, metrics.min_cosine, metrics.min_cosine_position), (0, 1.0, 0));
        assert_eq!((metrics.top1_agreement, metrics.perplexity_ours), (0.0, 1.0));
    }

    #[test]
    fn tables_of_other_shapes_are_not_compared() {
        let table = |count: usize, width: usize| Table { values: vec![0.0; count], width };
        assert!(positions(&table(6, 2), &table(6, 3)).is_err());
        let error = positions(&table(6, 2), &table(4, 2)).unwrap_err().to_string();
        assert_eq!(error, "rows of 2 and 2 logits, 6 and 4 values in all");
        assert_eq!(positions(&table(6, 2), &table(6, 2)).unwrap().len(), 3);
    }

    #[test]
    fn a_table_is_read_at_its_offset_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let bytes: Vec<u8> =
            [9.0f32, 1.0, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&path, bytes).unwrap();
        let table = Table::read(&path, 4, 2, 2).unwrap();
        assert_eq!(table.rows().collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0]]);
        let error = Table::read(&path, 8, 2, 2).unwrap_err().to_string();
        assert!(error.starts_with("reading 4 values at byte 8 of "), "{error}");
        assert!(
            Table::read(&dir.path().join("none"), 0, 1, 1).unwrap_err().to_string().starts_with("opening ")
        );
    }

    #[test]
    fn perplexity_and_divergence_by_hand() {
        let logits = Table { values: vec![0.0, 3f32.ln()], width: 2 };
        assert!((perplexity(&logits, &[0, 1]) - 4.0 / 3.0).abs() < 1e-6);
        assert!((perplexity(&logits, &[0, 0]) - 4.0).abs() < 1e-6);
        assert_eq!(perplexity(&logits, &[0, 7]), f64::INFINITY, "a token that has no logit");
        let even = [0.0f32, 0.0];
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((kl(&[3f32.ln(), 0.0], &even) - expected).abs() < 1e-6);
        assert_eq!(kl(&even, &[0.0, f32::NEG_INFINITY]), f64::MAX);
    }

    #[test]
    fn of_equal_values_the_first_is_the_best() {
        assert_eq!(top(&[1.0, 3.0, 3.0, 2.0], 3), [1, 2, 3]);
        assert_eq!(top(&[1.0, 2.0], 5), [1, 0]);
        assert_eq!(top(&[1.0, 2.0], 0), [0usize; 0]);
    }
}
