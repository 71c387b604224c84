//! The caches: shared with Python, used without network, bundled, and never led astray by what a server or an archive
//! says.

use crate::fetch_support::*;
use bitforge_faulty_hub::{Fault, On, content};
use bitforge_schema::exit::ExitCode;
use bitnet_runtime::models::fetch::{self, Options};
use bitnet_runtime::models::{Spec, bundle, manage};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

#[test]
fn the_layout_is_the_one_that_is_documented() {
    let site = Site::new();
    let fetched = site.fetch(SPEC).expect("fetched");
    let repo = site.path("hub/models--owner--model");
    let snapshot = repo.join("snapshots").join(site.hub.commit()).join(FILE);
    assert_eq!(fetched[0].path, snapshot);
    let blob = format!("../../../blobs/{}", content::sha256(&site.content));
    assert_eq!(fs::read_link(&snapshot).expect("a link"), Path::new(&blob));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).expect("a ref"), site.hub.commit());
    assert!(site.path("hub/.locks/models--owner--model").is_dir());
}

/// As Python's library leaves it: the blob, a link, a ref.
fn as_python_left_it(site: &Site) {
    let repo = site.path("hub/models--owner--model");
    let snapshot = repo.join("snapshots").join(site.hub.commit());
    for dir in [repo.join("blobs"), repo.join("refs"), snapshot.join("sub")] {
        fs::create_dir_all(dir).expect("a folder");
    }
    fs::write(site.blob(), &site.content).expect("written");
    symlink(format!("../../../blobs/{}", content::sha256(&site.content)), snapshot.join(FILE))
        .expect("linked");
    fs::write(repo.join("refs/main"), site.hub.commit()).expect("written");
}

#[test]
fn what_python_fetched_is_used_and_not_fetched_again() {
    let site = Site::new();
    as_python_left_it(&site);
    let fetched = site.fetch(SPEC).expect("there");
    assert!(fetched[0].cached);
    assert_eq!((read(&fetched[0].path), site.data_requests()), (site.content.clone(), 0));
    // By commit, not even the hub is asked.
    let asked = site.hub.log().len();
    let by_commit = format!("hf:{REPO}@{}:{FILE}", site.hub.commit());
    assert!(site.fetch(&by_commit).expect("there")[0].cached);
    assert_eq!(site.hub.log().len(), asked);
}

#[test]
fn offline_verifies_and_asks_nobody() {
    let mut site = Site::new();
    site.offline = true;
    let error = site.fetch(SPEC).expect_err("nothing is there");
    assert_eq!(error.exit_code(), ExitCode::Offline);
    assert!(error.to_string().contains("without --offline"), "{error}");
    as_python_left_it(&site);
    assert!(site.fetch(SPEC).expect("there")[0].cached);
    let mut damaged = site.content.clone();
    damaged[1000] ^= 1;
    fs::write(site.blob(), damaged).expect("written");
    let error = site.fetch(SPEC).expect_err("damaged");
    assert_eq!(error.exit_code(), ExitCode::Mismatch);
    assert_eq!(site.hub.log().len(), 0);
    // With the network back, --verify repairs it.
    site.offline = false;
    let verify = Options { verify: true, ..Options::default() };
    let fetched = site.fetch_with(SPEC, &verify).expect("repaired");
    assert_eq!((read(&fetched[0].path), fetched[0].cached), (site.content.clone(), false));
}

#[test]
fn two_fetches_at_once_download_once() {
    let site = Site::new();
    let fetched = std::thread::scope(|scope| {
        let threads = [(); 3].map(|()| scope.spawn(|| site.fetch(SPEC).expect("fetched").remove(0)));
        threads.map(|thread| thread.join().expect("no panic"))
    });
    assert_eq!(fetched.iter().filter(|one| !one.cached).count(), 1);
    assert_eq!(site.hub.sent(), site.content.len() as u64);
}

