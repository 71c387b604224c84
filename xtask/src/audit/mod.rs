//! `audit`: where everything that comes from outside comes from, under which licence, and whether it is what was pinned.
//!
//! In: `deny.toml` for a pinned cargo-deny, every requirements*.txt, tools/pins.toml with the lock files of the references.
//! Out: a table and JSON; a check that could not be made says so and is no pass. Deliberately absent: what the code that
//! comes in does.

mod python;
mod references;

use crate::cargo_tool;
use crate::ctx::Ctx;
use crate::exit::message_of;
use crate::proc::{self, Command, Stdout};
use crate::report::{State, table};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

#[derive(clap::Args, Clone, Debug)]
pub struct AuditArgs {
    /// Exit with 0 also where a check could not be made; it is reported all the same
    #[arg(long)]
    pub allow_unchecked: bool,
}

/// How one check came out.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    detail: String,
}

impl Check {
    fn new(name: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Check { name: name.into(), state, detail: detail.into() }
    }
}

/// The checks of cargo-deny that need nothing but what cargo has.
const OFFLINE_CHECKS: [&str; 3] = ["licenses", "bans", "sources"];
/// The database of advisories is one git repository.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

pub fn run(ctx: &Ctx, args: &AuditArgs) -> Result<ExitCode> {
    let root = ctx.root()?;
    let mut checks = deny(ctx)?;
    checks.push(accepted(root)?);
    checks.push(python::check(root)?);
    checks.extend(references::check(ctx)?);
    let rows =
        checks.iter().map(|check| [ctx.out.mark(check.state), check.name.clone(), check.detail.clone()]);
    ctx.out.line(table(["", "what", "found"], rows));
    if ctx.out.is_json() {
        ctx.out.json(&checks)?;
    }
    Ok(exit_code(&checks, args, ctx.offline))
}

fn exit_code(checks: &[Check], args: &AuditArgs, offline: bool) -> ExitCode {
    let any = |state| checks.iter().any(|check| check.state == state);
    if any(State::Fail) {
        ExitCode::CheckFailed
    } else if !any(State::CouldNotCheck) || args.allow_unchecked {
        ExitCode::Ok
    } else if offline {
        ExitCode::Offline
    } else {
        ExitCode::Network
    }
}

/// Licences, bans, sources and, where the database can be had, advisories.
fn deny(ctx: &Ctx) -> Result<Vec<Check>> {
    let binary = match cargo_tool::installed(ctx, cargo_tool::DENY) {
        Ok(binary) => binary,
        Err(error) => {
            let names = OFFLINE_CHECKS.into_iter().chain(["advisories"]);
            return Ok(names
                .map(|name| Check::new(name, State::CouldNotCheck, message_of(&error)))
                .collect());
        }
    };
    let mut checks = Vec::new();
    for name in OFFLINE_CHECKS {
        checks.push(deny_check(ctx, &binary, name)?);
    }
    checks.push(match database(ctx, &binary)? {
        Ok(()) => deny_check(ctx, &binary, "advisories")?,
        Err(why) => Check::new("advisories", State::CouldNotCheck, why),
    });
    Ok(checks)
}

fn deny_check(ctx: &Ctx, binary: &Path, name: &str) -> Result<Check> {
    let words = ["--offline", "--locked", "check", "--hide-inclusion-graph", name];
    let finished = run_deny(ctx, binary, name, &words, None)?;
    if finished.success() {
        return Ok(Check::new(name, State::Ok, "what deny.toml says holds"));
    }
    ctx.out.line(finished.explain());
    Ok(Check::new(name, State::Fail, format!("the whole output: {}", finished.log.display())))
}

/// Brings the database of advisories up to date; why it cannot, where it cannot.
fn database(ctx: &Ctx, binary: &Path) -> Result<Result<(), String>> {
    if ctx.offline {
        return Ok(Err("the network is off, and an old database would hide what is new".into()));
    }
    let finished = run_deny(ctx, binary, "fetch", &["fetch", "db"], Some(FETCH_LIMIT));
    Ok(match finished {
        Ok(finished) if finished.success() => Ok(()),
        Ok(finished) => Err(format!("no database of advisories: see {}", finished.log.display())),
        Err(error) => {
            proc::check_interrupted()?;
            Err(format!("no database of advisories: {}", message_of(&error)))
        }
    })
}

