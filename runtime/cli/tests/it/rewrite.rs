//! `bitnet quantize` and `bitnet convert` as commands: what is refused before anything is written, what is printed,
//! what an interrupt leaves.

use crate::support::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;

fn scratch() -> (TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out.gguf");
    let text = out.to_str().expect("UTF-8").to_owned();
    (dir, out, text)
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Names and data of the tensors of a file.
fn tensors(file: &str) -> Vec<(String, Vec<u8>)> {
    let shown = json(&["inspect", "-m", file]);
    let bytes = fs::read(root().join(file)).expect("a file");
    let data = |tensor: &Value| {
        let number = |key: &str| tensor[key].as_u64().expect("a number") as usize;
        bytes[number("offset")..][..number("bytes")].to_vec()
    };
    let tensors = shown["tensors"].as_array().expect("an array").iter();
    tensors.map(|tensor| (tensor["name"].to_string(), data(tensor))).collect()
}

/// The fixtures of a family hold the same codes and scales, so each must become any other to the last byte.
#[test]
fn every_ternary_fixture_becomes_every_ternary_type() {
    let (_dir, _out, path) = scratch();
    let families = [
        ("bitnet-b158", &["i2_s", "tq1_0", "tq2_0"][..]),
        ("bitnet", &["i2_s", "q2_0", "tl1", "tl2", "tq1_0", "tq2_0"]),
    ];
    for (family, types) in families {
        for to in types {
            let expected = ok(&format!("{family}-{to}.gguf"));
            let sizes = json(&["inspect", "-m", &expected])["metadata"]["bitforge.tl_config"].clone();
            let expected = tensors(&expected);
            for from in types {
                let input = ok(&format!("{family}-{from}.gguf"));
                let mut args = vec!["quantize", &input, &path, "--type", to, "--force"];
                args.extend(sizes.as_str().into_iter().flat_map(|sizes| ["--tl-config", sizes]));
                let ran = run(&args);
                assert_eq!(ran.code, 0, "{}", ran.stderr);
                assert!(tensors(&path) == expected, "{family} {from} {to}");
            }
        }
    }
}

#[test]
fn quantize_human_and_json() {
    let (_dir, _out, path) = scratch();
    let args = ["quantize", MODEL, &path, "--type", "tq2_0", "--threads", "2", "--force"];
    let ran = run(&args);
    let mut output = stable(json(&args));
    let tensors = output["tensors"].as_array_mut().expect("an array");
    assert_eq!(tensors.len(), 24);
    tensors.truncate(2);
    let both =
        format!("{}{}{}", ran.stdout, ran.stderr, serde_json::to_string_pretty(&output).expect("JSON"));
    insta::with_settings!({filters => vec![(r"in [0-9.]+ s on", "in [time] on")]}, {
        insta::assert_snapshot!(both.replace(&path, "[out]"));
    });
}

#[test]
fn a_scale_with_more_bits_than_the_type_holds_is_a_warning() {
    let (dir, _out, path) = scratch();
    let exact = dir.path().join("exact.gguf");
    let mut bytes = fs::read(root().join(MODEL)).expect("the fixture");
    let shown = json(&["inspect", "-m", MODEL]);
    let tensor =
        shown["tensors"].as_array().expect("an array").iter().find(|t| t["type"] == "I2_S").expect("one");
    let at = (tensor["offset"].as_u64().expect("a number") + tensor["bytes"].as_u64().expect("a number"))
        as usize
        - 32;
    bytes[at..at + 4].copy_from_slice(&0.1f32.to_le_bytes());
    fs::write(&exact, bytes).expect("writable");
    let exact = exact.to_str().expect("UTF-8");
    let output = json(&["quantize", exact, &path, "--type", "tq1_0"]);
    let told =
        output["tensors"].as_array().expect("an array").iter().filter(|t| !t["written_scale"].is_null());
    assert_eq!(told.map(|t| t["name"].clone()).collect::<Vec<_>>(), [tensor["name"].clone()]);
    let warning = output["warnings"][0].as_str().expect("a warning");
    assert!(warning.starts_with("the scales of 1 tensors have more bits than TQ1_0 holds"), "{warning}");
}

#[test]
fn what_would_be_lost_is_refused_before_it_is() {
    let (dir, out, path) = scratch();
    fs::write(&out, b"precious").expect("writable");
    let here = dir.path().to_str().expect("UTF-8");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["quantize", MODEL, &path, "--type", "tq2_0"], 2, "exists; give --force"),
        (&["quantize", MODEL, MODEL, "--type", "tq2_0", "--force"], 2, "is the input"),
        (&["quantize", MODEL, here, "--type", "tq2_0"], 2, "is a directory"),
        (&["quantize", MODEL, &path, "--type", "q9"], 2, "one of f32, f16"),
        (
            &["quantize", MODEL, &path, "--type", "i2_s", "--output-type", "tq1_0", "--force"],
            2,
            "not ternary",
        ),
        (&["convert", here, "-o", &path], 4, "no .safetensors file"),
        (&["convert", "absent", "-o", &path], 4, "absent is not a directory"),
    ];
    for (args, code, says) in cases {
        let ran = run(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert_eq!(fs::read(&out).expect("still there"), b"precious", "{args:?}");
    }
    assert_eq!(files(dir.path()), ["out.gguf"]);
    // A failure halfway: an invalid code in the last of the tensors.
    let bad = "fixtures/gguf/bad/i2s-code-3.gguf";
    let ran = run(&["quantize", bad, &path, "--type", "f32", "--force"]);
    assert!(ran.code == 3 && ran.stderr.contains("invalid ternary code"), "{}", ran.stderr);
    assert_eq!(
        (files(dir.path()), fs::read(&out).expect("there")),
        (vec!["out.gguf".into()], b"precious".to_vec())
    );
}

