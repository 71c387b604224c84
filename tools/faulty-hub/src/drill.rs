//! Drills: a fetch that is killed again and again, and a fetch that is timed.
//!
//! In: the `bitnet` binary. Out: what was counted and measured, as JSON. Both run against a [`Hub`] in this process,
//! with caches in a temporary folder.

use crate::content::{Random, bytes, sha256};
use crate::{Hub, Logged, ceiling};
use libc::{RUSAGE_CHILDREN, RUSAGE_SELF};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const REPO: &str = "drill/model";
const FILE: &str = "model.gguf";
const CONNECTIONS: usize = 4;
/// As the binary cuts a file.
pub const BLOCK: usize = 1 << 20;

struct Site {
    hub: Hub,
    content: Vec<u8>,
    dir: tempfile::TempDir,
    binary: PathBuf,
}

impl Site {
    fn new(binary: &Path, mib: usize, folder: Option<&Path>) -> Self {
        let hub = Hub::start();
        let content = bytes(42, mib << 20);
        hub.add(REPO, FILE, content.clone());
        let dir = match folder {
            Some(folder) => tempfile::tempdir_in(folder),
            None => tempfile::tempdir(),
        };
        Site { hub, content, dir: dir.expect("a temporary folder"), binary: binary.into() }
    }