#[test]
fn a_whole_repository_is_a_snapshot_and_small_files_are_verified_too() {
    let mut site = Site::new();
    site.hub.add(REPO, "config.json", b"{}".to_vec());
    site.hub.add(REPO, "empty", Vec::new());
    let fetched = site.fetch("hf:owner/model").expect("fetched");
    assert_eq!(fetch::files_below(&fetched[0].path), ["config.json", "empty", FILE]);
    assert!(site.fetch("hf:owner/model").expect("there")[0].cached);
    site.hub.add(REPO, "other.json", b"{\"a\":1}".to_vec());
    site.hub.fault(On::Get, 1, Fault::DropBeforeHeaders);
    site.hub.fault(On::Data, usize::MAX, Fault::Corrupt);
    let error = site.fetch("hf:owner/model").expect_err("a small file is spoilt");
    assert_eq!(error.exit_code(), ExitCode::Mismatch);
    assert!(error.to_string().contains("git blob id"), "{error}");
    site.hub.clear_faults();
    site.fetch("hf:owner/model").expect("well again");
    site.offline = true;
    assert_eq!(site.fetch("hf:owner/model").expect("there")[0].bytes, site.content.len() as u64 + 9);
}

#[test]
fn hostile_lists_are_refused() {
    let list = |file: &str| {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        serde_json::json!({ "sha": sha, "siblings": [{ "rfilename": file }] }).to_string()
    };
    let many: Vec<_> = (0..20_000).map(|i| serde_json::json!({ "rfilename": i.to_string() })).collect();
    let many = serde_json::json!({ "sha": "0".repeat(40), "siblings": many }).to_string();
    for body in [
        list("../../../../evil"),
        list("/etc/passwd"),
        list("a\\..\\..\\b"),
        list("a//b"),
        list("a\u{0}b"),
        list(&"d/".repeat(100)),
        "{\"sha\":\"../..\",\"siblings\":[]}".into(),
        "no json".into(),
        many,
        format!("\"{}\"", "x".repeat(17 << 20)),
    ] {
        let site = Site::new();
        site.hub.fault(On::List, 1, Fault::Body(body.clone()));
        let error = site.fetch("hf:owner/model").expect_err("hostile");
        assert_eq!(error.exit_code(), ExitCode::Network, "{error}");
        assert_eq!(site.left(), [] as [String; 0], "{:.80}", body);
    }
}

#[test]
fn a_repository_that_is_not_there_says_so() {
    let mut site = Site::new();
    let error = site.fetch("hf:no/body").expect_err("no repository");
    assert_eq!(error.exit_code(), ExitCode::Gated, "{error}");
    assert!(error.to_string().contains("does not exist or is not public"), "{error}");
    site.token = Some("hf_x");
    for spec in ["hf:no/body", "hf:no/body:f", "hf:owner/model:none"] {
        assert_eq!(site.fetch(spec).expect_err("nothing").exit_code(), ExitCode::NotFound, "{spec}");
    }
}

#[test]
fn a_bundle_carries_models_to_a_machine_without_network() {
    let site = Site::new();
    site.hub.add(REPO, "config.json", b"{}".to_vec());
    let url = format!("{}/plain/model.gguf", site.hub.url());
    let models = ["hf:owner/model", SPEC, url.as_str(), "fixture-llama"];
    for model in models {
        site.fetch(model).expect("fetched");
    }
    let out = site.path("models.zip");
    let specs: Vec<Spec> = models.iter().map(|model| Spec::parse(model).expect("an address")).collect();
    site.with(&|_| (), |ctx| bundle::write(ctx, &specs, &out)).expect("written");

    let mut other = Site::new();
    other.offline = true;
    other.more = vec![("HF_ENDPOINT", site.hub.url())];
    let from = format!("bundle:{}", out.display());
    let fetched = other.fetch(&from).expect("unpacked");
    assert_eq!(fetched.len(), 4);
    for model in models {
        let here = other.fetch(model).unwrap_or_else(|error| panic!("{model}: {error}"));
        assert!(here[0].cached, "{model}");
    }
    assert_eq!(read(&other.fetch(SPEC).expect("there")[0].path), site.content);
    assert!(other.fetch(&format!("{from}:smollm2-135m")).is_err(), "it is not in the bundle");
    // The blob is stored once although two entries have it.
    let size = fs::metadata(&out).expect("it is there").len();
    assert!(size < 2 * site.content.len() as u64, "{size}");
}

/// A zip archive of these members.
fn archive(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    for (name, bytes) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).expect("started");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("finished");
}

