//! The kernel lab: every candidate of one product on the same data, checked against the scalar definition, then timed
//! in turns.
//!
//! In: a pair of types, a shape, candidates. Out: times of every round, or the first result that differs. Weights are
//! repeated until they exceed the caches where asked for, so that decoding reads memory as it does in a model.
//! Deliberately absent: a choice (see [`super::profile`]) and limits of the machine (see [`crate::limits`]).

use super::registry::{MATMUL, Run};
use super::{Columns, MatmulKernel, PanelTile, Shape, Tile};
use crate::quant::activation::{ActivationType, quantize_activation};
use crate::quant::panels::{AlignedBytes, ROWS, Scales};
use crate::quant::{pack_ternary, quantize_row};
use crate::sampling::rng::SplitMix64;
use crate::tensor::TensorType;
use crate::threads::ThreadPool;
use std::time::{Duration, Instant};

/// Rows that differ; more rows repeat them.
const DISTINCT: usize = 64;
/// Rows that one thread takes at a time.
const CHUNK: usize = 128;

/// One product: `count` activation rows times `rows` weight rows of `columns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    pub weight: TensorType,
    pub activation: ActivationType,
    pub rows: usize,
    pub columns: usize,
    pub count: usize,
}

/// What was seen of one candidate.
pub struct Seen {
    pub kernel: &'static MatmulKernel,
    /// Bytes of weights that a product goes through.
    pub bytes: usize,
    /// Whether the first rows have the bits of the scalar definition.
    pub exact: bool,
    /// Of one product, one sample per round; none where it is not exact.
    pub samples: Vec<Duration>,
}

/// Every kernel of the pair that is made for this number of activation rows and that this CPU runs, scalar first.
pub fn candidates(product: &Product) -> Vec<&'static MatmulKernel> {
    let shape = Shape::of(product.count);
    let made_for = |kernel: &&MatmulKernel| {
        (kernel.weight, kernel.activation) == (product.weight, product.activation)
            && kernel.shapes.contains(&shape)
            && kernel.level.is_available()
    };
    MATMUL.iter().copied().flatten().filter(made_for).collect()
}

/// Weights of a candidate, as it wants them.
struct Prepared {
    kernel: &'static MatmulKernel,
    /// Rows, or groups of sixteen.
    unit_rows: usize,
    unit_bytes: usize,
    weights: AlignedBytes,
    scratch: usize,
}

