//! What must hold in a `lanes.toml` beyond its form: from the file as written to [`Lanes`], or the first problem.
//!
//! Words that end up in a workflow have a small alphabet, so that nothing in the file can change a workflow's structure.

use super::*;

/// Where, as an offset in bytes, and what to do.
pub(super) struct Problem {
    pub offset: usize,
    pub message: String,
}

type Checked<T> = std::result::Result<T, Problem>;

fn problem<T, V>(place: &Spanned<V>, message: impl Into<String>) -> Checked<T> {
    Err(Problem { offset: place.span().start, message: message.into() })
}

/// Of a lane, in minutes: what hosted machines allow.
const LONGEST: i64 = 360;
const MOST_SHARDS: i64 = 16;
/// Names that are commands of `cargo xtask ci`.
const RESERVED: &[&str] = &["generate", "help"];
/// Without one of these there is no workflow.
const ACTIONS: &[&str] = &["actions/cache", "actions/checkout", "actions/upload-artifact"];

pub(super) fn lanes(file: File) -> Checked<Lanes> {
    if *file.version.get_ref() != 1 {
        return problem(&file.version, "version: only version 1 is known; write `version = 1`");
    }
    word(&file.toolchain, "toolchain", "a version such as 1.95.0", |c| c.is_ascii_digit() || c == '.')?;
    let mut actions = BTreeMap::new();
    let mut last = &file.toolchain;
    for (name, action) in &file.actions {
        last = name;
        if !ACTIONS.contains(&name.get_ref().as_str()) {
            let known = ACTIONS.join(", ");
            return problem(name, format!("actions: {} is not used; keep {known} alone", name.get_ref()));
        }
        let commit = action.commit.get_ref();
        if commit.len() != 40 || !commit.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let message =
                "actions.commit: must be the 40 hexadecimal digits of a commit, not a tag or a branch";
            return problem(&action.commit, message);
        }
        word(&action.version, "actions.version", "a release such as v5.0.0", |c| {
            c.is_ascii_alphanumeric() || c == '.'
        })?;
        let action = Action { commit: commit.clone(), version: action.version.get_ref().clone() };
        actions.insert(name.get_ref().clone(), action);
    }
    if let Some(missing) = ACTIONS.iter().find(|name| !actions.contains_key(**name)) {
        return problem(last, format!("actions: {missing} is missing; add it with its commit"));
    }
    let mut lanes: Vec<Lane> = Vec::new();
    for raw in file.lane {
        let name = raw.name.clone();
        let lane = lane(raw)?;
        if lanes.iter().any(|other| other.name == lane.name) {
            return problem(&name, format!("lane.name: there are two lanes {}; rename one", lane.name));
        }
        lanes.push(lane);
    }
    if lanes.is_empty() {
        return problem(&file.version, "lane: there is none; add a [[lane]]");
    }
    Ok(Lanes { toolchain: file.toolchain.into_inner(), actions, lanes })
}

fn lane(raw: RawLane) -> Checked<Lane> {
    name(&raw.name, "lane.name")?;
    if RESERVED.contains(&raw.name.get_ref().as_str()) {
        return problem(
            &raw.name,
            format!("lane.name: {} is a command; rename the lane", raw.name.get_ref()),
        );
    }
    let description = raw.description.get_ref();
    if description.trim().is_empty() || description.contains(|c: char| c.is_control() || c == '|') {
        return problem(&raw.description, "lane.description: must be one line of text without `|`");
    }
    let label = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if raw.runner.get_ref().is_empty()
        || !raw.runner.get_ref().iter().all(|text| !text.is_empty() && text.chars().all(label))
    {
        return problem(&raw.runner, "lane.runner: must be labels of a machine, such as [\"ubuntu-24.04\"]");
    }
    let triggers: BTreeSet<Trigger> = raw.triggers.get_ref().iter().copied().collect();
    if triggers.is_empty() || triggers.len() != raw.triggers.get_ref().len() {
        return problem(
            &raw.triggers,
            "lane.triggers: must be some of push, pull_request, schedule, manual, each once",
        );
    }
    match (&raw.cron, triggers.contains(&Trigger::Schedule)) {
        (None, true) => {
            return problem(&raw.triggers, "lane.cron: is missing; say when `schedule` starts the lane");
        }
        (Some(cron), false) => {
            return problem(cron, "lane.cron: has no effect; add \"schedule\" to triggers");
        }
        (Some(cron), true) => {
            let fields: Vec<&str> = cron.get_ref().split(' ').collect();
            let field = |text: &&str| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b"*/,-".contains(&b))
            };
            if fields.len() != 5 || !fields.iter().all(field) {
                return problem(cron, "lane.cron: must be five fields of numbers, such as \"17 3 * * *\"");
            }
        }
        (None, false) => {}
    }
    let by_change = triggers.contains(&Trigger::Push) || triggers.contains(&Trigger::PullRequest);
    if let (Some(first), false) = (raw.paths.first(), by_change) {
        return problem(first, "lane.paths: has no effect without push or pull_request; remove it");
    }
    let minutes = number(&raw.minutes, "lane.minutes", LONGEST)?;
    let shards = raw.shards.as_ref().map_or(Ok(1), |shards| number(shards, "lane.shards", MOST_SHARDS))?;
    for package in &raw.packages {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.:".contains(c);
        word(package, "lane.packages", "the name of a Debian package", allowed)?;
    }
    let mut steps: Vec<Step> = Vec::new();
    for raw_step in &raw.steps {
        let step = step(raw_step, minutes, shards)?;
        if steps.iter().any(|other| other.name == step.name) {
            let message = format!("lane.steps.name: there are two steps {}; rename one", step.name);
            return problem(&raw_step.name, message);
        }
        steps.push(step);
    }
    if steps.is_empty() {
        return problem(&raw.name, "lane.steps: there is none; add { name = .., run = .. }");
    }
    if let (Some(shards), false) = (&raw.shards, steps.iter().any(Step::is_sharded)) {
        let message = format!("lane.shards: no step does a part; put {SHARD} into one, or remove shards");
        return problem(shards, message);
    }
    Ok(Lane {
        paths: paths(raw.paths, "lane.paths")?,
        artifacts: paths(raw.artifacts, "lane.artifacts")?,
        cache: paths(raw.cache, "lane.cache")?,
        packages: raw.packages.into_iter().map(Spanned::into_inner).collect(),
        name: raw.name.into_inner(),
        description: raw.description.into_inner(),
        runner: raw.runner.into_inner(),
        triggers,
        cron: raw.cron.map(Spanned::into_inner),
        limit: Duration::from_secs(minutes * 60),
        shards: shards as u32,
        steps,
    })
}