#[test]
fn hostile_bundles_leave_nothing() {
    let site = Site::new();
    let path = site.path("bad.zip");
    let digest = content::sha256(b"evil");
    let member = format!("files/{digest}");
    let commit = "0".repeat(40);
    let entry = |spec: &str, file: &str, etag: Option<&str>, bytes: u64| {
        let files = [serde_json::json!({ "path": file, "bytes": bytes, "sha256": digest, "etag": etag })];
        serde_json::json!({ "spec": spec, "commit": commit, "files": files })
    };
    let pinned = "0".repeat(64);
    for entry in [
        entry("hf:a/b:../../x", "../../x", None, 4),
        entry("hf:a/b", "../../x", None, 4),
        entry("hf:a/b", "/etc/passwd", None, 4),
        entry("hf:a/b:x", "y", None, 4),
        entry("hf:a/b:x", "x", Some("../../evil"), 4),
        entry("hf:a/b:x", "x", Some(&pinned), 4),
        entry("hf:a/b:x", "x", None, 5),
        entry("hf:a/b:x", "x", None, u64::MAX),
        entry("hf:../b:x", "x", None, 4),
        entry("bitnet-2b4t", "ggml-model-i2_s.gguf", None, 4),
        entry("fixture-llama", "llama-q4_0.gguf", None, 4),
        entry("http://h/x.gguf", "../x.gguf", None, 4),
        serde_json::json!({ "spec": "hf:a/b:x", "commit": "../..", "files": [] }),
        serde_json::json!({ "spec": "hf:a/b:x", "commit": commit, "files": [] }),
    ] {
        let manifest = serde_json::json!({ "bitforge_bundle": 1, "models": [entry] }).to_string();
        archive(&path, &[("bundle.json", manifest.as_bytes()), (&member, b"evil")]);
        let error = site.fetch(&format!("bundle:{}", path.display())).expect_err("hostile");
        let expected = [ExitCode::BadInput, ExitCode::Mismatch, ExitCode::Limit];
        assert!(expected.contains(&error.exit_code()), "{manifest}: {error}");
        assert_eq!(site.left(), [] as [String; 0], "{manifest}");
    }
    archive(&path, &[("bundle.json", b"{\"bitforge_bundle\":2,\"models\":[]}")]);
    assert!(site.fetch(&format!("bundle:{}", path.display())).is_err());
    let bomb = vec![b' '; 64 << 20];
    archive(&path, &[("bundle.json", &bomb)]);
    assert!(site.fetch(&format!("bundle:{}", path.display())).is_err(), "a manifest of 64 MiB");
}

#[test]
fn licences_with_terms_are_accepted_by_name_and_once() {
    let site = Site::new();
    site.hub.add("tiiuae/Falcon-E-1B-Instruct-GGUF", "ggml-model-i2_s.gguf", site.content.clone());
    let error = site.fetch("falcon-e-1b").expect_err("not accepted");
    assert_eq!(error.exit_code(), ExitCode::Gated);
    assert!(error.to_string().contains("--accept-licence falcon-llm-license"), "{error}");
    assert!(site.hub.log().is_empty());
    let accepted = Options { accepted: vec!["falcon-llm-license".into()], ..Options::default() };
    let fetched = site.fetch_with("falcon-e-1b", &accepted).expect("accepted");
    assert_eq!(fetched[0].path, site.path("cache/models/falcon-e-1b/ggml-model-i2_s.gguf"));
    fs::remove_dir_all(site.path("hub")).expect("removed");
    site.fetch("falcon-e-1b").expect("it was accepted before");
    let spec = Spec::parse("falcon-e-1b").expect("a name");
    let freed = site.with(&|_| (), |ctx| manage::remove(ctx, &spec)).expect("removed");
    assert!(freed >= site.content.len() as u64);
    assert!(!site.blob().exists() && fetch::files_below(&site.path("cache/models")).is_empty());
}

#[test]
fn a_file_on_a_mirror_is_copied_and_kept_with_its_digest() {
    let mut site = Site::new();
    let mirror = site.path("mirror.gguf");
    fs::write(&mirror, &site.content).expect("written");
    let spec = format!("file:{}", mirror.display());
    let fetched = site.fetch(&spec).expect("copied");
    assert_eq!(fetched[0].sha256.as_deref(), Some(content::sha256(&site.content).as_str()));
    fs::remove_file(mirror).expect("removed");
    site.offline = true;
    assert!(site.fetch(&spec).expect("kept")[0].cached);
    fs::write(&fetched[0].path, b"other").expect("written");
    assert_eq!(site.fetch(&spec).expect_err("changed").exit_code(), ExitCode::Mismatch);
}