/// Checks and times `kernels`, `rounds` times in turns. Rows must be a multiple of `DISTINCT`.
pub fn measure(
    product: &Product,
    kernels: &[&'static MatmulKernel],
    pool: &mut ThreadPool,
    rounds: usize,
) -> Vec<Seen> {
    assert!(product.rows.is_multiple_of(DISTINCT) && product.rows > 0 && product.count > 0);
    let mut rng = SplitMix64::new(1);
    let distinct = weights(product, &mut rng);
    let bytes = product.activation.row_bytes(product.columns);
    let mut activations = vec![0; product.count * bytes];
    for row in activations.chunks_exact_mut(bytes) {
        let values: Vec<f32> = (0..product.columns).map(|_| normal(&mut rng)).collect();
        quantize_activation(product.activation, &values, row);
    }
    let mut out = vec![0.0f32; product.rows * product.count];
    let scalar = MATMUL[0]
        .iter()
        .find(|kernel| (kernel.weight, kernel.activation) == (product.weight, product.activation))
        .expect("the scalar level has every pair");
    let few = Product { rows: DISTINCT, ..*product };
    let mut expected = vec![0.0f32; DISTINCT * product.count];
    run(&few, &prepare(&few, scalar, &distinct), &activations, &mut expected, pool);
    let prepared: Vec<Prepared> = kernels.iter().map(|kernel| prepare(product, kernel, &distinct)).collect();
    let mut seen: Vec<Seen> = prepared
        .iter()
        .map(|candidate| {
            out.fill(f32::NAN);
            run(product, candidate, &activations, &mut out, pool);
            let same = |t: usize| {
                let (found, right) = (&out[t * product.rows..], &expected[t * DISTINCT..]);
                (0..DISTINCT).all(|row| found[row].to_bits() == right[row].to_bits())
            };
            let exact = (0..product.count).all(same);
            Seen { kernel: candidate.kernel, bytes: candidate.weights.len(), exact, samples: Vec::new() }
        })
        .collect();
    for _ in 0..rounds {
        for (candidate, seen) in prepared.iter().zip(&mut seen).filter(|(_, seen)| seen.exact) {
            let started = Instant::now();
            run(product, candidate, &activations, &mut out, pool);
            seen.samples.push(started.elapsed());
        }
    }
    seen
}

/// [`DISTINCT`] packed rows; ternary ones of one scale, as models have them.
fn weights(product: &Product, rng: &mut SplitMix64) -> Vec<u8> {
    let mut packed = Vec::new();
    for _ in 0..DISTINCT {
        if product.weight.is_ternary() {
            let codes: Vec<i8> = (0..product.columns).map(|_| (rng.next_u64() % 3) as i8 - 1).collect();
            pack_ternary(product.weight, &codes, 0.5, &mut packed);
        } else {
            let row: Vec<f32> = (0..product.columns).map(|_| normal(rng)).collect();
            quantize_row(product.weight, &row, &mut packed);
        }
    }
    packed
}

/// The sum of four uniform numbers, about normal.
fn normal(rng: &mut SplitMix64) -> f32 {
    (0..4).map(|_| (rng.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum()
}

const TENSOR_SCALE: f32 = 1.0;

fn prepare(product: &Product, kernel: &'static MatmulKernel, distinct: &[u8]) -> Prepared {
    let row_bytes = distinct.len() / DISTINCT;
    let (unit_rows, unit_bytes, once, scratch) = match kernel.layout() {
        None => (1, row_bytes, distinct.to_vec(), 0),
        Some(layout) => {
            let group_bytes = layout.group_bytes(product.columns);
            let mut groups = vec![0; DISTINCT / ROWS * group_bytes];
            let mut codes = vec![0; layout.codes_bytes(product.columns)];
            for (rows, group) in distinct.chunks(ROWS * row_bytes).zip(groups.chunks_exact_mut(group_bytes)) {
                layout
                    .pack(kernel.weight, rows, row_bytes, &mut codes, group)
                    .expect("weights of the lab are ones that every layout holds");
            }
            (ROWS, group_bytes, groups, layout.scratch_bytes(product.columns))
        }
    };
    let mut weights = AlignedBytes::zeroed(product.rows / unit_rows * unit_bytes);
    weights.chunks_exact_mut(once.len()).for_each(|part| part.copy_from_slice(&once));
    Prepared { kernel, unit_rows, unit_bytes, weights, scratch }
}

/// Scale of all rows of a ternary type whose blocks have scales, and of the rest: what [`weights`] packed.
fn scale_of(kernel: &MatmulKernel) -> f32 {
    let blocks = matches!(kernel.weight, TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::Q2_0);
    if blocks && kernel.layout().is_some() { 0.5 } else { TENSOR_SCALE }
}

/// Where the results of a region start.
struct Start(*mut f32);

// SAFETY: parts of a region write disjoint columns; see `run`.
unsafe impl Sync for Start {}

impl Start {
    fn column(&self, first: usize) -> *mut f32 {
        self.0.wrapping_add(first)
    }
}

/// `out` [count, rows].
fn run(product: &Product, weights: &Prepared, activations: &[u8], out: &mut [f32], pool: &mut ThreadPool) {
    let start = Start(out.as_mut_ptr());
    let mut parts = vec![(); product.rows.div_ceil(CHUNK)];
    let mut memory: Vec<(AlignedBytes, Vec<f32>)> = (0..pool.threads())
        .map(|_| (AlignedBytes::zeroed(weights.scratch), vec![0.0; CHUNK * product.count]))
        .collect();
    pool.for_each_chunk_with(&mut parts, 1, &mut memory, |index, _, (scratch, tile_out)| {
        let first = index * CHUNK;
        let rows = CHUNK.min(product.rows - first);
        let units = first / weights.unit_rows..(first + rows) / weights.unit_rows;
        let part = &weights.weights[units.start * weights.unit_bytes..units.end * weights.unit_bytes];
        // SAFETY: columns `first..first + rows` of `out`, which only this part writes, and which outlives the region.
        let mut columns = unsafe { Columns::new(start.column(first), product.rows, rows, product.count) };
        let activation_bytes = activations.len() / product.count;
        match weights.kernel.run {
            Run::Rows(_) => {
                let tile_out = &mut tile_out[..rows * product.count];
                let mut tile = Tile {
                    k: product.columns,
                    weights: part,
                    row_bytes: weights.unit_bytes,
                    activations,
                    activation_bytes,
                    tensor_scale: TENSOR_SCALE,
                    out: tile_out,
                    done: 0,
                };
                // SAFETY: candidates are kernels that this CPU runs.
                unsafe { weights.kernel.call(&mut tile) };
                for t in 0..product.count {
                    for first in (0..rows).step_by(ROWS) {
                        let values = tile_out[first * product.count + t..].iter().step_by(product.count);
                        columns.at(t, first).iter_mut().zip(values).for_each(|(out, value)| *out = *value);
                    }
                }
            }
            Run::Panels(..) => {
                let mut tile = PanelTile {
                    k: product.columns,
                    weights: part,
                    group_bytes: weights.unit_bytes,
                    activations,
                    activation_bytes,
                    scales: Scales::Tensor(scale_of(weights.kernel)),
                    out: columns,
                    scratch,
                    done: 0,
                };
                // SAFETY: as above.
                unsafe { weights.kernel.call_panels(&mut tile) };
            }
        }
    });
}

/// The best of `seen` by the median, and whether it is better than the candidate called `than` beyond noise: in more
/// than three rounds of four, and by more than the spread of the rounds' ratios.
pub fn best<'a>(seen: &'a [Seen], than: &str) -> Option<(&'a Seen, bool)> {
    let timed = || seen.iter().filter(|seen| !seen.samples.is_empty());
    let best = timed().min_by_key(|seen| median(&seen.samples))?;
    let other = timed().find(|seen| seen.kernel.id == than)?;
    let mut ratios: Vec<f64> = other
        .samples
        .iter()
        .zip(&best.samples)
        .map(|(other, best)| other.as_secs_f64() / best.as_secs_f64().max(1e-12))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quarter = (ratios.len() - 1) / 4;
    let spread = ratios[ratios.len() - 1 - quarter] - ratios[quarter];
    Some((best, ratios[quarter] > 1.0 && ratios[ratios.len() / 2] > 1.0 + spread / 2.0))
}

pub fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lab's own data are right for every kernel: all are exact on it, for one and for many activation rows.
    #[test]
    fn every_candidate_is_exact_in_the_lab() {
        let mut pool = ThreadPool::new(2).unwrap();
        let mut checked = 0;
        for kernel in MATMUL[0] {
            for count in [1, 3, 17] {
                let product = Product {
                    weight: kernel.weight,
                    activation: kernel.activation,
                    rows: 192,
                    columns: 512,
                    count,
                };
                for seen in measure(&product, &candidates(&product), &mut pool, 1) {
                    assert!(seen.exact, "{} {count}", seen.kernel.id);
                    assert_eq!(seen.samples.len(), 1);
                    checked += 1;
                }
            }
        }
        assert!(checked >= 3 * MATMUL[0].len());
    }

    #[test]
    fn better_is_beyond_noise() {
        let seen = |kernel: &'static MatmulKernel, nanos: [u64; 4]| Seen {
            kernel,
            bytes: 1,
            exact: true,
            samples: nanos.map(Duration::from_nanos).to_vec(),
        };
        let [a, b] = [&MATMUL[0][0], &MATMUL[0][1]];
        let clear = [seen(a, [100, 101, 99, 100]), seen(b, [80, 81, 79, 80])];
        assert!(matches!(best(&clear, a.id), Some((best, true)) if best.kernel.id == b.id));
        let noisy = [seen(a, [100, 60, 140, 100]), seen(b, [98, 90, 99, 98])];
        assert!(matches!(best(&noisy, a.id), Some((_, false))));
        assert!(best(&clear, "no such kernel").is_none());
    }
}
