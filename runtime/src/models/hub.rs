//! The hub's cache, as Python's huggingface_hub lays it out and shares it: `models--OWNER--NAME/` with `blobs/ETAG`,
//! `refs/REVISION` (a commit) and `snapshots/COMMIT/FILE` (a link to the blob); locks in `.locks`.
//!
//! In: a repository, a revision, a file. Out: paths of what is there; links and refs for what was fetched. Variables
//! and layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. Deliberately absent: the network
//! (see `super::hub_fetch`).

use super::digest::{self, Expected, Sums};
use super::spec::{HubSpec, safe_relative};
use super::{Context, place};
use crate::{Error, Result};
use bitforge_schema::catalog::is_hex;
use bitforge_schema::env::Env;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that a repository may have.
const MAX_FILES: usize = 10_000;

/// Where the hub is, who is asking, and where its files are kept.
pub struct Hub {
    /// Without a slash at its end.
    pub endpoint: String,
    pub cache: PathBuf,
    pub token: Option<String>,
}

/// A file of a snapshot that is in the cache.
#[derive(Clone, Debug)]
pub struct Cached {
    /// Below `snapshots`.
    pub path: PathBuf,
    pub commit: String,
    /// The name of its blob, which is its digest for everything that the hub itself made.
    pub etag: Option<String>,
}

impl Hub {
    /// # Errors
    /// `Usage` for an endpoint that is no plain http or https URL, or a token with control characters.
    pub fn new(env: &Env, fallback: &Path) -> Result<Self> {
        let endpoint = env.get("HF_ENDPOINT").unwrap_or("https://huggingface.co").trim_end_matches('/');
        let is_url = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        if !is_url || endpoint.contains(['@', ' ', '?', '#']) {
            return Err(Error::usage(
                format!("HF_ENDPOINT is '{endpoint}'"),
                "set it to a URL such as https://hub.example, or unset it",
            ));
        }
        let home = env.get("HF_HOME").map(PathBuf::from).or_else(|| {
            let below = |name: &str, rest: &str| env.get(name).map(|dir| Path::new(dir).join(rest));
            below("XDG_CACHE_HOME", "huggingface").or_else(|| below("HOME", ".cache/huggingface"))
        });
        let home = home.unwrap_or_else(|| fallback.join("huggingface"));
        let token_path = env.get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let token = match env.get("HF_TOKEN") {
            Some(token) => Some(token.to_owned()),
            None => fs::read_to_string(token_path).ok(),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Error::usage(
                "the hub's token holds blanks or control characters",
                "correct HF_TOKEN",
            ));
        }
        let cache = env.get("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        Ok(Hub { endpoint: endpoint.into(), cache, token })
    }

    pub fn repo_dir(&self, repo: &str) -> PathBuf {
        self.cache.join(format!("models--{}", repo.replace('/', "--")))
    }

    pub fn blob(&self, repo: &str, etag: &str) -> PathBuf {
        self.repo_dir(repo).join("blobs").join(etag)
    }

    /// The lock of a blob, as Python's library takes it.
    pub fn lock_path(&self, repo: &str, etag: &str) -> PathBuf {
        let repo = format!("models--{}", repo.replace('/', "--"));
        self.cache.join(".locks").join(repo).join(format!("{etag}.lock"))
    }

    pub fn snapshot(&self, repo: &str, commit: &str) -> PathBuf {
        self.repo_dir(repo).join("snapshots").join(commit)
    }

    /// The commit that `revision` meant when it was last asked for.
    pub fn commit(&self, repo: &str, revision: &str) -> Option<String> {
        if is_hex(revision, 40) {
            return Some(revision.into());
        }
        let text = fs::read_to_string(self.repo_dir(repo).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_hex(commit, 40))
    }

    /// The file where the cache has it, fetched by whichever program.
    pub fn find(&self, spec: &HubSpec, file: &str) -> Option<Cached> {
        let commit = self.commit(&spec.repo, &spec.revision)?;
        let path = self.snapshot(&spec.repo, &commit).join(file);
        if !path.is_file() {
            return None;
        }
        let etag = fs::read_link(&path).ok().and_then(|target| {
            let etag = target.file_name()?.to_str()?.to_owned();
            // Where the file system has no links, the snapshot holds the file itself.
            self.blob(&spec.repo, &etag).is_file().then_some(etag)
        });
        Some(Cached { path, commit, etag })
    }

    /// Any snapshot's link to the blob `etag`.
    pub fn find_blob(&self, repo: &str, file: &str, etag: &str) -> Option<Cached> {
        let snapshots = fs::read_dir(self.repo_dir(repo).join("snapshots")).ok()?;
        let mut commits: Vec<String> = snapshots
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_hex(name, 40))
            .collect();
        commits.sort();
        commits.into_iter().find_map(|revision| {
            let spec = HubSpec { repo: repo.into(), revision, file: None };
            self.find(&spec, file).filter(|cached| cached.etag.as_deref() == Some(etag))
        })
    }

    /// Makes a blob visible as `file` of `commit`, and `revision` mean that commit.
    pub fn publish(&self, spec: &HubSpec, file: &str, commit: &str, etag: &str) -> Result<PathBuf> {
        let path = self.snapshot(&spec.repo, commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        place::link(Path::new(&format!("{up}blobs/{etag}")), &path)?;
        self.set_ref(spec, commit)?;
        Ok(path)
    }

    pub fn set_ref(&self, spec: &HubSpec, commit: &str) -> Result<()> {
        if spec.revision == commit || self.commit(&spec.repo, &spec.revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repo_dir(&spec.repo).join("refs").join(&spec.revision);
        place::write_whole(&path, commit.as_bytes())
    }

    /// Reads a cached file again and compares it with the digest that names its blob.
    pub fn verify(&self, ctx: &Context<'_>, cached: &Cached) -> Result<(Sums, Option<Expected>)> {
        let expected = cached.etag.as_deref().and_then(Expected::of_etag);
        let sums = digest::file(ctx, &cached.path, expected.as_ref())?;
        if let Some(expected) = &expected {
            let remedy = "remove it with `bitnet models rm`, then fetch it again";
            sums.check(expected, &cached.path.display().to_string(), remedy)?;
        }
        Ok((sums, expected))
    }

    /// Removes a file from every snapshot that shows the same blob, and the blob.
    pub fn remove_blob(&self, repo: &str, etag: &str) -> Result<u64> {
        let blob = self.blob(repo, etag);
        let bytes = fs::metadata(&blob).map_or(0, |meta| meta.len());
        let mut folders = vec![self.repo_dir(repo).join("snapshots")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(kind) if kind.is_symlink() => {
                        let target = fs::read_link(&path).unwrap_or_default();
                        if target.file_name().is_some_and(|name| name == etag) {
                            place::remove(&path)?;
                        }
                    }
                    _ => {}
                }
            }
        }
        place::remove(&blob)?;
        Ok(bytes)
    }
}

