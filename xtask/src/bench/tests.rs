use super::*;
use crate::exit::code_of;
use crate::report::Reporter;
use bitforge_receipt_schema::MachineFacts;
use bitforge_receipt_schema::bench::Noise;
use bitforge_receipt_schema::{FileFacts, Receipt, VERSION};
use bitforge_schema::env::Env;
use std::collections::BTreeMap;

/// Made-up samples; `slowdown` is what our times are multiplied by.
fn made_up(slowdown: f64, rounds: usize) -> Bench {
    let facts = |name: &str| FileFacts { name: name.into(), bytes: 1, sha256: "00".into() };
    let series = |engine: &str, test: &str, tokens, milliseconds: f64, weight_bytes| Series {
        engine: engine.into(),
        identity: "i".into(),
        test: test.into(),
        tokens,
        samples_ns: (0..rounds)
            .map(|round| (milliseconds * 1e6 * (1.0 + 0.01 * (round * 2 % 5) as f64)) as u64)
            .collect(),
        weight_bytes,
        kv_bytes: 0,
        operations: 2_000_000 * u64::from(tokens),
        kernels: Vec::new(),
    };
    Bench {
        binary: facts("bitnet"),
        model: facts("m.gguf"),
        synthetic: true,
        machine: MachineFacts {
            cpu: "Made-up CPU".into(),
            features: Vec::new(),
            cpus: 2,
            last_level_cache: Some(32 << 20),
            memory_bytes: 8 << 30,
            gpus: Vec::new(),
        },
        threads: 2,
        limits: Limits {
            buffer_bytes: 256 << 20,
            int8_instruction: "made-up".into(),
            read_bandwidth: vec![vec![9e9, 10e9], vec![19e9, 20e9]],
            int8_operations: vec![vec![1e11], vec![2e11]],
        },
        series: vec![
            series(OURS, "pp128", 128, 640.0 * slowdown, 100_000_000),
            series("llama", "pp128", 128, 512.0, 100_000_000),
            series(OURS, "tg64", 64, 640.0 * slowdown, 6_400_000_000),
            series("llama", "tg64", 64, 800.0, 6_400_000_000),
            series("llama (<other>.gguf)", "tg64", 64, 640.0, 6_400_000_000),
        ],
        noise: vec![
            Noise { load_average: Some(0.1), steal_ticks: Some(5), total_ticks: Some(1000), megahertz: None },
            Noise { load_average: Some(2.0), steal_ticks: Some(6), total_ticks: Some(2000), megahertz: None },
        ],
    }
}

fn ctx() -> Ctx {
    Ctx::new(None, Env::default(), Reporter::for_tests())
}

#[test]
fn markdown_of_made_up_samples() {
    let bench = made_up(1.0, 5);
    insta::assert_snapshot!(markdown::render(&bench, &noise::warnings(&bench)));
}

#[test]
fn svg_of_made_up_samples() {
    insta::assert_snapshot!(svg::render(&made_up(1.0, 5)));
}

#[test]
fn a_regression_ends_with_the_code_of_a_failed_check() {
    let judged = |slowdown, rounds| {
        judge(&ctx(), &baseline::compare(&made_up(slowdown, rounds), &made_up(1.0, rounds)))
            .map_err(|error| code_of(&error))
    };
    assert_eq!(judged(1.0, 5), Ok(ExitCode::Ok));
    assert_eq!(judged(0.8, 5), Ok(ExitCode::Ok), "faster is no regression");
    assert_eq!(judged(1.5, 5), Err(ExitCode::CheckFailed));
    assert_eq!(judged(1.0, 3), Err(ExitCode::CheckFailed), "too few rounds are no pass");
}

#[test]
fn without_a_reference_the_share_of_the_limit_is_compared() {
    let alone = |slowdown, machine: f64| {
        let mut bench = made_up(slowdown * machine, 5);
        bench.series.retain(|series| series.engine == OURS);
        let limits = [&mut bench.limits.read_bandwidth, &mut bench.limits.int8_operations];
        limits.into_iter().flatten().flatten().for_each(|sample| *sample /= machine);
        bench
    };
    let regressions = |now: &Bench| {
        let changes = baseline::compare(now, &alone(1.0, 1.0));
        assert_eq!(changes.len(), 2);
        changes.iter().filter(|change| change.is_regression()).count()
    };
    assert_eq!(regressions(&alone(1.0, 2.0)), 0, "a machine of half the speed");
    assert_eq!(regressions(&alone(1.5, 1.0)), 2);
}

