use super::*;
use crate::cluster::plan::tests::answer;
use serde_json::{Value, json};

fn file(name: &str) -> Value {
    json!({ "name": name, "bytes": 1, "sha256": "0".repeat(64) })
}

fn written(id: &str, kind: &str, body: Value) -> Answer {
    let receipt = json!({ "version": 1, "created_unix": 1, "parents": {}, "body": body });
    let mut answer = answer(id, "");
    answer.written.insert(format!("{kind}.json"), receipt.to_string());
    answer
}

fn machine(cpus: u32) -> Value {
    json!({ "cpu": "c", "features": [], "cpus": cpus, "last_level_cache": null, "memory_bytes": 1, "gpus": [] })
}

#[test]
fn comparisons_are_put_together_once() {
    let lane = |engine: &str| {
        json!({
            "model": file("m"), "engine": engine, "identity": "i", "activation_quant": null,
            "validation": "", "verdict": "could-not-check", "metrics": null, "detail": ""
        })
    };
    let body = |engines: &[&str], digest: &str| {
        json!({
            "kind": "crossval", "binary": { "name": "b", "bytes": 1, "sha256": digest }, "machine": machine(1), "positions": 8,
            "thresholds": { "min_cosine": 0.9, "top1_gap": 0.1, "perplexity": 0.1, "min_positions": 4 },
            "lanes": engines.iter().map(|engine| lane(engine)).collect::<Vec<_>>()
        })
    };
    let one = written("1", "crossval", body(&["oracle", "llama"], "00"));
    let all = crossval(&[one.clone(), written("2", "crossval", body(&["bitnet"], "00"))]).unwrap();
    assert_eq!(all.lanes.iter().map(|lane| &*lane.engine).collect::<Vec<_>>(), ["oracle", "llama", "bitnet"]);
    let refused =
        |other: Value| crossval(&[one.clone(), written("2", "crossval", other)]).unwrap_err().to_string();
    assert_eq!(refused(body(&["llama"], "00")), "m against llama was compared twice");
    assert!(refused(body(&["bitnet"], "11")).contains("another binary"));
    assert!(crossval(&[answer("3", "")]).unwrap_err().to_string().contains("shard 3 wrote no receipt"));
    assert!(crossval(&[]).is_err());

    let (lines, code) = told(&Body::Crossval(Box::new(all.clone())));
    assert_eq!((lines, code), (vec!["0 of 3 comparisons agree".to_string()], ExitCode::Ok));
    let mut parted = all;
    parted.lanes[0].verdict = Verdict::Diverges;
    assert_eq!(told(&Body::Crossval(Box::new(parted))).1, ExitCode::Diverged);
}

#[test]
fn measurements_of_one_kind_of_machine_are_put_together() {
    let body = |test: &str, cpus: u32| {
        let series = json!({
            "engine": "bitforge", "identity": "i", "test": test, "tokens": 8, "samples_ns": [1_000_000_000, 4_000_000_000u64, 2_000_000_000],
            "weight_bytes": 1, "kv_bytes": 0, "operations": 1, "kernels": []
        });
        json!({
            "kind": "bench", "binary": file("b"), "model": file("m"), "synthetic": false, "machine": machine(cpus), "threads": 1,
            "limits": { "buffer_bytes": 1, "int8_instruction": "", "read_bandwidth": [[1.0]], "int8_operations": [[2.0]] },
            "series": [series], "noise": [{ "load_average": null, "steal_ticks": null, "total_ticks": null, "megahertz": null }]
        })
    };
    let one = written("1", "bench", body("pp8", 1));
    let all = bench(&[one.clone(), written("2", "bench", body("tg8", 1))]).unwrap();
    assert_eq!((all.series.len(), all.noise.len()), (2, 2));
    assert_eq!((all.limits.read_bandwidth[0].len(), all.limits.int8_operations[0].len()), (2, 2));
    assert_eq!(told(&Body::Bench(Box::new(all))).0[1], "bitforge tg8: 4.0 tokens/s");
    let refused = |other: Value| bench(&[one.clone(), written("2", "bench", other)]).unwrap_err().to_string();
    assert_eq!(refused(body("pp8", 1)), "pp8 of bitforge was measured twice");
    assert!(refused(body("tg8", 2)).contains("a machine of another kind"));
}

#[test]
fn a_shard_of_damage_did_what_it_is_called_after() {
    let printed = |seed: u64, refused: u64| {
        let outcome = json!({ "refused": refused, "accepted": 2 });
        json!({ "kind": "gguf", "count": 10, "seed": seed, "seconds": 1.0, "outcome": outcome }).to_string()
    };
    let found = fuzzed(&[answer("gguf 1", &printed(1, 8)), answer("gguf 2", &printed(2, 8))], 10).unwrap();
    assert_eq!(found.len(), 2);
    assert!(found["gguf 1"].starts_with("8 refused, 2 accepted"), "{found:?}");
    assert!(fuzzed(&[answer("gguf 2", &printed(1, 8))], 10).is_err(), "another seed");
    assert!(fuzzed(&[answer("gguf 1", &printed(1, 7))], 10).is_err(), "not all of it");
}
