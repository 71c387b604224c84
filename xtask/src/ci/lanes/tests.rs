//! The committed file is right, and every rule has a text that breaks it.

use super::*;
use crate::exit::{code_of, message_of};

/// A small file that holds; `tests` below change one thing.
const SMALL: &str = r#"version = 1
toolchain = "1.95.0"

[actions]
"actions/cache" = { commit = "0000000000000000000000000000000000000001", version = "v1" }
"actions/checkout" = { commit = "0000000000000000000000000000000000000002", version = "v1" }
"actions/upload-artifact" = { commit = "0000000000000000000000000000000000000003", version = "v1" }

[[lane]]
name = "one"
description = "The first lane."
runner = ["ubuntu-24.04"]
triggers = ["push", "schedule", "manual"]
cron = "17 3 * * *"
paths = ["docs/**", "ci/*"]
packages = ["gcc"]
minutes = 30
shards = 2
artifacts = ["target/receipts"]
cache = ["target/kept"]
steps = [
  { name = "setup", run = "ci/setup.sh", every_shard = true },
  { name = "tests", run = "cargo xtask test --shard {shard}", env = { INSTA_UPDATE = "no" }, minutes = 20 },
]
"#;

fn said(text: &str) -> String {
    let error = parse(text).expect_err(text);
    assert_eq!(code_of(&error), ExitCode::BadInput);
    message_of(&error)
}

#[test]
fn a_lane_is_read() {
    let lanes = parse(SMALL).unwrap();
    assert_eq!(lanes.toolchain, "1.95.0");
    assert_eq!(lanes.actions.len(), 3);
    let lane = lanes.lane("one").unwrap();
    assert_eq!((lane.limit, lane.shards), (Duration::from_secs(1800), 2));
    assert_eq!(lane.triggers, BTreeSet::from([Trigger::Push, Trigger::Schedule, Trigger::Manual]));
    let [setup, tests] = &lane.steps[..] else { panic!("not two steps") };
    assert!(setup.every_shard && !setup.is_sharded() && tests.is_sharded());
    assert_eq!((setup.limit, tests.limit), (lane.limit, Duration::from_secs(1200)));
    assert_eq!(tests.run, ["cargo", "xtask", "test", "--shard", "{shard}"]);
    assert_eq!(message_of(&lanes.lane("two").unwrap_err()), "there is no lane two; lanes are one");
}

#[test]
fn every_rule_names_line_key_and_remedy() {
    for (from, to, line, wanted) in [
        ("version = 1\n", "version = 2\n", 1, "version: only version 1 is known; write `version = 1`"),
        ("\"1.95.0\"", "\"stable\"", 2, "toolchain: \"stable\" is not a version"),
        ("commit = \"00000000", "commit = \"v", 5, "actions.commit: must be the 40 hexadecimal digits"),
        ("\"actions/cache\"", "\"some/one\"", 5, "actions: some/one is not used"),
        ("name = \"one\"", "name = \"One\"", 10, "lane.name: \"One\" is not a name of small letters"),
        ("name = \"one\"", "name = \"generate\"", 10, "lane.name: generate is a command"),
        ("\"The first lane.\"", "\"\"", 11, "lane.description: must be one line"),
        ("[\"ubuntu-24.04\"]", "[\"a b\"]", 12, "lane.runner: must be labels"),
        ("[\"push\", ", "[\"pushed\", ", 13, "unknown variant `pushed`"),
        ("\"push\", \"schedule\"", "\"push\", \"push\"", 13, "lane.triggers: must be some of push"),
        ("cron = \"17 3 * * *\"\n", "", 13, "lane.cron: is missing"),
        ("\"schedule\", ", "", 14, "lane.cron: has no effect"),
        ("17 3 * * *", "daily", 14, "lane.cron: must be five fields"),
        ("\"push\", ", "", 15, "lane.paths: has no effect without push"),
        ("docs/**", "/docs", 15, "lane.paths: \"/docs\" leaves the checkout"),
        ("docs/**", "a/../b", 15, "lane.paths: \"a/../b\" leaves the checkout"),
        ("docs/**", "a: b", 15, "lane.paths: \"a: b\" is not a path"),
        ("\"gcc\"", "\"gcc; rm\"", 16, "lane.packages: \"gcc; rm\" is not the name of a Debian package"),
        ("minutes = 30", "minutes = 0", 17, "lane.minutes: 0 is not in 1..=360"),
        ("shards = 2", "shards = 99", 18, "lane.shards: 99 is not in 1..=16"),
        (" {shard}", "", 18, "lane.shards: no step does a part"),
        ("ci/setup.sh", "ci/setup.sh || true", 22, "lane.steps.run: '|' is for a shell"),
        ("ci/setup.sh", " ", 22, "lane.steps.run: is empty"),
        ("ci/setup.sh", "A=1 ci/setup.sh", 22, "lane.steps.run: starts with a variable"),
        ("ci/setup.sh", "ci/setup.sh {part}", 22, "lane.steps.run: \"{part}\" is no placeholder"),
        (", minutes = 20", ", every_shard = true", 23, "lane.steps.run: {shard} needs"),
        ("name = \"tests\"", "name = \"setup\"", 23, "lane.steps.name: there are two steps setup"),
        ("INSTA_UPDATE =", "insta =", 23, "lane.steps.env: \"insta\" is not a name of capital letters"),
        ("minutes = 20", "minutes = 31", 23, "lane.steps.minutes: 31 is not in 1..=30"),
        ("minutes = 20", "allow_failure = true", 23, "unknown field `allow_failure`"),
        ("[[lane]]", "[lane]", 9, "invalid type: map, expected a sequence"),
        ("minutes = 30", "minutes =", 17, "string values must be quoted"),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let found = said(&SMALL.replacen(from, to, 1));
        assert!(found.starts_with(&format!("ci/lanes.toml: line {line}: ")), "{to}: {found}");
        assert!(found.contains(wanted), "{to}: {found}");
    }
    let twice = format!("{SMALL}{}", &SMALL[SMALL.find("[[lane]]").unwrap()..]);
    assert!(said(&twice).contains("line 26: lane.name: there are two lanes one"), "{}", said(&twice));
    assert!(said("").contains("missing field"));
}
