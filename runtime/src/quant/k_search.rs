//! The searches for scales inside K-quant groups.
//!
//! In: one group of weights. Out: its scale (and minimum) and quants. Each search rounds under a series of
//! trial scales, solves the weighted least-squares problem for the best scale given those quants, and keeps
//! the best. Source: ggml `make_qkx2_quants`, `make_qx_quants` and `make_q3_quants`; the order of every f32 operation
//! matters, since files must be equal byte for byte. Deliberately absent: importance matrices.

use super::nearest_int;

/// Groups whose largest magnitude is below this are zero.
pub(super) const GROUP_MAX_EPS: f32 = 1e-15;

/// The parameters of [`scale_and_min`] for one format.
pub(super) struct Search {
    /// Largest quant.
    pub max: u8,
    /// The last trial scale; the first is 0, and a scale widens the range of quants by `first + 0.1 * trial`.
    trials: u8,
    first: f32,
    /// The error of a weight: its square or its magnitude.
    squared: bool,
}

impl Search {
    pub(super) const Q2_K: Search = Search { max: 3, trials: 15, first: -0.5, squared: false };
    pub(super) const Q4_K: Search = Search { max: 15, trials: 20, first: -1.0, squared: true };
    pub(super) const Q5_K: Search = Search { max: 31, trials: 15, first: -0.5, squared: true };
}

