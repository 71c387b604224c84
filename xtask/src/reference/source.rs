//! Where a reference's C++ tree comes from: the pinned crate, a folder, a git revision or an archive.
//!
//! In: a [`Source`]. Out: a [`Tree`], a folder and the sha256 over its files. A tree is only ever read; what
//! is fetched or unpacked lies in `CACHE/references/sources` and becomes visible by one rename.

use super::pins::Pin;
use crate::ctx::Ctx;
use crate::exit::{Failure, fail};
use crate::lock::lock;
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_schema::exit::ExitCode;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The tree inside the crate of tools/pins.toml.
    Crate,
    Dir(PathBuf),
    Git {
        url: String,
        revision: String,
    },
    Archive {
        file: PathBuf,
        sha256: String,
    },
}

/// A C++ tree that is ready to be built.
#[derive(Clone, Debug)]
pub struct Tree {
    pub dir: PathBuf,
    /// sha256 over the paths and contents of its files.
    pub digest: String,
    /// Size of these files together.
    pub bytes: u64,
    /// Where it came from, for people.
    pub origin: String,
}

impl Source {
    /// `crate`, `dir:PATH`, `git:URL#REV` or `archive:FILE#SHA256`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let revision = |rest: &str| {
            let (left, right) = rest.rsplit_once('#')?;
            (!left.is_empty() && !right.is_empty()).then(|| (left.to_string(), right.to_string()))
        };
        match text.split_once(':') {
            None if text == "crate" => Ok(Source::Crate),
            Some(("dir", path)) if !path.is_empty() => Ok(Source::Dir(path.into())),
            Some(("git", rest)) => {
                let (url, revision) =
                    revision(rest).ok_or("write git:URL#REV, with a commit, tag or branch")?;
                Ok(Source::Git { url, revision })
            }
            Some(("archive", rest)) => {
                let (file, sha256) = revision(rest)
                    .filter(|(_, sha)| sha.len() == 64 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
                    .ok_or(
                        "write archive:FILE#SHA256, with the 64 hexadecimal digits of the file's sha256",
                    )?;
                Ok(Source::Archive { file: file.into(), sha256: sha256.to_lowercase() })
            }
            _ => Err("write crate, dir:PATH, git:URL#REV or archive:FILE#SHA256".into()),
        }
    }

    /// Finds or fetches the tree. `cache` is `CACHE/references`.
    pub fn obtain(&self, ctx: &Ctx, pin: &Pin, cache: &Path) -> Result<Tree> {
        let (dir, origin) = match self {
            Source::Crate => (from_crate(ctx, pin)?, format!("crate {} {}", pin.krate, pin.version)),
            Source::Dir(path) => {
                let dir = fs::canonicalize(path).map_err(|error| {
                    Failure::new(ExitCode::NotFound, format!("--source dir:{}: {error}", path.display()))
                })?;
                let origin = format!("dir:{}", dir.display());
                (dir, origin)
            }
            Source::Git { url, revision } => {
                (from_git(ctx, url, revision, cache)?, format!("git:{url}#{revision}"))
            }
            Source::Archive { file, sha256 } => {
                (from_archive(ctx, file, sha256, cache)?, format!("archive:{}#{sha256}", file.display()))
            }
        };
        if !dir.join("CMakeLists.txt").is_file() {
            return fail(
                ExitCode::BadInput,
                format!(
                    "{} has no CMakeLists.txt; give the top folder of llama.cpp or bitnet.cpp",
                    dir.display()
                ),
            );
        }
        let (digest, bytes) = digest_tree(&dir)?;
        Ok(Tree { dir, digest, bytes, origin })
    }
}

/// The folder of the crate's sources in cargo's registry; cargo fetches it where it is not there.
fn from_crate(ctx: &Ctx, pin: &Pin) -> Result<PathBuf> {
    let manifest = ctx.root()?.join(&pin.manifest);
    let manifest = manifest.display().to_string();
    let ask = ["metadata", "--format-version", "1", "--locked", "--manifest-path", &manifest];
    // Without network first: cargo answers in a tenth of a second when the crates are there.
    let text = match proc::read(ctx, &ctx.cargo(ask.into_iter().chain(["--offline"]))?) {
        Ok(text) => text,
        Err(error) if ctx.offline => {
            let message =
                format!("{} is not in cargo's registry and the network is off; {error:#}", pin.krate);
            return fail(ExitCode::Network, message);
        }
        Err(_) => {
            ctx.out.line(format!("fetching the crate {} {}", pin.krate, pin.version));
            proc::read(ctx, &ctx.cargo(ask)?).map_err(|error| {
                Failure::new(ExitCode::Network, format!("fetching {}: {error:#}", pin.krate))
            })?
        }
    };
    let metadata = cargo_metadata::MetadataCommand::parse(text.lines().next().unwrap_or_default())
        .map_err(|error| Failure::new(ExitCode::BadInput, format!("cargo metadata: {error}")))?;
    let package = metadata.packages.iter().find(|package| *package.name == pin.krate).ok_or_else(|| {
        Failure::new(ExitCode::BadInput, format!("{manifest} does not depend on {}", pin.krate))
    })?;
    if package.version.to_string() != pin.version {
        let message = format!(
            "{manifest} locks {} {}, tools/pins.toml says {}",
            pin.krate, package.version, pin.version
        );
        return fail(ExitCode::BadInput, message);
    }
    let root = package.manifest_path.parent().context("a manifest path without a folder")?;
    Ok(root.join(&pin.tree).into_std_path_buf())
}

