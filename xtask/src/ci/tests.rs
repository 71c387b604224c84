//! A failure planted into every step of every committed lane turns the lane red; every command that a lane names exists.

use super::lanes::{SHARD, parse};
use super::run::{LaneResult, StepState};
use super::*;
use crate::cli::Cli;
use crate::report::Reporter;
use bitforge_schema::env::Env;
use clap::Parser;
use std::collections::BTreeMap;
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn committed() -> Lanes {
    parse(TEXT).unwrap()
}

fn ctx(root: &Path) -> Ctx {
    Ctx::new(Some(root.into()), Env::default(), Reporter::for_tests())
}

/// Runs a lane whose commands were replaced, in a folder of its own.
fn run(lane: &Lane, only: &[String], shard: Shard) -> (LaneResult, String) {
    let dir = tempfile::tempdir().unwrap();
    let result = run::steps(&ctx(dir.path()), lane, only, shard, &dir.path().join("out")).unwrap();
    let read = |name| std::fs::read_to_string(dir.path().join("out").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("results.json")).unwrap();
    assert_eq!(json["ok"], result.ok);
    assert_eq!(json["steps"].as_array().unwrap().len(), result.steps.len());
    (result, read("junit.xml"))
}

fn commands(lane: &Lane, command: impl Fn(usize) -> Vec<String>) -> Lane {
    let mut lane = lane.clone();
    for (index, step) in lane.steps.iter_mut().enumerate() {
        step.run = command(index);
        // Not to be taken for a step that was split.
        step.every_shard = false;
    }
    lane
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

#[test]
fn a_failure_in_any_step_of_any_lane_turns_it_red() {
    for lane in committed().lanes {
        let (result, junit) = run(&commands(&lane, |_| words(&["true"])), &[], Shard::WHOLE);
        assert!(result.ok && result.code() == ExitCode::Ok, "{}", lane.name);
        assert_eq!(junit.matches("<testcase ").count(), lane.steps.len());
        for planted in 0..lane.steps.len() {
            let broken = commands(&lane, |index| words(&[if index == planted { "false" } else { "true" }]));
            let (result, junit) = run(&broken, &[], Shard::WHOLE);
            let place = format!("{} {}", lane.name, lane.steps[planted].name);
            assert_eq!(result.code(), ExitCode::CheckFailed, "{place}");
            assert!(!result.ok, "{place}");
            for (index, step) in result.steps.iter().enumerate() {
                let wanted = match index.cmp(&planted) {
                    std::cmp::Ordering::Less => StepState::Passed,
                    std::cmp::Ordering::Equal => StepState::Failed,
                    std::cmp::Ordering::Greater => StepState::NotRun,
                };
                assert_eq!(step.state, wanted, "{place}: {}", step.step);
            }
            assert_eq!(
                junit.matches("<failure message=\"`false` failed (exit status 1)").count(),
                1,
                "{place}"
            );
            assert_eq!(junit.matches("<skipped ").count(), lane.steps.len() - planted - 1, "{place}");
        }
    }
}

/// A lane of one planted step between two good ones.
fn planted(run: &[&str], limit: Duration) -> Lane {
    let lane = committed().lanes.swap_remove(0);
    let mut lane = commands(&lane, |index| words(if index == 1 { run } else { &["true"] }));
    lane.steps.truncate(3);
    lane.steps[1].limit = limit;
    lane
}

#[test]
fn every_kind_of_failure_is_one() {
    let minute = Duration::from_secs(60);
    for (command, limit, code, said) in [
        (&["sh", "-c", "exit 42"][..], minute, ExitCode::CheckFailed, "exit status 42"),
        (&["sh", "-c", "kill -9 $$"], minute, ExitCode::CheckFailed, "ended by a signal"),
        (&["sleep", "60"], Duration::from_millis(50), ExitCode::Timeout, "ran past its limit"),
        (&["no-such-program-here"], minute, ExitCode::Toolchain, "was not found"),
        (&["no/such/script.sh"], minute, ExitCode::Toolchain, "was not found"),
        (&["sh", "-c", "printf 'a\\377\\376\\001<b>'; exit 1"], minute, ExitCode::CheckFailed, "&lt;b&gt;"),
    ] {
        let (result, junit) = run(&planted(command, limit), &[], Shard::WHOLE);
        assert_eq!(result.code(), code, "{command:?}");
        let states: Vec<StepState> = result.steps.iter().map(|step| step.state).collect();
        assert_eq!(states, [StepState::Passed, StepState::Failed, StepState::NotRun], "{command:?}");
        assert!(junit.contains(said), "{command:?}: {junit}");
        assert!(!junit.contains(['\u{1}', '\0']), "{junit:?}");
    }
}

#[test]
fn output_that_is_not_utf8_is_no_failure_of_its_own() {
    let (result, _) =
        run(&planted(&["sh", "-c", "printf '\\377\\376'"], Duration::from_secs(60)), &[], Shard::WHOLE);
    assert!(result.ok);
}

#[test]
fn a_lane_that_has_used_its_time_up_is_red() {
    let mut lane = planted(&["true"], Duration::from_secs(60));
    lane.limit = Duration::ZERO;
    let (result, junit) = run(&lane, &[], Shard::WHOLE);
    assert_eq!((result.code(), result.count(StepState::NotRun)), (ExitCode::Timeout, 2));
    assert!(junit.contains("ran past its limit of 0 s"), "{junit}");
}

#[test]
fn chosen_steps_run_alone_and_the_others_are_not_called_passed() {
    let lane = planted(&["false"], Duration::from_secs(60));
    let (first, third) = (lane.steps[0].name.clone(), lane.steps[2].name.clone());
    let (result, _) = run(&lane, &[first, third], Shard::WHOLE);
    assert!(result.ok);
    assert_eq!((result.count(StepState::Passed), result.count(StepState::NotRun)), (2, 1));
    let chosen = [lane.steps[1].name.clone()];
    assert_eq!(run(&lane, &chosen, Shard::WHOLE).0.code(), ExitCode::CheckFailed);
}

#[test]
fn the_parts_of_a_lane_run_every_step_and_each_fails_alone() {
    let pr = committed().lane("pr").unwrap().clone();
    let count = pr.shards;
    for step in &pr.steps {
        let left_out = |index| run::left_out(step, &[], Shard { index, count }).is_some();
        assert!(!left_out(1), "{}", step.name);
        let everywhere = step.every_shard || step.is_sharded();
        assert_eq!(left_out(count), !everywhere, "{}", step.name);
    }
    let mut lane = commands(&pr, |_| words(&["true"]));
    let tests = lane.steps.iter_mut().find(|step| step.name == "tests").unwrap();
    tests.run = words(&["sh", "-c", "test $0 != 2/2", SHARD]);
    assert!(run(&lane, &[], Shard { index: 1, count }).0.ok);
    let (result, _) = run(&lane, &[], Shard { index: 2, count });
    assert_eq!((result.code(), result.count(StepState::Failed)), (ExitCode::CheckFailed, 1));
}

/// Every command of every step: `cargo xtask` parses with its own command line, scripts are there and may be run, other
/// programs are few.
#[test]
fn every_command_of_a_lane_exists() {
    let member = |name: &str| {
        let manifests = ["runtime", "runtime/cli", "runtime/server", "xtask"].map(|dir| root().join(dir));
        manifests.iter().any(|dir| {
            let text = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
            text.contains(&format!("name = \"{name}\"\n"))
        })
    };
    for lane in committed().lanes {
        for step in &lane.steps {
            let words = run::words(step, Shard { index: 1, count: lane.shards });
            let place = format!("{} {}: {}", lane.name, step.name, words.join(" "));
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words[..] {
                ["cargo", "xtask", ..] => {
                    if let Err(error) = Cli::try_parse_from(&words[1..]) {
                        panic!("{place}: {error}");
                    }
                }
                ["cargo", "build" | "doc" | "fetch", ref rest @ ..] => {
                    let packages = rest.windows(2).filter(|pair| pair[0] == "-p").map(|pair| pair[1]);
                    assert!(packages.clone().all(member), "{place}");
                }
                ["rustup", "target", "add", _] => {}
                ["python3", script, ..] | [script, ..] => {
                    let path = root().join(script);
                    assert!(script.starts_with("ci/") && path.is_file(), "{place}");
                    let mode =
                        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
                    assert!(mode & 0o111 != 0, "{place}: not executable");
                }
                [] => panic!("{place}"),
            }
        }
    }
}

/// No script that CI calls lets a failing pipe pass, and none is left without a lane.
#[test]
fn every_script_is_strict_and_has_a_lane() {
    let lanes = committed();
    for entry in std::fs::read_dir(root().join("ci")).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("ci/{}", path.file_name().unwrap().to_str().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        if name.ends_with(".sh") {
            assert!(text.contains("\nset -euo pipefail\n"), "{name}");
        }
        if name.ends_with(".sh") || name.ends_with(".py") {
            let steps = lanes.lanes.iter().flat_map(|lane| &lane.steps);
            assert!(steps.into_iter().any(|step| step.run.contains(&name)), "{name} has no lane");
        }
    }
}

#[test]
fn workflows_are_pinned_least_privileged_and_hide_nothing() {
    let lanes = committed();
    let files = workflow::files(&lanes);
    assert_eq!(files.len(), lanes.lanes.len());
    for (path, text) in &files {
        for line in text.lines().filter(|line| line.contains("uses:")) {
            let commit = line.split(['@', ' ']).find(|word| word.len() == 40).unwrap_or_default();
            assert!(
                commit.bytes().all(|byte| byte.is_ascii_hexdigit()) && !commit.is_empty(),
                "{path}: {line}"
            );
        }
        for wanted in
            ["permissions:\n  contents: read\n", "concurrency:\n", "timeout-minutes: ", "if: always()\n"]
        {
            assert_eq!(text.matches(wanted).count(), 1, "{path}: {wanted}");
        }
        assert_eq!(text.matches("run: |").count(), text.matches("set -euo pipefail").count(), "{path}");
        for hidden in ["continue-on-error", "|| true", "pull_request_target", "secrets.", ": write", "\t"] {
            assert!(!text.contains(hidden), "{path}: {hidden}");
        }
    }
    insta::assert_snapshot!(files[".github/workflows/pr.yml"]);
}

#[test]
fn stale_and_left_over_workflows_are_named_and_refreshed() {
    let dir = tempfile::tempdir().unwrap();
    let (ctx, lanes) = (ctx(dir.path()), committed());
    let check = Check { check: true };
    let error = workflow::run(&ctx, &lanes, &check).unwrap_err();
    assert!(error.to_string().ends_with("run `cargo xtask ci generate`"), "{error}");
    workflow::run(&ctx, &lanes, &Check { check: false }).unwrap();
    assert_eq!(workflow::run(&ctx, &lanes, &check).unwrap(), ExitCode::Ok);
    let left = dir.path().join(".github/workflows/old.yml");
    std::fs::write(&left, "").unwrap();
    std::fs::write(left.with_file_name("pr.yml"), "edited").unwrap();
    let names = workflow::stale(dir.path(), &lanes).unwrap();
    assert_eq!(names, [".github/workflows/pr.yml", ".github/workflows/old.yml"]);
    workflow::run(&ctx, &lanes, &Check { check: false }).unwrap();
    assert!(!left.exists());
}

#[test]
fn packages_of_lanes_are_in_the_container() {
    let text = std::fs::read_to_string(root().join("ci/Containerfile")).unwrap();
    let there: Vec<&str> = text.split_whitespace().collect();
    let Lanes { lanes, toolchain, .. } = committed();
    assert!(text.contains(&format!("rustup default {toolchain}\n")));
    let missing: BTreeMap<&str, Vec<&String>> = lanes
        .iter()
        .filter(|lane| lane.runner.contains(&"ubuntu-24.04".to_string()))
        .map(|lane| {
            let missing = lane.packages.iter().filter(|package| !there.contains(&package.as_str()));
            (lane.name.as_str(), missing.collect())
        })
        .collect();
    assert!(missing.values().all(Vec::is_empty), "{missing:?}");
}
