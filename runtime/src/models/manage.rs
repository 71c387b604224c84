//! What is here already: reading it again, naming it all, removing it.
//!
//! In: a [`Spec`]. Out: what was verified, or freed. Deliberately absent: the network.

use super::fetch::{Options, fetch, in_hub, locate};
use super::hub::Hub;
use super::slot::{Slot, records};
use super::spec::HubSpec;
use super::{Context, Fetched, Spec, place};
use crate::Result;
use bitforge_schema::catalog::{Catalog, Source};

/// Reads what `spec` names again and compares its digest.
pub fn verify(ctx: &Context<'_>, spec: &Spec) -> Result<Vec<Fetched>> {
    // A file of another length than it must have is there as well: that is for verifying to say.
    let path = locate(ctx, spec).or_else(|error| {
        let slot = Slot::of(&ctx.cache, spec).map(|slot| slot.path());
        slot.filter(|path| path.is_file()).ok_or(error)
    })?;
    let offline = Context {
        env: ctx.env,
        cache: ctx.cache.clone(),
        hub: Hub::new(ctx.env, &ctx.cache)?,
        offline: true,
        interrupt: ctx.interrupt.clone(),
        watch: ctx.watch,
        tuning: ctx.tuning,
    };
    let options = Options { verify: true, ..Options::default() };
    let mut fetched = fetch(&offline, spec, &options)?;
    fetched.iter_mut().for_each(|one| one.path.clone_from(&path));
    Ok(fetched)
}

/// Names of the catalog and addresses of slots that are here.
pub fn all_here(ctx: &Context<'_>) -> Vec<Spec> {
    let catalog = Catalog::committed();
    let named = catalog.models.into_iter().map(|model| Spec::Catalog(Box::new(model)));
    let lies_there = |spec: &Spec| Slot::of(&ctx.cache, spec).is_some_and(|slot| slot.path().exists());
    let mut here: Vec<Spec> = named.filter(|spec| locate(ctx, spec).is_ok() || lies_there(spec)).collect();
    for (_, record) in records(&ctx.cache) {
        if let Ok(spec) = Spec::parse(&record.source)
            && !matches!(spec, Spec::Catalog(_))
        {
            here.push(spec);
        }
    }
    here
}

/// Removes what `spec` names; returns the bytes that this frees.
pub fn remove(ctx: &Context<'_>, spec: &Spec) -> Result<u64> {
    let found = locate(ctx, spec);
    let hub = match spec {
        Spec::Hub(hub) => Some((hub.clone(), None)),
        Spec::Catalog(model) => match &model.source {
            Source::Hf { repo, revision } => {
                let file = model.member.clone();
                let hub = HubSpec { repo: repo.clone(), revision: revision.clone(), file };
                Some((hub, model.sha256.as_deref()))
            }
            _ => None,
        },
        _ => None,
    };
    let mut freed = 0;
    if let Some((hub, sha256)) = hub
        && let Some((path, files)) = in_hub(ctx, &hub, sha256)
    {
        for cached in files {
            match &cached.etag {
                Some(etag) => {
                    let _lock = place::lock(ctx, &ctx.hub.lock_path(&hub.repo, etag))?;
                    freed += ctx.hub.remove_blob(&hub.repo, etag)?;
                }
                None => place::remove(&cached.path)?,
            }
        }
        if hub.file.is_none() {
            place::remove(&path)?;
        }
    }
    if let Some(slot) = Slot::of(&ctx.cache, spec)
        && slot.dir.exists()
    {
        freed += slot.remove()?;
    } else {
        found?;
    }
    Ok(freed)
}
