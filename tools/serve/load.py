"""Load on loopback with wrk: every answer must be the one that its prompt got alone.

Usage: load.py BINARY MODEL [--clients 64] [--seconds 60] [--json FILE]. Measures throughput with one client and with eight,
then runs the given number of clients for the given time while it watches memory and the latency of /health, with prompts
that are long enough to keep prefill running. Exits with 1 where an answer differs, a request fails or memory grows.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

from drive import Watch, grew, serving
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(args.binary, args.model) as (url, server):
        short = write_cases(url, short_requests(), pathlib.Path(folder) / "short.lua")
        mixed = write_cases(url, requests(512), pathlib.Path(folder) / "mixed.lua")
        seconds = min(args.seconds, 15)
        runs = [wrk(url, short, clients, seconds) for clients in (1, 8)]
        watch = Watch(url, server.pid)
        watch.start()
        runs.append(wrk(url, mixed, args.clients, args.seconds))
        result = {"model": pathlib.Path(args.model).name, "runs": runs} | watch.stop()
    one, eight = (run["tokens_per_second"] for run in runs[:2])
    result["eight_over_one"] = eight / one
    text = json.dumps(result, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")
    broken = any(run["wrong"] + run["failed"] + run["socket_errors"] for run in runs)
    raise SystemExit(bool(grew(result) or broken))


main()
