#!/usr/bin/env python3
"""Whole-process time and peak memory of `xtask analyze-library` against binutils' `nm -D --defined-only`.

The two run alternately on each file, each in its own process with output to /dev/null, so that both see the
same caches and the same disturbances. Prints every sample as Markdown; docs/explanation/analyze-library.md
keeps one such run. Usage: measure-analyze-library.py XTASK FILE... [--rounds N]
"""

import argparse
import os
import statistics
import subprocess
import time


def sample(command):
    """Seconds and peak KiB of one run; a failure ends the measurement."""
    with open(os.devnull, "wb") as null:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=null, stderr=null)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, usage.ru_maxrss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("xtask")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    # A child starts as a copy of this interpreter, so peaks below its own size (about 20 MB) cannot be seen here.
    print("| file | MB | exports | nm median ms | xtask median ms | median of pair ratios | nm peak MB | xtask peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    raw = []
    for path in args.files:
        path = os.path.realpath(path)
        ours, theirs = [args.xtask, "analyze-library", path], ["nm", "-D", "--defined-only", path]
        exports = subprocess.run(theirs, capture_output=True, check=True).stdout.count(b"\n")
        sample(ours), sample(theirs)
        pairs = []
        for round_ in range(args.rounds):
            # Whoever goes first changes each round.
            first, second = (ours, theirs) if round_ % 2 else (theirs, ours)
            a, b = sample(first), sample(second)
            pairs.append((a, b) if round_ % 2 else (b, a))
        times = [[1000 * run[0] for run in side] for side in zip(*pairs)]
        peak = [max(run[1] for run in side) / 1024 for side in zip(*pairs)]
        ratio = statistics.median(xtask / nm for xtask, nm in zip(*times))
        name = os.path.basename(path)
        print(
            f"| {name} | {os.path.getsize(path) / 1e6:.0f} | {exports} | {statistics.median(times[1]):.1f} "
            f"| {statistics.median(times[0]):.1f} | {ratio:.3f} | {peak[1]:.0f} | {peak[0]:.0f} |"
        )
        raw.append((name, times))
    print()
    for name, (xtask, nm) in raw:
        print(f"{name}, ms, in order\n")
        print("    nm    " + " ".join(f"{value:.1f}" for value in nm))
        print("    xtask " + " ".join(f"{value:.1f}" for value in xtask) + "\n")


if __name__ == "__main__":
    main()
