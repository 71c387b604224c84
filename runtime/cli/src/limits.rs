//! `bitnet limits`: read bandwidth and int8 peak of this machine, by number of threads, all samples kept.

use super::args::{Format, LimitsArgs};
use super::ctx::Ctx;
use super::format::{Align, markdown};
use bitnet_runtime::limits::{Buffer, Int8, int8_operations, read_bandwidth};
use bitnet_runtime::machine::{CACHES, last_level_cache};
use bitnet_runtime::{Error, Result};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct LimitsOutput {
    /// What was read, and the last-level cache it has to exceed; `None` where the system does not say.
    buffer_bytes: u64,
    last_level_cache: Option<u64>,
    int8_instruction: &'static str,
    by_threads: Vec<Limits>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Limits {
    threads: usize,
    /// Bytes per second.
    read_bandwidth: Vec<f64>,
    /// A multiply and an add are two operations.
    int8_operations_per_second: Vec<f64>,
}

pub fn run(ctx: &mut Ctx, args: &LimitsArgs) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.threads.is_empty() { (1..=cpus).collect() } else { args.threads.clone() };
    if threads.contains(&0) || args.ms == 0 {
        return Err(Error::usage("nothing can be measured with 0", "give --threads and --ms at least 1"));
    }
    let last_level_cache = last_level_cache(Path::new(CACHES));
    let buffer = Buffer::new(Buffer::size_for(last_level_cache, free_memory()));
    let mut warnings = Vec::new();
    match last_level_cache {
        None => warnings.push("the size of the last-level cache is not known: bandwidth may be too high".into()),
        Some(cache) if buffer.bytes() <= 2 * cache => warnings.push(format!(
            "the buffer of {} bytes is not twice the last-level cache of {cache}: bandwidth may be too high; free memory",
            buffer.bytes()
        )),
        Some(_) => {}
    }
    if let Some(most) = threads.iter().max().filter(|most| **most > cpus) {
        warnings.push(format!("{most} threads on {cpus} CPUs take turns"));
    }
    if cfg!(debug_assertions) {
        warnings.push("this is a debug build, its numbers mean nothing; build with --release".into());
    }
    ctx.warn(&warnings);
    let time = Duration::from_millis(args.ms);
    let int8 = Int8::detect();
    let by_threads = threads.into_iter().map(|threads| Limits {
        threads,
        read_bandwidth: read_bandwidth(&buffer, threads, time),
        int8_operations_per_second: int8_operations(int8, threads, time),
    });
    let output = LimitsOutput {
        buffer_bytes: buffer.bytes(),
        last_level_cache,
        int8_instruction: int8.name(),
        by_threads: by_threads.collect(),
        warnings,
    };
    match ctx.format {
        Format::Json => ctx.print_json(&output),
        Format::Human => ctx.print(&human(&output)),
    }
}

fn human(output: &LimitsOutput) -> String {
    let best = |samples: &[f64]| samples.iter().fold(0f64, |best, sample| best.max(*sample)) / 1e9;
    let columns = ["threads", "read GB/s", "int8 GOP/s"].map(|name| (name, Align::Right));
    let rows = output.by_threads.iter().map(|limits| {
        vec![
            limits.threads.to_string(),
            format!("{:.1}", best(&limits.read_bandwidth)),
            format!("{:.0}", best(&limits.int8_operations_per_second)),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    format!(
        "{}\nbest samples; {} MiB read; {}\n",
        markdown(&columns, &rows),
        output.buffer_bytes >> 20,
        output.int8_instruction
    )
}

/// `MemAvailable` in bytes (Linux).
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
