//! Which operation went wrong: intermediate results of two engines, walked in the order of evaluation.
//!
//! In: two taps files. Out: the distance of every operation that both report, and the first one that is too far
//! away. Where the other side computed from our inputs (the oracle with `given`), an operation is judged alone;
//! where it did not, everything before the first one is known to be close. Deliberately absent: kernels.

use super::metrics::{Distance, Table, distance};
use anyhow::Result;
use bitforge_schema::protocol::{Tap, TapPoint};
use serde::Serialize;
use std::path::PathBuf;

/// The intermediate results of one evaluation.
#[derive(Clone, Debug)]
pub struct Taps {
    pub path: PathBuf,
    pub table: Vec<Tap>,
    pub positions: usize,
}

impl Taps {
    pub fn read(&self, point: TapPoint, layer: Option<u32>) -> Result<Option<Table>> {
        let found = self.table.iter().find(|tap| (tap.point, tap.layer) == (point, layer));
        found.map(|tap| Table::read(&self.path, tap.offset, self.positions, tap.width as usize)).transpose()
    }
}

/// One operation of both engines, the worst of all positions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    pub point: TapPoint,
    pub layer: Option<u32>,
    pub min_cosine: f64,
    pub max_relative_l2: f64,
    /// The position of that distance.
    pub position: usize,
    /// Ours divided by the other's, where that is one number for the whole tensor.
    pub ratio: Option<f64>,
    pub bit_equal: bool,
}

/// Every operation that both report, in our order of evaluation.
pub fn compare(ours: &Taps, other: &Taps) -> Result<Vec<Operation>> {
    let mut operations = Vec::new();
    for tap in &ours.table {
        let Some(theirs) = other.read(tap.point, tap.layer)? else { continue };
        let Some(mine) = ours.read(tap.point, tap.layer)? else { continue };
        if mine.width == theirs.width {
            operations.push(operation(tap, &mine, &theirs));
        }
    }
    Ok(operations)
}

fn operation(tap: &Tap, ours: &Table, other: &Table) -> Operation {
    let distances: Vec<Distance> =
        ours.rows().zip(other.rows()).map(|(ours, other)| distance(ours, other)).collect();
    let worst = (0..distances.len())
        .max_by(|a, b| distances[*a].relative_l2.total_cmp(&distances[*b].relative_l2))
        .unwrap_or(0);
    Operation {
        point: tap.point,
        layer: tap.layer,
        min_cosine: distances.iter().map(|distance| distance.cosine).fold(1.0, f64::min),
        max_relative_l2: distances.get(worst).map_or(0.0, |distance| distance.relative_l2),
        position: worst,
        ratio: ratio(&ours.values, &other.values),
        bit_equal: ours.values.iter().zip(&other.values).all(|(a, b)| a.to_bits() == b.to_bits()),
    }
}

/// The factor between two tensors, where what it leaves over is below 2%.
fn ratio(ours: &[f32], other: &[f32]) -> Option<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (aa, ab, bb) = (dot(ours, ours), dot(ours, other), dot(other, other));
    let factor = ab / bb;
    // |a - f b|^2 = aa - ab^2 / bb for the best f; of zeros this leaves no number, which is not below anything.
    (factor.is_finite() && (aa - ab * factor).max(0.0) / aa < 0.02f64.powi(2)).then_some(factor)
}

/// The first operation farther away than `limit`.
pub fn first_beyond(operations: &[Operation], limit: f64) -> Option<&Operation> {
    operations.iter().find(|operation| operation.max_relative_l2 > limit)
}

/// The last operation before `operation` in its layer that the other engine has and ours lacks.
pub fn missing_before(ours: &Taps, other: &Taps, operation: &Operation) -> Option<TapPoint> {
    let of_layer = |taps: &Taps| {
        let table = taps.table.iter().filter(|tap| tap.layer == operation.layer);
        table.map(|tap| tap.point).collect::<Vec<_>>()
    };
    let ours = of_layer(ours);
    of_layer(other).into_iter().filter(|point| *point < operation.point && !ours.contains(point)).max()
}

/// What the operation is, in words.
pub const fn title(point: TapPoint) -> &'static str {
    match point {
        TapPoint::Embedding => "token embedding",
        TapPoint::AttnNorm => "RMS norm before attention",
        TapPoint::Query => "query projection",
        TapPoint::Key => "key projection",
        TapPoint::Value => "value projection",
        TapPoint::QueryRope => "RoPE of the queries",
        TapPoint::KeyRope => "RoPE of the keys",
        TapPoint::Attention => "attention",
        TapPoint::AttnSubNorm => "sub-norm after attention",
        TapPoint::AttnOutput => "output projection of attention",
        TapPoint::AttnResidual => "addition of attention",
        TapPoint::FfnNorm => "RMS norm before the FFN",
        TapPoint::Gate => "gate projection",
        TapPoint::Up => "up projection",
        TapPoint::FfnActivation => "activation of the FFN",
        TapPoint::FfnSubNorm => "sub-norm of the FFN",
        TapPoint::FfnOutput => "down projection",
        TapPoint::LayerOutput => "addition of the FFN",
        TapPoint::FinalNorm => "final RMS norm",
    }
}

