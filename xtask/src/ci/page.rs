//! `docs/reference/ci.md`: the lanes as a page, made from `ci/lanes.toml`.

use super::lanes::{Lane, Trigger, parse};
use super::run;
use super::shard::Shard;
use crate::exit::message_of;
use std::fmt::Write;

/// What starts a lane, in words.
pub fn started_by(lane: &Lane) -> String {
    let words = lane.triggers.iter().map(|trigger| match trigger {
        Trigger::Push => "push to main".to_string(),
        Trigger::PullRequest => "pull request".to_string(),
        Trigger::Schedule => format!("{} (UTC)", lane.cron.as_deref().unwrap_or_default()),
        Trigger::Manual => "by hand".to_string(),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// The page from the text of a `lanes.toml`; a text that is not right gives its error, which tidy tells as well.
pub fn render(generated: &str, text: &str) -> String {
    let lanes = match parse(text) {
        Ok(lanes) => lanes,
        Err(error) => return format!("{generated}\n# Lanes of CI\n\n{}\n", message_of(&error)),
    };
    let mut page = format!("{generated}{HEAD}");
    for lane in &lanes.lanes {
        let _ = writeln!(
            page,
            "| [{name}](#{name}) | {} | {} | {} min | {} |",
            lane.description,
            started_by(lane),
            lane.limit.as_secs() / 60,
            lane.shards,
            name = lane.name,
        );
    }
    for lane in &lanes.lanes {
        let _ = write!(page, "\n## {}\n\n{}\n\n", lane.name, lane.description);
        for (what, values) in [
            ("Runs on", &lane.runner),
            ("Changes that start it", &lane.paths),
            ("Debian packages", &lane.packages),
            ("Kept by a workflow, besides results and logs", &lane.artifacts),
            ("Carried from run to run", &lane.cache),
        ] {
            if !values.is_empty() {
                let _ = writeln!(page, "- {what}: `{}`", values.join("`, `"));
            }
        }
        page.push_str("\n| step | command | limit |\n|---|---|---:|\n");
        for step in &lane.steps {
            let shard = Shard { index: 1, count: lane.shards };
            let env = step.env.iter().map(|(name, value)| format!("{name}={value} "));
            let command = env.collect::<String>() + &run::words(step, shard).join(" ");
            let minutes = step.limit.as_secs() / 60;
            let _ = writeln!(page, "| {} | `{command}` | {minutes} min |", step.name);
        }
    }
    page
}

const HEAD: &str = "
# Lanes of CI

The pipeline is defined once, in `ci/lanes.toml`, and runs the same on a laptop and in CI:

```sh
cargo xtask ci                      # the lanes
cargo xtask ci pr --plan            # what one would run, its limits and the packages it needs
cargo xtask ci pr                   # run it
cargo xtask ci pr --only clippy     # one step of it
cargo xtask ci pr --shard 2/3       # the second of three parts
cargo xtask ci generate --check     # whether the workflows say what the lanes say
```

Results are in `target/ci/LANE` (with `--shard` in a folder below): `junit.xml`, `results.json` and the whole output of every
step. A step that fails ends the lane: by its exit status, a signal, its limit, or because its program is not there. The
steps after it are reported as not run. The exit code is 7, or 124 for a limit, 10 for a program that is missing, 130
after Ctrl-C. There is no way to let a failure pass; a test plants one into every step of every lane.

Steps run without a shell: a word that needs one is refused by the parser, so no `|| true` and no pipe hides a status. What
needs a shell is a script in `ci/`, and each has `set -euo pipefail`.

The workflows under `.github/workflows` are generated (`cargo xtask tidy` checks that they are fresh). Each checks out,
installs the toolchain and the packages, and runs `cargo xtask ci LANE`. Actions are pinned by commit, the token may only read,
and a newer push to a pull request cancels the older run.

A part of the tests is chosen by a hash of each test's name (`cargo xtask test --only tests --shard 1/2`), so every test is in
exactly one part; documentation tests are in part 1. cargo-nextest has such partitions as well, but a fresh machine would have to
compile it first, and this needs nothing but cargo.

`ci/Containerfile` is a Debian image with what the lanes need, built from Debian's packages and a toolchain through rustup. No
image was built from it yet: the machine it was written on has no container engine that runs.

| lane | what | started by | limit | parts |
|---|---|---|---:|---:|
";
