//! `ci generate [--check]`: a workflow of GitHub for every lane, under `.github/workflows`.
//!
//! In: the lanes. Out: YAML that checks out, installs the toolchain and calls `cargo xtask ci LANE`; everything else is
//! in the lane. Actions are pinned by commit, the token may read the repository and nothing else, every script stops at its
//! first error, and no failure is ignored. Deliberately absent: a YAML library; the parser of the lanes lets only words
//! through that need no quotes, or are quoted here.

use super::lanes::{Lane, Lanes, Trigger};
use crate::cli::Check;
use crate::ctx::Ctx;
use crate::exit::fail;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Below the root.
pub const FOLDER: &str = ".github/workflows";

pub fn run(ctx: &Ctx, lanes: &Lanes, args: &Check) -> Result<ExitCode> {
    let root = ctx.root()?;
    let stale = stale(root, lanes)?;
    if args.check {
        if !stale.is_empty() {
            let message = format!("out of date: {}; run `cargo xtask ci generate`", stale.join(", "));
            return fail(ExitCode::CheckFailed, message);
        }
    } else {
        let made = files(lanes);
        for path in &stale {
            let file = root.join(path);
            match made.get(path) {
                None => {
                    std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
                    ctx.out.line(format!("removed {path}"));
                }
                Some(text) => {
                    std::fs::create_dir_all(root.join(FOLDER))
                        .with_context(|| format!("creating {FOLDER}"))?;
                    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
                    ctx.out.line(format!("wrote {path}"));
                }
            }
        }
    }
    if ctx.out.is_json() {
        ctx.out.json(&serde_json::json!({ "folder": FOLDER, "stale": stale }))?;
    }
    Ok(ExitCode::Ok)
}

/// Workflows under `root` that differ from what the lanes say, are missing or are too many.
pub fn stale(root: &Path, lanes: &Lanes) -> Result<Vec<String>> {
    let made = files(lanes);
    let mut there = BTreeMap::new();
    let folder = root.join(FOLDER);
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            there.insert(format!("{FOLDER}/{name}"), text);
        }
    }
    let fresh = |path: &str| made.get(path).map(String::as_bytes) == there.get(path).map(Vec::as_slice);
    let too_many = there.keys().filter(|path| !made.contains_key(*path));
    Ok(made.keys().chain(too_many).filter(|path| !fresh(path)).cloned().collect())
}

/// Path and text of every workflow.
pub fn files(lanes: &Lanes) -> BTreeMap<String, String> {
    lanes.lanes.iter().map(|lane| (format!("{FOLDER}/{}.yml", lane.name), render(lanes, lane))).collect()
}

fn render(lanes: &Lanes, lane: &Lane) -> String {
    let Lane { name, description, .. } = lane;
    let mut text = format!(
        "# Generated from ci/lanes.toml by `cargo xtask ci generate`. Do not edit.\n# {description}\nname: {name}\n\non:\n"
    );
    for trigger in &lane.triggers {
        match trigger {
            Trigger::Push => text.push_str("  push:\n    branches: [main]\n"),
            Trigger::PullRequest => text.push_str("  pull_request:\n"),
            Trigger::Schedule => {
                let cron = lane.cron.as_deref().unwrap_or_default();
                let _ = writeln!(text, "  schedule:\n    - cron: \"{cron}\"");
            }
            Trigger::Manual => text.push_str("  workflow_dispatch:\n"),
        }
        if matches!(trigger, Trigger::Push | Trigger::PullRequest) && !lane.paths.is_empty() {
            text.push_str("    paths:\n");
            for path in &lane.paths {
                let _ = writeln!(text, "      - \"{path}\"");
            }
        }
    }
    let minutes = lane.limit.as_secs() / 60;
    // A change that is superseded need not be finished; a run that was asked for or is timed is.
    let _ = write!(
        text,
        "\npermissions:\n  contents: read\n\nconcurrency:\n  group: {name}-${{{{ github.ref }}}}\n  \
         cancel-in-progress: ${{{{ github.event_name == 'pull_request' }}}}\n\n\
         env:\n  RUSTUP_TOOLCHAIN: \"{toolchain}\"\n  CARGO_TERM_COLOR: never\n  INSTA_UPDATE: \"no\"\n\n\
         defaults:\n  run:\n    shell: bash\n\n\
         jobs:\n  {name}:\n    runs-on: [{runner}]\n    timeout-minutes: {timeout}\n",
        toolchain = lanes.toolchain,
        runner = lane.runner.join(", "),
        // Time to install what the steps need, on top.
        timeout = minutes + 15,
    );
    let sharded = lane.shards > 1;
    if sharded {
        let parts: Vec<String> = (1..=lane.shards).map(|index| index.to_string()).collect();
        let parts = parts.join(", ");
        let _ =
            write!(text, "    strategy:\n      fail-fast: false\n      matrix:\n        shard: [{parts}]\n");
    }
    text.push_str("    steps:\n");
    let _ = write!(
        text,
        "      - uses: {}\n        with:\n          persist-credentials: false\n",
        action(lanes, "actions/checkout")
    );
    let _ = write!(
        text,
        "      - uses: {}\n        with:\n          path: |\n            ~/.cargo/registry\n            ~/.cache/bitforge/cargo-tools\n            ~/.cache/bitforge/tools\n",
        action(lanes, "actions/cache")
    );
    for path in &lane.cache {
        let _ = writeln!(text, "            {path}");
    }
    // What a lane carries on is saved anew by every run; restored is the newest.
    let run = if lane.cache.is_empty() { "" } else { "-${{ github.run_id }}" };
    let key = format!("{name}-${{{{ hashFiles('Cargo.lock', 'ci/lanes.toml') }}}}");
    let _ = writeln!(text, "          key: {key}{run}\n          restore-keys: {name}-");
    text.push_str("      - name: toolchain and packages\n        run: |\n          set -euo pipefail\n");
    text.push_str(
        "          rustup toolchain install \"$RUSTUP_TOOLCHAIN\" --profile minimal --component clippy --component rustfmt\n",
    );
    if !lane.packages.is_empty() {
        let _ = writeln!(
            text,
            "          sudo apt-get update -q\n          sudo apt-get install -qy --no-install-recommends {}",
            lane.packages.join(" ")
        );
    }
    let shard =
        if sharded { format!(" --shard ${{{{ matrix.shard }}}}/{}", lane.shards) } else { String::new() };
    let _ = write!(
        text,
        "      - name: cargo xtask ci {name}\n        run: |\n          set -euo pipefail\n          cargo xtask ci {name}{shard}\n"
    );
    let suffix = if sharded { "-${{ matrix.shard }}" } else { "" };
    let _ = write!(
        text,
        "      - uses: {}\n        if: always()\n        with:\n          name: {name}{suffix}\n          path: |\n            target/ci/{name}\n",
        action(lanes, "actions/upload-artifact")
    );
    for path in &lane.artifacts {
        let _ = writeln!(text, "            {path}");
    }
    text.push_str("          if-no-files-found: error\n");
    text
}

fn action(lanes: &Lanes, name: &str) -> String {
    // The parser has seen to it that all of them are there.
    lanes
        .actions
        .get(name)
        .map_or_else(String::new, |action| format!("{name}@{} # {}", action.commit, action.version))
}
