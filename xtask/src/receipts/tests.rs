//! Every gate at its edges, on receipts made by hand: numbers small enough to add up in one's head.
//!
//! `tests/receipts.rs` does the same with receipts of real runs; here no process is started.

mod cluster;
mod verdicts;

use super::gates::{Evidence, Judgement, judge, outcome};
use super::{store, verify};
use crate::crossval::settings::Settings;
use crate::ctx::Ctx;
use crate::eval::settings::Settings as EvalSettings;
use crate::report::Reporter;
use bitforge_receipt_schema::Receipt;
use bitforge_schema::env::Env;
use serde_json::{Value, json};
use std::path::Path;

const BINARY: &str = "b";
const MODEL: &str = "m";

fn ctx() -> Ctx {
    ctx_in(Env::default())
}

fn ctx_in(env: Env) -> Ctx {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Ctx::new(Some(root.into()), env, Reporter::for_tests())
}

/// What is at hand: no files, two kernels, receipts in `folder`.
fn evidence(folder: &Path) -> Evidence {
    let kernel = |id: &str, level: &str| (id.to_string(), level.to_string());
    Evidence {
        binary: None,
        model: None,
        facts: None,
        kernels: Some(vec![
            kernel("i2_s.i8.avx2", "avx2"),
            kernel("f16.f32.avx2", "avx2"),
            kernel("i2_s.i8.avx512", "avx512"),
        ]),
        thresholds: Settings::load(&ctx()).unwrap().thresholds,
        eval: EvalSettings::load(&ctx()).unwrap(),
        receipts: folder.into(),
    }
}

fn file(letter: &str) -> Value {
    json!({"name": letter, "bytes": 1, "sha256": digest(letter)})
}

fn digest(letter: &str) -> String {
    format!("{letter:0>64}").replace('m', "c")
}

fn machine(cache: Option<u64>) -> Value {
    json!({"cpu": "", "features": [], "cpus": 2, "last_level_cache": cache, "memory_bytes": 1, "gpus": []})
}

fn kernel(id: &str, rows: u64, bytes: u64, nanoseconds: u64) -> Value {
    json!({"id": id, "calls": 1, "rows": rows, "rescored_rows": 0, "bytes": bytes, "nanoseconds": nanoseconds})
}

/// Three tokens in, one decoded: a layer of 100 rows and 2500 bytes, a head of 50 rows of 128 bytes.
fn run() -> Value {
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "run", "binary": file(BINARY), "binary_version": "1",
            "model": {
                "file": file(MODEL), "architecture": "bitnet", "layers": 1, "synthetic": false,
                "matrices": [
                    {"role": "layer", "weight_type": "I2_S", "rows": 100, "bytes": 2500},
                    {"role": "head", "weight_type": "F16", "rows": 50, "bytes": 6400}
                ]
            },
            "tokenizer": {"authority": "embedded", "sha256": digest("7")},
            "machine": machine(Some(1 << 20)),
            "selection": {
                "requested": "auto", "compiled": ["scalar", "avx2", "avx512"], "detected": ["scalar", "avx2", "avx512"],
                "selected": "avx2", "reason": ""
            },
            "activation_quant": "token", "threads": 2, "kv": "f16", "head": null,
            "environment_requested": {}, "environment_effective": {"BITNET_THREADS": "2"}, "strict": false,
            "work": {
                "prompt_tokens": [5, 6, 7], "output_tokens": [8, 9],
                "prompt_sha256": store::tokens_sha256(&[5, 6, 7]), "output_sha256": store::tokens_sha256(&[8, 9]),
                "evaluated_tokens": 4, "logits_positions": 2, "sampling": {"temperature": 0.0}, "seed": 0,
                "prompt_ns": 1000, "decode_ns": 1000, "decoded_tokens": 1
            },
            "kernels": [kernel("i2_s.i8.avx2", 400, 5000, 10), kernel("f16.f32.avx2", 100, 12800, 10)],
            "peak_bandwidth": null
        }
    })
}

