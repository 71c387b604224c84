//! What the operating system says about this machine, and how fast it reads memory.
//!
//! In: /proc and /sys of Linux; elsewhere the facts are unknown. Out: [`MachineFacts`] for receipts, and the read
//! bandwidth over bytes that are in memory. Deliberately absent: choosing kernels (see [`crate::kernels::select`]).

use bitforge_receipt_schema::MachineFacts;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

/// Instruction sets that matter to matrix kernels, as Linux names them on x86 and ARM.
const FEATURES: [&str; 21] = [
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
];

/// Time in which [`read_bandwidth`] starts passes.
const SAMPLING: Duration = Duration::from_millis(200);
/// Bytes of one pass at most, unless the caches are larger still: a tenth of a second on a slow machine.
const PASS_BYTES: u64 = 1 << 30;

/// The facts about this machine; `gpus` are those that a run used.
pub fn facts(gpus: Vec<String>) -> MachineFacts {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, features) = cpu(&read("/proc/cpuinfo"));
    MachineFacts {
        cpu,
        features,
        cpus: crate::engine::available_threads() as u32,
        last_level_cache: last_level_cache(Path::new(CACHES)),
        memory_bytes: memory(&read("/proc/meminfo")),
        gpus,
    }
}

/// Bytes that this process may still write in directory `dir`, `None` where the system does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends with a zero byte, `stat` has the room that the call fills, and it is read only where
        // the call says that it has.
        let stat = unsafe {
            if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        (stat.f_bavail as u64).checked_mul(stat.f_frsize as u64)
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// Bytes per second with which `threads` threads read `bytes` (a prefix of them where they are many): the best of
/// several passes. `None` where they are not more than twice `last_level_cache` bytes, since a part would come out
/// of the cache.
pub fn read_bandwidth(bytes: &[u8], threads: usize, last_level_cache: Option<u64>) -> Option<f64> {
    let enough = last_level_cache?.checked_mul(2)?;
    if bytes.len() as u64 <= enough {
        return None;
    }
    let bytes = &bytes[..bytes.len().min(PASS_BYTES.max(enough.saturating_add(1 << 20)) as usize)];
    let started = Instant::now();
    let mut best = 0f64;
    while best == 0.0 || started.elapsed() < SAMPLING {
        let pass = Instant::now();
        std::thread::scope(|scope| {
            for part in bytes.chunks(bytes.len().div_ceil(threads)) {
                scope.spawn(move || black_box(sum(black_box(part))));
            }
        });
        best = best.max(bytes.len() as f64 / pass.elapsed().as_secs_f64());
    }
    Some(best)
}

/// The sum of the 64-bit words in sixteen lanes, so that adding never waits for adding; a tail is left out.
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 16];
    for group in bytes.as_chunks::<8>().0.as_chunks::<16>().0 {
        for (lane, word) in lanes.iter_mut().zip(group) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

/// The first processor's name and those of its features that are in [`FEATURES`], in that order.
fn cpu(cpuinfo: &str) -> (String, Vec<String>) {
    let field = |names: &[&str]| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            names.contains(&name.trim()).then(|| value.trim().to_owned())
        })
    };
    let flags = field(&["flags", "Features"]).unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let known = FEATURES.into_iter().filter(|feature| flags.contains(feature));
    let name = field(&["model name", "Model", "CPU part"]).unwrap_or_else(|| "unknown".into());
    (name, known.map(String::from).collect())
}

/// `MemTotal` in bytes, 0 where it is not told.
fn memory(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(0, |kib| kib.saturating_mul(1024))
}

/// Where Linux describes the caches of the first CPU.
pub const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";

/// Bytes of the cache of the highest level in `dir`, a `cache` folder of Linux's /sys.
pub fn last_level_cache(dir: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let caches = entries.filter_map(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        let level: u32 = read("level")?.trim().parse().ok()?;
        let kib: u64 = read("size")?.trim().strip_suffix('K')?.parse().ok()?;
        Some((level, kib.checked_mul(1024)?))
    });
    caches.max().map(|(_, bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cpu_and_its_known_features() {
        let x86 =
            "processor : 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx2 fma avx512f\n\nprocessor : 1";
        assert_eq!(cpu(x86), ("A CPU @ 2 GHz".into(), ["avx2", "fma", "avx512f"].map(String::from).to_vec()));
        assert_eq!(cpu("Features : fp asimd\nCPU part : 0xd40"), ("0xd40".into(), vec!["asimd".into()]));
        assert_eq!(cpu(""), ("unknown".into(), vec![]));
        assert_eq!((memory("MemFree: 1 kB\nMemTotal:   16 kB\n"), memory("")), (16 << 10, 0));
    }

    #[test]
    fn the_cache_of_the_highest_level_counts() {
        let dir = tempfile::tempdir().unwrap();
        for (index, level, size) in [("0", "1", "48K"), ("3", "3", "491520K"), ("2", "2", "2048K")] {
            let index = dir.path().join(index);
            std::fs::create_dir(&index).unwrap();
            std::fs::write(index.join("level"), format!("{level}\n")).unwrap();
            std::fs::write(index.join("size"), format!("{size}\n")).unwrap();
        }
        assert_eq!(last_level_cache(dir.path()), Some(480 << 20));
        assert_eq!(last_level_cache(&dir.path().join("none")), None);
    }

    #[test]
    fn bandwidth_is_sampled_only_beyond_the_caches() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        assert_eq!(read_bandwidth(&bytes, 2, Some(150_000)), None);
        assert_eq!(read_bandwidth(&bytes, 2, None), None);
        assert!(read_bandwidth(&bytes, 2, Some(149_999)).is_some_and(|rate| rate.is_finite() && rate > 0.0));
        assert_eq!(sum(&[1; 256]), 32 * 0x0101_0101_0101_0101);
    }
}
