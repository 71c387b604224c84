//! Known bugs to plant, so that tests can show that cross-validation and receipts notice them.
//!
//! In: the value of `--plant NAME[@LAYER]` of the binary `bitnet-planted`. Out: a model or a kernel that is wrong in
//! exactly that way. Compiled only with the feature `planted-bugs`, which no released binary has. The bugs are
//! those that engines have had: see docs/explanation/dual-backend.md.

use crate::kernels::SimdLevel;
use crate::model::{HiddenActivation, Matrix, Model, RopePairing};
use crate::tensor::TensorType;
use crate::{Error, Result};
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Ternary codes of the up projection of one layer stand for other values: 0 for +1, 1 for -1, 2 for 0.
    CodeMap,
    /// The scale of the down projection of one layer is taken as 1.
    DroppedScale,
    /// SiLU in every layer.
    SiluForRelu2,
    /// One layer has no norm between attention and its output projection.
    MissingSubNorm,
    /// The other pairing of RoPE in every layer.
    RopePairing,
    /// Queries are rotated by the angles of the position before, in every layer.
    PositionOffByOne,
    /// The norm before attention of one layer divides by the length of the feed-forward vector.
    NormLength,
    /// SIMD kernels get the last result of every call wrong; scalar ones are right.
    SimdKernel,
    /// Matrix kernels return without computing.
    StubbedKernel,
}

const NAMES: [(&str, Bug); 9] = [
    ("code-map", Bug::CodeMap),
    ("dropped-scale", Bug::DroppedScale),
    ("silu-for-relu2", Bug::SiluForRelu2),
    ("missing-sub-norm", Bug::MissingSubNorm),
    ("rope-pairing", Bug::RopePairing),
    ("position-off-by-one", Bug::PositionOffByOne),
    ("norm-length", Bug::NormLength),
    ("simd-kernel", Bug::SimdKernel),
    ("stubbed-kernel", Bug::StubbedKernel),
];

static PLANTED: OnceLock<(Bug, usize)> = OnceLock::new();

/// Plants `NAME[@LAYER]` (layer 0 where none is given) in this process.
///
/// # Errors
/// A name that is not known, a layer that is not a number, or a second call.
pub fn plant(text: &str) -> Result<()> {
    let (name, layer) = text.split_once('@').unwrap_or((text, "0"));
    let names = NAMES.map(|(name, _)| name).join(", ");
    let usage =
        || Error::usage(format!("cannot plant '{text}'"), format!("give NAME[@LAYER] with one of {names}"));
    let (_, bug) = NAMES.into_iter().find(|(known, _)| *known == name).ok_or_else(usage)?;
    PLANTED.set((bug, layer.parse().map_err(|_| usage())?)).map_err(|_| usage())
}

fn planted(bug: Bug) -> bool {
    PLANTED.get().is_some_and(|(planted, _)| *planted == bug)
}

/// Plants what lives in the model's weights and configuration.
pub(crate) fn change(model: &mut Model) -> Result<()> {
    let Some((bug, layer)) = PLANTED.get().copied() else { return Ok(()) };
    let lengths = model.config.feed_forward as f32 / model.config.hidden as f32;
    let layers = model.layers.len();
    let Some(layer) = model.layers.get_mut(layer) else {
        return Err(Error::usage(format!("there is no layer {layer}"), format!("the model has {layers}")));
    };
    match bug {
        Bug::CodeMap => map_codes(&mut layer.up.matrix),
        Bug::DroppedScale => drop_scale(&mut layer.down.matrix),
        Bug::SiluForRelu2 => model.config.activation = HiddenActivation::Silu,
        Bug::MissingSubNorm => layer.attn_sub_norm = None,
        Bug::RopePairing => {
            model.config.rope_pairing = match model.config.rope_pairing {
                RopePairing::Adjacent => RopePairing::Neox,
                RopePairing::Neox => RopePairing::Adjacent,
            }
        }
        Bug::NormLength => layer.attn_norm.iter_mut().for_each(|weight| *weight *= lengths.sqrt()),
        Bug::PositionOffByOne | Bug::SimdKernel | Bug::StubbedKernel => {}
    }
    Ok(())
}

fn map_codes(matrix: &mut Matrix) {
    let (ty, row_bytes) = (matrix.ty, matrix.row_bytes);
    let turn = |byte: &mut u8| {
        let code = |shift: u32| (*byte >> shift & 3) as u32;
        *byte = [0, 2, 4, 6].into_iter().fold(0, |out, shift| out | (((code(shift) + 2) % 3) << shift) as u8);
    };
    matrix.change_bytes(|bytes| match ty {
        TensorType::I2S => bytes.iter_mut().for_each(turn),
        TensorType::TQ2_0 => {
            bytes.chunks_exact_mut(66).for_each(|block| block[..64].iter_mut().for_each(turn))
        }
        // Without two-bit codes: the same wrong order of values as swapping neighbouring rows.
        _ => bytes.chunks_exact_mut(2 * row_bytes).for_each(|rows| rows.rotate_left(row_bytes)),
    });
}

fn drop_scale(matrix: &mut Matrix) {
    matrix.tensor_scale = 1.0;
    let one = half::f16::ONE.to_le_bytes();
    let (block, at) = match matrix.ty {
        TensorType::TQ1_0 => (54, 52),
        TensorType::TQ2_0 => (66, 64),
        _ => return,
    };
    matrix.change_bytes(|bytes| bytes.chunks_exact_mut(block).for_each(|b| b[at..].copy_from_slice(&one)));
}

/// The angles of token `t` of `m` [m, n] for its query.
pub(crate) fn angles_of_query(angles: &[f32], t: usize, m: usize) -> Vec<f32> {
    let n = angles.len() / m;
    let t = if planted(Bug::PositionOffByOne) { t.saturating_sub(1) } else { t };
    angles[t * n..][..n].to_vec()
}

pub(crate) fn skips_kernels() -> bool {
    planted(Bug::StubbedKernel)
}

pub(crate) fn after_kernel(level: SimdLevel, last: Option<&mut f32>) {
    if planted(Bug::SimdKernel)
        && level > SimdLevel::Scalar
        && let Some(last) = last
    {
        *last = 1.5 * *last + 0.125;
    }
}
