"""`bitnet serve` and llama.cpp's server in turns: total throughput of decoding with one client and with several.

Usage: compare.py BINARY LLAMA_SERVER MODEL [--clients 8] [--rounds 3] [--seconds 6] [--threads N] [--json FILE].
Both get the same requests over the same kind of connection, one after another, never side by side; each round starts both
anew, and every other round the other one first. Prints medians and their ratio; all samples are in the file.
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import time
import urllib.error

from drive import drive, serving
from load_requests import get, short_requests


@contextlib.contextmanager
def llama_server(binary, model, clients, threads):
    """llama.cpp's server with a slot of 512 positions per client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [binary, "--model", model, "--host", "127.0.0.1", "--port", str(port), "--parallel", str(clients)]
    command += ["--ctx-size", str(512 * clients), "--threads", str(threads), "--threads-batch", str(threads)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    get(f"{url}/health")
                    break
                if server.poll() is not None:
                    raise RuntimeError(f"{binary} ended with {server.returncode}")
                time.sleep(0.1)
            yield url, server
            server.terminate()
            server.wait(timeout=60)
        finally:
            server.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("llama_server")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    threads = ["--threads", str(args.threads)]
    # Texts are not compared: one's bits are not the other's.
    asked = [(json.dumps(body), None) for body in short_requests()]
    engines = {
        "bitnet": lambda: serving(args.binary, args.model, threads),
        "llama.cpp": lambda: llama_server(args.llama_server, args.model, args.clients, args.threads),
    }
    samples = []
    for number in range(args.rounds):
        for name in sorted(engines, reverse=number % 2 == 1):
            with engines[name]() as (url, _):
                drive(url, asked, 1, 0.5)
                for clients in (1, args.clients):
                    found = drive(url, asked, clients, args.seconds)
                    if found["failed"]:
                        raise SystemExit(f"{name}: {found['example']}")
                    samples.append({"round": number, "engine": name, **found})

    def median(name, clients):
        rates = [s["tokens_per_second"] for s in samples if (s["engine"], s["clients"]) == (name, clients)]
        return statistics.median(rates)

    medians = {name: {str(clients): median(name, clients) for clients in (1, args.clients)} for name in engines}
    many = str(args.clients)
    result = {
        "model": pathlib.Path(args.model).name,
        "threads": args.threads,
        "medians": medians,
        "ratio_at_one": medians["bitnet"]["1"] / medians["llama.cpp"]["1"],
        f"ratio_at_{many}": medians["bitnet"][many] / medians["llama.cpp"][many],
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result | {"samples": samples}, indent=2) + "\n")


main()
