"""Many clients for a long time: every greedy answer must be the one that its request got alone, memory must stay flat and
/health must answer.

Usage: soak.py BINARY MODEL [--clients 64] [--seconds 600] [--json FILE] [-- more arguments of `bitnet serve`]. Needs nothing
but Python. Exits with 1 where an answer differs, a request fails, memory grows or the p99 of /health is 50 ms or more.
"""

import argparse
import json
import pathlib
import sys

from drive import Watch, alone, drive, grew, serving
from load_requests import get, requests, short_requests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--json", type=pathlib.Path)
    own, more = sys.argv[1:], []
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    with serving(args.binary, args.model, more) as (url, server):
        short, mixed = alone(url, short_requests()), alone(url, requests(512))
        seconds = min(args.seconds, 15)
        decoding = [drive(url, short, clients, seconds) for clients in (1, 8)]
        watch = Watch(url, server.pid)
        watch.start()
        soak = drive(url, mixed, args.clients, args.seconds)
        watched = watch.stop()
        props = json.loads(get(f"{url}/props"))
    result = {
        "model": props["model"],
        "arguments": more,
        "decoding": decoding,
        "eight_over_one": decoding[1]["tokens_per_second"] / decoding[0]["tokens_per_second"],
        "soak": soak,
        **watched,
        "backend": props["backend_line"],
        "kernels": props["selection_line"],
        "receipt": props["receipt"],
    }
    text = json.dumps(result, indent=2)
    if args.json:
        args.json.write_text(text + "\n")
    print(json.dumps({name: result[name] for name in ("eight_over_one", "soak", "health_p99_ms", "kernels")}))
    broken = any(run["wrong"] + run["failed"] for run in [*decoding, soak])
    raise SystemExit(bool(broken or grew(watched) or watched["health_p99_ms"] >= 50))


main()
