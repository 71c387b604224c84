//! `release notes`: the changelog's section, measurements beside those of the last release, and the library's interface.
//!
//! In: CHANGELOG.md, docs/receipts, the last tag. Out: Markdown. A first release has no baseline, and says so. What could
//! not be checked is called that. Deliberately absent: measuring.

use crate::cargo_tool;
use crate::ctx::Ctx;
use crate::exit::{fail, message_of};
use crate::proc::{self, Command, Stdout};
use crate::receipts::store;
use anyhow::{Context, Result};
use bitforge_receipt_schema::Body;
use bitforge_receipt_schema::bench::Series;
use bitforge_schema::exit::ExitCode;
use std::collections::BTreeMap;
use std::time::Duration;

/// The tool compiles the library and its dependencies twice.
const LIMIT: Duration = Duration::from_secs(1800);

/// Measurements by model, engine and test, in tokens per second.
type Speeds = BTreeMap<(String, String, String), f64>;

pub fn notes(ctx: &Ctx) -> Result<String> {
    let root = ctx.root()?;
    let path = root.join("CHANGELOG.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let git = |args: &[&str]| proc::read(ctx, &Command::new("git").args(args.iter().copied()).dir(root));
    let tags = git(&["tag", "--merged", "HEAD", "--sort=-v:refname", "--list", "v*"])?;
    let here = git(&["tag", "--points-at", "HEAD", "--list", "v*"])?;
    let this = here.lines().next();
    let last = tags.lines().find(|tag| !here.lines().any(|here| here == *tag));
    let heading = this.map_or("Unreleased", |tag| tag.trim_start_matches('v'));
    let Some(changes) = section(&text, heading) else {
        return fail(
            ExitCode::NotFound,
            format!("CHANGELOG.md has no section [{heading}]; add it, and run it again"),
        );
    };
    let mut receipts = BTreeMap::new();
    for name in git(&["ls-files", "docs/receipts/*.json"])?.lines() {
        let path = root.join(name);
        receipts.insert(name.to_string(), store::text(&path)?);
    }
    let mut before = BTreeMap::new();
    if let Some(tag) = last {
        for name in git(&["ls-tree", "-r", "--name-only", tag, "docs/receipts/"])?.lines() {
            before.insert(name.to_string(), git(&["show", &format!("{tag}:{name}")])?);
        }
    }
    let table = table(&speeds(receipts.values()), last.map(|tag| (tag, speeds(before.values()))));
    Ok(format!("{}\n\n## Speed\n\n{table}\n\n## Interface\n\n{}", changes.trim(), interface(ctx, last)?))
}

/// The text below `## [heading]`, up to the next heading of its level.
fn section(changelog: &str, heading: &str) -> Option<String> {
    let wanted = format!("## [{heading}]");
    let lines = changelog.lines().skip_while(|line| !line.starts_with(&wanted)).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.starts_with("## ")).collect();
    (changelog.lines().any(|line| line.starts_with(&wanted))).then(|| lines.join("\n"))
}

/// The medians in what is a receipt of a measurement; other records are passed over.
fn speeds<'a>(texts: impl Iterator<Item = &'a String>) -> Speeds {
    let mut found = Speeds::new();
    for text in texts {
        let Ok(receipt) = store::parse(text) else { continue };
        let Body::Bench(bench) = receipt.body else { continue };
        for series in &bench.series {
            if let Some(speed) = speed(series) {
                found.insert((bench.model.name.clone(), series.engine.clone(), series.test.clone()), speed);
            }
        }
    }
    found
}

fn speed(series: &Series) -> Option<f64> {
    let mut samples = series.samples_ns.clone();
    samples.sort_unstable();
    let median = *samples.get(samples.len() / 2)?;
    (median > 0).then(|| f64::from(series.tokens) / (median as f64 / 1e9))
}

