//! The machine's limits, as `bitnet limits` measures them.

use crate::ctx::Ctx;
use crate::proc::{self, Command, Stdout};
use anyhow::{Context, Result};
use bitforge_receipt_schema::bench::Limits;
use bitforge_schema::exit::ExitCode;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

#[derive(Deserialize)]
struct Output {
    buffer_bytes: u64,
    int8_instruction: String,
    by_threads: Vec<ByThreads>,
}

#[derive(Deserialize)]
struct ByThreads {
    threads: usize,
    read_bandwidth: Vec<f64>,
    int8_operations_per_second: Vec<f64>,
}

/// Measures with these numbers of threads and adds the samples to `limits`.
pub fn sample(ctx: &Ctx, bitnet: &Path, threads: &[u32], ms: u32, limits: &mut Limits) -> Result<()> {
    let list: Vec<String> = threads.iter().map(u32::to_string).collect();
    let command = Command::new(bitnet)
        .args(["limits", "--json", "--ms", &ms.to_string(), "--threads", &list.join(",")])
        .limit(Duration::from_secs(600));
    let log = ctx.log_file("bench-limits")?;
    let finished =
        proc::run(ctx, &command, Stdout::Capture, &log, |_| ())?.must_succeed(ExitCode::Internal)?;
    let output: Output = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("`{}` printed JSON that xtask does not know", finished.line))?;
    add(output, limits);
    Ok(())
}

fn add(output: Output, limits: &mut Limits) {
    limits.buffer_bytes = output.buffer_bytes;
    limits.int8_instruction = output.int8_instruction;
    for sampled in output.by_threads {
        let put = |all: &mut Vec<Vec<f64>>, samples: Vec<f64>| {
            all.resize(all.len().max(sampled.threads), Vec::new());
            all[sampled.threads - 1].extend(samples);
        };
        put(&mut limits.read_bandwidth, sampled.read_bandwidth);
        put(&mut limits.int8_operations, sampled.int8_operations_per_second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_kept_by_number_of_threads() {
        let mut limits = Limits {
            buffer_bytes: 0,
            int8_instruction: String::new(),
            read_bandwidth: Vec::new(),
            int8_operations: Vec::new(),
        };
        for speed in ["1.0", "2.0"] {
            let json = format!(
                r#"{{"buffer_bytes": 9, "int8_instruction": "i", "by_threads":
                    [{{"threads": 2, "read_bandwidth": [{speed}], "int8_operations_per_second": [3.0]}}]}}"#
            );
            add(serde_json::from_str(&json).unwrap(), &mut limits);
        }
        assert_eq!(limits.read_bandwidth, [vec![], vec![1.0, 2.0]]);
        assert_eq!((limits.buffer_bytes, limits.int8_operations.len()), (9, 2));
    }
}
