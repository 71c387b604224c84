//! The machine as receipts name it.
//!
//! In: /proc and /sys. Out: [`MachineFacts`]. What the system does not say stays empty, and is not guessed.

use anyhow::{Context, Result};
use bitforge_receipt_schema::MachineFacts;

/// Instruction sets that kernels, ours or a reference's, may use.
const FEATURES: [&str; 12] = [
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_tile",
    "asimddp",
    "i8mm",
];

pub fn facts() -> Result<MachineFacts> {
    let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let cpuinfo = read("/proc/cpuinfo")?;
    let field = |names: &[&str]| {
        let value = |line: &str| {
            let (name, value) = line.split_once(':')?;
            names.contains(&name.trim()).then(|| value.trim().to_string())
        };
        cpuinfo.lines().find_map(value).unwrap_or_default()
    };
    let flags = field(&["flags", "Features"]);
    let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let memory = read("/proc/meminfo")?;
    Ok(MachineFacts {
        cpu: field(&["model name"]),
        features: FEATURES.into_iter().filter(has).map(str::to_string).collect(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        last_level_cache: last_level_cache(),
        memory_bytes: memory.lines().find(|line| line.starts_with("MemTotal:")).and_then(kib).unwrap_or(0)
            * 1024,
        gpus: Vec::new(),
    })
}

/// Bytes of the largest cache of the first CPU.
fn last_level_cache() -> Option<u64> {
    let size = |index: u32| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let (digits, unit) = text.trim().split_at(text.trim().len().checked_sub(1)?);
        let factor = match unit {
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        digits.parse::<u64>().ok().map(|count| count * factor)
    };
    (0..8).filter_map(size).max()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let facts = super::facts().unwrap();
        assert!(facts.cpus > 0 && facts.memory_bytes > 1 << 28, "{facts:?}");
    }
}
