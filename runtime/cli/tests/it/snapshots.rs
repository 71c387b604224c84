//! What every command prints, for people and as JSON.

use crate::support::*;
use serde_json::Value;

fn pretty(value: Value) -> String {
    serde_json::to_string_pretty(&stable(value)).expect("JSON")
}

/// Standard output of a command that succeeds, without what differs between machines.
fn human(args: &[&str]) -> String {
    let ran = run(args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout
}

const RUN: [&str; 13] = [
    "run",
    "--model",
    MODEL,
    "--prompt",
    "Hello world",
    "--max-tokens",
    "4",
    "--temperature",
    "0",
    "--threads",
    "1",
    "--kernels",
    "scalar",
];

#[test]
fn help_of_every_command() {
    let mut all = human(&["--help"]);
    let commands = [
        "run",
        "chat",
        "serve",
        "tokenize",
        "logits",
        "inspect",
        "perplexity",
        "convert",
        "quantize",
        "bench",
        "kernels",
    ];
    for command in commands {
        all += &format!("\n## {command}\n{}", human(&[command, "--help"]));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn run_json() {
    insta::assert_snapshot!(pretty(json(&[&RUN[..], &["--seed", "1"]].concat())));
}

#[test]
fn run_human() {
    let ran = run(&RUN);
    insta::with_settings!({filters => vec![
        (r"compiled=\[[^\]]*\] detected=\[[^\]]*\]", "compiled=[..] detected=[..]"),
        (r"[0-9.]+ tokens/s", "[rate] tokens/s"),
    ]}, { insta::assert_snapshot!(format!("{}--- stderr\n{}", ran.stdout, ran.stderr)) });
}

#[test]
fn tokenize_json() {
    insta::assert_snapshot!(pretty(json(&["tokenize", "--model", MODEL, "--prompt", "Hello wörld"])));
}

#[test]
fn tokenize_human() {
    insta::assert_snapshot!(human(&["tokenize", "--model", MODEL, "--prompt", "Hello wörld"]));
}

#[test]
fn logits_json_and_human() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("logits.f32").to_str().expect("UTF-8").to_owned();
    let args = [
        "logits",
        "--model",
        MODEL,
        "--tokens",
        "1,2,3",
        "--out",
        &out,
        "--threads",
        "1",
        "--kernels",
        "scalar",
    ];
    let both = format!("{}\n{}", pretty(json(&args)), human(&args)).replace(&out, "[out]");
    insta::assert_snapshot!(both);
}

/// With the kernels that every machine has.
fn inspect(args: &[&str]) -> Ran {
    let mut command = bitnet(&[&["inspect", "--model", MODEL], args].concat());
    let ran = finish(command.env("BITNET_KERNELS", "scalar").output().expect("the binary starts"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran
}

#[test]
fn inspect_json() {
    insta::assert_snapshot!(pretty(inspect(&["--json"]).json()));
}

#[test]
fn inspect_human() {
    insta::assert_snapshot!(inspect(&[]).stdout);
}

const BENCH: [&str; 13] = [
    "bench",
    "--model",
    MODEL,
    "--pp",
    "16",
    "--tg",
    "4",
    "--repetitions",
    "2",
    "--threads",
    "1",
    "--kernels",
    "scalar",
];

#[test]
fn bench_json() {
    let output = json(&BENCH);
    for result in output["results"].as_array().expect("an array") {
        assert_eq!(ids(&result["samples_ns"]).len(), 2);
    }
    insta::assert_snapshot!(pretty(output));
}

#[test]
fn bench_human() {
    insta::with_settings!({filters => vec![(r" +[0-9.]+ ± [0-9.]+ \|", " [rate] |"), (r"-+:\|\n", "-:|\n"), (r" +t/s", " t/s")]}, {
        insta::assert_snapshot!(human(&BENCH));
    });
}

#[test]
fn kernels_json() {
    let mut output = json(&["kernels", "--kernels", "scalar"]);
    // Which kernels are compiled depends on the target; the scalar ones are everywhere.
    let scalar =
        |rows: &mut Value| rows.as_array_mut().expect("an array").retain(|row| row["level"] == "scalar");
    scalar(&mut output["kernels"]);
    for operation in output["operations"].as_array_mut().expect("an array") {
        scalar(&mut operation["candidates"]);
    }
    output["kernel_ids"]
        .as_array_mut()
        .expect("an array")
        .retain(|id| id.as_str().is_some_and(|id| id.ends_with("scalar")));
    insta::assert_snapshot!(pretty(output));
}

#[test]
fn kernels_human() {
    let table = human(&["kernels", "--kernels", "scalar"]);
    let scalar: Vec<&str> =
        table.lines().filter(|line| !line.starts_with('|') || line.contains(".scalar")).collect();
    // Columns are as wide as the reasons of other levels make them.
    insta::with_settings!({filters => vec![(r" +\|", " |"),(r"compiled=\[[^\]]*\] detected=\[[^\]]*\]", "compiled=[..] detected=[..]")]}, {
        insta::assert_snapshot!(scalar.join("\n"));
    });
}