/// A file of one linear layer of 4096 x `rows` zeros in F32, none of which is on the disk.
fn sparse(path: &Path, rows: u64) {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend([1u64, 0].iter().flat_map(|count| count.to_le_bytes()));
    let name = b"blk.0.ffn_up.weight";
    header.extend((name.len() as u64).to_le_bytes());
    header.extend(name);
    header.extend(2u32.to_le_bytes());
    header.extend([4096, rows].iter().flat_map(|dim| dim.to_le_bytes()));
    header.extend([0; 4 + 8]);
    header.resize(header.len().next_multiple_of(32), 0);
    let len = header.len() as u64 + 4096 * rows * 4;
    fs::write(path, header).expect("writable");
    fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(len)).expect("a sparse file");
}

/// A tensor of 1.2 GB in far less memory. The largest that the program had is asked for while it runs: what the system keeps
/// of a process that has ended is the largest of all children, and counts what the parent had when it started the child.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_tensor() {
    let (dir, out, path) = scratch();
    let input = dir.path().join("zeros.gguf");
    sparse(&input, 73_728);
    let args = ["quantize", input.to_str().expect("UTF-8"), &path, "--type", "i2_s", "--json"];
    let mut child = bitnet(&args).stdout(Stdio::null()).spawn().expect("it starts");
    let status = format!("/proc/{}/status", child.id());
    let mut largest = None;
    let ended = loop {
        if let Some(ended) = child.try_wait().expect("it runs") {
            break ended;
        }
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB"));
        largest = line.and_then(|kb| kb.trim().parse::<u64>().ok()).or(largest);
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(ended.success());
    assert!(fs::metadata(out).expect("written").len() > 4096 * 73_728 / 4);
    let largest = largest.expect("it runs for longer than it takes to ask");
    assert!(largest < 500_000, "{largest} kB");
}

#[test]
fn an_interrupt_leaves_nothing_behind() {
    let (dir, out, path) = scratch();
    let input = dir.path().join("zeros.gguf");
    sparse(&input, 1 << 19);
    let args = ["quantize", input.to_str().expect("UTF-8"), &path, "--type", "q4_k", "--threads", "2"];
    let mut child = bitnet(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let partial = dir.path().join("out.gguf.partial");
    while !partial.exists() && child.try_wait().expect("it runs").is_none() {
        std::thread::yield_now();
    }
    signal(&child, libc::SIGINT);
    let ran = finish(child.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(!out.exists());
    assert_eq!(files(dir.path()), ["zeros.gguf"]);
}

/// Goldens by tools/goldens/quantize_goldens.py: the same types and the same bytes in every tensor.
#[test]
fn tensors_equal_what_the_references_make() {
    let text = fs::read_to_string(root().join("fixtures/goldens/quantize.json")).expect("a committed golden");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let (dir, _out, path) = scratch();
    let source = dir.path().join("f32.gguf").to_str().expect("UTF-8").to_owned();
    let mut compared = 0;
    for (fixture, types) in golden.as_object().expect("fixtures") {
        let input = ok(&format!("{fixture}.gguf"));
        json(&["quantize", &input, &source, "--type", "f32", "--embedding-type", "f32", "--force"]);
        for (ty, expected) in types.as_object().expect("types") {
            let mut args = vec!["quantize", &source, &path, "--type", ty, "--force"];
            if ty == "q4_k" {
                args.extend(["--embedding-type", "q4_k"]);
            }
            json(&args);
            let types = json(&["inspect", "-m", &path])["tensors"].clone();
            for ((name, data), tensor) in tensors(&path).iter().zip(types.as_array().expect("an array")) {
                // bitnet.cpp leaves what follows the scale of I2_S unwritten.
                let data = &data[..data.len() - if tensor["type"] == "I2_S" { 28 } else { 0 }];
                let digest: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
                let expected = &expected[name.trim_matches('"')];
                assert_eq!(*expected, serde_json::json!([tensor["type"], digest]), "{fixture} {ty} {name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50, "{compared}");
}