/// The tensor that the operation reads, where it reads one.
pub fn tensor(point: TapPoint, layer: Option<u32>) -> Option<String> {
    let name = match point {
        TapPoint::Embedding => return Some("token_embd.weight".into()),
        TapPoint::FinalNorm => return Some("output_norm.weight".into()),
        TapPoint::AttnNorm => "attn_norm",
        TapPoint::Query => "attn_q",
        TapPoint::Key => "attn_k",
        TapPoint::Value => "attn_v",
        TapPoint::AttnSubNorm => "attn_sub_norm",
        TapPoint::AttnOutput => "attn_output",
        TapPoint::FfnNorm => "ffn_norm",
        TapPoint::Gate => "ffn_gate",
        TapPoint::Up => "ffn_up",
        TapPoint::FfnSubNorm => "ffn_sub_norm",
        TapPoint::FfnOutput => "ffn_down",
        _ => return None,
    };
    layer.map(|layer| format!("blk.{layer}.{name}.weight"))
}

/// Where the operation's input was tapped, the nearest first; empty for what is not a matrix product.
pub const fn inputs(point: TapPoint) -> &'static [TapPoint] {
    match point {
        TapPoint::Query | TapPoint::Key | TapPoint::Value => &[TapPoint::AttnNorm],
        TapPoint::AttnOutput => &[TapPoint::AttnSubNorm, TapPoint::Attention],
        TapPoint::Gate | TapPoint::Up => &[TapPoint::FfnNorm],
        TapPoint::FfnOutput => &[TapPoint::FfnSubNorm, TapPoint::FfnActivation],
        _ => &[],
    }
}

/// The result of [`super::compare`]'s search for the culprit.
#[derive(Clone, Debug, Serialize)]
pub struct Blame {
    pub layer: Option<u32>,
    pub point: TapPoint,
    pub operation: &'static str,
    pub tensor: Option<String>,
    /// The SIMD kernels of this weight type, where scalar kernels do not diverge here.
    pub kernels: Vec<String>,
    pub max_relative_l2: f64,
    pub position: usize,
    pub hint: Option<String>,
}

impl Blame {
    /// `missing` (see [`missing_before`]) takes the blame from the operation that follows it.
    pub fn with_missing(operation: &Operation, missing: Option<TapPoint>) -> Self {
        let blame = Self::of(operation);
        match missing {
            Some(point) => Blame {
                point,
                operation: title(point),
                tensor: tensor(point, operation.layer),
                hint: Some("ours has no such operation".into()),
                ..blame
            },
            None => blame,
        }
    }

    pub fn of(operation: &Operation) -> Self {
        let hint = match operation.ratio {
            Some(ratio) if (ratio - 1.0).abs() > 0.01 => Some(format!(
                "ours is {ratio:.4} times the other's everywhere: a scale or a norm, not the products"
            )),
            _ => None,
        };
        Blame {
            layer: operation.layer,
            point: operation.point,
            operation: title(operation.point),
            tensor: tensor(operation.point, operation.layer),
            kernels: Vec::new(),
            max_relative_l2: operation.max_relative_l2,
            position: operation.position,
            hint,
        }
    }

    /// Where it went wrong and how far.
    pub fn render_place(&self) -> String {
        let place = self.layer.map_or("outside the layers".to_string(), |layer| format!("layer {layer}"));
        let mut text = format!("{place}, {}", self.operation);
        if let Some(tensor) = &self.tensor {
            text.push_str(&format!(" ({tensor})"));
        }
        text.push_str(&format!(": {:.2e} away at position {}", self.max_relative_l2, self.position));
        text
    }

    pub fn render(&self) -> String {
        let mut text = self.render_place();
        if self.kernels.is_empty() {
            text.push_str(
                "; scalar kernels give the same, so it is the graph, the weights or the definition",
            );
        } else {
            text.push_str(&format!(
                "; scalar kernels do not, so it is the kernel {}",
                self.kernels.join(" or ")
            ));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("; {hint}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn taps(dir: &Path, name: &str, values: &[(TapPoint, Option<u32>, [f32; 4])]) -> Taps {
        let path = dir.join(name);
        let bytes: Vec<u8> =
            values.iter().flat_map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes())).collect();
        std::fs::write(&path, bytes).unwrap();
        let tap = |(index, (point, layer, _)): (usize, &(TapPoint, Option<u32>, [f32; 4]))| Tap {
            point: *point,
            layer: *layer,
            width: 2,
            offset: 16 * index as u64,
        };
        Taps { path, table: values.iter().enumerate().map(tap).collect(), positions: 2 }
    }