fn with(base: &Value, edits: &[(&str, Value)]) -> Value {
    let mut receipt = base.clone();
    for (pointer, value) in edits {
        *receipt.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
    }
    receipt
}

fn parsed(receipt: &Value) -> Receipt {
    store::parse(&receipt.to_string()).unwrap()
}

/// The judgement of one gate and why.
fn gate(receipt: &Value, number: u8, evidence: &Evidence) -> (Judgement, String) {
    let outcomes = judge(&parsed(receipt), evidence);
    let found = outcomes.into_iter().find(|outcome| outcome.gate == number).unwrap();
    (found.judgement, found.detail)
}

/// What is set in a receipt, the judgement it gets, and a part of the reason.
type Case<'a> = (&'a [(&'a str, Value)], Judgement, &'a str);

/// Edits of a receipt and what the gate then says.
#[track_caller]
fn expect(base: &Value, number: u8, cases: &[Case<'_>]) {
    let nowhere = tempfile::tempdir().unwrap();
    let evidence = evidence(nowhere.path());
    for (edits, judgement, says) in cases {
        let (found, detail) = gate(&with(base, edits), number, &evidence);
        assert!(found == *judgement && detail.contains(says), "{edits:?}: {found:?}, {detail}");
    }
}

use Judgement::{CouldNotCheck, Fail, NotApplicable, Pass};

#[test]
fn gate_1_digests_are_lower_case_hexadecimal() {
    let sha = "/body/binary/sha256";
    expect(
        &run(),
        1,
        &[
            (&[], Pass, "read strictly"),
            (&[(sha, json!("0".repeat(63)))], Fail, "the binary's digest"),
            (&[(sha, json!("F".repeat(64)))], Fail, "is no sha256"),
            (&[(sha, json!("g".repeat(64)))], Fail, "is no sha256"),
            (&[(sha, json!("f".repeat(64)))], Pass, ""),
            (&[("/body/model/file/sha256", json!("x"))], Fail, "the model's digest"),
            (&[("/body/work/prompt_tokens/0", json!(4))], Fail, "the prompt tokens"),
            (&[("/body/work/output_tokens/0", json!(4))], Fail, "the output tokens"),
        ],
    );
}

#[test]
fn gate_2_files_that_are_here_are_the_ones_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut evidence = evidence(dir.path());
    let path = dir.path().join("binary");
    std::fs::write(&path, "abc").unwrap();
    let honest = with(&run(), &[("/body/binary/sha256", json!(store::sha256(&path).unwrap()))]);
    assert_eq!(gate(&honest, 2, &evidence).0, CouldNotCheck);
    evidence.binary = Some(path.clone());
    let (judgement, detail) = gate(&honest, 2, &evidence);
    assert_eq!((judgement, detail.as_str()), (CouldNotCheck, "not here: model m; give --model or --binary"));
    evidence.model = Some(path.clone());
    assert!(gate(&honest, 2, &evidence).1.ends_with("is another model than m"));
    let honest = with(&honest, &[("/body/model/file/sha256", json!(store::sha256(&path).unwrap()))]);
    assert_eq!(gate(&honest, 2, &evidence), (Pass, "binary and model as listed".into()));
    evidence.model = Some(dir.path().join("none"));
    assert_eq!(gate(&honest, 2, &evidence).0, CouldNotCheck);
}

#[test]
fn gate_3_kernels_are_known_and_not_above_what_was_selected() {
    let id = "/body/kernels/0/id";
    expect(
        &run(),
        3,
        &[
            (&[], Pass, "2 in the registry"),
            (&[("/body/kernels", json!([]))], Fail, "no kernel was counted"),
            (&[(id, json!("i2_s.i8.sse"))], Fail, "i2_s.i8.sse is no kernel of the binary"),
            (&[(id, json!("i2_s.i8.avx512"))], Fail, "above the selected level avx2"),
            (&[(id, json!("i2_s.i8.avx512")), ("/body/selection/selected", json!("avx512"))], Pass, ""),
            (&[("/body/selection/detected", json!(["scalar"]))], Fail, "above the selected level"),
        ],
    );
    let nowhere = tempfile::tempdir().unwrap();
    let without = Evidence { kernels: None, ..evidence(nowhere.path()) };
    assert_eq!(gate(&run(), 3, &without).0, CouldNotCheck);
    assert_eq!(gate(&step("model", &[]), 3, &without).0, NotApplicable);
}

#[test]
fn gate_4_counts_are_those_of_the_work_within_a_hundredth() {
    let (rows, bytes) = ("/body/kernels/0/rows", "/body/kernels/0/bytes");
    let long: Vec<u32> = (0..129).collect();
    let two_passes = [
        ("/body/work/prompt_tokens", json!(long)),
        ("/body/work/evaluated_tokens", json!(130)),
        (rows, json!(13_000)),
        (bytes, json!(7500)),
    ];
    let no_prompt = [
        ("/body/work/prompt_tokens", json!([])),
        ("/body/work/evaluated_tokens", json!(1)),
        ("/body/work/logits_positions", json!(1)),
        (rows, json!(100)),
        (bytes, json!(2500)),
        ("/body/kernels/1/rows", json!(50)),
        ("/body/kernels/1/bytes", json!(6400)),
    ];
    expect(
        &run(),
        4,
        &[
            (&[], Pass, "4 tokens by the receipt's own shape"),
            (&[(rows, json!(404))], Pass, ""),
            (&[(rows, json!(396))], Pass, ""),
            (&[(rows, json!(405))], Fail, "405 dot products of i2_s were counted, and the work asks for 400"),
            (&[(rows, json!(395))], Fail, "asks for 400"),
            (&[(bytes, json!(5051))], Fail, "5051 bytes of i2_s were counted, and the work asks for 5000"),
            (&[("/body/kernels/1/rows", json!(102))], Fail, "102 dot products of f16"),
            (&[("/body/work/evaluated_tokens", json!(5))], Fail, "5 tokens were evaluated, and 4 were to be"),
            (&two_passes, Pass, "130 tokens"),
            (&no_prompt, Pass, "1 tokens"),
        ],
    );
    let mut foreign = run();
    foreign["body"]["kernels"].as_array_mut().unwrap().push(kernel("q4_0.i8.avx2", 1, 1, 1));
    expect(&foreign, 4, &[(&[], Fail, "q4_0.i8.avx2 was counted, and the model has no such weights")]);
    let mut searched = run();
    searched["body"]["kernels"].as_array_mut().unwrap().push(kernel("head.avx2", 1, 1, 1));
    expect(&searched, 4, &[(&[], Fail, "head.avx2 was counted")]);
}

/// Both positions searched through a compact copy of 1000 bytes, four rows computed again.
fn two_stage() -> Value {
    let mut own = kernel("f16.f32.avx2", 0, 512, 10);
    own["rescored_rows"] = json!(4);
    with(
        &run(),
        &[
            ("/body/head", json!({"mode": "two-stage", "compact_bytes": 1000})),
            (
                "/body/kernels",
                json!([kernel("i2_s.i8.avx2", 400, 5000, 10), own, kernel("head.avx2", 100, 1500, 10)]),
            ),
        ],
    )
}

#[test]
fn gate_4_a_searched_head_scored_all_rows_and_computed_the_best_again() {
    let (own, rescored, own_bytes) =
        ("/body/kernels/1/rows", "/body/kernels/1/rescored_rows", "/body/kernels/1/bytes");
    let (scored, read) = ("/body/kernels/2/rows", "/body/kernels/2/bytes");
    // The layers' own products in the head's type are not heads read in full.
    let one_type =
        [("/body/model/matrices/0/weight_type", json!("F16")), ("/body/kernels/0/id", json!("f16.f32.avx2"))];
    expect(
        &two_stage(),
        4,
        &[
            (&[], Pass, ""),
            (&one_type, Pass, ""),
            (&[(scored, json!(99))], Fail, "99 rows of the head were scored, and the work asks for 100"),
            (&[(read, json!(800))], Pass, ""),
            (
                &[(read, json!(799))],
                Fail,
                "799 bytes of the compact head were counted, and 800 to 2000 are in it",
            ),
            (&[(read, json!(2000))], Pass, ""),
            (&[(read, json!(2001))], Fail, "2001 bytes"),
            (&[(rescored, json!(2)), (own_bytes, json!(256))], Pass, ""),
            (&[(rescored, json!(1)), (own_bytes, json!(128))], Fail, "1 rows were rescored and 0 heads read"),
            (&[(rescored, json!(100)), (own_bytes, json!(12_800))], Pass, ""),
            (&[(rescored, json!(101)), (own_bytes, json!(12_928))], Fail, "101 rows were rescored"),
            (&[(own, json!(50)), (rescored, json!(1)), (own_bytes, json!(6528))], Pass, ""),
            (&[(own, json!(100)), (rescored, json!(0)), (own_bytes, json!(12_800))], Pass, ""),
            (&[(own, json!(150)), (rescored, json!(0)), (own_bytes, json!(19_200))], Fail, "3 heads read"),
            (&[(own_bytes, json!(640))], Fail, "640 bytes of f16 were counted, and the work asks for 512"),
        ],
    );
    let full = with(&two_stage(), &[("/body/head/mode", json!("full"))]);
    expect(&full, 4, &[(&[], Fail, "dot products of f16")]);
}

#[test]
fn gate_5_times_add_up() {
    let (first, second) = ("/body/kernels/0/nanoseconds", "/body/kernels/1/nanoseconds");
    let rows = "/body/kernels/0/rows";
    expect(
        &run(),
        5,
        &[
            (&[(first, json!(4030)), (second, json!(10))], NotApplicable, "the times add up"),
            (&[(first, json!(4031)), (second, json!(10))], Fail, "kernels ran for 4041 ns in 4000 ns"),
            (&[(first, json!(0)), (rows, json!(1000))], NotApplicable, ""),
            (&[(first, json!(0)), (rows, json!(1001))], Fail, "took no time for 1001 dot products"),
            (&[("/body/machine/last_level_cache", Value::Null)], CouldNotCheck, "cache is not known"),
        ],
    );
}

#[test]
fn gate_5_weights_are_not_read_faster_than_memory_can() {
    let cache = ("/body/machine/last_level_cache", json!(4449));
    let peak = |bytes_per_second: f64| ("/body/peak_bandwidth", json!(bytes_per_second));
    expect(
        &run(),
        5,
        &[
            (
                &[("/body/machine/last_level_cache", json!(4450)), peak(1.0)],
                NotApplicable,
                "8900 bytes of weights",
            ),
            (std::slice::from_ref(&cache), CouldNotCheck, "no bandwidth was sampled"),
            (
                &[cache.clone(), peak(8.5e9), ("/body/work/decode_ns", json!(0))],
                CouldNotCheck,
                "nothing was decoded",
            ),
            // 8900 bytes in a microsecond, and a twentieth is noise.
            (
                &[cache.clone(), peak(8.5e9)],
                Pass,
                "8.9 GB/s of weights, and 8.5 GB/s is the most that was seen",
            ),
            (&[cache.clone(), peak(8.4e9)], Fail, "8.9 GB/s"),
        ],
    );
    // 2500 of the layers and 750 of the copy per position.
    expect(
        &two_stage(),
        5,
        &[
            (&[cache.clone(), peak(3.2e9)], Pass, "3.2 GB/s"),
            (&[cache, peak(3.0e9)], Fail, "3.2 GB/s of weights"),
        ],
    );
}

/// One series of ten tokens that reads 1000 bytes for each, in two samples, the faster one a microsecond long.
fn bench() -> Value {
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "bench", "binary": file(BINARY), "model": file(MODEL), "synthetic": true,
            "machine": machine(Some(499)), "threads": 1, "noise": [],
            "limits": {
                "buffer_bytes": 1, "int8_instruction": "", "read_bandwidth": [[1e9], [9.6e9, 9.53e9]], "int8_operations": []
            },
            "series": [{
                "engine": "bitforge", "identity": "", "test": "tg10", "tokens": 10, "samples_ns": [2000, 1000],
                "weight_bytes": 10_000, "kv_bytes": 0, "operations": 0, "kernels": []
            }]
        }
    })
}

