#!/usr/bin/env python3
"""Runs the whole test suite again and again, each time in another random order, several test binaries beside each other.

Builds every test of the workspace once. Shuffling is a feature of the test harness that is not stable yet;
RUSTC_BOOTSTRAP=1 turns it on. Documentation tests are left out: each is a program of its own. A test that fails is named
with the seed that repeats its order; any failure makes the exit status 1.
Usage: ci/flakes.py [ROUNDS, or FIRST..LAST] [BINARIES AT ONCE] [THREADS OF EACH]
"""
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPUS = len(os.sched_getaffinity(0))
given = sys.argv[1:]
FIRST, LAST = map(int, given[0].split("..") if given and ".." in given[0] else (1, given[0] if given else 20))
AT_ONCE, THREADS = ([int(word) for word in given[1:]] + [max(1, CPUS // 3), max(2, min(8, CPUS // 4))][len(given[1:]):])[:2]
ENV = os.environ | {"INSTA_UPDATE": "no", "CARGO_NET_OFFLINE": "true", "RUSTC_BOOTSTRAP": "1"}


def tests():
    """Name, package folder and path of every test binary."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-run", "--message-format", "json"]
    # The compiler must not see RUSTC_BOOTSTRAP: it would build everything anew.
    env = {name: value for name, value in ENV.items() if name != "RUSTC_BOOTSTRAP"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message.get("profile", {}).get("test"):
            yield message["target"]["name"], str(Path(message["manifest_path"]).parent), message["executable"]


def run(job):
    number, (name, folder, binary) = job
    seed = str(1000 * number + 7)
    command = [binary, "-Z", "unstable-options", "--shuffle-seed", seed, "--test-threads", str(THREADS)]
    done = subprocess.run(command, cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    passed = sum(int(count) for count in re.findall(r"^test result: \w+\. (\d+) passed", done.stdout, re.M))
    if done.returncode:
        at = done.stdout.find("\nfailures:\n")
        print(f"round {number}, {name}, seed {seed}: exit {done.returncode}\n{done.stdout[at:][:8000]}", flush=True)
    return name, passed, done.returncode


binaries = list(tests())
with ThreadPoolExecutor(AT_ONCE) as pool:
    results = list(pool.map(run, [(number, test) for number in range(FIRST, LAST + 1) for test in binaries]))
failed = [name for name, _, code in results if code]
print(f"{sum(passed for _, passed, _ in results)} tests passed in {len(results)} runs of {len(binaries)} binaries, "
      f"{len(failed)} runs failed {sorted(set(failed))}")
sys.exit(1 if failed else 0)
