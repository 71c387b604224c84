"""Load on loopback with wrk: every answer must be the one that its prompt got alone.

Usage: load.py BINARY MODEL [--clients 64] [--seconds 60] [--json FILE]. Measures throughput with one client and with eight,
then runs the given number of clients for the given time while it watches memory and the latency of /health, with prompts
that are long enough to keep prefill running. Exits with 1 where an answer differs, a request fails or memory grows.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import threading
import time

from load_requests import get, requests, short_requests


def metric(url, name):
    return float(re.search(rf"^{name} (\S+)$", get(f"{url}/metrics"), re.M)[1])


def lua(text):
    level = "=" * next(n for n in range(2, 99) if f"]{'=' * n}]" not in text)
    return f"[{level}[{text}]{level}]"


def write_cases(url, asked, path):
    """Asks every request alone; what wrk is to send and to expect goes to `path`."""
    parts = []
    for body in asked:
        reply = get(f"{url}/v1/completions", body)
        text = re.search(r'"choices":\[{"index":0,"text":(".*?[^\\]")[,}]', reply)[1]
        parts.append("{ body = %s, text = %s }" % (lua(json.dumps(body)), lua(text)))
    path.write_text("return {\n" + ",\n".join(parts) + "\n}\n")
    return path


def wrk(url, cases, clients, seconds):
    script = pathlib.Path(__file__).with_name("load.lua")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "120s", "-s", script, url, "--", cases]
    before = metric(url, "bitnet_generated_tokens_total")
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 180)
    tokens = metric(url, "bitnet_generated_tokens_total") - before
    found = json.loads(re.search(r"^RESULT (.*)$", ran.stdout, re.M)[1])
    example = re.search(r"^EXAMPLE (.*)$", ran.stdout, re.M)
    return {"clients": clients, "tokens_per_second": tokens / found["seconds"], **found} | (
        {"example": example[1]} if example else {}
    )


class Watch(threading.Thread):
    """Latencies of /health and resident bytes, until it is stopped."""

    def __init__(self, url, pid):
        super().__init__(daemon=True)
        self.url, self.pid, self.health, self.resident, self.stopping = url, pid, [], [], threading.Event()

    def run(self):
        while not self.stopping.wait(0.05):
            start = time.perf_counter()
            get(f"{self.url}/health")
            self.health.append(1e3 * (time.perf_counter() - start))
            status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
            self.resident.append(1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1]))

    def stop(self):
        self.stopping.set()
        self.join()
        ordered = sorted(self.health)
        third = max(len(self.resident) // 3, 1)
        return {
            "health_samples": len(ordered),
            "health_p50_ms": ordered[len(ordered) // 2],
            "health_p99_ms": ordered[int(0.99 * (len(ordered) - 1))],
            "health_most_ms": ordered[-1],
            "resident_after_a_third": max(self.resident[:third]),
            "resident_at_the_end": max(self.resident[-third:]),
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    settings = ["--port", "0", "--parallel", "64", "--kv-sequences", "24", "--ctx-size", "512", "--queue-per-client", "256"]
    command = [args.binary, "serve", "--model", args.model, "--json", *settings]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "BITNET_LOG": "warn"}
    ) as server:
        try:
            told = json.loads(server.stdout.readline())
            url = told["url"]
            short = write_cases(url, short_requests(), pathlib.Path(folder) / "short.lua")
            mixed = write_cases(url, requests(512), pathlib.Path(folder) / "mixed.lua")
            seconds = min(args.seconds, 15)
            result = {"model": told["model"], "runs": [wrk(url, short, clients, seconds) for clients in (1, 8)]}
            watch = Watch(url, server.pid)
            watch.start()
            result["runs"].append(wrk(url, mixed, args.clients, args.seconds))
            result |= watch.stop()
            one, eight = (run["tokens_per_second"] for run in result["runs"][:2])
            result["eight_over_one"] = eight / one
            server.terminate()
            result["exit_code"] = server.wait(timeout=60)
        finally:
            server.kill()
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    grown = result["resident_at_the_end"] > 1.05 * result["resident_after_a_third"] + (16 << 20)
    broken = any(run["wrong"] + run["failed"] + run["socket_errors"] for run in result["runs"])
    raise SystemExit(bool(grown or broken or result["exit_code"]))


main()