#[test]
fn gate_5_of_a_bench_takes_its_fastest_sample_and_the_highest_bandwidth() {
    let (test, cache) = ("/body/series/0/test", "/body/machine/last_level_cache");
    expect(
        &bench(),
        5,
        &[
            (&[], Pass, "10.0 GB/s of weights, and 9.6 GB/s"),
            (&[("/body/limits/read_bandwidth/1/0", json!(9.4e9))], Pass, "9.5 GB/s is the most"),
            (&[("/body/limits/read_bandwidth/1", json!([9.4e9]))], Fail, "10.0 GB/s"),
            (&[(cache, json!(500))], NotApplicable, "no series reads more than twice"),
            (&[(test, json!("pp10"))], NotApplicable, ""),
            (&[(cache, Value::Null)], CouldNotCheck, ""),
            (&[("/body/machine/gpus", json!(["a"]))], CouldNotCheck, "the bandwidth of a GPU"),
        ],
    );
    expect(&step("model", &[]), 5, &[(&[], NotApplicable, "it measures nothing")]);
}

#[test]
fn gate_6_and_8_say_what_was_asked_for() {
    let (authority, strict) = ("/body/tokenizer/authority", "/body/strict");
    expect(
        &run(),
        6,
        &[
            (&[], Pass, "whole in the model file"),
            (&[(authority, json!("discovered"))], Pass, "the receipt says so"),
            (&[(authority, json!("discovered")), (strict, json!(true))], Fail, "inferred"),
            (&[(authority, json!("external"))], CouldNotCheck, ""),
        ],
    );
    let asked = |value: &str| ("/body/environment_requested", json!({"BITNET_THREADS": value}));
    expect(
        &run(),
        8,
        &[
            (&[], Pass, "not strict;"),
            (&[(strict, json!(true))], Pass, "strict, and"),
            (&[asked("2")], Pass, ""),
            (&[asked("auto")], Pass, ""),
            (&[asked("3")], Fail, "BITNET_THREADS=3 was requested and 2 was in force"),
            (
                &[("/body/environment_requested", json!({"X": "auto"}))],
                Fail,
                "X=auto was requested and nothing",
            ),
        ],
    );
    for number in [4, 6, 8] {
        expect(&bench(), number, &[(&[], NotApplicable, "only runs have it")]);
    }
}