    #[test]
    fn the_first_operation_beyond_the_limit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Some(1);
        let ours = taps(
            dir.path(),
            "ours",
            &[
                (TapPoint::Embedding, None, [1.0, 2.0, 3.0, 4.0]),
                (TapPoint::Query, layer, [1.0, 2.0, 3.0, 4.0]),
                (TapPoint::Gate, layer, [2.0, 4.0, 6.0, 8.0]),
                (TapPoint::Up, layer, [9.0, 9.0, 9.0, 9.0]),
            ],
        );
        let other = taps(
            dir.path(),
            "other",
            &[
                (TapPoint::Embedding, None, [1.0, 2.0, 3.0, 4.0]),
                (TapPoint::Gate, layer, [1.0, 2.0, 3.0, 4.0]),
                (TapPoint::Up, layer, [1.0, 2.0, 3.0, 4.0]),
            ],
        );
        let operations = compare(&ours, &other).unwrap();
        assert_eq!(operations.len(), 3, "what only one reports is left out");
        assert!(operations[0].bit_equal);
        let first = first_beyond(&operations, 0.02).unwrap();
        assert_eq!((first.point, first.layer), (TapPoint::Gate, layer));
        let blame = Blame::of(first);
        assert_eq!(blame.tensor.as_deref(), Some("blk.1.ffn_gate.weight"));
        assert!(blame.hint.as_deref().unwrap().contains("2.0000 times"), "{blame:?}");
        insta::assert_snapshot!(blame.render());
        assert!(first_beyond(&operations[..1], 0.02).is_none());
    }

    #[test]
    fn every_matrix_product_has_an_input_and_a_tensor() {
        for point in TapPoint::ALL.into_iter().filter(|point| !inputs(*point).is_empty()) {
            assert!(tensor(point, Some(0)).is_some(), "{point}");
        }
    }

    #[test]
    fn an_operation_is_as_bad_as_its_worst_position() {
        let dir = tempfile::tempdir().unwrap();
        let ours = taps(dir.path(), "ours", &[(TapPoint::Query, Some(0), [1.0, 0.0, 3.0, 4.0])]);
        let other = taps(dir.path(), "other", &[(TapPoint::Query, Some(0), [1.0, 0.0, 4.0, 3.0])]);
        let operation = &compare(&ours, &other).unwrap()[0];
        assert_eq!((operation.position, operation.bit_equal, operation.ratio), (1, false, None));
        assert!((operation.min_cosine - 24.0 / 25.0).abs() < 1e-9);
        assert!((operation.max_relative_l2 - 2f64.sqrt() / 5.0).abs() < 1e-9);
        assert!(
            first_beyond(std::slice::from_ref(operation), operation.max_relative_l2).is_none(),
            "a limit may be reached"
        );
        assert!(Blame::of(operation).hint.is_none());
    }

    #[test]
    fn another_width_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let mut ours = taps(dir.path(), "ours", &[(TapPoint::Query, Some(0), [1.0; 4])]);
        let other = taps(dir.path(), "other", &[(TapPoint::Query, Some(0), [1.0; 4])]);
        assert_eq!(compare(&ours, &other).unwrap().len(), 1);
        ours.table[0].width = 1;
        assert!(compare(&ours, &other).unwrap().is_empty());
        assert!(ours.read(TapPoint::Query, Some(1)).unwrap().is_none());
        assert!(ours.read(TapPoint::Key, Some(0)).unwrap().is_none());
    }

    #[test]
    fn a_factor_is_found_where_nothing_else_differs() {
        assert_eq!(ratio(&[2.0, 4.0], &[1.0, 2.0]), Some(2.0));
        assert_eq!(ratio(&[2.0, 4.0], &[2.0, 1.0]), None);
        assert_eq!(ratio(&[0.0, 0.0], &[1.0, 2.0]), None, "zeros are no multiple");
        assert_eq!(ratio(&[1.0, 2.0], &[0.0, 0.0]), None);
        // 1% of noise is left over at a right angle, then 3%.
        assert!(ratio(&[100.0, 1.0], &[100.0, 0.0]).is_some());
        assert!(ratio(&[100.0, 3.0], &[100.0, 0.0]).is_none());
    }

    fn operation_at(point: TapPoint, layer: Option<u32>, ratio: Option<f64>) -> Operation {
        Operation {
            point,
            layer,
            min_cosine: 0.5,
            max_relative_l2: 0.125,
            position: 3,
            ratio,
            bit_equal: false,
        }
    }

    #[test]
    fn a_hint_needs_a_factor_that_is_not_one() {
        let hint = |ratio| Blame::of(&operation_at(TapPoint::Up, Some(2), ratio)).hint;
        assert_eq!(hint(None), None);
        assert_eq!(hint(Some(1.005)), None);
        assert_eq!(hint(Some(0.995)), None);
        for (ratio, says) in [(1.02, "1.0200"), (0.5, "0.5000")] {
            assert!(hint(Some(ratio)).unwrap().contains(&format!("ours is {says} times")));
        }
    }

    #[test]
    fn an_operation_that_ours_lacks_takes_the_blame() {
        let dir = tempfile::tempdir().unwrap();
        let row = [0.0; 4];
        let ours = taps(
            dir.path(),
            "ours",
            &[(TapPoint::AttnNorm, Some(1), row), (TapPoint::AttnOutput, Some(1), row)],
        );
        let all = [
            (TapPoint::Query, Some(0), row),
            (TapPoint::AttnNorm, Some(1), row),
            (TapPoint::Attention, Some(1), row),
            (TapPoint::AttnSubNorm, Some(1), row),
            (TapPoint::AttnOutput, Some(1), row),
            (TapPoint::FfnNorm, Some(1), row),
        ];
        let other = taps(dir.path(), "other", &all);
        let operation = operation_at(TapPoint::AttnOutput, Some(1), None);
        let missing = missing_before(&ours, &other, &operation);
        assert_eq!(missing, Some(TapPoint::AttnSubNorm), "the last one before it, and in its layer");
        let first = operation_at(TapPoint::AttnNorm, Some(1), None);
        assert_eq!(missing_before(&ours, &other, &first), None);
        let blame = Blame::with_missing(&operation, missing);
        assert_eq!((blame.point, blame.operation), (TapPoint::AttnSubNorm, "sub-norm after attention"));
        assert_eq!(blame.tensor.as_deref(), Some("blk.1.attn_sub_norm.weight"));
        assert_eq!(blame.hint.as_deref(), Some("ours has no such operation"));
        assert_eq!(Blame::with_missing(&operation, None).point, TapPoint::AttnOutput);
    }

    #[test]
    fn what_is_said_names_place_kernel_and_hint() {
        let mut blame = Blame::of(&operation_at(TapPoint::Attention, Some(4), Some(2.0)));
        blame.kernels = vec!["a.avx2".into(), "b.avx2".into()];
        assert_eq!(
            blame.render(),
            "layer 4, attention: 1.25e-1 away at position 3; scalar kernels do not, so it is the kernel a.avx2 or b.avx2; \
             ours is 2.0000 times the other's everywhere: a scale or a norm, not the products"
        );
        let blame = Blame::of(&operation_at(TapPoint::FinalNorm, None, None));
        assert_eq!(
            blame.render(),
            "outside the layers, final RMS norm (output_norm.weight): 1.25e-1 away at position 3; \
             scalar kernels give the same, so it is the graph, the weights or the definition"
        );
    }

    #[test]
    fn tensors_titles_and_inputs_by_the_names_of_the_file() {
        let named = |point| {
            tensor(point, Some(0)).map(|name| name["blk.0.".len()..name.len() - ".weight".len()].to_string())
        };
        let expected = [
            (TapPoint::AttnNorm, "attn_norm", "RMS norm before attention"),
            (TapPoint::Query, "attn_q", "query projection"),
            (TapPoint::Key, "attn_k", "key projection"),
            (TapPoint::Value, "attn_v", "value projection"),
            (TapPoint::AttnSubNorm, "attn_sub_norm", "sub-norm after attention"),
            (TapPoint::AttnOutput, "attn_output", "output projection of attention"),
            (TapPoint::FfnNorm, "ffn_norm", "RMS norm before the FFN"),
            (TapPoint::Gate, "ffn_gate", "gate projection"),
            (TapPoint::Up, "ffn_up", "up projection"),
            (TapPoint::FfnSubNorm, "ffn_sub_norm", "sub-norm of the FFN"),
            (TapPoint::FfnOutput, "ffn_down", "down projection"),
        ];
        for (point, name, words) in expected {
            assert_eq!((named(point).as_deref(), title(point)), (Some(name), words));
            assert_eq!(tensor(point, None), None);
        }
        assert_eq!(tensor(TapPoint::Embedding, None).as_deref(), Some("token_embd.weight"));
        assert_eq!(tensor(TapPoint::LayerOutput, Some(0)), None);
        assert_eq!(inputs(TapPoint::Value), [TapPoint::AttnNorm]);
        assert_eq!(inputs(TapPoint::AttnOutput), [TapPoint::AttnSubNorm, TapPoint::Attention]);
        assert_eq!(inputs(TapPoint::Gate), [TapPoint::FfnNorm]);
        assert_eq!(inputs(TapPoint::FfnOutput), [TapPoint::FfnSubNorm, TapPoint::FfnActivation]);
        assert!(inputs(TapPoint::Attention).is_empty());
    }
}
