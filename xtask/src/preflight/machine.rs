//! The machine: CPU features and caches, memory and its cgroup limit, free disk space.

use super::Check;
use super::system::System;
use crate::cli::Class;
use crate::report::{State, bytes};
use anyhow::{Context, Result};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const GIB: u64 = 1 << 30;
/// A release build with thin LTO peaks below this.
const MEMORY_ENOUGH: u64 = 3 * GIB;
const MEMORY_LEAST: u64 = GIB;
/// Build output of `up` and `test` together.
const TARGET_ENOUGH: u64 = 6 * GIB;
const TARGET_LEAST: u64 = 2 * GIB;
/// The small model, its wheel and a margin.
const CACHE_ENOUGH: u64 = GIB;
const CACHE_LEAST: u64 = 300 << 20;

pub fn checks(system: &System<'_>) -> Vec<Check> {
    let mut checks = vec![cpu(system), caches(system), memory(system)];
    if let Ok(dir) = system.ctx.target_dir() {
        checks.push(disk("disk-target", &dir, "building", TARGET_LEAST, TARGET_ENOUGH, "cargo clean"));
    }
    if let Ok(dir) = system.ctx.cache_dir() {
        let fix = "set BITNET_CACHE_DIR to a folder on a larger disk";
        checks.push(disk("disk-cache", &dir, "fetched models", CACHE_LEAST, CACHE_ENOUGH, fix));
    }
    checks
}

/// CPU features that matter to kernels and that this CPU has, by a probe at run time.
pub fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! detect {
        ($probe:ident: $($name:tt)*) => { $(if std::arch::$probe!($name) { found.push($name); })* };
    }
    #[cfg(target_arch = "x86_64")]
    detect!(is_x86_feature_detected: "sse4.2" "avx" "avx2" "fma" "f16c" "bmi2" "avxvnni" "avx512f" "avx512bw" "avx512vnni" "avx512vbmi" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "neon" "dotprod" "i8mm" "fp16" "sve" "sve2");
    found
}

