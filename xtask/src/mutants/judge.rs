//! What cargo-mutants found, against what is accepted.
//!
//! In: `outcomes.json` files of cargo-mutants, the configuration. Out: one [`Report`] per module. Deliberately absent:
//! running anything.

use super::{Config, Module};
use crate::exit::fail;
use crate::report::State;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One mutant: its name as cargo-mutants prints it, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    pub name: String,
    pub fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Fate {
    CaughtMutant,
    /// The tests did not end: noticed as well.
    Timeout,
    MissedMutant,
    /// It does not compile.
    Unviable,
    /// cargo-mutants itself failed on it.
    Failure,
    /// The tree without a mutant.
    Success,
}

#[derive(Debug, Serialize)]
pub struct Report {
    pub module: String,
    pub state: State,
    /// Those that compile.
    pub mutants: usize,
    pub noticed: usize,
    pub accepted: usize,
    pub unviable: usize,
    /// Noticed, of those that compile.
    pub percent: Option<f64>,
    /// Neither noticed nor accepted.
    pub survivors: Vec<String>,
    /// Accepted, but noticed or gone.
    pub stale: Vec<String>,
}

/// The outcomes of one file.
pub fn read(path: &Path) -> Result<Vec<Outcome>> {
    #[derive(Deserialize)]
    struct File {
        outcomes: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        scenario: serde_json::Value,
        summary: Fate,
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let file: File = match serde_json::from_str(&text) {
        Ok(file) => file,
        Err(error) => {
            let message = format!("{} is not what cargo-mutants writes: {error}", path.display());
            return fail(ExitCode::BadInput, message);
        }
    };
    let mutant = |row: Row| {
        let name = plain_path(row.scenario["Mutant"]["name"].as_str()?);
        Some(Outcome { name, fate: row.summary })
    };
    Ok(file.outcomes.into_iter().filter_map(mutant).collect())
}

/// The outcomes of a file, or of every `outcomes.json` below a folder.
pub fn read_below(path: &Path) -> Result<Vec<Outcome>> {
    if !path.is_dir() {
        return read(path);
    }
    let mut outcomes = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("reading {}", path.display()))? {
        let path = entry.with_context(|| format!("reading {}", path.display()))?.path();
        if path.is_dir() || path.file_name().is_some_and(|name| name == "outcomes.json") {
            outcomes.extend(read_below(&path)?);
        }
    }
    Ok(outcomes)
}

/// The module's outcomes against the configuration; `whole` where every mutant of it was to be run.
pub fn judge(name: &str, module: &Module, config: &Config, outcomes: &[Outcome], whole: Whole) -> Report {
    let of_module = |path: &str| module.files.iter().any(|glob| matches(glob, path));
    // A mutant that was run twice counts once, and what the later run says is what counts.
    let last: BTreeMap<&str, Fate> = outcomes
        .iter()
        .filter(|outcome| of_module(path_of(&outcome.name)))
        .map(|outcome| (outcome.name.as_str(), outcome.fate))
        .collect();
    let count = |fates: &[Fate]| last.values().filter(|fate| fates.contains(fate)).count();
    let noticed = count(&[Fate::CaughtMutant, Fate::Timeout]);
    let missed: Vec<&str> =
        last.iter().filter(|(_, fate)| **fate == Fate::MissedMutant).map(|(name, _)| *name).collect();
    let failures =
        last.iter().filter(|(_, fate)| **fate == Fate::Failure).map(|(name, _)| format!("{name} (not run)"));
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for accepted in config.accepted.iter().filter(|accepted| of_module(path_of(&accepted.mutant))) {
        *left.entry(accepted.mutant.as_str()).or_default() += accepted.count;
    }
    let mut survivors: Vec<String> = Vec::new();
    for name in &missed {
        match left.get_mut(without_position(name).as_str()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => survivors.push(name.to_string()),
        }
    }
    let accepted = missed.len() - survivors.len();
    survivors.extend(failures);
    let stale: BTreeSet<String> = left
        .into_iter()
        .filter(|(_, count)| whole == Whole::Yes && *count > 0)
        .map(|(name, _)| name.into())
        .collect();
    let mutants = noticed + missed.len();
    let percent = (mutants > 0).then(|| 100.0 * noticed as f64 / mutants as f64);
    let state = match percent {
        None => State::CouldNotCheck,
        Some(percent) if percent < config.floor || !survivors.is_empty() || !stale.is_empty() => State::Fail,
        Some(_) => State::Ok,
    };
    Report {
        module: name.into(),
        state,
        mutants,
        noticed,
        accepted,
        unviable: count(&[Fate::Unviable]),
        percent,
        survivors,
        stale: stale.into_iter().collect(),
    }
}

/// Whether every mutant of the module was to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    Yes,
    No,
}

/// A mutant's name with the path as the tree has it: `a/src/../../b/c.rs` of a `#[path]` attribute is `b/c.rs`.
fn plain_path(name: &str) -> String {
    let (path, change) = name.split_once(':').unwrap_or((name, ""));
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{}:{change}", parts.join("/"))
}

