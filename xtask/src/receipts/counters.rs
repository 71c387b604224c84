//! Gate 4 of a run: what its kernels counted is what its work asks for.
//!
//! In: a receipt, and the shape of its model where the file is here. Out: a judgement. Deliberately absent: times.

use super::gates::{Evidence, Judged, fails, pass};
use crate::crossval::ModelFacts;
use bitforge_receipt_schema::run::{HeadFacts, MatrixFacts, MatrixRole, Run};
use bitforge_schema::protocol::KernelCount;
use std::collections::BTreeMap;

pub(super) fn counters(run: &Run, evidence: &Evidence) -> Judged {
    let work = &run.work;
    if let Some(facts) = &evidence.facts
        && let Some(problem) = other_shape(&run.model.matrices, facts)
    {
        return fails(problem);
    }
    let chunks = (work.prompt_tokens.len() as u64).div_ceil(PREFILL_CHUNK);
    let prompts = u64::from(!work.prompt_tokens.is_empty());
    let (mut rows, mut bytes) = (BTreeMap::new(), BTreeMap::new());
    let in_two_stages = |matrix: &&MatrixFacts| matrix.role == MatrixRole::Head && two_stage(run).is_some();
    for matrix in &run.model.matrices {
        let (times, passes) = match matrix.role {
            _ if in_two_stages(&matrix) => (0, 0),
            MatrixRole::Layer => (work.evaluated_tokens, chunks + work.decoded_tokens),
            MatrixRole::Head => (work.logits_positions, prompts + work.decoded_tokens),
        };
        *rows.entry(matrix.weight_type.to_lowercase()).or_insert(0u64) += matrix.rows * times;
        *bytes.entry(matrix.weight_type.to_lowercase()).or_insert(0u64) += matrix.bytes * passes;
    }
    let tokens = work.prompt_tokens.len() as u64 + work.decoded_tokens;
    if tokens != work.evaluated_tokens {
        return fails(format!("{} tokens were evaluated, and {tokens} were to be", work.evaluated_tokens));
    }
    let counted = |ty: &str, of: fn(&KernelCount) -> u64| -> u64 {
        run.kernels.iter().filter(|count| count.id.split('.').next() == Some(ty)).map(of).sum()
    };
    // What a search of the head read of the head itself comes on top.
    for matrix in run.model.matrices.iter().filter(in_two_stages) {
        let searched = match search(run, matrix) {
            Ok(searched) => searched,
            Err(problem) => return fails(problem),
        };
        let ty = matrix.weight_type.to_lowercase();
        *rows.entry(ty.clone()).or_insert(0) += searched.0;
        *bytes.entry(ty).or_insert(0) += searched.1;
    }
    for (ty, expected) in &rows {
        for (what, expected, found) in [
            ("dot products", *expected, counted(ty, |count| count.rows)),
            ("bytes", bytes[ty], counted(ty, |count| count.bytes)),
        ] {
            if found.abs_diff(expected) as f64 > 0.01 * expected as f64 {
                return fails(format!(
                    "{found} {what} of {ty} were counted, and the work asks for {expected}"
                ));
            }
        }
    }
    if let Some(count) = run
        .kernels
        .iter()
        .filter(|count| two_stage(run).is_none() || !count.id.starts_with("head."))
        .find(|count| !rows.contains_key(count.id.split('.').next().unwrap_or("")))
    {
        return fails(format!("{} was counted, and the model has no such weights", count.id));
    }
    let source = if evidence.facts.is_some() { "the model file's" } else { "the receipt's own" };
    pass(format!("{} tokens by {source} shape", work.evaluated_tokens))
}

/// The facts of a head that was searched through a compact copy.
pub(super) fn two_stage(run: &Run) -> Option<&HeadFacts> {
    run.head.as_ref().filter(|head| head.mode == "two-stage")
}

/// Checks the counts of a searched head: every position scored every row by the copy, and at least one row with the
/// head itself. Returns the dot products and bytes that the head's own kernels then have: positions that no search
/// could answer, and what was computed after a search.
fn search(run: &Run, head: &MatrixFacts) -> Result<(u64, u64), String> {
    let facts = two_stage(run).ok_or("the head was not searched")?;
    let positions = run.work.logits_positions;
    let counts = |of: fn(&KernelCount) -> u64, own: bool| -> u64 {
        let ty = head.weight_type.to_lowercase();
        let is = |count: &&KernelCount| count.id.split('.').next() == Some(if own { &ty } else { "head" });
        run.kernels.iter().filter(is).map(of).sum()
    };
    let (scored, expected) = (counts(|count| count.rows, false), head.rows * positions);
    if scored != expected {
        return Err(format!("{scored} rows of the head were scored, and the work asks for {expected}"));
    }
    let read = counts(|count| count.bytes, false);
    let (least, most) = (facts.compact_bytes * positions * 2 / 5, facts.compact_bytes * positions);
    if !(least..=most).contains(&read) {
        return Err(format!(
            "{read} bytes of the compact head were counted, and {least} to {most} are in it"
        ));
    }
    let of_layers = run.model.matrices.iter().filter(|matrix| matrix.role == MatrixRole::Layer);
    let of_layers: u64 =
        of_layers.filter(|matrix| matrix.weight_type == head.weight_type).map(|matrix| matrix.rows).sum();
    let in_full = counts(|count| count.rows, true).saturating_sub(of_layers * run.work.evaluated_tokens);
    let fallbacks = (in_full + head.rows / 2) / head.rows.max(1);
    let rescored = counts(|count| count.rescored_rows, true);
    if fallbacks > positions || rescored + fallbacks < positions || rescored > expected {
        return Err(format!(
            "{rescored} rows were rescored and {fallbacks} heads read in {positions} positions"
        ));
    }
    let row_bytes = head.bytes / head.rows.max(1);
    Ok((fallbacks * head.rows, fallbacks * head.bytes + rescored * row_bytes))
}

/// Tokens that the engine evaluates together in a prefill, which go through the weights once.
const PREFILL_CHUNK: u64 = 128;

/// How the matrices of the receipt differ from those in the file.
fn other_shape(matrices: &[MatrixFacts], facts: &ModelFacts) -> Option<String> {
    let linear = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let head = facts
        .tensor("output.weight")
        .or(facts.tensor("token_embd.weight"))
        .map(|tensor| tensor.name.as_str());
    let mut expected: BTreeMap<(bool, String), u64> = BTreeMap::new();
    for tensor in &facts.tensors {
        let part = tensor.name.strip_prefix("blk.").and_then(|name| name.split('.').nth(1));
        let is_head = head == Some(tensor.name.as_str());
        if is_head || part.is_some_and(|part| linear.contains(&part)) && tensor.name.ends_with(".weight") {
            let rows = tensor.dims.get(1).copied().unwrap_or(1);
            *expected.entry((is_head, tensor.ty.clone())).or_default() += rows;
        }
    }
    let mut listed: BTreeMap<(bool, String), u64> = BTreeMap::new();
    for matrix in matrices {
        *listed.entry((matrix.role == MatrixRole::Head, matrix.weight_type.clone())).or_default() +=
            matrix.rows;
    }
    (expected != listed)
        .then(|| format!("the file has the matrices {expected:?}, and the receipt lists {listed:?}"))
}