/// Whether an entity tag may be the name of a file.
pub fn is_blob_name(etag: &str) -> bool {
    bitforge_schema::catalog::is_plain(etag) && etag.len() <= 128
}

/// The commit of a revision and the files in it, from the hub's list; `what` is for messages.
///
/// # Errors
/// A list that is malformed or too long, or names a file that would lie outside its folder.
pub fn parse_list(text: &str, what: &str) -> Result<(String, Vec<String>)> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
        siblings: Vec<Sibling>,
    }
    #[derive(Deserialize)]
    struct Sibling {
        rfilename: String,
    }
    let bad = |why: String| {
        Error::network(format!("{what}: the hub's list of files {why}"), "check HF_ENDPOINT; do not use it")
    };
    let info: Info = serde_json::from_str(text).map_err(|error| bad(format!("is malformed: {error}")))?;
    if !is_hex(&info.sha, 40) {
        return Err(bad(format!("names no commit: {:?}", info.sha.chars().take(60).collect::<String>())));
    }
    if info.siblings.len() > MAX_FILES {
        return Err(bad(format!("has {} entries, more than {MAX_FILES}", info.siblings.len())));
    }
    let mut files = BTreeSet::new();
    for Sibling { rfilename } in info.siblings {
        safe_relative(&rfilename).map_err(|why| bad(format!("is hostile: {why}")))?;
        files.insert(rfilename);
    }
    Ok((info.sha, files.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::with_context;
    use super::*;

    #[test]
    fn places_follow_the_variables() {
        let hub = |pairs: &[(&str, &str)]| {
            Hub::new(&Env::from_pairs(pairs.iter().copied()), Path::new("/f")).unwrap()
        };
        let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")];
        let caches =
            ["/a", "/b/hub", "/c/huggingface/hub", "/d/.cache/huggingface/hub", "/f/huggingface/hub"];
        for (from, cache) in caches.iter().enumerate() {
            assert_eq!(hub(&all[from..]).cache, Path::new(cache));
        }
        assert_eq!(hub(&[("HF_ENDPOINT", "http://h:1/")]).endpoint, "http://h:1");
        assert_eq!(hub(&[("HF_TOKEN", " hf_x\n")]).token.as_deref(), Some("hf_x"));
        for bad in [("HF_ENDPOINT", "hub.example"), ("HF_ENDPOINT", "http://a@b"), ("HF_TOKEN", "a\r\nb")] {
            assert!(Hub::new(&Env::from_pairs([bad]), Path::new("/f")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_published_file_is_found_by_branch_and_commit_and_removed_with_its_blob() {
        with_context(&[], |ctx, _| {
            let (commit, etag) = ("a".repeat(40), digest::sha256(b"content"));
            let spec = HubSpec { repo: "o/n".into(), revision: "refs/pr/1".into(), file: None };
            let blob = ctx.hub.blob("o/n", &etag);
            place::write_whole(&blob, b"content").unwrap();
            let path = ctx.hub.publish(&spec, "sub/f.gguf", &commit, &etag).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content");
            let found = ctx.hub.find(&spec, "sub/f.gguf").unwrap();
            assert_eq!(
                (found.commit.as_str(), found.etag.as_deref()),
                (commit.as_str(), Some(etag.as_str()))
            );
            ctx.hub.verify(ctx, &found).unwrap();
            fs::write(&blob, b"c0ntent").unwrap();
            let error = ctx.hub.verify(ctx, &found).unwrap_err();
            assert_eq!(error.exit_code(), bitforge_schema::exit::ExitCode::Mismatch);
            let found = ctx.hub.find_blob("o/n", "sub/f.gguf", &etag).unwrap();
            assert_eq!(ctx.hub.remove_blob("o/n", &found.etag.unwrap()).unwrap(), 7);
            assert!(ctx.hub.find(&spec, "sub/f.gguf").is_none() && !blob.exists());
        });
    }

    #[test]
    fn a_hostile_ref_or_tag_leads_nowhere() {
        with_context(&[], |ctx, _| {
            let refs = ctx.hub.repo_dir("o/n").join("refs/main");
            place::write_whole(&refs, b"../../../etc").unwrap();
            assert_eq!(ctx.hub.commit("o/n", "main"), None);
        });
        for bad in ["../x", "", ".", "a/b", "-x", "a\0"] {
            assert!(!is_blob_name(bad), "{bad}");
        }
    }
}
