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
    let (cpu, features) = processor(&read("/proc/cpuinfo")?);
    let caches = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        cache_bytes(&std::fs::read_to_string(path).ok()?)
    });
    Ok(MachineFacts {
        cpu,
        features,
        cpus: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        last_level_cache: caches.max(),
        memory_bytes: memory_bytes(&read("/proc/meminfo")?),
        gpus: Vec::new(),
    })
}

/// The name and those of [`FEATURES`] that the first processor of /proc/cpuinfo has.
fn processor(cpuinfo: &str) -> (String, Vec<String>) {
    let field = |names: &[&str]| {
        let value = |line: &str| {
            let (name, value) = line.split_once(':')?;
            names.contains(&name.trim()).then(|| value.trim().to_string())
        };
        cpuinfo.lines().find_map(value).unwrap_or_default()
    };
    let flags = field(&["flags", "Features"]);
    let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
    (field(&["model name"]), FEATURES.into_iter().filter(has).map(str::to_string).collect())
}

/// All memory, from /proc/meminfo, which counts in KiB.
fn memory_bytes(meminfo: &str) -> u64 {
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    meminfo.lines().find(|line| line.starts_with("MemTotal:")).and_then(kib).unwrap_or(0) * 1024
}

/// What a `size` file of a cache says, as `512K`.
fn cache_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, factor) = match (text.strip_suffix('K'), text.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => return None,
    };
    digits.parse::<u64>().ok().map(|count| count * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        let facts = facts().unwrap();
        assert!(facts.cpus > 0 && facts.memory_bytes > 1 << 28, "{facts:?}");
    }

    #[test]
    fn the_first_processor_is_named_with_whole_words() {
        let text = "processor : 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx2 fma avx512_vnni_x\n\nprocessor : 1\nmodel name : B\nflags : amx_int8\n";
        assert_eq!(processor(text), ("A CPU @ 2 GHz".into(), vec!["avx2".into(), "fma".into()]));
        assert_eq!(processor("Features : fp asimddp i8mm").1, ["asimddp", "i8mm"]);
        assert_eq!(processor("nothing"), (String::new(), vec![]));
    }

    #[test]
    fn sizes_are_bytes() {
        assert_eq!(memory_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), 0);
        assert_eq!(cache_bytes("512K\n"), Some(512 << 10));
        assert_eq!(cache_bytes("32M"), Some(32 << 20));
        assert_eq!(cache_bytes("7G"), None);
        assert_eq!(cache_bytes(""), None);
        assert_eq!(cache_bytes("xK"), None);
    }
}