fn table(now: &Speeds, before: Option<(&str, Speeds)>) -> String {
    let title = match &before {
        Some((tag, _)) => {
            format!("Median tokens/s, beside {tag}. Each is of its own machine and day; see the receipts.")
        }
        None => "Median tokens/s. There is no earlier release to compare with.".into(),
    };
    let rows = now.iter().map(|(key, speed)| {
        let (model, engine, test) = key;
        let old = before.as_ref().and_then(|(_, speeds)| speeds.get(key));
        let old = old.map_or("-".into(), |old| format!("{old:.1} ({:.2})", speed / old));
        format!("| {model} | {engine} | {test} | {speed:.1} | {old} |\n")
    });
    format!(
        "{title}\n\n| model | engine | test | now | before (ratio) |\n|---|---|---|---:|---:|\n{}",
        rows.collect::<String>()
    )
}

/// What cargo-semver-checks says of the library against the last tag.
fn interface(ctx: &Ctx, last: Option<&str>) -> Result<String> {
    let Some(tag) = last else {
        return Ok(
            "This is the first release: the library's interface has no baseline to be compared with.".into()
        );
    };
    let tool = match cargo_tool::installed(ctx, cargo_tool::SEMVER_CHECKS) {
        Ok(tool) => tool,
        Err(error) => return Ok(format!("Could not check against {tag}: {}", message_of(&error))),
    };
    let command = Command::new(tool)
        .args(["semver-checks", "--color", "never", "--package", "bitnet-runtime", "--baseline-rev", tag])
        .limit(LIMIT)
        .dir(ctx.root()?);
    let log = ctx.log_file("semver-checks")?;
    Ok(match proc::run(ctx, &command, Stdout::Capture, &log, |_| {}) {
        Err(error) => format!("Could not check against {tag}: {}", message_of(&error)),
        Ok(finished) if finished.success() => {
            format!("cargo-semver-checks: the version allows every change since {tag}.")
        }
        Ok(finished) => match broken(&finished.stdout, &ctx.root()?.display().to_string()) {
            Some(what) => format!(
                "cargo-semver-checks: the version does not allow what changed since {tag}:\n\n```text\n{what}\n```"
            ),
            None => format!("Could not check against {tag}: {}", finished.explain()),
        },
    })
}

/// What the tool found broken, without the machine's paths; nothing where it failed for another reason.
fn broken(stdout: &str, root: &str) -> Option<String> {
    stdout.contains("--- failure ").then(|| stdout.replace(&format!("{root}/"), "").trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text = "# Changelog\n\n## [Unreleased]\n\n### Added\n- b\n\n## [1.0.0] - 2026-01-01\n- a\n";
        assert_eq!(section(text, "Unreleased").unwrap().trim(), "### Added\n- b");
        assert_eq!(section(text, "1.0.0").unwrap(), "- a");
        assert_eq!(section(text, "2.0.0"), None);
    }

    #[test]
    fn a_broken_interface_is_told_from_a_tool_that_failed() {
        let found =
            "--- failure function_missing: gone ---\nFailed in:\n  function a, previously in /x/src/a.rs:3\n";
        assert!(broken(found, "/x").unwrap().ends_with("function a, previously in src/a.rs:3"));
        assert_eq!(broken("", "/x"), None);
    }

    #[test]
    fn speeds_are_beside_those_of_the_last_release_where_it_had_them() {
        let key = |test: &str| ("m.gguf".to_string(), "bitforge".to_string(), test.to_string());
        let now = Speeds::from([(key("pp128"), 200.0), (key("tg64"), 50.0)]);
        let text = table(&now, Some(("v1.0.0", Speeds::from([(key("tg64"), 40.0)]))));
        assert!(text.contains("| m.gguf | bitforge | pp128 | 200.0 | - |\n"), "{text}");
        assert!(text.contains("| m.gguf | bitforge | tg64 | 50.0 | 40.0 (1.25) |\n"), "{text}");
        assert!(table(&now, None).contains("no earlier release"));
    }

    #[test]
    fn the_committed_receipts_have_speeds() {
        let root =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/receipts/cpu-bench-smollm2.json");
        let text = std::fs::read_to_string(root).unwrap();
        let speeds = speeds([text].iter());
        assert!(speeds.keys().any(|(_, engine, _)| engine == "bitforge"), "{speeds:?}");
        assert!(speeds.values().all(|speed| *speed > 1.0));
    }
}
