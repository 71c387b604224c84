//! The parameters of kernels, as the structs of the same names in `kernels/*.cu` lay them out. Pointers are addresses on
//! the device. What every field means is written there.

use cudarc::driver::DeviceRepr;

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $(pub $field: $ty),* }
        // SAFETY: plain numbers in C layout, the same as the kernel's own struct (`sizes_are_those_of_the_kernels`).
        unsafe impl DeviceRepr for $name {}
    )*};
}

parameters! {
    /// common.cuh
    Cache { data: u64, layer_stride: i64, kv_heads: i32, head_dim: i32 }
    /// attention.cu
    RowPlaces { position: u64, sequence: u64, pages: u64, max_pages: i32 }
    /// attention.cu
    RopeStore {
        qkv: u64, q: u64, angles: u64, rows: RowPlaces, cache: Cache, layer: i32, heads: i32, rope_dim: i32, neox: i32,
    }
    /// attention.cu
    Attend {
        q: u64, out: u64, partial: u64, rows: RowPlaces, cache: Cache, layer: i32, heads: i32, splits: i32, run: i32,
        first: i32, count: i32,
    }
    /// gemm.cu
    Gemm {
        weights: u64, activations: u64, token_scales: u64, sums: u64, scales: u64, out: u64, n: i32, m: i32, k: i32,
        bound: [i32; 2], activation: i32,
    }
    /// rows.cu
    NormRow {
        x: u64, weight: u64, quants: u64, scales: u64, sums: u64, values: u64, offsets: u64, width: i32, packing: i32, eps: f32,
        slice: i32,
    }
    /// team.cu
    TeamRows {
        x: u64, weight: u64, part: u64, parts: u64, quants: u64, slices: u64, rows: u64, scales: u64, sums: u64, width: i32,
        slice: i32, columns: i32, ranks: i32, eps: f32, spare: i32,
    }
    /// quants.cu
    Product {
        weights: u64, x: u64, out: u64, steps: u64, offsets: u64, n: i32, m: i32, k: i32, row_bytes: i32, stride: i32, column: i32, add: i32,
        tensor_scale: f32, extra: f32,
    }
    /// decode.cu
    Decode {
        weights: u64, norms: u64, scales: u64, final_norm: u64, embedding: u64, head: u64, compact: u64,
        compact_facts: u64, angles: u64, pages: u64, qkv: u64, attn: u64, mid: u64, act: u64, out: u64, partial: u64,
        best: u64, first: u64, tokens: u64, normed: u64, cache: Cache, layer_bytes: i64, layers: i32, hidden: i32,
        ffn: i32, heads: i32, kv_heads: i32, head_dim: i32, rope_dim: i32, vocab: i32, activation: i32, neox: i32,
        position: i32, count: i32, choose: i32, run: i32, eps: f32, ticket: u32,
    }
    /// step.cuh
    Turn { ready: u64, done: u64, expected: u32, spare: u32 }
    /// step.cuh
    StepGemm {
        weights: u64, x: u64, norm: u64, before: u64, scales: u64, out: u64, after: u64, next_norm: u64, turn: Turn, n: i32, m: i32, k: i32, tiles: i32, round: i32, bound: [i32; 2], activation: i32,
        eps: f32, spare: i32,
    }
    /// step_wide.cu
    StepWide {
        weights: u64, x: u64, norm: u64, before: u64, quants: u64, token_scales: u64, sums: u64, scales: u64, out: u64,
        after: u64, next_norm: u64, turn: Turn, n: i32, m: i32, k: i32, rows: i32,
        bound: [i32; 2], activation: i32, stages: i32, eps: f32, spare: i32,
    }
    /// step_attend.cu
    StepAttend {
        qkv: u64, out: u64, angles: u64, positions: u64, pages: u64, after: u64, next_norm: u64, turn: Turn, cache: Cache, max_pages: i32, layer: i32, heads: i32, rope_dim: i32, neox: i32,
        places: i32, chunk: i32, spare: i32,
    }
    /// step_rows.cu
    StepRows {
        embedding: u64, tokens: u64, positions: u64, hidden: u64, stats: u64, turns: u64, first_norm: u64, final_norm: u64, normed: u64,
        split: u64, facts: u64, head: u64, compact: u64, head_facts: u64, upper: u64, tops: u64, low: u64, best: u64,
        chosen: u64, done: u64, hidden_size: i32, vocab: i32, below: i32, phases: i32, m: i32, history: i32, eps: f32,
        advance: i32, launches: i32, tile: i32, split_tokens: i32, spare: i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `static_assert` has them in kernels/*.cu.
    #[test]
    fn sizes_are_those_of_the_kernels() {
        let sizes = [
            size_of::<Cache>(),
            size_of::<RowPlaces>(),
            size_of::<RopeStore>(),
            size_of::<Attend>(),
            size_of::<Gemm>(),
            size_of::<NormRow>(),
            size_of::<TeamRows>(),
            size_of::<Product>(),
            size_of::<Decode>(),
            size_of::<StepGemm>(),
            size_of::<StepWide>(),
            size_of::<StepAttend>(),
            size_of::<StepRows>(),
        ];
        assert_eq!(sizes, [24, 32, 96, 104, 72, 72, 96, 80, 256, 128, 152, 136, 208]);
    }
}
