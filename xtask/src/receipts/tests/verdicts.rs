//! What the gates need beside the receipt: the shape in the model file, goldens, the files around it; and the command.

use super::*;
use crate::crossval::ModelFacts;
use crate::exit::code_of;
use crate::receipts::gates::below;
use crate::receipts::verify::{VerifyArgs, kernels, replay, same_sums, same_tokens};
use bitforge_receipt_schema::eval::Measured;
use bitforge_receipt_schema::{Body, FileFacts};
use bitforge_schema::exit::ExitCode;
use std::path::PathBuf;

/// The file of `run()`: a layer of 60 and 40 rows, a head of 50, and what is no matrix of a product.
fn facts(edit: impl Fn(&mut Vec<Value>)) -> ModelFacts {
    let tensor = |name: &str, ty: &str, dims: &[u64]| json!({"name": name, "type": ty, "dims": dims, "offset": 0, "bytes": 1});
    let mut tensors = vec![
        tensor("token_embd.weight", "F16", &[64, 50]),
        tensor("blk.0.attn_q.weight", "I2_S", &[64, 60]),
        tensor("blk.0.attn_q.bias", "F32", &[60]),
        tensor("blk.0.attn_norm.weight", "F32", &[64]),
        tensor("blk.0.ffn_up.weight", "I2_S", &[64, 40]),
        tensor("output.weight", "F16", &[64, 50]),
    ];
    edit(&mut tensors);
    serde_json::from_value(json!({"tensors": tensors, "model": {"architecture": "bitnet"}})).unwrap()
}

#[test]
fn gate_4_the_receipt_lists_the_matrices_of_the_file() {
    let nowhere = tempfile::tempdir().unwrap();
    let judged =
        |facts: ModelFacts| gate(&run(), 4, &Evidence { facts: Some(facts), ..evidence(nowhere.path()) });
    assert_eq!(judged(facts(|_| ())), (Pass, "4 tokens by the model file's shape".into()));
    let tied = facts(|tensors| {
        tensors.pop();
    });
    assert_eq!(judged(tied).0, Pass, "the embedding is the head where there is no other");
    let larger = facts(|tensors| tensors[4]["dims"] = json!([64, 41]));
    assert_eq!(
        judged(larger),
        (
            Fail,
            "the file has the matrices {(false, \"I2_S\"): 101, (true, \"F16\"): 50}, and the receipt lists \
             {(false, \"I2_S\"): 100, (true, \"F16\"): 50}"
                .into()
        )
    );
    assert_eq!(judged(facts(|tensors| tensors[5]["type"] = json!("F32"))).0, Fail);
    // A vector is one row.
    let with_vector = facts(|tensors| {
        tensors[1]["dims"] = json!([64, 59]);
        tensors.push(
            json!({"name": "blk.1.attn_k.weight", "type": "I2_S", "dims": [64], "offset": 0, "bytes": 1}),
        );
    });
    assert_eq!(judged(with_vector).0, Pass);
}

#[test]
fn gate_4_of_a_searched_head_counts_heads_to_the_nearest() {
    let own = "/body/kernels/1/rows";
    expect(
        &two_stage(),
        4,
        &[
            (&[(own, json!(24))], Fail, "24 dot products of f16 were counted, and the work asks for 0"),
            (&[(own, json!(25))], Fail, "25 dot products of f16 were counted, and the work asks for 50"),
        ],
    );
}

/// One chunk of the model `name`.
fn eval(name: &str, kernels: &[Value]) -> Value {
    let named = json!({"name": name, "bytes": 1, "sha256": digest(MODEL)});
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "eval", "binary": file(BINARY), "machine": machine(None),
            "measured": [{
                "model": named, "text": file("0"), "context": 512, "scored": 255, "activation_quant": "token",
                "nll": [700.0, 600.0], "standard_error": 0.1, "kernels": kernels
            }]
        }
    })
}

#[test]
fn gates_2_and_3_of_what_is_no_run() {
    expect(&step("model", &[]), 2, &[(&[], NotApplicable, "it names no file")]);
    expect(&step("model", &["0"]), 2, &[(&[], CouldNotCheck, "not here: file 0; give --model or --binary")]);
    expect(&eval("x", &[]), 2, &[(&[], CouldNotCheck, "not here: binary b;")]);
    expect(&crossval(), 2, &[(&[], CouldNotCheck, "not here: binary b;")]);
    // Nothing was selected, so any level of the binary will do.
    let known = kernel("i2_s.i8.avx512", 1, 1, 1);
    let unknown = kernel("i2_s.i8.sse", 1, 1, 1);
    let series = "/body/series/0/kernels";
    expect(
        &bench(),
        3,
        &[
            (&[], Fail, "no kernel was counted"),
            (&[(series, json!([known]))], Pass, "1 in the registry"),
            (&[(series, json!([known, unknown]))], Fail, "i2_s.i8.sse is no kernel of the binary"),
        ],
    );
    expect(&eval("x", &[]), 3, &[(&[], Fail, "no kernel was counted")]);
    expect(&eval("x", &[known]), 3, &[(&[], Pass, "1 in the registry")]);
    expect(&crossval(), 3, &[(&[], NotApplicable, "it counts no kernels")]);
}

