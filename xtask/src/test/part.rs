//! A part of the tests, for machines that share them: those whose names a [`Shard`] holds.
//!
//! In: the names that the test binaries list. Out: the same counts as of a whole run, and a failure where fewer tests ran
//! than were chosen. Documentation tests are in part 1 alone.

use super::{Checked, Tally, cargo, cargo_test, run_cargo};
use crate::ci::shard::Shard;
use crate::ctx::Ctx;
use anyhow::Result;
use bitforge_schema::exit::ExitCode;

/// What `cargo test` runs without documentation tests.
const KINDS: [&str; 3] = ["--lib", "--bins", "--tests"];

pub fn tests(ctx: &Ctx, shard: Shard) -> Result<Checked> {
    let mut names: Vec<String> = Vec::new();
    let mut list = vec!["test", "--workspace", "--locked"];
    list.extend(KINDS);
    list.extend(["--", "--list", "--format", "terse"]);
    run_cargo(ctx, "tests-list", &cargo(ctx, &list)?, |line| names.extend(listed(line)))?
        .must_succeed(ExitCode::CheckFailed)?;
    names.sort();
    names.dedup();
    let all = names.len();
    names.retain(|name| shard.holds(name));

    let mut tally = Tally::default();
    let mut args = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    args.extend(KINDS);
    args.extend(["--", "--exact"]);
    args.extend(names.iter().map(String::as_str));
    let mut checked = match names.is_empty() {
        true => Checked { detail: String::new(), problem: None },
        false => cargo_test(ctx, &args, &mut tally)?,
    };
    if checked.problem.is_none() && tally.passed < names.len() {
        let problem = format!("{} tests were chosen and only {} ran", names.len(), tally.passed);
        checked.problem = Some(problem);
    }
    if shard.index == 1 && checked.problem.is_none() {
        let args = ["test", "--workspace", "--locked", "--no-fail-fast", "--doc"];
        checked = cargo_test(ctx, &args, &mut tally)?;
    }
    checked.detail = format!("part {shard} of {all} names: {}", tally.summary());
    Ok(checked)
}

/// The name in a line of a test binary's list.
fn listed(line: &str) -> Option<String> {
    line.strip_suffix(": test").map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_lists() {
        assert_eq!(listed("module::tests::a_name: test").as_deref(), Some("module::tests::a_name"));
        assert_eq!(listed("module::bench: benchmark"), None);
        assert_eq!(listed("     Running unittests src/lib.rs (target/debug/deps/xtask-1)"), None);
    }
}
