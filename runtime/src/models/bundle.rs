//! Offline bundles: models in one file, for machines without network.
//!
//! A bundle is a zip archive without compression: `bundle.json`, a [`Manifest`], then `files/SHA256` for each file.
//! In: models that are here. Out: a bundle; and back again into the caches, hub models where Python's huggingface_hub
//! finds them, too. A bundle is not believed: paths, digests and lengths are checked, and names of the catalog must
//! have the catalog's digests.

use super::archive::Archive;
use super::digest::Expected;
use super::fetch::{self, Options};
use super::hub::is_blob_name;
use super::slot::Slot;
use super::spec::{HubSpec, safe_relative};
use super::{Context, Fetched, Spec, VerifiedBy, digest, place, with_suffix};
use crate::{Error, Result};
use bitforge_schema::catalog::{Source, is_hex, is_sha256};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

const MANIFEST: &str = "bundle.json";
const MAX_MANIFEST: u64 = 16 << 20;
const MAX_FILES: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this form.
    pub bitforge_bundle: u32,
    pub models: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// As [`Spec`] writes itself.
    pub spec: String,
    /// The commit of a hub model.
    pub commit: Option<String>,
    pub files: Vec<Member>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Inside the repository; the name of the file elsewhere.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    /// The name of a hub model's blob.
    pub etag: Option<String>,
}

/// Writes what `specs` name, all of which must be here, to `out`.
pub fn write(ctx: &Context<'_>, specs: &[Spec], out: &Path) -> Result<Manifest> {
    let mut manifest = Manifest { bitforge_bundle: 1, models: Vec::new() };
    let mut sources = Vec::new();
    for spec in specs {
        let mut files = Vec::new();
        let (root, paths, commit) = contents(ctx, spec)?;
        for (path, etag) in paths {
            let from = if root.is_dir() { root.join(&path) } else { root.clone() };
            let sums = digest::file(ctx, &from, None)?;
            files.push(Member { path, bytes: sums.bytes, sha256: sums.sha256.clone(), etag });
            sources.push((sums.sha256, sums.bytes, from));
        }
        manifest.models.push(Entry { spec: spec.to_string(), commit, files });
    }
    let partial = with_suffix(out, ".partial");
    place::create_parent(out)?;
    let parent = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    place::require_space(parent, sources.iter().map(|(_, bytes, _)| bytes).sum())?;
    let written = write_zip(ctx, &manifest, &sources, &partial);
    if written.is_err() {
        place::remove(&partial)?;
    }
    written?;
    place::publish(&partial, out)?;
    Ok(manifest)
}

/// Folder or file, the files in it with their blobs, and the commit.
#[expect(clippy::type_complexity, reason = "three values that are used at once by one caller")]
fn contents(
    ctx: &Context<'_>,
    spec: &Spec,
) -> Result<(std::path::PathBuf, Vec<(String, Option<String>)>, Option<String>)> {
    let path = fetch::locate(ctx, spec)?;
    let hub = match spec {
        Spec::Hub(hub) => Some(hub.clone()),
        Spec::Catalog(model) => match &model.source {
            Source::Hf { repo, revision } => {
                Some(HubSpec { repo: repo.clone(), revision: revision.clone(), file: model.member.clone() })
            }
            _ => None,
        },
        _ => None,
    };
    let Some(hub) = hub else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok((path, vec![(name, None)], None));
    };
    let missing =
        || Error::not_found(format!("{spec} has no snapshot"), format!("run `bitnet models fetch {spec}`"));
    let real = std::fs::canonicalize(&path).map_err(|error| Error::io(&path, error))?;
    let commit = match &hub.file {
        Some(file) => {
            let etag = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let found = ctx.hub.find_blob(&hub.repo, file, &etag).or_else(|| ctx.hub.find(&hub, file));
            found.ok_or_else(missing)?.commit
        }
        None => ctx.hub.commit(&hub.repo, &hub.revision).ok_or_else(missing)?,
    };
    let root = ctx.hub.snapshot(&hub.repo, &commit);
    let at = HubSpec { revision: commit.clone(), ..hub.clone() };
    let files = match hub.file {
        Some(file) => vec![file],
        None => fetch::files_below(&root),
    };
    let etag = |file: &String| ctx.hub.find(&at, file).and_then(|cached| cached.etag);
    Ok((root, files.into_iter().map(|file| (file.clone(), etag(&file))).collect(), Some(commit)))
}