fn crossval() -> Value {
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {
            "kind": "crossval", "binary": file(BINARY), "machine": machine(None), "positions": 256,
            "thresholds": {"min_cosine": 0.9999, "top1_gap": 0.001, "perplexity": 0.001, "min_positions": 256},
            "lanes": [{
                "model": file(MODEL), "engine": "oracle", "identity": "o", "activation_quant": "token",
                "validation": "v", "verdict": "agrees", "detail": "far away",
                "metrics": {
                    "positions": 256, "min_cosine": 0.99999, "min_cosine_position": 3, "max_abs": 0.01,
                    "max_relative_l2": 0.001, "max_kl": 0.0, "top1_agreement": 1.0, "top5_agreement": 1.0,
                    "decided_disagreements": 0, "perplexity_ours": 30.0, "perplexity_other": 30.0,
                    "bit_equal_positions": 0
                }
            }]
        }
    })
}

#[test]
fn gate_7_thresholds_may_be_stricter_and_not_looser() {
    let lane = "/body/lanes/0";
    let verdict = "/body/lanes/0/verdict";
    let looser = "its thresholds are looser";
    expect(
        &crossval(),
        7,
        &[
            (&[], Pass, "1 of 1 comparisons agree"),
            (&[("/body/thresholds/min_cosine", json!(0.99995))], Pass, ""),
            (&[("/body/thresholds/min_cosine", json!(0.9998))], Fail, looser),
            (&[("/body/thresholds/top1_gap", json!(0.0005))], Pass, ""),
            (&[("/body/thresholds/top1_gap", json!(0.002))], Fail, looser),
            (&[("/body/thresholds/perplexity", json!(0.0005))], Pass, ""),
            (&[("/body/thresholds/perplexity", json!(0.002))], Fail, looser),
            (&[("/body/thresholds/min_positions", json!(257))], Pass, ""),
            (&[("/body/thresholds/min_positions", json!(255))], Fail, looser),
            (&[("/body/lanes/0/metrics", Value::Null)], Fail, "is said to agree without a measurement"),
            (
                &[("/body/lanes/0/metrics/min_cosine", json!(0.9))],
                Fail,
                "m against oracle is said to agree: ",
            ),
            (&[(verdict, json!("diverges"))], Fail, "m against oracle diverges: far away"),
            (&[(verdict, json!("could-not-check"))], CouldNotCheck, "nothing could be compared"),
            (&[("/body/lanes", json!([]))], CouldNotCheck, ""),
            (&[(lane, crossval()["body"]["lanes"][0].clone())], Pass, ""),
        ],
    );
}

