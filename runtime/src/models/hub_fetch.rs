//! Fetching from the hub: `HEAD /REPO/resolve/REVISION/FILE` says which commit, digest and length, `GET` of the same
//! gives the bytes, `/api/models/REPO/revision/REVISION` lists the files.
//!
//! In: a [`HubSpec`]. Out: files in the hub's cache. A blob that is there, whoever fetched it, is linked and not
//! fetched. Everything a server says that becomes part of a path is checked first.

use super::digest::Expected;
use super::download::{self, Ended, Job};
use super::http::{Client, Fault, Remote, Token, origin};
use super::hub::{Cached, is_blob_name, parse_list};
use super::spec::HubSpec;
use super::{Context, place};
use crate::{Error, Result};
use bitforge_schema::catalog::is_hex;
use std::sync::atomic::AtomicU64;

const MAX_LIST: u64 = 16 << 20;
/// How often a file may change under a download.
const MAX_CHANGES: usize = 3;

/// What the hub says about a file before it is fetched.
struct Facts {
    commit: String,
    etag: String,
    bytes: u64,
}

/// Fetches one file; `expected` is a sha256 known beforehand. Also tells whether it was there.
pub fn file(
    ctx: &Context<'_>,
    client: &Client,
    spec: &HubSpec,
    file: &str,
    expected: Option<&str>,
) -> Result<(Cached, bool)> {
    let hub = &ctx.hub;
    let what = HubSpec { file: Some(file.into()), ..spec.clone() }.to_string();
    let remote = remote(ctx, spec, &format!("/{}/resolve/{}/{file}", spec.repo, spec.revision), &what);
    let shown = AtomicU64::new(0);
    for _ in 0..MAX_CHANGES {
        let Facts { commit, etag, bytes } = download::retrying(ctx, || facts(client, &remote))?;
        if let Some(expected) = expected
            && is_hex(&etag, 64)
            && etag != expected
        {
            return Err(Error::mismatch(
                format!("{what} has the sha256 {etag} on the hub instead of {expected}"),
                "the repository holds another file than it should; do not use it",
            ));
        }
        let digest = expected.map(|expected| Expected::Sha256(expected.into())).or(Expected::of_etag(&etag));
        if digest.is_none() {
            ctx.note(format!("warning: the hub names no digest of {what}: only its length is checked"));
        }
        let blob = hub.blob(&spec.repo, &etag);
        let is_there = || std::fs::metadata(&blob).is_ok_and(|meta| meta.is_file() && meta.len() == bytes);
        let mut was_there = is_there();
        if !was_there {
            let _lock = place::lock(ctx, &hub.lock_path(&spec.repo, &etag))?;
            // Whoever held the lock may have fetched it.
            was_there = is_there();
            if !was_there {
                let label = file.rsplit('/').next().unwrap_or(file);
                let (target, validator) = (blob.as_path(), None);
                let job =
                    Job { remote: &remote, label, target, bytes, validator, expected: digest, shown: &shown };
                if let Ended::Changed(why) = download::run(ctx, client, &job)? {
                    ctx.note(format!("{why}; asking the hub again"));
                    continue;
                }
            }
        }
        let path = hub.publish(spec, file, &commit, &etag)?;
        return Ok((Cached { path, commit, etag: Some(etag) }, was_there));
    }
    let again = format!("{what} changed {MAX_CHANGES} times while it was fetched");
    Err(Error::network(again, "try again later, or name a commit"))
}

/// The commit of a revision and the files in it.
pub fn list(ctx: &Context<'_>, client: &Client, spec: &HubSpec) -> Result<(String, Vec<String>)> {
    let what = spec.to_string();
    let revision = spec.revision.replace('/', "%2F");
    let remote = remote(ctx, spec, &format!("/api/models/{}/revision/{revision}", spec.repo), &what);
    let text = download::retrying(ctx, || client.get(&remote, &[])?.text(MAX_LIST, &remote))?;
    parse_list(&text, &what)
}

fn remote(ctx: &Context<'_>, spec: &HubSpec, path: &str, what: &str) -> Remote {
    let endpoint = &ctx.hub.endpoint;
    let url = format!("{endpoint}{}", path.replace(' ', "%20"));
    let token = ctx.hub.token.clone().zip(origin(endpoint));
    Remote {
        url,
        what: what.into(),
        token: token.map(|(secret, origin)| Token { secret, origin }),
        page: Some(format!("{endpoint}/{}", spec.repo)),
    }
}

fn facts(client: &Client, remote: &Remote) -> Result<Facts, Fault> {
    let reply = client.head(remote)?;
    let hostile = |header: &str| {
        Fault::Fatal(Error::network(
            format!("{}: the hub's answer has no usable {header}", remote.what),
            "check HF_ENDPOINT: it must speak the hub's protocol",
        ))
    };
    let commit = reply.header("x-repo-commit").filter(|commit| is_hex(commit, 40));
    let etag = reply.etag().filter(|etag| is_blob_name(etag));
    let bytes = reply.number("x-linked-size").or_else(|| reply.number("content-length"));
    Ok(Facts {
        commit: commit.ok_or_else(|| hostile("X-Repo-Commit"))?.into(),
        etag: etag.ok_or_else(|| hostile("ETag"))?.into(),
        bytes: bytes.ok_or_else(|| hostile("Content-Length"))?,
    })
}
