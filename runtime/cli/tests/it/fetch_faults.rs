//! The download engine against a hub that does everything wrong: the right file or the right error each time, nothing
//! lost, nothing unfinished under a final name.

use crate::fetch_support::*;
use bitforge_faulty_hub::{Fault, On, content};
use bitforge_schema::exit::ExitCode;
use bitnet_runtime::models::fetch::Options;
use bitnet_runtime::models::{Event, VerifiedBy};
use std::sync::atomic::Ordering;

fn status(code: u16) -> Fault {
    Fault::Status(code, Vec::new())
}

fn with_header(code: u16, name: &'static str, value: &str) -> Fault {
    Fault::Status(code, vec![(name, value.to_owned())])
}

/// How long is waited for a hub that says nothing. A machine that is busy with others must answer sooner.
const SHORT: std::time::Duration = std::time::Duration::from_secs(2);

/// Faults that pass: the file is right in the end.
#[test]
fn what_passes_is_tried_again() {
    let half = 1 << 19;
    let cases = [
        (On::Head, 2, Fault::DropBeforeHeaders),
        (On::Head, 1, Fault::DropInHeaders),
        (On::Head, 1, Fault::Hang),
        (On::Head, 3, status(503)),
        (On::Get, 2, Fault::DropBeforeHeaders),
        (On::Get, 1, status(500)),
        (On::Get, 1, with_header(429, "Retry-After", "0")),
        (On::Get, 1, with_header(503, "Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")),
        (On::Data, 2, Fault::DropBeforeHeaders),
        (On::Data, 1, Fault::DropInHeaders),
        (On::Data, 1, Fault::DropAfter(0)),
        (On::Data, 3, Fault::DropAfter(half)),
        (On::Data, 9, Fault::DropAfter(half * 3)),
        (On::Data, 2, Fault::Short(half)),
        (On::Data, 2, Fault::WrongRange),
        (On::Data, 1, Fault::Corrupt),
        (On::Data, 1, Fault::OtherTag),
        (On::Data, 1, Fault::NoRanges),
        (On::Data, usize::MAX, Fault::NoRanges),
        (On::Data, 1, Fault::Hang),
        (On::Data, 1, Fault::Drip),
        (On::Data, 1, status(403)),
        (On::Data, 2, status(500)),
        (On::Data, 1, status(416)),
    ];
    // A few at once: each has its own hub, file and caches.
    for some in cases.chunks(6) {
        std::thread::scope(|scope| {
            some.iter().cloned().for_each(|(on, times, fault)| {
                scope.spawn(move || {
                    let mut site = Site::new();
                    if matches!(fault, Fault::Hang | Fault::Drip) {
                        site.tuning.stall = SHORT;
                    }
                    site.hub.fault(on, times, fault.clone());
                    let fetched =
                        site.fetch(SPEC).unwrap_or_else(|error| panic!("{on:?} {fault:?}: {error}"));
                    assert_eq!(read(&fetched[0].path), site.content, "{on:?} {fault:?}");
                    assert!(!fetched[0].cached && !site.is_kept(), "{on:?} {fault:?}");
                    assert_eq!(fetched[0].verified_by, VerifiedBy::Hub);
                });
            })
        });
    }
}