#[test]
fn gate_5_counts_every_decoded_token_and_allows_a_twentieth() {
    expect(
        &run(),
        5,
        &[(
            &[
                ("/body/machine/last_level_cache", json!(4449)),
                ("/body/peak_bandwidth", json!(8.5e9)),
                ("/body/work/decoded_tokens", json!(4)),
                ("/body/work/decode_ns", json!(4000)),
            ],
            Pass,
            "8.9 GB/s of weights",
        )],
    );
    assert_eq!(below(1.05, 1.0).0, Pass);
    assert_eq!(below(1.051, 1.0).0, Fail);
}

#[test]
fn gate_7_of_an_evaluation_asks_the_goldens() {
    expect(&eval("x.gguf", &[]), 7, &[(&[], CouldNotCheck, "no model of it has a golden")]);
    let known = EvalSettings::load(&ctx()).unwrap().models[0].name();
    let another = format!("{known}: the model {known} is another file than ");
    expect(&eval(&known, &[]), 7, &[(&[], Fail, &another)]);
}

#[test]
fn what_comes_out_again_is_compared_to_its_end() {
    let tokens = |again: &[u32], count| same_tokens(again, &[7, 8, 9], count);
    assert_eq!(tokens(&[7, 8], 2), (Pass, "2 of 3 tokens are the same".into()));
    assert_eq!(tokens(&[7, 8, 9], 3).0, Pass);
    assert_eq!(tokens(&[7, 5], 2), (Fail, "token 1 is 5 and the receipt says 8".into()));
    assert_eq!(tokens(&[7], 2), (Fail, "token 1 is missing and the receipt says 8".into()));
    let Body::Eval(eval) = parsed(&eval("x", &[])).body else { panic!("an evaluation") };
    let measured: &Measured = &eval.measured[0];
    let sums = |again: &[f64], count| same_sums(again, measured, count);
    assert_eq!(sums(&[700.0], 1), (Pass, "1 of 2 chunks give the same sums".into()));
    assert_eq!(sums(&[700.0, 600.0], 2).0, Pass);
    assert_eq!(sums(&[700.000_000_5], 1).0, Pass, "within a billionth");
    assert_eq!(sums(&[700.000_002], 1).0, Fail);
    assert_eq!(sums(&[700.0, 601.0], 2), (Fail, "chunk 1 of x gives another sum".into()));
    assert_eq!(sums(&[], 0).0, Fail, "nothing compared is nothing shown");
}