#[test]
fn gate_7_of_a_run_and_a_bench_asks_the_crossval_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = evidence(dir.path());
    let beside = |crossval: &Value, receipt: &Value| {
        std::fs::write(dir.path().join("crossval.json"), crossval.to_string()).unwrap();
        gate(receipt, 7, &evidence)
    };
    assert!(gate(&run(), 7, &evidence).1.starts_with("no crossval.json in "));
    for receipt in [run(), bench()] {
        let (judgement, detail) = beside(&crossval(), &receipt);
        assert_eq!((judgement, detail.as_str()), (Pass, "the same binary and model agree with oracle"));
    }
    let (judgement, detail) = beside(&with(&crossval(), &[("/body/binary", file("0"))]), &run());
    assert!(judgement == CouldNotCheck && detail.contains("another binary"), "{detail}");
    let (judgement, detail) = beside(&with(&crossval(), &[("/body/lanes/0/model", file("0"))]), &run());
    assert!(judgement == CouldNotCheck && detail.contains("does not judge this model"), "{detail}");
    assert_eq!(beside(&with(&crossval(), &[("/body/lanes/0/verdict", json!("diverges"))]), &run()).0, Fail);
    let unknown = with(&crossval(), &[("/body/lanes/0/verdict", json!("could-not-check"))]);
    assert_eq!(beside(&unknown, &run()).0, CouldNotCheck);
    assert_eq!(beside(&step("model", &[]), &run()), (Fail, "crossval.json is of another kind".into()));
    assert_eq!(gate(&step("model", &[]), 7, &evidence), (NotApplicable, "it computes nothing".into()));
}