fn run_deny(
    ctx: &Ctx,
    binary: &Path,
    name: &str,
    words: &[&str],
    limit: Option<Duration>,
) -> Result<proc::Finished> {
    let command =
        Command::new(binary).args(["--color", "never"]).args(words.iter().copied()).dir(ctx.root()?);
    let command = if let Some(limit) = limit { command.limit(limit) } else { command };
    let mut progress = ctx.out.progress(format!("audit: {name}"));
    proc::run(ctx, &command, Stdout::Log, &ctx.log_file(&format!("audit-{name}"))?, |line| {
        progress.message(line)
    })
}

/// Every exception of deny.toml says why; accepted advisories say since when.
fn accepted(root: &Path) -> Result<Check> {
    let path = root.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let value: toml::Table = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    let (count, problems) = exceptions(&value);
    let detail = match problems.as_slice() {
        [] => format!("{count} exceptions of deny.toml, each with its reason"),
        problems => problems.join("; "),
    };
    Ok(Check::new("exceptions", if problems.is_empty() { State::Ok } else { State::Fail }, detail))
}

fn exceptions(deny: &toml::Table) -> (usize, Vec<String>) {
    let list = |section: &str, key: &str| {
        let entries = deny.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
        entries.cloned().unwrap_or_default()
    };
    let mut count = 0;
    let mut problems = Vec::new();
    for (section, key, dated) in [("bans", "skip", Dated::No), ("advisories", "ignore", Dated::Yes)] {
        for entry in list(section, key) {
            count += 1;
            let name = ["crate", "id"]
                .iter()
                .find_map(|key| entry.get(key)?.as_str())
                .or(entry.as_str())
                .unwrap_or("?");
            let reason = entry.get("reason").and_then(toml::Value::as_str).unwrap_or_default();
            if reason.is_empty() {
                problems.push(format!("[{section}] {key}: {name} needs a reason"));
            } else if dated == Dated::Yes && !starts_with_date(reason) {
                problems
                    .push(format!("[{section}] {key}: {name} needs a reason that starts with YYYY-MM-DD"));
            }
        }
    }
    (count, problems)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dated {
    Yes,
    No,
}

fn starts_with_date(text: &str) -> bool {
    let shape: String = text.chars().take(10).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_needs_a_reason_and_an_advisory_a_date() {
        let deny = |text: &str| exceptions(&toml::from_str(text).unwrap());
        let good = r#"
            [bans]
            skip = [{ crate = "a@1", reason = "b has not moved" }]
            [advisories]
            ignore = [{ id = "RUSTSEC-2026-0001", reason = "2026-01-02: the function is not called" }]
        "#;
        assert_eq!(deny(good), (2, vec![]));
        let (_, problems) = deny("[bans]\nskip = [{ crate = \"a@1\" }, \"b@2\"]");
        assert_eq!(problems.len(), 2, "{problems:?}");
        let (_, problems) = deny("[advisories]\nignore = [{ id = \"X\", reason = \"not called\" }]");
        assert!(problems[0].contains("starts with YYYY-MM-DD"), "{problems:?}");
    }

    #[test]
    fn what_could_not_be_checked_is_no_pass() {
        let checks = |states: &[State]| -> Vec<Check> {
            states.iter().map(|state| Check::new("a", *state, "")).collect()
        };
        let strict = AuditArgs { allow_unchecked: false };
        let lenient = AuditArgs { allow_unchecked: true };
        let unknown = checks(&[State::Ok, State::CouldNotCheck]);
        assert_eq!(exit_code(&unknown, &strict, false), ExitCode::Network);
        assert_eq!(exit_code(&unknown, &strict, true), ExitCode::Offline);
        assert_eq!(exit_code(&unknown, &lenient, false), ExitCode::Ok);
        let failed = checks(&[State::Fail, State::CouldNotCheck]);
        assert_eq!(exit_code(&failed, &lenient, false), ExitCode::CheckFailed);
        assert_eq!(exit_code(&checks(&[State::Ok]), &strict, false), ExitCode::Ok);
    }

    #[test]
    fn the_committed_exceptions_say_why() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let check = accepted(&root).unwrap();
        assert_eq!(check.state, State::Ok, "{}", check.detail);
    }
}
