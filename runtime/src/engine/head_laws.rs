//! Laws of the two-stage head: whatever the head, the hidden state and the rule, what is found is what the full head
//! gives.

use super::batch::{Best, Candidate, Rule};
use super::head::CompactHead;
use crate::engine::Answer;
use crate::kernels::registry::Shape;
use crate::kernels::select::KernelRequest;
use crate::kernels::{KernelSet, SimdLevel, Tile};
use crate::model::Matrix;
use crate::quant::activation::{ActivationQuant, ActivationType};
use crate::quant::quantize_row;
use crate::sampling::rng::SplitMix64;
use crate::sampling::{Sampler, SamplingParams, chain};
use crate::tensor::TensorType;
use crate::threads::ThreadPool;
use proptest::prelude::*;

/// What rows look like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Roughly normal.
    Normal,
    /// Few distinct values: logits tie.
    Ties,
    /// All rows are equal but for the last bits.
    Near,
    /// A few columns are a thousand times the others.
    Outliers,
    /// Every row is zero but for one column.
    Sparse,
    /// Some rows hold what no number is.
    NotFinite,
}

const KINDS: [Kind; 6] =
    [Kind::Normal, Kind::Ties, Kind::Near, Kind::Outliers, Kind::Sparse, Kind::NotFinite];

