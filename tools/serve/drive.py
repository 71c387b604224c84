"""Starting a server, load from many clients, and watching it: with nothing but Python, for machines without wrk.

In: the command of a server, bodies of requests with the text that each must get. Out: counts, tokens per second,
latencies of /health, resident memory. Clients keep their connections. Deliberately absent: what is asked, verdicts.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import threading
import time
import urllib.parse

from load_requests import get

# Room for 64 answers side by side, none of which is refused.
SETTINGS = ["--port", "0", "--parallel", "64", "--kv-sequences", "24", "--ctx-size", "512", "--queue-per-client", "256"]


@contextlib.contextmanager
def serving(binary, model, more=()):
    """`bitnet serve`: its address and process; it must end in an orderly way."""
    command = [binary, "serve", "--model", model, "--json", *SETTINGS, *more]
    environment = {**os.environ, "BITNET_LOG": "warn"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield json.loads(server.stdout.readline())["url"], server
            server.terminate()
            if server.wait(timeout=120):
                raise RuntimeError(f"the server ended with {server.returncode}")
        finally:
            server.kill()


class Client(threading.Thread):
    """One connection that asks one thing after another."""

    def __init__(self, url, asked, first, until):
        super().__init__(daemon=True)
        self.url, self.asked, self.next, self.until = url, asked, first, until
        self.answers = self.tokens = self.wrong = self.failed = 0
        self.example, self.slowest = None, 0.0

    def run(self):
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=600)
        while time.monotonic() < self.until:
            body, expected = self.asked[self.next % len(self.asked)]
            self.next += 1
            start = time.monotonic()
            try:
                connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                text = reply.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.note("failed", repr(error))
                continue
            self.slowest = max(self.slowest, time.monotonic() - start)
            if reply.status != 200:
                self.note("failed", f"{reply.status}: {text[:200]}")
                continue
            answer = json.loads(text)
            self.answers += 1
            self.tokens += answer["usage"]["completion_tokens"]
            if expected is not None and answer["choices"][0]["text"] != expected:
                self.note("wrong", f"{body} got {answer['choices'][0]['text']!r} instead of {expected!r}")

    def note(self, what, example):
        setattr(self, what, getattr(self, what) + 1)
        self.example = self.example or example


def alone(url, bodies):
    """Each body, encoded, with the text that it gets when nothing else is asked."""
    return [(json.dumps(body), json.loads(get(f"{url}/v1/completions", body))["choices"][0]["text"]) for body in bodies]


def drive(url, asked, clients, seconds):
    """`clients` connections at once for `seconds`; what is under way then is finished and counts."""
    start = time.monotonic()
    all_of_them = [Client(url, asked, 7 * i, start + seconds) for i in range(clients)]
    for client in all_of_them:
        client.start()
    for client in all_of_them:
        client.join()
    took = time.monotonic() - start
    total = lambda name: sum(getattr(client, name) for client in all_of_them)
    found = {
        "clients": clients,
        "seconds": took,
        "tokens_per_second": total("tokens") / took,
        **{name: total(name) for name in ("answers", "tokens", "wrong", "failed")},
        "slowest_answer_seconds": max(client.slowest for client in all_of_them),
    }
    example = next((client.example for client in all_of_them if client.example), None)
    return found | ({"example": example} if example else {})


class Watch(threading.Thread):
    """Latencies of /health and resident bytes, until it is stopped."""

    def __init__(self, url, pid, every=0.05):
        super().__init__(daemon=True)
        self.url, self.pid, self.every = url, pid, every
        self.health, self.resident, self.stopping = [], [], threading.Event()

    def run(self):
        while not self.stopping.wait(self.every):
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
        every = max(len(self.resident) // 100, 1)
        return {
            "health_samples": len(ordered),
            "health_p50_ms": ordered[len(ordered) // 2],
            "health_p99_ms": ordered[int(0.99 * (len(ordered) - 1))],
            "health_most_ms": ordered[-1],
            "resident_after_a_third": max(self.resident[:third]),
            "resident_at_the_end": max(self.resident[-third:]),
            "resident_samples": self.resident[::every],
        }


def grew(watched):
    """More than a twentieth and 16 MB in the last two thirds."""
    return watched["resident_at_the_end"] > 1.05 * watched["resident_after_a_third"] + (16 << 20)
