"""`bitnet serve` as a deployment of Ray Serve, and the choice of a replica for a request.

A `Server` is one process of `bitnet serve` on its node. It is healthy while that answers, and ends it in an orderly way. `lease` keeps a
place in it: the front (front.py) talks to the process itself, so answers do not go through Ray, and Serve still knows
how many requests a replica has, which it scales and drains by. In: leases whose first argument has `keys` and `avoid`.
Deliberately absent: scaling, health periods and draining, which are Serve's; what a request is.
"""

import asyncio
import collections
import json
import os
import pathlib
import subprocess
import tempfile
import urllib.request

import ray
from ray import serve
from ray.serve.request_router import RequestRouter

import node
import routing


# Requests that the front has under way, by replica: it and the router are one process, and Serve's own count lags behind.
UNDER_WAY = collections.Counter()
PREFIXES = routing.Prefixes()


class Server:
    def __init__(self, files, arguments, drain, key):
        self.name, self.drain = serve.get_replica_context().replica_id.unique_id, drain
        places = {name: node.place(file) for name, file in files.items()}
        # Loopback on a cluster of one machine, else the address by which the nodes reach each other.
        host = ray.util.get_node_ip_address()
        with tempfile.NamedTemporaryFile("w", prefix="bitforge-key-") as file:
            pathlib.Path(file.name).write_text(key + "\n")
            command = [places["bitnet"], "serve", "--model", places["model"], "--host", host, "--port", "0", "--json"]
            command += ["--drain-timeout", str(drain), "--api-key-file", file.name, *arguments]
            environment = {"BITNET_LOG": "warn"} | os.environ
            self.process = node.start(command, stdout=subprocess.PIPE, env=environment)
            told = self.process.stdout.readline()
        if not told:
            raise RuntimeError(f"`bitnet serve` ended with {self.process.wait()}; its messages are in the replica's log")
        self.url = json.loads(told)["url"]

    async def lease(self, wanted):
        """Says where the replica is, then lasts until it is given back."""
        yield {"replica": self.name, "url": self.url}
        await asyncio.Event().wait()

    def check_health(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"`bitnet serve` ended with {self.process.returncode}")
        urllib.request.urlopen(f"{self.url}/health", timeout=4).close()

    def __del__(self):
        """Serve has let the requests under way finish; so does the process."""
        process = getattr(self, "process", None)
        if process and process.poll() is None:
            process.terminate()
            try:
                process.wait(self.drain + 5)
            except subprocess.TimeoutExpired:
                process.kill()


class PrefixRouter(RequestRouter):
    """By the beginning of the conversation (routing.py). Whether a replica takes a request, queues and backoff stay Serve's."""

    def initialize_state(self, slack=4):
        PREFIXES.slack = slack

    async def choose_replicas(self, candidate_replicas, pending_request=None):
        wanted = _wanted(pending_request)
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {name: UNDER_WAY[name] for name in by_name}
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        order = PREFIXES.order(wanted.get("keys", ()), loads, wanted.get("avoid", ()))
        return [[by_name[name]] for name in order]

    def on_request_routed(self, pending_request, replica_id, result):
        PREFIXES.remember(_wanted(pending_request).get("keys", ()), replica_id.unique_id)


def _wanted(request):
    first = request.args[0] if request is not None and request.args else None
    return first if isinstance(first, dict) else {}