/// Faults that stay: an error of the right class, and no file.
#[test]
fn what_stays_is_an_error_of_its_class() {
    let gated = |code| with_header(code, "X-Error-Code", "GatedRepo");
    let missing = |code| with_header(404, "X-Error-Code", code);
    let hostile = |name, value: &str| Fault::Headers(vec![(name, value.to_owned())]);
    let (network, many) = (ExitCode::Network, usize::MAX);
    let cases = [
        (On::Head, gated(401), ExitCode::Gated, "ask for access at"),
        (On::Head, gated(403), ExitCode::Gated, "set HF_TOKEN"),
        (On::Head, status(401), ExitCode::Gated, "not open to everybody"),
        (On::Head, missing("EntryNotFound"), ExitCode::NotFound, "EntryNotFound"),
        (On::Head, missing("RevisionNotFound"), ExitCode::NotFound, "check name, revision and file"),
        (On::Head, status(500), network, "given up after 4 tries"),
        (On::Head, with_header(429, "Retry-After", "86400"), network, "asks to wait 86400 s"),
        (On::Head, Fault::Loop, network, "goes round in circles"),
        (On::Head, Fault::Redirect("file:///etc/passwd".into()), network, "not a place to go on to"),
        (On::Head, Fault::DropBeforeHeaders, network, "check the network"),
        (On::Get, Fault::Loop, network, "goes round in circles"),
        (On::Data, Fault::DropAfter(1000), network, "given up after 4 tries without progress"),
        (On::Data, Fault::WrongRange, network, "asked for bytes "),
        (On::Data, Fault::Corrupt, ExitCode::Mismatch, "instead of"),
        (On::Data, status(416), network, "changed 3 times"),
        (On::Data, status(404), network, "the storage answered HTTP 404"),
        (On::Head, hostile("X-Repo-Commit", "../../../etc"), network, "no usable X-Repo-Commit"),
        (On::Head, hostile("X-Linked-Etag", "\"../../../evil\""), network, "no usable ETag"),
        (On::Head, hostile("X-Linked-Size", "18446744073709551615"), ExitCode::Limit, "free some"),
        (On::Head, hostile("X-Padding", &"x".repeat(100_000)), network, "check the address"),
    ];
    // A few at once: each has its own hub, file and caches.
    for some in cases.chunks(6) {
        std::thread::scope(|scope| {
            some.iter().cloned().for_each(|(on, fault, code, says)| {
                scope.spawn(move || {
                    let site = Site::new();
                    site.hub.fault(on, many, fault.clone());
                    let error = site.fetch(SPEC).expect_err("it stays wrong");
                    assert_eq!(error.exit_code(), code, "{on:?} {fault:?}: {error}");
                    assert!(error.to_string().contains(says), "{on:?} {fault:?}: {error}");
                    assert_eq!(site.left(), [] as [String; 0], "{on:?} {fault:?}");
                    // Once the hub is well again, so is the fetch.
                    site.hub.clear_faults();
                    assert_eq!(read(&site.fetch(SPEC).expect("well again")[0].path), site.content);
                });
            })
        });
    }
}

#[test]
fn what_arrived_before_a_failure_is_not_fetched_again() {
    let mut site = Site::new();
    site.tuning.connections = 1;
    // Two blocks arrive, then nothing any more.
    site.hub.fault(On::Data, 2, Fault::DropAfter(1 << 20));
    site.hub.fault(On::Data, usize::MAX, Fault::DropBeforeHeaders);
    site.fetch(SPEC).expect_err("the storage is gone");
    assert!(site.is_kept());
    site.hub.clear_faults();
    let before = site.hub.sent();
    let fetched = site.fetch(SPEC).expect("the storage is back");
    assert_eq!(read(&fetched[0].path), site.content);
    assert_eq!(site.hub.sent() - before, site.content.len() as u64 - (2 << 20));
}

#[test]
fn a_file_that_is_replaced_midway_is_the_new_one_in_the_end() {
    for spec in [SPEC.to_owned(), "plain".into()] {
        let site = Site::new();
        let spec = if spec == "plain" { format!("{}/plain/model.gguf", site.hub.url()) } else { spec };
        // The probe of a plain file asks for one byte first.
        let probes = usize::from(spec.starts_with("http"));
        site.hub.fault(On::Data, 1 + probes, Fault::DropAfter((1 << 20) + 1000));
        site.hub.fault(On::Data, 1, Fault::Replace);
        let fetched = site.fetch(&spec).expect("the new file");
        let mut reversed = site.content.clone();
        reversed.reverse();
        assert_eq!(read(&fetched[0].path), reversed, "{spec}");
        assert!(!site.is_kept());
    }
}

#[test]
fn the_token_is_seen_by_the_hub_alone() {
    let mut site = Site::new();
    site.token = Some("hf_secret");
    // So that faults are met in the order in which they are planted.
    site.tuning.connections = 1;
    site.fetch(SPEC).expect("fetched");
    // A hub that sends the client to another origin under a path of the hub's own.
    let trap = format!("{}/owner/model/resolve/main/{FILE}", site.hub.storage());
    for on in [On::Head, On::Get] {
        std::fs::remove_dir_all(site.path("hub")).expect("removed");
        site.hub.fault(on, 1, Fault::Redirect(trap.clone()));
        site.fetch(SPEC).expect("the storage knows the file, too");
    }
    // There and back again: the token stays out once it left.
    std::fs::remove_dir_all(site.path("hub")).expect("removed");
    site.hub.fault(On::Get, 1, Fault::Redirect(trap));
    site.hub.fault(
        On::Get,
        1,
        Fault::Redirect(format!("{}/owner/model/resolve/main/{FILE}?2", site.hub.url())),
    );
    let before = site.hub.log().len();
    site.fetch(SPEC).expect("fetched");
    let log = site.hub.log();
    for logged in &log {
        assert!(!logged.at_storage || logged.authorization.is_none(), "{logged:?}");
    }
    assert!(log[..before].iter().any(|logged| logged.authorization.as_deref() == Some("Bearer hf_secret")));
    let back = log[before..].iter().find(|logged| logged.path.ends_with("?2")).expect("it came back");
    assert!(!back.at_storage && back.authorization.is_none(), "{back:?}");
}