    fn start(&self) -> Child {
        let mut command = Command::new(&self.binary);
        command.args(["models", "fetch", &format!("hf:{REPO}:{FILE}"), "--json"]);
        command.args(["--connections", &CONNECTIONS.to_string()]).env_clear();
        command.env("HF_ENDPOINT", self.hub.url()).env("HF_HUB_CACHE", self.dir.path().join("hub"));
        command.env("BITNET_CACHE_DIR", self.dir.path().join("cache")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("the binary starts")
    }

    fn blob(&self) -> PathBuf {
        let repo = self.dir.path().join("hub").join(format!("models--{}", REPO.replace('/', "--")));
        repo.join("blobs").join(sha256(&self.content))
    }

    fn beside_blob(&self, suffix: &str) -> PathBuf {
        let mut path = self.blob().into_os_string();
        path.push(suffix);
        path.into()
    }

    fn block(&self, index: usize) -> &[u8] {
        let start = index * BLOCK;
        &self.content[start..self.content.len().min(start + BLOCK)]
    }
}

/// Kills a fetch of `mib` MiB `kills` times with SIGKILL, at points drawn from `seed`, then lets it end.
///
/// # Errors
/// The first rule that was broken: a file under the final name too early or with other bytes, a block fetched again
/// that the journal has, more than one finished block per connection that the journal lacks.
pub fn kill(binary: &Path, mib: usize, kills: usize, seed: u64) -> Result<Value, String> {
    let site = Site::new(binary, mib, None);
    let mut random = Random::new(seed);
    let mut recorded: Vec<usize> = Vec::new();
    // Right in the file and not in the journal; a later fetch comes to them when it comes.
    let mut lost: BTreeSet<usize> = BTreeSet::new();
    let (mut lost_most, mut lost_in_all, mut killed, mut early) = (0, 0, 0, 0);
    let mut points = Vec::new();
    for remaining in (1..=kills as u64).rev() {
        let before = site.hub.sent();
        let logged = site.hub.log().len();
        let missing = (site.content.len() - recorded.len() * BLOCK) as u64;
        // Drawn so that the kills spread over the whole of the file.
        let point = random.below(2 * missing / (remaining + 1) + 1);
        let mut child = site.start();
        let mut ended = None;
        while ended.is_none() && site.hub.sent() - before < point {
            ended = child.try_wait().map_err(|error| error.to_string())?;
            std::thread::yield_now();
        }
        match ended {
            Some(_) => early += 1,
            None => {
                // SIGKILL.
                let sent = child.kill();
                child.wait().map_err(|error| error.to_string())?;
                sent.map_err(|error| error.to_string())?;
                killed += 1;
            }
        }
        no_block_twice(&site.hub.log()[logged..], &recorded)?;
        points.push(point);
        if site.blob().exists() {
            if fs::read(site.blob()).ok().as_deref() != Some(&site.content[..]) {
                return Err("a bad file lies under the final name".into());
            }
            // It was complete before the kill: the drill begins anew, since every kill must hit a fetch.
            fs::remove_dir_all(site.dir.path().join("hub")).map_err(|error| error.to_string())?;
            recorded.clear();
            lost.clear();
            continue;
        }
        let (journal, not_in_it) = journal(&site)?;
        let by_this = not_in_it.difference(&lost).count();
        (lost_most, lost_in_all) = (lost_most.max(by_this), lost_in_all + by_this);
        if by_this > CONNECTIONS {
            return Err(format!("a kill lost {by_this} finished blocks, with {CONNECTIONS} connections"));
        }
        (recorded, lost) = (journal, not_in_it);
    }
    let logged = site.hub.log().len();
    let ended = site.start().wait().map_err(|error| error.to_string())?;
    no_block_twice(&site.hub.log()[logged..], &recorded)?;
    if !ended.success() || fs::read(site.blob()).ok().as_deref() != Some(&site.content[..]) {
        return Err(format!("the last fetch ended with {ended} and without the right file"));
    }
    for suffix in [".partial", ".journal"] {
        if site.beside_blob(suffix).exists() {
            return Err(format!("{suffix} was left"));
        }
    }
    Ok(json!({
        "drill": "kill", "mib": mib, "kills": killed, "ended_before_the_kill": early, "seed": seed,
        "connections": CONNECTIONS, "block_bytes": BLOCK,
        "most_finished_blocks_lost_by_a_kill": lost_most, "finished_blocks_lost_in_all": lost_in_all,
        "bytes_sent": site.hub.sent(), "bytes_of_file": site.content.len(),
        "points": points,
    }))
}

/// No request asks for a block that the journal had.
fn no_block_twice(log: &[Logged], recorded: &[usize]) -> Result<(), String> {
    let ranges = log.iter().filter(|logged| logged.at_storage).filter_map(|logged| logged.range);
    for (first, last) in ranges {
        let (first, last) = (first as usize / BLOCK, last as usize / BLOCK);
        if let Some(block) = recorded.iter().find(|block| (first..=last).contains(*block)) {
            return Err(format!("block {block} was in the journal and was asked for again"));
        }
    }
    Ok(())
}

/// Blocks of the journal, all of which must be right in the file; and those that are right but not in it.
fn journal(site: &Site) -> Result<(Vec<usize>, BTreeSet<usize>), String> {
    let Ok(journal) = fs::read(site.beside_blob(".journal")) else { return Ok(Default::default()) };
    let file = fs::read(site.beside_blob(".partial")).map_err(|error| error.to_string())?;
    let header = journal.iter().position(|byte| *byte == b'\n').ok_or("the journal has no first line")?;
    let records = journal[header + 1..].chunks_exact(8);
    let mut blocks: Vec<usize> = records
        .map(|record| u32::from_le_bytes(record[..4].try_into().expect("four bytes")) as usize)
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    let is_right = |index: &usize| {
        let block = site.block(*index);
        file.get(index * BLOCK..index * BLOCK + block.len()) == Some(block)
    };
    if let Some(wrong) = blocks.iter().find(|index| !is_right(index)) {
        return Err(format!("block {wrong} is in the journal, but not in the file"));
    }
    let all = 0..site.content.len().div_ceil(BLOCK);
    let lost = all.filter(|index| is_right(index) && blocks.binary_search(index).is_err()).collect();
    Ok((blocks, lost))
}

/// Times a fetch of `mib` MiB, writing as many to the same disk in two ways of which the faster counts, hashing as many on
/// one core, and what bare sockets get from this hub (see `ceiling`), `rounds` times in turns. Rates are in MiB/s;
/// seconds are those that processors spent while the fetch ran.
pub fn speed(binary: &Path, mib: usize, rounds: usize, folder: Option<&Path>) -> Result<Value, String> {
    let site = Site::new(binary, mib, folder);
    let fail = |error: std::io::Error| error.to_string();
    let name = sha256(&site.content);
    let mut taken: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut note = |what, value| taken.entry(what).or_default().push(value);
    let rate = |start: Instant| mib as f64 / start.elapsed().as_secs_f64();
    for _ in 0..rounds {
        let path = site.dir.path().join("written");
        for (what, write) in [
            ("disk_through_cache", ceiling::write as fn(_, _) -> _),
            ("disk_past_cache", ceiling::write_direct),
        ] {
            let start = Instant::now();
            write(&path, &site.content).map_err(fail)?;
            note(what, rate(start));
            fs::remove_file(&path).map_err(fail)?;
            settle(&site)?;
        }

        let start = Instant::now();
        std::hint::black_box(Sha256::digest(&site.content));
        note("sha256", rate(start));

        let url = format!("{}/storage/{REPO}/{FILE}", site.hub.storage());
        let start = Instant::now();
        ceiling::receive(&url, site.content.len(), CONNECTIONS).map_err(fail)?;
        note("received", rate(start));
        let start = Instant::now();
        if ceiling::receive_and_hash(&url, site.content.len(), CONNECTIONS).map_err(fail)? != name {
            return Err("the bare client received other bytes".into());
        }
        note("received_and_hashed", rate(start));

        let before = [RUSAGE_SELF, RUSAGE_CHILDREN].map(ceiling::processor_seconds);
        let start = Instant::now();
        let ended = site.start().wait().map_err(fail)?;
        note("fetch", rate(start));
        note("hub_seconds", ceiling::processor_seconds(RUSAGE_SELF) - before[0]);
        note("client_seconds", ceiling::processor_seconds(RUSAGE_CHILDREN) - before[1]);
        if !ended.success() || !site.blob().ends_with(&name) || !site.blob().is_file() {
            return Err(format!("the fetch ended with {ended}"));
        }
        fs::remove_dir_all(site.dir.path().join("hub")).map_err(fail)?;
        settle(&site)?;
    }
    let of = |what: &str| median(&taken[what]);
    let disk = of("disk_through_cache").max(of("disk_past_cache"));
    Ok(json!({
        "drill": "speed", "mib": mib, "connections": CONNECTIONS,
        "ratio_to_slower": of("fetch") / disk.min(of("sha256")),
        "ratio_to_received_and_hashed": of("fetch") / of("received_and_hashed"),
        "medians": taken.iter().map(|(what, values)| (*what, median(values))).collect::<BTreeMap<_, _>>(),
        "rounds": taken,
    }))
}

/// Lets the file system end what removing a file began, so that nobody's measurement pays for it.
fn settle(site: &Site) -> Result<(), String> {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::sync() };
    std::thread::sleep(std::time::Duration::from_millis(300));
    File::open(site.dir.path()).and_then(|folder| folder.sync_all()).map_err(|error| error.to_string())
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
