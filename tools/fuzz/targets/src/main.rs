//! `fuzz-targets`: what `cargo xtask fuzz` needs of the targets, without libFuzzer.
//!
//! `manifest [--check]` writes the list of targets; `seeds DIR` writes inputs to start from; `mutate KIND COUNT SEED`
//! damages good inputs; `replay TARGET FILE...` runs inputs and prints the seconds and the memory of each as JSON lines;
//! `stretch TARGET FILE...` does so with a megabyte made of each file in several ways, and prints the slowest.

use bitforge_fuzz_targets::{Target, manifest, mutate, seeds, target};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), String> {
    let root = Path::new(".");
    match args {
        ["manifest", rest @ ..] => generate(root, rest == ["--check"]),
        ["seeds", out] => write_seeds(root, Path::new(out)),
        ["mutate", kind, count, seed] => {
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
            let (count, seed, started) = (number(count)?, number(seed)?, Instant::now());
            let outcome = match *kind {
                "gguf" => mutate::ggufs(count, seed),
                "object" => mutate::objects(count, seed, root).map_err(|error| error.to_string())?,
                "request" => mutate::requests(count, seed),
                other => return Err(format!("{other:?} is not gguf, object or request")),
            };
            let seconds = started.elapsed().as_secs_f64();
            println!("{}", json!({ "kind": kind, "count": count, "seed": seed, "seconds": seconds, "outcome": outcome }));
            Ok(())
        }
        ["replay", name, files @ ..] => {
            let target = find(name)?;
            for file in files {
                let data = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
                let seconds = seconds_of(target, &data);
                let (bytes, rss) = (data.len(), peak_rss());
                println!("{}", json!({ "file": file, "bytes": bytes, "seconds": seconds, "peak_rss": rss }));
            }
            Ok(())
        }
        ["stretch", name, files @ ..] => {
            let target = find(name)?;
            let mut slowest = (0.0, String::new());
            let mut inputs = 0;
            for file in files {
                let data = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
                for (number, input) in seeds::stretched(&data, 1 << 20).into_iter().enumerate() {
                    inputs += 1;
                    let seconds = seconds_of(target, &input);
                    if seconds > slowest.0 {
                        slowest = (seconds, format!("{file} stretched in way {number}"));
                    }
                }
            }
            let (seconds, input) = slowest;
            let rss = peak_rss();
            println!("{}", json!({ "target": name, "inputs": inputs, "slowest_seconds": seconds, "input": input, "peak_rss": rss }));
            Ok(())
        }
        _ => Err("usage: fuzz-targets manifest [--check] | seeds DIR | mutate gguf|object|request COUNT SEED | replay|stretch TARGET FILE...".into()),
    }
}

fn find(name: &str) -> Result<&'static Target, String> {
    target(name).ok_or_else(|| format!("{name:?} is no target"))
}

fn seconds_of(target: &Target, data: &[u8]) -> f64 {
    let started = Instant::now();
    (target.run)(data);
    started.elapsed().as_secs_f64()
}

fn generate(root: &Path, check: bool) -> Result<(), String> {
    for (path, text) in manifest::files(root).map_err(|error| error.to_string())? {
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        if old == text {
            continue;
        }
        if check {
            return Err(format!("{} is out of date; run `cargo xtask fuzz generate`", path.display()));
        }
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn write_seeds(root: &Path, out: &Path) -> Result<(), String> {
    for target in bitforge_fuzz_targets::TARGETS {
        let dir: PathBuf = out.join(target.name);
        let io = |error: std::io::Error| format!("{}: {error}", dir.display());
        std::fs::create_dir_all(&dir).map_err(io)?;
        for (number, seed) in seeds::of(target.name, root).map_err(io)?.into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number:02}")), seed).map_err(io)?;
        }
    }
    Ok(())
}

/// Most memory that this process had, in bytes, as Linux tells it; 0 elsewhere.
fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}