#[test]
fn a_kernel_has_the_level_that_its_id_ends_with() {
    let known = kernels(r#"{"kernel_ids": ["i2_s.i8.avx2", "f16.f32.scalar"], "more": 1}"#).unwrap();
    let named = |id: &str, level: &str| (id.to_string(), level.to_string());
    assert_eq!(known, [named("i2_s.i8.avx2", "avx2"), named("f16.f32.scalar", "scalar")]);
    assert_eq!(kernels("{}").unwrap_err().to_string(), "the JSON of `bitnet kernels`");
}

/// The command over a receipt in a folder of its own, which is also the cache and the target.
struct Beside {
    dir: tempfile::TempDir,
    ctx: Ctx,
    args: VerifyArgs,
}

impl Beside {
    fn new(receipt: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let env = Env::from_pairs([("BITNET_CACHE_DIR", path), ("CARGO_TARGET_DIR", path)]);
        let file = dir.path().join("receipt.json");
        std::fs::write(&file, receipt).unwrap();
        let args = VerifyArgs { file, replay: None, model: None, binary: None, receipts: None };
        Beside { dir, ctx: ctx_in(env), args }
    }

    fn verdict(&self) -> verify::Verdict {
        verify::verify(&self.ctx, &self.args).unwrap()
    }

    fn gate(&self, number: u8) -> (Judgement, String) {
        let found = self.verdict().gates.into_iter().find(|outcome| outcome.gate == number).unwrap();
        (found.judgement, found.detail)
    }

    fn file(&self, path: &str, bytes: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

#[test]
fn a_verdict_is_that_of_every_gate() {
    let honest = Beside::new(&run().to_string()).verdict();
    assert_eq!((honest.ok, honest.kind.as_str(), honest.compute), (true, "run", "not-shown"));
    assert_eq!(
        honest.gates.iter().map(|outcome| outcome.gate).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    let edited = with(&run(), &[("/body/work/output_tokens/0", json!(4))]);
    let edited = Beside::new(&edited.to_string()).verdict();
    assert_eq!((edited.ok, edited.compute), (false, "refuted"));
    let unreadable = Beside::new("{}").verdict();
    assert_eq!((unreadable.ok, unreadable.kind.as_str(), unreadable.compute), (false, "", "refuted"));
    assert_eq!((unreadable.gates.len(), unreadable.gates[0].gate), (1, 1));
}

#[test]
fn the_files_around_a_receipt_are_found_by_name_and_size() {
    for receipt in [run(), bench()] {
        let mut beside = Beside::new(&receipt.to_string());
        assert!(beside.gate(2).1.starts_with("not here: binary b, model m;"));
        beside.file("models/m", "two");
        assert_eq!(beside.gate(2).0, CouldNotCheck, "of another size");
        let found = beside.file("models/of/m", "1");
        assert_eq!(beside.gate(2), (Fail, format!("{} is another model than m", found.display())));
        let given = beside.file("given", "2");
        beside.args.model = Some(given.clone());
        assert_eq!(beside.gate(2), (Fail, format!("{} is another model than m", given.display())));
        // The folder of its parents: beside it, or the one that was given.
        let folder = beside.dir.path().to_path_buf();
        assert_eq!(beside.gate(7).1, format!("no crossval.json in {}", folder.display()));
        beside.args.receipts = Some(folder.join("models"));
        assert_eq!(beside.gate(7).1, format!("no crossval.json in {}/models", folder.display()));
        beside.args.model = Some(folder.join("none"));
        let error = verify::verify(&beside.ctx, &beside.args).unwrap_err();
        assert_eq!(
            (code_of(&error), error.to_string().ends_with("none is not a file")),
            (ExitCode::NotFound, true)
        );
    }
}

#[test]
fn a_replay_needs_files_and_something_to_replay() {
    let replayed = |receipt: &Value, wanted: Option<usize>| {
        let mut beside = Beside::new(&receipt.to_string());
        beside.args.replay = wanted;
        beside.gate(10)
    };
    assert_eq!(replayed(&run(), None), (NotApplicable, "not asked for (--replay N)".into()));
    assert_eq!(replayed(&run(), Some(1)), (CouldNotCheck, "the model or the binary is not here".into()));
    assert_eq!(
        replayed(&eval("x", &[]), Some(1)),
        (CouldNotCheck, "no model of it or not the binary is here".into())
    );
    assert_eq!(replayed(&bench(), Some(1)).1, "only runs and evaluations can be replayed");
    // Both files are here, and are not asked where nothing can be generated again.
    let beside = Beside::new("");
    let file = beside.file("b", "1");
    let here = Evidence { binary: Some(file.clone()), model: Some(file), ..evidence(beside.dir.path()) };
    let none = "nothing was generated that could be generated again";
    let wanted = |wanted| VerifyArgs { replay: Some(wanted), ..beside.args.clone() };
    for (edits, count) in [
        ([("/body/work/output_tokens", json!([]))], 1),
        ([("/body/work/prompt_tokens", json!([]))], 1),
        ([("/body/work/seed", json!(0))], 0),
    ] {
        let receipt = parsed(&with(&run(), &edits));
        assert_eq!(
            replay(&beside.ctx, &wanted(count), &receipt, &here).unwrap(),
            (CouldNotCheck, none.into())
        );
    }
}

#[test]
fn a_crossval_receipt_is_a_parent_where_it_names_the_binary() {
    let beside = Beside::new("");
    let path = store::path(&beside.ctx, "crossval").unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    store::write_to(&path, &parsed(&crossval())).unwrap();
    let facts = |letter: &str| FileFacts { name: letter.into(), bytes: 1, sha256: digest(letter) };
    let found = |binary: &str| {
        store::parents_of(&beside.ctx, &["crossval", "model"], &facts(binary), &facts(MODEL)).unwrap()
    };
    assert_eq!(found(BINARY), [path]);
    assert!(found("0").is_empty());
}

#[test]
fn a_receipt_is_first_written_into_the_folder_it_goes_to() {
    let dir = tempfile::tempdir().unwrap();
    let error = store::write_to(&dir.path().join("none/a.json"), &parsed(&run())).unwrap_err().to_string();
    assert_eq!(error, format!("writing into {}/none", dir.path().display()));
}