/// Finds (scale, min) with x ≈ scale * q - min, q in 0..=max, min >= 0, that minimise the error weighted by
/// `weights`, by trial scales around the range of x. `quants` gets q.
pub(super) fn scale_and_min<const N: usize>(
    search: &Search,
    x: &[f32; N],
    weights: &[f32; N],
    quants: &mut [u8; N],
) -> (f32, f32) {
    let largest = f32::from(search.max);
    let (mut min, mut max, mut sum_w, mut sum_x) = (x[0], x[0], weights[0], weights[0] * x[0]);
    for (v, w) in x.iter().zip(weights).skip(1) {
        min = if *v < min { *v } else { min };
        max = if *v > max { *v } else { max };
        sum_w += w;
        sum_x += w * v;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max == min {
        *quants = [0; N];
        return (0.0, -min);
    }
    let round =
        |iscale: f32, min: f32| x.map(|v| nearest_int(iscale * (v - min)).clamp(0, search.max.into()) as u8);
    let error = |scale: f32, min: f32, quants: &[u8; N]| {
        let terms = x.iter().zip(weights).zip(quants);
        terms.fold(0.0f32, |error, ((v, w), q)| {
            let diff = scale * f32::from(*q) + min - v;
            error + w * if search.squared { diff * diff } else { diff.abs() }
        })
    };
    let iscale = largest / (max - min);
    let mut scale = 1.0 / iscale;
    *quants = round(iscale, min);
    let mut best = error(scale, min, quants);
    // The trials keep rounding from the current best minimum, as the reference does.
    for step in 0..=search.trials {
        let iscale = (search.first + 0.1 * f32::from(step) + largest) / (max - min);
        let trial = round(iscale, min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((v, w), q) in x.iter().zip(weights).zip(trial) {
            let l = f32::from(q);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * v;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut trial_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut trial_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if trial_min > 0.0 {
                trial_min = 0.0;
                trial_scale = sum_xl / sum_l2;
            }
            let trial_error = error(trial_scale, trial_min, &trial);
            if trial_error < best {
                (*quants, best, scale, min) = (trial, trial_error, trial_scale, trial_min);
            }
        }
    }
    (scale, -min)
}

/// Finds the scale with x ≈ scale * (q - HALF), q in 0..2 * HALF, that minimises the error weighted by x².
/// The entry of largest magnitude starts at -HALF; 18 more trials vary that by up to 0.9. `quants` gets q.
pub(super) fn signed_scale<const N: usize, const HALF: i32>(x: &[f32; N], quants: &mut [u8; N]) -> f32 {
    let max = x.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    if max.abs() < GROUP_MAX_EPS {
        *quants = [0; N];
        return 0.0;
    }
    let round = |iscale: f32| x.map(|v| nearest_int(iscale * v).clamp(-HALF, HALF - 1));
    let sums = |trial: &[i32; N]| {
        x.iter().zip(trial).fold((0.0f32, 0.0f32), |(lx, l2), (v, l)| {
            let (w, l) = (v * v, *l as f32);
            (lx + w * v * l, l2 + w * l * l)
        })
    };
    let mut kept = round(-HALF as f32 / max);
    let (sum_lx, sum_l2) = sums(&kept);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let trial = round(-(HALF as f32 + 0.1 * step as f32) / max);
        let (sum_lx, sum_l2) = sums(&trial);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            kept = trial;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    *quants = kept.map(|l| (l + HALF) as u8);
    scale
}

/// As [`signed_scale`] for q in 0..8 (Q3_K): starts with the entry of largest magnitude at -4, then moves single quants,
/// up to five times each, where that fits better. Groups that are zero get quants of 0.
pub(super) fn small_signed_scale(x: &[f32; 16], quants: &mut [u8; 16]) -> f32 {
    let max = x.iter().fold(0.0f32, |max, v| if v.abs() > max.abs() { *v } else { max });
    *quants = [0; 16];
    if max.abs() < GROUP_MAX_EPS {
        return 0.0;
    }
    let iscale = -4.0 / max;
    let mut kept = x.map(|v| nearest_int(iscale * v).clamp(-4, 3));
    let (mut sum_lx, mut sum_l2) = x.iter().zip(&kept).fold((0.0f32, 0.0f32), |(lx, l2), (v, l)| {
        let (w, l) = (v * v, *l as f32);
        (lx + w * v * l, l2 + w * l * l)
    });
    for _ in 0..5 {
        let mut moved = false;
        for (v, l) in x.iter().zip(&mut kept) {
            let (w, old) = (v * v, *l as f32);
            let (mut lx, mut l2) = (sum_lx - w * v * old, sum_l2 - w * old * old);
            if lx <= 0.0 {
                continue;
            }
            let better = nearest_int(v * l2 / lx).clamp(-4, 3);
            if better == *l {
                continue;
            }
            lx += w * v * better as f32;
            l2 += w * better as f32 * better as f32;
            if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                (*l, sum_lx, sum_l2, moved) = (better, lx, l2, true);
            }
        }
        if !moved {
            break;
        }
    }
    *quants = kept.map(|l| (l + 4) as u8);
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_largest_magnitudes_the_first_decides_the_sign() {
        for sign in [1.0f32, -1.0] {
            let mut x = [0.0; 16];
            (x[3], x[7]) = (sign, -sign);
            let mut quants = [0; 16];
            // 31.1 steps fit both, 32 only the first.
            let scale = signed_scale::<16, 32>(&x, &mut quants);
            assert_eq!((scale, quants[0], quants[3], quants[7]), (-sign / 31.0, 32, 1, 63));
            small_signed_scale(&x, &mut quants);
            // Single quants are moved where the products of weights and codes are positive.
            assert_eq!((quants[0], quants[3], quants[7]), (4, if sign < 0.0 { 1 } else { 0 }, 7));
        }
    }

    #[test]
    fn equal_negative_weights_are_a_minimum_alone() {
        let mut quants = [7; 32];
        assert_eq!(scale_and_min(&Search::Q4_K, &[-2.0; 32], &[1.0; 32], &mut quants), (0.0, 2.0));
        assert_eq!(quants, [0; 32]);
    }

    #[test]
    fn a_quant_is_moved_only_where_that_fits_better() {
        // Rounding alone would make -3 of -9 and then 1 of 4.
        let mut x = [0.0; 16];
        x[..4].copy_from_slice(&[4.0, 2.0, -9.0, 8.0]);
        let mut quants = [0; 16];
        small_signed_scale(&x, &mut quants);
        assert_eq!(quants[..5], [6, 5, 0, 7, 4]);
    }
}
