//! Every committed input and every crash ever found, on the stable toolchain without sanitizers; a bounded number of damaged
//! files and requests (`cargo xtask fuzz mutate` has ten thousand of each); the list of targets.

use bitforge_fuzz_targets::{TARGETS, manifest, mutate, seeds};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
}

/// Runs the files of a folder; a failure names the file.
fn replay(folder: &Path, run: fn(&[u8])) -> usize {
    let files = seeds::files(folder).unwrap_or_default();
    for (name, data) in &files {
        let outcome = std::panic::catch_unwind(|| run(data));
        assert!(outcome.is_ok(), "{} breaks a law", folder.join(name).display());
    }
    files.len()
}

#[test]
fn committed_inputs_and_past_crashes_keep_the_laws() {
    for target in TARGETS {
        let inputs = replay(&root().join("fixtures/fuzz").join(target.name), target.run);
        assert!(inputs > 0, "{} has no committed input; run `cargo xtask fuzz cmin {0}`", target.name);
        replay(&root().join("fixtures/fuzz/crashes").join(target.name), target.run);
    }
}

#[test]
fn seeds_keep_the_laws() {
    for target in TARGETS {
        let seeds = seeds::of(target.name, root()).unwrap();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|seed| (target.run)(seed));
        (target.run)(&[]);
    }
}

#[test]
fn every_folder_of_inputs_belongs_to_a_target() {
    let folders = |path: PathBuf| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let mut names = folders(root().join("fixtures/fuzz"));
    names.extend(folders(root().join("fixtures/fuzz/crashes")));
    let known = |name: &String| name == "crashes" || bitforge_fuzz_targets::target(name).is_some();
    assert!(names.iter().all(known), "{names:?}");
}

#[test]
fn the_list_of_targets_is_fresh() {
    assert_eq!(TARGETS.len(), COUNT, "a target was added or taken away: change the number here");
    let names: std::collections::BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), COUNT);
    for (path, text) in manifest::files(root()).unwrap() {
        let stale = format!("{} is out of date; run `cargo xtask fuzz generate`", path.display());
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{stale}");
    }
}

const COUNT: usize = 28;

#[test]
fn damaged_models_are_refused_or_right() {
    let outcome = mutate::ggufs(160, 1);
    assert_eq!(outcome.refused + outcome.accepted, 160);
    assert!(outcome.refused > 20 && outcome.accepted > 5, "{outcome:?}");
}

#[test]
fn damaged_libraries_are_refused_or_right() {
    let outcome = mutate::objects(700, 1, root()).unwrap();
    assert!(outcome.refused > 100 && outcome.accepted > 100, "{outcome:?}");
}

#[test]
fn damaged_requests_are_refused_or_right() {
    let outcome = mutate::requests(200, 1);
    assert!(outcome.refused > 40 && outcome.accepted > 0, "{outcome:?}");
}
