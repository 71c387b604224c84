//! Shards of work for a Ray cluster: what is asked, and that each is answered once.
//!
//! In: files with their digests, a command line for each shard. Out: an [`Answer`] for each, in the order of the plan. The Python
//! is tools/ray/dispatch.py, which does a shard again elsewhere where its worker is lost. Deliberately absent: what the
//! commands mean, and putting together what they printed (see [`super::merge`], `jobs`).

use super::Cluster;
use crate::ctx::Ctx;
use crate::exit::fail;
use crate::proc::{self, Stdout};
use crate::receipts::store;
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How work is cut and how long it may take.
#[derive(clap::Args, Clone, Debug)]
pub struct Bounds {
    /// Times that a shard is begun at most, counted again each time that a worker is lost
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// Seconds for all of it
    #[arg(long, value_name = "S", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
}

impl Bounds {
    /// Of a plan without shards.
    pub const NONE: Bounds = Bounds { attempts: 1, seconds: 1 };
}

#[derive(Clone, Debug, Serialize)]
pub struct File {
    pub path: PathBuf,
    pub sha256: String,
}

/// Commands may contain `{file:NAME}`, a file of the plan on the node, and `{out}`, an empty folder there.
#[derive(Clone, Debug, Serialize)]
pub struct Shard {
    pub id: String,
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// CPUs of a node that it takes.
    pub cpus: u32,
    /// Exit codes that are an answer.
    pub accept: Vec<i32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// A folder that each node has at the same place and that commands run in; without, an empty one.
    pub root: Option<PathBuf>,
    pub files: BTreeMap<String, File>,
    pub shards: Vec<Shard>,
    pub attempts: u32,
    pub seconds: u64,
}

/// What came of a shard.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    pub id: String,
    pub node: String,
    pub processor: String,
    pub stdout: String,
    /// JSON files that it left in `{out}`, by name.
    pub written: BTreeMap<String, String>,
    /// Why it was begun again.
    pub lost: Vec<String>,
}

#[derive(Deserialize)]
struct Answers {
    shards: Vec<Answer>,
}

impl Plan {
    pub fn new(files: &[(&str, &Path)], bounds: &Bounds) -> Result<Self> {
        let file = |(name, path): &(&str, &Path)| {
            let path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
            Ok((name.to_string(), File { sha256: store::sha256(&path)?, path }))
        };
        let files = files.iter().map(file).collect::<Result<_>>()?;
        Ok(Plan { root: None, files, shards: Vec::new(), attempts: bounds.attempts, seconds: bounds.seconds })
    }

    pub fn add<'a>(&mut self, id: String, cpus: u32, argv: impl IntoIterator<Item = &'a str>) -> &mut Shard {
        let argv = argv.into_iter().map(str::to_owned).collect();
        let env = BTreeMap::from([("BITNET_THREADS".to_string(), cpus.to_string())]);
        self.shards.push(Shard { id, argv, env, cpus, accept: vec![0] });
        self.shards.last_mut().expect("one was pushed")
    }

    /// Has the cluster do all of it.
    pub fn run(&self, ctx: &Ctx, cluster: &Cluster) -> Result<Vec<Answer>> {
        let folder = tempfile::tempdir().context("creating a temporary folder")?;
        let (plan, answers) = (folder.path().join("plan.json"), folder.path().join("answers.json"));
        let text = serde_json::to_string(self).context("serializing a plan")?;
        std::fs::write(&plan, text).with_context(|| format!("writing {}", plan.display()))?;
        // Some time to connect, and to end by itself where it does not finish.
        let command = cluster.script(ctx, "dispatch.py")?.args([&plan, &answers]);
        let command = command.limit(Duration::from_secs(self.seconds + 60));
        let mut progress = ctx.out.progress(format!("{} shards", self.shards.len()));
        let log = ctx.log_file("cluster")?;
        let finished = proc::run(ctx, &command, Stdout::Log, &log, |line| progress.message(line))?;
        drop(progress);
        if !finished.success() {
            let known = ExitCode::ALL.into_iter().find(|code| Some(*code as i32) == finished.code);
            return fail(known.unwrap_or(ExitCode::Internal), finished.explain());
        }
        let text = std::fs::read_to_string(&answers).context("reading the cluster's answers")?;
        let answers: Answers = serde_json::from_str(&text).context("the cluster's answers")?;
        self.check(&answers.shards)?;
        for answer in answers.shards.iter().filter(|answer| !answer.lost.is_empty()) {
            ctx.out.line(format!("shard {} was lost and done again: {}", answer.id, answer.lost.join("; ")));
        }
        Ok(answers.shards)
    }

    /// One answer for every shard, in their order.
    fn check(&self, answers: &[Answer]) -> Result<()> {
        let (asked, answered): (Vec<&str>, Vec<&str>) =
            (self.shards.iter().map(|s| &*s.id).collect(), answers.iter().map(|a| &*a.id).collect());
        let mut once = asked.clone();
        once.sort_unstable();
        once.dedup();
        if asked == answered && once.len() == asked.len() {
            return Ok(());
        }
        fail(ExitCode::Internal, format!("shards {asked:?} were asked and {answered:?} answered"))
    }
}

/// 0..n in `parts` runs that differ by one at most; fewer where there is less to share.
pub fn split(n: u32, parts: u32) -> Vec<std::ops::Range<u32>> {
    let parts = parts.min(n);
    let bound = |part: u32| (u64::from(n) * u64::from(part) / u64::from(parts.max(1))) as u32;
    (0..parts).map(|part| bound(part)..bound(part + 1)).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn answer(id: &str, stdout: &str) -> Answer {
        let (node, processor) = ("n".into(), "p".into());
        let stdout = stdout.into();
        Answer { id: id.into(), node, processor, stdout, written: BTreeMap::new(), lost: vec!["x".into()] }
    }

    #[test]
    fn a_range_is_cut_without_a_gap() {
        for (n, parts) in [(114, 12), (12, 12), (1, 1), (7, 3), (u32::MAX, 1000)] {
            let ranges = split(n, parts);
            assert_eq!((ranges.len() as u32, ranges[0].start, ranges.last().unwrap().end), (parts, 0, n));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            let lengths = ranges.iter().map(|range| range.end - range.start);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
        assert_eq!(split(2, 5), [0..1, 1..2]);
        assert_eq!(split(0, 5), []);
    }

    #[test]
    fn every_shard_is_answered_once() {
        let mut plan = Plan::new(&[], &Bounds::NONE).unwrap();
        plan.add("a".into(), 2, ["x"]);
        plan.add("b".into(), 1, ["y"]);
        assert_eq!(plan.shards[0].env["BITNET_THREADS"], "2");
        let (a, b) = (answer("a", ""), answer("b", ""));
        plan.check(&[a.clone(), b.clone()]).unwrap();
        for wrong in
            [vec![a.clone()], vec![a.clone(), a.clone()], vec![b.clone(), a.clone()], vec![a, b.clone(), b]]
        {
            plan.check(&wrong).unwrap_err();
        }
        plan.add("a".into(), 1, ["z"]);
        plan.check(&[answer("a", ""), answer("b", ""), answer("a", "")]).unwrap_err();
    }

    #[test]
    fn files_are_named_by_their_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "abc").unwrap();
        let plan = Plan::new(&[("it", &path)], &Bounds::NONE).unwrap();
        assert!(plan.files["it"].sha256.starts_with("ba7816bf"));
        assert!(Plan::new(&[("it", &dir.path().join("g"))], &Bounds::NONE).is_err());
    }
}
