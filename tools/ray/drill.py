"""What a cluster must bear, and what it costs: used by ci/ray.sh, with nothing but Python.

Usage: drill.py kill STATE NAME ends a node as a power cut would. drill.py survive STATE URL BINARY MODEL asks for answers, whole and
streamed, while a replica and then a node are killed: every answer must be the one that a lone server gives. drill.py speed STATE URL
BINARY MODEL compares the tokens per second behind Ray with those of two servers run directly, in turns, and says what the front's process
takes. STATE is the file of nodes.py.
Prints one JSON object. Exits with 1 where something does not hold.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import signal
import statistics
import sys
import threading
import time
import urllib.parse

import nodes

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "serve"))
from drive import alone, drive, serving
from load_requests import requests, short_requests

# Seconds of load, and when a replica's process is killed; a node is when one has a replica again, and so long before the end.
SECONDS, REPLICA, REST = 45, 5, 15
# Speed behind Ray over that without, at least.
ENOUGH = 0.9


class Streams(threading.Thread):
    """Asks for one streamed answer after another, each of which has a text that is known."""

    def __init__(self, url, asked, first, until):
        super().__init__(daemon=True)
        self.host, self.asked, self.next, self.until = urllib.parse.urlsplit(url).netloc, asked, first, until
        self.answers, self.events, self.problems = 0, 0, []

    def run(self):
        while time.monotonic() < self.until:
            body, expected = self.asked[self.next % len(self.asked)]
            self.next += 1
            try:
                got = self.ask(json.loads(body) | {"stream": True})
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.problems.append(repr(error))
                continue
            self.answers += 1
            if got != expected:
                self.problems.append(f"{body} got {got!r} instead of {expected!r}")

    def ask(self, body):
        connection = http.client.HTTPConnection(self.host, timeout=120)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        *events, rest = reply.read().decode().split("\n\n")
        connection.close()
        if reply.status != 200 or events[-1:] != ["data: [DONE]"] or rest:
            raise ValueError(f"{reply.status}: {events[-1:]} {rest!r}")
        self.events += len(events)
        values = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
        if len({value["id"] for value in values}) != 1:
            raise ValueError("a stream has several ids")
        return "".join(choice["text"] for value in values for choice in value["choices"])


def long_requests():
    """Answers that are under way when something is killed. With a seed a sampled one is as fixed as a greedy one."""
    for i, body in enumerate(short_requests()):
        yield body | {"temperature": 0.8 * (i % 2), "seed": i, "max_tokens": 400}


def servers_of(pids):
    """The `bitnet serve` among these processes."""
    words = lambda pid: pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if words(pid)[0].endswith(b"bitnet") and words(pid)[1] == b"serve":
                found.append(pid)
    return found


def kill(pids):
    for pid in pids:
        nodes.signalled(pid, signal.SIGKILL)


def replicas(known):
    """The nodes, but for the head, that have a replica, with its process and all of theirs."""
    running = {name: pids for name, pids in nodes.running(known).items() if name != "node 0"}
    return [(name, servers_of(pids), pids) for name, pids in running.items() if servers_of(pids)]


def survive(known, url, binary, model):
    with serving(binary, model) as (lone, _):
        asked, streamed = alone(lone, requests(512)), alone(lone, long_requests())
    start = time.monotonic()
    streams = [Streams(url, streamed, 5 * i, start + SECONDS) for i in range(6)]
    done, killed = {}, []
    whole = threading.Thread(target=lambda: done.update(drive(url, asked, 6, SECONDS)))
    for thread in [*streams, whole]:
        thread.start()
    time.sleep(REPLICA)
    name, servers, _ = replicas(known)[0]
    kill(servers)
    killed.append(f"the replica of {name}")
    while not (found := replicas(known)) and time.monotonic() < start + SECONDS - REST:
        time.sleep(0.5)
    for name, _, pids in found[-1:]:
        killed.append(f"{name} after {time.monotonic() - start:.0f} s")
        kill(pids)
    for thread in [*streams, whole]:
        thread.join()
    problems = [problem for stream in streams for problem in stream.problems]
    told = {"killed": killed, "whole": done, "streamed": sum(stream.answers for stream in streams), "problems": problems[:3]}
    strange = nodes.strangers(known)
    ok = len(killed) == 2 and not problems and not done["wrong"] and not done["failed"] and told["streamed"] and done["answers"] and not strange
    return told | {"open": strange, "ok": bool(ok)}


def front_of(known):
    """The process of the front."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:2] and words[1].endswith(b"/front.py") and words[2].decode() == known["address"]:
                return int(folder.name)
    raise SystemExit(f"no front of {known['address']} runs here")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def streaming(url, asked, seconds):
    """Events per second that eight clients get."""
    start = time.monotonic()
    clients = [Streams(url, asked, 3 * i, start + seconds) for i in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    took = time.monotonic() - start
    return sum(client.events for client in clients), took, [p for client in clients for p in client.problems]


def speed(known, url, binary, model, seconds=6, rounds=3):
    """Two servers of one thread each, with half of the clients each, and the same two behind Ray with all of them."""
    found, front = {"direct": [], "ray": [], "front_seconds_an_answer": []}, front_of(known)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(binary, model, ["--threads", "1"]))[0] for _ in range(2)]
        asked = alone(servers[0], short_requests())
        for _ in range(rounds):
            halves = [{}, {}]
            both = [
                threading.Thread(target=lambda u=u, half=half: half.update(drive(u, asked, 8, seconds)))
                for u, half in zip(servers, halves)
            ]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            found["direct"].append(sum(half["tokens_per_second"] for half in halves))
            before = cpu_seconds(front)
            behind = drive(url, asked, 16, seconds)
            if behind["wrong"] or behind["failed"]:
                return {"ok": False, "ray": behind}
            found["ray"].append(behind["tokens_per_second"])
            found["front_seconds_an_answer"].append((cpu_seconds(front) - before) / behind["answers"])
    before = cpu_seconds(front)
    events, took, problems = streaming(url, asked, seconds / 2)
    found["streamed_events_per_second"] = events / took
    found["front_seconds_an_event"] = (cpu_seconds(front) - before) / max(events, 1)
    if problems:
        return found | {"ok": False, "problems": problems[:3]}
    ratio = statistics.median(found["ray"]) / statistics.median(found["direct"])
    return found | {"ratio": ratio, "ok": ratio >= ENOUGH}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["kill", "survive", "speed"])
    parser.add_argument("rest", nargs="+")
    args = parser.parse_args()
    known = lambda: json.loads(pathlib.Path(args.rest[0]).read_text())
    if args.what == "kill":
        pids = nodes.running(known())[args.rest[1]]
        kill(pids)
        told = {"killed": len(pids), "ok": bool(pids)}
    elif args.what == "survive":
        told = survive(known(), *args.rest[1:])
    else:
        told = speed(known(), *args.rest[1:])
    print(json.dumps(told))
    raise SystemExit(not told["ok"])


if __name__ == "__main__":
    main()