fn cpu(system: &System<'_>) -> Check {
    let info = system.read("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let features = cpu_features();
    let found = format!("{name}, {cpus} CPUs, {}", features.join(" "));
    let check = Check::ok("cpu", Class::Machine, found, "speed: without them the scalar kernels run");
    let fast = match std::env::consts::ARCH {
        "x86_64" => ["avx2", "fma", "f16c"].iter().all(|name| features.contains(name)),
        _ => features.contains(&"neon"),
    };
    if fast { check } else { check.but(State::Warn, "bitnet run --kernels scalar") }
}

fn caches(system: &System<'_>) -> Check {
    let base = "/sys/devices/system/cpu/cpu0/cache";
    let read =
        |dir: &Path, name: &str| Some(std::fs::read_to_string(dir.join(name)).ok()?.trim().to_string());
    let caches: Vec<String> = system
        .list(base)
        .iter()
        .filter_map(|dir| {
            cache(
                &read(dir, "level")?,
                &read(dir, "type")?,
                &read(dir, "size")?,
                &read(dir, "shared_cpu_list")?,
            )
        })
        .collect();
    let check = Check::ok("caches", Class::Machine, caches.join(", "), "choosing tile sizes");
    if caches.is_empty() {
        let found = format!("{base} holds nothing readable");
        return Check { found, ..check }.but(State::CouldNotCheck, "lscpu -C");
    }
    check
}

/// `("3", "Unified", "32768K", "0-1")` as `L3 32.0 MiB (CPUs 0-1)`.
fn cache(level: &str, kind: &str, size: &str, shared: &str) -> Option<String> {
    let letter = match kind {
        "Data" => "d",
        "Instruction" => "i",
        _ => "",
    };
    let (number, factor) = match size.split_at_checked(size.len().checked_sub(1)?)? {
        (number, "K") => (number, 1 << 10),
        (number, "M") => (number, 1 << 20),
        _ => (size, 1),
    };
    let size = bytes(number.parse::<u64>().ok()? * factor);
    Some(format!("L{level}{letter} {size} (CPUs {shared})"))
}

fn memory(system: &System<'_>) -> Check {
    let check = |found: String| Check::ok("memory", Class::Machine, found, "the release build and the model");
    let info = system.read("/proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) = (meminfo(&info, "MemTotal"), meminfo(&info, "MemAvailable")) else {
        return check("/proc/meminfo is not readable".into()).but(State::CouldNotCheck, "free -m");
    };
    let limit = cgroup_limit(system).filter(|limit| *limit < total);
    let usable = available.min(limit.unwrap_or(u64::MAX));
    let mut found = format!("{} of {} available", bytes(available), bytes(total));
    if let Some(limit) = limit {
        found.push_str(&format!(", cgroup limit {}", bytes(limit)));
    }
    judge(check(found), usable, MEMORY_LEAST, MEMORY_ENOUGH, "CARGO_BUILD_JOBS=1 cargo xtask up")
}

fn judge(check: Check, value: u64, least: u64, enough: u64, fix: &str) -> Check {
    if value >= enough {
        return check;
    }
    let found = format!("{}; {} are wanted", check.found, bytes(enough));
    let state = if value < least { State::Fail } else { State::Warn };
    Check { found, ..check }.but(state, fix)
}

/// A value of /proc/meminfo, in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest memory limit of this process's cgroup and its parents (v1 or v2), in bytes.
fn cgroup_limit(system: &System<'_>) -> Option<u64> {
    let membership = system.read("/proc/self/cgroup").unwrap_or_default();
    cgroup_files(&membership).iter().filter_map(|file| limit_value(&system.read(file.to_str()?)?)).min()
}

/// Where limits may lie, from /proc/self/cgroup: the group, its parents, and the mount itself (inside a
/// container the path of the group is the host's).
fn cgroup_files(membership: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (mounts, file): (&[&str], &str) = if controllers.is_empty() {
            (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (&["/sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            let group = Path::new(mount).join(group.trim_start_matches('/'));
            let parents = group.ancestors().take_while(|dir| dir.starts_with(mount));
            files.extend(parents.map(|dir| dir.join(file)));
        }
    }
    files
}

/// A limit in bytes; `None` for "max" and for v1's number that means none.
fn limit_value(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().filter(|limit| *limit < 1 << 62)
}

fn disk(id: &'static str, dir: &Path, needed_for: &'static str, least: u64, enough: u64, fix: &str) -> Check {
    match free_space(dir) {
        Ok(free) => {
            let found = format!("{} free at {}", bytes(free), dir.display());
            judge(Check::ok(id, Class::Machine, found, needed_for), free, least, enough, fix)
        }
        Err(error) => Check::ok(id, Class::Machine, format!("{error:#}"), needed_for)
            .but(State::CouldNotCheck, format!("df {}", dir.display())),
    }
}

/// Bytes that an ordinary user may still write where `path` is or will be.
pub fn free_space(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    let name = CString::new(existing.as_os_str().as_bytes()).context("a path with a NUL byte")?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` is a NUL-terminated string and `stat` is writable memory of the type statvfs fills.
    let status = unsafe { libc::statvfs(name.as_ptr(), stat.as_mut_ptr()) };
    if status != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("asking for the free space at {}", existing.display()));
    }
    // SAFETY: statvfs returned 0, so it filled `stat`.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail * stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::Ctx;
    use crate::report::Reporter;
    use bitforge_schema::env::Env;

    fn with_files<T>(files: &[(&str, &str)], look: impl FnOnce(&System<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = dir.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let ctx = Ctx::new(None, Env::default(), Reporter::for_tests());
        look(&System { ctx: &ctx, sysroot: dir.path() })
    }

    const MEMINFO: &str = "MemTotal:       24689020 kB\nMemFree: 1 kB\nMemAvailable:   23456789 kB\n";

    #[test]
    fn meminfo_is_in_bytes() {
        assert_eq!(meminfo(MEMINFO, "MemTotal"), Some(24_689_020 * 1024));
        assert_eq!(meminfo(MEMINFO, "MemAvail"), None);
        assert_eq!(meminfo("MemTotal: many kB", "MemTotal"), None);
    }

    #[test]
    fn a_cgroup_v1_limit_is_found_in_a_parent() {
        let check = with_files(
            &[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", "5:devices:/\n4:memory:/jobs/one\n0::/\n"),
                ("/sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n"),
                ("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "2147483648\n"),
            ],
            memory,
        );
        assert_eq!(check.state, State::Warn);
        insta::assert_snapshot!(check.found, @"22.4 GiB of 23.5 GiB available, cgroup limit 2.0 GiB; 3.0 GiB are wanted");
    }

    #[test]
    fn a_cgroup_v2_limit_fails_when_tiny() {
        let check = with_files(
            &[
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", "0::/user.slice/a.scope\n"),
                ("/sys/fs/cgroup/user.slice/memory.max", "max\n"),
                ("/sys/fs/cgroup/user.slice/a.scope/memory.max", "536870912\n"),
            ],
            memory,
        );
        assert_eq!(check.state, State::Fail);
    }

    #[test]
    fn inside_a_container_the_mount_itself_holds_the_limit() {
        let limit = with_files(
            &[
                ("/proc/self/cgroup", "0::/host/path/of/the/container\n"),
                ("/sys/fs/cgroup/memory.max", "1073741824"),
            ],
            cgroup_limit,
        );
        assert_eq!(limit, Some(1 << 30));
    }

    #[test]
    fn memory_that_cannot_be_read_is_not_ok() {
        assert_eq!(with_files(&[], memory).state, State::CouldNotCheck);
    }

    #[test]
    fn caches_are_listed() {
        let index = |n: u32, name: &str| format!("/sys/devices/system/cpu/cpu0/cache/index{n}/{name}");
        let files = [
            (index(0, "level"), "1"),
            (index(0, "type"), "Data"),
            (index(0, "size"), "32K"),
            (index(0, "shared_cpu_list"), "0"),
            (index(3, "level"), "3"),
            (index(3, "type"), "Unified"),
            (index(3, "size"), "32768K"),
            (index(3, "shared_cpu_list"), "0-1"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        insta::assert_snapshot!(with_files(&files, caches).found, @"L1d 32.0 KiB (CPUs 0), L3 32.0 MiB (CPUs 0-1)");
        assert_eq!(with_files(&[], caches).state, State::CouldNotCheck);
        assert_eq!(cache("1", "Data", "", "0"), None);
    }

    #[test]
    fn free_space_looks_at_the_nearest_existing_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_space(&dir.path().join("not/yet/there")).unwrap() > 0);
    }

    #[test]
    fn thresholds() {
        let check = || Check::ok("x", Class::Machine, "1", "x");
        assert_eq!(judge(check(), 10, 5, 10, "").state, State::Ok);
        assert_eq!(judge(check(), 9, 5, 10, "").state, State::Warn);
        assert_eq!(judge(check(), 4, 5, 10, "").state, State::Fail);
    }
}
