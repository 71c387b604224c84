//! `bitnet models` as a process: exit codes, JSON lines, SIGKILL and SIGINT, and Python's library on the same cache.

use crate::fetch_support::*;
use crate::support::*;
use bitforge_faulty_hub::{Fault, On, content, drill};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn command(site: &Site, args: &[&str]) -> Command {
    let mut command = bitnet(&[&["models"], args].concat());
    command.envs(site.env().iter());
    command
}

fn models(site: &Site, args: &[&str]) -> Ran {
    finish(command(site, args).output().expect("the binary starts"))
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_model_is_fetched_listed_verified_located_and_removed() {
    let site = Site::new();
    let ran = models(&site, &["fetch", SPEC, "fixture-llama", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines = lines(&ran);
    let result = lines.last().expect("a result");
    assert_eq!((&result["event"], &result["models"][0]["cached"]), (&"fetched".into(), &false.into()));
    let dones: Vec<u64> = lines.iter().filter(|line| line["file"] == "model.gguf").map(done).collect();
    assert!(dones.is_sorted() && dones.last() == Some(&(site.content.len() as u64)), "{dones:?}");

    let list = models(&site, &["list", "--json"]).json();
    let here = list["models"].as_array().expect("a list").iter().filter(|model| model["cached"] == true);
    assert_eq!(here.map(|model| model["name"].clone()).collect::<Vec<_>>(), ["fixture-llama"]);

    let ran = models(&site, &["verify", SPEC, "fixture-llama"]);
    assert_eq!(ran.stdout.lines().filter(|line| line.contains(": right (")).count(), 2, "{}", ran.stderr);
    let path = PathBuf::from(models(&site, &["path", "fixture-llama"]).stdout.trim_end());
    std::fs::write(&path, b"damaged").expect("written");
    let ran = models(&site, &["verify"]);
    assert_eq!(ran.code, 14, "{}", ran.stderr);
    assert!(ran.stderr.contains("bitnet models rm"), "{}", ran.stderr);

    for model in ["fixture-llama", SPEC] {
        assert_eq!(models(&site, &["rm", model]).code, 0);
        let ran = models(&site, &["path", model]);
        assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
        assert!(ran.stderr.contains("run `bitnet models fetch"), "{}", ran.stderr);
    }
}

fn done(line: &Value) -> u64 {
    line["done"].as_u64().expect("a number")
}

#[test]
fn every_class_of_failure_has_its_exit_code() {
    let site = Site::new();
    let gated = Fault::Status(403, vec![("X-Error-Code", "GatedRepo".into())]);
    let wrong = "0".repeat(64);
    let cases: [(Option<Fault>, &[&str], i32, &str); 7] = [
        (None, &["no-such"], 4, "not-found"),
        (None, &["hf:owner/model:none"], 4, "not-found"),
        (None, &["hf:a"], 2, "usage"),
        (Some(gated), &[SPEC], 13, "gated"),
        (None, &["falcon-e-1b"], 13, "gated"),
        (None, &[SPEC, "--sha256", &wrong], 14, "mismatch"),
        (None, &[SPEC, "--offline"], 15, "offline"),
    ];
    for (fault, args, code, kind) in cases {
        site.hub.clear_faults();
        if let Some(fault) = fault {
            site.hub.fault(On::Head, 1, fault);
        }
        let ran = models(&site, &[&["fetch"], args, &["--json"]].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        let last = lines(&ran).pop().expect("a line");
        assert_eq!((&last["event"], &last["error"]["kind"]), (&"failed".into(), &kind.into()));
        let message = last["error"]["message"].as_str().expect("a message");
        assert!(message.contains("; ") && ran.stderr.contains(message), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_fetch_killed_at_any_point_goes_on_and_never_leaves_a_bad_file() {
    let report =
        drill::kill(Path::new(env!("CARGO_BIN_EXE_bitnet")), 24, 12, 7).unwrap_or_else(|e| panic!("{e}"));
    assert!(report["kills"].as_u64() >= Some(6), "{report}");
}

#[test]
fn ctrl_c_keeps_what_arrived() {
    let site = Site::new();
    site.hub.fault(On::Data, 1, Fault::DropAfter((1 << 20) + 1));
    site.hub.fault(On::Data, usize::MAX, Fault::Hang);
    let child =
        command(&site, &["fetch", SPEC, "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("it starts");
    while site.hub.log().iter().filter(|logged| logged.at_storage).count() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    signal(&child, libc::SIGINT);
    let ran = finish(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(site.is_kept() && site.left().is_empty());
}

#[test]
fn a_difference_is_named_by_key_and_tensor() {
    let [a, b] = ["bitnet-i2_s.gguf", "bitnet-tq2_0.gguf"].map(ok);
    let diff = json(&["models", "diff", &a, &b]);
    let what = |diff: &Value, name: &str| {
        let all = diff["tensors"].as_array().expect("a list");
        all.iter().find(|one| one["name"] == name).map(|one| one["what"].clone())
    };
    assert_eq!(what(&diff, "blk.0.attn_q.weight"), Some("type".into()));
    assert_eq!((what(&diff, "token_embd.weight"), &diff["equal"]), (None, &false.into()));
    assert_eq!(json(&["models", "diff", &a, &a])["equal"], true);
    let human = run(&["models", "diff", &a, &ok("bitnet-b158-i2_s.gguf")]).stdout;
    assert!(human.contains("general.architecture (value)") && human.contains("(only in B)"), "{human}");
}

/// A virtual environment with huggingface_hub, or why there is none.
fn python() -> Result<PathBuf, String> {
    let requirements = root().join("tools/requirements-hub.txt");
    let digest = content::sha256(&read(&requirements));
    let dir = root().join("target/hub-python").join(&digest[..16]);
    let python = dir.join("bin/python3");
    if dir.join("complete").is_file() {
        return Ok(python);
    }
    let run = |program: &Path, args: &[&str]| {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        if output.status.success() { Ok(()) } else { Err(last) }
    };
    run(Path::new("python3"), &["-m", "venv", "--clear", dir.to_str().expect("UTF-8")])?;
    let requirements = requirements.to_str().expect("UTF-8");
    let pip = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
        "--require-hashes",
        "--only-binary",
        ":all:",
    ];
    run(&python, &[&pip[..], &["-r", requirements]].concat())?;
    std::fs::write(dir.join("complete"), "").map_err(|error| error.to_string())?;
    Ok(python)
}

#[test]
fn python_reads_what_we_cached_and_we_read_what_it_cached() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return eprintln!("SKIPPED: huggingface_hub could not be installed: {why}"),
    };
    let script = "import sys\nfrom huggingface_hub import hf_hub_download\n\
                  print(hf_hub_download('owner/model', sys.argv[1], local_files_only=sys.argv[2] == 'offline'))";
    let download = |site: &Site, file: &str, how: &str| {
        let mut command = Command::new(&python);
        command.args(["-c", script, file, how]).envs(site.env().iter()).env("HF_HUB_DISABLE_XET", "1");
        command.env("HF_HUB_DISABLE_TELEMETRY", "1").env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        let ran = finish(command.output().expect("python runs"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        PathBuf::from(ran.stdout.trim_end())
    };
    let site = Site::new();
    site.hub.add(REPO, "config.json", b"{}".to_vec());
    for file in [FILE, "config.json"] {
        let ours = site.fetch(&format!("hf:{REPO}:{file}")).expect("fetched").remove(0);
        let before = site.hub.sent();
        assert_eq!(download(&site, file, "offline"), ours.path);
        assert_eq!(download(&site, file, "online"), ours.path);
        assert_eq!(site.hub.sent(), before, "{file} was fetched again");
    }
    let site = Site::new();
    site.hub.add(REPO, "config.json", b"{}".to_vec());
    for file in [FILE, "config.json"] {
        let its = download(&site, file, "online");
        let before = site.hub.sent();
        let ours = site.fetch(&format!("hf:{REPO}:{file}")).expect("there").remove(0);
        assert!(ours.cached && ours.path == its, "{} {}", ours.path.display(), its.display());
        assert_eq!(site.hub.sent(), before, "{file} was fetched again");
    }
}