fn from_git(ctx: &Ctx, url: &str, revision: &str, cache: &Path) -> Result<PathBuf> {
    unpacked(ctx, cache, &format!("git {url} {revision}"), |dir, log| {
        if ctx.offline && url.contains("://") && !url.starts_with("file://") {
            return fail(ExitCode::Network, format!("{url} is not in the cache and the network is off"));
        }
        let git = |args: &[&str]| -> Result<()> {
            let command = Command::new("git").args(args.iter().copied()).dir(dir);
            proc::run(ctx, &command, Stdout::Log, log, |_| {})?.must_succeed(ExitCode::Network).map(drop)
        };
        git(&["init", "-q"])?;
        git(&["fetch", "-q", "--depth", "1", "--", url, revision])?;
        git(&["checkout", "-q", "FETCH_HEAD"])?;
        git(&["submodule", "update", "-q", "--init", "--recursive", "--depth", "1"])
    })
}

fn from_archive(ctx: &Ctx, file: &Path, sha256: &str, cache: &Path) -> Result<PathBuf> {
    let digest = digest_file(file).map_err(|error| {
        Failure::new(ExitCode::NotFound, format!("--source archive:{}: {error:#}", file.display()))
    })?;
    if digest != sha256 {
        let message = format!("{} has sha256 {digest}, not {sha256}; do not use it", file.display());
        return fail(ExitCode::BadInput, message);
    }
    let file = fs::canonicalize(file).with_context(|| format!("resolving {}", file.display()))?;
    let dir = unpacked(ctx, cache, &format!("archive {sha256}"), |dir, log| {
        let module = if file.extension().is_some_and(|end| end == "zip" || end == "whl") {
            "zipfile"
        } else {
            "tarfile"
        };
        let command = Command::new("python3").args(["-m", module, "-e"]).args([file.as_path(), dir]);
        proc::run(ctx, &command, Stdout::Log, log, |_| {})?.must_succeed(ExitCode::BadInput).map(drop)
    })?;
    Ok(find_tree(&dir).unwrap_or(dir))
}

/// The shallowest folder with a CMakeLists.txt that names llama.cpp or bitnet.cpp as its project.
fn find_tree(dir: &Path) -> Option<PathBuf> {
    let mut level = vec![dir.to_path_buf()];
    for _ in 0..5 {
        let is_tree = |dir: &&PathBuf| {
            let text = fs::read_to_string(dir.join("CMakeLists.txt")).unwrap_or_default();
            ["project(\"llama.cpp\"", "project(\"bitnet.cpp\"", "project(llama.cpp", "project(bitnet.cpp"]
                .iter()
                .any(|text_of_project| text.contains(text_of_project))
        };
        if let Some(found) = level.iter().find(is_tree) {
            return Some(found.clone());
        }
        let below = level.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
        level = below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        level.sort();
    }
    None
}

/// A folder below `sources` that `fill` makes once; others wait for it.
fn unpacked(
    ctx: &Ctx,
    cache: &Path,
    what: &str,
    fill: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let sources = cache.join("sources");
    fs::create_dir_all(&sources).with_context(|| format!("creating {}", sources.display()))?;
    let name = &hex(&Sha256::digest(what.as_bytes()))[..16];
    let dir = sources.join(name);
    if dir.is_dir() {
        return Ok(dir);
    }
    let _lock = lock(ctx, &sources.join(format!("{name}.lock")))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let partial = sources.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("creating {}", partial.display()))?;
    fill(&partial, &sources.join(format!("{name}.log")))?;
    fs::rename(&partial, &dir).with_context(|| format!("renaming to {}", dir.display()))?;
    Ok(dir)
}

/// The files of a tree that a build may read, relative and sorted: not git's own, not weights, and not build
/// trees that lie inside.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                let is_link_up = path.is_symlink();
                if name != ".git" && !is_link_up && !path.join("CMakeCache.txt").is_file() {
                    open.push(path);
                }
            } else if path.is_file()
                && ![".gguf", ".safetensors", ".pyc"].iter().any(|end| name.ends_with(end))
            {
                files.push(path.strip_prefix(dir).unwrap_or(&path).to_path_buf());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn digest_tree(dir: &Path) -> Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut total = 0;
    for file in files(dir)? {
        proc::check_interrupted()?;
        let path = dir.join(&file);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = file.to_string_lossy();
        // Lengths first, so that no two trees give the same stream.
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&bytes);
        total += bytes.len() as u64;
    }
    Ok((hex(&hasher.finalize()), total))
}

/// The sha256 of a file, in hexadecimal.
pub fn digest_file(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_sources() {
        assert_eq!(Source::parse("crate"), Ok(Source::Crate));
        assert_eq!(Source::parse("dir:/a b"), Ok(Source::Dir("/a b".into())));
        assert_eq!(
            Source::parse("git:https://host/x.git#b1234"),
            Ok(Source::Git { url: "https://host/x.git".into(), revision: "b1234".into() })
        );
        let sha = "A".repeat(64);
        assert_eq!(
            Source::parse(&format!("archive:x.tar.gz#{sha}")),
            Ok(Source::Archive { file: "x.tar.gz".into(), sha256: "a".repeat(64) })
        );
        for bad in ["", "git:https://host/x.git", "archive:x.tar", "archive:x.tar#12", "dir:", "/a"] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_sees_names_and_contents_but_not_build_trees() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a", "1");
        write("b/c", "2");
        let first = digest_tree(dir.path()).unwrap();
        write("build/CMakeCache.txt", "");
        write(".git/HEAD", "x");
        write("model.gguf", "weights");
        assert_eq!(digest_tree(dir.path()).unwrap(), first);
        write("b/c", "3");
        let changed = digest_tree(dir.path()).unwrap();
        assert_ne!(changed, first);
        fs::rename(dir.path().join("a"), dir.path().join("d")).unwrap();
        assert_ne!(digest_tree(dir.path()).unwrap(), changed);
    }
}