#[test]
fn warnings_name_cause_and_remedy() {
    assert_eq!(noise::warnings(&made_up(1.0, 5)), [""; 0]);
    let mut bench = made_up(1.0, 5);
    bench.noise[0].load_average = Some(3.0);
    bench.noise[1].steal_ticks = Some(400);
    bench.threads = 9;
    bench.machine.last_level_cache = Some(480 << 20);
    bench.limits.read_bandwidth[0] = vec![1e9, 5e9, 9e9];
    let text = markdown::render(&bench, &[]);
    assert_eq!(text.matches("not judged: the machine was busy").count(), 3, "{text}");
    let warnings = noise::warnings(&bench).join("\n");
    for part in
        ["load average was 3.00", "39.5% of the time", "--threads 2", "may be the cache's", "varied by"]
    {
        assert!(warnings.contains(part), "{part}: {warnings}");
    }
}

#[test]
fn a_baseline_must_be_a_receipt_of_a_benchmark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bench.json");
    assert_eq!(code_of(&read_baseline(&path).unwrap_err()), ExitCode::NotFound);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(code_of(&read_baseline(&path).unwrap_err()), ExitCode::BadInput);
    let bench = made_up(1.0, 5);
    let body = Body::Bench(Box::new(bench.clone()));
    let receipt = Receipt { version: VERSION, created_unix: 1, parents: BTreeMap::new(), body };
    std::fs::write(&path, serde_json::to_string(&receipt).unwrap()).unwrap();
    assert_eq!(read_baseline(&path).unwrap(), bench);
}

#[test]
fn what_a_token_costs_comes_from_the_tensors() {
    let json = |head: &str| {
        format!(
            r#"{{"metadata": {{"general.name": "synthetic 2b4t"}}, "tensors": [
            {{"name": "token_embd.weight", "dims": [4, 8], "bytes": 64}},
            {{"name": "blk.0.attn_q.weight", "dims": [4, 4], "bytes": 9}},
            {{"name": "blk.0.attn_norm.weight", "dims": [4], "bytes": 16}}{head}]}}"#
        )
    };
    let tied = Inspected { synthetic: true, weight_bytes: 73, layer_weights: 16, kv_elements: 0 };
    assert_eq!(inspected(&json("")).unwrap(), tied);
    let own = inspected(&json(r#", {"name": "output.weight", "dims": [4, 8], "bytes": 50}"#)).unwrap();
    assert_eq!(own, Inspected { weight_bytes: 59, ..tied });
}

#[test]
fn sequences_and_depth_are_compared_with_one_in_an_empty_context() {
    let series = |test: &str, tokens: u32, milliseconds: u64, kv_bytes: u64| Series {
        engine: summary::OURS.into(),
        identity: "i".into(),
        test: test.into(),
        tokens,
        samples_ns: vec![milliseconds * 1_000_000; 5],
        weight_bytes: 0,
        kv_bytes,
        operations: 0,
        kernels: Vec::new(),
    };
    let bench = Bench {
        series: vec![
            series("tg10", 10, 100, 1_000_000),
            series("tg10x4", 40, 160, 4_000_000),
            series("tg10@500", 10, 150, 301_000_000),
        ],
        limits: Limits { read_bandwidth: vec![vec![8e9]], ..made_up(1.0, 1).limits },
        ..made_up(1.0, 1)
    };
    let scalings = summary::summarize(&bench).scalings;
    use summary::Scaling;
    let [Scaling::Sequences { factor, .. }, Scaling::Depth { extra_seconds, bound_seconds, .. }] =
        &scalings[..]
    else {
        panic!("{scalings:?}")
    };
    assert!((factor - 2.5).abs() < 1e-9 && (extra_seconds - 5e-3).abs() < 1e-9, "{scalings:?}");
    assert!((bound_seconds.unwrap() - 5e-3).abs() < 1e-9, "30 MB at 6 GB/s");
    let text = markdown::render(&bench, &[]);
    assert!(text.contains("tg10x4: 2.50 times") && text.contains("tg10@500: 5.00 ms more"), "{text}");
}

#[test]
fn the_page_shows_what_the_receipt_says() {
    let mut bench = made_up(1.0, 5);
    let count = |id: &str, nanoseconds| KernelCount {
        id: id.into(),
        calls: 7,
        rows: 9,
        rescored_rows: 0,
        bytes: 1_500_000_000,
        nanoseconds,
    };
    bench.series[2].kernels = vec![count("i2_s.avx2", 3_000_000), count("f16.avx2", 1_000_000)];
    let page = html::render(&bench, &["a <doubt>".to_string()]);
    let holds = |text: &str| assert!(page.contains(text), "the page lacks {text}");
    holds("Speed of m.gguf with random weights");
    holds("Warning: a &lt;doubt&gt;.");
    for row in summary::summarize(&bench).rows {
        holds(&format!("<td class=\"n\">{:.3}</td>", row.median));
    }
    holds("llama (&lt;other&gt;.gguf)");
    holds("tg64: i2_s.avx2 75.0%");
    holds("<td>f16.avx2</td><td class=\"n\">7</td>");
    let ratio = summary::summarize(&bench).comparisons[0].ratio;
    holds(&format!("<td class=\"n\">{:.4}</td>", ratio.median));
    assert!(!page.contains("NaN"));
}