#[test]
fn a_plain_web_server_never_sees_a_token() {
    let mut site = Site::new();
    site.token = Some("hf_secret");
    let url = format!("{}/plain/model.gguf", site.hub.url());
    let fetched = site.fetch(&url).expect("fetched");
    assert_eq!((read(&fetched[0].path), fetched[0].verified_by), (site.content.clone(), VerifiedBy::Length));
    assert!(site.hub.log().iter().all(|logged| logged.authorization.is_none()));
    // There already: no further request. With another digest than asked for: an error and no file.
    let requests = site.hub.log().len();
    assert!(site.fetch(&url).expect("there").first().is_some_and(|one| one.cached));
    assert_eq!(site.hub.log().len(), requests);
    std::fs::remove_dir_all(site.path("cache")).expect("removed");
    let wrong = Options { sha256: Some("0".repeat(64)), ..Options::default() };
    let error = site.fetch_with(&url, &wrong).expect_err("another digest");
    assert_eq!(error.exit_code(), ExitCode::Mismatch);
    assert_eq!(site.left(), [] as [String; 0]);
    let right = Options { sha256: Some(content::sha256(&site.content)), ..Options::default() };
    assert_eq!(site.fetch_with(&url, &right).expect("right")[0].verified_by, VerifiedBy::Pinned);
}

#[test]
fn progress_never_goes_backwards() {
    for fault in
        [Fault::DropAfter(1 << 19), Fault::DropAfter((1 << 20) + 99), Fault::Corrupt, Fault::OtherTag]
    {
        let site = Site::new();
        site.hub.fault(On::Data, 3, fault.clone());
        let (events, result) = site.fetch_and_watch(SPEC);
        let dones: Vec<u64> = events
            .iter()
            .filter_map(|event| match event {
                Event::Progress { done, total, .. } => {
                    assert_eq!(*total, site.content.len() as u64);
                    Some(*done)
                }
                Event::Note { .. } => None,
            })
            .collect();
        assert!(dones.is_sorted(), "{fault:?}: {dones:?}");
        if result.is_ok() {
            assert_eq!(dones.last(), Some(&(site.content.len() as u64)));
        }
    }
}

#[test]
fn an_interrupt_ends_it_at_once_and_keeps_what_arrived() {
    let mut site = Site::new();
    (site.tuning.connections, site.tuning.stall) = (1, SHORT);
    site.hub.fault(On::Data, 2, Fault::DropAfter(1 << 20));
    site.hub.fault(On::Data, usize::MAX, Fault::Hang);
    let interrupt = site.interrupt.clone();
    let watch = |event| {
        if let Event::Progress { done, .. } = event
            && done >= 2 << 20
        {
            interrupt.store(true, Ordering::Relaxed);
        }
    };
    let error = site
        .with(&watch, |ctx| {
            let spec = bitnet_runtime::models::Spec::parse(SPEC)?;
            bitnet_runtime::models::fetch::fetch(ctx, &spec, &Options::default())
        })
        .expect_err("interrupted");
    assert_eq!(error.exit_code(), ExitCode::Interrupted);
    assert!(site.is_kept() && site.left().is_empty());
    site.interrupt.store(false, Ordering::Relaxed);
    site.hub.clear_faults();
    let before = site.hub.sent();
    assert_eq!(read(&site.fetch(SPEC).expect("goes on")[0].path), site.content);
    assert!(site.hub.sent() - before <= site.content.len() as u64 - (2 << 20));
}

#[test]
fn a_proxy_is_used_where_the_variables_say_so() {
    let mut site = Site::new();
    // No name server knows the host: only the proxy can.
    let endpoint = "http://hub.invalid";
    site.more = vec![("HF_ENDPOINT", endpoint.into()), ("HTTP_PROXY", site.hub.url())];
    site.hub.add(REPO, "small.txt", b"hello\n".to_vec());
    let fetched = site.fetch("hf:owner/model:small.txt").expect("through the proxy");
    assert_eq!(read(&fetched[0].path), b"hello\n");
    assert!(
        site.hub.log().iter().any(|logged| (&*logged.method, &*logged.path) == ("CONNECT", "hub.invalid:80"))
    );
    site.more.push(("NO_PROXY", "hub.invalid".into()));
    std::fs::remove_dir_all(site.path("hub")).expect("removed");
    let error = site.fetch("hf:owner/model:small.txt").expect_err("nobody knows hub.invalid");
    assert_eq!(error.exit_code(), ExitCode::Network);
}
