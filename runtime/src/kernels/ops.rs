//! The table of element-wise operations and attention that a [`super::KernelSet`] carries.
//!
//! Every function is unsafe to call only because its instance may need the CPU features of `level`.

use super::SimdLevel;

/// One query head against the cached keys and values of its KV head.
pub struct Attend<'a> {
    /// [head_dim], already rounded to half precision (see [`Ops::round_to_f16`]).
    pub query: &'a [f32],
    /// [positions, head_dim] half floats.
    pub keys: &'a [u16],
    /// [positions, head_dim] half floats.
    pub values: &'a [u16],
    /// 1 / sqrt(head_dim).
    pub scale: f32,
    /// Scratch of [`Attend::scratch_len`] elements; its contents do not matter.
    pub scratch: &'a mut [f32],
    /// [head_dim].
    pub out: &'a mut [f32],
}

impl Ops {
    /// The names of the fields that are operations.
    pub const NAMES: [&'static str; 8] = [
        "rms_norm",
        "silu_mul",
        "relu2_mul",
        "rope_adjacent",
        "rope_neox",
        "attend",
        "f16_from_f32",
        "round_to_f16",
    ];
}

impl Attend<'_> {
    /// Scores, padded to eight, and 32 partial sums of the output.
    pub const fn scratch_len(positions: usize, head_dim: usize) -> usize {
        positions.next_multiple_of(8) + 32 * head_dim
    }
}

/// One instance of every operation; see `arch/all/ops.rs` for the definitions.
#[derive(Clone, Copy)]
pub struct Ops {
    pub level: SimdLevel,
    pub rms_norm: unsafe fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    pub silu_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    pub relu2_mul: unsafe fn(gate: &mut [f32], up: &[f32]),
    pub rope_adjacent: unsafe fn(head: &mut [f32], cos: &[f32], sin: &[f32]),
    pub rope_neox: unsafe fn(head: &mut [f32], cos: &[f32], sin: &[f32]),
    pub attend: unsafe fn(args: &mut Attend<'_>),
    pub f16_from_f32: unsafe fn(src: &[f32], dst: &mut [u16]),
    pub round_to_f16: unsafe fn(values: &mut [f32]),
}
