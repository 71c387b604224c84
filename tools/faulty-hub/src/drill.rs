//! Drills: a fetch that is killed again and again, and a fetch that is timed.
//!
//! In: the `bitnet` binary. Out: what was counted and measured, as JSON. Both run against a [`Hub`] in this process,
//! with caches in a temporary folder.

use crate::content::{Random, bytes, sha256};
use crate::{Hub, Logged};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const REPO: &str = "drill/model";
const FILE: &str = "model.gguf";
const CONNECTIONS: usize = 4;
/// As the binary cuts a file.
const BLOCK: usize = 1 << 20;

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
    let (mut lost_most, mut killed, mut early) = (0, 0, 0);
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
            continue;
        }
        let (journal, lost) = journal(&site)?;
        lost_most = lost_most.max(lost);
        if lost > CONNECTIONS {
            return Err(format!(
                "{lost} finished blocks are not in the journal, with {CONNECTIONS} connections"
            ));
        }
        recorded = journal;
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
        "most_finished_blocks_lost_by_a_kill": lost_most,
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

/// Blocks of the journal, all of which must be right in the file; and how many are right but not in it.
fn journal(site: &Site) -> Result<(Vec<usize>, usize), String> {
    let Ok(journal) = fs::read(site.beside_blob(".journal")) else { return Ok((Vec::new(), 0)) };
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
    let lost = all.filter(is_right).count() - blocks.len();
    Ok((blocks, lost))
}

/// Times a fetch of `mib` MiB, writing as many to the same disk, and hashing as many on one core, `rounds` times in
/// turns. Rates are in MiB/s, of the median round.
pub fn speed(binary: &Path, mib: usize, rounds: usize, folder: Option<&Path>) -> Result<Value, String> {
    let site = Site::new(binary, mib, folder);
    let fail = |error: std::io::Error| error.to_string();
    let (mut disk, mut hash, mut fetch) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let path = site.dir.path().join("written");
        let start = Instant::now();
        let mut file = File::create(&path).map_err(fail)?;
        for piece in site.content.chunks(BLOCK) {
            file.write_all(piece).map_err(fail)?;
        }
        file.sync_all().map_err(fail)?;
        disk.push(mib as f64 / start.elapsed().as_secs_f64());
        fs::remove_file(path).map_err(fail)?;

        let start = Instant::now();
        let digest = Sha256::digest(&site.content);
        hash.push(mib as f64 / start.elapsed().as_secs_f64());

        let start = Instant::now();
        let ended = site.start().wait().map_err(fail)?;
        fetch.push(mib as f64 / start.elapsed().as_secs_f64());
        let name = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if !ended.success() || !site.blob().ends_with(&name) || !site.blob().is_file() {
            return Err(format!("the fetch ended with {ended}"));
        }
        fs::remove_dir_all(site.dir.path().join("hub")).map_err(fail)?;
    }
    let [disk_rate, hash_rate, fetch_rate] = [&disk, &hash, &fetch].map(|rates| median(rates));
    Ok(json!({
        "drill": "speed", "mib": mib, "connections": CONNECTIONS,
        "disk_mib_s": disk_rate, "sha256_mib_s": hash_rate, "fetch_mib_s": fetch_rate,
        "ratio_to_slower": fetch_rate / disk_rate.min(hash_rate),
        "rounds": { "disk": disk, "sha256": hash, "fetch": fetch },
    }))
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
