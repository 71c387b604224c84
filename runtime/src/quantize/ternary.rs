//! What the weights of a tensor are, seen from ternary: codes times one scale, codes times a scale per block, or
//! master weights that are still to be rounded.
//!
//! In: a [`Source`]. Out: [`Weights`], and rows of codes. Master weights are rounded as BitNet b1.58 is trained:
//! s = 1 / mean(|w|) over the tensor (the mean at least 1e-5), code = round(w s) clamped to -1..=1 with halves to
//! even, scale = 1 / s. Source: the training tips of the BitNet authors, and `WeightQuant` of transformers.
//! The mean is summed in f64, in an order that does not depend on threads.

use super::source::Source;
use super::workers::Workers;
use crate::Result;
use std::ops::Range;

/// Smallest mean of magnitudes that a scale is made from.
const MIN_MEAN: f32 = 1e-5;

/// Tensors up to this size stay in memory between the two times that they are read.
const KEPT_BYTES: usize = 256 << 20;

/// What the weights of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weights {
    /// Every weight is -scale, 0 or scale.
    Ternary { scale: f32 },
    /// Codes with scales per block, of which two differ.
    Blocks { smallest: f32, largest: f32 },
    /// Anything else.
    Master { absmean: f32 },
}

/// Multiplier, threshold and scale: the code of w is the sign of w where |w * multiplier| > threshold, else 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    multiplier: f32,
    threshold: f32,
    pub scale: f32,
}

impl Rounding {
    /// Of weights that are ternary already.
    pub fn exact(scale: f32) -> Self {
        Rounding { multiplier: 1.0, threshold: 0.0, scale }
    }

    /// Of master weights with this mean of magnitudes. A product of exactly one half rounds to 0, which is even.
    pub fn absmean(mean: f32) -> Self {
        let multiplier = 1.0 / mean.max(MIN_MEAN);
        Rounding { multiplier, threshold: 0.5, scale: 1.0 / multiplier }
    }

    pub fn codes(self, row: &[f32], out: &mut [i8]) {
        for (code, w) in out.iter_mut().zip(row) {
            let w = w * self.multiplier;
            *code = i8::from(w > self.threshold) - i8::from(w < -self.threshold);
        }
    }
}

/// What chunk after chunk adds up to.
#[derive(Clone, Copy)]
struct Facts {
    sum: f64,
    /// A magnitude other than 0 and the first one.
    mixed: bool,
    smallest: f32,
    largest: f32,
}

/// Reads every weight once.
///
/// # Errors
/// Weights that are no numbers, invalid codes, an interrupt.
pub fn analyse(source: &Source<'_>, workers: &mut Workers) -> Result<Weights> {
    if source.is_packed_ternary() { packed(source, workers) } else { floats(source, workers) }
}

fn packed(source: &Source<'_>, workers: &mut Workers) -> Result<Weights> {
    if let Some(scale) = source.tensor_scale() {
        return if scale.is_finite() { Ok(Weights::Ternary { scale }) } else { Err(not_finite(source)) };
    }
    let chunks = workers.each(source.rows, source.columns, |rows, scratch| {
        let mut facts = Facts { sum: 0.0, mixed: false, smallest: f32::INFINITY, largest: f32::NEG_INFINITY };
        for row in rows.clone() {
            source.codes(row, &mut scratch.codes)?;
            let mut codes = scratch.codes.as_slice();
            for (weights, scale) in source.block_scales(row) {
                let block;
                (block, codes) = codes.split_at(weights);
                // The scale of a block of zeros says nothing: llama.cpp writes 0.
                if block.iter().any(|code| *code != 0) {
                    facts.smallest = facts.smallest.min(scale);
                    facts.largest = facts.largest.max(scale);
                    facts.sum += f64::from(scale);
                }
            }
        }
        forget_large(source, rows);
        Ok(facts)
    })?;
    if !chunks.iter().all(|facts| facts.sum.is_finite()) {
        return Err(not_finite(source));
    }
    let smallest = chunks.iter().fold(f32::INFINITY, |least, facts| least.min(facts.smallest));
    let largest = chunks.iter().fold(f32::NEG_INFINITY, |most, facts| most.max(facts.largest));
    Ok(match smallest < largest {
        true => Weights::Blocks { smallest, largest },
        // Where there is nothing but zeros, any scale is right.
        false => Weights::Ternary { scale: if smallest.is_finite() { smallest } else { 0.0 } },
    })
}