fn write_zip(
    ctx: &Context<'_>,
    manifest: &Manifest,
    sources: &[(String, u64, std::path::PathBuf)],
    path: &Path,
) -> Result<()> {
    let zipped = |error: zip::result::ZipError| Error::io(path, std::io::Error::other(error));
    let file = File::create(path).map_err(|error| Error::io(path, error))?;
    let mut zip = ZipWriter::new(file);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    zip.start_file(MANIFEST, options).map_err(zipped)?;
    let text = serde_json::to_vec_pretty(manifest).expect("keys are strings");
    zip.write_all(&text).map_err(|error| Error::io(path, error))?;
    let mut written = BTreeSet::new();
    for (sha256, bytes, from) in sources {
        if !written.insert(sha256) {
            continue;
        }
        zip.start_file(format!("files/{sha256}"), options).map_err(zipped)?;
        let mut file = File::open(from).map_err(|error| Error::io(from, error))?;
        let label = format!("bundling {}", from.file_name().unwrap_or_default().to_string_lossy());
        let sums =
            digest::copy(ctx, &label, &mut file, &mut zip, *bytes, None).map_err(digest::io_at(path))?;
        let expected = Expected::Sha256(sha256.clone());
        sums.check(&expected, &from.display().to_string(), "it changed while it was read: run it again")?;
    }
    zip.finish().map_err(zipped)?;
    Ok(())
}

/// Puts the models of a bundle, or the one called `name`, into the caches.
pub fn read(ctx: &Context<'_>, path: &Path, name: Option<&str>, options: &Options) -> Result<Vec<Fetched>> {
    let mut archive = Archive::open(path)?;
    let bad = |why: String| {
        Error::unsupported(
            path,
            format!("not a usable bundle: {why}"),
            "make it again with `bitnet models bundle`",
        )
    };
    let size = archive.size(MANIFEST)?;
    if size > MAX_MANIFEST {
        return Err(bad(format!("its manifest has {size} bytes")));
    }
    let mut text = Vec::new();
    archive.extract(ctx, MANIFEST, size, None, &mut text)?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if manifest.bitforge_bundle != 1 {
        return Err(bad(format!("it is of version {}, this program reads 1", manifest.bitforge_bundle)));
    }
    if manifest.models.iter().map(|model| model.files.len()).sum::<usize>() > MAX_FILES {
        return Err(bad(format!("it has more than {MAX_FILES} files")));
    }
    let mut fetched = Vec::new();
    for entry in &manifest.models {
        if name.is_none_or(|name| entry.spec == name) {
            let plan = Plan::check(ctx, entry).map_err(&bad)?;
            fetched.push(plan.carry_out(ctx, &mut archive, entry, options)?);
        }
    }
    if fetched.is_empty() {
        let names: Vec<&str> = manifest.models.iter().map(|model| model.spec.as_str()).collect();
        let what = format!("{} holds no {}", path.display(), name.unwrap_or("model"));
        return Err(Error::not_found(what, format!("it holds: {}", names.join(", "))));
    }
    Ok(fetched)
}

/// An entry that was checked.
struct Plan {
    spec: Spec,
    slot: Option<Slot>,
    hub: Option<HubSpec>,
}

impl Plan {
    fn check(ctx: &Context<'_>, entry: &Entry) -> std::result::Result<Self, String> {
        let spec = Spec::parse(&entry.spec).map_err(|error| error.to_string())?;
        for member in &entry.files {
            safe_relative(&member.path)?;
            if !is_sha256(&member.sha256) || !member.etag.as_deref().is_none_or(is_blob_name) {
                return Err(format!("{} has a malformed digest", member.path));
            }
        }
        let hub = match &spec {
            Spec::Hub(hub) => Some(hub.clone()),
            Spec::Catalog(model) => match &model.source {
                Source::Hf { repo, revision } => Some(HubSpec {
                    repo: repo.clone(),
                    revision: revision.clone(),
                    file: model.member.clone(),
                }),
                _ => None,
            },
            _ => None,
        };
        if hub.is_some() && !entry.commit.as_deref().is_some_and(|commit| is_hex(commit, 40)) {
            return Err(format!("{} names no commit", entry.spec));
        }
        let slot = Slot::of(&ctx.cache, &spec);
        let whole = hub.as_ref().is_some_and(|hub| hub.file.is_none());
        let wanted = hub.as_ref().and_then(|hub| hub.file.as_deref());
        let wanted = wanted.or(slot.as_ref().map(|slot| slot.file.as_str()));
        match entry.files.as_slice() {
            [] => return Err(format!("{} has no files", entry.spec)),
            [only] if !whole && wanted == Some(only.path.as_str()) => {}
            _ if whole => {}
            _ => return Err(format!("{} has other files than its name says", entry.spec)),
        }
        if let Spec::Catalog(model) = &spec
            && let Some(pinned) = &model.sha256
            && entry.files[0].sha256 != *pinned
        {
            return Err(format!("{} has another sha256 than the catalog says", entry.spec));
        }
        Ok(Plan { spec, slot, hub })
    }