fn step(kind: &str, files: &[&str]) -> Value {
    let files: Vec<Value> = files.iter().map(|letter| file(letter)).collect();
    json!({
        "version": 1, "created_unix": 1, "parents": {},
        "body": {"kind": "step", "step": kind, "facts": {}, "files": files}
    })
}

#[test]
fn gate_9_parents_are_of_the_right_kind_unchanged_and_about_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    let evidence = evidence(dir.path());
    // Writes the parents and names them in the receipt.
    let chain = |receipt: &Value, parents: &[(&str, Value)]| {
        let mut receipt = receipt.clone();
        for (kind, parent) in parents {
            let path = dir.path().join(format!("{kind}.json"));
            std::fs::write(&path, parent.to_string()).unwrap();
            receipt["parents"][*kind] = json!(store::sha256(&path).unwrap());
        }
        gate(&receipt, 9, &evidence)
    };
    assert_eq!(gate(&run(), 9, &evidence).0, CouldNotCheck);
    assert_eq!(gate(&step("model", &[]), 9, &evidence).0, NotApplicable);
    let named = |kind: &str| with(&run(), &[("/parents", json!({kind: digest("0")}))]);
    let (judgement, detail) = gate(&named("model"), 9, &evidence);
    assert!(judgement == CouldNotCheck && detail.ends_with(": model.json"), "{detail}");
    assert!(
        gate(&named("symbols"), 9, &evidence).1.contains("a receipt of run does not build on one of symbols")
    );

    let whole = [("crossval", crossval()), ("model", step("model", &["0", MODEL]))];
    assert_eq!(chain(&run(), &whole), (Pass, "crossval and model".into()));
    assert_eq!(chain(&bench(), &whole).0, Pass);
    assert_eq!(chain(&step("symbols", &[]), &[("reference", step("reference", &[]))]).0, Pass);
    assert_eq!(chain(&step("kernels", &[]), &[("build", step("build", &[]))]).0, Pass);
    assert_eq!(chain(&crossval(), &[("build", step("build", &[]))]).0, Pass);
    assert_eq!(chain(&step("build", &[]), &[("model", step("model", &[]))]).0, Fail);

    let (judgement, detail) = chain(&run(), &[("model", step("model", &["0"]))]);
    assert_eq!((judgement, detail.as_str()), (Fail, "the model receipt is of another model"));
    let (judgement, detail) =
        chain(&run(), &[("crossval", with(&crossval(), &[("/body/binary", file("0"))]))]);
    assert_eq!((judgement, detail.as_str()), (Fail, "the crossval receipt is of another binary"));
    let (judgement, detail) = chain(&run(), &[("model", step("build", &[]))]);
    assert!(judgement == Fail && detail.ends_with("model.json is a receipt of build"), "{detail}");
    assert_eq!(
        chain(&run(), &[("build", step("build", &["0"]))]).0,
        Pass,
        "only a model's step names models"
    );

    // What a parent builds on is followed.
    let child = with(&crossval(), &[("/parents", json!({"build": digest("0")}))]);
    let (judgement, detail) = chain(&run(), &[("crossval", child)]);
    assert!(judgement == Fail && detail.ends_with("build.json is not the file it was"), "{detail}");
}

