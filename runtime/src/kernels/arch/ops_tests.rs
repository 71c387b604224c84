//! One runner for the element-wise operations of every level: bit for bit equal to the scalar definition.

use super::all::ops::OPS as SCALAR;
use crate::kernels::ops::Ops;
use crate::kernels::registry::OPS;
use proptest::prelude::*;

/// Whether every instance that this CPU can run gives what the scalar one gives, bit for bit.
fn compare<const N: usize>(run: impl Fn(&Ops) -> [Vec<f32>; N]) -> Result<(), TestCaseError> {
    let bits = |ops: &Ops| run(ops).map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    let expected = bits(&SCALAR);
    for ops in OPS.iter().filter(|ops| ops.level.is_available()) {
        prop_assert_eq!(bits(ops), expected.clone(), "{:?}", ops.level);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn element_wise_operations_equal_the_scalar_ones(
        values in proptest::collection::vec((-90f32..90.0, -4f32..4.0), 1..70),
    ) {
        let (x, y): (Vec<f32>, Vec<f32>) = values.into_iter().unzip();
        compare(|ops| {
            let (mut norm, mut half) = (vec![0.0; x.len()], vec![0u16; x.len()]);
            let (mut silu, mut relu2, mut rounded) = (x.clone(), x.clone(), x.clone());
            // SAFETY: `compare` checks the CPU.
            unsafe {
                (ops.rms_norm)(&x, &y, 1e-5, &mut norm);
                (ops.silu_mul)(&mut silu, &y);
                (ops.relu2_mul)(&mut relu2, &y);
                (ops.f16_from_f32)(&x, &mut half);
                (ops.round_to_f16)(&mut rounded);
            }
            [norm, silu, relu2, rounded, half.into_iter().map(f32::from).collect()]
        })?;
    }

    #[test]
    fn rope_equals_the_scalar_one(pairs in proptest::collection::vec((-4f32..4.0, -4f32..4.0, -7f32..7.0), 1..40)) {
        let (cos, sin): (Vec<f32>, Vec<f32>) = pairs.iter().map(|(_, _, angle)| (angle.cos(), angle.sin())).unzip();
        let head: Vec<f32> = pairs.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
        compare(|ops| {
            let (mut adjacent, mut neox) = (head.clone(), head.clone());
            // SAFETY: `compare` checks the CPU.
            unsafe {
                (ops.rope_adjacent)(&mut adjacent, &cos, &sin);
                (ops.rope_neox)(&mut neox, &cos, &sin);
            }
            [adjacent, neox]
        })?;
    }
}