fn path_of(name: &str) -> &str {
    name.split(':').next().unwrap_or_default()
}

/// `path:line:column: change` as `path: change`.
fn without_position(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    let path = parts.next().unwrap_or_default();
    match parts.nth(2) {
        Some(change) => format!("{path}:{change}"),
        None => name.into(),
    }
}

/// Globs as the configuration has them: a path, or a folder with `/**`.
fn matches(glob: &str, path: &str) -> bool {
    match glob.strip_suffix("/**") {
        Some(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
        None => glob == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
        floor = 50
        [modules.a]
        package = "p"
        files = ["p/src/a/**", "p/src/b.rs"]
        targets = ["--lib"]
        [[accepted]]
        mutant = "p/src/b.rs: replace + with - in f"
        count = 2
        reason = "both sides are zero"
    "#;

    fn config() -> Config {
        toml::from_str(CONFIG).unwrap()
    }

    fn outcome(name: &str, fate: Fate) -> Outcome {
        Outcome { name: name.into(), fate }
    }

    fn judged(outcomes: &[Outcome], whole: Whole) -> Report {
        let config = config();
        judge("a", &config.modules["a"], &config, outcomes, whole)
    }

    #[test]
    fn accepted_survivors_are_counted_and_others_named() {
        let mut outcomes = vec![
            outcome("p/src/a/x.rs:1:2: replace f -> u8 with 0", Fate::CaughtMutant),
            outcome("p/src/a/x.rs:3:2: replace g with ()", Fate::Timeout),
            outcome("p/src/b.rs:7:9: replace + with - in f", Fate::MissedMutant),
            outcome("p/src/b.rs:8:9: replace + with - in f", Fate::MissedMutant),
            outcome("p/src/a/x.rs:9:2: replace h -> T with Default::default()", Fate::Unviable),
            outcome("p/src/ab.rs:1:1: replace other with ()", Fate::MissedMutant),
        ];
        let report = judged(&outcomes, Whole::Yes);
        assert_eq!((report.mutants, report.noticed, report.accepted, report.unviable), (4, 2, 2, 1));
        assert_eq!((report.state, report.percent), (State::Ok, Some(50.0)));
        // A third one of that name is one too many, and brings the share below the floor.
        outcomes.push(outcome("p/src/b.rs:9:9: replace + with - in f", Fate::MissedMutant));
        let report = judged(&outcomes, Whole::Yes);
        assert_eq!(report.survivors, ["p/src/b.rs:9:9: replace + with - in f"]);
        assert_eq!((report.state, report.percent), (State::Fail, Some(40.0)));
    }

    #[test]
    fn an_accepted_mutant_that_is_noticed_is_stale_where_all_were_run() {
        let outcomes = [outcome("p/src/b.rs:7:9: replace + with - in f", Fate::CaughtMutant)];
        assert_eq!(judged(&outcomes, Whole::Yes).stale, ["p/src/b.rs: replace + with - in f"]);
        assert_eq!(judged(&outcomes, Whole::Yes).state, State::Fail);
        assert_eq!(judged(&outcomes, Whole::No).state, State::Ok);
    }

    #[test]
    fn nothing_run_is_no_pass_and_a_later_run_counts() {
        assert_eq!(judged(&[], Whole::Yes).state, State::CouldNotCheck);
        let name = "p/src/a/x.rs:1:2: replace f -> u8 with 0";
        let outcomes = [outcome(name, Fate::MissedMutant), outcome(name, Fate::CaughtMutant)];
        assert_eq!(judged(&outcomes, Whole::No).noticed, 1);
    }

    #[test]
    fn files_of_cargo_mutants_are_read_and_others_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x/outcomes.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = r#"{"outcomes": [{"scenario": "Baseline", "summary": "Success"},
            {"scenario": {"Mutant": {"name": "t/x/src/../../../a.rs:1:2: replace f with ()"}}, "summary": "MissedMutant"}]}"#;
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            read_below(dir.path()).unwrap(),
            [outcome("a.rs:1:2: replace f with ()", Fate::MissedMutant)]
        );
        std::fs::write(&path, "{}").unwrap();
        let error = read_below(dir.path()).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), ExitCode::BadInput);
    }

    #[test]
    fn the_committed_configuration_reads_and_gives_reasons() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(super::super::CONFIG);
        let config = Config::read(&path).unwrap();
        assert_eq!(config.floor, 85.0);
        assert_eq!(
            config.modules.keys().collect::<Vec<_>>(),
            ["compare", "gguf", "quant", "receipts", "sampling"]
        );
        for accepted in &config.accepted {
            assert!(accepted.reason.len() > 20, "{}: say why", accepted.mutant);
            let known = config.modules.values().flat_map(|module| &module.files);
            assert!(
                known.into_iter().any(|glob| matches(glob, path_of(&accepted.mutant))),
                "{}",
                accepted.mutant
            );
        }
    }
}
