//! libFuzzer's command line and what it prints.

use super::Target;
use crate::proc::Command;
use std::path::Path;

/// Seconds after which one input is a hang. With the sanitizer, beside others on a busy machine, code takes several times
/// as long as in a release; what takes over [`SLOW`] is kept and judged by `fuzz-targets replay`.
const TIMEOUT: u32 = 10;
const SLOW: u32 = 1;
/// Memory of the process at most, the sanitizer's own included.
const RSS_MB: u32 = 2048;

/// The binary with the limits of `target`, to be given folders or files.
pub fn command(binary: &Path, target: &Target) -> Command {
    Command::new(binary)
        .env("BITNET_FUZZ_TARGET", &target.name)
        // Servers and tables that live as long as the process are no leaks.
        .env("ASAN_OPTIONS", "detect_leaks=0:allocator_may_return_null=1")
        .args([
            format!("-max_len={}", target.max_len),
            format!("-timeout={TIMEOUT}"),
            format!("-report_slow_units={SLOW}"),
            format!("-rss_limit_mb={RSS_MB}"),
            "-detect_leaks=0".into(),
            "-print_final_stats=1".into(),
        ])
}

/// What a run came to, from its lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub executions: u64,
    /// Edges of the program that inputs reached.
    pub edges: u64,
    /// Edges with how often they were passed, and comparisons.
    pub features: u64,
    pub peak_rss_mb: u64,
    pub slowest_seconds: u64,
}

impl Stats {
    /// Takes one line: `#8192 pulse cov: 312 ft: 450 corp: ...`, or `stat::peak_rss_mb: 410`.
    pub fn line(&mut self, line: &str) {
        let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
        if let Some((name, value)) = line.strip_prefix("stat::").and_then(|stat| stat.split_once(':')) {
            let value = number(Some(value)).unwrap_or_default();
            match name {
                "number_of_executed_units" => self.executions = value,
                "peak_rss_mb" => self.peak_rss_mb = value,
                "slowest_unit_time_sec" => self.slowest_seconds = value,
                _ => {}
            }
        } else if line.starts_with('#') {
            let mut words = line.split_ascii_whitespace();
            self.executions =
                number(words.next().map(|word| word.trim_matches(['#', ':']))).unwrap_or(self.executions);
            while let Some(word) = words.next() {
                match word {
                    "cov:" => self.edges = number(words.next()).unwrap_or(self.edges),
                    "ft:" => self.features = number(words.next()).unwrap_or(self.features),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_run_are_understood() {
        let mut stats = Stats::default();
        for line in [
            "INFO: seed corpus: files: 3",
            "#4\tINITED cov: 203 ft: 204 corp: 1/1b exec/s: 0 rss: 47Mb",
            "#8192\tpulse  cov: 312 ft: 450 corp: 12/99b lim: 80 exec/s: 4096 rss: 49Mb",
            "==1== ERROR: libFuzzer: deadly signal",
            "stat::number_of_executed_units: 8200",
            "stat::slowest_unit_time_sec: 1",
            "stat::peak_rss_mb:              410",
        ] {
            stats.line(line);
        }
        let expected =
            Stats { executions: 8200, edges: 312, features: 450, peak_rss_mb: 410, slowest_seconds: 1 };
        assert_eq!(stats, expected);
    }
}