fn step(raw: &RawStep, lane_minutes: u64, shards: u64) -> Checked<Step> {
    name(&raw.name, "lane.steps.name")?;
    let text = raw.run.get_ref();
    if let Some(found) = text.chars().find(|c| "'\"`$&;|<>*?#~!()[]\\".contains(*c) || c.is_control()) {
        return problem(
            &raw.run,
            format!(
                "lane.steps.run: {found:?} is for a shell, and steps run without one; use a script in ci/"
            ),
        );
    }
    let run: Vec<String> = text.split(' ').filter(|word| !word.is_empty()).map(str::to_string).collect();
    if run.is_empty() {
        return problem(&raw.run, "lane.steps.run: is empty; write a program and its arguments");
    }
    if run[0].contains('=') {
        return problem(&raw.run, "lane.steps.run: starts with a variable; put it into env");
    }
    if let Some(word) = run.iter().find(|word| word.replace(SHARD, "").contains(['{', '}'])) {
        return problem(&raw.run, format!("lane.steps.run: {word:?} is no placeholder; only {SHARD} is"));
    }
    let mut env = BTreeMap::new();
    for (key, value) in &raw.env {
        let letter = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        word(key, "lane.steps.env", "a name of capital letters, digits and _", letter)?;
        if value.get_ref().contains(char::is_control) {
            return problem(value, "lane.steps.env: a value must be one line without control characters");
        }
        env.insert(key.get_ref().clone(), value.get_ref().clone());
    }
    let minutes = match &raw.minutes {
        None => lane_minutes,
        Some(minutes) => number(minutes, "lane.steps.minutes", lane_minutes as i64)?,
    };
    let step = Step {
        name: raw.name.get_ref().clone(),
        run,
        env,
        limit: Duration::from_secs(minutes * 60),
        every_shard: raw.every_shard,
    };
    if step.is_sharded() && (shards < 2 || raw.every_shard) {
        let message = format!("lane.steps.run: {SHARD} needs a lane with shards above 1, and no every_shard");
        return problem(&raw.run, message);
    }
    if raw.every_shard && shards < 2 {
        return problem(
            &raw.name,
            "lane.steps.every_shard: has no effect in a lane without shards; remove it",
        );
    }
    Ok(step)
}

/// A value of some characters of a small alphabet.
fn word(value: &Spanned<String>, key: &str, wanted: &str, allowed: impl Fn(char) -> bool) -> Checked<()> {
    let text = value.get_ref();
    match !text.is_empty() && text.len() <= 100 && text.chars().all(allowed) {
        true => Ok(()),
        false => problem(value, format!("{key}: {text:?} is not {wanted}")),
    }
}

fn name(value: &Spanned<String>, key: &str) -> Checked<()> {
    let wanted = "a name of small letters, digits and -, beginning with a letter";
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match value.get_ref().starts_with(|c: char| c.is_ascii_lowercase()) {
        true => word(value, key, wanted, allowed),
        false => problem(value, format!("{key}: {:?} is not {wanted}", value.get_ref())),
    }
}

fn number(value: &Spanned<i64>, key: &str, most: i64) -> Checked<u64> {
    match u64::try_from(*value.get_ref()) {
        Ok(found @ 1..) if found <= most as u64 => Ok(found),
        _ => problem(value, format!("{key}: {} is not in 1..={most}", value.get_ref())),
    }
}

/// Paths below the checkout, with `*` for any characters.
fn paths(values: Vec<Spanned<String>>, key: &str) -> Checked<Vec<String>> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./*".contains(c);
    for value in &values {
        word(value, key, "a path of letters, digits and -_./*", allowed)?;
        let text = value.get_ref();
        if text.starts_with('/') || text.split('/').any(|part| part == "..") {
            return problem(value, format!("{key}: {text:?} leaves the checkout; write a path below it"));
        }
    }
    Ok(values.into_iter().map(Spanned::into_inner).collect())
}