    fn carry_out(
        self,
        ctx: &Context<'_>,
        archive: &mut Archive,
        entry: &Entry,
        options: &Options,
    ) -> Result<Fetched> {
        if let Spec::Catalog(model) = &self.spec {
            fetch::require_licence(ctx, model, options)?;
        }
        let mut all_there = true;
        let mut path = None;
        for member in &entry.files {
            let target = match (&self.hub, &self.slot) {
                (Some(hub), _) => ctx.hub.blob(&hub.repo, member.etag.as_deref().unwrap_or(&member.sha256)),
                (None, Some(slot)) => slot.path(),
                (None, None) => unreachable!("an address is of a hub or has a slot"),
            };
            let lock = match (&self.hub, &self.slot) {
                (Some(hub), _) => {
                    ctx.hub.lock_path(&hub.repo, member.etag.as_deref().unwrap_or(&member.sha256))
                }
                (None, slot) => slot.as_ref().expect("see above").lock_path(),
            };
            let _lock = place::lock(ctx, &lock)?;
            let is_there = std::fs::metadata(&target).is_ok_and(|meta| meta.len() == member.bytes);
            all_there &= is_there;
            if !is_there {
                extract(ctx, archive, member, &target)?;
            }
            if let (Some(hub), Some(commit)) = (&self.hub, &entry.commit) {
                let etag = target.file_name().unwrap_or_default().to_string_lossy();
                path = Some(ctx.hub.publish(hub, &member.path, commit, &etag)?);
            } else if let Some(slot) = &self.slot {
                let sha256 = member.sha256.clone();
                slot.keep(&entry.spec, &digest::Sums { sha256, git: None, bytes: member.bytes })?;
            }
        }
        let single = self.hub.as_ref().is_none_or(|hub| hub.file.is_some());
        if let (Some(hub), Some(commit)) = (&self.hub, &entry.commit)
            && !single
        {
            path = Some(ctx.hub.snapshot(&hub.repo, commit));
        }
        if let (Some(slot), Some(target)) = (&self.slot, &path) {
            fetch::link_slot(slot, target)?;
        }
        let path = self.slot.map(|slot| slot.path()).or(path).expect("it has files");
        Ok(Fetched {
            name: entry.spec.clone(),
            path,
            cached: all_there,
            bytes: entry.files.iter().map(|file| file.bytes).sum(),
            sha256: single.then(|| entry.files[0].sha256.clone()),
            verified_by: VerifiedBy::Pinned,
        })
    }
}

/// One file out of the bundle, with both digests that it must have.
fn extract(ctx: &Context<'_>, archive: &mut Archive, member: &Member, target: &Path) -> Result<()> {
    place::create_parent(target)?;
    place::require_space(target.parent().unwrap_or(Path::new(".")), member.bytes)?;
    let partial = with_suffix(target, ".partial");
    let mut out = File::create(&partial).map_err(|error| Error::io(&partial, error))?;
    let by_name = member.etag.as_deref().and_then(Expected::of_etag);
    let name = format!("files/{}", member.sha256);
    let outcome = archive.extract(ctx, &name, member.bytes, by_name.as_ref(), &mut out).and_then(|sums| {
        let remedy = "do not use this bundle";
        sums.check(&Expected::Sha256(member.sha256.clone()), &member.path, remedy)?;
        by_name.map_or(Ok(()), |expected| sums.check(&expected, &member.path, remedy))
    });
    if outcome.is_err() {
        place::remove(&partial)?;
    }
    outcome?;
    place::publish(&partial, target)
}