#[test]
fn what_the_gates_say_together() {
    let said = |receipt: &Value, passed: &[u8], failed: &[u8]| {
        let mut gates: Vec<_> = passed.iter().map(|number| outcome(*number, (Pass, String::new()))).collect();
        gates.extend(failed.iter().map(|number| outcome(*number, (Fail, String::new()))));
        gates.push(outcome(1, (CouldNotCheck, String::new())));
        verify::compute(&parsed(receipt), &gates)
    };
    assert_eq!(said(&run(), &[2, 3, 4, 10], &[]), "replayed");
    assert_eq!(said(&run(), &[2, 3, 4], &[]), "consistent");
    assert_eq!(said(&run(), &[2, 3, 10], &[]), "not-shown");
    assert_eq!(said(&run(), &[2, 3, 4, 10], &[8]), "refuted");
    assert_eq!(said(&bench(), &[2, 3, 4, 10], &[]), "not-shown");
    assert_eq!(said(&cluster::eval(), &[2, 3, 7, 10], &[]), "replayed");
    assert_eq!(said(&cluster::eval(), &[2, 3, 7], &[]), "not-shown");
    assert_eq!(outcome(5, (Pass, "why".into())).name, "roofline");
    assert_eq!(outcome(99, (Pass, String::new())).name, "");
}

#[test]
fn what_is_shown_of_a_verdict() {
    let verdict = |kind: &str, ok, compute, judgements: &[Judgement]| verify::Verdict {
        file: "run.json".into(),
        kind: kind.into(),
        ok,
        compute,
        gates: judgements
            .iter()
            .zip(1..)
            .map(|(judgement, number)| outcome(number, (*judgement, "why".into())))
            .collect(),
    };
    let shown = |verdict| verify::render(&Reporter::for_tests(), &verdict);
    insta::assert_snapshot!(shown(verdict("run", true, "replayed", &[Pass, NotApplicable])));
    insta::assert_snapshot!("unchecked", shown(verdict("run", true, "consistent", &[Pass, CouldNotCheck])));
    insta::assert_snapshot!("refuted", shown(verdict("", false, "refuted", &[Fail])));
    assert!(
        shown(verdict("bench", true, "not-shown", &[Pass]))
            .ends_with("✔ bench receipt: that the compute was real is not shown by this receipt alone")
    );
}
