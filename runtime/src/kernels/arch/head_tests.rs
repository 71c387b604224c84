//! One runner for the compact head of every level: against the scalar definition, and what packing promises.

use super::all::head::HEAD as SCALAR;
use crate::kernels::head::{Coarse, GROUP, HeadKernel, Pack, QUERIES, Query, Shape};
use crate::kernels::registry::HEAD;
use crate::sampling::rng::SplitMix64;
use proptest::prelude::*;

/// Every instance this CPU can run.
fn levels() -> impl Iterator<Item = &'static HeadKernel> {
    HEAD.iter().filter(|head| head.level.is_available())
}

struct Packed {
    coarse: Vec<u8>,
    fine: Vec<u8>,
    scales: Vec<f32>,
}

fn pack(kernel: &HeadKernel, shape: Shape, rows: &[f32]) -> Packed {
    let groups = (rows.len() / shape.columns).div_ceil(GROUP);
    let mut packed = Packed {
        coarse: vec![0xff; groups * shape.coarse_bytes()],
        fine: vec![0; groups * GROUP * shape.fine_bytes()],
        scales: vec![f32::NAN; groups * GROUP],
    };
    for (group, rows) in rows.chunks(GROUP * shape.columns).enumerate() {
        let coarse = &mut packed.coarse[group * shape.coarse_bytes()..][..shape.coarse_bytes()];
        coarse.fill(0);
        let fine = &mut packed.fine[group * GROUP * shape.fine_bytes()..][..GROUP * shape.fine_bytes()];
        let scales = &mut packed.scales[group * GROUP..][..GROUP];
        let mut args = Pack { rows, shape, first: group * GROUP, coarse, fine, scales };
        // SAFETY: `levels` gives those this CPU runs.
        unsafe { (kernel.pack)(&mut args) };
    }
    packed
}

/// Scores, spreads, and what the fine plane adds, of every query and row.
fn score(kernel: &HeadKernel, shape: Shape, packed: &Packed, queries: &[Query]) -> [Vec<f32>; 3] {
    let stride = packed.scales.len();
    let (mut scores, mut spreads) =
        (vec![f32::NAN; queries.len() * stride], vec![f32::NAN; queries.len() * stride]);
    let (groups, scales) = (&packed.coarse[..], &packed.scales[..]);
    let (scores_out, spreads_out) = (&mut scores[..], &mut spreads[..]);
    let mut args =
        Coarse { shape, groups, scales, queries, scores: scores_out, spreads: spreads_out, stride, done: 0 };
    // SAFETY: as above.
    unsafe { (kernel.coarse)(&mut args) };
    assert_eq!(args.done as usize, queries.len() * stride, "{}", kernel.id);
    let rows = packed.fine.chunks(shape.fine_bytes());
    let pairs = queries.iter().flat_map(|query| rows.clone().map(move |row| (query, row)));
    // SAFETY: as above.
    let fine = pairs.map(|(query, row)| unsafe { (kernel.fine)(shape, row, query) }).collect();
    [scores, spreads, fine]
}

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = SplitMix64::new(seed);
    let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..n).map(|_| unit(rng.next_u64()) + unit(rng.next_u64())).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_level_equals_scalar(
        columns in 1usize..300, rows in 1usize..40, count in 1usize..=QUERIES, extreme: bool, seed: u64,
    ) {
        let shape = Shape { columns };
        let with = |values: Vec<f32>| -> Vec<f32> {
            if extreme { values.into_iter().map(f32::signum).collect() } else { values }
        };
        let weights = with(random(rows * columns, seed));
        let queries: Vec<Query> = (0..count as u64).map(|q| {
            let mut query = Query::new(shape);
            query.set(&with(random(columns, seed ^ (q + 1))));
            query
        }).collect();
        let expected = pack(&SCALAR, shape, &weights);
        let scored = score(&SCALAR, shape, &expected, &queries);
        for kernel in levels() {
            let packed = pack(kernel, shape, &weights);
            prop_assert_eq!(&packed.coarse, &expected.coarse, "{}", kernel.id);
            prop_assert_eq!(&packed.fine, &expected.fine, "{}", kernel.id);
            prop_assert_eq!(bits(&packed.scales), bits(&expected.scales), "{}", kernel.id);
            for (got, want) in score(kernel, shape, &expected, &queries).iter().zip(&scored) {
                prop_assert_eq!(bits(got), bits(want), "{}", kernel.id);
            }
        }
    }
}

/// Rounding has the right mean: over many rows that are equal, the errors of both planes cancel.
#[test]
fn rounding_has_the_right_mean() {
    let (shape, rows) = (Shape { columns: 64 }, 4096);
    let row = random(64, 5);
    let weights: Vec<f32> = std::iter::repeat_n(&row, rows).flatten().copied().collect();
    let packed = pack(&SCALAR, shape, &weights);
    let mut query = Query::new(shape);
    query.set(&random(64, 6));
    let [scores, spreads, fine] = score(&SCALAR, shape, &packed, &[query.clone()]);
    let exact: f64 = row.iter().zip(random(64, 6)).map(|(w, x)| f64::from(*w) * f64::from(x)).sum();
    let spread = f64::from(spreads[0]);
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / rows as f64;
    let coarse = mean(&mut scores.iter().map(|score| f64::from(*score) - exact));
    let both = scores.iter().zip(&fine).zip(&packed.scales);
    let errors: Vec<f64> =
        both.map(|((score, rest), scale)| f64::from(score + scale * (2.0 / 15.0) * rest) - exact).collect();
    // A step of 2 units has a standard deviation of at most 1, and one of 4/15 of at most 2/15.
    assert!(coarse.abs() < 6.0 * spread / (rows as f64).sqrt(), "{coarse} of {spread}");
    assert!(mean(&mut errors.iter().copied()).abs() < 6.0 / 7.5 * spread / (rows as f64).sqrt() + 1e-5);
    let worst = errors.iter().fold(0f64, |worst, error| worst.max(error.abs()));
    assert!(worst > 0.01 * spread && worst < 1.3 * spread, "{worst} of {spread}");
}
