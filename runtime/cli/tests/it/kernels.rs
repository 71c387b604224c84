//! `bitnet kernels --lab` and `--tune`: what was measured is right, and a profile is loaded by the binary that wrote it.

use crate::support::*;
use serde_json::Value;
use std::path::Path;

fn with_cache(cache: &Path, args: &[&str]) -> Ran {
    finish(bitnet(args).env("BITNET_CACHE_DIR", cache).output().expect("the binary starts"))
}

#[test]
fn the_lab_checks_every_kernel_before_it_times_it() {
    let lab = ["kernels", "--lab", "q4_1", "--columns", "96", "--rows", "64", "--count", "1,3,17"];
    let shown = json(&[&lab[..], &["--threads", "2", "--rounds", "2"]].concat());
    let versions = shown["versions"].as_array().expect("an array");
    assert!(versions.len() >= 3 && versions.iter().all(|version| version["exact"] == true), "{shown}");
    for rows in [1, 3, 17] {
        let of_rows: Vec<&Value> =
            versions.iter().filter(|version| version["activation_rows"] == rows).collect();
        assert_eq!((&of_rows[0]["number"], &of_rows[0]["kernel"]), (&1.into(), &"q4_1.q8_1.scalar".into()));
        assert!(of_rows.iter().any(|version| version["verdict"] == "best"), "{shown}");
        assert!(
            of_rows.iter().all(|version| version["samples_ns"].as_array().is_some_and(|all| all.len() == 2))
        );
    }
    let ran = run(&["kernels", "--lab", "q4_1", "--columns", "100"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("100 columns are no whole blocks of Q4_1"), "{}", ran.stderr);
}

#[test]
fn a_profile_is_loaded_by_the_binary_that_wrote_it() {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let tune = ["kernels", "--tune", MODEL, "--rows", "64", "--threads", "1", "--rounds", "3", "--json"];
    let ran = with_cache(cache.path(), &tune);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let tuned = ran.json();
    let measured = tuned["versions"].as_array().expect("an array");
    assert!(measured.iter().all(|version| version["exact"] == true), "{tuned}");
    let reason = |cache: &Path| {
        let ran = with_cache(cache, &["kernels", "--json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.json()["selection"]["reason"].as_str().expect("a reason").to_owned()
    };
    let changed = tuned["changed"].as_array().expect("an array").len();
    assert!(reason(cache.path()).ends_with(&format!("; {changed} products as tuned on this machine")));

    let path = tuned["profile"].as_str().expect("a path");
    let text = std::fs::read_to_string(path).expect("the profile");
    let mut profile: Value = serde_json::from_str(&text).expect("JSON");
    profile["binary_sha256"] = "of another binary".into();
    std::fs::write(path, profile.to_string()).expect("writable");
    assert!(
        !reason(cache.path()).contains("as tuned"),
        "another binary's profile says nothing about this one"
    );
    std::fs::write(path, "{").expect("writable");
    let ran = with_cache(cache.path(), &["kernels"]);
    assert!(ran.code != 0 && ran.stderr.contains("not a kernel profile"), "{}", ran.stderr);
}