/// Most tensors are read again at once, so their pages are best kept; not those that would fill the memory.
fn forget_large(source: &Source<'_>, rows: Range<usize>) {
    if source.bytes.len() > KEPT_BYTES {
        source.forget(rows);
    }
}

fn not_finite(source: &Source<'_>) -> crate::Error {
    source.refuse("has weights or scales that are not finite", "fetch or convert the model again")
}

fn floats(source: &Source<'_>, workers: &mut Workers) -> Result<Weights> {
    let chunks = workers.each(source.rows, source.columns, |rows, scratch| {
        // `smallest` is the first magnitude of the chunk that is not 0.
        let mut facts = Facts { sum: 0.0, mixed: false, smallest: 0.0, largest: 0.0 };
        for row in rows.clone() {
            source.decode(row, &mut scratch.codes, &mut scratch.row)?;
            if facts.smallest == 0.0 {
                facts.smallest = scratch.row.iter().find(|w| **w != 0.0).map_or(0.0, |w| w.abs());
            }
            let (sum, mixed) = magnitudes(&scratch.row, facts.smallest);
            facts.sum += sum;
            facts.mixed |= mixed;
        }
        forget_large(source, rows);
        Ok(facts)
    })?;
    let sum: f64 = chunks.iter().map(|facts| facts.sum).sum();
    if !sum.is_finite() {
        return Err(not_finite(source));
    }
    let mut firsts = chunks.iter().map(|facts| facts.smallest).filter(|first| *first != 0.0);
    if let Some(scale) = firsts.next()
        && firsts.all(|other| other == scale)
        && !chunks.iter().any(|facts| facts.mixed)
    {
        return Ok(Weights::Ternary { scale });
    }
    Ok(Weights::Master { absmean: (sum / (source.rows * source.columns) as f64) as f32 })
}

/// The sum of the magnitudes, and whether there is one other than 0 and `only`.
fn magnitudes(row: &[f32], only: f32) -> (f64, bool) {
    let (mut sums, mut mixed) = ([0f64; 8], false);
    let (eights, rest) = row.as_chunks::<8>();
    for eight in eights {
        for (sum, w) in sums.iter_mut().zip(eight) {
            let magnitude = w.abs();
            *sum += f64::from(magnitude);
            mixed |= (magnitude != 0.0) & (magnitude != only);
        }
    }
    let rest_sum: f64 = rest.iter().map(|w| f64::from(w.abs())).sum();
    mixed |= rest.iter().any(|w| *w != 0.0 && w.abs() != only);
    (sums.iter().sum::<f64>() + rest_sum, mixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// round(w / mean) with halves to even, clamped, in exact order of operations.
        #[test]
        fn absmean_is_its_definition(row in proptest::collection::vec(-3.0f32..3.0, 1..300), scale in 1e-7f32..10.0) {
            let row: Vec<f32> = row.iter().map(|w| w * scale).collect();
            let (sum, _) = magnitudes(&row, 0.0);
            let exact: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
            prop_assert!((sum - exact).abs() <= exact * 1e-12);
            let mean = (sum / row.len() as f64) as f32;
            let rounding = Rounding::absmean(mean);
            let s = 1.0 / mean.max(1e-5);
            let mut codes = vec![0; row.len()];
            rounding.codes(&row, &mut codes);
            for (w, code) in row.iter().zip(codes) {
                prop_assert_eq!(code, (w * s).round_ties_even().clamp(-1.0, 1.0) as i8);
            }
            prop_assert_eq!(rounding.scale.to_bits(), (1.0 / s).to_bits());
        }
    }

    #[test]
    fn halves_round_to_zero_and_ternary_stays() {
        let mut codes = [9; 4];
        Rounding::absmean(1.0).codes(&[0.5, -0.5, 0.50001, -7.0], &mut codes);
        assert_eq!(codes, [0, 0, 1, -1]);
        Rounding::exact(1e-30).codes(&[1e-30, 0.0, -0.0, -1e-30], &mut codes);
        assert_eq!(codes, [1, 0, 0, -1]);
        assert_eq!(magnitudes(&[0.0, 2.0, -2.0], 2.0), (4.0, false));
        assert!(magnitudes(&[0.0, 2.0, -2.5], 2.0).1);
    }
}