fn rows(kind: Kind, rows: usize, columns: usize, rng: &mut SplitMix64) -> Vec<f32> {
    let mut unit = || (rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    let base: Vec<f32> = (0..columns).map(|_| unit()).collect();
    let mut value = |row: usize, column: usize| {
        let normal = unit() + unit() + unit();
        match kind {
            Kind::Normal => normal * 0.02,
            Kind::Ties => normal.round(),
            Kind::Near => base[column] * (1.0 + unit() * 1e-3),
            Kind::Outliers if column % 61 == 7 => normal * 20.0,
            Kind::Outliers => normal * 0.02,
            Kind::Sparse if column == row * 7 % columns => normal,
            Kind::Sparse => 0.0,
            Kind::NotFinite if row % 37 == 5 && column == row % columns => f32::INFINITY,
            Kind::NotFinite => normal,
        }
    };
    (0..rows * columns).map(|i| value(i / columns, i % columns)).collect()
}

struct Case {
    matrix: Matrix,
    kernels: KernelSet,
    pool: ThreadPool,
    head: CompactHead,
}

impl Case {
    fn new(
        ty: TensorType,
        count: usize,
        columns: usize,
        weights: &[f32],
        level: SimdLevel,
        threads: usize,
    ) -> Self {
        let mut bytes = Vec::new();
        weights.chunks(columns).for_each(|row| quantize_row(ty, row, &mut bytes));
        let matrix = Matrix::of_bytes("output.weight", ty, count, columns, bytes);
        let kernels = KernelSet::select(KernelRequest::Level(level)).expect("the level is available");
        let mut pool = ThreadPool::new(threads).expect("threads start");
        let head = CompactHead::new(&matrix, kernels.head, &mut pool);
        Case { matrix, kernels, pool, head }
    }

    /// All logits of every row of `x`, and what the search finds.
    fn run(&mut self, x: &[f32], wants: &[Best]) -> (Vec<Vec<f32>>, Vec<Option<Vec<Candidate>>>) {
        let (matrix, k) = (&self.matrix, self.matrix.columns);
        let activation = ActivationType::for_weight(matrix.ty, ActivationQuant::Token);
        let activation_bytes = activation.row_bytes(k);
        let mut packed = vec![0; wants.len() * activation_bytes];
        for (x, packed) in x.chunks(k).zip(packed.chunks_mut(activation_bytes)) {
            // SAFETY: the kernel set was selected for this CPU.
            unsafe { (self.kernels.quantize(activation).run)(x, packed) };
        }
        let kernel =
            self.kernels.plan_for_rows(matrix.ty, activation).expect("scalar has it").kernel(Shape::Decode);
        let full = packed.chunks(activation_bytes).map(|activations| {
            let mut out = vec![f32::NAN; matrix.rows];
            let mut tile = Tile {
                k,
                weights: matrix.bytes(),
                row_bytes: matrix.row_bytes,
                activations,
                activation_bytes,
                tensor_scale: 1.0,
                out: &mut out,
                done: 0,
            };
            // SAFETY: as above.
            unsafe { kernel.call(&mut tile) };
            out
        });
        let full = full.collect();
        self.head.search(&mut self.pool, matrix, kernel, &packed, wants);
        (full, (0..wants.len()).map(|q| self.head.found(q).map(<[Candidate]>::to_vec)).collect())
    }
}

/// Checks the candidates of one row against all its logits.
fn check(logits: &[f32], found: &[Candidate], want: Best) {
    assert!(found.windows(2).all(|pair| pair[0].id < pair[1].id), "ids ascend");
    for candidate in found {
        assert_eq!(
            candidate.logit.to_bits(),
            logits[candidate.id as usize].to_bits(),
            "row {}",
            candidate.id
        );
    }
    let all = logits.iter().take(want.below as usize).zip(0..);
    // What is no number must be shown, so that sampling refuses it.
    let bad = all.clone().filter(|(logit, _)| !logit.is_finite()).map(|(_, id)| id);
    bad.for_each(|id: u32| {
        assert!(found.iter().any(|candidate| candidate.id == id), "row {id} is no number")
    });
    let mut all: Vec<Candidate> = all
        .filter(|(logit, _)| logit.is_finite())
        .map(|(logit, id)| Candidate { id, logit: *logit })
        .collect();
    match want.rule {
        Rule::Top(k) => {
            all.sort_by(chain::best_first);
            all.truncate(k);
        }
        Rule::MinP(p) => chain::min_p(&mut all, p),
    }
    for kept in all {
        assert!(found.contains(&kept), "{kept:?} is missing for {want:?}");
    }
}

fn levels() -> Vec<SimdLevel> {
    SimdLevel::ALL.into_iter().filter(|level| level.is_available()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_found_is_what_the_full_head_gives(
        kind in 0usize..KINDS.len(),
        ty in prop_oneof![Just(TensorType::F16), Just(TensorType::BF16), Just(TensorType::F32)],
        (count, columns) in (1usize..700, 1usize..200),
        rules in proptest::collection::vec(
            prop_oneof![
                2 => Just(Rule::Top(1)),
                2 => (1usize..60).prop_map(Rule::Top),
                1 => (0.001f32..=1.0).prop_map(Rule::MinP),
            ],
            1..=4,
        ),
        level in 0usize..8, threads in 1usize..4, magnitude in -12i32..12, seed: u64,
    ) {
        let mut rng = SplitMix64::new(seed);
        let weights = rows(KINDS[kind], count, columns, &mut rng);
        let levels = levels();
        let mut case = Case::new(ty, count, columns, &weights, levels[level % levels.len()], threads);
        let mut x = rows(Kind::Normal, rules.len(), columns, &mut rng);
        x.iter_mut().for_each(|x| *x *= 2f32.powi(magnitude));
        // One query that one row was made for, as trained models have them, and one of zeros.
        x[..columns].iter_mut().zip(&weights[count / 2 * columns..]).for_each(|(x, w)| if w.is_finite() { *x = *w });
        if rules.len() == 4 {
            x[3 * columns..].fill(0.0);
        }
        let below = |rule| Best { below: (count as u64 * 7 / 8 + 1).min(count as u64) as u32, rule };
        let wants: Vec<Best> = rules.into_iter().map(below).collect();
        let (full, found) = case.run(&x, &wants);
        for ((logits, found), want) in full.iter().zip(&found).zip(&wants) {
            if let Some(found) = found {
                check(logits, found, *want);
            }
        }
    }

    /// The sampler draws the same tokens from candidates as from all logits, with the same random state after.
    #[test]
    fn sampling_from_candidates_equals_sampling_from_all(
        temperature in prop_oneof![Just(0f32), 0.1f32..2.0], top_k in 0usize..50,
        top_p in prop_oneof![Just(1f32), 0.1f32..1.0], min_p in prop_oneof![Just(0f32), 0.01f32..0.9], seed: u64,
    ) {
        let (count, columns) = (1500, 96);
        let mut rng = SplitMix64::new(seed);
        let weights = rows(Kind::Normal, count, columns, &mut rng);
        let mut case = Case::new(TensorType::F16, count, columns, &weights, *levels().last().unwrap(), 2);
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..Default::default() };
        let mut samplers = [(); 2].map(|()| Sampler::new(params.clone(), count - 3).unwrap());
        for _ in 0..6 {
            let super::Want::Best(want) = samplers[0].want() else { return Ok(()) };
            let x: Vec<f32> = rows(Kind::Normal, 1, columns, &mut rng).iter().map(|x| x * 400.0).collect();
            let (full, found) = case.run(&x, &[want]);
            let all = samplers[0].sample(&full[0]).unwrap();
            let some = samplers[1].choose(found[0].as_deref().map_or(Answer::Logits(&full[0]), Answer::Best)).unwrap();
            prop_assert_eq!(all, some);
        }
    }
}

/// A head of the shape that the copy is for, random: the search must be worth it.
#[test]
fn few_rows_are_left_of_a_random_head() {
    let (count, columns) = (16_384, 1024);
    let mut rng = SplitMix64::new(9);
    let weights = rows(Kind::Normal, count, columns, &mut rng);
    let mut case = Case::new(TensorType::F16, count, columns, &weights, *levels().last().unwrap(), 2);
    for (rule, most) in [(Rule::Top(1), 100), (Rule::Top(40), 400), (Rule::MinP(0.05), 400)] {
        // Logits have a standard deviation of about 5.
        let x: Vec<f32> = rows(Kind::Normal, 1, columns, &mut rng).iter().map(|x| x * 400.0).collect();
        let want = Best { below: count as u32, rule };
        let (full, found) = case.run(&x, &[want]);
        let found = found[0].as_ref().expect("few are left");
        check(&full[0], found, want);
        assert!(found.len() <= most, "{} are left for {rule:?}", found.len());
    }
}

#[test]
fn what_cannot_be_bounded_goes_to_the_full_head() {
    let mut rng = SplitMix64::new(3);
    let weights = rows(Kind::Normal, 500, 64, &mut rng);
    let mut case = Case::new(TensorType::F16, 500, 64, &weights, SimdLevel::Scalar, 1);
    let want = |rule| [Best { below: 500, rule }];
    for x in [f32::NAN, f32::INFINITY, 0.0] {
        assert_eq!(case.run(&[x; 64], &want(Rule::Top(1))).1, [None], "{x}");
    }
    let x = rows(Kind::Normal, 1, 64, &mut rng);
    assert_eq!(case.run(&x, &want(Rule::Top(400))).1, [None], "most rows are kept");
    assert!(case.run(&x, &want(Rule::Top(1))).1[0].is_some());
}
