//! What else happens on the machine while something is timed, and what to do about it.
//!
//! In: /proc. Out: [`Noise`] at a moment, and warnings that name a cause and a remedy. Where /proc does not
//! say something, nothing is assumed.

use super::stats::{iqr, median};
use bitforge_receipt_schema::bench::{Bench, Noise};
use std::path::Path;

/// The state of the machine whose /proc is below `root`.
pub fn probe(root: &Path) -> Noise {
    let read = |name: &str| std::fs::read_to_string(root.join("proc").join(name)).unwrap_or_default();
    let ticks: Vec<u64> = read("stat")
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .map(|line| line.split_whitespace().filter_map(|tick| tick.parse().ok()).collect())
        .unwrap_or_default();
    let megahertz = values(&read("cpuinfo"), "cpu MHz");
    let megahertz: Vec<f64> = megahertz.iter().filter_map(|value| value.parse().ok()).collect();
    Noise {
        load_average: read("loadavg").split_whitespace().next().and_then(|load| load.parse().ok()),
        steal_ticks: ticks.get(7).copied(),
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
        total_ticks: (ticks.len() >= 8).then(|| ticks[..8].iter().sum()),
        megahertz: (!megahertz.is_empty()).then(|| megahertz.iter().sum::<f64>() / megahertz.len() as f64),
    }
}

/// Whether so much else ran before the first sample that engines were slowed unequally: one that spins while it
/// waits loses more to a neighbour than one that sleeps, and interleaving does not even that out.
pub fn is_busy(bench: &Bench) -> bool {
    let load = bench.noise.first().and_then(|noise| noise.load_average);
    load.is_some_and(|load| load > 0.5 * f64::from(bench.machine.cpus))
}

/// Cause and remedy of everything that makes these samples doubtful.
pub fn warnings(bench: &Bench) -> Vec<String> {
    let mut warnings = Vec::new();
    if let [before, .., after] = bench.noise.as_slice() {
        if let Some(load) = before.load_average.filter(|load| *load > 0.5) {
            warnings.push(format!(
                "the load average was {load:.2} before the first sample: other processes compute; end them, or wait a minute and measure again"
            ));
        }
        let passed = |f: fn(&Noise) -> Option<u64>| Some(f(after)?.saturating_sub(f(before)?));
        if let (Some(steal), Some(total)) = (passed(|n| n.steal_ticks), passed(|n| n.total_ticks))
            && steal * 100 > total
        {
            warnings.push(format!(
                "the hypervisor gave {:.1}% of the time to other machines; measure on a machine of its own, or with more repetitions",
                steal as f64 * 100.0 / total as f64
            ));
        }
        if let (Some(a), Some(b)) = (before.megahertz, after.megahertz)
            && (a / b - 1.0).abs() > 0.05
        {
            warnings.push(format!(
                "the CPU clock went from {a:.0} to {b:.0} MHz; set the governor to performance, or let the machine warm up first"
            ));
        }
    }
    for (threads, samples) in bench.limits.read_bandwidth.iter().enumerate() {
        if let (Some(spread), Some(median)) = (iqr(samples), median(samples))
            && spread > 0.1 * median
        {
            warnings.push(format!(
                "read bandwidth with {} threads varied by {:.0}%: memory is shared with others; measure when it is quiet, or with more repetitions",
                threads + 1,
                spread / median * 100.0
            ));
        }
    }
    if let Some(cache) = bench.machine.last_level_cache.filter(|cache| bench.limits.buffer_bytes <= 2 * cache)
    {
        warnings.push(format!(
            "bandwidth was read from {} bytes, the last-level cache has {cache}: the limit may be the cache's; free memory",
            bench.limits.buffer_bytes
        ));
    }
    if bench.threads > bench.machine.cpus {
        warnings.push(format!(
            "{} threads on {} CPUs take turns; give --threads {}",
            bench.threads, bench.machine.cpus, bench.machine.cpus
        ));
    }
    warnings
}

/// The values of `key` in the form of /proc/cpuinfo.
fn values(text: &str, key: &str) -> Vec<String> {
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_string()).collect()
}
