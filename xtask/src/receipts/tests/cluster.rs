//! The gates on a receipt of shards.

use super::Judgement::{CouldNotCheck, Fail, Pass};
use super::{BINARY, MODEL, ctx, ctx_in, expect, file, parsed, with};
use crate::cluster::merge::add_up;
use crate::cluster::merge::tests::shard;
use crate::receipts::verify::{self, VerifyArgs};
use bitforge_receipt_schema::Receipt;
use bitforge_schema::env::Env;
use serde_json::{Value, json};

/// Chunks of four tokens in two shards, as `cluster eval` would list them.
pub fn eval() -> Value {
    let shards = [shard(0, &[1.0]), shard(1, &[2.0, 6.0])];
    let sums = add_up(3, 4, &shards).unwrap();
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "cluster-eval", "binary": file(BINARY), "text_chunks": 3, "shards": shards,
            "measured": {
                "model": file(MODEL), "text": file("0"), "context": 4, "scored": sums.scored, "activation_quant": "token",
                "nll": sums.nll, "standard_error": sums.standard_error, "kernels": sums.kernels
            }
        }
    })
}

#[test]
fn gate_1_of_shards_adds_them_up_again() {
    let base = eval();
    let second = base["body"]["shards"][1].clone();
    let swapped = json!([second, base["body"]["shards"][0]]);
    expect(
        &base,
        1,
        &[
            (&[], Pass, "read strictly"),
            (&[("/body/shards", swapped)], Pass, ""),
            (&[("/body/shards/1/nll/0", json!(2.5))], Fail, "chunk 1 has another sum in its shard"),
            (&[("/body/measured/nll/2", json!(6.5))], Fail, "chunk 2 has another sum in its shard"),
            (&[("/body/shards/0/squares/0", json!(9.0))], Fail, "a standard error of"),
            (&[("/body/measured/scored", json!(4))], Fail, "its shards scored 3 tokens"),
            (&[("/body/measured/nll", json!([1.0, 2.0]))], Fail, "2 sums are listed, and its shards have 3"),
            (&[("/body/shards/0/kernels/0/rows", json!(11))], Fail, "other work of the kernels"),
            (&[("/body/shards/1", base["body"]["shards"][0].clone())], Fail, "chunk 0 is counted twice"),
            (&[("/body/shards/0", second)], Fail, "chunk 0 is missing"),
            (&[("/body/text_chunks", json!(4))], Fail, "the shards end at chunk 3 of 4"),
            (&[("/body/measured/model/sha256", json!("x"))], Fail, "the model's digest"),
        ],
    );
    expect(&base, 2, &[(&[], CouldNotCheck, "not here: binary b, model m")]);
    expect(
        &base,
        3,
        &[
            (&[], Pass, ""),
            (&[("/body/measured/kernels/0/id", json!("none"))], Fail, "no kernel of the binary"),
        ],
    );
    expect(&base, 7, &[(&[], CouldNotCheck, "no model of it has a golden")]);
    let golden = [("/body/measured/model/name", json!("kjv-b158.gguf"))];
    expect(&base, 7, &[(&golden, Fail, "the model kjv-b158.gguf is another file")]);
}

#[test]
fn what_a_replay_of_shards_needs_is_looked_for() {
    let model = ctx().root().unwrap().join("fixtures/trained/kjv-b158.gguf");
    let bytes = std::fs::metadata(&model).unwrap().len();
    let named = |bytes: u64| {
        let edits = [
            ("/body/measured/model/name", json!("kjv-b158.gguf")),
            ("/body/measured/model/bytes", json!(bytes)),
        ];
        parsed(&with(&eval(), &edits))
    };
    let without_binary =
        ctx_in(Env::from_pairs([("BITNET_BINARY", "/nowhere/bitnet"), ("BITNET_CACHE_DIR", "/nowhere")]));
    let args = VerifyArgs {
        file: "receipt.json".into(),
        replay: Some(1),
        model: None,
        binary: None,
        receipts: None,
    };
    let found = |receipt: &Receipt| verify::evidence(&without_binary, &args, receipt).unwrap();
    assert_eq!(found(&named(bytes)).model, Some(model));
    let evidence = found(&named(bytes + 1));
    assert_eq!(evidence.model, None);
    let (judgement, why) = verify::replay(&without_binary, &args, &named(bytes), &evidence).unwrap();
    assert_eq!((judgement, why.as_str()), (CouldNotCheck, "no model of it or not the binary is here"));
}
