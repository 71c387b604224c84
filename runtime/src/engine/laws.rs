//! Laws of evaluation: what a row gives never depends on the schedule it is part of.

use super::batch::{Answer, Batch, Sequences, Want};
use super::kv_cache::KvType;
use super::pages::SequenceId;
use super::{Engine, EngineOptions};
use crate::Error;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [&str; 4] = ["bitnet-i2_s.gguf", "llama-q4_1.gguf", "bitnet-b158-i2_s.gguf", "qwen3-f16.gguf"];
const VOCAB: u32 = 64;

fn engine(model: &str, kv: KvType, threads: usize, sequences: usize) -> Option<Engine> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf/ok").join(model);
    let options = EngineOptions { threads, context: Some(150), sequences, kv, ..Default::default() };
    match Engine::load(&path, &options, &mut |_, _| {}) {
        Ok(engine) => Some(engine),
        // Heads that are no blocks of q8_0.
        Err(Error::Usage { .. }) if kv == KvType::Q8_0 => None,
        Err(error) => panic!("{error}"),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Logits of every position, one token at a time, on one thread.
fn alone(model: &str, kv: KvType, tokens: &[u32]) -> Option<Vec<Vec<u32>>> {
    let mut engine = engine(model, kv, 1, 1)?;
    Some(tokens.iter().map(|token| bits(engine.decode(*token).expect("room for it"))).collect())
}

/// What happens to the sequences of a schedule.
#[derive(Clone, Debug)]
enum Step {
    /// Up to so many next tokens of each of these sequences go into one batch.
    Batch(Vec<(usize, usize)>),
    /// A new sequence from a prefix of another.
    Fork(usize, usize),
    /// A sequence goes back and takes another way from there.
    Rewind(usize, usize),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let part = (0usize..4, prop_oneof![Just(1usize), 1usize..40]);
    let step = prop_oneof![
        5 => proptest::collection::vec(part, 1..5).prop_map(Step::Batch),
        1 => (0usize..4, 0usize..150).prop_map(|(s, n)| Step::Fork(s, n)),
        1 => (0usize..4, 0usize..150).prop_map(|(s, n)| Step::Rewind(s, n)),
        1 => (0usize..4).prop_map(Step::Close),
    ];
    proptest::collection::vec(step, 1..14)
}

/// Runs a schedule; checks every logit against the sequence evaluated alone.
fn check(model: &str, kv: KvType, threads: usize, steps: &[Step], seed: u64) {
    let Some(mut engine) = engine(model, kv, threads, 3) else { return };
    let mut state = seed | 1;
    let mut token = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32 % VOCAB
    };
    let mut open: Vec<(SequenceId, Vec<u32>)> = (0..2).map(|_| (engine.open(), Vec::new())).collect();
    let mut seen: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
    for step in steps {
        let n = open.len();
        match step {
            Step::Batch(parts) => {
                let (mut batch, mut prefixes, before) = (Batch::new(), Vec::new(), open.clone());
                for (s, count) in parts {
                    let (id, tokens) = &mut open[s % n];
                    for _ in 0..*count {
                        tokens.push(token());
                        batch.push(
                            *id,
                            tokens[tokens.len() - 1],
                            if tokens.len() % 3 == 0 { Want::Nothing } else { Want::Logits },
                        );
                        prefixes.push(tokens.clone());
                    }
                }
                let mut answered = Vec::new();
                let outcome = engine.evaluate(&batch, &mut |row, answer| {
                    let Answer::Logits(logits) = answer else { panic!("logits were asked for") };
                    answered.push((row, bits(logits)));
                });
                match outcome {
                    Ok(()) => {
                        let wanted = (0..prefixes.len()).filter(|row| prefixes[*row].len() % 3 != 0);
                        assert!(answered.iter().map(|(row, _)| *row).eq(wanted));
                        seen.extend(
                            answered.into_iter().map(|(row, logits)| (prefixes[row].clone(), logits)),
                        );
                    }
                    Err(Error::Limit { .. } | Error::Usage { .. }) => {
                        assert!(answered.is_empty());
                        open = before;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Fork(s, at) => {
                let (id, tokens) = &open[s % n];
                let at = at % (tokens.len() + 1);
                let child = (engine.fork(*id, at).expect("inside"), tokens[..at].to_vec());
                open.push(child);
            }
            Step::Rewind(s, at) => {
                let (id, tokens) = &mut open[s % n];
                tokens.truncate(*at);
                engine.truncate_to(*id, *at);
            }
            Step::Close(s) if n > 1 => {
                let (id, _) = open.swap_remove(s % n);
                engine.close(id);
            }
            Step::Close(_) => {}
        }
        open.iter().for_each(|(id, tokens)| assert_eq!(engine.positions(*id), tokens.len()));
    }
    open.into_iter().for_each(|(id, _)| engine.close(id));
    assert_eq!(engine.page_use().free, engine.page_use().total, "every page came back");

    // Longest first: a prefix of a checked sequence was checked with it.
    let mut left: Vec<&Vec<u32>> = seen.keys().collect();
    left.sort_by_key(|tokens| std::cmp::Reverse(tokens.len()));
    let mut checked = std::collections::BTreeSet::new();
    for tokens in left {
        if checked.contains(tokens) {
            continue;
        }
        let expected = alone(model, kv, tokens).expect("the engine was loaded before");
        for (end, expected) in expected.iter().enumerate() {
            if let Some(logits) = seen.get(&tokens[..=end]) {
                assert!(logits == expected, "{model} {kv:?}: position {end} of {tokens:?}");
                checked.insert(tokens[..=end].to_vec());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_schedule_changes_a_bit(
        model in 0usize..MODELS.len(),
        kv in prop_oneof![Just(KvType::F16), Just(KvType::Q8_0)],
        threads in 1usize..4,
        steps in steps(),
        seed: u64,
    ) {
        check(MODELS[model], kv, threads, &steps, seed);
    }
}

fn tokens() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..VOCAB, 1..40)
}

fn one_of(model: usize, threads: usize) -> Engine {
    engine(MODELS[model], KvType::F16, threads, 1).expect("f16 takes any head")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_prompt_in_pieces_is_worth_the_whole(model in 0usize..MODELS.len(), tokens in tokens(), cut: prop::sample::Index) {
        let (mut whole, mut pieces) = (one_of(model, 2), one_of(model, 2));
        let cut = cut.index(tokens.len());
        if cut > 0 {
            pieces.prefill(&tokens[..cut]).unwrap();
        }
        let expected = bits(whole.prefill(&tokens).unwrap());
        prop_assert_eq!(expected, bits(pieces.prefill(&tokens[cut..]).unwrap()));
    }

    #[test]
    fn threads_never_change_a_bit(model in 0usize..MODELS.len(), tokens in tokens(), threads in 2usize..6) {
        let expected = bits(one_of(model, 1).prefill(&tokens).unwrap());
        prop_assert_eq!(expected, bits(one_of(model, threads).prefill(&tokens).unwrap()));
    }

    #[test]
    fn going_back_leaves_no_trace(model in 0usize..MODELS.len(), tokens in tokens(), detour in tokens(), at: prop::sample::Index) {
        let (mut straight, mut wandering) = (one_of(model, 1), one_of(model, 1));
        let at = at.index(tokens.len());
        let expected = bits(straight.prefill(&tokens).unwrap());
        wandering.prefill(&tokens).unwrap();
        wandering.truncate(at);
        wandering.prefill(&detour).unwrap();
        wandering.truncate(at);
        prop_assert_eq!(expected, bits(wandering.prefill(&tokens[at..]).unwrap()));
        prop_assert_eq!(wandering.position(), tokens.len());
    }
}

#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    let mut engine = engine(MODELS[0], KvType::F16, 2, 1).expect("f16 takes any head");
    let (a, b) = (engine.open(), engine.open());
    let mut batch = Batch::new();
    batch.push_all(a, &[3; 100], Want::Logits);
    engine.evaluate(&batch, &mut |_, _| {}).expect("room for it");
    let used = engine.page_use();
    batch.clear();
    batch.push_all(a, &[4; 2], Want::Logits);
    batch.push_all(b, &[5; 100], Want::Logits);
    let error = engine.evaluate(&batch, &mut |_, _| panic!("nothing is answered")).expect_err("too long");
    assert!(error.to_string().contains("pages of the KV cache"), "{error}");
    assert_eq!((engine.page_use(), engine.positions(a), engine.positions(b)), (used, 100, 0));
    batch.clear();
    assert!(engine.evaluate(&batch, &mut |_, _| {}).is_err(), "an empty batch");
    batch.push(a, VOCAB * 1000, Want::Logits);
    assert!(engine.evaluate(&batch, &mut |_, _| {}).is_err(), "an unknown token");
    batch.clear();
    batch.push_all(b, &vec![1; engine.batch_rows() + 1], Want::Logits);
    assert!(engine.evaluate(&batch, &mut |_, _| {}).is_err(), "too many rows");
}
